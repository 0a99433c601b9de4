"""MetaImage (`.mha`, `.mhd`) and NRRD (`.nrrd`, `.nhdr`) by SimpleITK, which is an extra: `scansynth[itk]`.

ITK's world has axes to the left, posterior and superior (LPS); here they go right, anterior and superior (RAS), so the
first two rows of an affine change their signs, exactly. What ITK fills in or passes over without a word (no voxel size,
no orientation, another unit, a file that ends too early) is looked up in the text that both formats begin with.
"""

import re
import zlib
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from scansynth.data.readers.stored import Stored
from scansynth.errors import InputError

_META, _NRRD = "MetaImageIO", "NrrdImageIO"
_TEXT = 1 << 16  # bytes in which a header ends
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
_SPACES = {
    "left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las",
}  # fmt: skip
"""Of NRRD, those that ITK brings to LPS itself."""
_PLACES = ("offset", "position", "origin", "space origin", "transformmatrix", "orientation", "rotation")


class _Itk(Stored):
    """A file whose header SimpleITK read; its voxels are read when they are asked for."""

    def __init__(self, path: Path, reader: Any, fields: Mapping[str, str]):
        self.path, self._reader = path, reader
        self.shape = tuple(map(int, reader.GetSize()))
        self.kind = np.dtype(np.float32)  # or any other real number
        self.units, self.unoriented = _units(fields), _unoriented(fields)
        self._fields = fields

    def affine(self) -> np.ndarray:
        """From directions (columns), spacing and origin, LPS."""
        sides = len(self.shape)
        directions = np.reshape(self._reader.GetDirection(), (sides, sides))[:3, :3]
        affine = np.eye(4)
        affine[:3, :3] = directions * self._reader.GetSpacing()[:3] * _LPS_TO_RAS[:, None]
        affine[:3, 3] = self._reader.GetOrigin()[:3] * _LPS_TO_RAS
        return affine + 0.0  # no −0

    def intensities(self) -> np.ndarray:
        """As stored."""
        return self.labels().astype(np.float32, copy=False)

    def labels(self) -> np.ndarray:
        """As stored."""
        import SimpleITK

        _check_compressed(Path(self.path), self._fields)
        try:
            image = self._reader.Execute()
        except RuntimeError as error:
            raise OSError(_reason(error)) from None
        return SimpleITK.GetArrayFromImage(image).transpose()


def open_image(path: Path) -> _Itk:
    """Open a file; its ending says which of the two formats it must have.

    Raises:
        InputError: if SimpleITK is not installed, the file is missing, of another format or not whole, states no voxel
            size, a space of other axes, or has several values a voxel (colours, complex numbers).
    """
    try:
        import SimpleITK
    except ImportError as error:
        raise InputError(f"{path}: {path.suffix} files need SimpleITK: pip install 'scansynth[itk]'") from error
    fields = _fields(path)
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO(_NRRD if _is_nrrd(path) else _META)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise InputError(
            f"{path} is damaged or has a header that cannot be right ({_reason(error)}): mend it or copy it again"
        ) from None
    if (values := reader.GetNumberOfComponents()) > 1:
        raise InputError(f"{path} holds {values} values a voxel, not intensities: export a grey-value image")
    return _Itk(path, reader, fields)


