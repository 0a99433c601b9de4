"""Writers of synthetic images, one module a format or a way of naming; what they write, `image.py` says."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scansynth.errors import InputError


class WriteError(InputError):
    """A disk that is full or a folder that may not be written: no further image of a command can be, either."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise WriteError, in one line, where what is done inside cannot write a file or a folder."""
    try:
        yield
    except OSError as error:
        raise WriteError(
            f"cannot write {path} ({error.strerror or error}): check the folder and its space; the same command goes on"
        ) from error


@dataclass(frozen=True)
class Part:
    """One of a translation's images, of any format."""

    array: np.ndarray
    """(X, Y, Z) float32, RAS+."""
    mark: str
    """What its header says of it."""
    content: Mapping[str, Any]
    """What its sidecar says beside the provenance."""
