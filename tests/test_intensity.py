"""Normalisations: their figures by hand, their undoing, and what they must not depend on."""

from dataclasses import asdict

import nibabel as nib
import numpy as np
import pytest

from scansynth.data.foreground import foreground_threshold
from scansynth.data.intensity import NORMALISATIONS, ContrastStatistics, Scaling
from scansynth.data.volume import Volume
from scansynth.errors import InputError


def volume(array):
    array = np.asarray(array, dtype=np.float32)
    ornt = np.array([[0, 1], [1, 1], [2, 1]])
    return Volume(
        array=array,
        affine=np.eye(4),
        native_affine=np.eye(4),
        native_orientation=ornt,
        header=nib.Nifti1Header(),
        path=None,
    )


def head(seed=0, pad=0, contrast="T1w"):
    """A bright cube with texture in an empty box."""
    rng = np.random.default_rng(seed)
    array = np.full((12 + 2 * pad,) * 3, -1000.0 if contrast == "CT" else 0.0)
    inside = rng.uniform(-100, 1500, (8, 8, 8)) if contrast == "CT" else rng.uniform(100, 300, (8, 8, 8))
    array[(slice(2 + pad, 10 + pad),) * 3] = inside
    return volume(array)


def own_statistics(name, scan, contrast):
    """Statistics of a training set that is this one scan, so that the way back meets its own half."""
    normalisation = NORMALISATIONS[name]
    own = normalisation.own(scan, contrast)
    n = normalisation.apply_own(scan.array, own)
    return n, normalisation.fit(contrast, [own], [(float(n.min()), float(n.max()))], [scan.background(contrast)])


@pytest.mark.parametrize(("name", "contrast"), [("syndiff", "T1w"), ("syndiff", "CT"), ("z-score", "T1w"),
                                                ("z-score", "CT"), ("hu-window", "CT")])  # fmt: skip
def test_undo_of_a_training_scan_gives_it_back(name, contrast):
    scan = head(contrast=contrast)
    n, statistics = own_statistics(name, scan, contrast)
    image = statistics.to_image(n)
    assert image.dtype == np.float32
    assert image.min() >= -1e-6
    # The range of z-scores ends at the brightest tissue, which a thousandth of the foreground outshines.
    assert image.max() <= 1 + (1e-6 if name != "z-score" else 0.01)
    np.testing.assert_allclose(statistics.to_units(image), scan.array, rtol=1e-5, atol=1e-3)


def test_percentiles_clip_and_come_back_inside_them():
    scan = head()
    n, statistics = own_statistics("percentile", scan, "T1w")
    low, high = np.percentile(scan.array[2:10, 2:10, 2:10], (0.5, 99.5))
    assert n.min() == 0
    assert n.max() == 1
    np.testing.assert_allclose(statistics.to_units(n), np.clip(scan.array, low, high), rtol=1e-5, atol=1e-3)


def test_syndiff_by_hand():
    array = np.zeros((4, 4, 4))
    array[0, 0, 0], array[0, 0, 1] = 100, 300  # mean 6.25, an eighth of it 0.78
    n, statistics = own_statistics("syndiff", volume(array), "T1w")
    assert n[0, 0, 0] == pytest.approx(0.5)  # foreground mean 200
    assert statistics.scale_cohort == pytest.approx(1.5)
    # A test scan may exceed the training maximum and is kept.
    assert statistics.to_image(np.float32([3.0]))[0] == pytest.approx(2.0)


def test_ct_below_air_is_air():
    scan = head(contrast="CT")
    scan.array[0, 0, 0] = -3024  # what scanners put outside their field of view
    n, _ = own_statistics("syndiff", scan, "CT")
    assert n[0, 0, 0] == 0 == n[1, 1, 1]
    assert foreground_threshold(scan.array, "CT") == pytest.approx(
        -1000 + (np.maximum(scan.array, -1000) + 1000).mean() / 8, rel=1e-6
    )


def test_hu_window_is_the_same_for_every_scan():
    _, statistics = own_statistics("hu-window", head(contrast="CT"), "CT")
    assert statistics.unit == "HU"
    np.testing.assert_allclose(statistics.to_units(np.array([0.0, 1 / 3, 1.0])), [-1000, 0, 2000])
    with pytest.raises(InputError, match="for CT, not T1w"):
        NORMALISATIONS["hu-window"].own(head(), "T1w")


@pytest.mark.parametrize("name", ["robust", "syndiff", "percentile", "z-score"])
def test_empty_margin_does_not_move_the_own_half(name):
    """Twice the field of view, the same head: the same scaling. The mean over the grid would fall eightfold."""
    near, far = (NORMALISATIONS[name].own(head(pad=pad), "T1w") for pad in (0, 8))
    assert far.scale == pytest.approx(near.scale, rel=1e-6)
    assert far.offset == pytest.approx(near.offset, rel=1e-6)


@pytest.mark.parametrize("name", ["robust", "syndiff", "percentile", "z-score"])
def test_scanner_gain_cancels(name):
    scan, louder = head(), volume(head().array * 7)
    n, _ = own_statistics(name, scan, "T1w")
    same, _ = own_statistics(name, louder, "T1w")
    np.testing.assert_allclose(same, n, rtol=1e-4, atol=1e-5)


