"""Methods side by side: who is best, by how much, and whether the subjects bear it out.

In each direction every method is held against one of them, the reference: the one that is named, or else the best by
the protocol's first metric. All tests of a direction are one family (Holm). The unit of a test is the subject. Where it
is asked for, slices are tested too, in a table of their own that warns of it.
"""

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from scansynth.data.datasets import Acceleration
from scansynth.errors import InputError
from scansynth.evaluation.acceleration import accelerated, acceleration_note, acceleration_text
from scansynth.evaluation.tables import COPIED_SOURCE, Result, Spread, Summary, check_results, spread_text, summarise
from scansynth.files import write_text
from scansynth.metrics.image_metrics import Metric
from scansynth.metrics.protocols import PROTOCOLS, Protocol, find_protocol
from scansynth.metrics.statistics import FEWEST, Difference, corrected, difference
from scansynth.training.costs import Cost

TestUnit = Literal["subject", "slice"]
SLICE_NAME = re.compile(r"(?P<subject>.+?)[_. -]+(?:z|sl|slice)[_. -]?\d+", re.IGNORECASE)
"""A subject's name that is a slice's: `sub-01_z012`."""
BY_SLICE = (
    "These are tests over slices. Slices of one subject resemble each other and are not independent: p-values come out "
    "too small and intervals too narrow. What holds is the table by subject"
)
MARKS = ((0.001, "***"), (0.01, "**"), (0.05, "*"))
"""p-values below which a difference is marked."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method in one direction."""

    label: str
    direction: str
    subjects: int
    figures: Mapping[str, Spread]
    """Over subjects (or slices), by column."""
    best: frozenset[str]
    """Columns in which no other method of the direction has a better mean."""
    differences: Mapping[str, Difference]
    """To the reference, by column, p-values corrected; empty for the reference itself."""
    cost: Cost | None
    slices: int | None = None
    """Of all subjects together; None where the protocol's unit is a volume."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A table of methods under one protocol."""

    protocol: Protocol
    reference: Mapping[str, str]
    """The method that the others of a direction are held against."""
    rows: tuple[Row, ...]
    acceleration: Acceleration = ()
    """At which all methods were measured."""
    unit: TestUnit = "subject"
    """What means, differences and tests are over."""
    cautions: tuple[str, ...] = ()
    """What forbids to take the tests at their word."""

    @property
    def columns(self) -> dict[str, Metric]:
        """The figures of each unit, with their metrics."""
        columns = self.protocol.columns
        return columns if self.unit == "subject" else {name: one for name, one in columns.items() if one.per_image}

    def mark(self, row: Row, column: str) -> str:
        """Stars of a difference to the reference, by the test that the protocol names."""
        found = row.differences.get(column)
        p = None if found is None else found.t_test if "t-test" in self.protocol.test else found.wilcoxon
        return next((mark for limit, mark in MARKS if p is not None and p < limit), "")


