"""Layouts: which scans of which subjects stand in a folder or a table.

Four layouts are found by themselves:

* BIDS: `sub-01[/ses-1]/anat/sub-01[_ses-1]_T1w.nii.gz`; a session is a subject entry of its own.
* BraTS: a folder a subject, at most one level down (HGG, LGG); 2018 to 2021 names `<subject>_t1.nii.gz`, 2023 names
  `<subject>-t1n.nii.gz`.
* IXI: `IXI012-HH-1211-T1.nii.gz`, flat or in subfolders.
* a table, `.csv` or `.tsv`, with columns subject, contrast, path and, optionally, split.

A tissue mask of the user's own, with BIDS' standard labels, is `sub-01[_ses-1]_dseg.nii.gz` beside the scans (BIDS),
`<subject>_tissue.nii.gz` (BraTS) or a row of contrast `tissue` (table).

Labels of subjects (age, sex) are the columns of the folder's `participants.tsv`; a table has none.

Nothing is opened here except tables and splits, so a listing of thousands of scans takes seconds.
"""

import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from scansynth.data.contrasts import STANDARD, standard_name
from scansynth.data.splits import SPLITS, assign_splits, person_of, stated_splits
from scansynth.data.text_table import UNKNOWN, read_rows
from scansynth.errors import InputError

logger = logging.getLogger(__name__)

_IMAGE = re.compile(r"[^.].*\.nii(\.gz)?")
_BIDS_SUFFIXES = ("T1w", "T2w", "T2starw", "PDw", "FLAIR", "CT", "ct")
_BRATS = re.compile(r"(?P<subject>.+)[_-](?P<kind>t1|t1ce|t2|flair|t1n|t1c|t2w|t2f|seg|tissue)\.nii(\.gz)?")
_IXI = re.compile(r"(?P<subject>IXI\d+-[A-Za-z]+-\d+)-(?P<kind>T1|T2|PD)\.nii(\.gz)?")
_TABLE_COLUMNS = ("subject", "contrast", "path")
MASKS = ("seg", "tissue")
"""Label images that a subject may have: the tumour (BraTS), and tissues with BIDS' standard labels (tissue.py)."""
_LOOKED_FOR = (
    "BIDS (sub-01[/ses-1]/anat/sub-01[_ses-1]_T1w.nii.gz, not desc-…), BraTS (X/X_t1.nii.gz or X/X-t1n.nii.gz) "
    "and IXI (IXI012-HH-1211-T1.nii.gz)"
)


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Listing:
    """What was found."""

    layout: str
    """`BIDS`, `BraTS`, `IXI` or `table`."""
    root: Path
    """The data folder; for a table the folder that it stands in."""
    subjects: tuple[Subject, ...]
    """Sorted by name."""
    contrasts: tuple[str, ...]
    """All contrasts that any subject has: the standard ones in their order, then the others by name."""


def find_subjects(path: str | Path) -> Listing:
    """List the subjects of a data folder or a table.

    Splits come from `splits.json` in the folder (`{"train": [names], "val": […], "test": […]}`; a BIDS subject
    stands for all its sessions), from the column `split` of a BIDS `participants.tsv`, or from the table. Labels are
    the other columns of `participants.tsv`, for all sessions of a participant.

    Raises:
        InputError: if nothing or more than one layout is found, two files are one subject's same contrast,
            or the splits or the table are wrong.
    """
    root = Path(os.path.abspath(path))
    if not root.exists():
        raise InputError(f"{path} does not exist: give a data folder or a .csv or .tsv table")
    if root.is_file():
        layout, (subjects, pairs) = "table", _table(root)
        source, root, labels = root, root.parent, {}
    else:
        layout, subjects = _search(root)
        _check_names_differ(subjects)
        pairs, source = stated_splits(root, [subject.name for subject in subjects])
        labels = _labels(root, [subject.name for subject in subjects])
    splits = assign_splits([subject.name for subject in subjects], pairs, source)
    subjects = [
        replace(subject, split=splits.get(subject.name), labels=labels.get(subject.name, {})) for subject in subjects
    ]

    found = {contrast for subject in subjects for contrast in subject.scans}
    standard = [contrast for contrast in STANDARD if contrast in found]
    contrasts = (*standard, *sorted(found.difference(standard)))
    return Listing(layout, root, tuple(sorted(subjects, key=lambda subject: subject.name)), contrasts)


