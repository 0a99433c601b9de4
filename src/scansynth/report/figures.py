"""Figures as the report's tables show them: text, with what is best and what differs beyond chance."""

from collections.abc import Mapping, Sequence

import numpy as np

from scansynth.evaluation.comparison import Comparison
from scansynth.evaluation.comparison_tables import notes
from scansynth.evaluation.downstream import WHOLE, Dice
from scansynth.evaluation.sections import Cell, Line, Table
from scansynth.evaluation.tables import Result, spread_of, spread_text, summarise
from scansynth.metrics.protocols import Protocol
from scansynth.training.costs import Cost


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
