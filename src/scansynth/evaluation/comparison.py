"""Methods side by side: who is best, by how much, and whether the subjects bear it out.

In each direction every method is held against one of them, the reference: the one that is named, or else the best by
the protocol's first metric. All tests of a direction are one family (Holm). The unit of a test is the subject.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from scansynth.data.datasets import Acceleration
from scansynth.errors import InputError
from scansynth.evaluation.acceleration import accelerated, acceleration_note, acceleration_text
from scansynth.evaluation.costs import Cost
from scansynth.evaluation.metrics import Metric
from scansynth.evaluation.protocols import Protocol, find_protocol
from scansynth.evaluation.statistics import FEWEST, Difference, corrected, difference
from scansynth.evaluation.tables import COPIED_SOURCE, Result, Spread, check_results, spread_text, summarise
from scansynth.files import write_text

MARKS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
"""p-values below which a difference is marked."""


@dataclass(frozen=True)
class Row:
    """One method in one direction."""

    label: str
    direction: str
    subjects: int
    figures: Mapping[str, Spread]
    """Over subjects, by column."""
    best: frozenset[str]
    """Columns in which no other method of the direction has a better mean."""
    differences: Mapping[str, Difference]
    """To the reference, by column, p-values corrected; empty for the reference itself."""
    cost: Cost | None


@dataclass(frozen=True)
class Comparison:
    """A table of methods under one protocol."""

    protocol: Protocol
    reference: Mapping[str, str]
    """The method that the others of a direction are held against."""
    rows: tuple[Row, ...]
    acceleration: Acceleration = ()
    """At which all methods were measured."""

    def mark(self, row: Row, column: str) -> str:
        """Stars of a difference to the reference, by the test that the protocol names."""
        found = row.differences.get(column)
        p = None if found is None else found.t_test if "t-test" in self.protocol.test else found.wilcoxon
        return next((mark for limit, mark in MARKS if p is not None and p < limit), "")


def compare(
    results: Sequence[Result],
    protocol: str | Protocol,
    reference: str | None = None,
    costs: Mapping[str, Cost] | None = None,
    acceleration: Acceleration = (),
) -> Comparison:
    """Hold methods against each other.

    Args:
        results: figures of all methods on the same subjects.
        protocol: which all were measured with, or its name.
        reference: label of the method that the others are held against; None: the best of each direction.
        costs: by label.
        acceleration: at which all methods were measured.

    Raises:
        InputError: for results of several protocols or different subjects, or a reference that is not there.
    """
    definition = find_protocol(protocol)
    check_results(results, definition)
    if reference is not None and reference not in {result.label for result in results}:
        raise InputError(f"reference {reference!r} is not compared; choose from {', '.join(labels_of(results))}")
    summaries = summarise(results)
    rows, references = [], {}
    # A direction is what is made: methods that take more sources stand beside the others.
    for target in dict.fromkeys(result.target for result in results):
        group = [row for row in summaries if row.direction.endswith(f"→{target}")]
        first = next(iter(definition.columns))
        methods = [row for row in group if row.label != COPIED_SOURCE] or group
        named = next((row for row in group if row.label == reference), None)
        chosen = named or max(methods, key=lambda row: goodness(row.subjects[first].mean, definition.columns[first]))
        references[target] = chosen.label
        figures = {(row.label, row.direction): _by_subject(results, row.label, row.direction) for row in group}
        base = figures[chosen.label, chosen.direction]
        family = {
            (row.label, row.direction, column): difference(figures[row.label, row.direction][column], base[column])
            for row in group
            if row is not chosen
            for column in definition.columns
            if _finite(figures[row.label, row.direction][column]) and _finite(base[column])
        }
        adjusted = dict(zip(family, corrected(list(family.values())), strict=True))
        for row in group:
            best = frozenset(
                column
                for column, metric in definition.columns.items()
                if goodness(row.subjects[column].mean, metric)
                >= max(goodness(other.subjects[column].mean, metric) for other in group)
            )
            own = {
                column: adjusted[row.label, row.direction, column]
                for column in definition.columns
                if (row.label, row.direction, column) in adjusted
            }
            cost = (costs or {}).get(row.label)
            rows.append(Row(row.label, row.direction, row.n_subjects, row.subjects, best, own, cost))
    return Comparison(definition, references, tuple(rows), acceleration)


def goodness(value: float, metric: Metric) -> float:
    """Larger is better; where 1 is best, the nearer on a scale of ratios."""
    if math.isnan(value):
        return -math.inf
    if metric.higher_is_better is None:
        return -abs(math.log(value)) if value > 0 else -math.inf
    return value if metric.higher_is_better else -value


def labels_of(results: Sequence[Result]) -> list[str]:
    """Labels in their order."""
    return list(dict.fromkeys(result.label for result in results))


def _by_subject(results: Sequence[Result], label: str, direction: str) -> dict[str, dict[str, float]]:
    """Column → subject → figure."""
    own = [result for result in results if (result.label, result.direction) == (label, direction)]
    return {column: {one.subject: one.measurement.mean(column) for one in own} for column in own[0].measurement.figures}


def _finite(figures: Mapping[str, float]) -> bool:
    return all(math.isfinite(value) for value in figures.values())


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write `comparison.md`, `.tex`, `.csv` and `.json`; each is replaced as a whole."""
    write_text(folder / "comparison.md", markdown(comparison))
    write_text(folder / "comparison.tex", latex(comparison))
    write_text(folder / "comparison.csv", _csv(comparison))
    write_text(folder / "comparison.json", _json(comparison))


