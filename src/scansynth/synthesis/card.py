"""The card of an exported run: what it is, of what it was made, what it wants, and a hash of every file.

card.json   written by `scansynth export`, checked whenever the run is loaded

A card is held against the files, by size and SHA-256, and against the run: one that says something else of contrasts,
input or weights than they do is refused. Its hash of itself finds what was changed by chance or by hand. It is no
signature: whoever changes all of it can make another, and only the archive's own SHA-256, told another way, tells.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict

from scansynth.data.record import FILE as PREPARATION
from scansynth.data.record import PreparationRecord
from scansynth.errors import InputError
from scansynth.files import sha256_of
from scansynth.ranges import Natural
from scansynth.records import read_json
from scansynth.synthesis.intervals import FILE as INTERVALS
from scansynth.training.first_stage import FOLDER as FIRST_STAGE

if TYPE_CHECKING:
    from scansynth.synthesis.run import Run

FILE = "card.json"
VERSION = 1
CURE = "ask whoever sent the run for it anew"
FOLDERS = (FIRST_STAGE, "last", "best")
READ = ("config.yaml", PREPARATION, INTERVALS, "environment.json")
"""With what is in `FOLDERS`, the files of a run that scansynth reads: each has its hash on the card, or is refused."""


class Weights(TypedDict):
    """Of a card, what the networks know."""

    sha256: str
    training_step: Natural
    licence: str
    named: NotRequired[str]
    """What came of published weights that the settings name, of a method that has some."""


class TrainingData(TypedDict):
    """Of a card, what the run was trained on; people as numbers."""

    description: str
    licence: str
    people: dict[str, Natural]
    age: str
    sex: str


class Card(TypedDict):
    """What `card.json` says."""

    card: Literal[1]
    name: str
    method: str
    description: str
    citation: str
    contrasts: list[str]
    makes: list[str]
    input: dict[str, Any]
    """As `wants_of`."""
    weights: Weights
    training_data: TrainingData
    figures: list[dict[str, Any]]
    """Measured with these weights, by protocol."""
    limits: list[str]
    made_by: dict[str, str]
    files: dict[str, tuple[Natural, str]]
    """Path in the folder → bytes and SHA-256."""


def read_card(folder: Path) -> Card | None:
    """The card of a run's folder, its files held against it; None where it has none: it was trained here.

    Raises:
        InputError: if the card was changed, or a file of the run is not what was exported.
    """
    if not (folder / FILE).exists():
        return None
    card: Card = read_json(folder / FILE, Card, CURE)
    for path in sorted(_read(folder)):
        if path not in card["files"]:
            raise InputError(f"{folder / path}: no part of what was exported (it is not on {FILE}): {CURE}")
    for path, (size, digest) in card["files"].items():
        file = folder / path
        if not file.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{folder / FILE}: names {path!r}, which is not in its folder: {CURE}")
        if not file.is_file():
            raise InputError(f"{file}: missing, though it was exported: {CURE}")
        if file.stat().st_size != size or sha256_of(file) != digest:
            raise InputError(f"{file}: not what was exported (its SHA-256 is not that on {FILE}): {CURE}")
    return card


def check_claims(card: Card, run: "Run") -> None:
    """Raise InputError if a card says something else than its run is."""
    facts = facts_of(run)
    for name, value in facts.items():
        if card[name] != value:
            raise InputError(f"{run.folder / FILE}: says {name} {card[name]!r}, and the run's is {value!r}: {CURE}")
    for name in ("sha256", "training_step"):
        if card["weights"][name] != run.weights[name]:
            raise InputError(f"{run.folder / FILE}: is of other weights ({name}) than the run has: {CURE}")


def facts_of(run: "Run") -> dict[str, Any]:
    """What a card says that the run itself tells."""
    return {
        "method": run.config.method, "contrasts": list(run.config.contrasts), "makes": list(run.method.targets),
        "input": wants_of(run.record),
    }  # fmt: skip


def wants_of(record: PreparationRecord) -> dict[str, Any]:
    """What sources a run is for, in words and numbers."""
    usual = {
        contrast: f"{one.scans} scans of {' × '.join(f'{mm:.3g}' for mm in one.spacing)} mm, "
        f"{round(100 * one.with_skull)} % with a skull"
        for contrast, one in record.usual.items()
    }
    return {
        "voxels of mm": [mm or "as they are" for mm in record.settings.spacing],
        "grid": [side or "as it is" for side in record.settings.size],
        "intensity": record.settings.intensity,
        "like": usual or "not known: sources are not held against the training scans",
        "sources that lie apart": "are registered" if record.raw else "are refused",
    }


def people_of(splits: Mapping[str, str]) -> dict[str, int]:
    """How many people trained, validated and tested."""
    return dict(Counter(splits.values()))


def _read(folder: Path) -> Iterator[str]:
    """Files of a run that scansynth reads, by their paths in its folder."""
    yield from (name for name in READ if (folder / name).exists())
    for part in FOLDERS:
        for file in (folder / part).rglob("*"):
            if not file.is_dir() and not file.name.startswith("."):
                yield file.relative_to(folder).as_posix()
