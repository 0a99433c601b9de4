"""Zip archives as portals and colleagues send them: DICOM is unpacked for as long as it is read."""

import os
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from scansynth.errors import InputError
from scansynth.users_files import open_file

ENDING = ".zip"
MEMBERS = 1_000_000
ROOM = 1 << 30
"""Bytes that are left free on the disk."""


def is_archive(path: Path) -> bool:
    """Whether a path names a zip archive."""
    return path.suffix.lower() == ENDING and not path.is_dir()


@contextmanager
def opened(path: Path) -> Iterator[Path]:
    """Inside, a folder that holds what a zip archive does, under its name; a folder is what it is.

    Raises:
        InputError: if it is no archive, is encrypted or damaged, or holds more than the disk has room for.
    """
    if not is_archive(path):
        yield path
        return
    with TemporaryDirectory(prefix="scansynth-") as place:
        folder = Path(place, path.stem or "archive")
        folder.mkdir()
        unpack(path, folder)
        yield folder


def unpack(path: Path, folder: Path) -> None:
    """Unpack a zip archive into an empty folder; nothing in it leads out of there.

    Raises:
        InputError: if it is no archive, is encrypted or damaged, or holds more than the disk has room for.
    """
    with open_file(path) as file:
        try:
            _unpack(zipfile.ZipFile(file), folder)
        except RuntimeError as error:  # of zipfile, where a member is encrypted
            raise InputError(f"{path} cannot be unpacked ({error}): unpack it yourself") from error
        except Exception as error:  # of a damaged one: BadZipFile, and whatever its fields lead to
            why = " ".join(str(error).split())
            raise InputError(f"{path} cannot be unpacked ({why}): unpack it yourself, or fetch it anew") from error


def _unpack(archive: zipfile.ZipFile, folder: Path) -> None:
    """Write the members, no more of each than the archive states, each with the time that it had."""
    members = [one for one in archive.infolist() if not one.is_dir()]
    room = shutil.disk_usage(folder).free - ROOM
    if len(members) > MEMBERS or sum(one.file_size for one in members) > room:
        raise ValueError(f"it holds {len(members)} files of {sum(one.file_size for one in members) / 1e9:.1f} GB, and "
                         f"there is room for {max(room, 0) / 1e9:.1f} GB")  # fmt: skip
    for one in members:
        file = Path(archive.extract(one, folder))  # no way out of the folder: it drops roots, drives and ".."
        seconds = time.mktime((*one.date_time, 0, 0, -1))
        os.utime(file, (seconds, seconds))
