"""CG-DDPM by mathematics: its identity, exact denoisers of a Gaussian pair, phases, and windows."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from scansynth.diffusion.gaussian import q_posterior, q_sample
from scansynth.diffusion.parameterisation import mean_from_eps
from scansynth.diffusion.schedule import make_schedule
from scansynth.diffusion.variational import learned_log_variance, log_variance_range
from scansynth.diffusion.windows import PatchWindows, Whole
from scansynth.errors import InputError
from scansynth.method import Progress
from scansynth.methods.cg_ddpm import CgDdpm, CgDdpmConfig, exchanged, kappa
from scansynth.noise import Noise

A, B = 0.6, -0.1
"""X = A·Y + B + r."""


class Exact(nn.Module):
    """The exact denoiser of a target = slope·source + offset + r, r of a variance; v such that Σ is the true one."""

    def __init__(self, schedule, slope, offset, variance, output):
        super().__init__()
        self.schedule, self.slope, self.offset, self.variance = schedule, slope, offset, variance
        self.output = output

    def forward(self, x, n):
        noisy, source = x.chunk(2, dim=1)
        alpha_bar = self.schedule.at(n, noisy)
        mean = self.slope * source + self.offset
        # x_0 given x_n and the source: a Gaussian prior around `mean` and a Gaussian measurement.
        gain = alpha_bar.sqrt() * self.variance / (alpha_bar * self.variance + 1 - alpha_bar)
        x0 = mean + gain * (noisy - alpha_bar.sqrt() * mean)
        given = (noisy - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
        if self.output == "velocity":
            given = alpha_bar.sqrt() * given - (1 - alpha_bar).sqrt() * x0
        return torch.cat([given, torch.full_like(given, -40.0)], dim=1)  # sigmoid(−40) is 0: Σ = β̃


def with_exact_denoisers(variance, **settings):
    """A method whose networks know the pair; Y has variance 0.04 and mean 0."""
    config = CgDdpmConfig(**{"patch": None, "channels": 8, "multipliers": (1,), "window_levels": (), "steps": 60,
                             "sampling_steps": 12} | settings)  # fmt: skip
    method = CgDdpm(config, ("T1w", "T2w"))
    schedule = method.schedule
    # Y given X: regression the other way.
    spread_y, spread_x = 0.04, A**2 * 0.04 + variance
    slope = A * spread_y / spread_x
    method.nets["X"] = Exact(schedule, A, B, variance, config.output)
    method.nets["Y"] = Exact(schedule, slope, -slope * B, spread_y - slope * A * spread_y, config.output)
    return method


def made_of(method, y0, seed=0):
    batch = {"images": torch.cat([torch.zeros_like(y0), y0], dim=1), "available": torch.tensor([[False, True]])}
    return method.translate(batch, "T1w", Whole(), Noise([(seed, "subject", 0)]))


def sample(method, y0, seed=0):
    return made_of(method, y0, seed).image


def test_with_shared_noises_the_error_is_the_difference_of_the_predictions_times_kappa():
    schedule = make_schedule("linear", 50)
    generator = torch.Generator().manual_seed(0)
    x0, y0, eps, drawn, eps_x, eps_y = (
        torch.randn(50, 1, 3, 3, generator=generator, dtype=torch.float64) for _ in range(6)
    )
    n = torch.arange(1, 51)
    x_n, y_n = (q_sample(schedule, clean, n, eps) for clean in (x0, y0))
    earlier = {}
    for name, clean, noisy in (("X", x0, x_n), ("Y", y0, y_n)):
        mean, variance = q_posterior(schedule, clean, noisy, n, n - 1)
        earlier[name] = mean + variance.sqrt() * drawn
    v = torch.full_like(x0, 0.3)
    log_variance = learned_log_variance(schedule, v, n, n - 1)
    mean_x, mean_y = (
        mean_from_eps(schedule, noisy, predicted, n, n - 1) for noisy, predicted in ((x_n, eps_x), (y_n, eps_y))
    )
    rebuilt = exchanged(mean_x, log_variance, earlier["Y"], mean_y, log_variance)
    torch.testing.assert_close(
        rebuilt - earlier["X"], kappa(schedule, n).reshape(-1, 1, 1, 1) * (eps_y - eps_x), atol=1e-10, rtol=1e-7
    )


@pytest.mark.parametrize(("last_code", "output"), [(True, "noise"), (False, "noise"), (True, "velocity")])
def test_a_target_that_its_source_decides_is_rebuilt_exactly(last_code, output):
    y0 = 0.2 * torch.randn(1, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = sample(with_exact_denoisers(0.0, last_code=last_code, output=output), y0)
    torch.testing.assert_close(made, A * y0 + B, atol=1e-9, rtol=0)


def test_codes_of_an_exact_denoiser_are_the_noise_of_the_path():
    method = with_exact_denoisers(0.0)
    y0 = 0.2 * torch.randn(1, 1, 100, 100, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    deviations = made_of(method, y0).observed["standard deviation of z"]
    assert list(deviations) == list(method.path)
    *earlier, last = deviations.values()
    assert earlier == pytest.approx([1.0] * len(earlier), abs=0.03)
    assert last == pytest.approx(0, abs=1e-6)  # the end of Y's path is its clean image


@pytest.mark.parametrize("last_code", [True, False])
def test_with_residual_variance_mean_and_variance_are_those_of_the_recursion(last_code):
    """The sampler is linear in Y's noises while nothing is clipped: its coefficients, step by step."""
    variance = 0.01
    method = with_exact_denoisers(variance, last_code=last_code)
    y0 = torch.full((1, 1, 1, 1), 0.1, dtype=torch.float64)
    y0 = y0.expand(1, 1, 300, 300).contiguous()
    made = sample(method, y0)
    schedule, path = method.schedule, method.path
    alpha_bar = schedule.alpha_bar
    net_x, net_y = method.nets["X"], method.nets["Y"]

    def clean(net, noisy, source, n):
        """Coefficients of x̂_0: vectors over (1, noise of Y_N, noise of each step)."""
        mean = net.slope * source + net.offset * one
        gain = alpha_bar[n].sqrt() * net.variance / (alpha_bar[n] * net.variance + 1 - alpha_bar[n])
        return mean + gain * (noisy - alpha_bar[n].sqrt() * mean)

    def posterior(x0, noisy, n, s):
        beta = 1 - alpha_bar[n] / alpha_bar[s]
        return (alpha_bar[s].sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - alpha_bar[s]) * noisy) / (1 - alpha_bar[n])

    size = 2 + len(path)
    one, first = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    one[0], first[1] = 1, 1
    source = 0.1 * one
    y = x = alpha_bar[path[0]].sqrt() * source + (1 - alpha_bar[path[0]]).sqrt() * first
    for place, (n, s) in enumerate(zip(path, [*path[1:], 0], strict=True)):
        beta = 1 - alpha_bar[n] / alpha_bar[s]
        y_s = posterior(source, y, n, s)
        y_s[2 + place] += (beta * (1 - alpha_bar[s]) / (1 - alpha_bar[n])).sqrt()
        x0 = clean(net_x, x, source, n)
        x_s = posterior(x0, x, n, s)
        if s or last_code:
            x_s = x_s + y_s - posterior(clean(net_y, y, x0, n), y, n, s)  # both Σ are β̃: their ratio is 1
        x, y = x_s, y_s
    assert made.abs().max() < 1  # nothing was clipped at the end
    assert made.mean().item() == pytest.approx(x[0].item(), abs=5 * x[1:].norm().item() / 300)
    assert made.std().item() == pytest.approx(x[1:].norm().item(), rel=0.02)


