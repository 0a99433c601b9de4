"""What a file of any format holds, and the checks that make a scan or labels of it.

Formats differ in how they state shape, orientation and voxels, not in what is wrong with a scan. So readers say what
stands in a file, and what must hold of it is asked here, once.
"""

import logging
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from nibabel.nifti1 import Nifti1Header
from nibabel.orientations import aff2axcodes, apply_orientation, inv_ornt_aff, io_orientation

from scansynth.data.nifti_header import new_header
from scansynth.data.volume import Volume
from scansynth.errors import InputError

logger = logging.getLogger(__name__)

SMALLEST, LARGEST = 0.001, 100.0
"""Voxel sizes, mm: µCT reaches 1 µm, the slices of the coarsest localizers lie some 50 mm apart. Beyond, a header is
damaged or in another unit, and what is computed from it overflows."""
FLATTEST = 0.01
"""Volume that the axes span, of that of a box: a gantry tilted by 60° still gives 0.5."""
FARTHEST = 1e6
"""Of the first voxel along an axis, mm: no scanner's table goes so far, and float32 knows no tenth of a mm there."""

_WHOLE = 1e-3
_SHEAR = 1e-3  # largest cosine between axes that a rotation still says


class Stored(ABC):
    """An image file that was opened: what it says, before anything of it is checked."""

    path: Path | str
    """Of the file; what messages call an image that is in memory."""
    in_memory: bool = False
    shape: tuple[int, ...]
    """Of its array, as the file states it."""
    kind: np.dtype
    """Of its voxels; one with fields for colours."""
    units: str = "mm"
    """In which it states lengths; `unknown` counts as mm."""
    unoriented: str = ""
    """Why its orientation is a guess, for a warning; empty where it states one."""
    where: str = "header"
    """Where it states its affine, for messages."""
    where_units: str = "header"
    """Where it states its units."""

    @abstractmethod
    def affine(self) -> np.ndarray:
        """(4, 4) float64: voxel of the file's array → its units in RAS+ world space; maybe one that spans no volume."""

    @abstractmethod
    def intensities(self) -> np.ndarray:
        """Its voxels as float32, of `shape`, in the file's units; what is beyond float32 is infinite.

        Raises:
            OSError: if there are fewer voxels than it says. ValueError likewise.
        """

    @abstractmethod
    def labels(self) -> np.ndarray:
        """Its voxels in a type that holds them exactly, of `shape`.

        Raises:
            OSError: if there are fewer voxels than it says. ValueError likewise.
        """

    def header(self, shape: tuple[int, ...], affine: np.ndarray) -> Nifti1Header:
        """The NIfTI header that an image on the file's grid is written with.

        Args:
            shape: of the file's array, three axes.
            affine: of the file, checked.
        """
        header = new_header(shape, affine)
        axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
        if np.abs(axes.T @ axes - np.eye(3)).max() > _SHEAR:
            header["qform_code"] = 0  # a quaternion says no shear: the sform alone is right
        return header


def to_volume(stored: Stored) -> Volume:
    """A scan in RAS+, checked.

    Raises:
        InputError: if it is not 3D, empty, constant, without real numbers, with an affine that spans no volume, or
            holds NaN or infinite voxels.
    """
    path = stored.path
    shape = _three(stored)
    if stored.units not in ("mm", "unknown"):
        raise InputError(
            f"{path} states its voxel size in {stored.units}: convert its {stored.where_units} to mm first"
        )
    native_affine = _affine(stored)
    if stored.unoriented:
        axes = "".join(map(str, aff2axcodes(native_affine)))
        logger.warning("%s states no orientation (%s): its axes are taken as %s", path, stored.unoriented, axes)
    native_array = _finite(stored).reshape(shape)
    orientation = io_orientation(native_affine)
    return Volume(
        array=np.ascontiguousarray(apply_orientation(native_array, orientation)),
        affine=native_affine @ inv_ornt_aff(orientation, shape),
        native_affine=native_affine,
        native_orientation=orientation,
        header=stored.header(shape, native_affine),
        path=None if stored.in_memory else Path(path),
    )


