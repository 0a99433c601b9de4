"""Figures as the report's tables show them: text, with what is best and what differs beyond chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scansynth.evaluation.comparison import Comparison
from scansynth.evaluation.comparison_tables import notes
from scansynth.evaluation.downstream import WHOLE, Dice
from scansynth.evaluation.regions import METRICS as REGION_METRICS
from scansynth.evaluation.regions import RegionResult, rows_by_region
from scansynth.evaluation.tables import Result, spread_of, spread_text, summarise
from scansynth.metrics.consistency import NOTE, Consistency, by_direction, spreads
from scansynth.metrics.consistency import headings as consistency_headings
from scansynth.metrics.protocols import Protocol
from scansynth.metrics.uncertainty import LEVELS, Uncertainty
from scansynth.training.costs import Cost


@dataclass(frozen=True)
class Cell:
    """One figure."""

    text: str
    spread: str = ""
    """`± 1.26`, where there is one."""
    best: bool = False
    mark: str = ""
    """Stars of a difference to the reference."""


@dataclass(frozen=True)
class Line:
    """One line of a table."""

    names: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Headings and lines, and what the reader must know of them."""

    title: str
    names: tuple[str, ...]
    """Headings of the first columns, which are text."""
    headings: tuple[str, ...]
    """Headings of the figures."""
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()


def headings(protocol: Protocol) -> tuple[str, ...]:
    """The protocol's figures, each with an arrow to its better side."""
    arrows = {True: " ↑", False: " ↓", None: " → 1"}
    return tuple(
        protocol.heading(column) + arrows[metric.higher_is_better] for column, metric in protocol.columns.items()
    )


def main_table(
    results: Sequence[Result], protocol: Protocol, costs: Mapping[str, Cost], comparison: Comparison | None
) -> Table:
    """A line a method and direction: mean ± standard deviation over subjects, time and memory."""
    compared = {} if comparison is None else {(row.label, row.direction): row for row in comparison.rows}
    lines = []
    for row in summarise(results):
        found = compared.get((row.label, row.direction))
        cells = []
        for column, metric in protocol.columns.items():
            mean, _, deviation = spread_text(row.subjects[column], metric.digits).partition(" ± ")
            best = found is not None and column in found.best
            mark = comparison.mark(found, column) if comparison and found else ""
            cells.append(Cell(mean, f"± {deviation}" if deviation else "", best, mark))
        cost = costs.get(row.label)
        spent = ("–", "–", "–")
        if cost:
            spent = (f"{cost.seconds:.1f}", f"{cost.memory_gb:.2f}", f"{cost.parameters / 1e6:.2f}")
        cells += [Cell(text) for text in (str(row.n_subjects), *spent)]
        lines.append(Line((row.label, row.direction), tuple(cells)))
    words = (
        [note.replace("Bold: best mean.", "Bold and ●: best mean of a target.") for note in notes(comparison)[1:]]
        if comparison
        else ["Mean ± standard deviation over subjects. `scansynth compare` adds tests of differences."]
    )
    words.append("↑ higher is better, ↓ lower is better, → 1 best at 1. Time and memory: median and peak of a volume.")
    own = (*headings(protocol), "subjects", "s a volume", "memory (GB)", "parameters (M)")
    return Table("Figures", ("method", "direction"), own, tuple(lines), tuple(words))


def difference_table(comparison: Comparison) -> Table | None:
    """Differences to the reference with their intervals and tests; None where no test could be made."""
    lines = []
    for row in comparison.rows:
        for column, metric in comparison.protocol.columns.items():
            if found := row.differences.get(column):
                low, high = found.interval
                texts = (
                    f"{found.mean:+.{metric.digits}f} [{low:+.{metric.digits}f}, {high:+.{metric.digits}f}]",
                    f"{found.effect_size:.2f}", _p(found.wilcoxon), _p(found.t_test),
                )  # fmt: skip
                reference = comparison.reference[row.direction.split("→")[-1]]
                names = (f"{row.label} − {reference}", row.direction, comparison.protocol.heading(column))
                lines.append(Line(names, tuple(Cell(text) for text in texts)))
    if not lines:
        return None
    own = ("mean [95 % interval]", "effect size d", "Wilcoxon p", "t-test p")
    return Table("Differences to the reference", ("difference", "direction", "figure"), own, tuple(lines))


