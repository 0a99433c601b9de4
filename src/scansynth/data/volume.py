"""Volumes: a NIfTI file in, an RAS+ array; an array of the same grid out, in the file's own orientation.

Arrays are (X, Y, Z), each axis pointing right, anterior, superior (RAS+) as nearly as the scan's own axes allow:
axes are permuted and flipped, never resampled, so an oblique scan stays oblique and writing back is exact.
"""

import contextlib
import gzip
import hashlib
import logging
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.arrayproxy import is_proxy
from nibabel.filebasedimages import ImageFileError
from nibabel.funcs import as_closest_canonical
from nibabel.nifti1 import Nifti1Header, Nifti1Image, Nifti1Pair
from nibabel.nifti2 import Nifti2Header, Nifti2Image
from nibabel.orientations import aff2axcodes, apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError, SpatialImage

from scansynth.data.foreground import find_background, foreground_threshold
from scansynth.errors import InputError

logger = logging.getLogger(__name__)


class _Header(Nifti1Header):
    """A NIfTI-1 header whose quaternion may be a little too long, as 32 bits round it; others read it, too."""

    quaternion_threshold = np.float64(-1e-3)


class _Header2(Nifti2Header):
    quaternion_threshold = np.float64(-1e-3)


class _Image(Nifti1Image):
    header_class = _Header


class _Image2(Nifti2Image):
    header_class = _Header2


IN_MEMORY = "in memory"
"""What a volume without a file is called, in messages and in provenance (there with its hash)."""
_WHOLE = 1e-3
_RAS = np.array([[0, 1], [1, 1], [2, 1]])
_GRID_TOLERANCE = 0.1  # of a voxel; headers keep a rotation as float32 quaternion, which can move a far corner so much

