"""Layouts of folders: BIDS, BraTS and IXI. Names are known in any case."""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scansynth.data.contrasts import known_name
from scansynth.data.image_files import Folder, is_nifti
from scansynth.data.not_taken import SECOND, NotTaken
from scansynth.data.subject import BRAIN, MASKS, Subject, add_file, is_synthetic, make_subject, stem_of
from scansynth.errors import InputError

logger = logging.getLogger(__name__)

_BIDS_SUFFIXES = ("t1w", "t2w", "t2starw", "pdw", "flair", "ct")
_BRATS_KINDS = ("t1", "t1ce", "t2", "flair", "t1n", "t1c", "t2w", "t2f")
_IXI_KINDS = ("t1", "t2", "pd")
_IXI = re.compile(r"(?P<subject>IXI\d+-[A-Za-z]+-\d+)-(?P<kind>.+)", re.IGNORECASE)


@dataclass
class Found:
    """Subjects of a layout, and files that it knows and did not take."""

    subjects: list[Subject] = field(default_factory=list)
    left: list[NotTaken] = field(default_factory=list)

    def leave(self, files: Iterable[Path], subject: str, contrast: str) -> None:
        """Note further files of a contrast."""
        self.left += [NotTaken(file, SECOND, subject, (contrast,), scan=True) for file in files]


def bids(root: Folder) -> Found:
    """`sub-01[/ses-1]/anat/sub-01[_ses-1]_T1w.nii.gz`; a session is a subject entry of its own.

    Raises:
        InputError: for a scan in another subject's folder.
    """
    found = Found()
    for folder in filter(is_bids_subject, root.folders):
        sessions = [place for place in folder.folders if place.path.name.lower().startswith("ses-")]
        for place in (folder, *sessions):
            name = folder.path.name if place is folder else f"{folder.path.name}_{place.path.name}"
            _bids_entry(found, name, place)
    return found


def is_bids_subject(folder: Folder) -> bool:
    """Whether a folder is named as BIDS names those of subjects."""
    return folder.path.name.lower().startswith("sub-")


def brats(root: Folder, *, but_bids: bool = False) -> Found:
    """A folder a subject, at most one level down (HGG, LGG): `X/X_t1.nii.gz`, `X/X-t1n.nii.gz`.

    Args:
        root: the data folder, which may be a subject's itself.
        but_bids: leave folders of BIDS subjects out.

    Raises:
        InputError: if two files are one subject's same contrast.
    """
    found = Found()
    for folder in (root, *root.folders, *(below for child in root.folders for below in child.folders)):
        if but_bids and is_bids_subject(folder):
            continue
        name = folder.path.name
        files = _Files(_BRATS_KINDS)
        for file in folder.images():
            stem = stem_of(file.name)
            if not _IXI.fullmatch(stem) and re.match(rf"{re.escape(name)}[_-]", stem, re.IGNORECASE):
                files.add(stem[len(name) + 1 :], file)
        files.close(found, name)
    return found


def ixi(root: Folder) -> Found:
    """`IXI012-HH-1211-T1.nii.gz`, flat or in subfolders.

    Raises:
        InputError: if two files are one subject's same contrast.
    """
    found = Found()
    names: dict[str, str] = {}
    scans: dict[str, _Files] = {}
    for folder in (root, *root.folders):
        for file in folder.images():
            if match := _IXI.fullmatch(stem_of(file.name)):
                name = names.setdefault(match["subject"].lower(), match["subject"])
                scans.setdefault(name, _Files(_IXI_KINDS)).add(match["kind"], file)
    for name, files in scans.items():
        files.close(found, name)
    return found


