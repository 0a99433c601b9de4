"""MetaImage (`.mha`, `.mhd`) and NRRD (`.nrrd`, `.nhdr`) by SimpleITK, which is an extra: `scansynth[itk]`.

ITK's world has axes to the left, posterior and superior (LPS); here they go right, anterior and superior (RAS), so the
first two rows of an affine change their signs, exactly. What ITK fills in or passes over without a word (no voxel size,
no orientation, another unit, a file that ends too early) is looked up in the text that both formats begin with.
"""

import math
import os
import re
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from scansynth.data.readers.content import MARGIN, Content, check_room
from scansynth.data.readers.stored import Stored
from scansynth.errors import InputError
from scansynth.users_files import open_file

_META, _NRRD = "MetaImageIO", "NrrdImageIO"
_TEXT = 1 << 20  # bytes in which a header ends
_LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
_SPACES = {
    "left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las",
}  # fmt: skip
"""Of NRRD, those that ITK brings to LPS itself."""
_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 8, 7: 8, 8: 4, 9: 8}
"""SimpleITK's number of a real type (u)int8 to (u)int64, float32, float64 → bytes."""
_TYPES = [f"MET_{kind}" for one in ("CHAR", "SHORT", "INT", "LONG", "LONG_LONG") for kind in (one, f"U{one}")]
_TYPES += ["MET_FLOAT", "MET_DOUBLE"]
_KEY, _VALUE = 100, 2000  # characters; MetaIO has room for 255 and 4096
_NRRD_VALUE, _NRRD_TEXT = 500, 1 << 16  # characters; NrrdIO reports a wrong value by a buffer of 1024
_NRRD_KEYS = {
    "content", "number", "type", "block size", "blocksize", "dimension", "space", "space dimension", "sizes",
    "spacings", "thicknesses", "axis mins", "axismins", "axis maxs", "axismaxs", "space directions", "centers",
    "centerings", "kinds", "labels", "units", "min", "max", "old min", "oldmin", "old max", "oldmax", "data file",
    "datafile", "endian", "encoding", "line skip", "lineskip", "byte skip", "byteskip", "sample units", "sampleunits",
    "space units", "space origin", "measurement frame",
}  # fmt: skip
_LONGEST = 40  # characters of a number that is written out
_PLACES = ("offset", "position", "origin", "space origin", "transformmatrix", "orientation", "rotation")


class _Itk(Stored):
    """A file whose header SimpleITK read; its voxels are read when they are asked for."""

    def __init__(self, path: Path, reader: Any, header: "_Header"):
        self.path, self._reader = path, reader
        self.shape = tuple(map(int, reader.GetSize()))
        self.kind = np.dtype(np.float32)  # or any other real number
        self.units, self.unoriented = _units(header.fields), _unoriented(header.fields)
        self._header = header

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

        self._header.check_voxels(math.prod(self.shape), self._reader.GetPixelIDValue())
        try:
            image = self._reader.Execute()
        except RuntimeError as error:
            raise OSError(_reason(error)) from None
        return SimpleITK.GetArrayFromImage(image).transpose()


def open_image(path: Path) -> _Itk:
    """Open a file; its ending says which of the two formats it must have.

    Raises:
        InputError: if SimpleITK is not installed, the file is missing, of another format or not whole, states no voxel
            size, a space of other axes, names voxels outside its folder, or has several values a voxel
            (colours, complex numbers).
    """
    try:
        import SimpleITK
    except ImportError as error:
        raise InputError(f"{path}: {path.suffix} files need SimpleITK: pip install 'scansynth[itk]'") from error
    header = _Header(path)
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
    return _Itk(path, reader, header)


