"""Compressed arrays on disk, of which an axial slice is read without the rest."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from scansynth.errors import InputError
from scansynth.files import write_bytes, write_text
from scansynth.ranges import Natural

Sum = tuple[Natural, str]
"""Bytes of a file and their SHA-256."""

_whole: set[tuple[Path, int, str]] = set()
"""Files whose hash this process has seen to be the one that is known."""


def write_array(array: np.ndarray, path: Path, **notes: Any) -> Sum:
    """Compress an array so that one axial slice is one block; the file appears whole or not at all.

    Args:
        array: (X, Y, Z), or (N, X, Y, Z), of which one slice of all N is one block.
        path: of the `.b2nd` file.
        notes: kept in the file, by name (`read_note`): text or lists of it.

    Returns:
        The file's size and hash.

    Raises:
        OSError: if it cannot be written; what stood there is untouched.
    """
    *plane, z = array.shape
    codec = blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=5, filters=[blosc2.Filter.SHUFFLE])
    chunks, blocks = (*plane, min(z, 8)), (*plane, 1)
    whole: Any = np.ascontiguousarray(array)  # blosc2's types do not know numpy's arrays
    # In memory first: of a disk that is full blosc2 tells nothing but that it failed.
    stored: Any = blosc2.asarray(whole, chunks=chunks, blocks=blocks, cparams=codec)
    for name, note in notes.items():
        stored.schunk.vlmeta[name] = note
    content = stored.to_cframe()
    write_bytes(path, content)
    return len(content), hashlib.sha256(content).hexdigest()


def sum_of(path: Path) -> Sum:
    """Size and hash of a file."""
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def read_note(path: Path, name: str) -> Any:
    """What a file keeps by a name; None where it is not there, not readable, or keeps nothing by it."""
    if not path.is_file():
        return None
    try:
        stored = _open(path)  # which must outlive its notes
        return stored.schunk.vlmeta[name]
    except (RuntimeError, KeyError, ValueError, TypeError):
        return None


def read_array(
    path: Path,
    z: int | slice | None,
    cure: str,
    *,
    axis: int = 2,
    box: tuple[slice, slice, slice] | None = None,
    known: tuple[int, str] | None = None,
) -> np.ndarray:
    """Read an array (…, Z), a slice of it (…) or some slices (…, n).

    Args:
        path: of the file.
        z: a slice number, a range, or None for all.
        cure: what to do where the file cannot be read.
        axis: which of (X, Y, Z) the slices lie along; of other than axial ones (2) all blocks are read.
        box: the part of (X, Y, Z) that is read as if it were all there is.
        known: size and hash that the file had when it was written. The size is checked at each call, the hash at a
            process's first.

    Raises:
        InputError: if the file is missing or damaged.
    """
    try:
        if known is not None and not is_whole(path, known):
            raise InputError(f"{path}: missing or damaged, not what was written there: {cure}")
        stored = _open(path)
        index: list[int | slice] = [slice(None)] * 3 if box is None else list(box)
        if box is None and z is not None:
            index[axis] = z
        elif box is not None and z is not None:
            places = range(box[axis].start, box[axis].stop)[z]
            index[axis] = places if isinstance(places, int) else slice(places.start, places.stop)
        return np.asarray(stored[..., *index] if stored.ndim > 3 else stored[tuple(index)])
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError, TypeError, IndexError, KeyError) as error:
        raise InputError(f"{path}: missing or damaged: {cure}") from error


def is_whole(path: Path, known: tuple[int, str]) -> bool:
    """Whether a file is what was written there: its size, and at a process's first call its hash."""
    size, digest = known
    try:
        if path.stat().st_size != size:
            return False
        if (path, size, digest) not in _whole:
            if sum_of(path) != (size, digest):
                return False
            _whole.add((path, size, digest))
        return True
    except OSError:
        return False


def _open(path: Path) -> Any:
    """The array in a file. What else blosc2 keeps in files (expressions and functions to compute, links) is refused.

    Raises:
        ValueError: if it is no array.
    """
    # One thread: a slice is one block, and blosc2's thread pool does not survive the fork of a loader's workers.
    stored = blosc2.open(str(path), mode="r", dparams={"nthreads": 1}, deserialize="safe")
    if not isinstance(stored, blosc2.NDArray):
        raise ValueError("no array")
    return stored


class Sums:
    """Sizes and hashes of the arrays of a folder, the hashes kept beside them as `sha256sum -c` takes them.

    Args:
        folder: of the arrays.
    """

    def __init__(self, folder: Path):
        self.folder, self._path = folder, folder / "SHA256SUMS"
        self.known: dict[str, tuple[int, str]] = {}
        """File → size and hash."""
        text = self._path.read_text(encoding="utf-8", errors="replace") if self._path.is_file() else ""
        for digest, name in re.findall(r"^([0-9a-f]{64})  ([^/\n]+)$", text, re.MULTILINE):
            if (folder / name).is_file():
                self.known[name] = ((folder / name).stat().st_size, digest)

    def write(self, array: np.ndarray, name: str, **notes: Any) -> None:
        """Write an array (`write_array`)."""
        self.known[name] = write_array(array, self.folder / name, **notes)
        self._keep()

    def remove(self, name: str) -> None:
        """Remove an array."""
        (self.folder / name).unlink(missing_ok=True)
        if self.known.pop(name, None):
            self._keep()

    def holds(self, name: str, *, shape: Sequence[int] = ()) -> bool:
        """Whether an array is there and whole; of one without a hash, which is then taken, whether it opens.

        Args:
            name: of its file.
            shape: that it has at least, where nothing else is known of it.
        """
        if name in self.known:
            return is_whole(self.folder / name, self.known[name])
        try:
            found = _open(self.folder / name).shape
            if shape and (
                len(found) != len(shape) or any(has < least for has, least in zip(found, shape, strict=True))
            ):
                return False
            self.known[name] = sum_of(self.folder / name)
        except (OSError, RuntimeError, ValueError, TypeError):
            return False
        self._keep()
        return True

    def _keep(self) -> None:
        write_text(self._path, "".join(f"{digest}  {name}\n" for name, (_, digest) in sorted(self.known.items())))