def describe(listing: Listing) -> str:
    """The listing as a plain text table, a row a subject and a column a contrast (✓ or –), and its totals."""
    rows = [["subject", *listing.contrasts, "split"]]
    for subject in listing.subjects:
        marks = ["✓" if contrast in subject.scans else "–" for contrast in listing.contrasts]
        rows.append([subject.name, *marks, subject.split or "–"])
    counts = Counter(contrast for subject in listing.subjects for contrast in subject.scans)
    rows.append([f"{len(listing.subjects)} in all", *(str(counts[contrast]) for contrast in listing.contrasts), ""])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    sizes = Counter(subject.split or "without" for subject in listing.subjects)
    stated = ", ".join(f"{sizes[split]} {split}" for split in (*SPLITS, "without") if sizes[split])
    splits = f"stated splits: {stated if any(subject.split for subject in listing.subjects) else 'none'}"
    known = Counter(label for subject in listing.subjects for label in subject.labels)
    labels = [f"labels: {', '.join(f'{count} {label}' for label, count in known.items())}"] if known else []
    return "\n".join([f"{listing.layout} layout in {listing.root}", "", *lines, "", splits, *labels])


def chosen_contrasts(listing: Listing, contrasts: Sequence[str] | None) -> tuple[str, ...]:
    """The asked contrasts, each of which somebody must have.

    Raises:
        InputError: if a contrast was not found.
    """
    unknown = [name for name in contrasts or () if name not in listing.contrasts]
    if unknown or not listing.contrasts:
        found = ", ".join(listing.contrasts) or "none"
        raise InputError(f"{listing.root}: no scan of {', '.join(unknown) or 'any contrast'} (found: {found})")
    return tuple(dict.fromkeys(contrasts or listing.contrasts))