class _Header:
    """The text that a file begins with.

    Raises:
        InputError: for a file that ITK would wait for, take for another or read wrongly.
    """

    def __init__(self, path: Path):
        with open_file(path) as file:
            start = file.read(_TEXT)
        self.path, self.nrrd = path, _is_nrrd(path)
        if not start:
            raise InputError(f"{path} is truncated or corrupt: copy it again")
        if start.startswith(b"NRRD") is not self.nrrd:
            raise InputError(f"{path} is no {path.suffix} file, whatever its name: rename it to what it is")
        self.fields: dict[str, str] = {}
        """By key in small letters; without what a space or tab leads in."""
        self._end = self._read(start)
        """Bytes of the file that are header."""
        _check(path, self.fields, nrrd=self.nrrd)
        self._data = self._beside()
        """The file that holds the voxels."""
        self._name = str(path) if self._data == path else f"{path} (its voxels in {self._data.name})"

    def check_voxels(self, voxels: int, kind: int) -> None:
        """Compare the bytes that are there with those that the header claims, before ITK takes memory for them.

        ITK goes on with what it has of damaged voxels, and compares no checksum.

        Args:
            voxels: how many the header claims.
            kind: SimpleITK's number of their type.

        Raises:
            InputError: if there are fewer or more bytes, or they are damaged. OSError: for a type that is not known.
        """
        if kind not in _BYTES:
            raise OSError(f"type {kind}")
        claimed = voxels * _BYTES[kind]
        check_room(self.path, claimed, voxels)
        attached = self._data == self.path
        skipped = self._skipped()
        there = self._data.stat().st_size - (self._end if attached else 0)
        if not self.nrrd and self._is_compressed() and self.fields.get("compresseddatasize") != str(there):
            # MetaIO would leave the voxels as they happen to be in memory.
            raise InputError(
                f"{self._name} has {there} bytes of compressed voxels, and its CompressedDataSize says otherwise or is "
                "missing: it is truncated or corrupt, copy it again or export it again"
            )
        encoding = self.fields.get("encoding", "raw").lower()
        with open_file(self._data) as file:
            if attached:
                file.seek(self._end)
            content = Content(self._name, file, compressed=self._is_compressed())
            if skipped < 0:  # whatever lies before, the voxels are the last bytes
                content.check(claimed, after=_TEXT)
            elif self._is_compressed() or encoding == "raw":  # one byte more, and all may stand a byte further
                content.check(claimed + skipped, after=0)
            else:  # as text: digits in pairs, or numbers with a space between
                least = 2 * claimed if encoding == "hex" else 2 * voxels - 1
                text = content.whole(b"", least, after=_LONGEST * voxels + MARGIN)
                if encoding == "hex":
                    whole = len(re.sub(rb"\s+", b"", text)) == 2 * claimed and not re.search(rb"[^\da-fA-F\s]", text)
                else:  # NrrdIO reads a longer word beyond its buffer
                    whole = sum(1 for _ in re.finditer(rb"\S+", text)) == voxels
                    whole = whole and not re.search(rb"\S{%d}|[^\d.eE+\s-]" % _LONGEST, text)
                if not whole:
                    raise InputError(f"{self._name} is truncated or corrupt: copy it again")

    def _read(self, start: bytes) -> int:
        place = 0
        for number, line in enumerate(start.split(b"\n")):
            place += len(line) + 1
            text = line.decode("latin-1")
            key, found, value = (part.strip() for part in text.partition(":" if self.nrrd else "="))
            key = key.lower()
            if text.strip() and not (_is_nrrd_line(text, number) if self.nrrd else found):
                raise _odd_line(self.path, text.strip())
            if found and not key.startswith("#") and not (self.nrrd and value.startswith("=")):  # those are for people
                if key in self.fields:
                    raise InputError(f"{self.path} states {key[:40]} twice: mend its header, or export it again")
                self.fields[key] = value
            if (self.nrrd and not text.strip()) or key == "elementdatafile":
                return min(place, len(start))
        if len(start) == _TEXT:
            raise InputError(f"{self.path} has a header of more than {_TEXT >> 20} MiB: export it again")
        return len(start)

    def _beside(self) -> Path:
        """The file that holds the voxels, which must not be any file of this machine."""
        name = _data_file(self.fields)
        if not name:
            return self.path
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InputError(f"{self.path} names {name[:80]} for its voxels, not in its folder: put both there")
        data = self.path.parent / name
        if not os.path.exists(data):  # nor can be: too long, or with a NUL in it
            raise InputError(f"{self.path} is truncated or corrupt, {name[:80]!r} is not beside it: copy both again")
        with open_file(data):
            return data

    def _is_compressed(self) -> bool:
        meta = self.fields.get("compresseddata", "").lower()[:1] in ("t", "1", "y")
        return meta or self.fields.get("encoding", "").lower() in ("gzip", "gz")

    def _skipped(self) -> int:
        """Bytes before the voxels; −1 where those are the last ones of the file."""
        for key in ("headersize", "byte skip", "byteskip"):
            if (word := self.fields.get(key)) is not None:
                if not re.fullmatch(r"-1|\d{1,12}", word):
                    raise InputError(f"{self.path} states {word[:40]} as {key}: mend its header, or export it again")
                return int(word)
        return 0


