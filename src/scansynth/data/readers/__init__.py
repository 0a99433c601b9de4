"""Readers of image files, one module a format; which one reads a file, its name's ending says.

A reader opens a file as a `stored.Stored`: what the file says, unchecked. What must be true of a scan of any format is
checked in one place, `stored.py`, and said in the same words. A new format is a module with `open_image(path)` and its
line in `READERS`.

This module loads no reader, so that names of files cost nothing.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from scansynth.errors import InputError, why

if TYPE_CHECKING:
    import numpy as np

    from scansynth.data.readers.stored import Stored
    from scansynth.data.volume import Volume

logger = logging.getLogger(__name__)

NIFTI = (".nii.gz", ".nii")
READERS = {
    **dict.fromkeys(NIFTI, "nifti"),
    **dict.fromkeys((".mgz", ".mgh", ".mgh.gz"), "mgz"),
    **dict.fromkeys((".mha", ".mhd", ".nrrd", ".nhdr"), "itk"),
}
"""Ending of a file's name, in small letters → the module here that reads it."""


def ending_of(name: str) -> str:
    """The ending in `READERS` that a file's name has, as it is written there; empty where it has none."""
    found = next((ending for ending in READERS if name.lower().endswith(ending)), "")
    return name[len(name) - len(found) :] if len(name) > len(found) else ""


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Around all that is done to read one file, so that a cohort never stops at an error that names no file.

    Raises:
        InputError: for whatever else is raised within, with the file in it.
    """
    try:
        yield
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(f"{path} needs more memory than there is: resample or crop it, or leave it out") from error
    except Exception as error:
        logger.debug("%s", path, exc_info=True)
        raise InputError(f"{path} cannot be read ({why(error)}): export it again or leave it out") from error


def read(path: Path) -> "Volume":
    """Read a scan.

    Raises:
        InputError: as `Volume.read` says.
    """
    from scansynth.data.readers.stored import to_volume

    with reading(path):
        return to_volume(_open(path))


def read_labels(path: str | Path) -> "tuple[np.ndarray, np.ndarray]":
    """Read a label image; unlike a scan it may be empty.

    Returns:
        Labels (X, Y, Z) uint8 in RAS+, and their (4, 4) affine, mm.

    Raises:
        InputError: if the file cannot be read, is not 3D, has an affine that no scanner makes, or holds anything but
            whole numbers from 0 to 255.
    """
    from scansynth.data.readers.stored import to_labels

    with reading(path):
        return to_labels(_open(Path(path)))


def _open(path: Path) -> "Stored":
    """A file as its reader sees it; one without a known ending may still be NIfTI."""
    module = READERS.get(ending_of(path.name).lower(), "nifti")
    return import_module(f"{__name__}.{module}").open_image(path)
