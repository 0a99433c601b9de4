"""The image files below a data folder, found in one walk by their names alone."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scansynth.data.readers import NIFTI, ending_of
from scansynth.errors import InputError

DEEPEST = 6
"""Folders below the data folder, one in the other, that are looked into."""
FORMATS = (".hdr", ".img", ".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd", ".mnc", ".dcm")
"""Endings of images that are not NIfTI; some of these formats are read, others are only known (`readers.READERS`)."""

_OTHER = re.compile(rf".+({'|'.join(map(re.escape, FORMATS))})(\.gz)?", re.IGNORECASE)
_DICOM = re.compile(r".+\.(dcm|ima)|DICOMDIR|IM[-_]?\d+|((MR|CT)\.)?1\.(2\.840|3\.(6|12|46))\.[\d.]+", re.IGNORECASE)
"""DICOM files, also those of scanners and archives, whose names are a unique identifier or a number."""
_DICOM_FOLDER = re.compile(r"(.+\.)?(dcm|ima|dicoms?)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder, its image files by name and in order, and the folders in it."""

    path: Path
    readable: tuple[str, ...] = ()
    """Of formats that are read; without hidden ones and without twins."""
    twins: tuple[str, ...] = ()
    """Of other formats, beside a NIfTI file of the same name but for the ending."""
    others: tuple[str, ...] = ()
    """Of formats that are not read, and hidden image files."""
    dicom: bool = False
    """Whether there are DICOM files in it."""
    folders: tuple["Folder", ...] = ()
    """Without hidden ones."""
    linked: bool = False
    """Whether it was reached by a link, or holds links."""
    closed: str = ""
    """Why it was not looked into."""

    def images(self) -> list[Path]:
        """Its files that are read."""
        return [self.path / name for name in self.readable]

    def all(self) -> Iterator["Folder"]:
        """Itself and those below it."""
        yield self
        for folder in self.folders:
            yield from folder.all()


def walk(root: Path) -> Folder:
    """Look into a folder and those below it.

    Links are followed, but for one to a folder that it stands in.

    Raises:
        InputError: if the folder itself cannot be opened.
    """
    folder = _walk(root, 0, linked=False)
    if folder.closed:
        raise InputError(f"{root} {folder.closed}: give a folder that you may read")
    return folder


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, as the `._x` that macOS writes beside a file on a foreign disk."""
    return name.startswith(".")


def is_nifti(name: str) -> bool:
    """Whether a file's name is that of a NIfTI file."""
    return ending_of(name).lower() in NIFTI


def _walk(path: Path, depth: int, *, linked: bool) -> Folder:
    if depth > DEEPEST:
        return Folder(path=path, closed=f"lies deeper than {DEEPEST} folders")
    try:
        with os.scandir(path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        return Folder(path=path, closed=f"cannot be opened ({error.strerror})")
    readable, others, folders = [], [], []
    files = [entry for entry in entries if not entry.is_dir()]
    dicom = bool(files) and _DICOM_FOLDER.fullmatch(path.name) is not None
    for entry in entries:
        name = entry.name
        if entry.is_dir():
            if not is_hidden(name) and not _leads_back(entry):
                folders.append(_walk(path / name, depth + 1, linked=linked or entry.is_symlink()))
        elif ending_of(name):
            (others if is_hidden(name) else readable).append(name)
        elif _DICOM.fullmatch(name) and not is_hidden(name):
            dicom = True
        elif _OTHER.fullmatch(name):
            others.append(name)
    linked = linked or any(entry.is_symlink() for entry in files)
    stems = {_stem(name) for name in readable if is_nifti(name)}
    twins = [name for name in readable if not is_nifti(name) and _stem(name) in stems]
    return Folder(
        path=path,
        readable=tuple(name for name in readable if name not in twins),
        twins=tuple(twins),
        others=tuple(_one_a_pair(others)),
        dicom=dicom,
        folders=tuple(folders),
        linked=linked,
    )


def _stem(name: str) -> str:
    return name.removesuffix(ending_of(name)).lower()


def _one_a_pair(names: list[str]) -> list[str]:
    """Names without the `.img` of a header that is there."""
    lower = {name.lower() for name in names}
    return [name for name in names if not (name.lower().endswith(".img") and f"{name[:-4].lower()}.hdr" in lower)]


def _leads_back(entry: os.DirEntry[str]) -> bool:
    """Whether a link leads to a folder that it stands in, so that following it would never end."""
    if not entry.is_symlink():
        return False
    target, here = os.path.realpath(entry.path), os.path.realpath(os.path.dirname(entry.path))
    return os.path.commonpath((target, here)) == target
