"""The samplers against a Gaussian target N(m, s²), whose exact denoiser is known.

With it each sampler is an affine function of x_T and its draws. `affine` reads the coefficients off, so that mean and
variance of the samples are exact in float64, without Monte Carlo.
"""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from scansynth.diffusion.samplers import ancestral, ancestral_learned, ddim, dpm_solver, times
from scansynth.diffusion.schedule import Schedule
from scansynth.errors import InputError
from scansynth.noise import Noise

M, S = 0.3, 0.5
LINEAR = Schedule.linear(1000)
SCHEDULES = {"linear": LINEAR, "variance preserving": Schedule.variance_preserving(1000)}
LISTS = {"one": [1000], "four": times(LINEAR, 4), "uneven": [1000, 990, 400, 3, 1], "fifty": times(LINEAR, 50)}


@pytest.fixture(params=SCHEDULES.values(), ids=list(SCHEDULES))
def schedule(request) -> Schedule:
    return request.param


class UnitDraws(Noise):
    """In draw i, 1 for sample i and 0 for the others: what a sample differs by is the coefficient of that draw."""

    def __init__(self, samples: int, first: int):
        super().__init__([(i,) for i in range(samples)])
        self.names = [""] * first

    def normal(self, name, shape):
        assert name not in self.names, f"{name} drawn twice: two draws of one name are equal"
        drawn = torch.zeros(len(self.keys), *shape, dtype=torch.float64)
        drawn[len(self.names)] = 1
        self.names.append(name)
        return drawn


def conditional_mean(schedule: Schedule, x_t: Tensor, t: Tensor) -> Tensor:
    """E[x_0 | x_t] for x_0 ~ N(M, S²)."""
    a = schedule.at(t, x_t)
    return M + a.sqrt() * S**2 / (a * S**2 + 1 - a) * (x_t - a.sqrt() * M)


def conditional_std(schedule: Schedule, x_t: Tensor, t: Tensor) -> Tensor:
    a = schedule.at(t, x_t)
    return (S**2 * (1 - a) / (a * S**2 + 1 - a)).sqrt()


def affine(schedule: Schedule, sampler, path: list[int], draw_x0: bool = False, **settings) -> tuple[float, ...]:
    """(constant, coefficient of x_T, variance that the draws add) of the samples."""
    samples = 2 + 2 * len(path)  # 0: all zero; 1: x_T is one; others: one draw is one
    x_T = torch.zeros(samples, 1, dtype=torch.float64)
    x_T[1] = 1
    noise = UnitDraws(samples, first=2)

    def denoise(x_t, t):
        x0 = conditional_mean(schedule, x_t, t)
        if draw_x0:
            x0 = x0 + conditional_std(schedule, x_t, t) * noise.normal(f"x0 t={t[0]}", x_t.shape[1:])
        return x0

    x0 = sampler(schedule, denoise, x_T, path, noise, **settings).flatten()
    of = x0[1:] - x0[0]
    return x0[0].item(), of[0].item(), of[1:].square().sum().item()


def bayes_recursion(schedule: Schedule, path: list[int]) -> tuple[float, float]:
    """Mean and variance of the ancestral sampler with E[x_0 | x_t], each step by precisions."""
    a = schedule.alpha_bar.tolist()
    mean, variance = 0.0, 1.0
    for t, s in pairwise([*path, 0]):
        gain = math.sqrt(a[t]) * S**2 / (a[t] * S**2 + 1 - a[t])
        x0_mean = M + gain * (mean - math.sqrt(a[t]) * M)
        if s == 0:
            return x0_mean, gain**2 * variance
        kept = a[t] / a[s]
        posterior = 1 / (1 / (1 - a[s]) + kept / (1 - kept))
        of_x0, of_x = posterior * math.sqrt(a[s]) / (1 - a[s]), posterior * math.sqrt(kept) / (1 - kept)
        mean, variance = of_x0 * x0_mean + of_x * mean, (of_x0 * gain + of_x) ** 2 * variance + posterior
    raise AssertionError


def deterministic_recursion(schedule: Schedule, path: list[int]) -> tuple[float, float]:
    """Mean and variance of DDIM with η = 0: each step scales the distance from the process's mean √ᾱ M."""
    a = schedule.alpha_bar.tolist()
    scale = 1.0
    for t, s in pairwise([*path, 0]):
        covariance = math.sqrt(a[s] * a[t]) * S**2 + math.sqrt((1 - a[s]) * (1 - a[t]))
        scale *= covariance / (a[t] * S**2 + 1 - a[t])
    return M - scale * math.sqrt(a[path[0]]) * M, scale**2