def _fields(path: Path) -> dict[str, str]:
    """What the header's lines say, by key in small letters; without what a space or tab leads in."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: give an image file")
    try:
        with path.open("rb") as file:
            start = file.read(_TEXT)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): check its permissions") from error
    nrrd = _is_nrrd(path)
    if not start:
        raise InputError(f"{path} is truncated or corrupt: copy it again")
    if start.startswith(b"NRRD") is not nrrd:
        raise InputError(f"{path} is no {path.suffix} file, whatever its name: rename it to what it is")
    fields: dict[str, str] = {}
    for line in start.decode("latin-1").splitlines():
        key, found, value = line.partition(":" if nrrd else "=")
        if found:
            fields[key.strip().lower()] = value.strip()
        if (nrrd and not line.strip()) or key.strip().lower() == "elementdatafile":
            break
    _check(path, fields, nrrd=nrrd)
    return fields


def _check(path: Path, fields: Mapping[str, str], *, nrrd: bool) -> None:
    """Raise InputError for what ITK would take as 1 mm, as 0 or as LPS though it is not, or would not apply."""
    spaced = [one for one in (("spacings", "space directions") if nrrd else ("elementspacing",)) if one in fields]
    if not spaced:
        wanted = "space directions" if nrrd else "ElementSpacing"
        raise InputError(f"{path} states no voxel size: mend its header ({wanted}), or export it again")
    for key in (*spaced, *_PLACES):
        for word in re.findall(r"[^\s(),]+", fields.get(key, "")):
            if not _is_sane(word, size=key in ("spacings", "elementspacing")):
                raise InputError(f"{path} states {word} as {key}: mend its header, or export it again")
    space = fields.get("space", "").lower()
    if space and space not in _SPACES:
        raise InputError(f"{path} states its orientation in the space {space}: convert it to NIfTI, or to LPS or RAS")
    scaled = [
        fields.get(f"elementtointensityfunction{what}", usual) for what, usual in (("slope", "1"), ("offset", "0"))
    ]
    if scaled not in (["1", "0"],):
        raise InputError(f"{path} scales its voxels ({' and '.join(scaled)}), which ITK does not: export it scaled")
    data = _data_file(fields)
    if data.upper().startswith("LIST") or "%" in data:
        raise InputError(f"{path} has its voxels in several files: export it as one, .mha or .nrrd")


def _is_sane(word: str, *, size: bool) -> bool:
    """Whether a word is a finite number, and above 0 if it is a size; `none` stands for an axis of no space."""
    try:
        number = float(word)
    except ValueError:
        return word.lower() == "none"
    return isfinite(number) and not (size and number <= 0)


def _data_file(fields: Mapping[str, str]) -> str:
    """The file that holds the voxels, as the header names it; empty where they follow the header."""
    name = fields.get("elementdatafile") or fields.get("data file") or fields.get("datafile") or ""
    return "" if name.upper() == "LOCAL" else name


def _check_compressed(path: Path, fields: Mapping[str, str]) -> None:
    """Raise OSError if compressed voxels are damaged: ITK goes on with what it has, and compares no checksum."""
    meta = fields.get("compresseddata", "").lower().startswith("t")
    if not meta and fields.get("encoding", "").lower() not in ("gzip", "gz"):
        return
    if name := _data_file(fields):
        content = path.with_name(name).read_bytes()
    else:
        end = rb"(?i)ElementDataFile[^\n]*\n" if meta else rb"\r?\n\r?\n"
        content = re.split(end, path.read_bytes(), maxsplit=1)[-1]
    voxels = zlib.decompressobj(wbits=47)  # zlib's own frame or gzip's
    try:
        voxels.decompress(content)
    except zlib.error as error:
        raise OSError(str(error)) from None
    if not voxels.eof:
        raise OSError("the compressed voxels have no end")


def _units(fields: Mapping[str, str]) -> str:
    """The first unit of length that is stated and is not mm."""
    stated = [fields.get("distanceunits", "mm"), *re.findall(r'"([^"]*)"', fields.get("space units", ""))]
    return next((unit for unit in stated if unit.lower() not in ("mm", "millimeter", "millimeters", "", "?")), "mm")


def _unoriented(fields: Mapping[str, str]) -> str:
    """Why orientation is a guess: ITK takes axes that nobody names as LPS."""
    if {"transformmatrix", "orientation", "rotation"} & fields.keys() or {"space", "space directions"} <= fields.keys():
        return ""
    return "no space or no directions"


def _is_nrrd(path: Path) -> bool:
    return path.suffix.lower() in (".nrrd", ".nhdr")


def _reason(error: Exception) -> str:
    """The last line of ITK's report that says what was wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in reversed(lines) if line != "Reason: Success"), "no reason given")
