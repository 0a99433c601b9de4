"""Layouts: which scans of which subjects stand in a folder or a table.

Four layouts are found by themselves:

* BIDS: `sub-01[/ses-1]/anat/sub-01[_ses-1]_T1w.nii.gz`; a session is a subject entry of its own.
* BraTS: a folder a subject, at most one level down (HGG, LGG); 2018 to 2021 names `<subject>_t1.nii.gz`, 2023 names
  `<subject>-t1n.nii.gz`.
* IXI: `IXI012-HH-1211-T1.nii.gz`, flat or in subfolders.
* a table, `.csv` or `.tsv`, with columns subject, contrast, path and, optionally, split.

Nothing is opened here except tables and splits, so a listing of thousands of scans takes seconds.
"""

import csv
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from scansynth.data.contrasts import STANDARD, standard_name
from scansynth.errors import InputError

logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")

_IMAGE = re.compile(r"[^.].*\.nii(\.gz)?")
_BIDS_SUFFIXES = ("T1w", "T2w", "T2starw", "PDw", "FLAIR", "CT", "ct")
_BRATS = re.compile(r"(?P<subject>.+)[_-](?P<kind>t1|t1ce|t2|flair|t1n|t1c|t2w|t2f|seg)\.nii(\.gz)?")
_IXI = re.compile(r"(?P<subject>IXI\d+-[A-Za-z]+-\d+)-(?P<kind>T1|T2|PD)\.nii(\.gz)?")
# Sessions (BIDS) and time points (BraTS 2023) of one person.
_VISIT = re.compile(r"(?P<person>sub-[^_]+)_ses-.+|(?P<case>BraTS-[A-Za-z]+-\d+)-\d+")
_TABLE_COLUMNS = ("subject", "contrast", "path")
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
    stands for all its sessions), from the column `split` of a BIDS `participants.tsv`, or from the table.

    Raises:
        InputError: if nothing or more than one layout is found, two files are one subject's same contrast,
            or the splits or the table are wrong.
    """
    root = Path(os.path.abspath(path))
    if not root.exists():
        raise InputError(f"{path} does not exist: give a data folder or a .csv or .tsv table")
    if root.is_file():
        layout, (subjects, splits) = "table", _table(root)
        subjects = _assign_splits(subjects, splits, source=root)
        root = root.parent
    else:
        layout, subjects = _search(root)
        _check_names_differ(subjects)
        subjects = _assign_splits(subjects, *_stated_splits(root, subjects))

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
    sizes = Counter(subject.split or "no split" for subject in listing.subjects)
    splits = ", ".join(f"{sizes[split]} {split}" for split in (*SPLITS, "no split") if sizes[split])
    return "\n".join([f"{listing.layout} layout in {listing.root}", "", *lines, "", f"splits: {splits}"])


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
            if choices:
                subjects.append(_subject(name, {contrast: files[0] for contrast, files in choices.items()}))
    return subjects


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
                _add(files, match["kind"] if match["kind"] == "seg" else standard_name(match["kind"]), file)
        masks = {"seg": files.pop("seg")} if "seg" in files else {}
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
    for line, row in _rows(table, required=_TABLE_COLUMNS, optional=("split",)):
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
    return [_subject(name, files) for name, files in scans.items()], splits


def _rows(table: Path, required: Sequence[str], optional: Sequence[str] | None) -> list[tuple[int, dict[str, str]]]:
    """(line number, column → text) of a .csv or .tsv file; `optional` None allows any further columns."""
    delimiter = {".csv": ",", ".tsv": "\t"}.get(table.suffix.lower())
    if delimiter is None:
        raise InputError(f"{table} is neither a folder nor a table: give a data folder or a .csv or .tsv file")
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:  # -sig: spreadsheets write a byte order mark
            reader = csv.reader(stream, delimiter=delimiter)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table} is not a UTF-8 text table ({error}): save it as CSV UTF-8") from None
    header = lines[0][1] if lines else []
    if missing := [column for column in required if column not in header]:
        raise InputError(f"{table} lacks the columns {', '.join(missing)}: its first line says {', '.join(header)!r}")
    if len(set(header)) < len(header):
        raise InputError(f"{table} names a column twice: its first line says {', '.join(header)!r}")
    if optional is not None and (unknown := [column for column in header if column not in (*required, *optional)]):
        known = ", ".join((*required, *optional))
        raise InputError(f"{table} has unknown columns {', '.join(unknown)}: only {known} are read, remove the others")
    rows = []
    for line, cells in lines[1:]:
        if not any(cells):
            continue
        if len(cells) != len(header):
            wrong = f"{table} line {line} has {len(cells)} cells, its first line {len(header)}"
            raise InputError(f"{wrong}: mend the line (text that holds a separator needs quotes)")
        rows.append((line, dict(zip(header, cells, strict=True))))
    return rows


def _stated_splits(root: Path, subjects: list[Subject]) -> tuple[list[tuple[str, str]], Path]:
    """(name, split) pairs that a data folder states, and the file that does."""
    file, participants = root / "splits.json", root / "participants.tsv"
    pairs = []
    # The first line alone says whether the file matters here; a flaw elsewhere in it is then no concern of ours.
    if participants.is_file() and "split" in participants.read_text("utf-8", "replace").partition("\n")[0].split():
        present = {_person(subject.name) for subject in subjects}  # participants without images are usual
        rows = _rows(participants, required=("participant_id", "split"), optional=None)
        pairs = [(row["participant_id"], row["split"]) for _, row in rows if row["participant_id"] in present]
        pairs = [(name, split) for name, split in pairs if split not in ("", "n/a")]
    if not file.is_file():
        return pairs, participants
    if pairs:
        raise InputError(f"{file} and {participants} both state splits: keep one (the other's column or file removed)")
    try:
        stated = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON ({error}): mend it") from None
    if not isinstance(stated, dict) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in stated.values()
    ):
        raise InputError(f'{file} must be of the form {{"train": ["name", …], "val": […], "test": […]}}: rewrite it')
    _check_split_names(stated, file)
    return [(name, split) for split, names in stated.items() for name in names], file


def _assign_splits(subjects: list[Subject], pairs: list[tuple[str, str]], source: Path) -> list[Subject]:
    """The subjects with the splits that `source` states; a name may be a subject's or, for all visits, a person's."""
    _check_split_names((split for _, split in pairs), source)
    known: dict[str, set[str]] = {}
    for subject in subjects:
        for name in (subject.name, _person(subject.name)):
            known.setdefault(name, set()).add(subject.name)
    splits: dict[str, str] = {}
    of_person: dict[str, str] = {}
    for name, split in pairs:
        if name not in known:
            raise InputError(f"{source} names {name}, which is no subject found there: correct or remove the name")
        # Visits of one person in two splits would let a test subject be seen in training.
        if (before := of_person.setdefault(_person(name), split)) != split:
            raise InputError(f"{source} puts {_person(name)} into {before} and {split}: keep a person in one split")
        splits.update(dict.fromkeys(known[name], split))
    return [replace(subject, split=splits.get(subject.name)) for subject in subjects]


def _check_split_names(names: Iterable[str], source: Path) -> None:
    for name in names:
        if name not in SPLITS:
            raise InputError(f"{source} names the split {name!r}: use {', '.join(SPLITS)} only")


def _person(name: str) -> str:
    """The person whose visit a subject entry is."""
    match = _VISIT.fullmatch(name)
    return (match["person"] or match["case"]) if match else name


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
