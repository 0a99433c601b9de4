"""How often the truth lies in a run's intervals: a table by level and region, of runs that are calibrated."""

from pathlib import Path

import numpy as np

from scansynth.data.datasets import Acceleration
from scansynth.errors import InputError
from scansynth.evaluation.acceleration import acceleration_text
from scansynth.evaluation.figures import Figures, Key, Synthesis, by_direction
from scansynth.evaluation.sections import Cell, Line, Section, Table
from scansynth.evaluation.tables import csv_text
from scansynth.files import write_text
from scansynth.metrics.conformal import REGIONS, Held, Intervals, coverage, half_width, head
from scansynth.synthesis.intervals import FILE, read_intervals
from scansynth.synthesis.run import Run

PLACES = ("head", *REGIONS)


class IntervalFigures(Figures):
    """Of each synthesis by a run with intervals of these weights and this way of drawing."""

    def __init__(self) -> None:
        self.found: dict[Key, dict[float, dict[str, float]]] = {}
        """By level, then by region: the share of voxels that are covered; under `width` half the mean width."""
        self.notes: dict[str, str] = {}
        """Why a run that has intervals has none here, by run."""
        self._known: dict[Path, dict[str, Intervals]] = {}

    def collect(self, synthesis: Synthesis) -> None:
        """Hold the truth against the intervals."""
        run = synthesis.run
        if run is None or not synthesis.task.whole or not (run.folder / FILE).is_file():
            return
        intervals = self._intervals(run, synthesis).get(synthesis.task.target)
        if intervals is None or set(intervals.sources) != set(synthesis.result.sources):
            return
        several = len(synthesis.samples) > 1
        held = Held(synthesis.image, synthesis.truth, synthesis.samples.std(0, ddof=1) if several else None)
        inside = head(held.image)
        self.found[synthesis.key] = {
            level: coverage(held, intervals, level)
            | {"width": float(half_width(held.image, held.deviation, intervals, level)[inside].mean())}
            for level in intervals.levels
        }

    def _intervals(self, run: Run, synthesis: Synthesis) -> dict[str, Intervals]:
        if run.folder not in self._known:
            try:
                self._known[run.folder] = read_intervals(
                    run, samples=len(synthesis.samples), mean=synthesis.drawn_as_mean
                )
            except InputError as error:
                self._known[run.folder], self.notes[run.folder.name] = {}, str(error)
        return self._known[run.folder]

    @property
    def empty(self) -> bool:
        """Whether no run has intervals."""
        return not (self.found or self.notes)

    def write(self, folder: Path, *, acceleration: Acceleration = ()) -> None:
        """Write `intervals.csv`: a line a run, direction, subject and level."""
        if self.found:
            records = [
                {
                    "acceleration": acceleration_text(acceleration),
                    "label": label,
                    "direction": direction,
                    "subject": subject,
                    "nominal": level,
                    **{f"coverage_{place}": shares[place] for place in PLACES},
                    "half_width": shares["width"],
                }
                for (label, direction, subject), levels in self.found.items()
                for level, shares in levels.items()
            ]
            write_text(folder / "intervals.csv", csv_text(records))

    def section(self) -> Section:
        """Means over subjects."""
        return Section(
            name="intervals",
            heading="Intervals",
            text="Intervals around the syntheses, made on the validation subjects (`scansynth calibrate`): how many of "
            "these subjects' voxels have their truth inside, against how many should. Regions are those of the "
            "synthesis: the rim of the head, and dark, middle and bright voxels inside.",
            table=self._table(),
        )

    def _table(self) -> Table:
        lines = []
        for names, found in by_direction(self.found).items():
            for level in found[0]:
                shares = {place: [one[level][place] for one in found] for place in PLACES}
                cells = [f"{100 * level:g}", str(len(found))]
                cells += [_percent(values) for values in shares.values()]
                cells.append(f"{np.mean([one[level]['width'] for one in found]):.4f}")
                lines.append(Line(names, tuple(Cell(text) for text in cells)))
        headings = ("nominal (%)", "subjects", *(f"covered, {place} (%)" for place in PLACES), "half width, of [0, 1]")
        return Table("Intervals", ("method", "direction"), headings, tuple(lines), tuple(self.notes.values()))


def _percent(values: list[float]) -> str:
    known = [value for value in values if np.isfinite(value)]
    return f"{100 * np.mean(known):.1f}" if known else "–"