def subject_tables(results: Sequence[Result], protocol: Protocol) -> list[Table]:
    """For each target a line a method and subject."""
    tables = []
    for target in dict.fromkeys(result.target for result in results):
        own = [result for result in results if result.target == target]
        own.sort(key=lambda result: result.subject)
        lines = [
            Line(
                (result.subject, result.label, result.direction),
                tuple(
                    Cell(f"{result.measurement.mean(column):.{metric.digits}f}")
                    for column, metric in protocol.columns.items()
                ),
            )
            for result in own
        ]
        tables.append(Table(target, ("subject", "method", "direction"), headings(protocol), tuple(lines)))
    return tables


def uncertainty_table(spreads: Mapping[tuple[str, str, str], Uncertainty]) -> Table | None:
    """A line a run and direction: means over subjects; None where one sample was drawn."""
    groups: dict[tuple[str, str], list[Uncertainty]] = {}
    for (label, direction, _), found in spreads.items():
        groups.setdefault((label, direction), []).append(found)
    if not groups:
        return None
    lines = [
        Line(
            names,
            tuple(
                Cell(text)
                for text in (
                    str(found[0].samples), str(len(found)), f"{np.mean([one.correlation for one in found]):.3f}",
                    f"{np.mean([one.area for one in found]):.3f}",
                    *(f"{100 * share:.1f}" for share in np.mean([one.coverage for one in found], axis=0)),
                )
            ),
        )
        for names, found in groups.items()
    ]  # fmt: skip
    own = ("samples", "subjects", "rank correlation with the error ↑", "area between sparsification curves ↓")
    own += tuple(f"coverage (%), nominal {100 * level:g}" for level in LEVELS)
    return Table("Uncertainty", ("method", "direction"), own, tuple(lines))


def consistency_table(found: Mapping[tuple[str, str, str], Consistency]) -> Table | None:
    """A line a run and direction: means over subjects; None where nothing was measured."""
    if not found:
        return None
    lines = []
    for names, group in by_direction(found).items():
        parts = [text.partition(" ") for text in spreads(group)]
        cells = [Cell(mean, deviation) for mean, _, deviation in parts]
        lines.append(Line(names, (Cell(str(len(group))), *cells)))
    own = ("subjects", *consistency_headings(found))
    return Table("Consistency", ("method", "direction"), own, tuple(lines), (NOTE,))


def region_table(found: Sequence[RegionResult]) -> Table | None:
    """A line a region, run and direction: means over the subjects that have the region; None where there is none."""
    lines = []
    for (label, direction, region), row in rows_by_region(found).items():
        cells = [Cell(str(len(row))), Cell(f"{np.mean([one.voxels for one in row]):.0f}")]
        for metric in REGION_METRICS:
            values = spread_of([one.figures[metric.column] for one in row])
            text, _, spread = spread_text(values, metric.digits).partition(" ")
            cells.append(Cell("–" if np.isnan(values.mean) else text, spread))
        lines.append(Line((region.name, label, direction), tuple(cells)))
    if not lines:
        return None
    own = ("subjects", "voxels", *(metric.heading for metric in REGION_METRICS))
    notes = ("Intensities and range of protocol default: that of the reference inside the brain, for every region.",)
    return Table("By region", ("region", "method", "direction"), own, tuple(lines), notes)


def dice_table(found: Sequence[Dice]) -> Table | None:
    """A line a target and what stood in its place; None where nothing was segmented."""
    if not found:
        return None
    lines = []
    for target, label in dict.fromkeys((one.target, one.label) for one in found):
        own = [one for one in found if (one.target, one.label) == (target, label)]
        cells = []
        for column in found[0].dice:
            values = [one.dice[column] for one in own if not np.isnan(one.dice[column])]
            text, _, spread = spread_text(spread_of(values), 3).partition(" ") if values else ("–", "", "")
            cells.append(Cell(text, spread, mark=f"n = {len(values)}" if 0 < len(values) < len(own) else ""))
        lines.append(Line((target, label), tuple(cells)))
    headings = tuple(column if column == WHOLE else f"label {column}" for column in found[0].dice)
    return Table("Dice", ("target", "as"), headings, tuple(lines))


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
