"""Methods side by side: who is best, by how much, and whether subjects and trainings bear it out.

A row is an arm: the trainings of one recipe (`arms.py`). In each direction every arm is held against one of them, the
reference: the one that is named, or else the best by the protocol's first metric. All tests of a direction are one
family (Holm). The unit of a test is the subject, whose figure is the mean over an arm's trainings. Such a test is about
the weights at hand; stars, which are read as a statement about methods, stand only where both arms have three trainings
or more, and go by a test over subjects and trainings. Where it is asked for, slices are tested too, in a table of their
own that warns of it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from scansynth.data.datasets import Acceleration
from scansynth.errors import InputError
from scansynth.evaluation.arms import Arm, cost_of
from scansynth.evaluation.tables import (
    COPIED_SOURCE,
    Result,
    Spread,
    check_results,
    listed,
    missing_notes,
    spread_of,
    summarise,
)
from scansynth.metrics.image_metrics import Metric
from scansynth.metrics.protocols import PROTOCOLS, Protocol, find_protocol
from scansynth.metrics.statistics import FEWEST, TRAININGS, Difference, corrected, difference, over_trainings
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
    """One arm in one direction."""

    label: str
    direction: str
    subjects: int
    figures: Mapping[str, Spread]
    """Over subjects (or slices), by column; a subject's figure is its mean over the trainings."""
    best: frozenset[str]
    """Columns in which no other arm of the direction has a better mean."""
    differences: Mapping[str, Difference]
    """To the reference, by column, p-values corrected; empty for the reference itself. Of a ratio that is best at 1
    they are of its distance from 1 (`Metric.compared`)."""
    cost: Cost | None
    slices: int | None = None
    """Of all subjects together; None where the protocol's unit is a volume."""
    runs: tuple[str, ...] = ()
    """The arm's trainings; none of a copied source."""
    trainings: Mapping[str, Spread] | None = None
    """Over the trainings, each with its mean over the subjects, by column; None for fewer than two."""

    @property
    def tested(self) -> bool:
        """Whether there are trainings enough to speak of the method, or nothing was trained."""
        return not self.runs or len(self.runs) >= TRAININGS


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A table of methods under one protocol."""

    protocol: Protocol
    reference: Mapping[str, str]
    """The arm that the others of a direction are held against."""
    rows: tuple[Row, ...]
    acceleration: Acceleration = ()
    """At which all methods were measured."""
    unit: TestUnit = "subject"
    """What means, differences and tests are over."""
    cautions: tuple[str, ...] = ()
    """What forbids to take the tests at their word."""
    left_out: tuple[str, ...] = ()
    """Which figures are not of all subjects, of whom, and why."""

    @property
    def columns(self) -> dict[str, Metric]:
        """The figures of each unit, with their metrics."""
        columns = self.protocol.columns
        return columns if self.unit == "subject" else {name: one for name, one in columns.items() if one.per_image}

    def mark(self, row: Row, column: str) -> str:
        """Stars of a difference to the reference, by the test over subjects and trainings; none without it."""
        found = row.differences.get(column)
        p = None if found is None else found.over_trainings
        return next((mark for limit, mark in MARKS if p is not None and p < limit), "")


@dataclass(frozen=True, kw_only=True)
class _Figures:
    """An arm's figures of one direction."""

    arm: Arm
    direction: str
    units: tuple[str, ...]
    """Subjects, or slices of them."""
    values: Mapping[str, np.ndarray]
    """By column (trainings, units)."""
    subjects: int
    slices: int | None

    def spread(self, column: str) -> Spread:
        """Over the units, of the means over trainings."""
        return spread_of(self.values[column].mean(0))

    def goodness(self, column: str, metric: Metric) -> float:
        """Of the mean over the units that have the figure."""
        return metric.goodness(spread_of(metric.compared(self.values[column]).mean(0)).mean)

    def over_trainings(self, column: str) -> Spread:
        """Over the trainings, of the means over the units that have the figure in all of them."""
        values = self.values[column][:, _whole(self.values[column])]
        return spread_of(values.mean(1) if values.size else [])


def _whole(values: np.ndarray) -> np.ndarray:
    """Units (S,) whose figure (T, S) every training has."""
    return np.asarray(np.isfinite(values).all(0))


