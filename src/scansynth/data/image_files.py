"""The image files below a data folder, found in one walk by their names alone."""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from scansynth.errors import InputError

DEEPEST = 6
"""Folders below the data folder, one in the other, that are looked into."""
FORMATS = (".hdr", ".img", ".mgz", ".mgh", ".nrrd", ".nhdr", ".mha", ".mhd", ".mnc", ".dcm")
"""Endings of images that are not NIfTI."""

_NIFTI = re.compile(r".+\.nii(\.gz)?", re.IGNORECASE)
_OTHER = re.compile(rf".+({'|'.join(map(re.escape, FORMATS))})(\.gz)?", re.IGNORECASE)
_DICOM = re.compile(r".+\.(dcm|ima)|DICOMDIR|IM[-_]?\d+|((MR|CT)\.)?1\.(2\.840|3\.(6|12|46))\.[\d.]+", re.IGNORECASE)
"""DICOM files, also those of scanners and archives, whose names are a unique identifier or a number."""
_DICOM_FOLDER = re.compile(r"(.+\.)?(dcm|ima|dicoms?)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder, its image files by name and in order, and the folders in it."""

    path: Path
    nifti: tuple[str, ...] = ()
    """Without hidden ones."""
    others: tuple[str, ...] = ()
    """Other formats, and hidden image files."""
    dicom: bool = False
    """Whether there are DICOM files in it."""
    folders: tuple["Folder", ...] = ()
    """Without hidden ones."""
    linked: bool = False
    """Whether it was reached by a link, or holds links."""
    closed: str = ""
    """Why it was not looked into."""

    def images(self) -> list[Path]:
        """Its NIfTI files."""
        return [self.path / name for name in self.nifti]

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


def _walk(path: Path, depth: int, *, linked: bool) -> Folder:
    if depth > DEEPEST:
        return Folder(path=path, closed=f"lies deeper than {DEEPEST} folders")
    try:
        with os.scandir(path) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        return Folder(path=path, closed=f"cannot be opened ({error.strerror})")
    nifti, others, folders = [], [], []
    files = [entry for entry in entries if not entry.is_dir()]
    dicom = bool(files) and _DICOM_FOLDER.fullmatch(path.name) is not None
    for entry in entries:
        name = entry.name
        if entry.is_dir():
            if not is_hidden(name) and not _leads_back(entry):
                folders.append(_walk(path / name, depth + 1, linked=linked or entry.is_symlink()))
        elif _NIFTI.fullmatch(name):
            (others if is_hidden(name) else nifti).append(name)
        elif _DICOM.fullmatch(name) and not is_hidden(name):
            dicom = True
        elif _OTHER.fullmatch(name):
            others.append(name)
    linked = linked or any(entry.is_symlink() for entry in files)
    return Folder(
        path=path,
        nifti=tuple(nifti),
        others=tuple(_one_a_pair(others)),
        dicom=dicom,
        folders=tuple(folders),
        linked=linked,
    )


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
