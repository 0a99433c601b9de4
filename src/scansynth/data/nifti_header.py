"""NIfTI headers: read as others read them, and made anew for a volume that has none."""

import numpy as np
from nibabel.nifti1 import Nifti1Header, Nifti1Image
from nibabel.nifti2 import Nifti2Header, Nifti2Image


class _Header(Nifti1Header):
    """A NIfTI-1 header whose quaternion may be a little too long, as 32 bits round it; others read it, too."""

    quaternion_threshold = np.float64(-1e-3)


class _Header2(Nifti2Header):
    quaternion_threshold = np.float64(-1e-3)


class Image(Nifti1Image):
    """A NIfTI-1 image with such a header."""

    header_class = _Header


class Image2(Nifti2Image):
    """A NIfTI-2 image with such a header."""

    header_class = _Header2


def new_header(shape: tuple[int, ...], affine: np.ndarray) -> Nifti1Header:
    """The header of an image that no NIfTI file stands behind: both forms give its affine, units are mm.

    Args:
        shape: (X, Y, Z).
        affine: (4, 4), voxel → mm.
    """
    header = Nifti1Image(np.broadcast_to(np.float32(0), shape), affine).header
    header.set_xyzt_units("mm")
    header.set_sform(affine, "scanner")
    header.set_qform(affine, "scanner")
    return header
