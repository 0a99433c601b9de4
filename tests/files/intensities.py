"""Intensities of MR scans: extremes, signs, scales, backgrounds, duplicates."""

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from .checks import every, everyone_follows, follows, like_others, uses_range
from .heads import PEOPLE, SHAPE, bids, bids_path, edit, head, nifti, voxels, write
from .registry import kind, named, refused, right


def _put(folder: Path, array: np.ndarray, number: int = 2, contrast: str = "T1w", dtype: Any = np.int16) -> None:
    write(bids_path(folder, number, contrast), nifti(array, dtype=dtype))


@kind("one-hot-voxel", named("hot-voxel", "sub-02", check=uses_range("T1w", 1, 3)))
def one_hot_voxel(folder: Path) -> None:
    """One voxel of 32767 in one training T1w whose tissue ends at 1000 may not set everybody's scale."""
    bids(folder)
    array = voxels(2, "T1w")
    array[12, 14, 10] = 32767
    _put(folder, array)


@kind("hot-voxel-in-test", named("hot-voxel", "sub-06", check=uses_range("T1w", 1, 2)))
def hot_voxel_in_test(folder: Path) -> None:
    """The hot voxel stands in a test scan: its own scale and every figure of range 1 hang on it."""
    bids(folder)
    array = voxels(6, "T1w")
    array[12, 14, 10] = 32767
    _put(folder, array, 6)