@pytest.mark.parametrize("path", LISTS.values(), ids=list(LISTS))
def test_ancestral_equals_its_recursion(schedule, path):
    mean, of_x_T, added = affine(schedule, ancestral, path)
    assert (mean, of_x_T**2 + added) == pytest.approx(bayes_recursion(schedule, path), rel=1e-11)


@pytest.mark.parametrize("path", LISTS.values(), ids=list(LISTS))
def test_ddim_equals_its_recursion(schedule, path):
    mean, of_x_T, added = affine(schedule, ddim, path)
    assert added == 0
    assert (mean, of_x_T**2) == pytest.approx(deterministic_recursion(schedule, path), rel=1e-11)


@pytest.mark.parametrize("path", LISTS.values(), ids=list(LISTS))
def test_ddim_with_eta_one_is_ancestral(schedule, path):
    assert affine(schedule, ddim, path, eta=1.0) == pytest.approx(affine(schedule, ancestral, path), rel=1e-10)


def test_eta_scales_the_noise_of_ddim(schedule):
    """One draw, at t = 1000; what follows it does not depend on η."""
    added = [affine(schedule, ddim, [1000, 500], eta=eta)[2] for eta in (0.0, 0.5, 1.0)]
    assert added[2] > 0
    assert added == pytest.approx([0, 0.25 * added[2], added[2]], rel=1e-12)


@pytest.mark.parametrize("settings", [(ancestral, {}), (ddim, {}), (ddim, {"eta": 0.5}), (ddim, {"eta": 1.0})])
def test_samplers_tend_to_the_target(schedule, settings):
    sampler, options = settings
    errors = []
    for count in (4, 20, 100, 1000):
        _, of_x_T, added = affine(schedule, sampler, times(LINEAR, count), **options)
        errors.append(abs(math.sqrt(of_x_T**2 + added) - S))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.01 * S
    # x_T is drawn with mean 0 where the process has √ᾱ_T M: all that is left of the error of the mean
    mean, of_x_T, _ = affine(schedule, sampler, times(LINEAR, 1000), **options)
    assert mean - M == pytest.approx(-of_x_T * math.sqrt(schedule.alpha_bar[-1].item()) * M, abs=1e-12)
    assert mean == pytest.approx(M, abs=0.01)


def test_respaced_ancestral_does_not_inflate_the_variance():
    """50 of 1000 steps, target 0.5: a library that steps back to t - 1 between its times gives 0.94."""
    _, of_x_T, added = affine(Schedule.linear(1000), ancestral, times(LINEAR, 50))
    std = math.sqrt(of_x_T**2 + added)
    assert 0.85 * S < std < S  # below: E[x_0 | x_t] leaves the conditional variance out


@pytest.mark.parametrize("path", LISTS.values(), ids=list(LISTS))
def test_ancestral_is_exact_at_any_number_of_steps_when_x0_is_drawn(schedule, path):
    mean, of_x_T, added = affine(schedule, ancestral, path, draw_x0=True)
    a = schedule.alpha_bar[-1].item()  # x_T ~ N(√ᾱ M, ᾱ S² + 1 − ᾱ), the process's own
    assert mean + of_x_T * math.sqrt(a) * M == pytest.approx(M, rel=1e-12)
    assert of_x_T**2 * (a * S**2 + 1 - a) + added == pytest.approx(S**2, rel=1e-12)


def test_ancestral_with_real_noise():
    """Monte Carlo: the named draws are independent of each other and over pixels."""
    schedule, pixels = SCHEDULES["variance preserving"], 200_000
    noise = Noise([("a",), ("b",)])

    def denoise(x_t, t):
        drawn = noise.normal(f"x0 t={t[0]}", x_t.shape[1:])
        return conditional_mean(schedule, x_t, t) + conditional_std(schedule, x_t, t) * drawn

    x0 = ancestral(schedule, denoise, noise.normal("x_T", (1, pixels)), times(LINEAR, 4), noise)
    assert x0.dtype == torch.float32
    for sample in x0:
        assert sample.mean().item() == pytest.approx(M, abs=5 * S / pixels**0.5)
        assert sample.std().item() == pytest.approx(S, abs=5 * S / (2 * pixels) ** 0.5)
    assert abs(torch.corrcoef(x0.flatten(1))[0, 1]) < 5 / pixels**0.5


