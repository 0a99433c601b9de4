"""What the spread of samples says about the error, of all runs: a table, and plots of sparsification and coverage."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scansynth.data.datasets import Acceleration
from scansynth.evaluation.acceleration import acceleration_text
from scansynth.evaluation.figures import Figures, Key, Synthesis, by_direction
from scansynth.evaluation.sections import Cell, Line, Section, Table
from scansynth.evaluation.tables import csv_text, listed, spread_of, spread_text
from scansynth.files import write_text
from scansynth.metrics.cases import Case, brain
from scansynth.metrics.uncertainty import LEVELS, Uncertainty, uncertainty


class UncertaintyFigures(Figures):
    """Inside the brain, of each run's syntheses of which several samples were drawn."""

    def __init__(self) -> None:
        self.found: dict[Key, Uncertainty] = {}

    def collect(self, synthesis: Synthesis) -> None:
        """Hold the samples' spread against the error of their mean."""
        if len(synthesis.samples) > 1:
            mask = brain(Case(synthesis.image, synthesis.truth, synthesis.masks))
            self.found[synthesis.key] = uncertainty(synthesis.samples, synthesis.truth, mask)

    @property
    def empty(self) -> bool:
        """Whether one sample was drawn of each."""
        return not self.found

    def write(self, folder: Path, *, acceleration: Acceleration = ()) -> None:
        """Write `uncertainty.csv` (a line a run, direction and subject) and `sparsification.png`."""
        records = [
            {
                "acceleration": acceleration_text(acceleration),
                "label": label,
                "direction": direction,
                "subject": subject,
                "samples": one.samples,
                "n_voxels": one.voxels,
                "correlation": one.correlation,
                "area_between_sparsification_curves": one.area,
                **{f"coverage_{level:g}": share for level, share in zip(LEVELS, one.coverage, strict=True)},
            }
            for (label, direction, subject), one in self.found.items()
        ]
        write_text(folder / "uncertainty.csv", csv_text(records))
        _plot(self.found, folder / "sparsification.png")

    def section(self) -> Section:
        """Means over subjects, and the curves."""
        return Section(
            name="uncertainty",
            heading="Uncertainty",
            text="The synthesis is the mean of several samples, its uncertainty their standard deviation. Where "
            "uncertainty tells of the error, the error of the rest falls as the most uncertain voxels are left out, "
            "and intervals cover as often as they say.",
            table=_table(self.found),
            plots={
                "sparsification.png": "Sparsification curves and coverage of each run and direction; the table above "
                "has their figures."
            },
        )


def _table(spreads: Mapping[Key, Uncertainty]) -> Table:
    """A line a run and direction: means over subjects."""
    lines = []
    for names, found in by_direction(spreads).items():
        correlation = replace(spread_of([one.correlation for one in found]), std=math.nan)
        texts = [
            str(found[0].samples), str(len(found)), spread_text(correlation, 3),
            f"{np.mean([one.area for one in found]):.3f}",
            *(f"{100 * share:.1f}" for share in np.mean([one.coverage for one in found], axis=0)),
        ]  # fmt: skip
        lines.append(Line(names, tuple(map(Cell, texts))))
    constant = [subject for (_, _, subject), one in spreads.items() if math.isnan(one.correlation)]
    notes = ()
    if constant:
        notes = (
            f"No rank correlation, and left out of its mean: {listed(constant)}, whose samples or errors are the "
            "same in every voxel.",
        )
    own = ("samples", "subjects", "rank correlation with the error ↑", "area between sparsification curves ↓")
    own += tuple(f"coverage (%), nominal {100 * level:g}" for level in LEVELS)
    return Table("Uncertainty", ("method", "direction"), own, tuple(lines), notes)


def _plot(spreads: Mapping[Key, Uncertainty], path: Path) -> None:
    """For each run and direction the two curves and the coverage, means over subjects."""
    groups = by_direction(spreads)
    figure = Figure(figsize=(9, 3.2 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    for row, ((label, direction), found) in enumerate(groups.items()):
        curves, coverage = (
            figure.add_subplot(len(groups), 2, 2 * row + 1),
            figure.add_subplot(len(groups), 2, 2 * row + 2),
        )
        for name, values, style in (
            ("most uncertain left out", [one.by_uncertainty for one in found], "-"),
            ("largest errors left out", [one.by_error for one in found], "--"),
        ):
            curves.plot(100 * found[0].fractions, np.mean(values, axis=0), style, label=name)
        curves.set_xlabel("voxels left out (%)")
        curves.set_ylabel("mean error of the rest")
        curves.set_title(f"{label}, {direction}", fontsize=9)
        curves.legend(fontsize=8)
        coverage.plot([0, 100], [0, 100], color="grey", linewidth=1)
        coverage.plot([100 * level for level in LEVELS], 100 * np.mean([one.coverage for one in found], axis=0), "o-")
        coverage.set_xlabel("nominal coverage (%)")
        coverage.set_ylabel("voxels covered (%)")
        coverage.set_title(f"{found[0].samples} samples, {len(found)} subjects", fontsize=9)
    figure.savefig(path, dpi=120)
