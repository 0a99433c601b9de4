"""NIfTI headers: read as others read them, and made anew for a volume that has none."""

import numpy as np
from nibabel.nifti1 import Nifti1Extension, Nifti1Header, Nifti1Image
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


_GEOMETRY = (
    "dim", "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
    "srow_x", "srow_y", "srow_z",
)  # fmt: skip
_COMMENT = 6
"""Code of a header extension that holds text."""
_UNITS = {space + time for space in (0, 1, 2, 3) for time in (0, 8, 16, 24)}


def geometry_of(header: Nifti1Header) -> Nifti1Header:
    """A new header of the same version that says where voxels lie and nothing else: forms, their codes, and units.

    The others name the data base, the patient's file or the scanner; whoever fills them in, they are not handed on.
    """
    made = type(header)(endianness=header.endianness, check=False)
    for name in _GEOMETRY:
        made[name] = header[name]
    made["pixdim"][:4] = header["pixdim"][:4]
    made["xyzt_units"] = header["xyzt_units"] if int(header["xyzt_units"]) in _UNITS else 0
    return made


def comment(text: str) -> Nifti1Extension:
    """A header extension that holds a text."""
    return Nifti1Extension(_COMMENT, text.encode())


def comments_in(start: bytes) -> list[bytes] | None:
    """`descrip` and the texts in the extensions of a NIfTI file.

    Args:
        start: the file's bytes up to its voxels, decompressed; what is missing at the end is not looked at.

    Returns:
        None for what is shorter than a header, nothing for a file of another format.
    """
    if len(start) < Nifti1Header.sizeof_hdr:
        return None
    for kind in (Nifti1Header, Nifti2Header):
        if len(start) > kind.sizeof_hdr and kind.may_contain_header(start):
            size = kind.sizeof_hdr
            header = kind(start[:size], check=False)
            found, place = [header["descrip"].tobytes()], size + 4
            end = min(len(start), int(header["vox_offset"]))
            two = np.dtype(np.int32).newbyteorder(header.endianness)
            while start[size] and place + 8 <= end:  # the byte after the header says whether there are extensions
                length, code = np.frombuffer(start[place : place + 8], two)
                if length < 8:
                    break
                if code == _COMMENT:
                    found.append(start[place + 8 : place + int(length)])
                place += int(length)
            return found
    return []


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
