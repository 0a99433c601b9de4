"""Where a voxel is: orders of axes, and two forms that may disagree."""

from pathlib import Path

import nibabel as nib
import numpy as np

from .checks import every, everyone_follows, follows
from .heads import AFFINE, SPACING, bids, bids_path, edit, nifti, voxels, write
from .registry import kind, named, refused, right


def _turned(array: np.ndarray, axes: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """The same scan with its axes in another order and direction (nibabel's orientations), and its affine."""
    image = nib.Nifti1Image.from_bytes(nifti(array)).as_reoriented(axes)
    return np.asanyarray(image.dataobj), np.asarray(image.affine)


def _rotated(degrees: float) -> np.ndarray:
    """The usual affine, turned about the axis from foot to head."""
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ AFFINE


def _sform(affine: np.ndarray) -> dict[str, np.ndarray]:
    return {f"srow_{axis}": row for axis, row in zip("xyz", affine, strict=False)}


@kind("left-first", right(everyone_follows("T1w", "T2w"), quiet=True))
def left_first(folder: Path) -> None:
    """Voxels are stored from right to left, with an affine that says so.

    Found: https://github.com/nipy/nibabel/issues/522
    """
    bids(folder)
    write(bids_path(folder, 2), nifti(*_turned(voxels(2, "T1w"), [[0, -1], [1, 1], [2, 1]])))


@kind("head-first", right(everyone_follows("T1w", "T2w"), quiet=True))
def head_first(folder: Path) -> None:
    """The axis from foot to head is stored first, so that a viewer of raw arrays shows a turned image.

    Found: https://github.com/neheller/kits19/issues/9
    """
    bids(folder)
    write(bids_path(folder, 2), nifti(*_turned(voxels(2, "T1w"), [[2, -1], [1, -1], [0, 1]])))


@kind("sform-only", right(follows(2), quiet=True))
def sform_only(folder: Path) -> None:
    """The qform's code is 0 and what stands in it differs: it does not count.

    Found: https://github.com/simnibs/simnibs/issues/110
    """
    bids(folder)
    edit(bids_path(folder, 2), qform_code=0, quatern_b=0.5, quatern_c=0.5, qoffset_x=0)


@kind("qform-only", right(follows(2), quiet=True))
def qform_only(folder: Path) -> None:
    """The sform's code and its rows are 0, as one family of tools writes it: the qform counts.

    Found: https://github.com/PennLINC/qsiprep/issues/125
    """
    bids(folder)
    edit(bids_path(folder, 2), sform_code=0, **_sform(np.zeros((3, 4))))


@kind("sform-of-zeros", refused("sub-02_T1w", "sform|affine"))
def sform_of_zeros(folder: Path) -> None:
    """The sform is marked as valid and holds nothing but zeros, beside a qform that is right.

    Found: https://github.com/nipy/nibabel/issues/624
    """
    bids(folder)
    edit(bids_path(folder, 2), **_sform(np.zeros((3, 4))))


@kind("forms-of-two-sizes", refused("forms-sizes", "sub-02"))
def forms_of_two_sizes(folder: Path) -> None:
    """Both forms are valid, and the qform's voxels are twice as large."""
    bids(folder)
    edit(bids_path(folder, 2), pixdim=[1, *[2 * SPACING] * 3, 0, 0, 0, 0])


@kind("forms-mirrored", refused("forms-mirrored", "sub-02"))
def forms_mirrored(folder: Path) -> None:
    """Both forms are valid, and one is the mirror image of the other: the sides of the body cannot be told."""
    bids(folder)
    edit(bids_path(folder, 2), pixdim=[-1, *[SPACING] * 3, 0, 0, 0, 0], qoffset_z=-AFFINE[2, 3])


@kind("forms-half-turned", named("forms-apart", "sub-02"))
def forms_half_turned(folder: Path) -> None:
    """Both forms are valid, and one has left and right, front and back exchanged."""
    bids(folder)
    edit(bids_path(folder, 2), quatern_b=0, quatern_c=0, quatern_d=1)


@kind("forms-turned", named("forms-apart", "sub-02"))
def forms_turned(folder: Path) -> None:
    """A registration was written into the sform alone, and the qform still says where the scan was before.

    Found: https://github.com/TorchIO-project/torchio/issues/567
    """
    bids(folder)
    edit(bids_path(folder, 2), **_sform(_rotated(12)))


@kind("forms-shifted", named("forms-apart", "sub-02"))
def forms_shifted(folder: Path) -> None:
    """Cropping during conversion moved the origin of one form only.

    Found: https://github.com/ANTsX/ANTs/issues/1804
    """
    bids(folder)
    edit(bids_path(folder, 2), qoffset_z=AFFINE[2, 3] + 40)


@kind("long-quaternion", right(follows(2)))
def long_quaternion(folder: Path) -> None:
    """Rounding made the quaternion longer than 1 by less than a millionth, and a strict reader gives up.

    Found: https://github.com/nipreps/fmriprep/issues/845
    """
    bids(folder)
    write(bids_path(folder, 2), nifti(*_turned(voxels(2, "T1w"), [[0, -1], [1, -1], [2, 1]])))
    edit(bids_path(folder, 2), sform_code=0, quatern_b=0, quatern_c=0, quatern_d=1 + 4e-7)


@kind("long-quaternion-unused", right(follows(2)))
def long_quaternion_unused(folder: Path) -> None:
    """The same with a valid sform, which alone counts."""
    bids(folder)
    write(bids_path(folder, 2), nifti(*_turned(voxels(2, "T1w"), [[0, -1], [1, -1], [2, 1]])))
    edit(bids_path(folder, 2), quatern_b=0, quatern_c=0, quatern_d=1 + 4e-7)


@kind("no-orientation", named("orientation", "sub-02"))
def no_orientation(folder: Path) -> None:
    """Both codes are 0: the scans of one site state no place, and registration failed for that site alone.

    Found: https://github.com/ANTsX/ANTs/issues/826
    """
    bids(folder)
    edit(bids_path(folder, 2), qform_code=0, sform_code=0)


@kind("tilted-gantry", named("shear", "sub-02"))
def tilted_gantry(folder: Path) -> None:
    """The gantry was tilted: slices are stacked askew, which an sform can say and most tools overlook.

    Found: https://github.com/nipy/heudiconv/issues/409
    """
    bids(folder, ("CT",))
    askew = AFFINE.copy()
    askew[1, 2] = SPACING * np.tan(np.radians(18))
    apart = float(np.linalg.norm(askew[:3, 2]))
    edit(bids_path(folder, 2, "CT"), qform_code=0, pixdim=[1, SPACING, SPACING, apart, 0, 0, 0, 0], **_sform(askew))


_ROUNDED = np.round(_rotated(10), 3)


@kind(
    "rounded-sform",
    right(every(follows(2, "T1w", affine=_ROUNDED), follows(2, "T2w", affine=_ROUNDED)), quiet=True),
)
def rounded_sform(folder: Path) -> None:
    """The sform of an oblique scan was rounded, so that its axes are square to three digits only.

    Found: https://github.com/MIC-DKFZ/nnDetection/issues/24
    """
    bids(folder)
    for contrast in ("T1w", "T2w"):
        write(bids_path(folder, 2, contrast), nifti(voxels(2, contrast), _ROUNDED))