def test_the_cycle_loss_divided_by_kappa_is_as_large_at_every_time():
    losses = {}
    for scale in ("printed", "kappa"):
        method = CgDdpm(replace(CgDdpmConfig.tiny(), cycle_scale=scale, steps=4000), ("T1w", "T2w"))
        x0 = torch.zeros(1, 1, 4, 4, 4)
        for step in (2, 2000, 4000):
            n = torch.tensor([step])
            eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
            noisy = {name: q_sample(method.schedule, x0, n, eps) for name in "XY"}
            mean, _ = q_posterior(method.schedule, x0, noisy["X"], n, n - 1)
            half = torch.full_like(x0, 0.5)
            predicted = {"X": (eps + 0.1, half), "Y": (eps, half)}
            losses[scale, step] = method.cycle_loss(noisy, {"X": mean, "Y": mean}, predicted, n).item()
            if scale == "printed":
                assert losses[scale, step] == pytest.approx(0.2 * kappa(method.schedule, n).item(), rel=0.02)
            else:
                assert losses[scale, step] == pytest.approx(0.2, rel=0.02)
    assert losses["printed", 2] < 0.01


def losses_at(progress, **settings):
    torch.manual_seed(0)
    method = CgDdpm(replace(CgDdpmConfig.tiny(), joint_from=0.5, **settings), ("T1w", "T2w"))
    generator = torch.Generator().manual_seed(0)
    batch = {
        "images": torch.rand(2, 2, 16, 16, 8, generator=generator),
        "available": torch.ones(2, 2, dtype=torch.bool),
    }
    found = {}
    method.training_step(batch, lambda player, losses: found.update(losses), progress, Noise([(0, 0, 0), (0, 0, 1)]))
    return method, found


