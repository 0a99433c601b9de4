"""NIfTI, version 1 and 2, in a single file, compressed or not."""

import gzip
import zlib
from pathlib import Path

import numpy as np
from nibabel.arrayproxy import is_proxy
from nibabel.filebasedimages import ImageFileError
from nibabel.freesurfer.mghformat import MGHImage
from nibabel.nifti1 import Nifti1Header, Nifti1Image, Nifti1Pair
from nibabel.nifti2 import Nifti2Header
from nibabel.spatialimages import HeaderDataError, SpatialImage

from scansynth.data.nifti_header import Image, Image2
from scansynth.data.readers.stored import Stored
from scansynth.errors import InputError


def contents(path: Path) -> bytes:
    """All of a file, decompressed in full, since only then gzip's checksum is compared.

    Raises:
        InputError: if it is missing, empty, a folder, cannot be read, or is compressed and damaged.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: give a NIfTI file (.nii or .nii.gz)")
    try:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            data = gzip.decompress(data)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the path") from None
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise InputError(f"{path} is truncated or corrupt: copy it again") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): check its permissions") from error
    if not data:
        raise InputError(f"{path} is truncated or corrupt: copy it again")
    return data


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
        self.units = str(image.header.get_xyzt_units()[0])
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
    data = contents(path)
    for image_class in (Image, Image2):
        # A .hdr file begins alike, but its voxels stand in an .img file.
        if path.suffix.lower() != ".hdr" and image_class.header_class.may_contain_header(data):
            if len(data) < image_class.header_class.sizeof_hdr:
                raise InputError(f"{path} is truncated or corrupt: copy it again")
            _check_sizes(path, image_class.header_class(data[: image_class.header_class.sizeof_hdr], check=False))
            try:
                return _Nifti(path, image_class.from_bytes(data))
            except (HeaderDataError, ImageFileError, ValueError, OSError) as error:
                raise InputError(
                    f"{path} has a header that cannot be right ({error}): mend it or copy it again"
                ) from None
    raise InputError(
        f"{path} is not a single NIfTI file: convert it to .nii.gz first (DICOM, for example, with dcm2niix)"
    )


def _check_sizes(path: Path, header: Nifti1Header) -> None:
    """Raise InputError for a voxel size of 0 that is used: nibabel would make it 1 mm."""
    if not header["sform_code"] and (header["pixdim"][1 : 1 + min(3, int(header["dim"][0]))] == 0).any():
        raise InputError(f"{path} states a voxel size of 0: mend its header (pixdim)")