def compare(
    results: Sequence[Result],
    protocol: str | Protocol,
    *,
    arms: Sequence[Arm] = (),
    reference: str | None = None,
    costs: Mapping[str, Cost] | None = None,
    acceleration: Acceleration = (),
    unit: TestUnit = "subject",
    notes: Sequence[str] = (),
) -> Comparison:
    """Hold methods against each other.

    Args:
        results: figures of all runs on the same subjects.
        protocol: which all were measured with, or its name.
        arms: which labels are trainings of one recipe (`arms_of`); a label that none names stands alone.
        reference: label of the arm, or of one of its runs, that the others are held against; None: the best of each
            direction.
        costs: by label of the results.
        acceleration: at which all methods were measured.
        unit: of the tests; `slice` only where a protocol measures slices, and with a warning.
        notes: what else the reader must know, each a sentence.

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
    columns = {name: metric for name, metric in definition.columns.items() if unit == "subject" or metric.per_image}
    known = {label: arm for arm in arms for label in arm.runs}
    for label in labels_of(results):
        known.setdefault(label, Arm(label, (label,), trained=label != COPIED_SOURCE))
    if reference is not None and reference not in {*labels_of(results), *(arm.label for arm in arms)}:
        raise InputError(f"reference {reference!r} is not compared; choose from {', '.join(labels_of(results))}")
    rows, references, left_out = [], {}, [*notes, *missing_notes(results, definition)]
    order = list(dict.fromkeys((known[row.label], row.direction) for row in summarise(results)))
    # A direction is what is made: methods that take more sources stand beside the others.
    for target in dict.fromkeys(result.target for result in results):
        group = [
            _figures(results, arm, direction, columns=list(columns), unit=unit)
            for arm, direction in order
            if direction.endswith(f"→{target}")
        ]
        methods = [one for one in group if one.arm.label != COPIED_SOURCE] or group
        named = next((one for one in group if reference in (one.arm.label, *one.arm.runs)), None)
        first, metric = next(iter(columns.items()))
        chosen = named or max(methods, key=lambda one, by=(first, metric): one.goodness(*by))
        references[target] = chosen.arm.label
        family = {
            (one.arm.label, one.direction, column): found
            for one in group
            if one is not chosen
            for column, metric in columns.items()
            if (found := _difference(one, chosen, column, metric=metric, unit=unit))
        }
        adjusted = dict(zip(family, corrected(list(family.values())), strict=True))
        if chosen.subjects < FEWEST:  # however many slices they have
            adjusted = {
                key: replace(found, wilcoxon=None, t_test=None, over_trainings=None) for key, found in adjusted.items()
            }
        whole = [
            column
            for column, metric in columns.items()
            if all(_whole(metric.compared(one.values[column])).all() for one in group)
        ]
        if some := [definition.heading(column) for column in columns if column not in whole]:
            left_out.append(
                f"→{target}: no best is marked, and differences are over the {unit}s that both methods have, in "
                f"{'; '.join(some)}."
            )
        for one in group:
            best = frozenset(
                column
                for column in whole
                if columns[column].marked
                and one.goodness(column, columns[column])
                >= max(other.goodness(column, columns[column]) for other in group)
            )
            own = {column: adjusted.get((one.arm.label, one.direction, column)) for column in columns}
            rows.append(
                Row(
                    label=one.arm.label,
                    direction=one.direction,
                    subjects=one.subjects,
                    figures={column: one.spread(column) for column in columns},
                    best=best,
                    differences={column: found for column, found in own.items() if found},
                    cost=cost_of(one.arm, costs or {}),
                    slices=one.slices,
                    runs=one.arm.runs if one.arm.trained else (),
                    trainings={column: one.over_trainings(column) for column in columns}
                    if len(one.arm.runs) > 1
                    else None,
                )
            )
    return Comparison(
        protocol=definition,
        reference=references,
        rows=tuple(rows),
        acceleration=acceleration,
        unit=unit,
        cautions=cautions,
        left_out=tuple(left_out),
    )


def _figures(
    results: Sequence[Result], arm: Arm, direction: str, *, columns: Sequence[str], unit: TestUnit
) -> _Figures:
    """An arm's figures.

    Raises:
        InputError: if its trainings were measured on different subjects.
    """
    by_run: list[dict[str, dict[str, float]]] = []
    own: list[Result] = []
    for label in arm.runs:
        own = [result for result in results if (result.label, result.direction) == (label, direction)]
        by_run.append({column: _by_unit(own, column, unit) for column in columns})
    units = tuple(sorted(by_run[0][columns[0]]))
    for label, one in zip(arm.runs, by_run, strict=True):
        _check_same(units, tuple(sorted(one[columns[0]])), f"{arm.runs[0]} and {label}", unit)
    values = {column: np.array([[one[column][name] for name in units] for one in by_run]) for column in columns}
    slices = sum(one.measurement.slices.size for one in own if one.measurement.slices is not None)
    return _Figures(arm=arm, direction=direction, units=units, values=values, subjects=len(own), slices=slices or None)


def _by_unit(own: Sequence[Result], column: str, unit: TestUnit) -> dict[str, float]:
    """Subject (or slice of a subject) → figure."""
    if unit == "subject":
        return {one.subject: one.measurement.mean(column) for one in own}
    return {
        f"{one.subject} slice {z}": float(figure)
        for one in own
        if one.measurement.slices is not None
        for z, figure in zip(one.measurement.slices, one.measurement.figures[column], strict=True)
    }


def _check_same(units: Sequence[str], others: Sequence[str], who: str, unit: TestUnit) -> None:
    if apart := sorted(set(units) ^ set(others)):
        raise InputError(f"{who} were measured on different {unit}s ({listed(apart)}): measure both on the same")


def _difference(one: _Figures, other: _Figures, column: str, *, metric: Metric, unit: TestUnit) -> Difference | None:
    """Of what is compared, over the units of which every training of both has it; None where there is none."""
    _check_same(one.units, other.units, f"{one.arm.label} and {other.arm.label}", unit)
    values = [metric.compared(some.values[column]) for some in (one, other)]
    kept = _whole(np.concatenate(values))
    if not kept.any():
        return None
    method, base = (some[:, kept] for some in values)
    names = [name for name, is_kept in zip(one.units, kept, strict=True) if is_kept]
    own, others = (dict(zip(names, some.mean(0).tolist(), strict=True)) for some in (method, base))
    p = over_trainings(method, base, (one.arm.trained, other.arm.trained))
    return replace(difference(own, others, unit), over_trainings=p)


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


def labels_of(results: Sequence[Result]) -> list[str]:
    """Labels in their order."""
    return list(dict.fromkeys(result.label for result in results))
