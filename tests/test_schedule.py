import math

import pytest
import torch

from scansynth.diffusion.schedule import Schedule, make_schedule
from scansynth.errors import InputError


def test_variance_preserving_gives_the_printed_values_of_syndiff():
    alpha_bar = Schedule.variance_preserving(1000).alpha_bar
    t, s = torch.tensor([250, 500, 750, 1000]), torch.tensor([0, 250, 500, 750])
    gamma = 1 - alpha_bar[t] / alpha_bar[s]
    assert gamma.tolist() == pytest.approx([0.4763, 0.8490, 0.9565, 0.9875], abs=5e-5)
    # Eq. 10 as printed in METHODS
    k, T = 250, 1000
    printed = [1 - math.exp(-0.1 * k / T - 19.9 * (2 * u * k - k * k) / (2 * T * T)) for u in t.tolist()]
    torch.testing.assert_close(gamma, torch.tensor(printed, dtype=torch.float64), rtol=0, atol=1e-14)
    assert (1 - gamma).prod().item() == pytest.approx(math.exp(-10.05), rel=1e-12)
    assert alpha_bar[-1].item() == pytest.approx(math.exp(-10.05), rel=1e-12)


def test_linear_is_the_product_of_the_alphas():
    schedule = Schedule.linear(1000)
    product = 1.0
    for i in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * i / 999)
    assert schedule.steps == 1000
    assert schedule.alpha_bar[0] == 1
    assert schedule.alpha_bar[1].item() == pytest.approx(1 - 1e-4, rel=1e-15)
    assert schedule.alpha_bar[-1].item() == pytest.approx(product, rel=1e-12)


@pytest.mark.parametrize("schedule", [Schedule.linear(1), Schedule.linear(4000, 2.5e-5, 5e-3)])
def test_alpha_bar_starts_at_the_clean_image_and_falls(schedule):
    assert schedule.alpha_bar.dtype == torch.float64
    assert schedule.alpha_bar[0] == 1
    assert (schedule.alpha_bar.diff() < 0).all()
    assert len(schedule.alpha_bar) == schedule.steps + 1


@pytest.mark.parametrize(
    "alpha_bar", [[1.0], [0.9, 0.5], [1.0, 0.5, 0.5], [1.0, 0.4, 0.5], [1.0, 0.5, 0.0], [1.0, 0.5, math.nan]]
)
def test_a_schedule_that_does_not_fall_from_one_is_refused(alpha_bar):
    with pytest.raises(InputError, match="alpha_bar"):
        Schedule(torch.tensor(alpha_bar, dtype=torch.float64))


def test_bad_settings_are_refused():
    with pytest.raises(InputError, match="steps 0"):
        Schedule.linear(0)
    with pytest.raises(InputError, match=r"1\.5"):
        Schedule.linear(10, beta_end=1.5)
    with pytest.raises(InputError, match="beta_min"):
        Schedule.variance_preserving(10, beta_min=-1)


def test_lookups_follow_the_images_and_come_from_float64():
    schedule = Schedule.linear(1000)
    t = torch.tensor([1, 0, 1000])
    at = schedule.at(t, torch.zeros(3, 2, 4, 4, 4))
    assert at.shape == (3, 1, 1, 1, 1)
    assert at.dtype == torch.float32
    assert torch.equal(at.flatten(), schedule.alpha_bar[t].float())
    assert schedule.at(t, torch.zeros(3, 1, 2, 2).double()).dtype == torch.float64


def test_times_outside_the_schedule_are_our_own_mistake():
    schedule = Schedule.linear(10)
    for t in (torch.tensor([-1]), torch.tensor([11]), torch.tensor([0.5])):
        with pytest.raises(AssertionError, match="times"):
            schedule.lookup(t)


def test_schedules_by_name_leave_as_little_of_the_image_whatever_their_steps():
    assert torch.equal(make_schedule("linear", 1000).alpha_bar, Schedule.linear(1000).alpha_bar)
    assert torch.equal(make_schedule("cosine", 50).alpha_bar, Schedule.cosine(50).alpha_bar)
    ends = [make_schedule("linear", steps).alpha_bar[-1].log().item() for steps in (500, 1000, 4000)]
    assert ends == pytest.approx([ends[1]] * 3, rel=0.02)
