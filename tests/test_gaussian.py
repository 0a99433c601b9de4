from itertools import pairwise

import pytest
import torch

from scansynth.diffusion.gaussian import q_posterior, q_sample, q_step
from scansynth.diffusion.schedule import Schedule

SCHEDULES = {"linear": Schedule.linear(1000), "variance preserving": Schedule.variance_preserving(1000)}


@pytest.fixture(params=SCHEDULES.values(), ids=list(SCHEDULES))
def schedule(request) -> Schedule:
    return request.param


def times(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def coefficients(function, inputs: int) -> list[float]:
    """What a linear function of scalars multiplies each of them with."""
    return [
        function(*[torch.full((1, 1, 1, 1), float(i == j), dtype=torch.float64) for j in range(inputs)]).item()
        for i in range(inputs)
    ]


@pytest.mark.parametrize("path", [list(range(1001)), [0, 250, 500, 750, 1000], [0, 1, 17, 18, 400, 1000]])
def test_composed_steps_equal_the_closed_form(schedule, path):
    mean, variance = 1.0, 0.0
    for s, t in pairwise(path):
        of_x, of_eps = coefficients(lambda x, e, s=s, t=t: q_step(schedule, x, times(s), times(t), e), 2)
        mean, variance = mean * of_x, variance * of_x**2 + of_eps**2
        of_x0, of_noise = coefficients(lambda x, e, t=t: q_sample(schedule, x, times(t), e), 2)
        assert mean == pytest.approx(of_x0, rel=1e-12)
        assert variance == pytest.approx(of_noise**2, rel=1e-12)


@pytest.mark.parametrize(("s", "t"), [(1, 2), (250, 500), (750, 1000), (3, 900)])
def test_posterior_is_bayes_rule(schedule, s, t):
    """The posterior equals q(x_t | x_s) q(x_s | x_0), normalised by quadrature."""
    x0, x_t = (torch.full((1, 1, 1, 1), value, dtype=torch.float64) for value in (0.7, -0.4))
    mean, variance = q_posterior(schedule, x0, x_t, times(t), times(s))
    center, width = mean.item(), variance.sqrt().item()
    grid = torch.linspace(center - 10 * width, center + 10 * width, 20_001, dtype=torch.float64)
    of_x0, of_eps0 = coefficients(lambda x, e: q_sample(schedule, x, times(s), e), 2)
    of_x_s, of_eps = coefficients(lambda x, e: q_step(schedule, x, times(s), times(t), e), 2)
    log_density = -0.5 * ((grid - of_x0 * 0.7) / of_eps0) ** 2 - 0.5 * ((-0.4 - of_x_s * grid) / of_eps) ** 2
    weights = torch.softmax(log_density, 0)
    first = (weights * grid).sum().item()
    second = (weights * (grid - first) ** 2).sum().item()
    assert first == pytest.approx(center, abs=1e-10)
    assert second == pytest.approx(variance.item(), rel=1e-8)


def test_posterior_has_the_variances_of_syndiff():
    schedule = Schedule.variance_preserving(1000)
    x = torch.zeros(4, 1, 2, 2)
    _, v = q_posterior(schedule, x, x, times(250, 500, 750, 1000), times(0, 250, 500, 750))
    assert v.shape == (4, 1, 1, 1)
    assert v.flatten().tolist() == pytest.approx([0, 0.4391, 0.8839, 0.9841], abs=5e-5)


def test_posterior_at_time_zero_is_the_clean_image(schedule):
    x0, x_t = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    mean, variance = q_posterior(schedule, x0, x_t, times(1, 250, 1000), times(0, 0, 0))
    assert torch.equal(mean, x0)
    assert (variance == 0).all()
    assert torch.equal(q_sample(schedule, x0, times(0, 0, 0), x_t), x0)


def test_forward_then_posterior_keeps_the_marginal(schedule):
    """x_t ~ q(x_t|x_0), then x_s ~ q(x_s|x_t, x_0), has the law of q(x_s|x_0)."""
    for s, t in ((1, 2), (250, 500), (10, 990)):
        of_x0, of_x_t = coefficients(lambda x, y, s=s, t=t: q_posterior(schedule, x, y, times(t), times(s))[0], 2)
        one = torch.ones(1, 1, dtype=torch.float64)
        variance = q_posterior(schedule, one, one, times(t), times(s))[1].item()
        alpha_bar_t, alpha_bar_s = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        assert of_x0 + of_x_t * alpha_bar_t**0.5 == pytest.approx(alpha_bar_s**0.5, rel=1e-12)
        assert of_x_t**2 * (1 - alpha_bar_t) + variance == pytest.approx(1 - alpha_bar_s, rel=1e-12)


def test_each_sample_of_a_batch_has_its_own_time_and_volumes_work(schedule):
    x0, eps = torch.randn(2, 1, 4, 4, 4), torch.randn(2, 1, 4, 4, 4)
    both = q_sample(schedule, x0, times(10, 900), eps)
    for i, t in enumerate((10, 900)):
        assert torch.equal(both[i : i + 1], q_sample(schedule, x0[i : i + 1], times(t), eps[i : i + 1]))


def test_coefficients_keep_float64_until_the_cast():
    """At ᾱ near 1, 1 − ᾱ in float32 would be wrong in the third digit."""
    schedule = Schedule.linear(1000, 1e-5, 0.02)
    noise = q_sample(schedule, torch.zeros(1, 1), times(1), torch.ones(1, 1))
    assert noise.item() == pytest.approx(1e-5**0.5, rel=1e-6)


def test_times_in_the_wrong_order_are_our_own_mistake(schedule):
    x = torch.zeros(1, 1, 2, 2)
    with pytest.raises(AssertionError, match="before"):
        q_posterior(schedule, x, x, times(5), times(5))
    with pytest.raises(AssertionError, match="before"):
        q_step(schedule, x, times(6), times(5), x)
