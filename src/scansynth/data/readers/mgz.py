"""FreeSurfer's MGH format, `.mgz` or `.mgh`, in RAS as its header says it."""

import math
import struct
from pathlib import Path

from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHError, MGHImage
from nibabel.spatialimages import HeaderDataError

from scansynth.data.readers.content import Content, check_room
from scansynth.data.readers.nifti import NibabelFile
from scansynth.errors import InputError
from scansynth.users_files import open_file

_HEADER = 284  # bytes, of which voxels follow
_BYTES = {0: 1, 1: 4, 3: 4, 4: 2, 10: 2}  # of a voxel, by its code: uint8, int32, float32, int16, uint16
_AFTER = 1 << 20  # bytes: FreeSurfer writes a log of its commands, transforms and a table of colours behind the voxels
_ORIENTED = slice(28, 30)  # whether what follows of voxel sizes and directions counts


def open_image(path: Path) -> NibabelFile:
    """Open a file.

    Raises:
        InputError: if it is no MGH file, not whole, or has a header that cannot be right.
    """
    with open_file(path) as file:
        content = Content(path, file)
        head = content.read(_HEADER)
        if head and head[:4] != b"\0\0\0\1":
            raise InputError(
                f"{path} is no FreeSurfer file, whatever its name: rename it to what it is, or copy it again"
            )
        if len(head) < _HEADER:
            raise InputError(f"{path} is truncated or corrupt: copy it again")
        *sides, kind = struct.unpack(">5i", head[4:24])
        if min(sides) < 0 or kind not in _BYTES:
            raise InputError(
                f"{path} has a header that cannot be right ({'×'.join(map(str, sides))} voxels of kind {kind}): mend "
                "it or copy it again"
            )
        claimed = _HEADER + math.prod(sides) * _BYTES[kind]
        check_room(path, claimed, math.prod(sides))
        data = content.whole(head, claimed, after=_AFTER)
    try:
        opened = NibabelFile(path, MGHImage.from_bytes(data))
    except (MGHError, HeaderDataError, ImageFileError, KeyError, ValueError, OSError) as error:
        raise InputError(f"{path} has a header that cannot be right ({error}): mend it or copy it again") from None
    if not any(data[_ORIENTED]):
        opened.unoriented = "its goodRASFlag is 0"
    return opened