Space = tuple[tuple[int, ...], np.ndarray]
"""Shape of an array (X, Y, Z) and its (4, 4) affine, mm."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Volume:
    """A scan in RAS+ and what writing it back needs."""

    array: np.ndarray
    """(X, Y, Z) float32, in the file's units."""
    affine: np.ndarray
    """(4, 4) float64: voxel of `array` → mm in RAS+ world space."""
    native_affine: np.ndarray
    """(4, 4) float64: voxel of the file's own array → mm."""
    native_orientation: np.ndarray
    """(3, 2): for each axis of the file its RAS+ axis and 1, or -1 where it is flipped (nibabel's convention)."""
    header: Nifti1Header
    """The file's header, NIfTI-1 or NIfTI-2."""
    path: Path | None
    """The file that was read; None for a volume that was not read from one."""
    _found: dict[str, tuple[float, float]] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, path: str | Path) -> "Volume":
        """Read a NIfTI file, compressed or not; `scl_slope` and `scl_inter` are applied.

        Raises:
            InputError: if the file is missing, not NIfTI, truncated or corrupt, not 3D (trailing singleton dimensions
                are dropped), not in mm, without real numbers, empty, constant, or holds NaN or infinite voxels.
        """
        path = Path(path)
        return cls._checked(_load(path), path, path)

    @classmethod
    def from_image(cls, image: SpatialImage, name: str = f"the image {IN_MEMORY}") -> "Volume":
        """A nibabel image (NIfTI, MGH, …) as `read` gives its file.

        Args:
            image: open, or made in memory.
            name: what messages call it, unless nibabel has opened it and nobody has changed it: then it goes by the
                name of its file.

        Raises:
            InputError: as in `read`.
        """
        file = image.get_filename() if is_proxy(image.dataobj) else None
        path = Path(file) if file else None
        if not isinstance(image, Nifti1Image | Nifti1Pair):
            image = Nifti1Image.from_image(image)
        kind = _Header2 if isinstance(image.header, Nifti2Header) else _Header
        header = kind(image.header.binaryblock, image.header.endianness, check=False)
        return cls._checked(image, path or name, path, header)

    @classmethod
    def _checked(
        cls, image: Nifti1Pair, name: str | Path, path: Path | None, header: Nifti1Header | None = None
    ) -> "Volume":
        """An image that is open.

        Args:
            image: NIfTI.
            name: what messages call it.
            path: of its file, if it has one.
            header: in place of its own.
        """
        shape = image.shape
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        extent = "×".join(map(str, image.shape))
        if len(shape) != 3:
            raise InputError(
                f"{name} is {len(image.shape)}D ({extent}): one 3D volume is needed, split or merge it first"
            )
        if 0 in shape:
            raise InputError(f"{name} has an empty axis ({extent}): export it again")
        kind = np.dtype(image.get_data_dtype())
        if kind.fields is not None or kind.kind not in "iuf":
            raise InputError(
                f"{name} holds {'colours' if kind.fields else kind}, not intensities: export a grey-value image"
            )
        native_affine = _affine(name, image)
        native_array = _intensities(name, image).reshape(shape)

        orientation = io_orientation(native_affine)
        array = np.ascontiguousarray(apply_orientation(native_array, orientation))
        affine = native_affine @ inv_ornt_aff(orientation, shape)
        return cls(
            array=array,
            affine=affine,
            native_affine=native_affine,
            native_orientation=orientation,
            header=(header or image.header).copy(),
            path=path,
        )

    @classmethod
    def of(cls, array: np.ndarray, affine: np.ndarray) -> "Volume":
        """A volume that no file stands behind: (X, Y, Z) in RAS+, with its (4, 4) affine, mm."""
        header = Nifti1Image(array.astype(np.float32), affine).header
        header.set_xyzt_units("mm")
        header.set_sform(affine, "scanner")
        header.set_qform(affine, "scanner")
        return cls(
            array=array.astype(np.float32),
            affine=affine,
            native_affine=affine,
            native_orientation=_RAS,
            header=header,
            path=None,
        )

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxels along the axes of `array`, mm."""
        x, y, z = voxel_sizes(self.affine)
        return float(x), float(y), float(z)

    @property
    def grid(self) -> str:
        """Shape and spacing as text for messages: `240×240×155, 1×1×1 mm`."""
        return f"{'×'.join(map(str, self.array.shape))}, {'×'.join(f'{size:.3g}' for size in self.spacing)} mm"

    @property
    def space(self) -> Space:
        """Shape and affine of `array`."""
        return self.array.shape, self.affine

    @property
    def name(self) -> str:
        """What provenance calls it: its file, or `in memory` and the start of the SHA-256 of its voxels and affine."""
        if self.path:
            return str(self.path)
        digest = hashlib.sha256(np.ascontiguousarray(self.array).tobytes())
        digest.update(np.ascontiguousarray(self.affine, np.float64).tobytes())
        return f"{IN_MEMORY} {digest.hexdigest()[:16]}"

    def background(self, contrast: str) -> float:
        """What an empty voxel measures here (`foreground.find_background`)."""
        return self._edges(contrast)[0]

    def threshold(self, contrast: str) -> float:
        """The value above which a voxel counts as foreground (`foreground.foreground_threshold`)."""
        return self._edges(contrast)[1]

    def _edges(self, contrast: str) -> tuple[float, float]:
        kind = contrast if contrast == "CT" else "MR"
        if kind not in self._found:
            empty = find_background(self.array, contrast)
            self._found[kind] = empty, foreground_threshold(self.array, contrast, empty)
        return self._found[kind]

    def write_array(self, path: str | Path, array: np.ndarray, description: str) -> None:
        """Write an array of this volume's grid as float32, in the file's own orientation and with its affine.

        Forms, codes and units of the header stay bit by bit. What describes the source's intensities or acquisition
        (display window, intent, header extensions) is not handed on. The file appears whole or not at all; its
        folder is made where it is missing, an existing file is replaced.

        Args:
            path: the new file, `.nii` or `.nii.gz`.
            array: (X, Y, Z), RAS+, finite.
            description: goes into the header's `descrip`, cut to the 79 bytes that fit.

        Raises:
            InputError: if the name is not a NIfTI name or the file cannot be written.
        """
        path = Path(path)
        if not path.name.lower().endswith((".nii", ".nii.gz")):
            raise InputError(f"cannot write {path}: give a file name that ends in .nii or .nii.gz")
        array = np.asarray(array, dtype=np.float32)
        assert array.shape == self.array.shape, f"array {array.shape} is not on the grid {self.array.shape}"
        assert np.isfinite(array).all(), "array holds NaN or infinite voxels"

        header = self.header.copy()
        header.extensions.clear()
        header.set_data_dtype(np.float32)
        header.set_intent("none")
        header["cal_min"] = header["cal_max"] = 0
        header["aux_file"] = b""
        header["descrip"] = description.encode()[:79].decode(errors="ignore").encode()  # never half a character
        native = apply_orientation(array, ornt_transform(_RAS, self.native_orientation))
        image_class = _Image2 if isinstance(header, Nifti2Header) else _Image
        # nibabel leaves the header's forms alone because the affine equals the one they give.
        image = image_class(native, self.native_affine, header)

        temporary = path.with_name(f".{os.getpid()}-{path.name}")  # the suffix tells nibabel whether to compress
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            image.to_filename(temporary)
            os.replace(temporary, path)
        except OSError as error:
            raise InputError(
                f"cannot write {path} ({error.strerror or error}): check the folder and its space"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def same_grid(first: Space, other: Space) -> bool:
    """Whether voxel (x, y, z) of two arrays is the same place: equal shapes, corners within a tenth of a voxel."""
    if first[0] != other[0]:
        return False
    return largest_shift(first, other) < _GRID_TOLERANCE * float(voxel_sizes(first[1]).min())


def largest_shift(first: Space, other: Space) -> float:
    """Largest distance in mm between equal corners of two grids of one shape."""
    corners = np.array([(*corner, 1) for corner in np.ndindex(2, 2, 2)]) * (*np.subtract(first[0], 1), 1)
    return float(np.linalg.norm(corners @ (first[1] - other[1]).T, axis=1).max())


def check_same_grid(volumes: Mapping[str, Volume]) -> None:
    """Check that all volumes lie on one grid.

    Args:
        volumes: contrast → its volume.

    Raises:
        InputError: naming the first volume, the one that differs, and both grids.
    """
    names = list(volumes)
    for name in names[1:]:
        first, other = volumes[names[0]], volumes[name]
        if same_grid(first.space, other.space):
            continue
        texts = [f"{key} ({volume.path or IN_MEMORY}: {volume.grid})" for key, volume in
                 ((names[0], first), (name, other))]  # fmt: skip
        how = ""
        if first.array.shape == other.array.shape:
            how = f" (same shape, up to {largest_shift(first.space, other.space):.3g} mm apart)"
        raise InputError(f"{texts[0]} and {texts[1]} lie on different grids{how}: register and resample them first")


def _load(path: Path) -> Nifti1Image:
    """Open by content, not by name. Decompressed in full, since only then gzip's checksum is compared."""
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
    for image_class in (_Image, _Image2):
        # A .hdr file begins alike, but its voxels stand in an .img file.
        if path.suffix.lower() != ".hdr" and image_class.header_class.may_contain_header(data):
            if len(data) < image_class.header_class.sizeof_hdr:
                raise InputError(f"{path} is truncated or corrupt: copy it again")
            _check_sizes(path, image_class.header_class(data[: image_class.header_class.sizeof_hdr], check=False))
            try:
                return image_class.from_bytes(data)
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


