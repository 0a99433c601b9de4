"""What methods saw of their own steps while they sampled (`Made.observed`), as a table and curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scansynth.data.datasets import Acceleration
from scansynth.evaluation.figures import Figures, Key, Synthesis
from scansynth.evaluation.plots import MARKERS
from scansynth.evaluation.sections import Section
from scansynth.evaluation.tables import csv_text
from scansynth.files import write_text

Observed = Mapping[str, Mapping[int, float]]
"""A figure's name, then its value by time, of one sample."""


class ObservedFigures(Figures):
    """Of each sample of methods that see something."""

    def __init__(self) -> None:
        self.found: dict[Key, list[Observed]] = {}

    def collect(self, synthesis: Synthesis) -> None:
        """Take what was seen of each sample."""
        if synthesis.drawn and synthesis.drawn[0].observed:
            self.found[synthesis.key] = [one.observed for one in synthesis.drawn]

    @property
    def empty(self) -> bool:
        """Whether no method saw anything."""
        return not self.found

    def write(self, folder: Path, *, acceleration: Acceleration = ()) -> None:
        """Write `observed.csv` (a line a sample and step) and `observed.png` (means over subjects and samples)."""
        records = [
            {
                "label": label,
                "direction": direction,
                "subject": subject,
                "sample": number,
                "figure": name,
                "time": time,
                "value": value,
            }
            for (label, direction, subject), samples in self.found.items()
            for number, sample in enumerate(samples, 1)
            for name, steps in sample.items()
            for time, value in steps.items()
        ]
        write_text(folder / "observed.csv", csv_text(records))
        _plot(means(self.found), folder / "observed.png")

    def section(self) -> Section:
        """The curves."""
        return Section(
            name="observed",
            heading="Steps",
            text="What methods saw of their own steps while they sampled; observed.csv has the figures.",
            plots={
                "observed.png": "Figures by the time of the step, of each run and direction; observed.csv has them."
            },
        )


def means(found: Mapping[Key, Sequence[Observed]]) -> dict[str, dict[tuple[str, str], dict[int, float]]]:
    """By figure, by run and direction: the mean over subjects and samples at each time."""
    values: dict[str, dict[tuple[str, str], dict[int, list[float]]]] = {}
    for (label, direction, _), samples in found.items():
        for sample in samples:
            for name, steps in sample.items():
                own = values.setdefault(name, {}).setdefault((label, direction), {})
                for time, value in steps.items():
                    own.setdefault(time, []).append(value)
    return {
        name: {
            group: {time: float(np.mean(taken)) for time, taken in sorted(steps.items())}
            for group, steps in groups.items()
        }
        for name, groups in values.items()
    }


def _plot(found: Mapping[str, Mapping[tuple[str, str], Mapping[int, float]]], path: Path) -> None:
    """A panel a figure, a line a run and direction."""
    figure = Figure(figsize=(6 * len(found), 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (name, groups) in enumerate(found.items(), 1):
        axes = figure.add_subplot(1, len(found), place)
        for number, ((label, direction), steps) in enumerate(groups.items()):
            marker = MARKERS[number % len(MARKERS)]
            axes.plot(list(steps), list(steps.values()), marker=marker, linewidth=1.2, label=f"{label}, {direction}")
        axes.set_xscale("log")
        axes.set_xlabel("time of the step")
        axes.set_ylabel(name)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)