def _labels(root: Path, names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Known labels of each subject from the folder's `participants.tsv`; a flaw of it costs the labels alone."""
    table = root / "participants.tsv"
    if not table.is_file():
        return {}
    found: dict[str, dict[str, str]] = {}
    try:
        for line, row in read_rows(table, required=("participant_id",), optional=None):
            name = row.pop("participant_id")
            known = {key: text for key, text in row.items() if key not in ("", "split") and text not in UNKNOWN}
            if found.setdefault(name, known) != known:
                raise InputError(f"{table} line {line} says something else of {name} than a line before: keep one")
    except InputError as error:
        logger.warning("no labels are read: %s", error)
        return {}
    return {name: found.get(name, found.get(person_of(name), {})) for name in names}


def _search(root: Path) -> tuple[str, list[Subject]]:
    """The layout that a folder has, and its subjects."""
    readers = {"BIDS": _bids, "BraTS": _brats, "IXI": _ixi}
    found = {layout: subjects for layout, reader in readers.items() if (subjects := reader(root))}
    if not found:
        what = "is empty" if not any(root.iterdir()) else "holds no known layout"
        raise InputError(f"{root} {what}: looked for {_LOOKED_FOR}; for other names give a .csv or .tsv table "
                         f"with columns {', '.join(_TABLE_COLUMNS)}")  # fmt: skip
    if len(found) > 1:
        raise InputError(f"{root} mixes the layouts {' and '.join(found)}: give the folder of one of them")
    ((layout, subjects),) = found.items()
    return layout, subjects


def _check_names_differ(subjects: list[Subject]) -> None:
    folders: dict[str, Path] = {}
    for subject in subjects:
        folder = next(iter(subject.scans.values())).parent
        if subject.name in folders:
            raise InputError(
                f"{folders[subject.name]} and {folder} hold one subject twice: remove or rename one of them"
            )
        folders[subject.name] = folder


def _bids(root: Path) -> list[Subject]:
    subjects = []
    for folder in _folders(root, "sub-*"):
        for place in (folder, *_folders(folder, "ses-*")):
            name = folder.name if place == folder else f"{folder.name}_{place.name}"
            choices: dict[str, list[Path]] = {}
            for file in (*_images(place / "anat"), *_images(place / "ct")):
                contrast = _bids_contrast(file, name)
                if contrast:
                    choices.setdefault(contrast, []).append(file)
            for contrast, (first, *others) in choices.items():
                if others:
                    left_out = ", ".join(file.name for file in others)
                    logger.warning("%s has several %s: %s is taken, left out: %s", name, contrast, first.name, left_out)
            masks = _bids_tissue(place / "anat", name)
            if choices:
                subjects.append(_subject(name, {contrast: files[0] for contrast, files in choices.items()}, masks))
    return subjects


def _bids_tissue(folder: Path, name: str) -> dict[str, Path]:
    """The discrete segmentation beside the scans of the subject entry `name`, as a mask."""
    found = [file for file in _images(folder) if _stem(file).startswith(f"{name}_") and _stem(file).endswith("_dseg")]
    if len(found) > 1:
        left_out = ", ".join(file.name for file in found[1:])
        logger.warning("%s has several dseg: %s is taken, left out: %s", name, found[0].name, left_out)
    return {"tissue": found[0]} if found else {}


def _bids_contrast(file: Path, name: str) -> str | None:
    """The contrast of a BIDS image of the subject entry `name`; None for derivatives and what is no such scan."""
    *entities, suffix = _stem(file).split("_")
    keys = {entity.partition("-")[0] for entity in entities}
    # A phase, real or imaginary part (`part-`) has the suffix of the magnitude image but is none.
    if suffix not in _BIDS_SUFFIXES or "desc" in keys or ("part" in keys and "part-mag" not in entities):
        return None
    if not file.name.startswith(f"{name}_"):
        raise InputError(f"{file} stands in the folder of {name} but is not named so: move or rename it")
    if "ce" not in keys:
        return standard_name(suffix)
    if suffix != "T1w":
        logger.warning("%s is left out: of contrast-enhanced images only T1w has a name here", file)
        return None
    return "T1ce"


def _brats(root: Path) -> list[Subject]:
    subjects = []
    children = _folders(root)
    for folder in (root, *children, *(grandchild for child in children for grandchild in _folders(child))):
        files: dict[str, Path] = {}
        for file in _images(folder):
            match = _BRATS.fullmatch(file.name)
            if match and match["subject"] == folder.name:
                _add(files, match["kind"] if match["kind"] in MASKS else standard_name(match["kind"]), file)
        masks = {kind: files.pop(kind) for kind in MASKS if kind in files}
        if files:
            subjects.append(_subject(folder.name, files, masks))
    return subjects


def _ixi(root: Path) -> list[Subject]:
    scans: dict[str, dict[str, Path]] = {}
    for folder in (root, *_folders(root)):
        for file in _images(folder):
            if match := _IXI.fullmatch(file.name):
                _add(scans.setdefault(match["subject"], {}), standard_name(match["kind"]), file)
    return [_subject(name, files) for name, files in scans.items()]


def _table(table: Path) -> tuple[list[Subject], list[tuple[str, str]]]:
    """Subjects of a table, and its (subject, split) pairs."""
    scans: dict[str, dict[str, Path]] = {}
    splits = []
    lines: dict[Path, int] = {}
    for line, row in read_rows(table, required=_TABLE_COLUMNS, optional=("split",)):
        where = f"{table} line {line}"
        if empty := [column for column in _TABLE_COLUMNS if not row[column]]:
            raise InputError(f"{where} has no {' and no '.join(empty)}: fill it in or remove the line")
        try:
            contrast = standard_name(row["contrast"])
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        file = Path(os.path.abspath(table.parent / row["path"]))
        if not file.is_file():
            raise InputError(f"{where}: {file} does not exist: correct the path, it is relative to the table's folder")
        if file in lines:
            raise InputError(f"{where} names the file of line {lines[file]} again: give each scan its own file")
        lines[file] = line
        _add(scans.setdefault(row["subject"], {}), contrast, file)
        if row.get("split"):
            splits.append((row["subject"], row["split"]))
    if not scans:
        raise InputError(f"{table} lists no scans: add a line for each, with {', '.join(_TABLE_COLUMNS)}")
    masks = {name: {"tissue": files.pop("tissue")} if "tissue" in files else {} for name, files in scans.items()}
    if bare := [name for name, files in scans.items() if not files]:
        raise InputError(f"{table} lists a tissue mask of {bare[0]} and no scan: add one or remove the line")
    return [_subject(name, files, masks[name]) for name, files in scans.items()], splits


def _subject(name: str, scans: dict[str, Path], masks: dict[str, Path] | None = None) -> Subject:
    """A subject with the sidecars that stand beside its scans."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise InputError(f"subject name {name!r}: use letters, digits, '-', '_' and '.' only, it becomes a file name")
    beside = {contrast: file.with_name(f"{_stem(file)}.json") for contrast, file in scans.items()}
    return Subject(name, scans, masks or {}, None, {key: file for key, file in beside.items() if file.is_file()})


def _add(files: dict[str, Path], contrast: str, file: Path) -> None:
    if files.setdefault(contrast, file) != file:
        raise InputError(f"{files[contrast]} and {file} are both {contrast} of one subject: keep one of them")


def _folders(root: Path, pattern: str = "*") -> list[Path]:
    return sorted(folder for folder in root.glob(pattern) if folder.is_dir() and not folder.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    """NIfTI files of a folder in sorted order, without hidden ones and those that a synthesis made."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [
        file for file in files if _IMAGE.fullmatch(file.name) and "_synthetic" not in file.name and not file.is_dir()
    ]


def _stem(file: Path) -> str:
    """File name without `.nii` or `.nii.gz`."""
    return file.name.removesuffix(".gz").removesuffix(".nii")