class _Files:
    """The files of one subject: those of the layout's own names count before others by which a contrast is known."""

    def __init__(self, kinds: tuple[str, ...]):
        self.kinds = kinds
        self.own: dict[str, Path] = {}
        self.others: list[tuple[str, Path]] = []
        self.masks: dict[str, Path] = {}

    def add(self, kind: str, file: Path) -> None:
        """Note a file if its kind is known and no synthesis made it."""
        contrast = known_name(kind)
        if (contrast is None and kind.lower() not in MASKS) or is_synthetic(file):
            return
        if contrast is None:
            add_file(self.masks, kind.lower(), file)
        elif kind.lower() in self.kinds:
            add_file(self.own, contrast, file)
        else:
            self.others.append((contrast, file))

    def close(self, found: Found, name: str) -> None:
        """Make a subject of them, if there are scans."""
        for contrast, file in self.others:
            if self.own.setdefault(contrast, file) != file:
                found.leave([file], name, contrast)
        if self.own:
            found.subjects.append(make_subject(name, self.own, self.masks))


def _bids_entry(found: Found, name: str, place: Folder) -> None:
    """The subject entry `name` that has its files in `place`."""
    anat = [file for part in place.folders if part.path.name.lower() == "anat" for file in part.images()]
    ct = [file for part in place.folders if part.path.name.lower() == "ct" for file in part.images()]
    choices: dict[str, list[Path]] = {}
    for file in sorted((*anat, *ct), key=lambda file: (not _has_bids_suffix(file), not is_nifti(file.name))):
        contrast = _bids_contrast(file, name)
        if contrast:
            choices.setdefault(contrast, []).append(file)
    for contrast, (first, *others) in choices.items():
        if others:
            left_out = ", ".join(file.name for file in others)
            logger.warning("%s has several %s: %s is taken, left out: %s", name, contrast, first.name, left_out)
            found.leave(others, name, contrast)
    if choices:
        scans = {contrast: files[0] for contrast, files in choices.items()}
        found.subjects.append(make_subject(name, scans, _bids_masks(list(anat), name)))


def _bids_masks(files: Sequence[Path], name: str) -> dict[str, Path]:
    """The discrete segmentation and the brain's mask beside the scans of the subject entry `name`."""
    masks = {}
    for kind, ending in (("tissue", "_dseg"), (BRAIN, "_desc-brain_mask")):
        found = [
            file
            for file in files
            if stem_of(file.name).lower().startswith(f"{name.lower()}_")
            and stem_of(file.name).lower().endswith(ending)
            and not is_synthetic(file)
        ]
        if len(found) > 1:
            left_out = ", ".join(file.name for file in found[1:])
            logger.warning("%s has several %s: %s is taken, left out: %s", name, ending[1:], found[0].name, left_out)
        if found:
            masks[kind] = found[0]
    return masks


def _bids_contrast(file: Path, name: str) -> str | None:
    """The contrast of a BIDS image of the subject entry `name`; None for derivatives and what is no such scan."""
    *entities, suffix = stem_of(file.name).split("_")
    # Words that are no entity belong to the contrast (`post_T1`); where they make no known one, only BIDS' own counts.
    words = [entity for entity in entities if "-" not in entity]
    contrast = known_name("_".join((*words, suffix))) or (known_name(suffix) if _has_bids_suffix(file) else None)
    keys = {entity.partition("-")[0].lower() for entity in entities}
    # A phase, real or imaginary part (`part-`) has the suffix of the magnitude image but is none; a single inversion
    # of an MP2RAGE (`inv-`) is no T1w.
    part = "part" in keys and "part-mag" not in map(str.lower, entities)
    if contrast is None or part or {"desc", "inv"} & keys or is_synthetic(file):
        return None
    if not file.name.lower().startswith(f"{name.lower()}_"):
        if _has_bids_suffix(file):
            raise InputError(f"{file} stands in the folder of {name} but is not named so: move or rename it")
        return None
    if "ce" not in keys:
        return contrast
    if contrast not in ("T1w", "T1ce"):
        logger.warning("%s is left out: of contrast-enhanced images only T1w has a name here", file)
        return None
    return "T1ce"


def _has_bids_suffix(file: Path) -> bool:
    return stem_of(file.name).rpartition("_")[2].lower() in _BIDS_SUFFIXES
