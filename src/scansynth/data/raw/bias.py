"""A scan without its bias field: N4 (Tustison et al., IEEE Transactions on Medical Imaging 29, 2010)."""

from dataclasses import replace

import numpy as np

from scansynth.data.raw.itk_images import from_itk, image_of, itk
from scansynth.data.volume import Volume

THINNED = 6.0
"""Voxels that the field is found on, mm: it is smooth."""
ITERATIONS = [50, 50, 30]
"""At each level of its splines."""


def without_bias(volume: Volume, contrast: str) -> Volume:
    """An MR scan with its bias field divided out; a CT has none.

    The field is found where the head is, and is 1 on average there, so that intensities stay where they were.

    Args:
        volume: the scan.
        contrast: standard name.
    """
    if contrast == "CT":
        return volume
    sitk = itk()
    background, mask = volume.background(contrast), volume.array > volume.threshold(contrast)
    background = np.float32(background)
    shifted = replace(volume, array=np.maximum(volume.array - background, 0))
    image, head = image_of(shifted), image_of(replace(volume, array=mask.astype(np.uint8)))
    shrink = [max(1, round(THINNED / mm)) for mm in volume.spacing]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations(ITERATIONS)
    small, inside = sitk.Shrink(image, shrink), sitk.Shrink(head, shrink)
    n4.Execute(sitk.Cast(small, sitk.sitkFloat32), inside)
    field = np.exp(from_itk(n4.GetLogBiasFieldAsImage(image)))
    if not mask.any():
        return volume
    field = np.clip(field, field[mask].min(), field[mask].max())  # outside the head splines run away
    field /= np.exp(np.log(field[mask]).mean())
    return replace(volume, array=(volume.array - background) / field.astype(np.float32) + background, _found={})
