"""What a scan shows: another contrast, another person, too much or too little of the head."""

from pathlib import Path
from typing import Any

import numpy as np

from .checks import follows
from .heads import AFFINE, PEOPLE, SHAPE, Head, bids, bids_path, head, nifti, voxels, write
from .registry import kind, named, refused, right


def _put(folder: Path, array: np.ndarray, number: int = 2, contrast: str = "T1w", dtype: Any = np.int16) -> None:
    write(bids_path(folder, number, contrast), nifti(array, dtype=dtype))


@kind("phase", refused("background-inside|looks-like-ct|signed", "sub-02"))
def phase(folder: Path) -> None:
    """Only the phase image was exported, and it got the magnitude's name.

    Found: https://github.com/rordenlab/dcm2niix/issues/709
    """
    bids(folder)
    x, y, z = np.indices(SHAPE)
    smooth = np.where(head(2, "T1w").mask, 90 * x + 60 * y - 40 * z, 0)
    noise = np.where(head(2, "T1w").mask, 0, np.random.default_rng(0).integers(0, 8192, SHAPE))
    _put(folder, (smooth + noise) % 8192 - 4096)


@kind("inverted", refused("background-inside|almost-empty|unlike-others", "sub-02"))
def inverted(folder: Path) -> None:
    """A failed normalisation turned bright into dark in one scan, which then spoilt the mean of all.

    Found: https://github.com/Mouse-Imaging-Centre/pydpiper/issues/312
    """
    bids(folder)
    _put(folder, 1200 - voxels(2, "T1w"))


@kind("flair-called-t1w", named("looks-like-another|little-in-common|unlike-others", "sub-02"))
def flair_called_t1w(folder: Path) -> None:
    """One T1w shows another contrast: an image like a FLAIR came under its name.

    Found: https://github.com/nipreps/fmriprep/issues/853
    """
    bids(folder)
    _put(folder, voxels(2, "FLAIR"))


@kind("contrasts-swapped", named("looks-like-another|little-in-common|unlike-others", "sub-02"))
def contrasts_swapped(folder: Path) -> None:
    """One subject's T1w and T2w have each other's name."""
    bids(folder)
    _put(folder, voxels(2, "T2w"), 2, "T1w")
    _put(folder, voxels(2, "T1w"), 2, "T2w")


@kind("one-head-twice", refused("same-voxels", "sub-01", "sub-06"))
def one_head_twice(folder: Path) -> None:
    """One scan stands under two people's names, one who trains and one who tests; the files differ, the voxels do not.

    Found: https://github.com/ivadomed/ivadomed/issues/65
    """
    bids(folder)
    _put(folder, voxels(1, "T1w"), 6, "T1w", np.float32)


@kind("t2w-is-t1w", refused("same-voxels", "sub-02"))
def t2w_is_t1w(folder: Path) -> None:
    """One subject's T2w is a copy of the T1w."""
    bids(folder)
    _put(folder, voxels(2, "T1w"), 2, "T2w")


@kind("stripped-among-heads", named("skull-differs", "sub-02"))
def stripped_among_heads(folder: Path) -> None:
    """In a cohort of whole heads one was stripped before.

    Found: https://github.com/nipreps/smriprep/issues/12
    """
    bids(folder, skull=True)
    _put(folder, voxels(2, "T1w"))
    _put(folder, voxels(2, "T2w"), 2, "T2w")


@kind("head-among-stripped", named("skull-differs", "sub-02"))
def head_among_stripped(folder: Path) -> None:
    """In a cohort of stripped brains one has its skull."""
    bids(folder)
    _put(folder, voxels(2, "T1w", skull=True))
    _put(folder, voxels(2, "T2w", skull=True), 2, "T2w")


@kind("tissue-of-heads", refused("skull"), options={"tissue": True})
def tissue_of_heads(folder: Path) -> None:
    """Tissue is asked for of heads with skull: scalp would be called white matter."""
    bids(folder, skull=True)


def _defaced() -> Head:
    whole = head(2, "T1w", True)
    array = whole.array.copy()
    array[:, 27:, :7] = 0
    return Head(array, whole.mask)


@kind("defaced", right(follows(2, truth=_defaced())))
def defaced(folder: Path) -> None:
    """The face was set to 0, which makes a part of the noisy air exact zeros; the brain is whole.

    Found: https://github.com/nipreps/mriqc/issues/1182
    """
    bids(folder, skull=True)
    _put(folder, _defaced().array)


@kind("brain-erased", named("bites|holes|unlike-others", "sub-02"))
def brain_erased(folder: Path) -> None:
    """Defacing took a slab of the brain away in one scan.

    Found: https://github.com/spine-generic/data-multi-subject/issues/115
    """
    bids(folder)
    array = voxels(2, "T1w")
    array[:, 17:, :14] = 0
    _put(folder, array)


@kind("holes", named("holes", "sub-02"))
def holes(folder: Path) -> None:
    """The brain mask had holes: exact zeros in the middle of the brain, in one contrast."""
    bids(folder)
    array = voxels(2, "T1w")
    for corner in ((9, 12, 8), (14, 10, 11), (10, 18, 9)):
        array[tuple(slice(at, at + 2) for at in corner)] = 0
    _put(folder, array)


def _fine(number: int, contrast: str) -> np.ndarray:
    """The stripped head in voxels of half the size: where contrasts lie can be told from many voxels only."""
    array = voxels(number, contrast)
    for axis in range(3):
        array = np.repeat(array, 2, axis)
    noise = np.random.default_rng([number, len(contrast)]).normal(0, 8, array.shape)
    return np.rint(np.maximum(array + noise, 1)) * (array > 0)


@kind("shifted", named("shifted", "sub-02"))
def shifted(folder: Path) -> None:
    """One T2w lies two voxels beside the T1w though both headers say one place."""
    bids(folder)
    affine = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    for number in range(1, PEOPLE + 1):
        for contrast in ("T1w", "T2w"):
            array = _fine(number, contrast)
            if (number, contrast) == (2, "T2w"):
                array = np.roll(array, 2, axis=0)
            write(bids_path(folder, number, contrast), nifti(array, affine))
