"""Volumes as SimpleITK's images and back. ITK's world has axes to the left and posterior (LPS), here they go RAS."""

from typing import Any

import numpy as np

from scansynth.data.volume import Volume
from scansynth.errors import InputError

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def itk() -> Any:
    """SimpleITK, with one thread: sums over several threads differ in the last bits.

    Raises:
        InputError: if it is not installed.
    """
    try:
        import SimpleITK
    except ImportError as error:
        raise InputError("scans are registered with SimpleITK: pip install 'scansynth[raw]'") from error
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    return SimpleITK


def to_itk(array: np.ndarray, affine: np.ndarray) -> Any:
    """An array (X, Y, Z) with its (4, 4) affine, RAS mm, as an image; sheared axes count as the nearest right ones."""
    image = itk().GetImageFromArray(np.ascontiguousarray(array.T))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    left, _, right = np.linalg.svd(RAS_TO_LPS[:3, :3] @ affine[:3, :3] / spacing)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((left @ right).ravel().tolist())
    image.SetOrigin((RAS_TO_LPS @ affine)[:3, 3].tolist())
    return image


def from_itk(image: Any) -> np.ndarray:
    """The voxels of an image, (X, Y, Z)."""
    return itk().GetArrayFromImage(image).T


def image_of(volume: Volume) -> Any:
    """A volume as an image."""
    return to_itk(volume.array, volume.affine)