def compare(
    results: Sequence[Result],
    protocol: str | Protocol,
    *,
    reference: str | None = None,
    costs: Mapping[str, Cost] | None = None,
    acceleration: Acceleration = (),
    unit: TestUnit = "subject",
) -> Comparison:
    """Hold methods against each other.

    Args:
        results: figures of all methods on the same subjects.
        protocol: which all were measured with, or its name.
        reference: label of the method that the others are held against; None: the best of each direction.
        costs: by label.
        acceleration: at which all methods were measured.
        unit: of the tests; `slice` only where a protocol measures slices, and with a warning.

    Raises:
        InputError: for results of several protocols or different subjects, slices that are passed as subjects, a
            reference that is not there, or tests by slice under a protocol of volumes.
    """
    definition = find_protocol(protocol)
    check_results(results, definition)
    cautions = _check_subjects(results)
    if unit == "slice":
        check_slices(definition)
        cautions = (f"{BY_SLICE}.", *cautions)
    columns = [name for name, metric in definition.columns.items() if unit == "subject" or metric.per_image]
    if reference is not None and reference not in {result.label for result in results}:
        raise InputError(f"reference {reference!r} is not compared; choose from {', '.join(labels_of(results))}")
    summaries = summarise(results)
    rows, references = [], {}
    # A direction is what is made: methods that take more sources stand beside the others.
    for target in dict.fromkeys(result.target for result in results):
        group = [row for row in summaries if row.direction.endswith(f"→{target}")]
        methods = [row for row in group if row.label != COPIED_SOURCE] or group
        named = next((row for row in group if row.label == reference), None)
        first = columns[0]
        chosen = named or max(methods, key=lambda row: goodness(row.subjects[first].mean, definition.columns[first]))
        references[target] = chosen.label
        figures = {(row.label, row.direction): _figures(results, row, columns, unit) for row in group}
        base = figures[chosen.label, chosen.direction]
        family = {
            (row.label, row.direction, column): difference(
                figures[row.label, row.direction][column], base[column], unit
            )
            for row in group
            if row is not chosen
            for column in columns
            if _finite(figures[row.label, row.direction][column]) and _finite(base[column])
        }
        adjusted = dict(zip(family, corrected(list(family.values())), strict=True))
        if chosen.n_subjects < FEWEST:  # however many slices they have
            adjusted = {key: replace(found, wilcoxon=None, t_test=None) for key, found in adjusted.items()}
        spreads = {(row.label, row.direction): row.subjects if unit == "subject" else row.slices for row in group}
        for row in group:
            shown = spreads[row.label, row.direction]
            best = frozenset(
                column
                for column in columns
                if goodness(shown[column].mean, definition.columns[column])
                >= max(goodness(other[column].mean, definition.columns[column]) for other in spreads.values())
            )
            own = {
                column: adjusted[row.label, row.direction, column]
                for column in columns
                if (row.label, row.direction, column) in adjusted
            }
            cost = (costs or {}).get(row.label)
            rows.append(
                Row(
                    label=row.label,
                    direction=row.direction,
                    subjects=row.n_subjects,
                    figures=shown,
                    best=best,
                    differences=own,
                    cost=cost,
                    slices=row.n_slices,
                )
            )
    return Comparison(
        protocol=definition,
        reference=references,
        rows=tuple(rows),
        acceleration=acceleration,
        unit=unit,
        cautions=cautions,
    )


def check_slices(protocol: Protocol) -> None:
    """Raise InputError if a protocol has no figure a slice, so that nothing can be tested by slice."""
    if protocol.unit != "slice":
        names = ", ".join(other.name for other in PROTOCOLS.values() if other.unit == "slice")
        raise InputError(
            f"protocol {protocol.name} measures volumes and has no figure a slice: compare by subject, or with a "
            f"protocol of slices ({names})"
        )


def _check_subjects(results: Sequence[Result]) -> tuple[str, ...]:
    """Cautions, if each subject has a single slice.

    Raises:
        InputError: if their names say that they are slices of fewer subjects.
    """
    single = all(result.measurement.slices is not None and result.measurement.slices.size == 1 for result in results)
    subjects = list(dict.fromkeys(result.subject for result in results))
    if not single or len(subjects) < 2:
        return ()
    owners: dict[str, str] = {}
    for subject in subjects:
        if match := SLICE_NAME.fullmatch(subject):
            other = owners.setdefault(match["subject"], subject)
            if other != subject:
                raise InputError(
                    f"{other} and {subject} are slices of one subject, passed as subjects: tests would take them for "
                    "independent; give whole subjects (or, for other names, rename them)"
                )
    return (
        "Each subject has a single slice. If several of them show one person, they are not independent and p-values "
        "come out too small.",
    )


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


def _figures(
    results: Sequence[Result], row: Summary, columns: Sequence[str], unit: TestUnit
) -> dict[str, dict[str, float]]:
    """Column → subject (or slice of a subject) → figure."""
    own = [result for result in results if (result.label, result.direction) == (row.label, row.direction)]
    if unit == "subject":
        return {column: {one.subject: one.measurement.mean(column) for one in own} for column in columns}
    return {
        column: {
            f"{one.subject} slice {z}": float(figure)
            for one in own
            if one.measurement.slices is not None
            for z, figure in zip(one.measurement.slices, one.measurement.figures[column], strict=True)
        }
        for column in columns
    }


def _finite(figures: Mapping[str, float]) -> bool:
    return all(math.isfinite(value) for value in figures.values())


