"""Sets of volumes: read one at a time, and measured: MS-SSIM of pairs, MMD, Fréchet distances."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
from scipy import linalg, ndimage

from scansynth.errors import InputError
from scansynth.sets.features import DERIVATIVE_PYRAMID, central_slices, derivative_pyramid, find_extractor
from scansynth.sets.set_measures import measure_sets, write_set_measures
from scansynth.sets.set_similarity import draw_pairs, pair_similarity, scales_for, similarity
from scansynth.sets.set_statistics import (
    VoxelSums,
    frechet_distance,
    gaussian_kernel,
    linear_kernel,
    linear_mmd_squared,
    median_distance,
    mmd_squared,
)
from scansynth.sets.volume_sets import VolumeSet, check_comparable, shrunk


def field(seed, blur=1.5, shape=(28, 30, 32)):
    """A random head: a smooth field in a ball."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), blur)
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij"))
    inside = (places**2).sum(0) < 0.7
    return (inside * np.clip(0.5 + 0.15 * smooth / smooth.std(), 0, 1)).astype(np.float32)


def fields(label, seeds, **options):
    return VolumeSet.of(label, {f"{seed}": field(seed, **options) for seed in seeds})


@pytest.fixture(scope="module")
def real():
    return fields("real", range(12))


# Reading.


def test_a_split_of_a_cohort_is_a_set(cohort):
    volumes = VolumeSet.from_cohort(cohort, "T2w", "train")
    assert volumes.names == tuple(cohort.subjects("train"))
    np.testing.assert_array_equal(volumes.read(2), cohort.read(volumes.names[2], "T2w"))
    assert volumes.spacing == pytest.approx((6, 6, 6))
    with pytest.raises(InputError, match="no contrast FLAIR"):
        VolumeSet.from_cohort(cohort, "FLAIR")


def test_a_folder_is_a_set_in_ras(tmp_path):
    volume = field(0, shape=(8, 9, 10))
    flipped = np.diag([-2.0, 2, 2, 1])
    nib.save(nib.Nifti1Image(volume[::-1], flipped), tmp_path / "b.nii.gz")
    nib.save(nib.Nifti1Image(field(1, shape=(8, 9, 10)), np.diag([2.0, 2, 2, 1])), tmp_path / "a.nii")
    (tmp_path / "a.json").write_text("{}")
    volumes = VolumeSet.from_folder(tmp_path)
    assert (volumes.names, volumes.shape, volumes.spacing) == (("a", "b"), (8, 9, 10), (2, 2, 2))
    np.testing.assert_array_equal(volumes.read(1), volume)
    nib.save(nib.Nifti1Image(field(2, shape=(8, 9, 11)), np.diag([2.0, 2, 2, 1])), tmp_path / "c.nii")
    with pytest.raises(InputError, match=r"c\.nii .*a\.nii .*different grids"):
        VolumeSet.from_folder(tmp_path).read(2)
    with pytest.raises(InputError, match="no NIfTI file"):
        VolumeSet.from_folder(tmp_path / "none")


@pytest.mark.parametrize("wrong", [np.nan, -0.5, 300.0])
def test_what_is_no_prepared_image_is_refused(wrong):
    volume = field(0)
    volume[3, 4, 5] = wrong
    with pytest.raises(InputError, match="set, bad: intensities from"):
        VolumeSet.of("set", {"bad": volume}).read(0)


def test_what_is_drawn_is_part_of_the_set_and_the_same_again(real):
    drawn = real.draw(5, seed=3)
    assert len(set(drawn.names)) == 5
    assert drawn.names == real.draw(5, seed=3).names != real.draw(5, seed=4).names
    np.testing.assert_array_equal(drawn.read(4), real.read(real.names.index(drawn.names[4])))
    assert real.draw(12) is real


def test_sets_of_different_grids_are_refused(real):
    with pytest.raises(InputError, match=r"28×30×32.*28×30×31"):
        check_comparable(real, fields("other", [0], shape=(28, 30, 31)))