@pytest.mark.parametrize(("sampler", "settings"), [(ancestral, {}), (ddim, {"eta": 1.0}), (dpm_solver, {})])
def test_samples_do_not_depend_on_their_batch(sampler, settings):
    schedule, keys = SCHEDULES["linear"], [("seed", i) for i in range(3)]

    def sample(some):
        noise = Noise(some)
        x_T = noise.normal("x_T", (1, 4, 4))
        return sampler(schedule, lambda x, t: x.tanh(), x_T, times(LINEAR, 5), noise, **settings)

    together = sample(keys)
    assert torch.equal(together, torch.cat([sample([key]) for key in keys]))
    assert not torch.equal(together[0], together[1])


def test_the_denoiser_is_called_with_the_given_times_once_each():
    seen = []

    def denoise(x, t):
        seen.append(t.tolist())
        return x

    ancestral(SCHEDULES["linear"], denoise, torch.zeros(2, 1), [1000, 300, 7], Noise([(0,), (1,)]))
    assert seen == [[1000, 1000], [300, 300], [7, 7]]


LATER = {"one": [600], "uneven": [600, 590, 30, 1], "all": list(range(600, 0, -1))}
"""Lists that start before T, from an image that is noisy already."""


@pytest.mark.parametrize("path", LATER.values(), ids=list(LATER))
def test_ancestral_from_any_time_draws_from_the_posterior(schedule, path):
    """With x_0 drawn, any steps give x_0 ~ p(x_0 | x_t): its mean E[x_0 | x_t], its variance in closed form."""
    mean, of_x_t, added = affine(schedule, ancestral, path, draw_x0=True)
    t, x = torch.tensor([path[0]]), torch.tensor([[0.7]], dtype=torch.float64)
    assert mean + of_x_t * 0.7 == pytest.approx(conditional_mean(schedule, x, t).item(), rel=1e-11)
    assert added == pytest.approx(conditional_std(schedule, x, t).item() ** 2, rel=1e-11)


@pytest.mark.parametrize("path", LATER.values(), ids=list(LATER))
def test_ddim_from_any_time_equals_its_recursion(schedule, path):
    """A deterministic step scales the distance from the process's mean √ᾱ M."""
    mean, of_x_t, added = affine(schedule, ddim, path)
    expected, variance = deterministic_recursion(schedule, path)
    assert added == 0
    assert (mean, of_x_t**2) == pytest.approx((expected, variance), rel=1e-11)


def test_ddim_from_any_time_follows_the_flow(schedule):
    """In the limit of small steps x_0 = M + S (x_t − √ᾱ M) / √(ᾱ S² + 1 − ᾱ)."""
    mean, of_x_t, _ = affine(schedule, ddim, LATER["all"])
    a = schedule.alpha_bar[600].item()
    scale = S / math.sqrt(a * S**2 + 1 - a)
    assert of_x_t == pytest.approx(scale, rel=0.02)
    assert mean == pytest.approx(M - scale * math.sqrt(a) * M, rel=0.02)


SAMPLERS = {
    "ancestral": (ancestral, lambda x, t: x.tanh(), {}),
    "ancestral_learned": (ancestral_learned, lambda x, t, s: (x.tanh(), torch.full_like(x, -3.0)), {}),
    "ddim": (ddim, lambda x, t: x.tanh(), {"eta": 0.5}),
}


@pytest.mark.parametrize(("sampler", "estimate", "settings"), SAMPLERS.values(), ids=list(SAMPLERS))
def test_each_step_is_told_and_changes_nothing(sampler, estimate, settings):
    schedule, noise, told = SCHEDULES["linear"], Noise([(0,), (1,)]), []
    x_T = noise.normal("x_T", (1, 3))
    silent = sampler(schedule, estimate, x_T, [900, 300, 7], noise, **settings)
    loud = sampler(
        schedule, estimate, x_T, [900, 300, 7], noise, after_step=lambda x, s: told.append((s, x)), **settings
    )
    assert torch.equal(silent, loud)
    assert [s for s, _ in told] == [300, 7, 0]
    assert torch.equal(told[-1][1], loud)
    assert torch.equal(sampler(schedule, estimate, told[0][1], [300, 7], noise, **settings), loud)  # and goes on


def test_times():
    assert times(LINEAR, 4) == [1000, 750, 500, 250]
    ten = Schedule.linear(10)
    assert times(ten, 10) == list(range(10, 0, -1))
    assert times(ten, 3) == [10, 7, 4]
    assert times(Schedule.linear(7), 1) == [7]
    for count in (0, 11):
        with pytest.raises(InputError, match=f"sampling steps {count}"):
            times(ten, count)
    assert times(LINEAR, 4, spacing="quadratic") == [1000, 562, 250, 62]


@pytest.mark.parametrize("spacing", ["even", "quadratic", "log-snr"])
@pytest.mark.parametrize("count", [1, 2, 25, 50, 400, 999, 1000])
def test_times_of_every_spacing_fall_from_the_last_one(schedule, spacing, count):
    found = times(schedule, count, spacing=spacing)
    assert len(found) == count
    assert found[0] == 1000
    assert found[-1] >= 1
    assert all(t > s for t, s in pairwise(found))


