"""Stage borders and slices: planted jumps are found, smooth volumes and real ones give what they must."""

import csv
import json

import numpy as np
import pytest
from scipy import ndimage

from scansynth.data.phantom import make_phantom
from scansynth.errors import InputError
from scansynth.evaluation.coherence import CoherenceFigures, markdown
from scansynth.metrics.cases import Case, brain
from scansynth.metrics.coherence import Jumps, jumps, mean_step, slice_steps
from scansynth.sets.coherence import borders_of, slice_coherence
from scansynth.sets.coherence_tables import plot_coherence, write_coherence
from scansynth.sets.volume_sets import VolumeSet

BORDERS = (6, 12, 18)


def volume(seed):
    """A smooth field that is steeper in its lower half, as heads are not alike along Z."""
    field = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((16, 16, 24)), 2)
    steeper = np.linspace(1.5, 0.5, 24)
    return np.clip(0.5 + 0.1 * steeper * field / field.std(), 0, 1).astype(np.float32)


def with_jumps(seed, size):
    jumps = np.zeros(24, np.float32)
    for number, border in enumerate(BORDERS):
        jumps[border:] += size * (-1) ** number
    return np.clip(volume(seed) + jumps, 0, 1)


@pytest.fixture(scope="module")
def real():
    return VolumeSet.of("real", {str(seed): volume(seed) for seed in range(30)})


def test_a_constant_slope_gives_one():
    ramp = np.broadcast_to(np.linspace(0, 0.9, 24, dtype=np.float32), (4, 4, 24))
    ramps = VolumeSet.of("ramps", {"a": ramp, "b": 0.5 * ramp})
    whole = slice_coherence(ramps, VolumeSet.of("real", {"a": 0.8 * ramp, "b": ramp}), BORDERS)
    assert whole.overall.value == pytest.approx(1.5 / 1.8, rel=1e-5)
    found = whole.at_borders
    assert (found.to_inside.value, found.excess.value) == pytest.approx((1, 1), rel=1e-5)
    assert found.to_inside.interval == pytest.approx((1, 1), rel=1e-5)
    assert found.to_real.value == pytest.approx(1.5 / 1.8, rel=1e-5)


def test_a_jump_at_borders_is_found_with_its_size():
    flat = np.broadcast_to(np.linspace(0, 0.23, 24, dtype=np.float32), (4, 4, 24))  # steps of 0.01
    jumps = flat + 0.03 * np.isin(np.arange(24), np.arange(12, 24))
    whole = slice_coherence(VolumeSet.of("set", {"a": jumps}), VolumeSet.of("real", {"a": flat}), [12])
    found = whole.at_borders
    assert found.border == pytest.approx(0.04, rel=1e-4)
    assert (found.to_inside.value, found.to_real.value, found.excess.value) == pytest.approx((4, 4, 4), rel=1e-4)
    assert np.isnan(found.excess.interval).all()
    assert "uncertain with a single volume" in whole.verdict()


def test_planted_jumps_are_told_from_volumes_like_the_real_ones(real):
    fine = VolumeSet.of("fine", {str(seed): volume(seed) for seed in range(100, 130)})
    staged = VolumeSet.of("staged", {str(seed): with_jumps(seed, 0.05) for seed in range(200, 230)})
    same, jumpy = (slice_coherence(one, real, BORDERS) for one in (fine, staged))
    assert same.at_borders.excess.interval[0] < 1 < same.at_borders.excess.interval[1]
    assert "no more than anywhere else" in same.verdict()
    assert jumpy.at_borders.excess.interval[0] > 1.1
    assert "stage borders are jumps" in jumpy.verdict()
    assert "3 stage borders" in jumpy.verdict()


def test_what_real_volumes_do_at_the_same_places_is_taken_out(real):
    low = (2, 4, 6)  # where steps are larger in all volumes
    others = VolumeSet.of("other", {str(seed): volume(seed) for seed in range(100, 130)})
    found = slice_coherence(others, real, low).at_borders
    assert found.to_inside.interval[0] > 1.05
    assert found.excess.interval[0] < 1 < found.excess.interval[1]


def test_intervals_hold_the_true_ratio_as_often_as_they_say():
    # Steps of a set: uniform in [0.5, 1.5], the same at borders and inside on average.
    rng, held = np.random.default_rng(0), 0
    for trial in range(60):
        sets = [
            VolumeSet.of(name, {str(i): rng.random((1, 1, 9)).astype(np.float32) for i in range(12)})
            for name in ("set", "real")
        ]
        low, high = slice_coherence(*sets, [3, 6], seed=trial).at_borders.excess.interval
        held += low <= 1 <= high
    assert 50 <= held <= 60


def test_steps_are_mean_absolute_differences():
    array = np.zeros((2, 1, 3), np.float32)
    array[0, 0] = 0, 1, 0.5
    np.testing.assert_allclose(slice_steps(array), [0.5, 0.25])


@pytest.mark.parametrize("borders", [(), range(1, 24)])
def test_without_borders_all_steps_are_held_against_real_ones(real, borders):
    """At once, or by a plan whose neighbours are never of one stage."""
    rough = VolumeSet.of("rough", {str(seed): with_jumps(seed, 0.05) for seed in range(200, 230)})
    found = slice_coherence(rough, real, borders)
    assert found.at_borders is None
    assert found.overall.interval[0] > 1.02
    assert found.overall.value == pytest.approx(found.steps.mean() / found.real_steps.mean())
    assert "no stage borders" in found.verdict()