def write_comparison(comparison: Comparison, folder: Path) -> None:
    """Write `comparison.md`, `.tex`, `.csv` and `.json` (`comparison_by_slice.…`); each is replaced as a whole."""
    name = "comparison" if comparison.unit == "subject" else "comparison_by_slice"
    write_text(folder / f"{name}.md", markdown(comparison))
    write_text(folder / f"{name}.tex", latex(comparison))
    write_text(folder / f"{name}.csv", _csv(comparison))
    write_text(folder / f"{name}.json", _json(comparison))


def _cells(comparison: Comparison, row: Row, bold: str, plus_minus: str) -> list[str]:
    cells = []
    for column, metric in comparison.columns.items():
        text = spread_text(row.figures[column], metric.digits, plus_minus)
        text = bold.format(text) if column in row.best else text
        cells.append(text + comparison.mark(row, column))
    if any(one.cost for one in comparison.rows):
        cells += [f"{row.cost.seconds:.1f}", f"{row.cost.memory_gb:.2f}"] if row.cost else ["", ""]
    return cells


def _headings(comparison: Comparison) -> list[str]:
    headings = [comparison.protocol.heading(column) for column in comparison.columns]
    return headings + (["s a volume", "memory (GB)"] if any(row.cost for row in comparison.rows) else [])


def notes(comparison: Comparison) -> list[str]:
    """What a reader of the table must know."""
    protocol, subjects = comparison.protocol, min(row.subjects for row in comparison.rows)
    over = f"{subjects} subjects"
    if comparison.unit == "slice":
        over = f"{min(row.slices or 0 for row in comparison.rows)} slices of {over}"
    test = "paired t-test" if "t-test" in protocol.test else "Wilcoxon signed-rank test"
    against = ", ".join(f"{label} ({target})" for target, label in comparison.reference.items())
    lines = [
        *comparison.cautions,
        f"Protocol {protocol.name}, version {protocol.version} ({protocol.source}); unit {protocol.unit}; "
        f"intensities: {protocol.intensities}; mask: {protocol.mask}; range: {protocol.data_range}.",
        f"Mean ± standard deviation over {over}. Bold: best mean.",
        *acceleration_note(comparison.acceleration),
        *(f"{metric.note}." for metric in comparison.columns.values() if metric.note),
    ]
    if subjects < FEWEST:
        return [*lines, f"No p-values: they are given from {FEWEST} subjects on."]
    stars = ", ".join(f"{mark} p < {limit:g}" for limit, mark in reversed(MARKS))
    return [*lines, f"{stars}: {test} by {comparison.unit} against {against}, Holm's correction over a target's tests."]


def markdown(comparison: Comparison) -> str:
    """The table for people, with its differences to the reference."""
    headings = ["method", "direction", *_headings(comparison)]
    lines = [f"**{caution}**\n" for caution in comparison.cautions]
    lines += [f"| {' | '.join(headings)} |", f"| --- | --- |{' ---: |' * (len(headings) - 2)}"]
    for row in comparison.rows:
        names = [name.replace("|", "\\|") for name in (row.label, row.direction)]
        lines.append(f"| {' | '.join([*names, *_cells(comparison, row, '**{}**', ' ± ')])} |")
    lines += ["", *(f"- {note}" for note in notes(comparison)[len(comparison.cautions) :]), ""]
    lines += ["| method − reference | direction | figure | mean [95 % interval] | d | Wilcoxon p | t-test p |"]
    lines += ["| --- | --- | --- | ---: | ---: | ---: | ---: |"]
    for row in comparison.rows:
        for column, found in row.differences.items():
            digits = comparison.columns[column].digits
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
    names = ["protocol", "protocol_version", "acceleration", "unit", "method", "direction", "figure", "subjects"]
    names += [
        "mean",
        "std",
        "reference",
        "difference",
        "interval_low",
        "interval_high",
        "effect_size",
        "wilcoxon_p",
        "t_test_p",
    ]
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    for row in comparison.rows:
        for column in comparison.columns:
            figures = row.figures[column]
            record = {
                "protocol": comparison.protocol.name,
                "protocol_version": comparison.protocol.version,
                "acceleration": acceleration_text(comparison.acceleration),
                "unit": comparison.unit,
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
    content |= {"unit": comparison.unit, "cautions": comparison.cautions}
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
