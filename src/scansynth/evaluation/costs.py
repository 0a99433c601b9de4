"""What the synthesis of a volume takes, by run, as the tables of `compare` and of the report show it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from scansynth.data.datasets import Acceleration
from scansynth.evaluation.figures import Figures, Synthesis
from scansynth.training.costs import Cost


class CostFigures(Figures):
    """Of every sample that was drawn."""

    def __init__(self) -> None:
        self.drawn: dict[str, list[Cost]] = {}

    def collect(self, synthesis: Synthesis) -> None:
        """Take each sample's seconds and memory."""
        if synthesis.drawn:
            costs = self.drawn.setdefault(synthesis.result.label, [])
            costs.extend(one.cost for one in synthesis.drawn)

    @property
    def found(self) -> dict[str, Cost]:
        """By run, what is typical."""
        return {label: typical(costs) for label, costs in self.drawn.items()}

    @property
    def empty(self) -> bool:
        """Whether nothing was drawn."""
        return not self.drawn

    def write(self, folder: Path, *, acceleration: Acceleration = ()) -> None:
        """Write nothing: seconds and memory stand in the tables of methods side by side."""


def typical(costs: Sequence[Cost]) -> Cost:
    """Median seconds and largest memory of several volumes."""
    seconds = float(np.median([cost.seconds for cost in costs]))
    return Cost(seconds, max(cost.memory_gb for cost in costs), costs[0].parameters)
