"""A subject and its files."""

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path

from scansynth.data.readers import ending_of
from scansynth.errors import InputError, shown
from scansynth.users_files import read_json

logger = logging.getLogger(__name__)

LONGEST = 128
"""Bytes of a subject's name: files are named by it, with more around it."""

BRAIN = "brain"
MASKS = ("seg", "tissue", BRAIN)
"""Label images that a subject may have: the tumour (BraTS), tissues with BIDS' standard labels (tissue.py), a brain."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One subject (in BIDS: one session of one) and its files."""

    name: str
    """Unique in its listing and safe in a file name: `BraTS2021_01476`, `sub-ms01_ses-1`."""
    scans: dict[str, Path]
    """Standard contrast name → image file."""
    masks: dict[str, Path] = field(default_factory=dict)
    """Name → label image, as `seg`."""
    split: str | None = None
    """`train`, `val` or `test` where the data says so."""
    sidecars: dict[str, Path] = field(default_factory=dict)
    """Contrast → the JSON file of acquisition parameters beside its image."""
    labels: dict[str, str] = field(default_factory=dict)
    """Column of `participants.tsv` → what it says, as written; without what is not known."""


def check_name(name: str) -> None:
    """Check that a subject's name can stand in a file name.

    Raises:
        InputError: if it cannot.
    """
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(
            f"subject name {shown(name)}: use letters, digits, '-', '_' and '.' only, it becomes a file name"
        )
    if len(name.encode()) > LONGEST:
        raise InputError(f"subject name {shown(name)}: it becomes a file name, use {LONGEST} letters at most")


def make_subject(name: str, scans: dict[str, Path], masks: dict[str, Path] | None = None) -> Subject:
    """A subject with the sidecars that stand beside its scans.

    Raises:
        InputError: if the name cannot stand in a file name.
    """
    check_name(name)
    beside = {contrast: sidecar_of(file) for contrast, file in scans.items()}
    for sidecar in beside.values():
        if sidecar.is_symlink() and not sidecar.exists():
            logger.warning("%s is a link to nothing: what it says of the acquisition is not known", sidecar)
    return Subject(
        name=name,
        scans=scans,
        masks=masks or {},
        split=None,
        sidecars={key: file for key, file in beside.items() if file.exists()},
    )


def add_file(files: dict[str, Path], kind: str, file: Path) -> None:
    """Note a subject's file of a contrast, or of a mask.

    Raises:
        InputError: if there is another one.
    """
    if files.setdefault(kind, file) != file:
        raise InputError(f"{files[kind]} and {file} are both {kind} of one subject: keep one of them")


def stem_of(name: str) -> str:
    """A file's name without the ending of an image that is read (`.nii`, `.nii.gz`, `.mgz` …), in any case."""
    return name.removesuffix(ending_of(name))


def sidecar_of(file: Path) -> Path:
    """The JSON file that belongs to an image."""
    return file.with_name(f"{stem_of(file.name)}.json")


def is_synthetic(file: Path) -> bool:
    """Whether an image's name or its sidecar says that a synthesis made it."""
    if "_synthetic" in file.name.lower():
        return True
    try:
        content = read_json(sidecar_of(file))
    except InputError:  # none, or a broken one, which preparing tells of
        return False
    return isinstance(content, dict) and True in (content.get("synthetic"), content.get("hypothetical"))
