"""Learned variances and the bound, against closed forms."""

import math

import pytest
import torch
from scipy import integrate, stats

from scansynth.diffusion.gaussian import q_posterior, q_sample
from scansynth.diffusion.schedule import Schedule
from scansynth.diffusion.variational import (
    bound_term,
    discretised_log_likelihood,
    learned_bound,
    learned_log_variance,
    log_variance_range,
    normal_kl,
)

T = 40
SCHEDULE = Schedule.linear(T, 1e-3, 0.2)


def steps():
    """All steps of length one, and some longer ones."""
    t = torch.tensor([*range(1, T + 1), T, T, 20, 7])
    s = torch.tensor([*range(T), 0, T // 2, 10, 0])
    return t, s


def test_the_range_is_beta_and_the_posteriors_variance():
    t, s = steps()
    most, least = (bound.exp() for bound in log_variance_range(SCHEDULE, t, s))
    alpha_bar = SCHEDULE.alpha_bar
    for place, (late, early) in enumerate(zip(t.tolist(), s.tolist(), strict=True)):
        beta = 1 - alpha_bar[late] / alpha_bar[early]
        assert most[place] == pytest.approx(beta.item(), rel=1e-12)
        if early:
            x = torch.zeros(1, 1, 1, dtype=torch.float64)
            _, variance = q_posterior(SCHEDULE, x, x, t[place : place + 1], s[place : place + 1])
            assert least[place] == pytest.approx(variance.item(), rel=1e-12)
    assert (least <= most).all()
    assert (least > 0).all()


def test_the_last_steps_variance_is_that_of_the_step_before_it():
    one, two, seven = torch.tensor([1]), torch.tensor([2]), torch.tensor([7])
    zero = torch.tensor([0])
    assert torch.equal(log_variance_range(SCHEDULE, one, zero)[1], log_variance_range(SCHEDULE, two, one)[1])
    late, middle = torch.tensor([14]), seven
    expected = log_variance_range(SCHEDULE, late, middle)[1].minimum(log_variance_range(SCHEDULE, seven, zero)[0])
    assert torch.equal(log_variance_range(SCHEDULE, seven, zero)[1], expected)
    # A single step from T to 0 has no step before it.
    most, least = log_variance_range(SCHEDULE, torch.tensor([T]), zero)
    assert torch.equal(most, least)


def test_the_logarithms_of_the_variances_are_interpolated():
    t, s = torch.tensor([9, 30]), torch.tensor([8, 29])
    most, least = log_variance_range(SCHEDULE, t, s)
    v = torch.tensor([0.25, 0.75], dtype=torch.float64)[:, None, None]
    expected = torch.stack(
        [math.log(most[i].exp() ** c * least[i].exp() ** (1 - c)) * torch.ones(()) for i, c in ((0, 0.25), (1, 0.75))]
    )
    torch.testing.assert_close(learned_log_variance(SCHEDULE, v, t, s).flatten().float(), expected)


def test_a_longer_step_than_one_time_has_the_least_variance():
    """v is learned on single times and tells nothing of longer steps, whose β is far from β̃."""
    t, s = torch.tensor([9, 30, 7]), torch.tensor([8, 25, 0])
    most, least = log_variance_range(SCHEDULE, t, s)
    found = learned_log_variance(SCHEDULE, torch.ones(3, 1, 1, dtype=torch.float64), t, s).flatten()
    assert found[0] == most[0]
    assert torch.equal(found[1:], least[1:])
    assert most[1] > least[1] + 0.1


def test_the_bound_teaches_v_at_the_first_times_alone():
    """Of 4,000 times the gradient of v is 1,000 times weaker from the hundredth on: what v is there, chance decides."""
    schedule = Schedule.linear(4000, 2.5e-5, 5e-3)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.rand(1, 1, 32, 32, generator=generator) * 2 - 1

    def gradient(time: int) -> float:
        t = torch.tensor([time])
        eps = torch.randn(x0.shape, generator=generator)
        x_t = q_sample(schedule, x0, t, eps)
        logit = torch.full_like(x0, -4.0, requires_grad=True)
        bound = learned_bound(schedule, x0, x_t, eps_f=eps, v=logit.sigmoid(), t=t)
        return torch.autograd.grad(bound, logit)[0].sum().abs().item()

    assert gradient(1) > 1e-3
    assert gradient(100) < 1e-3 * gradient(1)
    assert gradient(1000) < 1e-3 * gradient(1)


def test_kl_is_the_integral():
    mean, log_variance = (0.3, -0.4), (math.log(0.5), math.log(1.7))
    q, p = (stats.norm(m, math.exp(v / 2)) for m, v in zip(mean, log_variance, strict=True))
    expected, _ = integrate.quad(lambda x: q.pdf(x) * (q.logpdf(x) - p.logpdf(x)), -12, 12)
    numbers = [
        torch.tensor(value, dtype=torch.float64) for value in (mean[0], log_variance[0], mean[1], log_variance[1])
    ]
    assert normal_kl(*numbers).item() == pytest.approx(expected, rel=1e-8)
    assert normal_kl(numbers[0], numbers[1], numbers[0], numbers[1]).item() == 0


@pytest.mark.parametrize(("mean", "deviation"), [(0.1, 0.3), (-0.8, 0.02), (0.95, 0.004), (0.0, 3.0)])
def test_the_masses_of_all_grey_values_sum_to_one(mean, deviation):
    grey = torch.linspace(-1, 1, 256, dtype=torch.float64)
    mass = discretised_log_likelihood(grey, torch.full_like(grey, mean), torch.full_like(grey, 2 * math.log(deviation)))
    assert mass.exp().sum().item() == pytest.approx(1, abs=1e-6)
    normal = stats.norm(mean, deviation)
    near = (grey - mean).abs() < 4 * deviation
    for value, log_mass in list(zip(grey[near].tolist(), mass[near].tolist(), strict=True))[:20]:
        upper = 1.0 if value > 0.999 else normal.cdf(value + 1 / 255)
        lower = 0.0 if value < -0.999 else normal.cdf(value - 1 / 255)
        assert math.exp(log_mass) == pytest.approx(upper - lower, rel=1e-4)


def test_the_likelihood_and_its_gradient_are_finite_far_from_the_mean():
    x0 = torch.linspace(-1, 1, 11)
    mean = torch.zeros(11, requires_grad=True)
    log_variance = torch.full((11,), 2 * math.log(1e-3), requires_grad=True)
    value = discretised_log_likelihood(x0, mean, log_variance)
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert mean.grad is not None
    assert torch.isfinite(mean.grad).all()
    assert log_variance.grad is not None
    assert torch.isfinite(log_variance.grad).all()


def test_a_term_of_the_bound_is_zero_for_the_true_posterior_and_known_for_a_shifted_one():
    t, s = torch.tensor([12, 30, 1]), torch.tensor([11, 20, 0])
    generator = torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(3, 1, 4, 4, generator=generator, dtype=torch.float64).clamp(-1, 1) for _ in range(2))
    x_t = q_sample(SCHEDULE, x0, t, eps)
    mean, _ = q_posterior(SCHEDULE, x0, x_t, t, s)
    _, least = log_variance_range(SCHEDULE, t, s)
    log_variance = least[:, None, None, None].expand_as(x0)
    term = bound_term(SCHEDULE, x0, x_t, mean=mean, log_variance=log_variance, t=t, s=s)
    torch.testing.assert_close(term[:2], torch.zeros(2, dtype=torch.float64), atol=1e-10, rtol=0)
    likelihood = -discretised_log_likelihood(x0[2:], mean[2:], log_variance[2:]).mean() / math.log(2)
    assert term[2].item() == pytest.approx(likelihood.item())
    # A mean that is wrong by δ costs δ²/(2 σ²) nats.
    shifted = bound_term(SCHEDULE, x0, x_t, mean=mean + 0.1, log_variance=log_variance, t=t, s=s)
    torch.testing.assert_close(shifted[:2], 0.005 / least[:2].exp() / math.log(2))
