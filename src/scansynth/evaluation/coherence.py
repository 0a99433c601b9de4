"""Jumps between the slices of each synthesis over those of its truth, of all runs: tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from scansynth.data.datasets import Acceleration
from scansynth.evaluation.acceleration import acceleration_text
from scansynth.evaluation.figures import Figures, Key, Synthesis, by_direction
from scansynth.evaluation.sections import Cell, Line, Section, Table
from scansynth.evaluation.tables import csv_text, spread_of, spread_text
from scansynth.files import write_text
from scansynth.metrics.cases import Case, brain
from scansynth.metrics.coherence import Jumps, jumps
from scansynth.units import Slices

HEADINGS = ("along the slices → 1", "in the plane, first axis", "second axis", "slices over plane → 1")
NOTE = (
    "Mean absolute difference of neighbouring voxels inside the brain over the truth's own, along each axis: 1 is as "
    "smooth as real, above it are jumps (along the slices: stripes), below it blur. Of several samples: mean of their "
    "figures, not that of the mean image. Slices over plane: above 1 slices fit together less well than the images "
    "are smooth."
)


class CoherenceFigures(Figures):
    """Inside the brain, of all syntheses and copied sources."""

    def __init__(self) -> None:
        self.found: dict[Key, Jumps] = {}

    def collect(self, synthesis: Synthesis) -> None:
        """Measure each sample along the axis of the method's slices: axial ones, where it makes no slices."""
        made = (run for run in synthesis.task.runs if run.folder.name == synthesis.result.label)
        unit = next((run.method.needs for run in made), None) if synthesis.drawn else None
        axis = unit.axis if isinstance(unit, Slices) else 2
        mask = brain(Case(synthesis.image, synthesis.truth, synthesis.masks))
        found = [jumps(sample, synthesis.truth, mask, axis=axis) for sample in synthesis.samples]
        first, second = np.mean([one.in_plane for one in found], axis=0).tolist()
        self.found[synthesis.key] = Jumps(
            slices=float(np.mean([one.slices for one in found])), in_plane=(first, second)
        )

    @property
    def empty(self) -> bool:
        """Whether nothing was measured."""
        return not self.found

    def write(self, folder: Path, *, acceleration: Acceleration = ()) -> None:
        """Write `coherence.md` and `coherence.csv` (a line a subject)."""
        records = [
            {
                "label": label,
                "direction": direction,
                "subject": subject,
                "acceleration": acceleration_text(acceleration),
                "slices": one.slices,
                "plane_first_axis": one.in_plane[0],
                "plane_second_axis": one.in_plane[1],
                "slices_over_plane": one.excess,
            }
            for (label, direction, subject), one in self.found.items()
        ]
        write_text(folder / "coherence.csv", csv_text(records))
        write_text(folder / "coherence.md", markdown(self.found))

    def section(self) -> Section:
        """Means over subjects."""
        lines = []
        for names, group in by_direction(self.found).items():
            parts = [text.partition(" ") for text in _spreads(group)]
            lines.append(Line(names, (Cell(str(len(group))), *(Cell(mean, spread) for mean, _, spread in parts))))
        return Section(
            name="coherence",
            heading="Jumps between slices",
            text="Slices that are made one by one need not fit each other: stripes in coronal and sagittal view.",
            table=Table(
                "Jumps between slices", ("method", "direction"), ("subjects", *HEADINGS), tuple(lines), (NOTE,)
            ),
        )


def markdown(found: Mapping[Key, Jumps]) -> str:
    """A row a run and direction: mean ± standard deviation over subjects."""
    lines = [
        f"{NOTE} Mean ± standard deviation over subjects.",
        "",
        f"| method | direction | subjects | {' | '.join(HEADINGS)} |",
        f"| --- | --- | ---: |{' ---: |' * len(HEADINGS)}",
    ]
    for (label, direction), group in by_direction(found).items():
        name = label.replace("|", "\\|")
        lines.append(f"| {name} | {direction} | {len(group)} | {' | '.join(_spreads(group))} |")
    return "\n".join(lines) + "\n"


def _spreads(group: Sequence[Jumps]) -> list[str]:
    """Each figure's mean ± standard deviation over subjects."""
    values = [(one.slices, *one.in_plane, one.excess) for one in group]
    return [spread_text(spread_of(list(column)), 3) for column in zip(*values, strict=True)]
