"""x_0, noise, velocity and the mean of a step, each from another: round trips, and closed forms."""

import pytest
import torch

from scansynth.diffusion.gaussian import q_posterior, q_sample
from scansynth.diffusion.parameterisation import (
    eps_from_output,
    eps_from_velocity,
    eps_from_x0,
    mean_from_eps,
    min_snr_weight,
    output_error,
    x0_from_eps,
)
from scansynth.diffusion.schedule import Schedule

T = 40
SCHEDULE = Schedule.linear(T, 1e-3, 0.2)


def drawn(count, times):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(len(times), 1, 4, 4, generator=generator, dtype=torch.float64) for _ in range(count))


def test_noise_and_clean_image_come_back_from_each_other():
    t = torch.arange(1, T + 1)
    x0, eps = drawn(2, t)
    x_t = q_sample(SCHEDULE, x0, t, eps)
    torch.testing.assert_close(x0_from_eps(SCHEDULE, x_t, eps, t), x0)
    torch.testing.assert_close(eps_from_x0(SCHEDULE, x0, x_t, t), eps)
    torch.testing.assert_close(eps_from_x0(SCHEDULE, x0_from_eps(SCHEDULE, x_t, x0, t), x_t, t), x0)


def test_noise_and_clean_image_give_one_mean():
    t = torch.tensor([*range(1, T + 1), T, T, 20, 7])
    s = torch.tensor([*range(T), 0, T // 2, 10, 0])
    x_t, guess = drawn(2, t)
    by_x0, _ = q_posterior(SCHEDULE, x0_from_eps(SCHEDULE, x_t, guess, t), x_t, t, s)
    torch.testing.assert_close(mean_from_eps(SCHEDULE, x_t, guess, t, s), by_x0)


def test_the_noise_of_a_velocity_is_exact_and_its_error_never_grows():
    t = torch.arange(1, T + 1)
    x0, eps, error = drawn(3, t)
    x_t, alpha_bar = q_sample(SCHEDULE, x0, t, eps), SCHEDULE.at(t, x0)
    velocity = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0
    torch.testing.assert_close(eps_from_velocity(SCHEDULE, velocity, x_t, t), eps)
    off = x0_from_eps(SCHEDULE, x_t, eps_from_velocity(SCHEDULE, velocity + error, x_t, t), t) - x0
    torch.testing.assert_close(off, -(1 - alpha_bar).sqrt() * error)


@pytest.mark.parametrize("output", ["noise", "velocity", "x0"])
def test_all_outputs_are_of_one_noise(output):
    t = torch.arange(1, T + 1)
    x0, eps = drawn(2, t)
    x_t, alpha_bar = q_sample(SCHEDULE, x0, t, eps), SCHEDULE.at(t, x0)
    given = {"noise": eps, "x0": x0, "velocity": alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0}[output]
    torch.testing.assert_close(eps_from_output(SCHEDULE, given, x_t, t, output=output), eps)


@pytest.mark.parametrize("output", ["noise", "velocity"])
def test_the_error_is_that_of_what_the_network_gives(output):
    t = torch.arange(1, T + 1)
    x_t, given, error = drawn(3, t)
    right, wrong = (eps_from_output(SCHEDULE, one, x_t, t, output=output) for one in (given, given + error))
    torch.testing.assert_close(output_error(SCHEDULE, wrong, right, t, output=output), error.square())


@pytest.mark.parametrize("output", ["noise", "velocity", "x0"])
def test_min_snr_counts_the_error_of_the_clean_image_alike_whatever_the_network_gives(output):
    """A small error of what is given, whose square times its weight is min(SNR, γ) times that of x̂_0."""
    t = torch.arange(1, T + 1)
    x0, eps, error = drawn(3, t)
    x_t, alpha_bar = q_sample(SCHEDULE, x0, t, eps), SCHEDULE.at(t, x0)
    given = {"noise": eps, "x0": x0, "velocity": alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0}[output]
    off = x0_from_eps(SCHEDULE, x_t, eps_from_output(SCHEDULE, given + error, x_t, t, output=output), t) - x0
    snr = alpha_bar / (1 - alpha_bar)
    assert snr.min() < 0.05 < 5 < 50 < snr.max()  # on both sides of γ
    weighted = min_snr_weight(SCHEDULE, error, t, output=output) * error.square()
    torch.testing.assert_close(weighted, snr.clamp(max=5) * off.square())


def test_min_snr_in_closed_form_at_three_times():
    schedule = Schedule(torch.tensor([1.0, 0.9, 0.5, 0.2], dtype=torch.float64))  # SNR 9, 1, 1/4
    t, like = torch.tensor([1, 2, 3]), torch.zeros(3, 1, 2, 2, dtype=torch.float64)
    expected = {"x0": (5, 1, 0.25), "noise": (5 / 9, 1, 1), "velocity": (0.5, 0.5, 0.2)}
    for output, values in expected.items():
        weight = min_snr_weight(schedule, like, t, output=output)
        torch.testing.assert_close(weight, torch.tensor(values, dtype=torch.float64).reshape(3, 1, 1, 1))
