"""Splits: who trains, validates and tests, as the data states it (`stated_splits.py`) or as drawn.

A person is never in two.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scansynth.data.subject import Subject
from scansynth.data.subject_ids import person_of, some_of
from scansynth.errors import InputError

SPLITS = ("train", "val", "test")
FRACTIONS = (0.7, 0.1, 0.2)
"""Shares of people who train, validate and test, where the data states no split and nobody asks for others."""


def choose_splits(stated: Mapping[str, str | None], fractions: tuple[float, float, float], seed: int) -> dict[str, str]:
    """Split of each subject: as the data says, or else drawn.

    Visits of one person (`sub-01_ses-1`, `sub-01_ses-2`) stay together. Counts are by largest remainder, at least
    one person trains. The draw depends on names and seed only.

    Args:
        stated: subject → the split that the data states, or None; all have one or none has.
        fractions: shares of train, val and test; of no effect where the data states a split.
        seed: of the draw.

    Raises:
        InputError: if fractions do not fit or leave nobody to train, or the data gives a split to some subjects only.
    """
    given = {name: split for name, split in stated.items() if split is not None}
    if given:
        missing = [name for name in stated if name not in given]
        wrong = [name for name, split in given.items() if split not in SPLITS]
        if missing or wrong:
            raise InputError(
                f"subjects without a split (train, val or test) while others have one: {some_of(missing + wrong)} "
                f"({len(missing + wrong)} in all): name them in the split file or take it away"
            )
        return given
    if not all(map(math.isfinite, fractions)) or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(f"split fractions {fractions}: give three shares that are not negative and add up to 1")
    if fractions[0] == 0:
        raise InputError(
            f"split fractions {fractions} leave nobody to train: give the first of them, train, a share above 0 (scans "
            "that a trained run is only tested on: name them in the data's own split)"
        )
    people = sorted({person_of(name) for name in stated})
    quotas = np.asarray(fractions) * len(people)
    counts = np.floor(quotas + 1e-9).astype(int)
    for place in np.argsort(-(quotas - counts), kind="stable")[: len(people) - counts.sum()]:
        counts[place] += 1
    if counts[0] == 0 and len(people):
        counts[np.argmax(counts)] -= 1
        counts[0] = 1
    order = np.random.default_rng(seed).permutation(len(people))
    names = np.repeat(SPLITS, counts)
    drawn = {people[person]: str(names[place]) for place, person in enumerate(order)}
    return {name: drawn[person_of(name)] for name in stated}


@dataclass(frozen=True)
class Foreseen:
    """What subjects will be split into."""

    splits: dict[str, str]
    line: str
    """The numbers, and where they come from."""
    warnings: tuple[str, ...]
    """What follows from a split that is empty, though it may have a share, or from shares that do not count."""


WITHOUT = {
    "val": "no subject validates, so that synthesis later uses the last weights, not the best",
    "test": "no subject tests, so that `evaluate` and `compare` have nothing to measure",
}


def foresee(stated: Mapping[str, str | None], fractions: tuple[float, float, float], seed: int) -> Foreseen:
    """What subjects will be split into (arguments and errors of `choose_splits`)."""
    splits = choose_splits(stated, fractions, seed)
    counts = Counter(splits.values())
    numbers = ", ".join(f"{counts[split]} {split}" for split in SPLITS)
    people = len({person_of(name) for name in splits})
    unused: tuple[str, ...] = ()
    if any(split is not None for split in stated.values()):
        origin, cure = "as the data states them", "name some where the data states its splits"
        if fractions != FRACTIONS:
            unused = ("the data states its splits, so --fractions do not count; to draw, take the statement away",)
    else:
        shares = " ".join(f"{share:g}" for share in fractions)
        origin = f"drawn by person: --fractions {shares}, --seed {seed}"
        one = max(0.01, round(1 / max(people, 1), 2))
        cure = f"give --fractions {1 - 2 * one:.2f} {one:.2f} {one:.2f} (somebody in each)"
        if people < 3:
            cure = "three people are needed: add subjects"
    warnings = tuple(f"{text}; {cure}" for split, text in WITHOUT.items() if not counts[split])
    return Foreseen(splits, f"splits: {numbers} ({origin})", (*warnings, *unused))


def check_own_files(subjects: Iterable[Subject]) -> None:
    """Raise InputError where two people have one file, by whatever links: it could train and test."""
    owners: dict[tuple[int, int] | Path, tuple[str, Path]] = {}
    for subject in subjects:
        for path in subject.scans.values():
            try:
                status = path.stat()
            except OSError:  # which is said where it is read
                continue
            file = (status.st_dev, status.st_ino) if status.st_ino else path.resolve()
            name, other = owners.setdefault(file, (subject.name, path))
            if person_of(name) != person_of(subject.name):
                raise InputError(
                    f"{other} and {path} are one file (linked), of {name} and of {subject.name}: give each person "
                    "their own scans, or take one of the two away"
                )


def without_training(
    scans: Mapping[str, Collection[str]], splits: Mapping[str, str], contrasts: Sequence[str]
) -> list[str]:
    """A message for each contrast that no training subject has: nothing could be fitted to it.

    Args:
        scans: subject → the contrasts that it has.
        splits: subject → its split.
        contrasts: that are wanted.
    """
    trained = {contrast for name, found in scans.items() if splits[name] == "train" for contrast in found}
    missing = [contrast for contrast in contrasts if contrast not in trained]
    return [f"no training subject has {name}: leave that contrast out or change the split" for name in missing]


def exact_splits(stated: Mapping[str, str | None], counts: tuple[int, int, int], seed: int) -> dict[str, str]:
    """A split of exactly so many people, as a paper has it; of a person's visits the first is taken.

    Where the data states splits, the first of each by name are taken; else they are drawn by names and seed.

    Args:
        stated: subject → the split that the data states, or None.
        counts: people who train, validate and test.
        seed: of the draw.

    Returns:
        The chosen subjects with their split.

    Raises:
        InputError: if there are too few.
    """
    visits: dict[str, str] = {}
    for name in sorted(stated):
        visits.setdefault(person_of(name), name)
    wanted = ", ".join(f"{count} {split}" for count, split in zip(counts, SPLITS, strict=True))
    if any(split is not None for split in stated.values()):
        names = {split: [name for name in visits.values() if stated[name] == split] for split in SPLITS}
        if any(len(names[split]) < count for split, count in zip(SPLITS, counts, strict=True)):
            found = ", ".join(f"{len(names[split])} {split}" for split in SPLITS)
            raise InputError(f"the data states a split of {found}, but {wanted} are needed: add subjects or restate it")
    else:
        if len(visits) < sum(counts):
            raise InputError(f"{len(visits)} people are there, but {sum(counts)} are needed ({wanted}): add subjects")
        order = [list(visits.values())[place] for place in np.random.default_rng(seed).permutation(len(visits))]
        ends = np.cumsum((0, *counts))
        names = {split: order[ends[place] : ends[place + 1]] for place, split in enumerate(SPLITS)}
    chosen = {name: split for split, count in zip(SPLITS, counts, strict=True) for name in names[split][:count]}
    return {name: chosen[name] for name in sorted(chosen)}
