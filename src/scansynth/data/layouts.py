"""Layouts: which scans of which subjects stand in a folder or a table.

Five layouts are found by themselves; names are known in any case, and contrasts by the names in `contrasts.py`:

* BIDS: `sub-01[/ses-1]/anat/sub-01[_ses-1]_T1w.nii.gz`; a session is a subject entry of its own.
* BraTS: a folder a subject, at most one level down (HGG, LGG); 2018 to 2021 names `<subject>_t1.nii.gz`, 2023 names
  `<subject>-t1n.nii.gz`.
* IXI: `IXI012-HH-1211-T1.nii.gz`, flat or in subfolders.
* nnU-Net: `dataset.json`, which names the channels, `imagesTr/CASE_0000.nii.gz` and `labelsTr/CASE.nii.gz` (`seg`).
* a table, `.csv` or `.tsv`, with columns subject, contrast, path and, optionally, split.

Any other by a pattern that the user states (`pattern_layout.py`): `{subject}/{contrast}.nii.gz`.

A tissue mask of the user's own, with BIDS' standard labels, is `sub-01[_ses-1]_dseg.nii.gz` beside the scans (BIDS),
`<subject>_tissue.nii.gz` (BraTS) or a row of contrast `tissue` (table).

Names end as those of any format that is read (`readers.READERS`: `.mgz`, `.mha`, `.nrrd` … in place of `.nii.gz`).
Beside a NIfTI file of the same name a file of another format is not taken.

Labels of subjects (age, sex) are the columns of the folder's `participants.tsv`; a table has none.

No image is opened: what is read is tables, splits and the JSON files beside scans, which say whether a scan is
synthetic. So a listing of thousands of scans takes seconds. Image files of a folder that no layout takes are listed
with the reason (`not_taken.py`).
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from scansynth.data.contrasts import STANDARD
from scansynth.data.folder_layouts import Found, bids, brats, ixi
from scansynth.data.image_files import Folder, walk
from scansynth.data.kept_values import place_in
from scansynth.data.nnunet_layout import nnunet
from scansynth.data.not_taken import PATTERN, PATTERNS, NotTaken, find_not_taken
from scansynth.data.participants import read_participants
from scansynth.data.pattern_layout import EXAMPLE, by_pattern
from scansynth.data.splits import SPLITS
from scansynth.data.stated_splits import assign_splits, stated_splits
from scansynth.data.subject import Subject
from scansynth.data.subject_ids import SubjectIds, bare, person_of
from scansynth.data.table_layout import COLUMNS, read_table
from scansynth.errors import InputError

logger = logging.getLogger(__name__)

EXAMPLES = 3
"""Files that are named for each reason why some were not taken."""
_LOOKED_FOR = f"BIDS ({PATTERNS['BIDS']}, not desc-…), BraTS ({PATTERNS['BraTS']}), IXI ({PATTERNS['IXI']}) "
_LOOKED_FOR += f"and nnU-Net ({PATTERNS['nnU-Net']})"


@dataclass(frozen=True)
class Listing:
    """What was found."""

    layout: str
    """`BIDS`, `BraTS`, `IXI`, `nnU-Net`, `pattern` or `table`."""
    root: Path
    """The data folder; for a table the folder that it stands in."""
    subjects: tuple[Subject, ...]
    """Sorted by name."""
    contrasts: tuple[str, ...]
    """All contrasts that any subject has: the standard ones in their order, then the others by name."""
    not_taken: tuple[NotTaken, ...] = ()
    """Image files of the folder that are no subject's, by path; of a table none: it names what is meant."""

    def may_be(self, subject: str, contrast: str) -> list[NotTaken]:
        """Files that were not taken and may be an acquired scan of this contrast of this subject.

        A file that stands with a person, in no visit, may be of any visit. One whose name says no contrast may be any
        of its subject. One that stands with nobody may be anybody's, but only if its name says the contrast.
        """
        names = {subject.lower(), person_of(subject).lower()}
        files = [one for name in names for one in self._by_subject.get(name, ())]
        strays = [one for one in self._by_subject.get("", ()) if one.contrasts]
        found = [one for one in (*files, *strays) if not one.contrasts or contrast in one.contrasts]
        return sorted(found, key=lambda one: one.path)

    @cached_property
    def _by_subject(self) -> dict[str, list[NotTaken]]:
        """Subject in lower case, or nothing → its files that may be scans."""
        found: dict[str, list[NotTaken]] = {}
        for one in self.not_taken:
            if one.scan:
                found.setdefault((one.subject or "").lower(), []).append(one)
        return found


