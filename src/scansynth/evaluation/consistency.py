"""How much samples differ and what averaging them brings, of all runs: tables, and the curve of CG-DDPM's Fig. 4."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scansynth.data.datasets import Acceleration
from scansynth.evaluation.acceleration import acceleration_text
from scansynth.evaluation.figures import Figures, Key, Synthesis, by_direction
from scansynth.evaluation.plots import MARKERS
from scansynth.evaluation.sections import Cell, Line, Section, Table
from scansynth.evaluation.tables import csv_text, listed, spread_of, spread_text
from scansynth.files import write_text
from scansynth.metrics.consistency import Consistency, consistency

MS_SSIM = "ms_ssim_percent"
NOTE = (
    "Uncertainty: mean standard deviation of the samples in [−1, 1]. MC-n: of the mean of n samples. Inconsistency: "
    "standard deviation over n of MC-n over its maximum."
)


class ConsistencyFigures(Figures):
    """Of each run's syntheses of which several samples were drawn, under a protocol with MS-SSIM."""

    def __init__(self) -> None:
        self.found: dict[Key, Consistency] = {}
        self.missing: dict[Key, str] = {}
        """Why MS-SSIM cannot be had."""

    def collect(self, synthesis: Synthesis) -> None:
        """Measure the mean of the first n samples, n = 1 … S."""
        task = synthesis.task
        if len(synthesis.samples) > 1 and MS_SSIM in task.protocol.columns:
            if why := synthesis.result.measurement.missing.get(MS_SSIM):
                self.missing[synthesis.key] = why
                return
            alone = replace(task, protocol=task.protocol.only(MS_SSIM)).measuring()
            self.found[synthesis.key] = consistency(synthesis.samples, lambda image: alone(image).mean(MS_SSIM))

    @property
    def empty(self) -> bool:
        """Whether one sample was drawn of each, or MS-SSIM is not measured."""
        return not self.found and not self.missing

    @property
    def notes(self) -> list[str]:
        """Who is left out, and why."""
        by_reason: dict[str, list[str]] = {}
        for (_, _, subject), why in self.missing.items():
            by_reason.setdefault(why, []).append(subject)
        return [f"Left out, for there is no MS-SSIM ({why}): {listed(names)}." for why, names in by_reason.items()]

    def write(self, folder: Path, *, acceleration: Acceleration = ()) -> None:
        """Write `consistency.md`, `consistency.csv` (a line a subject) and `consistency.png` (N-MSSIM)."""
        text = markdown(self.found) if self.found else ""
        write_text(folder / "consistency.md", "\n".join([text, *(f"- {note}" for note in self.notes)]).strip() + "\n")
        if not self.found:
            return
        records = [
            {
                "label": label,
                "direction": direction,
                "subject": subject,
                "acceleration": acceleration_text(acceleration),
                "uncertainty": one.uncertainty,
                "inconsistency": one.inconsistency,
                **{f"mc_{n}_ms_ssim_percent": value for n, value in enumerate(one.averaged, 1)},
            }
            for (label, direction, subject), one in self.found.items()
        ]
        write_text(folder / "consistency.csv", csv_text(records))
        _plot(by_direction(self.found), folder / "consistency.png")

    def section(self) -> Section:
        """Means over subjects, and the curve."""
        lines = []
        if not self.found:
            return Section(name="consistency", heading="Consistency", text=" ".join(self.notes))
        for names, group in by_direction(self.found).items():
            parts = [text.partition(" ") for text in _spreads(group)]
            cells = [Cell(mean, deviation) for mean, _, deviation in parts]
            lines.append(Line(names, (Cell(str(len(group))), *cells)))
        own = ("subjects", *_headings(self.found))
        return Section(
            name="consistency",
            heading="Consistency",
            text="How much the samples of one subject differ, and what averaging them brings.",
            table=Table("Consistency", ("method", "direction"), own, tuple(lines), (NOTE, *self.notes)),
            plots={
                "consistency.png": "N-MSSIM by the number of samples that are averaged; the table above has the "
                "figures."
            },
        )


def markdown(found: Mapping[Key, Consistency]) -> str:
    """A row a run and direction: mean ± standard deviation over subjects."""
    heads = _headings(found)
    lines = [
        f"{NOTE} By subject; mean ± standard deviation over subjects.",
        "",
        f"| method | direction | subjects | {' | '.join(heads)} |",
        f"| --- | --- | ---: |{' ---: |' * len(heads)}",
    ]
    for (label, direction), group in by_direction(found).items():
        name = label.replace("|", "\\|")
        lines.append(f"| {name} | {direction} | {len(group)} | {' | '.join(_spreads(group))} |")
    return "\n".join(lines) + "\n"


def _headings(found: Mapping[Key, Consistency]) -> list[str]:
    """Of the figures of `_spreads`."""
    most = max(len(one.averaged) for one in found.values())
    return ["uncertainty", "inconsistency", *(f"MC-{n} MS-SSIM (%)" for n in range(1, most + 1))]


def _spreads(group: Sequence[Consistency]) -> list[str]:
    """Each figure's mean ± standard deviation over subjects."""
    values = [([one.uncertainty for one in group], 5), ([one.inconsistency for one in group], 5)]
    values += [(list(averaged), 2) for averaged in zip(*[one.averaged for one in group], strict=True)]
    return [spread_text(spread_of(numbers), digits) for numbers, digits in values]


def _plot(groups: Mapping[tuple[str, str], Sequence[Consistency]], path: Path) -> None:
    """N-MSSIM by the number of samples (CG-DDPM, Fig. 4), a line a run, a panel a direction."""
    directions = list(dict.fromkeys(direction for _, direction in groups))
    figure = Figure(figsize=(4.5 * len(directions), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for place, direction in enumerate(directions):
        axes = figure.add_subplot(1, len(directions), place + 1)
        own = [(label, group) for (label, other), group in groups.items() if other == direction]
        for number, (label, group) in enumerate(own):
            means = np.mean([one.normalised for one in group], axis=0)
            axes.plot(range(1, len(means) + 1), means, marker=MARKERS[number % len(MARKERS)], label=label)
        axes.set_xlabel("samples that are averaged")
        axes.set_ylabel("N-MSSIM")
        axes.set_title(direction, fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
