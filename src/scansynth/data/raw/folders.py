"""Folders of a cohort that hold what was made of raw scans: whose they are, and whether their files are whole."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scansynth.errors import InputError
from scansynth.files import sha256_of, write_text
from scansynth.records import read_json

CONVERTED = "converted"
"""What DICOM was converted to (`dicom_series.py`)."""
REGISTERED = "registered"
"""Scans that were brought together (`on_disk.py`)."""
MARK = "settings.json"
"""Without it a folder is somebody else's."""


def is_ours(cohort: Path) -> bool:
    """Whether a cohort's folder holds such a folder, so that a stopped `prepare` goes on in it."""
    return any((cohort / name / MARK).is_file() for name in (CONVERTED, REGISTERED))


def claim(place: Path, wanted: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """Make a folder ours, or go on with one that was made with the same settings.

    Args:
        place: the folder.
        wanted: settings, of JSON values.
        overwrite: throw away what was made with others.

    Raises:
        InputError: if it is somebody else's, or of other settings.
    """
    mark = place / MARK
    if not mark.is_file():
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            raise InputError(f"{place} was not made by scansynth: choose another -o, or move it")
    elif read_json(mark, dict[str, Any], f"delete {place}") != wanted:
        if not overwrite:
            raise InputError(f"{place}: made with other settings ({MARK}): overwrite, or choose another -o")
        shutil.rmtree(place)
    write_text(mark, json.dumps(wanted))


def sums_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Hashes of files."""
    return {name: sha256_of(folder / name) for name in names}


def are_whole(folder: Path, sums: Mapping[str, str]) -> bool:
    """Whether files are there as they were written."""
    return all((folder / name).is_file() and sha256_of(folder / name) == known for name, known in sums.items())