def test_borders_of_stages():
    assert borders_of((0, 0, 0, 1, 1, 2)) == (3, 5)
    assert borders_of((0, 1, 0, 1, 0)) == (1, 2, 3, 4)
    assert borders_of((0, 0)) == ()


@pytest.mark.parametrize("borders", [[0], [24], [5, 5]])
def test_borders_that_are_none_are_refused(real, borders):
    with pytest.raises(InputError, match="name each stage's first slice once, from 1 to 23"):
        slice_coherence(real, real, borders)


def test_tables_hold_figures_and_steps(real, tmp_path):
    found = slice_coherence(VolumeSet.of("one", {"a": with_jumps(0, 0.1)}), real, BORDERS)
    at_once = slice_coherence(VolumeSet.of("at once", {"a": volume(1)}), real, ())
    write_coherence([found, at_once], tmp_path)
    assert plot_coherence([found, at_once], tmp_path).stat().st_size > 10_000
    with (tmp_path / "coherence.csv").open(encoding="utf-8") as file:
        record, without = csv.DictReader(file)
    assert record["borders"] == "6 12 18"
    assert (without["borders"], without["excess"]) == ("", "")
    assert float(record["excess"]) == found.at_borders.excess.value
    plain, _ = json.loads((tmp_path / "coherence.json").read_text(encoding="utf-8"))
    assert plain["excess_low"] is None
    assert np.argmax(plain["steps"]) + 1 in BORDERS
    assert found.verdict() in (tmp_path / "coherence.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def head():
    """A phantom's T2w and its brain."""
    truth = make_phantom(3, (48, 56, 40), 4.0).contrast("T2w")
    truth = (truth / truth.max()).astype(np.float32)
    return truth, brain(Case(truth, truth))


def test_a_step_counts_between_voxels_that_both_lie_in_the_mask():
    volume = np.zeros((2, 1, 4))
    volume[0, 0] = 0, 1, 1, 5
    volume[1, 0] = 7, 9, 9, 9
    mask = np.ones((2, 1, 4), bool)
    mask[0, 0, 3] = mask[1, 0, 0] = False
    assert mean_step(volume, mask, 2) == pytest.approx((1 + 0 + 0 + 0) / 4)
    assert mean_step(volume, mask, 0) == pytest.approx((8 + 8) / 2)
    assert np.isnan(mean_step(volume, mask, 1))


def test_the_truth_itself_is_as_smooth_as_real(head):
    truth, mask = head
    found = jumps(truth, truth, mask)
    assert (found.slices, *found.in_plane, found.excess) == pytest.approx((1, 1, 1, 1))
    half = jumps(truth / 2, truth, mask)  # a darker one has smaller steps, and fits together as well
    assert (half.slices, half.excess) == pytest.approx((0.5, 1))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_stripes_are_told_along_their_axis_alone(head, axis):
    """Every second slice brighter by a constant: each step along the axis moves by it, none in the plane."""
    truth, mask = head
    size = 10.0  # above every step of the phantom, so that |step ± size| averages to it by hand
    place = np.moveaxis(np.zeros_like(truth), axis, 0)
    place[::2] = size
    striped = truth + np.moveaxis(place, 0, axis)
    found = jumps(striped, truth, mask, axis=axis)
    signed = np.diff(truth.astype(np.float64), axis=axis)
    sign = np.where(np.arange(signed.shape[axis]) % 2, 1, -1).reshape([-1 if a == axis else 1 for a in range(3)])
    inside = np.moveaxis(mask, axis, 0)
    both = np.moveaxis(inside[1:] & inside[:-1], 0, axis)
    by_hand = (size + sign * signed)[both].mean() / np.abs(signed)[both].mean()
    assert found.slices == pytest.approx(by_hand, rel=1e-5)
    assert found.in_plane == pytest.approx((1, 1), rel=1e-5)
    assert found.excess == pytest.approx(by_hand, rel=1e-5)


def test_stripes_show_on_a_smooth_image(head):
    truth, mask = head
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(truth, 1.0)
    striped = smooth * (1 + 0.1 * rng.standard_normal(truth.shape[2]))
    even, uneven = jumps(smooth, truth, mask), jumps(striped, truth, mask)
    assert max(even.slices, *even.in_plane) < 0.9
    assert 0.85 < even.excess < 1.15
    assert uneven.excess > 1.3 * even.excess
    assert uneven.in_plane == pytest.approx(even.in_plane, rel=0.05)


def test_a_truth_without_steps_has_no_ratio():
    flat = np.ones((4, 4, 4))
    found = jumps(np.random.default_rng(0).random((4, 4, 4)), flat, flat > 0)
    assert np.isnan([found.slices, *found.in_plane, found.excess]).all()


def test_figures_of_syntheses_are_written_by_subject(tmp_path):
    figures = CoherenceFigures()
    assert figures.empty
    figures.found = {
        ("a|b", "T1w→T2w", "one"): Jumps(slices=1.2, in_plane=(0.7, 0.9)),
        ("a|b", "T1w→T2w", "two"): Jumps(slices=1.6, in_plane=(0.8, 0.8)),
    }
    figures.write(tmp_path)
    assert "| a\\|b | T1w→T2w | 2 | 1.400 ± 0.283 | 0.750 ± 0.071 | 0.850 ± 0.071 | 1.750 ± 0.354 |" in markdown(
        figures.found
    )
    with (tmp_path / "coherence.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["slices_over_plane"]) for row in rows] == pytest.approx([1.5, 2.0])
    (line,) = figures.section().table.lines
    assert [cell.text for cell in line.cells] == ["2", "1.400", "0.750", "0.850", "1.750"]
