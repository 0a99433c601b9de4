"""`participants.tsv` of a data folder: labels of its subjects, and their splits where it has a column of them."""

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scansynth.data.subject_ids import SubjectIds, person_of, some_of
from scansynth.data.text_table import is_unknown, read_rows, stated_file
from scansynth.errors import InputError

logger = logging.getLogger(__name__)

FILE = "participants.tsv"
_LIKE_IT = ("participants.csv", "participants.txt", "participants.tsv.*", "participants.xls*", "participants.ods",
            "participant.tsv")  # fmt: skip


@dataclass(frozen=True)
class Participants:
    """What the table says of the subjects that were found."""

    file: Path
    labels: dict[str, dict[str, str]]
    """Subject → column → what it says, as written; without what is not known."""
    splits: list[tuple[str, str]]
    """(Name of a subject or a person, split as written)."""


def read_participants(root: Path, ids: SubjectIds) -> Participants | None:
    """Read a data folder's `participants.tsv`; None where there is none.

    Rows without a subject and subjects without a row are named in warnings.

    Args:
        root: the data folder.
        ids: of the subjects found in it.

    Raises:
        InputError: if the table is flawed or says two things of one subject, if none of its rows is about a subject
            found, or if an id that lost its zeros would leave a subject without its stated split.
    """
    file = stated_file(root, FILE, _LIKE_IT)
    if file is None:
        return None
    found: dict[str, dict[str, str]] = {}
    splits: list[tuple[str, str]] = []
    strangers: dict[str, str] = {}
    column = False
    for line, row in read_rows(file, ("participant_id",), ("split",), others=True):
        written, column, split = row.pop("participant_id"), "split" in row, row.pop("split", "")
        if is_unknown(written):
            raise InputError(f"{file} line {line} has no participant_id: fill it in or remove the line")
        name = ids.find(written)
        if name is None:
            strangers[written] = split
            continue
        known = {label: text for label, text in row.items() if not is_unknown(text)}
        if found.setdefault(name, known) != known:
            raise InputError(f"{file} line {line} says something else of {written} than a line before: keep one")
        if not is_unknown(split):
            splits.append((name, split))
    if not found:
        told = f"has no rows; the subjects found are {some_of(list(ids.subjects))}"
        if strangers:
            told = f"names {_asked(strangers, ids)}, none of them a subject found ({some_of(list(ids.subjects))})"
        raise InputError(f"{file} {told}: write their names in participant_id, or move the file away")
    _check_lost_zeros(file, ids, splits, strangers)
    _warn(file, ids, found, strangers)
    if column and not splits:
        logger.warning("%s has a column split, but it states nobody's who has scans: splits are drawn", file)
    subjects = ids.subjects.values()
    labels = {one: found.get(one, found.get(person_of(one), {})) for names in subjects for one in names}
    return Participants(file, labels, splits)


def _check_lost_zeros(
    file: Path, ids: SubjectIds, splits: Iterable[tuple[str, str]], strangers: dict[str, str]
) -> None:
    """Raise InputError if a subject has no split for the zeros that its id lost."""
    covered = {subject for name, _ in splits for subject in ids.subjects[name]}
    lost = [
        written
        for written, split in strangers.items()
        if not is_unknown(split)
        and any(subject not in covered for name in ids.probably(written) for subject in ids.subjects[name])
    ]
    if lost:
        raise InputError(f"{file} states splits of {_asked(lost, ids)}, but no scans go by these ids: correct them")


def _warn(file: Path, ids: SubjectIds, found: dict[str, dict[str, str]], strangers: Iterable[str]) -> None:
    strangers = list(strangers)
    if strangers:
        logger.warning("%s: %d rows are of nobody who has scans: %s", file, len(strangers), _asked(strangers, ids))
    everybody = dict.fromkeys(subject for names in ids.subjects.values() for subject in names)
    without = [subject for subject in everybody if subject not in found and person_of(subject) not in found]
    if without:
        logger.warning("%s: %d subjects have no row, so no labels: %s", file, len(without), some_of(without))


def _asked(written: Iterable[str], ids: SubjectIds) -> str:
    return some_of([ids.asked(one) for one in written])