def to_labels(stored: Stored) -> tuple[np.ndarray, np.ndarray]:
    """Labels (X, Y, Z) uint8 in RAS+ and their (4, 4) affine, mm.

    Raises:
        InputError: if the file is not 3D, or holds anything but whole numbers from 0 to 255.
    """
    path, affine = stored.path, _affine(stored)
    try:
        x, y, z = stored.shape[:3]
        native = stored.labels().reshape(x, y, z)
    except InputError:
        raise
    except (OSError, ValueError):  # more than one volume, or fewer voxels than the header says
        raise InputError(f"{path} is truncated or not one 3D label image: copy it again or split it") from None
    whole = np.round(native)
    # A label that was scaled for storage comes back as 0.999999.
    right = (abs(native - whole) <= _WHOLE) & (whole >= 0) & (whole <= 255)  # NaN is neither
    if not native.size or not right.all():
        raise InputError(f"{path} is no label image: it must hold whole numbers from 0 to 255")
    orientation = io_orientation(affine)
    labels = apply_orientation(whole.astype(np.uint8), orientation)
    return labels, affine @ inv_ornt_aff(orientation, native.shape)


def _affine(stored: Stored) -> np.ndarray:
    """The file's affine, (4, 4) float64, checked."""
    affine = stored.affine()
    mend = f"mend its {stored.where}"
    if not np.isfinite(affine).all() or not affine[:3, :3].any(axis=0).all():
        raise InputError(f"{stored.path} has an affine that spans no volume (voxel sizes of 0?): {mend}")
    with np.errstate(over="ignore"):  # infinite then, and refused
        sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if sizes.min() < SMALLEST or sizes.max() > LARGEST:
        raise InputError(
            f"{stored.path} states voxel sizes of {'×'.join(f'{size:.3g}' for size in sizes)} mm, and no scanner makes "
            f"any below {SMALLEST:g} or above {LARGEST:g} mm: {mend}"
        )
    if abs(np.linalg.det(affine[:3, :3] / sizes)) < FLATTEST:
        raise InputError(f"{stored.path} has an affine that spans no volume (axes in one plane): {mend}")
    if np.abs(affine[:3, 3]).max() > FARTHEST:
        raise InputError(f"{stored.path} lies {np.abs(affine[:3, 3]).max() / 1e6:.3g} km off: {mend}")
    return affine


def _three(stored: Stored) -> tuple[int, ...]:
    """The shape without trailing axes of one voxel, checked, and the kind of voxels with it."""
    path, shape = stored.path, stored.shape
    extent = "×".join(map(str, shape))
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise InputError(f"{path} is {len(stored.shape)}D ({extent}): one 3D volume is needed, split or merge it first")
    if 0 in shape:
        raise InputError(f"{path} has an empty axis ({extent}): export it again")
    kind = stored.kind
    if kind.fields is not None or kind.kind not in "iuf":
        raise InputError(
            f"{path} holds {'colours' if kind.fields else kind}, not intensities: export a grey-value image"
        )
    return shape


def _finite(stored: Stored) -> np.ndarray:
    """The file's voxels as float32, checked."""
    path = stored.path
    try:
        # What is beyond float32 becomes inf here and are reported below, so numpy need not warn.
        with np.errstate(over="ignore", invalid="ignore"):
            array = stored.intensities()
    except InputError:
        raise
    except (OSError, ValueError):  # fewer voxels than the header says
        raise InputError(f"{path} is truncated or corrupt: copy it again") from None
    wrong = array.size - int(np.isfinite(array).sum())
    if wrong:
        raise InputError(f"{path} holds {wrong} NaN or infinite voxels of {array.size}: replace them (by 0, say) first")
    if array.min() == array.max():
        raise InputError(f"{path} is constant (every voxel is {array.flat[0]:g}): leave it out or export it again")
    return array