def test_shrinking_averages(real):
    volume = real.read(0)
    np.testing.assert_allclose(shrunk(volume, 16), volume.reshape(14, 2, 15, 2, 16, 2).mean((1, 3, 5)), atol=1e-6)
    assert shrunk(volume, 32).shape == volume.shape


# MS-SSIM of pairs.


def test_pairs_are_different_and_drawn_by_seed():
    pairs = draw_pairs(9, 20, seed=1)
    assert len(set(pairs)) == 20
    assert all(0 <= i < j < 9 for i, j in pairs)
    assert pairs == draw_pairs(9, 20, seed=1) != draw_pairs(9, 20, seed=2)
    assert draw_pairs(4, 20, 0) == [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


def test_the_mean_over_pairs_is_that_of_each_pair(real):
    found = pair_similarity(real, count=5, seed=2)
    by_hand = [similarity(real.read(i), real.read(j), 4) for i, j in draw_pairs(12, 5, 2)]
    assert (found.mean, found.std) == pytest.approx((np.mean(by_hand), np.std(by_hand, ddof=1)))
    assert (found.pairs, found.possible, found.scales) == (5, 66, 4)


def test_a_set_of_one_brain_has_no_diversity(real):
    same = VolumeSet.of("collapsed", {str(i): np.clip(field(0) + 0.001 * i, 0, 1) for i in range(3)})
    assert pair_similarity(same).mean > 98 > 90 > pair_similarity(real, 5).mean


def test_scales_are_those_that_fit():
    assert [scales_for((128, 128, side)) for side in (56, 55, 28, 27, 14, 13, 7)] == [5, 4, 4, 3, 3, 2, 2]
    with pytest.raises(InputError, match="at least 7"):
        scales_for((6, 40, 40))
    volume = np.random.default_rng(0).random((7, 56, 56)).astype(np.float32)
    for side in (7, 14, 28):  # what is said to fit does
        cube = np.resize(volume, (side, 28, 28))
        assert similarity(cube, cube, scales_for(cube.shape)) == pytest.approx(100, abs=1e-3)


# MMD.


def test_the_linear_mmd_is_the_distance_of_the_means():
    rng = np.random.default_rng(0)
    x, y = rng.random((7, 5)), rng.random((9, 5)) + 0.3
    apart = ((x.mean(0) - y.mean(0)) ** 2).sum()
    found = mmd_squared(x, y, linear_kernel)
    assert found.biased == pytest.approx(apart)
    # The unbiased one lacks what the means' own variances add.
    assert found.unbiased == pytest.approx(apart - x.var(0, ddof=1).sum() / 7 - y.var(0, ddof=1).sum() / 9)


def test_the_linear_mmd_of_volumes_one_at_a_time_is_that_of_all_at_once(real):
    other = fields("other", range(20, 25), blur=1.0)
    found = linear_mmd_squared(VoxelSums.of(real), VoxelSums.of(other))
    expected = mmd_squared(*(np.stack([v.ravel() for v in one]) for one in (real, other)), linear_kernel)
    assert (found.unbiased, found.biased) == pytest.approx((expected.unbiased, expected.biased), rel=1e-9)


def test_the_unbiased_mmd_of_gaussians_has_the_closed_form_as_its_mean():
    # For N(0, s²I) and N(m, s²I) in D dimensions and bandwidth b: 2·c·(1 − exp(−|m|² / (2(b² + 2s²)))),
    # c = (b² / (b² + 2s²))^(D/2).
    rng, s, b, shift, dims = np.random.default_rng(0), 0.8, 1.5, np.array([1.0, 0.5, 0.0]), 3
    c = (b**2 / (b**2 + 2 * s**2)) ** (dims / 2)
    expected = 2 * c * (1 - np.exp(-(shift @ shift) / (2 * (b**2 + 2 * s**2))))
    draws = [
        mmd_squared(s * rng.standard_normal((20, 3)), shift + s * rng.standard_normal((30, 3)), gaussian_kernel(b))
        for _ in range(400)
    ]
    unbiased, biased = (np.array([getattr(one, name) for one in draws]) for name in ("unbiased", "biased"))
    assert unbiased.mean() == pytest.approx(expected, abs=4 * unbiased.std() / 20)
    assert biased.mean() > expected + 4 * biased.std() / 20
    assert biased.min() >= 0


def test_the_bandwidth_is_the_median_distance():
    assert median_distance(np.array([[0.0], [1.0], [3.0]])) == 2
    with pytest.raises(InputError, match="mostly equal"):
        median_distance(np.zeros((3, 2)))
    with pytest.raises(InputError, match="two of each"):
        mmd_squared(np.zeros((1, 2)), np.zeros((3, 2)), linear_kernel)


# Fréchet distance.


@pytest.mark.parametrize(("n", "m", "features"), [(40, 50, 6), (5, 8, 6), (40, 4, 6)])
def test_the_frechet_distance_is_that_of_means_and_covariances(n, m, features):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, features)) @ rng.standard_normal((features, features))
    y = rng.standard_normal((m, features)) + 0.5
    (mean_x, cov_x), (mean_y, cov_y) = ((one.mean(0), np.cov(one.T)) for one in (x, y))
    # A second way: (C_x·C_y)^½ has the trace of (C_x^½·C_y·C_x^½)^½, which is symmetric.
    root = _root(cov_x)
    shared = np.trace(_root(root @ cov_y @ root))
    expected = ((mean_x - mean_y) ** 2).sum() + np.trace(cov_x) + np.trace(cov_y) - 2 * shared
    assert frechet_distance(x, y) == pytest.approx(expected, rel=1e-6)
    if min(n, m) > features:
        product = np.trace(linalg.sqrtm(cov_x @ cov_y)).real
        assert shared == pytest.approx(product, rel=1e-6)


