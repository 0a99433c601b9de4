"""FreeSurfer's MGH format, `.mgz` or `.mgh`, in RAS as its header says it."""

from pathlib import Path

from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHError, MGHImage
from nibabel.spatialimages import HeaderDataError

from scansynth.data.readers.nifti import NibabelFile, contents
from scansynth.errors import InputError

_HEADER = 284  # bytes, of which voxels follow
_ORIENTED = slice(28, 30)  # whether what follows of voxel sizes and directions counts


def open_image(path: Path) -> NibabelFile:
    """Open a file.

    Raises:
        InputError: if it is no MGH file, not whole, or has a header that cannot be right.
    """
    data = contents(path)
    if data[:4] != b"\0\0\0\1":
        raise InputError(f"{path} is no FreeSurfer file, whatever its name: rename it to what it is, or copy it again")
    if len(data) < _HEADER:
        raise InputError(f"{path} is truncated or corrupt: copy it again")
    try:
        opened = NibabelFile(path, MGHImage.from_bytes(data))
    except (MGHError, HeaderDataError, ImageFileError, KeyError, ValueError, OSError) as error:
        raise InputError(f"{path} has a header that cannot be right ({error}): mend it or copy it again") from None
    if not any(data[_ORIENTED]):
        opened.unoriented = "its goodRASFlag is 0"
    return opened