def test_typical_values_are_medians_and_statistics_survive_json():
    statistics = NORMALISATIONS["z-score"].fit(
        "T1w", [Scaling(1, 10), Scaling(2, 30), Scaling(90, 20)], [(-1, 2), (-3, 1), (0, 4)], [0, 5, 2]
    )
    assert (statistics.typical_scale, statistics.typical_offset) == (2, 20)
    assert (statistics.offset_cohort, statistics.scale_cohort) == (-3, 7)
    assert statistics.background == 2
    assert statistics.scans == 3
    assert ContrastStatistics(**asdict(statistics)) == statistics


def cohort_of(name, scans, contrast="T1w"):
    """Prepared values of training scans, and their statistics."""
    normalisation = NORMALISATIONS[name]
    own = [normalisation.own(scan, contrast) for scan in scans]
    n = [normalisation.apply_own(scan.array, one) for scan, one in zip(scans, own, strict=True)]
    ranges = [(float(one.min()), float(one.max())) for one in n]
    return n, normalisation.fit(contrast, own, ranges, [scan.background(contrast) for scan in scans])


@pytest.mark.parametrize("name", ["robust", "z-score", "percentile"])
@pytest.mark.parametrize(("contrast", "value"), [("T1w", 32767), ("CT", 30000)])
def test_one_voxel_of_one_training_scan_moves_nothing(name, contrast, value):
    """With SynDiff's own rule the others end at a hundredth of the range, and figures of range 1 look splendid."""
    scans = [head(seed, contrast=contrast) for seed in range(5)]
    clean, statistics = cohort_of(name, scans, contrast)
    scans[2].array[5, 5, 5] = value
    spiked, moved = cohort_of(name, scans, contrast)
    assert moved.scale_cohort == pytest.approx(statistics.scale_cohort, rel=0.02)
    for seed in (0, 1, 3, 4):
        np.testing.assert_allclose(moved.to_image(spiked[seed]), statistics.to_image(clean[seed]), rtol=0.02, atol=0.01)
    assert moved.to_image(spiked[2]).max() < 2.5  # and the voxel itself is no hundredfold loss

    _, paper = cohort_of("syndiff", scans, contrast)
    assert paper.scale_cohort > 10 * cohort_of("syndiff", [head(seed, contrast=contrast) for seed in range(5)],
                                               contrast)[1].scale_cohort  # fmt: skip


def test_one_bright_scan_of_many_moves_the_scale_by_half_at_most():
    scans = [head(seed) for seed in range(5)]
    _, statistics = cohort_of("robust", scans)
    scans[0].array[3:5] *= 40  # metal all over: an eighth of the head
    _, moved = cohort_of("robust", scans)
    assert moved.scale_cohort <= 1.5 * statistics.scale_cohort


@pytest.mark.parametrize("name", ["robust", "syndiff", "percentile", "z-score"])
@pytest.mark.parametrize(("gain", "offset"), [(1 / 150, -1.0), (1 / 60, -0.4), (1.0, 1000.0)])
def test_signed_and_offset_scans_are_the_same_scans(name, gain, offset):
    """Stored in [−1, 1], z-scored or with an offset: nothing is cut off, and padding is background."""
    scan, moved = head(), volume(head().array * gain + offset)
    assert moved.background("T1w") == pytest.approx(offset)
    n, _ = own_statistics(name, scan, "T1w")
    same, _ = own_statistics(name, moved, "T1w")
    np.testing.assert_allclose(same, n, rtol=1e-3, atol=1e-3)


def test_noise_around_a_head_is_no_background_of_its_own():
    rng = np.random.default_rng(0)
    scan = head(pad=4)
    noise = np.abs(rng.normal(0, 5, scan.array.shape))
    assert volume(np.maximum(scan.array, noise)).background("T1w") == 0
    signed = volume((np.maximum(scan.array, noise) - 150) / 150)  # in [−1, 1], with its noise
    assert signed.background("T1w") == pytest.approx(-1, abs=0.05)


def test_tissue_up_to_the_faces_has_no_background_of_its_own():
    crop = np.random.default_rng(0).uniform(100, 300, (12, 12, 12))
    assert volume(crop).background("T1w") == 0
    noise = np.random.default_rng(1).normal(1000, 10, (20, 20, 20))
    noise[4:16, 4:16, 4:16] += 800
    assert volume(noise).background("T1w") == pytest.approx(1000, abs=10)  # an offset, and noise about it


@pytest.mark.parametrize("name", ["percentile", "z-score", "robust"])
def test_padding_of_ct_takes_nothing_of_the_range(name):
    clean, padded = head(pad=2, contrast="CT"), head(pad=2, contrast="CT")
    padded.array[:, :2] = -3024
    n, statistics = own_statistics(name, clean, "CT")
    same, other = own_statistics(name, padded, "CT")
    np.testing.assert_allclose(same, n, rtol=1e-4, atol=1e-4)
    assert other.to_units(other.to_image(same)).min() > -1001
    assert other.scale_cohort == pytest.approx(statistics.scale_cohort, rel=1e-3)
    assert other.typical_scale == pytest.approx(statistics.typical_scale, rel=1e-3)


def test_an_empty_image_is_refused():
    with pytest.raises(InputError, match="cannot be normalised as T1w"):
        NORMALISATIONS["syndiff"].own(volume(np.zeros((8, 8, 8))), "T1w")
