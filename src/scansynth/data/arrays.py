"""Compressed arrays on disk, of which an axial slice is read without the rest."""

import os
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from scansynth.errors import InputError


def write_array(array: np.ndarray, path: Path, **notes: Any) -> None:
    """Compress an array so that one axial slice is one block; the file appears whole or not at all.

    Args:
        array: (X, Y, Z), or (N, X, Y, Z), of which one slice of all N is one block.
        path: of the `.b2nd` file.
        notes: kept in the file, by name (`read_note`): text or lists of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    *plane, z = array.shape
    codec = blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=5, filters=[blosc2.Filter.SHUFFLE])
    chunks, blocks = (*plane, min(z, 8)), (*plane, 1)
    whole: Any = np.ascontiguousarray(array)  # blosc2's types do not know numpy's arrays
    stored: Any = blosc2.asarray(whole, urlpath=str(part), mode="w", chunks=chunks, blocks=blocks, cparams=codec)
    for name, note in notes.items():
        stored.schunk.vlmeta[name] = note
    os.replace(part, path)


def read_note(path: Path, name: str) -> Any:
    """What a file keeps by a name; None where it is not there, not readable, or keeps nothing by it."""
    if not path.is_file():
        return None
    try:
        stored: Any = blosc2.open(str(path), mode="r")
        return stored.schunk.vlmeta[name]
    except (RuntimeError, KeyError, ValueError):
        return None


def read_array(
    path: Path, z: int | slice | None, cure: str, *, box: tuple[slice, slice, slice] | None = None
) -> np.ndarray:
    """Read an array (…, Z), a slice of it (…) or some slices (…, n).

    Args:
        path: of the file.
        z: a slice number, a range, or None for all.
        cure: what to do where the file cannot be read.
        box: the part of (X, Y, Z) that is read as if it were all there is.

    Raises:
        InputError: if the file is missing or damaged.
    """
    # One thread: a slice is one block, and blosc2's thread pool does not survive the fork of a loader's workers.
    try:
        stored: Any = blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
        if box is None:
            return np.asarray(stored[:] if z is None else stored[..., z])
        x, y, slices = box
        places = range(slices.start, slices.stop)[slice(None) if z is None else z]
        part = places if isinstance(places, int) else slice(places.start, places.stop)
        return np.asarray(stored[x, y, part])
    except (FileNotFoundError, RuntimeError) as error:
        raise InputError(f"{path}: missing or damaged: {cure}") from error
