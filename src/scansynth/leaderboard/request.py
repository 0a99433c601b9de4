"""What a leaderboard is of: a task on a cohort, recipes, seeds, and what a training may cost.

benchmark.json                     what was asked, and the yardstick that costs are measured by
rates/<recipe>.json                what a step of a recipe costs, and the steps that follow: measured once
runs/<recipe>-<seed>/              trained; <recipe>_first_stage-<seed>/ is what others build on
kept/<recipe>-<seed>/              drawn of the test subjects
failed/<run>.json                  why a training or its drawing ended without one
claims/                            which process is at work on what
evaluation/                        figures, pictures, differences with their tests, report.html
table.md .tsv .json                the leaderboard

Recipes and seeds are no part of what must be the same: more of them may be asked for later, in the same folder.
"""

import fnmatch
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import torch

from scansynth.config import RunConfig
from scansynth.data.cohort import Cohort
from scansynth.data.contrasts import standard_name
from scansynth.errors import InputError, did_you_mean, shown
from scansynth.files import write_text
from scansynth.methods import find_method
from scansynth.precision import choose_precision
from scansynth.ranges import Positive
from scansynth.recipes import RECIPES, find_recipe
from scansynth.records import read_json

SMALL = ("*_small",)
"""Recipes that are trained where nobody names some: the small ones of papers. Variants' names go on after that word."""

SEED = 0
"""Of the noise of drawing, for all runs: trainings differ by their own seed alone."""


class _Asked(TypedDict):
    """`benchmark.json`."""

    cohort: str
    sources: list[str]
    target: str
    minutes: Positive
    samples: int
    defaults: bool
    device: str
    precision: str
    yardstick: Positive


@dataclass(frozen=True, kw_only=True)
class Request:
    """A leaderboard."""

    cohort: Cohort
    out: Path
    sources: tuple[str, ...]
    target: str
    minutes: float
    """Processor minutes of a training, on the machine that began; of a GPU minutes."""
    recipes: tuple[str, ...]
    seeds: tuple[int, ...]
    samples: int
    """Drawn of each test subject by a method that draws: their spread is held against the error."""
    defaults: bool
    """Whether usual values stand in for acquisitions that are not known."""
    device: torch.device

    @property
    def direction(self) -> str:
        """`T1w+FLAIR→T2w`."""
        return f"{'+'.join(self.sources)}→{self.target}"

    @cached_property
    def precision(self) -> str:
        """What all networks compute in: that of the process that began, for arms must not differ by the machine."""
        begun = self.begun()
        return begun["precision"] if begun else choose_precision("auto", self.device).precision

    def begun(self) -> _Asked | None:
        """What the folder says; None where nothing has begun in it.

        Raises:
            InputError: if it holds another leaderboard, or something else.
        """
        path = self.out / "benchmark.json"
        if not path.is_file():
            if self.out.exists() and (not self.out.is_dir() or any(map(_foreign, self.out.iterdir()))):
                raise InputError(f"{self.out}: not a folder of `scansynth benchmark` and not empty; choose another -o")
            return None
        stored: _Asked = read_json(path, _Asked, "restore it, or choose another -o")
        differ = [
            f"{name} {shown(stored.get(name))} there, {shown(value)} here"
            for name, value in self._asked.items()
            if stored.get(name) != value
        ]
        if differ:
            raise InputError(f"{self.out}: holds another benchmark ({'; '.join(differ)}); choose another -o")
        return stored

    def begin(self, yardstick: float) -> None:
        """Write what was asked; `yardstick` as in `rates.py`."""
        content = {**self._asked, "precision": self.precision, "yardstick": yardstick}
        write_text(self.out / "benchmark.json", json.dumps(content, indent=1) + "\n")

    @property
    def _asked(self) -> dict[str, Any]:
        return {
            "cohort": self.cohort.fingerprint, "sources": list(self.sources), "target": self.target,
            "minutes": float(self.minutes), "samples": self.samples, "defaults": self.defaults,
            "device": self.device.type,
        }  # fmt: skip

    def run_folder(self, recipe: str, seed: int, *, as_stage: bool = False) -> Path:
        """Where a training lies."""
        return self.out / "runs" / f"{recipe}{'_first_stage' if as_stage else ''}-{seed}"

    def config(self, recipe: str, seed: int = 0, steps: int | None = None) -> RunConfig[Any]:
        """Settings of a training: the recipe's, on the task's contrasts and, where it can, for its target alone.

        Args:
            recipe: its name.
            seed: of weights, order of the data and noise.
            steps: that it takes; None: the recipe's, for a trial.
        """
        base = find_recipe(recipe)
        method, settings, data = find_method(base.method), base.settings, base.data
        if any(one.name == "targets" for one in fields(settings)) and not method.reconstructs:
            settings = replace(settings, targets=(self.target,))
        contrasts = (*self.sources, self.target)
        if self.defaults and data.defaults == "none" and method.needs_of(settings, contrasts).sequences is not None:
            data = replace(data, defaults="common")
        training = replace(
            base.training, steps=steps or base.training.steps, minutes=0.0, revisions=(), precision=self.precision,
            threads=1 if self.device.type == "cpu" else base.training.threads, checkpoint_every=None,
            # One look at the end: what a validation costs is no part of what methods share out.
            validate_every=steps or base.training.steps, validation_slices=1,
        )  # fmt: skip
        return replace(base, settings=settings, contrasts=contrasts, data=data, training=training, seed=seed)


def _foreign(path: Path) -> bool:
    """Whether a file is none of another process that is about to begin."""
    return path.name != "claims" and not path.name.startswith(".")


def parse_task(cohort: Cohort, sources: Sequence[str], target: str | None) -> tuple[tuple[str, ...], str]:
    """The task that flags name, in standard names: sources and target.

    Without a target, of a cohort with two contrasts, the second is made of the first; without sources, all contrasts
    but the target are.

    Raises:
        InputError: if it is none that the cohort has.
    """
    known = cohort.contrasts
    if len(known) < 2:
        raise InputError(f"{cohort.folder}: one contrast ({', '.join(known)}): there is nothing to translate")
    if target is None and len(known) > 2:
        raise InputError(f"{cohort.folder} has {', '.join(known)}: say which one is made, --target {known[-1]}")
    made = standard_name(target) if target else known[1]
    given = tuple(dict.fromkeys(map(standard_name, sources))) or tuple(name for name in known if name != made)
    for name in (*given, made):
        if name not in known:
            raise InputError(f"contrast {shown(name)} is not in {cohort.folder}, which has {', '.join(known)}")
    if made in given:
        raise InputError(f"{made} is both --source and --target: leave it out of one of them")
    return tuple(name for name in known if name in given), made


def parse_recipes(names: Sequence[str]) -> tuple[str, ...]:
    """Recipes by their names or patterns (`*_small*`), in the order of the table of recipes for each.

    Raises:
        InputError: if there is none of a name.
    """
    found: dict[str, None] = {}
    for name in names or SMALL:
        known = name.replace("-", "_")
        matching = fnmatch.filter(RECIPES, known)
        if not matching:
            raise InputError(
                f"recipe {shown(name)} is unknown: {did_you_mean(known, RECIPES)}`scansynth methods --recipes METHOD` "
                "lists those of a method; a pattern such as '*_small*' names several"
            )
        found.update(dict.fromkeys(matching))
    return tuple(found)