def _root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T


def test_the_frechet_distance_of_independent_gaussians_is_the_closed_form():
    # Samples with exactly these means and deviations: Σ (m − m')² + (s − s')².
    base = np.random.default_rng(0).standard_normal((50, 3))
    base = linalg.orth(base - base.mean(0)) * np.sqrt(49)
    means, scales = np.array([[0, 1, 2], [0.5, 1, -1]]), np.array([[1, 2, 0.5], [2, 2, 0]])
    x, y = (mean + scale * base for mean, scale in zip(means, scales, strict=True))
    assert frechet_distance(x, y) == pytest.approx((np.diff(means, axis=0) ** 2 + np.diff(scales, axis=0) ** 2).sum())
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)


# Features without weights.


def test_the_pyramid_sees_edges_where_they_are_and_in_their_units():
    ramp = np.tile(
        np.linspace(0, 1, 33)[None, :32].astype(np.float32), (32, 1)
    )  # one in 32 a voxel, along the second side
    features = DERIVATIVE_PYRAMID.of(ramp[None])[0]
    assert features.shape == (96,)
    np.testing.assert_allclose(
        features[:16].reshape(4, 4), np.tile(100 * np.array([3.5, 11.5, 19.5, 27.5]) / 32, (4, 1))
    )
    derivatives = features[16:36].reshape(5, 2, 2)
    assert derivatives[0] == pytest.approx(0, abs=1e-5)  # across the ramp
    # 100 / 32 inside, half of it at the outermost of sixteen voxels.
    assert derivatives[1] == pytest.approx(100 / 32 * 15.5 / 16, rel=1e-4)
    assert derivatives[4] == pytest.approx(0, abs=1e-5)


def test_the_pyramid_tells_blur_noise_and_place(real):
    image = central_slices(real.read(0))["axial"]
    noisy = image + 0.05 * np.random.default_rng(0).standard_normal(image.shape)
    plain, blurred, rough, turned = (
        DERIVATIVE_PYRAMID.of(one[None])[0] for one in (image, ndimage.gaussian_filter(image, 1), noisy, image[::-1])
    )
    finest = slice(16, 36)
    assert blurred[finest].mean() < 0.8 * plain[finest].mean() < 0.8 * rough[finest].mean()
    assert np.abs(turned - plain).max() > 1
    np.testing.assert_allclose(turned[:16].reshape(4, 4), plain[:16].reshape(4, 4)[::-1], atol=1e-4)


