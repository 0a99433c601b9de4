"""NIfTI, version 1 and 2, in a single file, compressed or not."""

import math
from pathlib import Path

import numpy as np
from nibabel.arrayproxy import is_proxy
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHImage
from nibabel.nifti1 import Nifti1Header, Nifti1Image, Nifti1Pair, data_type_codes
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError, SpatialImage

from scansynth.data.nifti_header import Image, Image2
from scansynth.data.readers.content import Content, check_room
from scansynth.data.readers.stored import Stored
from scansynth.errors import InputError
from scansynth.users_files import open_file

_UNITS = {0: "unknown", 1: "meter", 2: "mm", 3: "micron"}
"""Code in the low three bits of `xyzt_units` → unit of length. The others are of time, which a 3D scan has not."""


class NibabelFile(Stored):
    """A file that nibabel opened."""

    def __init__(self, path: Path | str, image: Nifti1Pair | MGHImage):
        self.path, self.image = path, image
        self.shape = tuple(map(int, image.shape))
        self.kind = np.dtype(image.get_data_dtype())

    def affine(self) -> np.ndarray:
        """As nibabel takes it; of NIfTI the sform before the qform."""
        return np.array(self.image.affine, dtype=np.float64)

    def intensities(self) -> np.ndarray:
        """`scl_slope` and `scl_inter` are applied."""
        return self.image.get_fdata(dtype=np.float32, caching="unchanged")

    def labels(self) -> np.ndarray:
        """As stored, or as scaled."""
        return np.asarray(self.image.dataobj)


class _Nifti(NibabelFile):
    """A NIfTI file."""

    image: Nifti1Pair
    where, where_units = "qform and sform", "affine and xyzt_units"

    def __init__(self, path: Path | str, image: Nifti1Pair):
        super().__init__(path, image)
        code = int(image.header["xyzt_units"]) & 7
        if code not in _UNITS:
            raise InputError(f"{path} states its units of length by a code that NIfTI does not have ({code}): mend its "
                             "header (xyzt_units)")  # fmt: skip
        self.units = _UNITS[code]
        if not image.header["qform_code"] and not image.header["sform_code"]:
            self.unoriented = "qform and sform codes are 0"

    def header(self, shape: tuple[int, ...], affine: np.ndarray) -> Nifti1Header:
        """Its own."""
        return self.image.header.copy()


class _Opened(_Nifti):
    """An image that somebody else opened or made."""

    def header(self, shape: tuple[int, ...], affine: np.ndarray) -> Nifti1Header:
        """Its own, whose quaternion may be a little too long."""
        own = self.image.header
        kind = Image2.header_class if isinstance(own, Nifti2Header) else Image.header_class
        return kind(own.binaryblock, own.endianness, check=False)


def opened(image: SpatialImage, name: str) -> _Opened:
    """A nibabel image (NIfTI, MGH, …) as `open_image` gives its file.

    Args:
        image: open, or made in memory.
        name: what messages call it, unless nibabel has opened it and nobody has changed it: then it goes by the name of
            its file.
    """
    file = image.get_filename() if is_proxy(image.dataobj) else None
    if not isinstance(image, Nifti1Pair):
        image = Nifti1Image.from_image(image)
    stored = _Opened(Path(file) if file else name, image)
    stored.in_memory = not file
    return stored


def open_image(path: Path) -> _Nifti:
    """Open by content, not by name.

    Raises:
        InputError: if it is no NIfTI file, not whole, or has a header that cannot be right.
    """
    with open_file(path) as file:
        content = Content(path, file)
        head = content.read(Image2.header_class.sizeof_hdr)
        if not head:
            raise InputError(f"{path} is truncated or corrupt: copy it again")
        image_class = _class_of(path, head)
        header = image_class.header_class(head[: image_class.header_class.sizeof_hdr], check=False)
        try:
            claimed = _claimed(path, header)
        except HeaderDataError as error:
            raise _impossible(path, error) from None
        data = content.whole(head, claimed)
    try:
        return _Nifti(path, image_class.from_bytes(data))
    except InputError:
        raise
    except (HeaderDataError, ImageFileError, ValueError, OSError) as error:
        raise _impossible(path, error) from None


def _class_of(path: Path, head: bytes) -> type[Image] | type[Image2]:
    """The version of NIfTI that a file begins as."""
    # A .hdr file begins alike, but its voxels stand in an .img file.
    for image_class in (Image, Image2) if path.suffix.lower() != ".hdr" else ():
        if image_class.header_class.may_contain_header(head):
            if len(head) < image_class.header_class.sizeof_hdr:
                break
            return image_class
    else:
        raise InputError(
            f"{path} is not a single NIfTI file: convert it to .nii.gz first (DICOM, for example, with dcm2niix)"
        )
    raise InputError(f"{path} is truncated or corrupt: copy it again")


def _claimed(path: Path, header: Nifti1Header) -> int:
    """Bytes of the file, as its header says; what of it nibabel would take otherwise than it stands there is refused.

    Raises:
        InputError: for such a header. HeaderDataError: for a kind of voxels that NIfTI does not have.
    """
    axes, *sides = map(int, header["dim"])
    if not 1 <= axes <= 7 or min(sides[:axes]) < 0:
        raise _impossible(path, f"dim is {' '.join(map(str, (axes, *sides)))}")
    # nibabel would make it 1 mm.
    if not header["sform_code"] and (header["pixdim"][1 : 1 + min(3, axes)] == 0).any():
        raise InputError(f"{path} states a voxel size of 0: mend its header (pixdim)")
    offset, least = float(header["vox_offset"]), header.single_vox_offset
    if not offset.is_integer() or offset < least:  # of 0 nibabel would read the header as voxels
        raise _impossible(path, f"vox_offset is {offset:g}, voxels of a single file begin at {least} or later")
    if np.isinf([header["scl_slope"], header["scl_inter"]]).any():  # nibabel would not scale
        raise _impossible(path, f"voxels are scaled by {header['scl_slope']:g} and {header['scl_inter']:g}")
    code = int(header["datatype"])
    if code not in data_type_codes.value_set() or not (kind := header.get_data_dtype()).itemsize:
        raise _impossible(path, f"datatype is {code}")
    voxels = math.prod(sides[:axes])
    claimed = int(offset) + voxels * kind.itemsize
    check_room(path, claimed, voxels)
    return claimed


def _impossible(path: Path, why: object) -> InputError:
    return InputError(
        f"{path} has a header that cannot be right ({' '.join(str(why).split())}): mend it or copy it again"
    )