def _cells(comparison: Comparison, row: Row, bold: str, plus_minus: str) -> list[str]:
    cells = []
    for column, metric in comparison.protocol.columns.items():
        text = spread_text(row.figures[column], metric.digits, plus_minus)
        text = bold.format(text) if column in row.best else text
        cells.append(text + comparison.mark(row, column))
    if any(one.cost for one in comparison.rows):
        cells += [f"{row.cost.seconds:.1f}", f"{row.cost.memory_gb:.2f}"] if row.cost else ["", ""]
    return cells


def _headings(comparison: Comparison) -> list[str]:
    headings = [comparison.protocol.heading(column) for column in comparison.protocol.columns]
    return headings + (["s a volume", "memory (GB)"] if any(row.cost for row in comparison.rows) else [])


def notes(comparison: Comparison) -> list[str]:
    """What a reader of the table must know."""
    protocol, subjects = comparison.protocol, min(row.subjects for row in comparison.rows)
    test = "paired t-test" if "t-test" in protocol.test else "Wilcoxon signed-rank test"
    against = ", ".join(f"{label} ({target})" for target, label in comparison.reference.items())
    lines = [
        f"Protocol {protocol.name}, version {protocol.version} ({protocol.source}); unit {protocol.unit}; "
        f"intensities: {protocol.intensities}; mask: {protocol.mask}; range: {protocol.data_range}.",
        f"Mean ± standard deviation over {subjects} subjects. Bold: best mean.",
        *acceleration_note(comparison.acceleration),
        *(f"{metric.note}." for metric in protocol.columns.values() if metric.note),
    ]
    if subjects < FEWEST:
        return [*lines, f"No p-values: they are given from {FEWEST} subjects on."]
    stars = ", ".join(f"{mark} p < {limit:g}" for limit, mark in reversed(MARKS))
    return [*lines, f"{stars}: {test} by subject against {against}, Holm's correction over a target's tests."]


