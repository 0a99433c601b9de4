"""Figures as the report's tables show them: text, with what is best and what differs beyond chance."""

from collections.abc import Mapping, Sequence

import numpy as np

from scansynth.evaluation.comparison import Comparison, Row
from scansynth.evaluation.comparison_tables import differences_of, notes
from scansynth.evaluation.downstream import WHOLE, Dice
from scansynth.evaluation.sections import Cell, Line, Table
from scansynth.evaluation.tables import Result, Summary, missing_notes, spread_of, spread_text, summarise
from scansynth.metrics.protocols import Protocol
from scansynth.training.costs import Cost


def headings(protocol: Protocol) -> tuple[str, ...]:
    """The protocol's figures, each with an arrow to its better side."""
    arrows = {"more": " ↑", "less": " ↓", "one": " → 1"}
    return tuple(protocol.heading(column) + arrows[metric.better] for column, metric in protocol.columns.items())


def main_table(
    results: Sequence[Result], protocol: Protocol, costs: Mapping[str, Cost], comparison: Comparison | None
) -> Table:
    """A line a method and direction: mean ± standard deviation over subjects, time and memory.

    Of a comparison a method is an arm, otherwise it is a run.
    """
    rows: Sequence[Summary | Row] = comparison.rows if comparison else summarise(results)
    lines = []
    for row in rows:
        arm = row if isinstance(row, Row) else None
        spreads = row.figures if isinstance(row, Row) else row.subjects
        cells = []
        for column, metric in protocol.columns.items():
            mean, _, deviation = spread_text(spreads[column], metric.digits).partition(" ")
            best = arm is not None and column in arm.best
            cells.append(Cell(mean, deviation, best, comparison.mark(arm, column) if comparison and arm else ""))
        cost = arm.cost if arm else costs.get(row.label)
        spent = ("–", "–", "–")
        if cost:
            spent = (f"{cost.seconds:.1f}", f"{cost.memory_gb:.2f}", f"{cost.parameters / 1e6:.2f}")
        count = row.subjects if isinstance(row, Row) else row.n_subjects
        cells += [Cell(text) for text in (str(count), *spent)]
        lines.append(Line((row.label, row.direction), tuple(cells)))
    words = (
        [
            note.replace("Bold: best mean.", "Bold and ●: best mean of a target.")
            for note in notes(comparison)
            if not note.startswith("Protocol ")  # which the page describes in a place of its own
        ]
        if comparison
        else [
            *([f"{protocol.caution}."] if protocol.caution else []),
            "Mean ± standard deviation over subjects. `scansynth compare` adds tests of differences.",
            *missing_notes(results, protocol),
        ]
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
                    str(found.n),
                    f"{found.mean:+.{metric.digits}f} [{low:+.{metric.digits}f}, {high:+.{metric.digits}f}]",
                    f"{found.effect_size:.2f}", _p(found.wilcoxon), _p(found.t_test), _p(found.over_trainings),
                )  # fmt: skip
                reference = comparison.reference[row.direction.split("→")[-1]]
                figure = differences_of(comparison, column).replace("\\", "")
                names = (f"{row.label} − {reference}", row.direction, figure)
                lines.append(Line(names, tuple(Cell(text) for text in texts)))
    if not lines:
        return None
    own = ("n", "mean [95 % interval]", "effect size d", "Wilcoxon p, these weights", "t-test p, these weights")
    own += ("min F′ p, methods",)
    return Table("Differences to the reference", ("difference", "direction", "figure"), own, tuple(lines))


def training_table(comparison: Comparison) -> Table | None:
    """Of arms of several trainings: mean ± standard deviation over them; None where each has one."""
    lines = []
    for row in comparison.rows:
        if row.trainings:
            parts = [
                spread_text(row.trainings[column], metric.digits).partition(" ")
                for column, metric in comparison.columns.items()
            ]
            cells = (Cell(str(len(row.runs))), *(Cell(mean, deviation) for mean, _, deviation in parts))
            lines.append(Line((row.label, row.direction), cells))
    if not lines:
        return None
    note = "Mean ± standard deviation over trainings, each with its mean over the subjects."
    own = ("trainings", *headings(comparison.protocol))
    return Table("Over trainings", ("method", "direction"), own, tuple(lines), (note,))


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
