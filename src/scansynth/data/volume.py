"""Volumes: an image file in, an RAS+ array; an array of the same grid out as NIfTI, in the file's own orientation.

Arrays are (X, Y, Z), each axis pointing right, anterior, superior (RAS+) as nearly as the scan's own axes allow:
axes are permuted and flipped, never resampled, so an oblique scan stays oblique and writing back is exact.
"""

import contextlib
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.orientations import apply_orientation, ornt_transform

from scansynth.data.foreground import find_background, foreground_threshold
from scansynth.data.nifti_header import Image, Image2, comment, geometry_of, new_header
from scansynth.errors import InputError
from scansynth.files import place_beside

IN_MEMORY = "in memory"
"""What a volume without a file is called, in messages and in provenance (there with its hash)."""
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
    """The file's header, NIfTI-1 or NIfTI-2; of a file of another format one that says the same."""
    path: Path | None
    """The file that was read; None for a volume that was not read from one."""
    _found: dict[str, tuple[float, float]] = field(default_factory=dict, repr=False)

    @classmethod
    def read(cls, path: str | Path) -> "Volume":
        """Read an image file of any format that there is a reader of (`data/readers`).

        Raises:
            InputError: if the file is missing, of another format than its name says, truncated or corrupt, not 3D
                (trailing singleton dimensions are dropped), not in mm, without real numbers, empty, constant, or holds
                NaN or infinite voxels; or if its reader's package is not installed.
        """
        from scansynth.data.readers import read  # whose readers make volumes

        return read(Path(path))

    @classmethod
    def of(cls, array: np.ndarray, affine: np.ndarray) -> "Volume":
        """A volume that no file stands behind: (X, Y, Z) in RAS+, with its (4, 4) affine, mm."""
        return cls(
            array=array.astype(np.float32),
            affine=affine,
            native_affine=affine,
            native_orientation=_RAS,
            header=new_header(array.shape, affine),
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

    def write_array(self, path: str | Path, array: np.ndarray, description: str, *, note: str = "") -> None:
        """Write an array of this volume's grid as float32, in the file's own orientation and with its affine.

        Forms, codes and units of the header stay bit by bit; nothing else of the source's header is handed on
        (`nifti_header.geometry_of`). The file appears whole or not at all; its folder is made where it is missing, an
        existing file is replaced.

        Args:
            path: the new file, `.nii` or `.nii.gz`.
            array: (X, Y, Z), RAS+, finite.
            description: goes into the header's `descrip`, cut to the 79 bytes that fit.
            note: text for a header extension, which other programs keep where they rewrite `descrip`; none if empty.

        Raises:
            InputError: if the name is not a NIfTI name or the file cannot be written.
        """
        path = Path(path)
        if not path.name.lower().endswith((".nii", ".nii.gz")):
            raise InputError(f"cannot write {path}: give a file name that ends in .nii or .nii.gz")
        array = np.asarray(array, dtype=np.float32)
        assert array.shape == self.array.shape, f"array {array.shape} is not on the grid {self.array.shape}"
        assert np.isfinite(array).all(), "array holds NaN or infinite voxels"

        header = geometry_of(self.header)
        header.set_data_dtype(np.float32)
        if note:
            header.extensions.append(comment(note))
        header["descrip"] = description.encode()[:79].decode(errors="ignore").encode()  # never half a character
        native = apply_orientation(array, ornt_transform(_RAS, self.native_orientation))
        image_class = Image2 if isinstance(header, Nifti2Header) else Image
        # nibabel leaves the header's forms alone because the affine equals the one they give.
        image = image_class(native, self.native_affine, header)

        temporary = place_beside(path)  # the suffix tells nibabel whether to compress
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
        raise InputError(f"{texts[0]} and {texts[1]} lie on different grids{how}: register them first, as --raw does")
