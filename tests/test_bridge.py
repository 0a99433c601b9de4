"""Bridges and their solvers (`diffusion/bridge.py`), held to closed forms with the exact denoiser of a Gaussian."""

import math

import pytest
import torch

from scansynth.diffusion.bridge import Bridge, bridge_times, calls, solve
from scansynth.errors import InputError

MEAN, DEVIATION, START = 0.3, 0.2, -0.4
"""Of x given s, and s."""
F64 = torch.float64


def exact(bridge, mean=MEAN, deviation=DEVIATION, start=START):
    """E[x | x_t] of x ~ N(mean, deviation²)."""

    def denoise(x_t, t):
        a, b, g = (value.reshape(-1, 1) for value in bridge.coefficients(t))
        seen = (b * deviation**2) / (b**2 * deviation**2 + g**2) if (b**2 * deviation**2 + g**2).all() else 0 * b
        return mean + seen * (x_t - a * start - b * mean)

    return denoise


def solved(bridge, times, solver, *, mean=MEAN, deviation=DEVIATION, start=START):
    """Mean and deviation of what a solver gives: its result is linear in ε."""
    eps = torch.tensor([[0.0], [1.0]], dtype=F64)
    s = torch.full_like(eps, start)
    zero, one = solve(bridge, exact(bridge, mean, deviation, start), s, eps, times, solver=solver).flatten().tolist()
    return zero, abs(one - zero)


def kept(sigma, times, solver):
    """Share of the deviation that a solver keeps."""
    return solved(Bridge(sigma * DEVIATION), times, solver)[1] / DEVIATION


def evenly(count):
    return [i / count for i in range(count)]


def spread(count, farthest):
    """Times as `bridge_times` has them, but farther out."""
    return [0.0, *torch.linspace(-farthest, farthest, count - 1, dtype=F64).sigmoid().tolist()]


SOLVERS = ("euler", "heun", "dpm-solver")


@pytest.mark.parametrize("bridge", [Bridge(0.2), Bridge(0.05), Bridge(None)], ids=["σ = τ", "σ = τ/4", "noise"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_tend_to_the_true_mean_and_deviation(bridge, solver):
    errors = []
    for count in (8, 32, 128, 512):
        times = evenly(count) if solver != "dpm-solver" else spread(count, 2 * math.log(count))
        mean, deviation = solved(bridge, times, solver)
        assert mean == pytest.approx(MEAN, abs=1e-9)  # of a straight line, at any number of steps
        errors.append(abs(deviation - DEVIATION) / DEVIATION)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("sigma", [0.0, 0.1, None])
def test_one_step_is_the_denoiser_s_mean(solver, sigma):
    bridge = Bridge(sigma)
    mean, deviation = solved(bridge, bridge_times(1), solver)
    assert mean == pytest.approx(MEAN)
    assert deviation == pytest.approx(0)


def test_euler_is_its_own_recursion():
    """x_u = a_u s + b_u x̂ + g_u ε̂, written out for a Gaussian of mean 0 that starts at 0: a factor each step."""
    sigma, tau = 0.3, 0.2

    def g(t):
        return sigma * math.sqrt(t * (1 - t))

    times, expected = [0.0, 0.2, 0.5, 0.9], g(0.2)
    for t, u in ((0.2, 0.5), (0.5, 0.9), (0.9, 1.0)):
        seen = t * tau**2 / (t**2 * tau**2 + g(t) ** 2)
        expected *= u * seen + g(u) * (1 - t * seen) / g(t)
    assert solved(Bridge(sigma), times, "euler", mean=0, deviation=tau, start=0)[1] == pytest.approx(
        expected, rel=1e-12
    )


def test_a_bridge_without_noise_is_a_straight_line_for_any_solver_s_noise():
    s, x = torch.tensor([[0.2]], dtype=F64), torch.tensor([[0.9]], dtype=F64)
    seen = []

    def denoise(x_t, t):
        seen.append((t.item(), x_t.item()))
        return x

    for eps in (0.0, 5.0):
        result = solve(Bridge(0.0), denoise, s, torch.full_like(s, eps), evenly(4), solver="heun")
        assert result.item() == pytest.approx(0.9)
    for t, x_t in seen:
        assert x_t == pytest.approx(0.2 + 0.7 * t)


def test_shares_of_the_deviation_that_few_calls_keep():
    """The figures of `bridge_times`."""
    ratios = (0.25, 0.5, 1, 2, 4)
    assert [round(kept(ratio, bridge_times(6), "dpm-solver"), 2) for ratio in ratios] == [0.90, 0.97, 0.98, 0.94, 0.85]
    assert [round(kept(ratio, evenly(6), "euler"), 2) for ratio in ratios] == [0.47, 0.69, 0.78, 0.69, 0.47]


def test_heun_is_of_second_order():
    """Of the path from noise, which is smooth: four times the steps, at least eight times less error."""
    counts, errors = (10, 40), {}
    for solver in ("euler", "heun"):
        errors[solver] = [abs(solved(Bridge(None), evenly(count), solver)[1] - DEVIATION) for count in counts]
    assert errors["euler"][0] / errors["euler"][1] < 6
    assert errors["heun"][0] / errors["heun"][1] > 8


def test_times_rise_from_zero_evenly_in_the_log_snr():
    assert bridge_times(1) == [0.0]
    assert bridge_times(2) == [0.0, 0.5]
    times = torch.tensor(bridge_times(8), dtype=F64)
    assert times[0] == 0
    assert times[1] == pytest.approx(0.01)
    assert times[-1] == pytest.approx(0.99)
    steps = times[1:].logit().diff()
    assert torch.allclose(steps, steps[:1].expand_as(steps))
    assert torch.tensor(bridge_times(4))[1:].logit().diff().max() == pytest.approx(2.4, rel=1e-5)
    assert [calls(len(times), solver) for solver in SOLVERS] == [8, 15, 8]
    with pytest.raises(InputError, match="at least 1"):
        bridge_times(0)


@pytest.mark.parametrize("sigma", [0.5, None])
def test_x_t_and_what_the_network_learns_agree(sigma):
    generator = torch.Generator().manual_seed(0)
    s, x, eps = torch.randn(3, 2, 1, 4, 4, generator=generator, dtype=F64)
    bridge, t = Bridge(sigma), torch.tensor([0.1, 0.8], dtype=F64)
    x_t = bridge.at(t, s=s, x=x, eps=eps)
    v = bridge.direction(s=s, x=x, eps=eps)
    assert torch.allclose(bridge.x_from_direction(v, x_t, t, s=s), x)
    ends = [bridge.at(torch.full((2,), end, dtype=F64), s=s, x=x, eps=eps) for end in (0.0, 1.0)]
    assert torch.equal(ends[0], eps if sigma is None else s)
    assert torch.equal(ends[1], x)


def test_noise_of_a_bridge_is_not_negative():
    with pytest.raises(InputError, match="sigma -1"):
        Bridge(-1)