@pytest.mark.parametrize("count", [10, 25])
def test_times_even_in_log_snr_are_so(schedule, count):
    """As near as whole times come: nearer than the next one."""
    found = torch.tensor(times(schedule, count, spacing="log-snr"))
    half_log_snr = 0.5 * schedule.alpha_bar.logit()
    wanted = torch.linspace(half_log_snr[-1].item(), half_log_snr[1].item(), count, dtype=torch.float64)
    assert found[-1] == 1
    later = half_log_snr[(found + 1).clamp(max=1000)]
    reach = torch.maximum(half_log_snr[found] - later, half_log_snr[(found - 1).clamp(min=1)] - half_log_snr[found])
    assert ((half_log_snr[found] - wanted).abs() <= reach).all()


@pytest.mark.parametrize(
    ("sampler", "spacing", "count", "kept"),
    [
        (ddim, "even", 25, (0.79, 0.57, 0.31, 0.11)),
        (ddim, "even", 50, (0.89, 0.755, 0.55, 0.28)),
        (ddim, "even", 100, (0.94, 0.87, 0.74, 0.51)),
        (ddim, "quadratic", 25, (0.875, 0.84, 0.79, 0.71)),
        (ddim, "log-snr", 25, (0.82, 0.82, 0.81, 0.79)),
        (dpm_solver, "log-snr", 25, (1.02, 1.015, 1.007, 0.97)),
    ],
)
def test_share_of_the_variance_that_is_kept(sampler, spacing, count, kept):
    """Of N(0, s²), s 0.5, 0.2, 0.1 and 0.05, by the exact denoiser: even times smooth what is fine."""
    path = times(LINEAR, count, spacing=spacing)
    for std, share in zip((0.5, 0.2, 0.1, 0.05), kept, strict=True):
        assert share_kept(sampler, path, std) == pytest.approx(share, abs=0.006)


def test_ten_calls_of_dpm_solver_keep_the_variance():
    path = times(LINEAR, 10, spacing="log-snr")
    shares = [share_kept(dpm_solver, path, std) for std in (0.5, 0.2, 0.1, 0.05)]
    assert shares == pytest.approx([1.064, 1.037, 0.993, 0.908], abs=0.002)


def share_kept(sampler, path: list[int], std: float) -> float:
    def denoise(x_t, t):
        a = LINEAR.at(t, x_t)
        return a.sqrt() * std**2 / (a * std**2 + 1 - a) * x_t

    x_T = torch.ones(1, 1, dtype=torch.float64)
    return (sampler(LINEAR, denoise, x_T, path, UnitDraws(1, first=1)).item() / std) ** 2


def test_dpm_solver_is_of_second_order_where_ddim_is_of_first():
    """Of the exact flow of a Gaussian from t = 900 to 100: twice the steps, a quarter of the error and half of it."""
    std, fine = 0.3, Schedule.variance_preserving(20_000)
    half_log_snr = 0.5 * fine.alpha_bar.logit()

    def denoise(x_t, t):
        a = fine.at(t, x_t)
        return a.sqrt() * std**2 / (a * std**2 + 1 - a) * x_t

    def deviation(t):
        a = fine.alpha_bar[t]
        return (a * std**2 + 1 - a).sqrt().item()

    def error(sampler, count):
        places = torch.linspace(half_log_snr[18_000].item(), half_log_snr[2000].item(), count + 1, dtype=torch.float64)
        path = [int((half_log_snr[1:] - place).abs().argmin()) + 1 for place in places]
        found = {}
        x = torch.full((1, 1), deviation(path[0]), dtype=torch.float64)
        sampler(fine, denoise, x, path, UnitDraws(1, first=1), after_step=lambda x, s: found.update({s: x.item()}))
        return abs(found[path[-1]] - deviation(path[-1]))

    assert 1.7 < error(ddim, 20) / error(ddim, 40) < 2.3
    assert 3.2 < error(dpm_solver, 20) / error(dpm_solver, 40) < 4.8


@pytest.mark.parametrize("path", [[], [0], [1001, 5], [1000, 5, 5], [1000, 0], [1000, 5, 6]])
def test_lists_of_times_that_do_not_fall_or_leave_the_schedule_are_our_own_mistake(path):
    with pytest.raises(AssertionError, match="times"):
        ddim(SCHEDULES["linear"], lambda x, t: x, torch.zeros(1, 1), times=path, noise=Noise([(0,)]))