def test_the_networks_train_alone_first_and_jointly_later():
    alone, joint = Progress(4, 10, 0.0), Progress(5, 10, 0.0)
    parts = {"noise X", "noise Y", "bound X", "bound Y"}
    assert set(losses_at(alone)[1]) == parts
    method, found = losses_at(joint)
    assert set(found) == parts | {"cycle"}
    found["cycle"].backward()
    for name in ("X", "Y"):  # L_cyc teaches both
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in method.nets[name].parameters())


def test_the_bound_teaches_the_variance_alone():
    method, found = losses_at(Progress(0, 10, 0.0))
    found["bound X"].backward()
    last = method.nets["X"].last
    assert not last.bias.grad[0].any()
    assert last.bias.grad[1].any()


def test_shared_and_independent_noises_differ_in_the_joint_phase_only():
    for progress, same in ((Progress(0, 10, 0.0), True), (Progress(9, 10, 0.0), False)):
        shared, independent = (losses_at(progress, shared_noise=flag)[1] for flag in (True, False))
        assert torch.equal(shared["noise Y"], independent["noise Y"]) == same


def test_the_range_holds_the_variances_that_codes_are_read_with():
    schedule = make_schedule("linear", 4000)
    n = torch.arange(1, 4001)
    most, least = log_variance_range(schedule, n, n - 1)
    assert least.min() > -20  # LEAST_LOG_VARIANCE cuts nothing of the paper's schedule
    assert (most - least).max() < 1


def test_one_window_blended_at_every_step_is_the_plain_sampler():
    torch.manual_seed(0)
    method = CgDdpm(CgDdpmConfig.tiny(), ("T1w", "T2w")).double().eval()
    y0 = torch.rand(1, 1, 16, 16, 8, dtype=torch.float64) * 2 - 1
    batch = {"images": torch.cat([torch.zeros_like(y0), y0], dim=1), "available": torch.tensor([[False, True]])}
    noise = Noise([(0, "subject", 0)])
    with torch.no_grad():
        plain = method.translate(batch, "T1w", Whole(), noise).image
        for blend in ("step", "window"):
            method.config = replace(method.config, blend=blend)
            made = method.translate(batch, "T1w", PatchWindows((16, 16, 8)), noise).image
            torch.testing.assert_close(made, plain, atol=1e-9, rtol=0)


def test_only_two_contrasts_and_fitting_patches():
    with pytest.raises(InputError, match="two contrasts"):
        CgDdpm(CgDdpmConfig.tiny(), ("T1w", "T2w", "FLAIR"))
    with pytest.raises(InputError, match="multiples of 8"):
        CgDdpm(CgDdpmConfig(patch=(64, 60, 16), channels=8), ("T1w", "T2w"))