@kind("overflown-background", named("hot-voxel|saturated|background-inside|unlike-others", "sub-02"))
def overflown_background(folder: Path) -> None:
    """A converter negated the lowest 16-bit number, which has no counterpart: some air voxels came out near 32767.

    Found: https://github.com/icometrix/dicom2nifti/pull/144
    """
    bids(folder)
    array = voxels(2, "T1w")
    air = np.argwhere(~head(2, "T1w").mask)
    array[tuple(air[:: len(air) // 60].T)] = 32767
    _put(folder, array)


@kind("capped", named("saturated", "sub-02"))
def capped(folder: Path) -> None:
    """Values above 4095 were cut to 4095 in the conversion, so that a part of the head is one flat value.

    Found: https://github.com/rordenlab/dcm2niix/issues/343
    """
    bids(folder)
    _put(folder, np.minimum(voxels(2, "T1w") * 7, 4095))


@kind("minus-one-to-one", named("signed", check=everyone_follows("T1w", "T2w")))
def minus_one_to_one(folder: Path) -> None:
    """All scans were brought to [−1, 1] before: what is below 0 is tissue and may not be cut to 0."""
    bids(folder)
    for number in range(1, PEOPLE + 1):
        for contrast in ("T1w", "T2w"):
            array = voxels(number, contrast)
            _put(folder, array / array.max() * 2 - 1, number, contrast, np.float32)


@kind("z-scored", refused("background-inside"))
def z_scored(folder: Path) -> None:
    """All scans are z-scored over the brain with 0 around it: the background is a value of tissue, too."""
    bids(folder)
    for number in range(1, PEOPLE + 1):
        for contrast in ("T1w", "T2w"):
            array, mask = voxels(number, contrast), head(number, contrast).mask
            array = np.where(mask, (array - array[mask].mean()) / array[mask].std(), 0)
            _put(folder, array, number, contrast, np.float32)


@kind("one-z-scored", named("signed|unlike-others", "sub-02"))
def one_z_scored(folder: Path) -> None:
    """One scan of the cohort was z-scored, the others are as acquired."""
    bids(folder)
    array = voxels(2, "T1w")
    _put(folder, (array - array.mean()) / array.std(), dtype=np.float32)


@kind("other-scale", right(every(follows(2), like_others(2, "T1w"))))
def other_scale(folder: Path) -> None:
    """Scanners differ widely in scale: one scan is twenty times as bright as the others, which means nothing in MR.

    Found: https://github.com/icon-lab/pGAN-cGAN/issues/5
    """
    bids(folder)
    _put(folder, voxels(2, "T1w") * 20)


@kind("spline-overshoot", right(follows(2, least=0.99)))
def spline_overshoot(folder: Path) -> None:
    """Resampling with a spline left a rim of small negative values around a scan that was not negative.

    Found: https://github.com/ANTsX/ANTs/issues/164
    """
    bids(folder)
    array, mask = voxels(2, "T1w"), head(2, "T1w").mask
    rim = ~mask & (np.roll(mask, 1, 0) | np.roll(mask, -1, 0))
    array[rim] = -25
    _put(folder, array)


@kind("minus-one-background", right(every(follows(2), like_others(2, "T1w"))))
def minus_one_background(folder: Path) -> None:
    """The air around one stripped scan was filled with −1 in place of 0."""
    bids(folder)
    _put(folder, np.where(head(2, "T1w").mask, voxels(2, "T1w"), -1))


@kind("one-voxel-left", refused("sub-02", "almost-empty"))
def one_voxel_left(folder: Path) -> None:
    """Masking went wrong: a single voxel is not 0, and still the file is not constant."""
    bids(folder)
    array = np.zeros(SHAPE)
    array[12, 14, 10] = 700
    _put(folder, array)


@kind("nearly-blank", refused("sub-02", "almost-empty"))
def nearly_blank(folder: Path) -> None:
    """A download came out with all voxels 0 but for a few small negative numbers.

    Found: https://github.com/neheller/kits21/issues/51
    """
    bids(folder)
    array = np.zeros(SHAPE)
    array[::6, ::7, ::5] = -2
    _put(folder, array)


@kind("blank", refused("sub-02_T1w", "constant|empty"))
def blank(folder: Path) -> None:
    """All voxels are 0, so that bringing minimum and maximum to 0 and 1 divides by zero.

    Found: https://github.com/albumentations-team/albumentations/issues/1742
    """
    bids(folder)
    _put(folder, np.zeros(SHAPE))


@kind("constant", refused("sub-02_T1w", "constant"))
def constant(folder: Path) -> None:
    """All voxels are one number that is not 0."""
    bids(folder)
    _put(folder, np.full(SHAPE, 1000))


@kind("nan-everywhere", refused("sub-02_T1w", "nan"))
def nan_everywhere(folder: Path) -> None:
    """The whole volume reads as NaN.

    Found: https://github.com/nipy/nibabel/issues/99
    """
    bids(folder)
    _put(folder, np.full(SHAPE, np.nan), dtype=np.float32)


@kind("nan-around", refused("sub-02_T1w", "nan"))
def nan_around(folder: Path) -> None:
    """NaN stands outside the head, as some resampling tools write where they have no data."""
    bids(folder)
    _put(folder, np.where(head(2, "T1w").mask, voxels(2, "T1w"), np.nan), dtype=np.float32)


@kind("infinite", refused("sub-02_T1w", "infinite"))
def infinite(folder: Path) -> None:
    """One voxel was divided by zero."""
    bids(folder)
    array = voxels(2, "T1w")
    array[12, 14, 10] = np.inf
    _put(folder, array, dtype=np.float32)


@kind("slope-zero", right(follows(2)))
def slope_zero(folder: Path) -> None:
    """`scl_slope` is 0, which by the standard means no scaling: a reader that multiplies gets nothing but zeros.

    Found: https://github.com/layerfMRI/LAYNII/issues/88
    """
    bids(folder)
    edit(bids_path(folder, 2), scl_slope=0, scl_inter=0)


@kind("slope-nan", right(follows(2)))
def slope_nan(folder: Path) -> None:
    """`scl_slope` and `scl_inter` are NaN: other tools then empty the image.

    Found: https://github.com/nipreps/fmriprep/issues/2507
    """
    bids(folder)
    edit(bids_path(folder, 2), scl_slope=np.nan, scl_inter=np.nan)


@kind("slope-and-intercept", right(every(follows(2), like_others(2, "T1w"))))
def slope_and_intercept(folder: Path) -> None:
    """Stored integers mean something only with the header's slope and intercept, which someone overlooked.

    Found: https://github.com/pyushkevich/itksnap/issues/94
    """
    bids(folder)
    _put(folder, (voxels(2, "T1w") + 500) * 4)
    edit(bids_path(folder, 2), scl_slope=0.25, scl_inter=-500)


@kind("huge-values", right(every(follows(2), like_others(2, "T1w"))))
def huge_values(folder: Path) -> None:
    """float64 with values around 1e15."""
    bids(folder)
    _put(folder, voxels(2, "T1w") * 1e12, dtype=np.float64)


@kind("beyond-float32", refused("sub-02_T1w", "infinite|large"))
def beyond_float32(folder: Path) -> None:
    """float64 with values that float32 does not hold."""
    bids(folder)
    _put(folder, voxels(2, "T1w").astype(float) * 1e38, dtype=np.float64)


@kind("tiny-values", right(every(follows(2), like_others(2, "T1w"))))
def tiny_values(folder: Path) -> None:
    """float32 with values around 1e-6: a tool worked in units of its own."""
    bids(folder)
    _put(folder, voxels(2, "T1w") * 1e-9, dtype=np.float32)


@kind("big-endian", right(follows(2)))
def big_endian(folder: Path) -> None:
    """Header and voxels are big-endian, and resampling such an array as it stood gave noise.

    Found: https://github.com/nilearn/nilearn/issues/275
    """
    bids(folder)
    header = nib.Nifti1Header.from_header(nib.Nifti1Image.from_bytes(nifti(voxels(2, "T1w"))).header)
    swapped = nib.Nifti1Image(voxels(2, "T1w").astype(">i2"), None, header.as_byteswapped(">"))
    write(bids_path(folder, 2), swapped.to_bytes())


@kind("complex", refused("sub-02_T1w", "complex"))
def complex_voxels(folder: Path) -> None:
    """Voxels are complex numbers, and a reader that asks for floats loses the imaginary part.

    Found: https://github.com/nipy/nibabel/issues/975
    """
    bids(folder)
    _put(folder, voxels(2, "T1w") * np.exp(0.5j), dtype=np.complex64)


@kind("colours", refused("sub-02_T1w", "colour|color|rgb"))
def colours(folder: Path) -> None:
    """A scanner's colour map was converted as a scan: voxels are red, green and blue.

    Found: https://github.com/icometrix/dicom2nifti/issues/5
    """
    bids(folder)
    rgb = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    for name in "RGB":
        rgb[name] = voxels(2, "T1w") / 8
    _put(folder, rgb, dtype=rgb.dtype)


@kind("noisy-air", named("background-inside|unlike-others", "sub-02", check=follows(2)))
def noisy_air(folder: Path) -> None:
    """The ratio image of an MP2RAGE has noise as bright as the brain all around the head.

    Found: https://github.com/nipreps/smriprep/issues/18
    """
    bids(folder)
    noise = np.random.default_rng(0).uniform(0, 1000, SHAPE)
    _put(folder, np.where(head(2, "T1w").mask, voxels(2, "T1w"), noise))
