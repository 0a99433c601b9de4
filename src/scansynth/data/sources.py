"""What a scan is given as: a path, a `Volume`, a nibabel image, or an array with its affine."""

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.nifti1 import Nifti1Image
from nibabel.spatialimages import SpatialImage

from scansynth.data.readers import read_labels, reading
from scansynth.data.readers.nifti import opened
from scansynth.data.readers.stored import to_labels, to_volume
from scansynth.data.volume import IN_MEMORY, Volume
from scansynth.errors import InputError

Source = str | PathLike[str] | Volume | SpatialImage | tuple[Any, Any]
"""Path of an image file; `Volume`; nibabel image; or (array, affine): (X, Y, Z) numbers along any axes, and the (4, 4)
affine from their voxels to mm in RAS+ world space."""

_KINDS = "a path, a scansynth.Volume, a nibabel image, or (array, affine)"


def as_volume(source: Source, what: str = "the image") -> Volume:
    """A scan as a volume, however it is given. Only a path is read from disk.

    Args:
        source: the scan.
        what: it is, for messages: `T1w`.

    Raises:
        InputError: if it is of another kind, or no scan that can be worked with (`Volume.read`).
    """
    if isinstance(source, str | PathLike):
        return Volume.read(Path(source))
    if isinstance(source, Volume):
        return source
    name = f"{what} ({IN_MEMORY})"
    with reading(name):
        return to_volume(opened(source if isinstance(source, SpatialImage) else _image(source, name), name))


def as_labels(source: Source, what: str = "the mask") -> tuple[np.ndarray, np.ndarray]:
    """A mask or label image, however it is given; unlike a scan it may be empty.

    Args:
        source: the labels: whole numbers from 0 to 255.
        what: they are, for messages.

    Returns:
        Labels (X, Y, Z) uint8 in RAS+, and their (4, 4) affine, mm.

    Raises:
        InputError: if it is of another kind, or no label image.
    """
    if isinstance(source, str | PathLike):
        return read_labels(Path(source))
    name = f"{what} ({IN_MEMORY})"
    if isinstance(source, Volume):
        source = (source.array, source.affine)
    with reading(name):
        return to_labels(opened(source if isinstance(source, SpatialImage) else _image(source, name), name))


def _image(source: Any, name: str) -> Nifti1Image:
    """The image of an (array, affine), checked."""
    if isinstance(source, np.ndarray):
        raise InputError(f"{name} is an array alone: where its voxels lie is not known; give (array, affine)")
    if not isinstance(source, tuple) or len(source) != 2:
        raise InputError(f"{name} is of type {type(source).__name__}: give {_KINDS}")
    array, affine = np.asarray(source[0]), np.asarray(source[1])
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} holds {array.dtype}, not intensities: give an array of real numbers")
    if affine.shape != (4, 4) or affine.dtype.kind not in "iuf":
        raise InputError(f"{name} has an affine of shape {affine.shape}: give (array, affine), the affine (4, 4) in mm")
    affine = affine.astype(np.float64)
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise InputError(f"{name} has an affine that spans no volume (voxel sizes of 0?): give one in mm")
    with np.errstate(over="ignore"):  # what is beyond float32 is infinite then, and refused
        image = Nifti1Image(array.astype(np.float32), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, "scanner", update_affine=False)
    image.set_qform(affine, "scanner", update_affine=False)
    return image
