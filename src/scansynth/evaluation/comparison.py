"""Methods side by side: who is best, by how much, and whether the subjects bear it out.

In each direction every method is held against one of them, the reference: the one that is named, or else the best by
the protocol's first metric. All tests of a direction are one family (Holm). The unit of a test is the subject. Where it
is asked for, slices are tested too, in a table of their own that warns of it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scansynth.data.datasets import Acceleration
from scansynth.errors import InputError
from scansynth.evaluation.tables import COPIED_SOURCE, Result, Spread, Summary, check_results, summarise
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