def _affine(name: str | Path, image: Nifti1Pair) -> np.ndarray:
    """The file's affine, (4, 4) float64 in mm, checked."""
    units = image.header.get_xyzt_units()[0]
    if units not in ("mm", "unknown"):
        raise InputError(f"{name} states its voxel size in {units}: convert its affine and xyzt_units to mm first")
    affine = np.array(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or np.linalg.matrix_rank(affine[:3, :3]) < 3:
        raise InputError(f"{name} has an affine that spans no volume (voxel sizes of 0?): mend its qform and sform")
    if not image.header["qform_code"] and not image.header["sform_code"]:
        axes = "".join(map(str, aff2axcodes(affine)))
        logger.warning("%s states no orientation (qform and sform codes are 0): its axes are taken as %s", name, axes)
    return affine


def _intensities(name: str | Path, image: Nifti1Pair) -> np.ndarray:
    """The file's voxels as float32, checked."""
    try:
        # What is beyond float32 becomes inf here and are reported below, so numpy need not warn.
        with np.errstate(over="ignore", invalid="ignore"):
            array = image.get_fdata(dtype=np.float32, caching="unchanged")
    except (OSError, ValueError):  # fewer voxels than the header says
        raise InputError(f"{name} is truncated or corrupt: copy it again") from None
    wrong = array.size - int(np.isfinite(array).sum())
    if wrong:
        raise InputError(f"{name} holds {wrong} NaN or infinite voxels of {array.size}: replace them (by 0, say) first")
    if array.min() == array.max():
        raise InputError(f"{name} is constant (every voxel is {array.flat[0]:g}): leave it out or export it again")
    return array


def read_labels(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a label image; unlike a scan it may be empty.

    Returns:
        Labels (X, Y, Z) uint8 in RAS+, and their (4, 4) affine, mm.

    Raises:
        InputError: if the file cannot be read, is not 3D, or holds anything but whole numbers from 0 to 255.
    """
    return labels_of(_load(Path(path)), path)


def labels_of(image: SpatialImage, name: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """A label image that is open, as `read_labels` gives its file; `name` is what messages call it."""
    image = as_closest_canonical(image)
    try:
        labels = np.asarray(image.dataobj).reshape(image.shape[:3])
    except (OSError, ValueError):  # more than one volume, or fewer voxels than the header says
        raise InputError(f"{name} is truncated or not one 3D label image: copy it again or split it") from None
    whole = np.round(labels)
    # A label that was scaled for storage comes back as 0.999999.
    right = (abs(labels - whole) <= _WHOLE) & (whole >= 0) & (whole <= 255)  # NaN is neither
    if not labels.size or not right.all():
        raise InputError(f"{name} is no label image: it must hold whole numbers from 0 to 255")
    return whole.astype(np.uint8), np.asarray(image.affine)