def markdown(comparison: Comparison) -> str:
    """The table for people, with its differences to the reference."""
    headings = ["method", "direction", *_headings(comparison)]
    lines = [f"| {' | '.join(headings)} |", f"| --- | --- |{' ---: |' * (len(headings) - 2)}"]
    for row in comparison.rows:
        names = [name.replace("|", "\\|") for name in (row.label, row.direction)]
        lines.append(f"| {' | '.join([*names, *_cells(comparison, row, '**{}**', ' ± ')])} |")
    lines += ["", *(f"- {note}" for note in notes(comparison)), ""]
    lines += ["| method − reference | direction | figure | mean [95 % interval] | d | Wilcoxon p | t-test p |"]
    lines += ["| --- | --- | --- | ---: | ---: | ---: | ---: |"]
    for row in comparison.rows:
        for column, found in row.differences.items():
            digits = comparison.protocol.columns[column].digits
            interval = ", ".join(f"{end:.{digits}f}" for end in found.interval)
            p_values = ["–" if p is None else f"{p:.3g}" for p in (found.wilcoxon, found.t_test)]
            cells = [row.label.replace("|", "\\|"), row.direction, comparison.protocol.heading(column)]
            cells += [f"{found.mean:+.{digits}f} [{interval}]", f"{found.effect_size:.2f}", *p_values]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def latex(comparison: Comparison) -> str:
    """The table for a paper (package booktabs)."""

    def plain(text: str) -> str:
        for sign, code in (("\\", r"\textbackslash "), ("_", r"\_"), ("%", r"\%"), ("&", r"\&"), ("→", r"$\to$")):
            text = text.replace(sign, code)
        return text.replace("−", "$-$").replace("±", r"$\pm$").replace("…", r"\ldots ").replace("`", "")

    headings = [plain(heading) for heading in ("method", "direction", *_headings(comparison))]
    lines = [f"% {note}" for note in notes(comparison)]
    lines += [rf"\begin{{tabular}}{{ll{'r' * (len(headings) - 2)}}}", r"\toprule", " & ".join(headings) + r" \\"]
    lines += [r"\midrule"]
    for row in comparison.rows:
        cells = _cells(comparison, row, r"\textbf{{{}}}", r" $\pm$ ")
        lines.append(" & ".join([plain(row.label), plain(row.direction), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _csv(comparison: Comparison) -> str:
    stream = io.StringIO()
    names = ["protocol", "protocol_version", "acceleration", "method", "direction", "figure", "subjects", "mean", "std"]
    names += ["reference", "difference", "interval_low", "interval_high", "effect_size", "wilcoxon_p", "t_test_p"]
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    for row in comparison.rows:
        for column, figures in row.figures.items():
            record = {
                "protocol": comparison.protocol.name,
                "protocol_version": comparison.protocol.version,
                "acceleration": acceleration_text(comparison.acceleration),
                "method": row.label,
                "direction": row.direction,
                "figure": column,
                "subjects": row.subjects,
                "mean": figures.mean,
                "std": figures.std,
            }
            if found := row.differences.get(column):
                record |= {
                    "reference": comparison.reference[row.direction.split("→")[-1]],
                    "difference": found.mean,
                    "interval_low": found.interval[0],
                    "interval_high": found.interval[1],
                    "effect_size": found.effect_size,
                    "wilcoxon_p": found.wilcoxon,
                    "t_test_p": found.t_test,
                }
            writer.writerow(record)
    return stream.getvalue()


def _json(comparison: Comparison) -> str:
    rows = [
        {
            "label": row.label,
            "direction": row.direction,
            "subjects": row.subjects,
            "figures": {column: asdict(figures) for column, figures in row.figures.items()},
            "best": sorted(row.best),
            "differences": {column: asdict(found) for column, found in row.differences.items()},
            "cost": asdict(row.cost) if row.cost else None,
        }
        for row in comparison.rows
    ]
    content = {"protocol": comparison.protocol.description(), "acceleration": accelerated(comparison.acceleration)}
    content |= {"reference": dict(comparison.reference), "rows": rows}
    return json.dumps(_without_nan(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _without_nan(value: object) -> object:
    """JSON knows no infinity and no NaN."""
    if isinstance(value, Mapping):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
