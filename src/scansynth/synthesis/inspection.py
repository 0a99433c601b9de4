"""A run from a stranger, looked into before it is used: what it is, what it wants, and whether anything is off.

No network is built before the hashes of its weights are right, and none beyond them (`Run.load`).
"""

import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scansynth.config import RunConfig, read_yaml
from scansynth.data.record import FILE as PREPARATION
from scansynth.data.record import PreparationRecord
from scansynth.errors import InputError
from scansynth.files import LEADS_OUT, leading_out, sha256_of
from scansynth.methods import find_entry
from scansynth.records import read_json
from scansynth.synthesis.card import FILE as CARD
from scansynth.synthesis.card import Card, people_of, read_card, wants_of
from scansynth.synthesis.intervals import FILE as INTERVALS
from scansynth.synthesis.places import find_run
from scansynth.synthesis.run import Run
from scansynth.training.checkpoint import current, load, read_state, step_of
from scansynth.training.first_stage import FOLDER as FIRST_STAGE

ENVIRONMENT = "environment.json"
OURS = {
    "config.yaml", PREPARATION, ENVIRONMENT, INTERVALS, FIRST_STAGE, "last", "best", "metrics.jsonl", "tensorboard",
    "validation", CARD, "README.md", "configs",
}  # fmt: skip
"""What scansynth writes into a run's folder, and exports."""


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What a run's folder says of itself."""

    told: Mapping[str, Any]
    """What it is, of plain values; what could not be read is not among them."""
    off: tuple[str, ...]
    """What is wrong or not as scansynth leaves it, a line each; the first ones first."""


def inspect(folder: str | Path) -> Inspection:
    """Look into a run's folder; nothing but what is in it is read, and no code of it is run.

    Raises:
        InputError: if there is no such folder.
    """
    folder = find_run(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give that of a `scansynth train` or of a run that you were sent")
    told: dict[str, Any] = {"run": folder.absolute().name}
    off = [f"{link}: {LEADS_OUT}" for link in leading_out(folder)]
    if off:  # nothing is read that is not in it
        return Inspection(told=told, off=tuple(off))

    @contextmanager
    def noting() -> Iterator[None]:
        try:
            yield
        except InputError as error:
            off.append(str(error))

    with noting():
        told |= _of_card(read_card(folder))
    with noting():
        told |= _of_settings(read_yaml(folder / "config.yaml"))
    with noting():
        told |= _of_stages(folder)
    with noting():
        told["trained by"] = read_json(folder / ENVIRONMENT, dict[str, str], "it says which version trained the run")
    with noting():
        told |= _of_preparation(PreparationRecord.read(folder))
    told["weights"] = {}
    for kind in ("best", "last"):
        with noting():
            told["weights"] |= _of_checkpoint(folder / kind)
    if not off:
        with noting(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run = Run.load(folder, "cpu")
            told["synthesises with"] = f"{run.chosen}, step {run.weights['training_step']}"
            told["makes"] = list(run.method.targets)
            told["numbers in its networks"] = sum(one.numel() for one in run.method.nets.parameters())
    if beside := _beside(folder):
        told["no part of a run, and never opened"] = beside
    return Inspection(told=told, off=tuple(dict.fromkeys(off)))


def _of_card(card: Card | None) -> dict[str, Any]:
    """What whoever exported it states; the rest of the card is held against the run."""
    if card is None:
        return {}
    return {
        "exported as": card["name"], "licence of the weights": card["weights"]["licence"],
        "training data": dict(card["training_data"]), "figures": card["figures"], "limits": card["limits"],
    }  # fmt: skip


def _of_settings(config: RunConfig[Any]) -> dict[str, Any]:
    entry = find_entry(config.method)[1]
    return {
        "method": f"{config.method}: {entry.description}", "citation": entry.citation,
        "contrasts": list(config.contrasts), "training steps": config.training.steps, "seed": config.seed,
    }  # fmt: skip


def _of_stages(folder: Path) -> dict[str, Any]:
    """The runs that it builds on, the nearest first, whose copies lie one in the other."""
    found = []
    while (folder := folder / FIRST_STAGE).is_dir():
        config = read_yaml(folder / "config.yaml")
        found.append(f"{config.method}, {config.training.steps} steps")
    return {"builds on": found} if found else {}


def _of_preparation(record: PreparationRecord) -> dict[str, Any]:
    """Of people only how many."""
    return {
        "wants": wants_of(record),
        "trained on": {
            "people": people_of(record.splits), "cohort": record.fingerprint,
            "labels": [label.name for label in record.labels],
        },
    }  # fmt: skip


def _of_checkpoint(folder: Path) -> dict[str, Any]:
    """The newest checkpoint of a folder, if there is one; all of its files against their hashes."""
    if not folder.is_dir() or (checkpoint := current(folder)) is None:
        return {}
    names = [Path(name).stem for name in read_state(checkpoint).get("files", {})] or ["weights"]
    load(checkpoint, *names)
    return {
        folder.name: {"step": step_of(checkpoint), "sha256": sha256_of(checkpoint / "weights.safetensors")}
    }  # fmt: skip


def _beside(folder: Path) -> list[str]:
    """What lies in the folder and is no part of a run."""
    return [name for name in sorted(os.listdir(folder)) if name not in OURS and not name.startswith(".")]


def as_json(found: Inspection) -> str:
    """All of it, for programs."""
    return json.dumps({**found.told, "off": list(found.off)}, indent=1, ensure_ascii=False)
