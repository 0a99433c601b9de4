"""Which runs are trainings of one recipe: an arm of a comparison.

Nobody says so: runs are one arm whose settings (`config.yaml`, and those of first stages) are equal but for the seed,
and for what changes no recipe: how often is logged and saved, threads, and, of runs by minutes, the steps they came to.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

from scansynth.config import RunConfig, read_yaml
from scansynth.synthesis.run import Run
from scansynth.training.costs import Cost
from scansynth.training.first_stage import FOLDER

INCIDENTAL = ("log_every", "checkpoint_every", "checkpoint_minutes", "threads")
"""Settings of a training that two trainings of one recipe may have otherwise."""


@dataclass(frozen=True)
class Arm:
    """Trainings of one recipe."""

    label: str
    runs: tuple[str, ...]
    """Labels of their results; one for a run that stands alone."""
    trained: bool = True
    """False of what no training has any part in: a copied source."""


def arms_of(runs: Sequence[Run]) -> tuple[Arm, ...]:
    """The arms that runs form, in the order given.

    A training counts once: runs of equal settings and equal seed (a copy without its `best/`, say) are not trainings
    beside each other. There the folders' names, less the seed, say which belong together (`last-0 last-1`, `best-0
    best-1`), and where they do not, each run stands alone.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_recipe(run), []).append(run)
    parted: list[list[Run]] = []
    for group in groups.values():
        if _apart(group):
            parted.append(group)
            continue
        by_name: dict[str, list[Run]] = {}
        for run in group:
            by_name.setdefault(_stem(run), []).append(run)
        for some in by_name.values():
            parted += [some] if _apart(some) else [[run] for run in some]
    parted.sort(key=lambda group: list(runs).index(group[0]))
    taken = {run.folder.name for run in runs}
    arms: list[Arm] = []
    for group in parted:
        labels = tuple(run.folder.name for run in group)
        label = labels[0]
        if len(group) > 1:
            stems = {_stem(run) for run in group}
            label = stems.pop() if len(stems) == 1 else _beginning(labels).rstrip("-_. ")
            if not label or label in (taken - set(labels)) | {arm.label for arm in arms}:
                label = "+".join(labels)
        arms.append(Arm(label, labels))
    return tuple(arms)


def cost_of(arm: Arm, costs: Mapping[str, Cost]) -> Cost | None:
    """What a volume takes by an arm's runs: the mean of their seconds, the largest memory; None where nobody knows."""
    own = [costs[label] for label in arm.runs if label in costs]
    if not own:
        return None
    seconds = sum(cost.seconds for cost in own) / len(own)
    return Cost(seconds, max(cost.memory_gb for cost in own), own[0].parameters)


def _apart(group: Sequence[Run]) -> bool:
    return len({run.config.seed for run in group}) == len(group)


def _stem(run: Run) -> str:
    """A run folder's name without its seed: `syndiff-seed1`, `syndiff_1` → `syndiff`."""
    return re.sub(rf"[-_. ]*(?:seed|s)?[-_. ]*(?<!\d)0*{run.config.seed}(?![0-9A-Za-z])", "", run.folder.name)


def _beginning(labels: Sequence[str]) -> str:
    """What all names begin with."""
    letters = zip(*labels, strict=False)
    return "".join(same[0] for same in takewhile(lambda same: len(set(same)) == 1, letters))


def _recipe(run: Run) -> str:
    settings, stage = [_settings(run.config)], run.folder / FOLDER
    while (stage / "config.yaml").is_file():  # a first stage may build on another one
        settings.append(_settings(read_yaml(stage / "config.yaml")))
        stage = stage / FOLDER
    return repr(settings)


def _settings(config: RunConfig[Any]) -> dict[str, Any]:
    """What makes two trainings one recipe."""
    settings = asdict(config)
    del settings["seed"]
    training = settings["training"]
    left_out = (*INCIDENTAL, "steps", "revisions") if training["minutes"] else INCIDENTAL
    settings["training"] = {name: value for name, value in training.items() if name not in left_out}
    return settings