def find_subjects(path: str | Path, pattern: str | None = None) -> Listing:
    """List the subjects of a data folder or a table.

    Args:
        path: of the folder or the table.
        pattern: how the folder's files are named, where no layout that is known names them so.

    Splits come from `splits.json` in the folder (`{"train": [names], "val": […], "test": […]}`; a BIDS subject
    stands for all its sessions), from the column `split` of a BIDS `participants.tsv`, from folders `train`, `val` and
    `test` that the subjects stand in, or from the table. Labels are the other columns of `participants.tsv`, for all
    sessions of a participant.

    Raises:
        InputError: if nothing or more than one layout is found, two files are one subject's same contrast, or the
            splits, `participants.tsv` or the table are wrong or of nobody who has scans.
    """
    root = Path(os.path.abspath(path))
    if not root.exists():
        raise InputError(f"{path} does not exist: give a data folder or a .csv or .tsv table")
    labels: dict[str, dict[str, str]] = {}
    not_taken: tuple[NotTaken, ...] = ()
    if root.is_file():
        if pattern:
            raise InputError(f"{path} is a table, which names its files: leave --pattern out")
        layout, source, root = "table", root, root.parent
        subjects, pairs = read_table(source)
        splits = assign_splits(_ids(subjects), pairs, source)
    else:
        tree = walk(root)
        layout, found, pairs = _search(tree, pattern)
        subjects, ids = found.subjects, _ids(found.subjects)
        participants = read_participants(root, ids)
        splits = stated_splits(root, subjects, ids, participants) or assign_splits(ids, pairs, root)
        labels = participants.labels if participants else {}
        not_taken = find_not_taken(tree, layout, subjects, found.left, form=pattern)
    subjects = [
        replace(subject, split=splits.get(subject.name), labels=labels.get(subject.name, {})) for subject in subjects
    ]
    there = {contrast for subject in subjects for contrast in subject.scans}
    standard = [contrast for contrast in STANDARD if contrast in there]
    contrasts = (*standard, *sorted(there.difference(standard)))
    return Listing(layout, root, tuple(sorted(subjects, key=lambda subject: subject.name)), contrasts, not_taken)


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


def told(listing: Listing) -> list[str]:
    """What people must know of image files that were not taken: how many, why, examples and the way on.

    One line for all and one for each reason, those of possible scans first; no line where nothing was left.
    """
    reasons: dict[tuple[bool, str], list[str]] = {}
    for one in listing.not_taken:
        reasons.setdefault((not one.scan, one.why), []).append(place_in(one.path, listing.root))
    if not reasons:
        return []
    scans = sum(one.scan for one in listing.not_taken)
    lines = [f"image files in {listing.root} that are not taken: {len(listing.not_taken)}, possible scans: {scans}"]
    for (_, why), files in sorted(reasons.items(), key=lambda item: (item[0][0], -len(item[1]))):
        more = f" and {len(files) - EXAMPLES} more" if len(files) > EXAMPLES else ""
        lines.append(f"  {len(files)}: {why} ({', '.join(files[:EXAMPLES])}{more})")
    return lines


def _ids(subjects: Iterable[Subject]) -> SubjectIds:
    """The names of subjects, which must differ.

    Raises:
        InputError: if two subjects, or two visits' persons, are named alike.
    """
    folders: dict[str, Path] = {}
    persons: dict[str, str] = {}
    alike: dict[str, str] = {}
    subjects = list(subjects)
    for subject in subjects:
        folder = next(iter(subject.scans.values())).parent
        if before := folders.get(subject.name.lower()):
            raise InputError(f"{before} and {folder} hold one subject twice: remove or rename one of them")
        folders[subject.name.lower()] = folder
        person = person_of(subject.name)
        if (before := persons.setdefault(person.lower(), person)) != person:
            raise InputError(f"{before} and {person} in {folder} differ in case only: write one person in one way")
        if (before := alike.setdefault(bare(person), person)) != person:
            logger.warning("%s and %s may be one person, whom a drawn split may take apart", before, person)
    return SubjectIds(subject.name for subject in subjects)


def _search(tree: Folder, pattern: str | None) -> tuple[str, Found, list[tuple[str, str]]]:
    """The layout that a folder has, what is found by it, and the splits that go by its folders."""
    pairs: list[tuple[str, str]] = []
    if pattern:
        found = {PATTERN: by_pattern(tree, pattern)}
    else:
        found = {"BIDS": bids(tree)}
        found |= {"BraTS": brats(tree, but_bids=bool(found["BIDS"].subjects)), "IXI": ixi(tree)}
        found["nnU-Net"], pairs = nnunet(tree)
    found = {layout: one for layout, one in found.items() if one.subjects}
    if not found:
        what = "is empty" if not any(tree.path.iterdir()) else "holds no known layout"
        looked = f"--pattern {pattern}" if pattern else _LOOKED_FOR
        raise InputError(
            f"{tree.path} {what}: looked for {looked}; for other names give a --pattern, as '{EXAMPLE}', or a .csv or "
            f".tsv table with columns {', '.join(COLUMNS)}{_seen(tree)}"
        )
    if len(found) > 1:
        raise InputError(f"{tree.path} mixes the layouts {' and '.join(found)}: give the folder of one of them")
    ((layout, one),) = found.items()
    return layout, one, pairs


def _seen(tree: Folder) -> str:
    """The images of a folder without a layout, for a message."""
    folders = list(tree.all())
    images = [folder.path / name for folder in folders for name in (*folder.readable, *folder.twins, *folder.others)]
    dicom = [folder.path for folder in folders if folder.dicom]
    seen = f"; there are {len(images)} image files, as {images[0].relative_to(tree.path)}" if images else ""
    if dicom:
        seen += f"; there is DICOM in {len(dicom)} folders, as {dicom[0]}: convert it to NIfTI with dcm2niix"
    return seen
