"""Hounsfield units: offsets, padding, metal."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .checks import every, in_hounsfield, uses_range
from .heads import AFFINE, PEOPLE, SHAPE, bids, bids_path, edit, nifti, person, voxels, write
from .registry import kind, named, refused, right

if TYPE_CHECKING:
    from scansynth.data.cohort import Cohort

_X, _Y, _ = np.indices(SHAPE)
_UNSEEN = (_X - 13.5) ** 2 + (_Y - 15.5) ** 2 > 15.6**2
"""Outside the round field of view."""


def _put(folder: Path, number: int, array: np.ndarray, dtype: type = np.int16) -> None:
    write(bids_path(folder, number, "CT"), nifti(array, dtype=dtype))


def _padding_is_air(cohort: "Cohort") -> None:
    """What the scanner did not see looks like the air beside the head."""
    for number in range(1, PEOPLE + 1):
        image = cohort.read(person(number), "CT")
        to_truth = np.linalg.inv(AFFINE) @ cohort.affine(person(number), "CT")
        places = np.rint(np.moveaxis(np.indices(image.shape), 0, -1) @ to_truth[:3, :3].T + to_truth[:3, 3]).astype(int)
        common = np.all((places >= 0) & (places < SHAPE), axis=-1)
        at = tuple(places[common].T)
        air = (voxels(number, "CT")[at] < -950) & ~_UNSEEN[at]
        shown = image[common]
        apart = abs(float(np.median(shown[_UNSEEN[at]]) - np.median(shown[air])))
        assert apart < 0.02, f"{person(number)} CT: padding is {apart:.3f} of the range away from air"


@kind("metal", named("hot-voxel|saturated", "sub-02", check=uses_range("CT", 1, 3)))
def metal(folder: Path) -> None:
    """A few voxels far beyond the scale of HU, of metal or of reconstruction, in one CT.

    Found: https://github.com/OpenGATE/Gate/pull/219
    """
    bids(folder, ("T1w", "CT"))
    array = voxels(2, "CT")
    array[12:14, 20:22, 6] = 30000
    _put(folder, 2, array)


@kind("padding", named("ct-padding", check=_padding_is_air), options={"intensity": "percentile"})
def padding(folder: Path) -> None:
    """What lies outside the round field of view holds −3024, which NIfTI cannot mark as unseen.

    Found: https://github.com/dgobbi/vtk-dicom/issues/173
    """
    bids(folder, ("T1w", "CT"))
    for number in range(1, PEOPLE + 1):
        _put(folder, number, np.where(_UNSEEN, -3024, voxels(number, "CT")))


@kind("padding-in-hounsfield", right(every(_padding_is_air, in_hounsfield(2))), options={"intensity": "hu-window"})
def padding_in_hounsfield(folder: Path) -> None:
    """−2000 outside the field of view, in CT that is kept in HU: it is below air and becomes air."""
    bids(folder, ("CT",))
    for number in range(1, PEOPLE + 1):
        _put(folder, number, np.where(_UNSEEN, -2000, voxels(number, "CT")))


@kind("one-plus-1024", refused("ct-offset", "sub-02"))
def one_plus_1024(folder: Path) -> None:
    """One CT is stored with an offset for unsigned numbers, so that soft tissue is above 1000.

    Found: https://github.com/cerr/CERR/issues/494
    """
    bids(folder, ("T1w", "CT"))
    _put(folder, 2, np.maximum(voxels(2, "CT") + 1024, 0), np.uint16)


@kind("all-plus-1024", refused("ct-offset"), options={"intensity": "hu-window"})
def all_plus_1024(folder: Path) -> None:
    """Every CT of the cohort is 1024 too high: none looks odd beside the others."""
    bids(folder, ("CT",))
    for number in range(1, PEOPLE + 1):
        _put(folder, number, np.maximum(voxels(number, "CT") + 1024, 0), np.uint16)


@kind("zero-to-one", refused("ct", "hu|hounsfield"))
def zero_to_one(folder: Path) -> None:
    """CT comes as numbers from 0 to 1, and nobody says which HU they were.

    Found: https://github.com/MIC-DKFZ/mood/issues/2
    """
    bids(folder, ("T1w", "CT"))
    for number in range(1, PEOPLE + 1):
        _put(folder, number, (np.clip(voxels(number, "CT"), -1000, 1000) + 1000) / 2000, np.float32)


@kind("intercept", right(in_hounsfield(2), quiet=True), options={"intensity": "hu-window"})
def intercept(folder: Path) -> None:
    """HU come from the header's slope and intercept, which readers hide once they have applied them.

    Found: https://github.com/nipy/nibabel/issues/549
    """
    bids(folder, ("CT",))
    _put(folder, 2, voxels(2, "CT") + 1024, np.uint16)
    edit(bids_path(folder, 2, "CT"), scl_slope=1, scl_inter=-1024)
