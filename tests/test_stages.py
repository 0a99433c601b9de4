"""Plans of stages, and what they make of a Gaussian field along the slices, whose exact denoiser is known.

With it a staged generation is linear in its noise. `UnitDraws` gives each number of the noise a row of its own in the
volume, so that the covariance of what is made is exact in float64, without Monte Carlo.
"""

import pytest
import torch

from scansynth.diffusion.samplers import ancestral, times
from scansynth.diffusion.schedule import Schedule
from scansynth.diffusion.stages import Stage, autoregressive_plan, check_plan, hierarchical_plan, in_stages
from scansynth.errors import InputError
from scansynth.noise import Noise

DEPTH = 27
SCHEDULE = Schedule.linear(1000)


class UnitDraws(Noise):
    """In draw d, the number of slice z is 1 in row d·DEPTH + z of the volume, and 0 in all others."""

    def __init__(self):
        super().__init__([("unit",)])
        self.names = []

    def normal(self, name, shape):
        _, rows, _, depth = shape
        if name not in self.names:
            self.names.append(name)
        first = self.names.index(name) * depth
        assert first + depth <= rows, "more draws than rows"
        drawn = torch.zeros(1, *shape, dtype=torch.float64)
        drawn[0, 0, first + torch.arange(depth), 0, torch.arange(depth)] = 1
        return drawn


def autoregressive_field(order, depth=DEPTH):
    """Covariance of x_z = Σ φ_k x_{z−k} + e_z, k = 1 … order, where the last φ matters as much as the first."""
    one = torch.eye(depth, dtype=torch.float64)
    if order == 1:
        of_past = 0.9 * one.roll(1, 0).tril(-1)
    else:
        of_past = sum((0.5 if k in (1, order) else 0.02) * one.roll(k, 0).tril(-k) for k in range(1, order + 1))
    from_noise = torch.linalg.inv(one - of_past)
    return 0.01 * from_noise @ from_noise.T


def conditional(covariance, stage):
    """Mean of X^P given X^C as a matrix on X^C, (p, c), and its covariance, (p, p)."""
    C, P = list(stage.condition), list(stage.target)
    if not C:
        return torch.zeros(len(P), 0, dtype=torch.float64), covariance[P][:, P]
    gain = torch.linalg.solve(covariance[C][:, C], covariance[C][:, P]).T
    return gain, covariance[P][:, P] - gain @ covariance[C][:, P]


def implied(plan, covariance, of_stage=conditional):
    """Covariance of a volume each of whose stages is given by its conditions alone."""
    found, known = torch.zeros_like(covariance), []
    for stage in plan:
        gain, left = of_stage(covariance, stage)
        C, P = list(stage.condition), list(stage.target)
        cross = gain @ found[C][:, known]
        for row, z in enumerate(P):
            found[z, known] = found[known, z] = cross[row]
        found[torch.tensor(P)[:, None], torch.tensor(P)] = gain @ found[C][:, C] @ gain.T + left
        known += P
    return found


def exact_stage(covariance, path):
    """Sample a stage with the exact denoiser, which draws from p(x_0 | x_t, X^C): exact at any number of steps."""

    def sample(x_T, known, stage, noise):
        gain, left = conditional(covariance, stage)
        mean, one = known @ gain.T, torch.eye(len(left), dtype=torch.float64)
        a_T = SCHEDULE.alpha_bar[-1]  # the process's own x_T; it is not quite standard normal
        x_T = a_T.sqrt() * mean + x_T @ torch.linalg.cholesky(a_T * left + (1 - a_T) * one).T

        def denoise(x_t, t):
            a = SCHEDULE.alpha_bar[t[0]]
            of_x_t = a.sqrt() * torch.linalg.solve(a * left + (1 - a) * one, left)  # symmetric matrices that commute
            spread = torch.linalg.cholesky(left - a.sqrt() * of_x_t @ left)
            drawn = noise.normal(f"x0 t={t[0]}", x_t.shape[1:])
            return mean + (x_t - a.sqrt() * mean) @ of_x_t + drawn @ spread.T

        return ancestral(SCHEDULE, denoise, x_T, path, noise)

    return sample


def made(plan, covariance, steps=3):
    """Covariance of what a plan makes."""
    rows = 2 * steps * DEPTH  # x_T; x0 at each step; noise at each but the last
    volume = in_stages(plan, (rows, 1, DEPTH), exact_stage(covariance, times(SCHEDULE, steps)), UnitDraws())
    return volume[0, 0, :, 0].T @ volume[0, 0, :, 0]


@pytest.mark.parametrize("order", [1, 4, 10])
@pytest.mark.parametrize("steps", [1, 3])
def test_autoregressive_stages_reproduce_a_field_whose_memory_is_no_longer(order, steps):
    covariance, plan = autoregressive_field(order), autoregressive_plan(DEPTH)
    assert covariance[0, 20].abs() > 1e-6  # first and last stage do depend on each other
    torch.testing.assert_close(made(plan, covariance, steps), covariance, rtol=0, atol=1e-12)


