"""Kinds of figures: what an evaluation takes of each synthesis beside its protocol's table.

A kind is one class in a file of its own, and is taken where `KINDS` (`evaluation/evaluate.py`) names it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from scansynth.data.datasets import Acceleration
from scansynth.evaluation.samples import DrawnSample
from scansynth.evaluation.sections import Section
from scansynth.evaluation.tables import Result
from scansynth.evaluation.tasks import Task
from scansynth.synthesis.run import Run

Value = TypeVar("Value")
Key = tuple[str, str, str]
"""Run, direction and subject."""


@dataclass(frozen=True, kw_only=True)
class Synthesis:
    """What a run made of a subject's target, or a copied source in its place; volumes (X, Y, Z) in [0, 1]."""

    task: Task
    result: Result
    """What it is, and its figures under the task's protocol."""
    image: np.ndarray
    """Of several samples, their mean."""
    samples: np.ndarray
    """(S, X, Y, Z)."""
    truth: np.ndarray
    masks: Mapping[str, np.ndarray]
    """Of the subject, by name."""
    drawn: Sequence[DrawnSample] = ()
    """How each sample came about; none for a copied source."""
    run: Run | None = None
    """What made it; None for a copied source."""
    drawn_as_mean: bool = False
    """Whether it is a mean given the sources (`evaluate`)."""

    @property
    def key(self) -> Key:
        """What its figures stand under."""
        return self.result.label, self.result.direction, self.result.subject


class Figures(ABC):
    """One kind of figure, of all syntheses of an evaluation. It keeps figures and no volumes."""

    @abstractmethod
    def collect(self, synthesis: Synthesis) -> None:
        """Take the figures of one synthesis, if it has some; called for all in the order of the table."""

    @property
    @abstractmethod
    def empty(self) -> bool:
        """Whether no synthesis had such figures: nothing is written then, and the report has no section of them."""

    @abstractmethod
    def write(self, folder: Path, *, acceleration: Acceleration) -> None:
        """Write tables and plots.

        Args:
            folder: where to; it exists.
            acceleration: of the contrasts, which tables name.
        """

    def section(self) -> Section | None:
        """What the report shows, after `write`; None: nothing of its own."""
        return None


def by_direction(found: Mapping[Key, Value]) -> dict[tuple[str, str], list[Value]]:
    """By run and direction, a list over subjects."""
    groups: dict[tuple[str, str], list[Value]] = {}
    for (label, direction, _), one in found.items():
        groups.setdefault((label, direction), []).append(one)
    return groups
