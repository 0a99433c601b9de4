"""Splits that the data states: in `splits.json`, `participants.tsv`, a table, or by folders `train`, `val`, `test`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from scansynth.data.participants import Participants
from scansynth.data.splits import SPLITS
from scansynth.data.subject import Subject
from scansynth.data.subject_ids import SubjectIds, person_of
from scansynth.data.text_table import stated_file
from scansynth.errors import InputError, shown
from scansynth.users_files import read_json

FILE = "splits.json"
_LIKE_IT = ("split.json", *(f"split{s}.{kind}" for s in ("", "s") for kind in ("csv", "tsv", "txt", "y*ml", "xls*")),
            "splits.json.*")  # fmt: skip
_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def stated_splits(
    root: Path, subjects: Iterable[Subject], ids: SubjectIds, participants: Participants | None
) -> dict[str, str]:
    """Split of each subject that a data folder states one for.

    Args:
        root: the data folder.
        subjects: found in it.
        ids: of the subjects.
        participants: its `participants.tsv`.

    Raises:
        InputError: if two places state splits, one of them is wrong, or a person is in two splits.
    """
    pairs, source = (participants.splits, participants.file) if participants else ([], root)
    file = stated_file(root, FILE, _LIKE_IT)
    if file and pairs:
        raise InputError(f"{file} and {source} both state splits: keep one (the other's column or file removed)")
    if file:
        pairs, source = _read(file), file
    splits, by_folder = assign_splits(ids, pairs, source), assign_splits(ids, _folders(root, subjects), root)
    if differ := [name for name, split in by_folder.items() if splits.get(name, split) != split]:
        name = differ[0]
        raise InputError(f"{source} puts {name} into {splits[name]}, but it stands in a folder of {by_folder[name]}: "
                         "move it, or correct the file")  # fmt: skip
    return splits or by_folder


def assign_splits(ids: SubjectIds, pairs: Sequence[tuple[str, str]], source: Path) -> dict[str, str]:
    """Split of each subject that `source` states one for.

    Args:
        ids: of all subjects.
        pairs: (name, split) as written; a name may be a subject's or, for all visits, a person's.
        source: the file that states them, for messages.

    Raises:
        InputError: for an unknown name or split, or a person in two splits.
    """
    splits: dict[str, str] = {}
    of_person: dict[str, str] = {}
    for written, word in pairs:
        split, name = _split(word, source), ids.find(written)
        if name is None:
            raise InputError(
                f"{source} names {ids.asked(written)}, which is no subject found there: correct or remove the name"
            )
        # Visits of one person in two splits would let a test subject be seen in training.
        if (before := of_person.setdefault(person_of(name), split)) != split:
            raise InputError(f"{source} puts {person_of(name)} into {before} and {split}: keep a person in one split")
        splits.update(dict.fromkeys(ids.subjects[name], split))
    return splits


def _split(word: str, source: Path) -> str:
    """The split that a word means, in any case."""
    if word.lower() not in _WORDS:
        raise InputError(f"{source} names the split {shown(word)}: use {', '.join(SPLITS)} only")
    return _WORDS[word.lower()]


def _read(file: Path) -> list[tuple[str, str]]:
    """(Name, split) pairs of a `splits.json`."""
    stated = read_json(file)
    if not isinstance(stated, dict) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names) for names in stated.values()
    ):
        raise InputError(f'{file} must be of the form {{"train": ["name", …], "val": […], "test": […]}}: rewrite it')
    pairs = [(name, _split(word, file)) for word, names in stated.items() for name in names]
    if not pairs:
        raise InputError(f"{file} states nobody's split: name subjects in it, or move it away")
    return pairs


def _folders(root: Path, subjects: Iterable[Subject]) -> list[tuple[str, str]]:
    """(Subject, folder) where scans stand below folders of several splits; one alone may be the name of a data set."""
    pairs: dict[tuple[str, str], None] = {}
    for subject in subjects:
        for file in subject.scans.values():
            first, *below = file.relative_to(root).parts
            if below and first.lower() in _WORDS and first != subject.name:
                pairs[subject.name, first] = None
    return list(pairs) if len({_WORDS[folder.lower()] for _, folder in pairs}) > 1 else []