def test_a_longer_memory_is_lost_as_the_plan_says():
    covariance, plan = autoregressive_field(14), autoregressive_plan(DEPTH)
    expected = implied(plan, covariance)
    assert (expected - covariance).abs().max() > 0.1 * covariance.max()
    torch.testing.assert_close(made(plan, covariance), expected, rtol=0, atol=1e-12)
    # What a stage and the one before it share is right all the same.
    torch.testing.assert_close(expected[:20, :20], covariance[:20, :20], rtol=0, atol=1e-12)


def test_a_hierarchical_plan_makes_what_it_implies():
    plan = hierarchical_plan(DEPTH)
    markov = autoregressive_field(1)  # given its neighbours on both sides a slice depends on no other
    torch.testing.assert_close(made(plan, markov), markov, rtol=0, atol=1e-12)
    covariance = autoregressive_field(10)
    expected = implied(plan, covariance)
    assert (expected - covariance).abs().max() > 0.05 * covariance.max()
    torch.testing.assert_close(made(plan, covariance), expected, rtol=0, atol=1e-12)


def independent(x_T, known, stage, noise):
    """Slices that do not read each other."""
    return ancestral(SCHEDULE, lambda x_t, t: x_t.tanh(), x_T, times(SCHEDULE, 4), noise)


def test_two_plans_start_from_one_noise():
    shape = (5, 4, 23)
    volumes = [
        in_stages(plan(23), shape, independent, Noise([(0, "a", 0)]))
        for plan in (autoregressive_plan, hierarchical_plan)
    ]
    assert volumes[0].shape == (1, 1, *shape)
    torch.testing.assert_close(volumes[0], volumes[1], rtol=0, atol=1e-6)
    assert not torch.equal(volumes[0], in_stages(autoregressive_plan(23), shape, independent, Noise([(1, "a", 0)])))
    assert volumes[0].flatten(0, 3).T.unique(dim=0).shape[0] == 23  # every slice has a noise of its own


def test_condition_slices_are_given_as_they_were_made_and_stay():
    seen = []

    def sample(x_T, known, stage, noise):
        seen.append((stage, known.clone()))
        return x_T + known.sum()

    volume = in_stages(hierarchical_plan(31), (3, 2, 31), sample, Noise([(0, "a", 0)]))
    assert len(seen) > 2
    for stage, known in seen:
        assert torch.equal(known, volume[..., list(stage.condition)])


def test_the_papers_plan():
    plan = autoregressive_plan(128)
    assert len(plan) == 13
    assert plan[0] == Stage((), tuple(range(10)))
    assert plan[1] == Stage(tuple(range(10)), tuple(range(10, 20)))
    assert plan[12] == Stage(tuple(range(110, 120)), tuple(range(120, 128)))


@pytest.mark.parametrize("depth", [1, 2, 3, 9, 10, 11, 37, 128, 155])
@pytest.mark.parametrize(("size", "largest"), [(10, 20), (2, 4), (3, 6)])
def test_plans_make_every_slice_once_from_known_ones(depth, size, largest):
    for plan in (autoregressive_plan(depth, size), hierarchical_plan(depth, size, largest)):
        check_plan(plan, depth, largest)
        assert max(len(stage.target) for stage in plan) <= size


def test_a_hierarchical_plan_fills_in_between():
    first, *others = hierarchical_plan(128)
    assert (first.condition, first.target[0], first.target[-1], len(first.target)) == ((), 0, 127, 10)
    for stage in others:
        for z in stage.target:
            assert min(stage.condition) < z < max(stage.condition)
    # A gap is halved: 14 slices, 7, 3, 1.
    distance = [min(abs(z - c) for z in stage.target for c in stage.condition) for stage in others]
    assert distance[0] >= 6
    assert distance[-1] == 1


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ([Stage((), (0, 1, 2))], "lacks slice 3"),
        ([Stage((), (0, 1, 2, 3, 4))], "makes slice 4: it must make the slices 0 to 3"),
        ([Stage((), (0, 1)), Stage((0,), (1, 2, 3))], "stage 2 of the plan makes slice 1 again"),
        ([Stage((2,), (0, 1)), Stage((), (2, 3))], "stage 1 of the plan is given slice 2, which no earlier"),
        ([Stage((), (0, 1)), Stage((0, 1), (2, 3)), Stage((), ())], "stage 3 of the plan makes no slice"),
        ([Stage((), (0, 1, 2)), Stage((0, 1, 2), (3, 4, 5))], "has 6 slices, the networks take 5"),
        ([Stage((), (0, 1)), Stage((1, 1), (2, 3))], "given a slice twice"),
    ],
)
def test_wrong_plans_are_refused(plan, message):
    with pytest.raises(InputError, match=message):
        check_plan(plan, 4, 5)