def test_extractors_are_named_and_check_what_they_get(tmp_path):
    assert find_extractor() is DERIVATIVE_PYRAMID
    assert derivative_pyramid.__name__.replace("_", "-") in DERIVATIVE_PYRAMID.name
    with pytest.raises(InputError, match="choose from derivative-pyramid-1, inception-v3"):
        find_extractor("resnet")
    with pytest.raises(InputError, match="takes no weights"):
        find_extractor("derivative-pyramid-1", tmp_path)
    with pytest.raises(InputError, match="needs a weights file"):
        find_extractor("inception-v3")
    with pytest.raises(InputError, match=r"15×20 voxels.*at least 16"):
        DERIVATIVE_PYRAMID.of(np.zeros((1, 15, 20)))


def test_the_central_slices_are_the_views():
    volume = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    slices = central_slices(volume)
    np.testing.assert_array_equal(slices["axial"], volume[:, :, 3])
    np.testing.assert_array_equal(slices["coronal"], volume[:, 2])
    np.testing.assert_array_equal(slices["sagittal"], volume[2])


# All together.


@pytest.fixture(scope="module")
def rows(real):
    alike = fields("alike", range(100, 112))
    blurred = fields("blurred", range(200, 212), blur=2.5)
    collapsed = VolumeSet.of("collapsed", {str(i): field(300) for i in range(12)})
    return measure_sets([alike, blurred, collapsed], real, pairs=6)


def figures(row):
    return {figure.column: figure.value for figure in row.figures}


def test_a_set_like_the_real_one_is_nearest_by_every_distance(rows):
    assert [row.label for row in rows] == ["real", "alike", "blurred", "collapsed"]
    _, alike, blurred, collapsed = (figures(row) for row in rows)
    distances = [name for name in alike if name.startswith(("mmd2_gaussian", "frechet", "ms_ssim_from_real"))]
    assert len(distances) == 6
    for name in distances:
        assert alike[name] < min(blurred[name], collapsed[name]), name
    assert collapsed["ms_ssim_4_scales_percent"] == pytest.approx(100, abs=1e-3)
    assert abs(alike["mmd2_gaussian_32_unbiased"]) < 0.02 < alike["mmd2_gaussian_32_biased"]


def test_tables_name_the_extractor_and_the_rule(rows, tmp_path):
    write_set_measures(rows, tmp_path)
    with (tmp_path / "sets.csv").open(encoding="utf-8") as file:
        records = list(csv.DictReader(file))
    assert "frechet_axial_derivative-pyramid-1" in records[0]
    assert not any(name.startswith("fid") for name in records[0])
    assert records[0]["frechet_axial_derivative-pyramid-1"] == ""
    assert float(records[2]["ms_ssim_4_scales_percent"]) == figures(rows[2])["ms_ssim_4_scales_percent"]
    assert records[1]["pairs"] == "6"
    content = json.loads((tmp_path / "sets.json").read_text(encoding="utf-8"))
    assert any("12 images for 96 features" in note for note in content[1]["notes"])
    text = (tmp_path / "sets.md").read_text(encoding="utf-8")
    assert "Fréchet-C (derivative-pyramid-1)" in text
    assert "MS-SSIM (%; 4 scales, window 7) of pairs" in text
    assert "6 of 66" in text
    assert "room for 4 scales of MS-SSIM; protocol cdpm has 5" in text


def test_sets_that_cannot_be_told_apart_in_a_table_are_refused(real):
    with pytest.raises(InputError, match="a label of its own"):
        measure_sets([fields("real", range(3))], real)
    with pytest.raises(InputError, match="single volume"):
        measure_sets([fields("one", [5])], real)