def _check(path: Path, fields: Mapping[str, str], *, nrrd: bool) -> None:
    """Raise InputError for what ITK would take as 1 mm, as 0 or as LPS though it is not, or would not apply."""
    spaced = [one for one in (("spacings", "space directions") if nrrd else ("elementspacing",)) if one in fields]
    if not spaced:
        wanted = "space directions" if nrrd else "ElementSpacing"
        raise InputError(f"{path} states no voxel size: mend its header ({wanted}), or export it again")
    for key in (*spaced, *_PLACES):
        for word in re.findall(r"[^\s(),]+", fields.get(key, "")):
            if not _is_sane(word, size=key in ("spacings", "elementspacing")):
                raise InputError(f"{path} states {word[:40]} as {key}: mend its header, or export it again")
    space = fields.get("space", "").lower()
    if space and space not in _SPACES:
        raise InputError(f"{path} states its orientation in the space {space}: convert it to NIfTI, or to LPS or RAS")
    scaled = [
        fields.get(f"elementtointensityfunction{what}", usual) for what, usual in (("slope", "1"), ("offset", "0"))
    ]
    if scaled not in (["1", "0"],):
        raise InputError(f"{path} scales its voxels ({' and '.join(scaled)}), which ITK does not: export it scaled")
    if not nrrd:
        _check_meta(path, fields)
    encoding = fields.get("encoding", "raw").lower()
    if nrrd and encoding not in ("raw", "gzip", "gz", "ascii", "text", "txt", "hex"):
        raise InputError(
            f"{path} has its voxels encoded as {encoding}, which ITK does not read: export it as gzip or raw"
        )
    if fields.get("headersize", "0") != "0" and not _data_file(fields):  # ITK would count from the file's beginning
        raise InputError(f"{path} states a HeaderSize though its voxels follow the header: export it again")
    if (fields.get("line skip") or fields.get("lineskip") or "0") != "0":
        raise InputError(f"{path} has lines before its voxels (line skip): export it again, without")
    data = _data_file(fields)
    if data.upper().startswith("LIST") or "%" in data:
        raise InputError(f"{path} has its voxels in several files: export it as one, .mha or .nrrd")


def _check_meta(path: Path, fields: Mapping[str, str]) -> None:
    """Raise InputError for a MetaImage header that MetaIO would read beyond its arrays for, which ends the process."""

    def wrong(key: str) -> InputError:
        told = f"{fields[key][:40]} as {key}" if key in fields else f"no {key}"
        return InputError(f"{path} states {told}, and cannot be right: mend its header, or export it again")

    if not re.fullmatch("[1-8]", fields.get("ndims", "")):
        raise wrong("ndims")
    sides = int(fields["ndims"])
    counts = {
        **dict.fromkeys(("dimsize", "elementspacing", "elementsize", "sequenceid", "centerofrotation"), sides),
        **dict.fromkeys(("offset", "position", "origin"), sides),
        **dict.fromkeys(("transformmatrix", "orientation", "rotation"), sides * sides),
        **dict.fromkeys(("elementnumberofchannels", "headersize", "compresseddatasize"), 1),
    }
    for key, value in fields.items():
        words = value.split()
        if len(key) > _KEY or len(value) > _VALUE or not re.fullmatch(r"[a-z][\w .|-]*", key, re.ASCII):
            raise _odd_line(path, key)
        if key in counts and len(words) != counts[key]:
            raise wrong(key)
        whole = key in ("dimsize", "elementnumberofchannels", "compresseddatasize")
        if whole and not all(re.fullmatch(r"\d{1,12}", word) for word in words):
            raise wrong(key)
    if "dimsize" not in fields or fields.get("elementtype") not in _TYPES:
        raise wrong("elementtype" if "dimsize" in fields else "dimsize")


def _is_nrrd_line(text: str, number: int) -> bool:
    """Whether a line is one that NrrdIO can read: of others it reports by a buffer that they may be longer than."""
    text = text.rstrip("\r")
    if not number:
        return re.fullmatch("NRRD000[1-5]", text) is not None
    if text.startswith("#") or ":=" in text.partition(": ")[0]:
        return len(text) <= _NRRD_TEXT
    key, found, value = text.partition(": ")
    return key.lower() in _NRRD_KEYS and bool(found) and len(value) <= _NRRD_VALUE


def _odd_line(path: Path, key: str) -> InputError:
    return InputError(f"{path} has a line in its header that cannot be right ({key[:40]!r}): mend or remove it")


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
