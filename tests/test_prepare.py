"""Preparing and undoing: exact without resampling, in place with it."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from scansynth.cli import main
from scansynth.data.intensity import NORMALISATIONS, ContrastStatistics
from scansynth.data.prepare import RECIPES as PREPARATIONS
from scansynth.data.prepare import Preparation, Undo, find_preparation, grid_for, prepare, to_grid, to_source
from scansynth.data.volume import Volume
from scansynth.errors import InputError

NONE = (None, None, None)
SAME = ContrastStatistics(
    scale_cohort=1, offset_cohort=0, typical_scale=1, typical_offset=0, background=0, unit="arbitrary", scans=1
)
"""Intensities as they are."""


def volume(array, spacing=(1.0, 1.0, 1.0), origin=(-20.0, 5.0, 3.0), rotation=0.0):
    cos, sin = np.cos(rotation), np.sin(rotation)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ np.diag(spacing)
    affine[:3, 3] = origin
    ornt = np.array([[0, 1], [1, 1], [2, 1]])
    return Volume(
        array=np.asarray(array, np.float32),
        affine=affine,
        native_affine=affine,
        native_orientation=ornt,
        header=nib.Nifti1Header(),
        path=None,
    )


def blob(shape, centre, width, spacing=(1.0, 1.0, 1.0)):
    """A smooth blob; centre and width in voxels of 1 mm."""
    axes = np.meshgrid(*[np.arange(n) * mm for n, mm in zip(shape, spacing, strict=True)], indexing="ij")
    return 1000 * np.exp(-sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)) / (2 * width**2))


def centroid_mm(array, affine):
    total = array.astype(np.float64)
    voxel = [(total * index).sum() / total.sum() for index in np.indices(array.shape)]
    return (affine @ [*voxel, 1])[:3]


@pytest.mark.parametrize("shape", [(11, 8, 5), (10, 9, 6), (16, 17, 4)])
@pytest.mark.parametrize("size", [(16, 16, None), (17, 15, 9), (32, 31, 1), NONE])
def test_undo_of_padding_is_exact(shape, size):
    rng = np.random.default_rng(0)
    scan = volume(rng.uniform(1, 1000, shape))
    grid = grid_for({"T1w": scan}, Preparation(size=size))
    prepared = to_grid(scan.array, grid, 0)
    assert prepared.shape == tuple(want or have for want, have in zip(size, shape, strict=True))
    back = to_source(prepared, grid, -1)
    kept = back != -1
    np.testing.assert_array_equal(back[kept], scan.array[kept])
    assert kept.sum() == np.prod([min(a, b) for a, b in zip(prepared.shape, shape, strict=True)])


def test_crop_keeps_the_foreground_and_undo_fills_the_rest():
    array = np.zeros((30, 30, 4))
    array[18:26, 3:11, 1:3] = np.random.default_rng(1).uniform(50, 100, (8, 8, 2))
    scan = volume(array)
    grid = grid_for({"T1w": scan}, Preparation(size=(10, 8, None)))
    assert grid.start == (17, 3, 0)
    image = to_grid(scan.array, grid, 0)
    np.testing.assert_array_equal(image[1:9], scan.array[18:26, 3:11])
    np.testing.assert_array_equal(Undo(grid)(image, SAME), scan.array)


def test_grid_holds_the_union_of_the_foregrounds():
    a, b = np.zeros((2, 20, 20, 3))
    a[2:6, 2:6], b[14:18, 10:14] = 100, 100
    grid = grid_for({"T1w": volume(a), "T2w": volume(b)}, Preparation(size=(16, 12, None)))
    assert grid.start == (2, 2, 0)


def test_scans_on_different_grids_are_refused():
    array = np.random.default_rng(0).uniform(1, 2, (8, 8, 4))
    with pytest.raises(InputError, match="different grids"):
        grid_for({"T1w": volume(array), "T2w": volume(array, origin=(0, 0, 0))}, Preparation())


@pytest.mark.parametrize("spacing", [(2, 2, None), (1.3, 2.7, 1.9), (0.6, 0.8, 2.0), (3.0, 0.5, None)])
@pytest.mark.parametrize("size", [NONE, (40, 40, 40), (37, 41, None)])
def test_resampling_keeps_places_in_mm(spacing, size):
    acquired = (0.9, 1.0, 1.2)
    scan = volume(blob((36, 33, 30), (14.3, 18.2, 17.1), 3.0, acquired), acquired, rotation=0.3)
    grid = grid_for({"T1w": scan}, Preparation(spacing, size))
    want = [new or old for new, old in zip(spacing, acquired, strict=True)]
    np.testing.assert_allclose(np.linalg.norm(grid.affine[:3, :3], axis=0), want)
    prepared = to_grid(scan.array, grid, 0)
    np.testing.assert_allclose(centroid_mm(prepared, grid.affine), centroid_mm(scan.array, scan.affine), atol=0.02)
    back = to_source(prepared, grid, 0)
    np.testing.assert_allclose(centroid_mm(back, scan.affine), centroid_mm(scan.array, scan.affine), atol=0.04)


def test_a_ramp_keeps_its_values():
    """Linear interpolation and symmetric smoothing leave a straight line as it is: value = mm, on both grids."""
    x = np.arange(40) * 0.9
    scan = volume(np.broadcast_to(x[:, None, None] + 10, (40, 6, 4)), (0.9, 1.0, 1.0), origin=(0, 0, 0))
    grid = grid_for({"T1w": scan}, Preparation((2.0, None, None), NONE))
    prepared = to_grid(scan.array, grid, 0)
    middle = slice(3, -3)
    mm = (grid.affine @ np.stack([np.arange(len(prepared)), *np.zeros((2, len(prepared))), np.ones(len(prepared))]))[0]
    np.testing.assert_allclose(prepared[middle, 2, 2], mm[middle] + 10, rtol=1e-5)
    np.testing.assert_allclose(to_source(prepared, grid, 0)[8:-8, 2, 2], x[8:-8] + 10, rtol=1e-5)


def test_shrinking_does_not_alias():
    """A pattern finer than the new voxels must fade, a coarse one must stay."""
    i = np.arange(64)
    fine, coarse = 100 + 50 * np.cos(np.pi * i * 0.9), 100 + 50 * np.cos(2 * np.pi * i / 32)
    for wave, low, high in ((fine, 0, 10), (coarse, 45, 51)):
        scan = volume(np.broadcast_to(wave[:, None, None], (64, 4, 4)))
        grid = grid_for({"T1w": scan}, Preparation((4.0, None, None), NONE))
        middle = to_grid(scan.array, grid, 0)[2:-2, 2, 2]
        assert low <= np.abs(middle - 100).max() <= high


def test_round_trip_of_a_smooth_image_loses_little():
    """Nearly as good as the means of blocks of 2 x 2 voxels, put back linearly."""
    array = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(40, 40, 6)), (3, 3, 0)) * 100 + 100
    scan = volume(array)
    grid = grid_for({"T1w": scan}, Preparation((2.0, 2.0, None), NONE))
    back = to_source(to_grid(scan.array, grid, 0), grid, 0)
    pooled = scan.array.reshape(20, 2, 20, 2, 6).mean(axis=(1, 3))
    blocks = to_source(pooled, grid, 0)
    inner = (slice(4, -4), slice(4, -4))
    error, error_blocks = (np.abs(result - scan.array)[inner].mean() for result in (back, blocks))
    assert error < 1.25 * error_blocks
    np.testing.assert_allclose(to_grid(scan.array, grid, 0)[2:-2, 2:-2], pooled[2:-2, 2:-2], atol=2)


def test_resampled_axes_leave_the_kept_axis_alone():
    """Slices stay slices: an image constant in plane comes back exactly, slice by slice."""
    levels = np.random.default_rng(0).uniform(10, 20, 7).astype(np.float32)
    scan = volume(np.broadcast_to(levels, (16, 16, 7)))
    grid = grid_for({"T1w": scan}, Preparation((2.0, 2.0, None), NONE))
    np.testing.assert_allclose(to_grid(scan.array, grid, 0), np.broadcast_to(levels, (8, 8, 7)), rtol=1e-6)


def test_a_spacing_equal_to_the_acquired_one_is_no_resampling():
    scan = volume(np.random.default_rng(0).uniform(1, 2, (12, 13, 5)), (0.9375, 0.9375, 1.2))
    grid = grid_for({"T1w": scan}, Preparation((0.9375001, 0.9375, 1.2), (16, 16, None)))
    np.testing.assert_array_equal(to_source(to_grid(scan.array, grid, 0), grid, 0), scan.array)


def test_masks_keep_their_labels():
    labels = np.random.default_rng(0).integers(0, 4, (20, 20, 6)).astype(np.uint8)
    grid = grid_for({"T1w": volume(labels + 1)}, Preparation((1.7, 2.3, None), (16, 16, None)))
    assert set(np.unique(to_grid(labels, grid, 0, order=0))) <= {0, 1, 2, 3}


def test_prepare_and_undo_whole():
    rng = np.random.default_rng(0)
    array = np.zeros((20, 22, 5))
    array[4:15, 5:18] = rng.uniform(100, 300, (11, 13, 5))
    scan = volume(array)
    statistics = ContrastStatistics(
        scale_cohort=1.5,
        offset_cohort=0,
        typical_scale=float(array[array > 0].mean()),
        typical_offset=0,
        background=0,
        unit="arbitrary",
        scans=1,
    )
    grid = grid_for({"T1w": scan}, Preparation(size=(16, 24, None)))
    image, undo = prepare(scan, grid, "T1w", "syndiff", statistics)
    assert image.dtype == np.float32
    assert image.shape == (16, 24, 5)
    back = undo(image, statistics)
    assert back.dtype == np.float32
    np.testing.assert_allclose(back, scan.array, rtol=1e-6)


def test_the_preparation_of_cg_ddpm():
    settings = find_preparation("cg-ddpm")
    rng = np.random.default_rng(0)
    head = np.pad(rng.uniform(50, 200, (140, 170, 120)).astype(np.float32), 10)
    scan = volume(head)
    grid = grid_for({"T1w": scan}, settings)
    assert grid.shape == (256, 256, 32)
    np.testing.assert_allclose(np.diag(grid.affine)[:3], (1, 1, 6))
    own = NORMALISATIONS["percentile"].own(scan, "T1w")
    box = head[10:-10, 10:-10, 10:-10]
    assert (own.offset, own.offset + own.scale) == pytest.approx(np.percentile(box, (0.5, 99.5)), rel=1e-5)
    with pytest.raises(InputError, match="syndiff, cg-ddpm"):
        find_preparation("ddpm")


@pytest.mark.parametrize("name", PREPARATIONS)
def test_every_papers_preparation_is_in_the_help(name, capsys):
    with pytest.raises(SystemExit):
        main(["prepare", "--help-all"])
    assert name in capsys.readouterr().out.split("--recipe")[1].split("--spacing")[0]


def test_ct_is_padded_with_air():
    scan = volume(np.random.default_rng(0).uniform(-1000, 1500, (8, 8, 4)))
    statistics = ContrastStatistics(
        scale_cohort=1, offset_cohort=0, typical_scale=3000, typical_offset=-1000, background=-1000, unit="HU", scans=1
    )
    grid = grid_for({"CT": scan}, Preparation(size=(12, 6, None), intensity="hu-window"))
    image, undo = prepare(scan, grid, "CT", "hu-window", statistics)
    assert image[0, 0, 0] == 0
    back = undo(image, statistics)
    assert (back[:, 0] == -1000).all()
    np.testing.assert_allclose(back[:, 1:7], scan.array[:, 1:7], atol=1e-3)


@pytest.mark.parametrize(
    "wrong",
    [{"spacing": (0, 1, 1)}, {"size": (0, 4, 4)}, {"intensity": "minmax"}, {"size": (4, 4)}],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(InputError):
        Preparation(**wrong)
