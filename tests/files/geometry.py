"""Grids: dimensions, voxel sizes and their units, fields of view, what else a header holds."""

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Extension

from .checks import every, everyone_follows, follows
from .heads import AFFINE, PEOPLE, SPACING, Head, bids, bids_path, edit, head, nifti, person, read, voxels, write
from .registry import kind, named, refused, right

_MR = ("T1w", "T2w")


def _scaled(factor: float) -> np.ndarray:
    affine = AFFINE * factor
    affine[3, 3] = 1
    return affine


def _thick(array: np.ndarray, at: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Every `at`-th slice, and the affine of these."""
    return array[:, :, ::at], AFFINE @ np.diag([1, 1, at, 1])


@kind("4d-one-volume", right(follows(2)))
def one_volume(folder: Path) -> None:
    """A fourth axis of length 1, in some files of a cohort only.

    Found: https://github.com/nipreps/fmriprep/issues/792
    """
    bids(folder)
    write(bids_path(folder, 2), nifti(voxels(2, "T1w")[..., None]))


@kind("four-contrasts-in-one", refused("sub-02_T1w", "4d|volumes"))
def four_contrasts_in_one(folder: Path) -> None:
    """All contrasts of a subject are the volumes of one file, and which is which stands elsewhere.

    Found: https://github.com/MIC-DKFZ/nnUNet/issues/128
    """
    bids(folder)
    both = [voxels(2, contrast) for contrast in ("FLAIR", "T1w", "T1ce", "T2w")]
    write(bids_path(folder, 2), nifti(np.stack(both, axis=-1)))


@kind("one-slice", refused("sub-02_T1w", "2d|slice"))
def one_slice(folder: Path) -> None:
    """One scan is a single 2D slice."""
    bids(folder)
    write(bids_path(folder, 2), nifti(voxels(2, "T1w")[:, :, 10]))


@kind("few-slices", named("few-slices"))
def few_slices(folder: Path) -> None:
    """Volumes of twelve thick slices: fewer than what later measures or cuts into patches asks for.

    Found: https://github.com/XuzheZ/MAPSeg/issues/3
    """
    bids(folder)
    for number in range(1, PEOPLE + 1):
        for contrast in _MR:
            write(bids_path(folder, number, contrast), nifti(*_thick(voxels(number, contrast))))


@kind("other-resolution", named("spacing-differs", "sub-02"))
def other_resolution(folder: Path) -> None:
    """The voxel size of a few subjects is another than that of all the rest: slices twice as thick.

    Found: https://github.com/TIGRLab/admin/issues/302
    """
    bids(folder)
    for contrast in _MR:
        write(bids_path(folder, 2, contrast), nifti(*_thick(voxels(2, contrast))))


@kind("other-grid", named("grid"))
def other_grid(folder: Path) -> None:
    """T1w and T2w were acquired in other directions with other voxels, as IXI has them, and are not registered.

    Found: https://github.com/icon-lab/SynDiff/issues/24
    """
    bids(folder)
    for number in range(1, PEOPLE + 1):
        array, affine = _thick(voxels(number, "T2w"))
        write(bids_path(folder, number, "T2w"), nifti(array, affine))


def _wide(number: int, contrast: str) -> Head:
    """A head that takes more than 256 voxels from ear to ear."""
    array = np.repeat(head(number, contrast).array[3:25], 14, axis=0)
    return Head(array, array > 0)


_WIDE = AFFINE @ np.diag([1 / 14, 1, 1, 1])


@kind("wider-than-256", right(every(*(follows(2, c, truth=_wide(2, c), affine=_WIDE) for c in _MR))))
def wider_than_256(folder: Path) -> None:
    """Small voxels: the head takes more of them than a method's usual box, which may not cut it unasked."""
    bids(folder)
    for number in range(1, PEOPLE + 1):
        for contrast in _MR:
            write(bids_path(folder, number, contrast), nifti(_wide(number, contrast).array, _WIDE))


@kind("box-too-small", refused("cut|outside|crop", "%"), options={"size": (12, 32, 24)})
def box_too_small(folder: Path) -> None:
    """The size that is asked for cuts a fifth of the head off."""
    bids(folder)


@kind("cropped", named("cut|out-of-view|bites|unlike-others", "sub-02"))
def cropped(folder: Path) -> None:
    """The top of one head was outside the field of view.

    Found: https://github.com/nipreps/fmriprep/issues/1341
    """
    bids(folder)
    for contrast in _MR:
        write(bids_path(folder, 2, contrast), nifti(voxels(2, contrast)[:, :, :17]))


@kind("units-unknown", right(follows(2), quiet=True))
def units_unknown(folder: Path) -> None:
    """`xyzt_units` is 0, as a converter left it; mm are meant.

    Found: https://github.com/icometrix/dicom2nifti/issues/82
    """
    bids(folder)
    edit(bids_path(folder, 2), xyzt_units=0)


@kind("units-metres", refused("sub-02_T1w", "meter|metre"))
def units_metres(folder: Path) -> None:
    """The affine is in metres, and the header says so."""
    bids(folder)
    write(bids_path(folder, 2), nifti(voxels(2, "T1w"), _scaled(1e-3)))
    edit(bids_path(folder, 2), xyzt_units=1)


@kind("metres-called-mm", named("spacing-differs", "sub-02"))
def metres_called_mm(folder: Path) -> None:
    """Voxel sizes were written in metres where mm are expected: a head of a sixth of a millimetre.

    Found: https://github.com/MagneticResonanceImaging/MRIReco.jl/issues/126
    """
    bids(folder)
    for contrast in _MR:
        write(bids_path(folder, 2, contrast), nifti(voxels(2, contrast), _scaled(1e-3)))


@kind("units-microns", refused("sub-02_T1w", "micron"))
def units_microns(folder: Path) -> None:
    """Some scans of a cohort are in micrometres, and their masks are not.

    Found: https://github.com/npnl/ATLAS/issues/1
    """
    bids(folder)
    write(bids_path(folder, 2), nifti(voxels(2, "T1w"), _scaled(1e3)))
    edit(bids_path(folder, 2), xyzt_units=3)


@kind("voxel-size-zero", refused("sub-02_T1w", "voxel size|pixdim"))
def voxel_size_zero(folder: Path) -> None:
    """All voxel sizes are 0 and the qform alone is valid: a reader mends that to 1 mm without saying so."""
    bids(folder)
    edit(bids_path(folder, 2), sform_code=0, pixdim=[1, 0, 0, 0, 0, 0, 0, 0])


@kind("voxel-size-negative", right(follows(2)))
def voxel_size_negative(folder: Path) -> None:
    """A voxel size is negative, as an old tool marked a flip; the sform is valid and counts."""
    bids(folder)
    edit(bids_path(folder, 2), qform_code=0, pixdim=[1, -SPACING, SPACING, SPACING, 0, 0, 0, 0])


@kind("affine-lost", named("spacing-differs", "sub-02"))
def affine_lost(folder: Path) -> None:
    """One subject's scans were saved with the identity for an affine.

    Found: https://github.com/HumanOrganAtlas/hoa-tools/issues/139
    """
    bids(folder)
    for contrast in _MR:
        write(bids_path(folder, 2, contrast), nifti(voxels(2, contrast), np.eye(4)))


@kind("nifti-2", right(everyone_follows(*_MR), quiet=True))
def nifti_2(folder: Path) -> None:
    """One file is NIfTI-2."""
    bids(folder)
    write(bids_path(folder, 2), nifti(voxels(2, "T1w"), image_class=nib.Nifti2Image))


@kind("header-extension", right(follows(2), quiet=True))
def header_extension(folder: Path) -> None:
    """A header extension puts the voxels further back than a reader of fixed offsets looks.

    Found: https://github.com/freesurfer/freesurfer/issues/1337
    """
    bids(folder)
    image = nib.Nifti1Image.from_bytes(read(bids_path(folder, 2)))
    image.header.extensions.append(Nifti1Extension("comment", person(2).encode() * 20))
    write(bids_path(folder, 2), image.to_bytes())


@kind("extension-flag", right(follows(2)))
def extension_flag(folder: Path) -> None:
    """The byte that announces an extension is set, and there is none.

    Found: https://github.com/rii-mango/NIFTI-Reader-JS/issues/35
    """
    bids(folder)
    data = bytearray(read(bids_path(folder, 2)))
    data[348] = 1
    write(bids_path(folder, 2), bytes(data))
