"""Comparison tables: figures of runs on subjects, summed up and written for people and for programs.

The subject is the primary unit: a subject's figure is the mean over its slices, a row's figure is mean ± standard
deviation over subjects. The same over all slices stands beside, for papers that count slices. Standard deviations
are those of a sample (n − 1); with a single value there is none.
"""

import csv
import io
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scansynth.data.datasets import Acceleration
from scansynth.errors import InputError
from scansynth.evaluation.acceleration import accelerated, acceleration_note, acceleration_text
from scansynth.files import write_text
from scansynth.metrics.protocols import PROTOCOLS, Measurement, Protocol, find_protocol

log = logging.getLogger(__name__)

COPIED_SOURCE = "copied source"
"""Label of the row that any method must beat: the source itself, measured as if it were the synthesis."""


@dataclass(frozen=True)
class Result:
    """One run on one subject."""

    label: str
    """Method or run; `COPIED_SOURCE` for the source itself."""
    sources: tuple[str, ...]
    target: str
    subject: str
    measurement: Measurement

    @property
    def direction(self) -> str:
        """Sources and target, `T1w+FLAIR→T2w`."""
        return f"{'+'.join(self.sources)}→{self.target}"


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (NaN with one value)."""

    mean: float
    std: float
    n: int | None = None
    """Over how many, where some that are infinite or missing are left out; None: over all."""


@dataclass(frozen=True, kw_only=True)
class Further:
    """A column of the main table that the protocol does not measure."""

    heading: str
    values: Mapping[tuple[str, str], Spread]
    """By label and target."""
    digits: int
    note: str


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One row of a comparison: one run and direction."""

    label: str
    direction: str
    n_subjects: int
    n_slices: int | None
    """Slices of all subjects together; None where the unit is a volume."""
    subjects: Mapping[str, Spread]
    """Over subjects, by column."""
    slices: Mapping[str, Spread]
    """Over slices, by the columns that have a figure a slice."""


def summarise(results: Sequence[Result]) -> list[Summary]:
    """One row a run and direction: targets in the order given; for each the copied sources first, then the runs.

    Raises:
        InputError: if a subject stands twice in a row.
    """
    summaries = []
    for row in _rows(results):
        measurements = [result.measurement for result in row]
        columns = list(measurements[0].figures)
        by_slice = {column: [_of_slices(one, column) for one in measurements] for column in columns}
        counts = [0 if one.slices is None else one.slices.size for one in measurements]
        summaries.append(
            Summary(
                label=row[0].label,
                direction=row[0].direction,
                n_subjects=len(row),
                n_slices=sum(counts) or None,
                subjects={column: spread_of([one.mean(column) for one in measurements]) for column in columns},
                slices={
                    column: spread_of(np.concatenate([part for part in parts if part is not None]))
                    for column, parts in by_slice.items()
                    if all(part is not None for part in parts)
                },
            )
        )
    return summaries


def _of_slices(measurement: Measurement, column: str) -> np.ndarray | None:
    """A figure for each measured slice; None where the subject has one figure only."""
    metric = PROTOCOLS[measurement.protocol].columns.get(column)
    # A figure that was added to the protocol's own (LPIPS) is one of each image.
    per_slice = (metric is None or metric.per_image) and measurement.slices is not None
    return measurement.figures[column] if per_slice else None


def write_tables(
    results: Sequence[Result],
    folder: Path,
    protocol: str | Protocol,
    *,
    acceleration: Acceleration = (),
    syntheses: str = "one draw each",
    further: Sequence[Further] = (),
    notes: Sequence[str] = (),
    weights: Mapping[str, str] | None = None,
) -> None:
    """Write `table.md`, `table.csv` (a line a subject), `table.json`, and `slices.csv` where the unit is a slice.

    Each names the protocol with its version, the numbers of subjects and slices and the accelerated contrasts. Each
    file is replaced as a whole: a reader never sees half of one. In JSON an infinite figure is the text "inf", a
    missing one null.

    Args:
        results: what to write, at least one.
        folder: where to; made if missing.
        protocol: that all results were measured with, or its name.
        acceleration: at which all results were measured.
        syntheses: what they are, in words.
        further: columns beside the protocol's own, in `table.md`.
        notes: what else the reader must know, each a sentence; in `table.md` and `table.json`.
        weights: label → SHA-256 of the weights of the run; in `table.json`.

    Raises:
        InputError: without results, with results of another protocol or version, or a subject twice in a row.
    """
    definition = find_protocol(protocol)
    check_results(results, definition)
    summaries = summarise(results)
    words = [*(one.note for one in further), *notes, f"Syntheses: {syntheses}."]
    write_text(
        folder / "table.md", _markdown(results, summaries, definition, acceleration, further=further, notes=words)
    )
    write_text(folder / "table.csv", csv_text(_subject_records(results, acceleration)))
    if definition.unit == "slice":
        write_text(folder / "slices.csv", csv_text(_slice_records(results, acceleration)))
    write_text(
        folder / "table.json",
        _json(results, summaries, definition, acceleration, syntheses=syntheses, notes=notes, weights=weights or {}),
    )


def write_sites(results: Sequence[Result], folder: Path, protocol: str | Protocol, sites: Mapping[str, str]) -> None:
    """Write `sites.md` and `sites.csv`: a row a site, run and direction.

    Args:
        results: of all subjects; those whose site is not known are left out, and counted.
        folder: where to.
        protocol: that all were measured with, or its name.
        sites: subject → site.
    """
    definition = find_protocol(protocol)
    headings = ["site", "method", "direction", "subjects", *map(definition.heading, definition.columns)]
    lines = [f"| {' | '.join(headings)} |", f"| --- | --- | --- |{' ---: |' * (len(headings) - 3)}"]
    records: list[dict[str, object]] = []
    for site in sorted(set(sites.values())):
        for row in summarise([result for result in results if sites.get(result.subject) == site]):
            cells = [*(cell.replace("|", "/") for cell in (site, row.label, row.direction)), str(row.n_subjects)]
            figures = [spread_text(row.subjects[name], metric.digits) for name, metric in definition.columns.items()]
            lines.append(
                f"| {' | '.join([*(cell.replace('|', '/') for cell in cells), str(row.n_subjects), *figures])} |"
            )
            means = {name: row.subjects[name].mean for name in definition.columns}
            records.append({"site": site, "label": row.label, "direction": row.direction,
                            "n_subjects": row.n_subjects, **means})  # fmt: skip
    if unknown := {result.subject for result in results} - sites.keys():
        lines += ["", f"Not known of {counted(sorted(unknown))}, who are left out."]
    write_text(folder / "sites.md", "\n".join(lines) + "\n")
    write_text(folder / "sites.csv", csv_text(records))


def check_results(results: Sequence[Result], protocol: Protocol) -> None:
    """Raise InputError without results, or if one was measured otherwise than the protocol says."""
    if not results:
        raise InputError("there is no result to write")
    for result in results:
        measurement = result.measurement
        if (measurement.protocol, measurement.protocol_version) != (protocol.name, protocol.version):
            raise InputError(
                f"{result.label}, {result.subject}: measured with protocol {measurement.protocol} version"
                f" {measurement.protocol_version}, the table is of {protocol.name} version {protocol.version};"
                " measure it again"
            )
        if list(measurement.figures) != list(protocol.columns):
            apart = ", ".join(sorted(measurement.figures.keys() ^ protocol.columns.keys())) or "their order"
            raise InputError(
                f"{result.label}, {result.subject}: measured with other figures than the table has ({apart}); measure "
                "all in one call"
            )


def _rows(results: Sequence[Result]) -> list[list[Result]]:
    """Results by row, in the order of the table; the subjects of a row keep the order given."""
    targets = list(dict.fromkeys(result.target for result in results))
    rows: dict[tuple[str, str], list[Result]] = {}
    for result in sorted(results, key=lambda result: (targets.index(result.target), result.label != COPIED_SOURCE)):
        row = rows.setdefault((result.label, result.direction), [])
        if any(other.subject == result.subject for other in row):
            raise InputError(f"{result.label}, {result.direction}: subject {result.subject} stands twice; drop one")
        row.append(result)
    return list(rows.values())


def spread_of(values: Sequence[float] | np.ndarray) -> Spread:
    """Mean and deviation of some figures: of those that are finite, or, where none is, what they are (∞ or NaN)."""
    values = np.asarray(values, dtype=np.float64)
    kept = values[np.isfinite(values)]
    if not kept.size:
        return Spread(float(values.mean()) if values.size else math.nan, math.nan)
    std = float(kept.std(ddof=1)) if kept.size > 1 else math.nan
    return Spread(float(kept.mean()), std, kept.size if kept.size < values.size else None)


def _same_units(results: Sequence[Result]) -> bool:
    """Whether all rows of each target were measured on the same slices of the same subjects."""
    units: dict[str, set[frozenset]] = {}
    for row in _rows(results):
        slices = [None if one.measurement.slices is None else tuple(one.measurement.slices.tolist()) for one in row]
        measured = frozenset((one.subject, kept) for one, kept in zip(row, slices, strict=True))
        units.setdefault(row[0].target, set()).add(measured)
    return all(len(sets) == 1 for sets in units.values())


def _markdown(
    results: Sequence[Result],
    summaries: Sequence[Summary],
    protocol: Protocol,
    acceleration: Acceleration,
    *,
    further: Sequence[Further],
    notes: Sequence[str],
) -> str:
    columns = protocol.columns
    slicewise = list(summaries[0].slices)
    headings = ["method", "direction", "subjects", *(["slices"] if slicewise else [])]
    headings += [protocol.heading(column) for column in columns]
    headings += [one.heading for one in further]
    headings += [f"{protocol.heading(column)} by slice" for column in slicewise]
    lines = [
        f"Protocol `{protocol.name}`, version {protocol.version} ({protocol.source}).",
        "",
        f"| {' | '.join(headings)} |",
        f"| --- | --- |{' ---: |' * (len(headings) - 2)}",
    ]
    for row in summaries:
        cells = [row.label.replace("|", "\\|"), row.direction.replace("|", "\\|"), str(row.n_subjects)]
        cells += [str(row.n_slices)] if slicewise else []
        cells += [spread_text(row.subjects[column], metric.digits) for column, metric in columns.items()]
        nothing = Spread(math.nan, math.nan)
        target = row.direction.split("→")[-1]
        cells += [spread_text(one.values.get((row.label, target), nothing), one.digits) for one in further]
        cells += [spread_text(row.slices[column], columns[column].digits) for column in slicewise]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Mean ± standard deviation over subjects"
        + (", a subject being the mean of its slices; “by slice”: over all slices." if slicewise else "."),
        "",
        *(f"- {note}" for note in acceleration_note(acceleration)),
        *(f"- {metric.note}." for metric in columns.values() if metric.note),
        *(f"- {note}" for note in (*missing_notes(results, protocol), *notes)),
        *([f"- {protocol.caution}."] if protocol.caution else []),
        f"- Unit: {protocol.unit}.",
        f"- Intensities: {protocol.intensities}.",
        f"- Mask: {protocol.mask}.",
        f"- Range: {protocol.data_range}.",
        f"- Test of differences that the protocol names: {protocol.test}. This table gives none.",
    ]
    if not _same_units(results):
        warning = "rows of one target were measured on different subjects or slices: they cannot be compared"
        log.warning("%s", warning)
        lines += ["", f"**Note:** {warning}."]
    return "\n".join(lines) + "\n"


def missing_notes(results: Sequence[Result], protocol: Protocol) -> list[str]:
    """A line for each figure and reason that leaves subjects out of a mean: which, whose, and why."""
    found: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for column, why in result.measurement.missing.items():
            found.setdefault((column, why), []).append(result.subject)
    lines = [
        f"{protocol.heading(column)} is missing for {counted(subjects)}: {why}. Left out of its means: "
        f"{listed(subjects)}."
        for (column, why), subjects in found.items()
    ]
    odd: dict[tuple[str, str, str], list[str]] = {}
    for result in results:
        for column, figures in result.measurement.figures.items():
            if column not in result.measurement.missing and not np.isfinite(figures).all():
                what = "not a number" if np.isnan(figures).any() else "infinite"
                odd.setdefault((column, what, f"{result.label}, {result.direction}"), []).append(result.subject)
    return lines + [
        f"{protocol.heading(column)} of {row} is {what} for {counted(subjects)}"
        f"{INFINITE.get(column, '') if what == 'infinite' else ''}: left out of a mean of others: {listed(subjects)}."
        for (column, what, row), subjects in odd.items()
    ]


INFINITE = {
    "psnr_db": " (an image, or one of its slices, that equals the truth)",
    "nmse": " (an empty truth)",
}
"""Why a figure is infinite, by column."""


def counted(subjects: Sequence[str]) -> str:
    """`1 subject`, `2 subjects`."""
    number = len(set(subjects))
    return f"{number} subject{'s' * (number > 1)}"


def listed(subjects: Sequence[str]) -> str:
    """Their names; of many the first ten."""
    names = list(dict.fromkeys(subjects))
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def spread_text(spread: Spread, digits: int, plus_minus: str = " ± ") -> str:
    """`22.19 ± 2.09`; the mean alone where there is no deviation, a dash where there is no mean.

    Where some are left out it says over how many: `22.19 ± 2.09 (n = 7)`.
    """
    if math.isnan(spread.mean):
        return "–"
    text = f"{spread.mean:.{digits}f}"
    text += "" if math.isnan(spread.std) else f"{plus_minus}{spread.std:.{digits}f}"
    return text if spread.n is None else f"{text} (n = {spread.n})"


def _subject_records(results: Sequence[Result], acceleration: Acceleration) -> list[dict[str, object]]:
    return [
        {
            "protocol": result.measurement.protocol,
            "protocol_version": result.measurement.protocol_version,
            "acceleration": acceleration_text(acceleration),
            "label": result.label,
            "sources": "+".join(result.sources),
            "target": result.target,
            "n_subjects": len(row),
            "subject": result.subject,
            "n_slices": None if result.measurement.slices is None else result.measurement.slices.size,
            "n_voxels": result.measurement.voxels,
            **{column: result.measurement.mean(column) for column in result.measurement.figures},
        }
        for row in _rows(results)
        for result in row
    ]


def _slice_records(results: Sequence[Result], acceleration: Acceleration) -> list[dict[str, object]]:
    records = []
    names = ("protocol", "protocol_version", "acceleration", "label", "sources", "target", "n_subjects", "subject")
    names += ("n_slices",)
    ordered = [result for row in _rows(results) for result in row]
    for result, record in zip(ordered, _subject_records(results, acceleration), strict=True):
        measurement = result.measurement
        figures = {name: _of_slices(measurement, name) for name in measurement.figures}
        kept = {name: values.tolist() for name, values in figures.items() if values is not None}
        for place, index in enumerate([] if measurement.slices is None else measurement.slices.tolist()):
            figures_of_slice = {name: values[place] for name, values in kept.items()}
            records.append({**{name: record[name] for name in names}, "slice": index, **figures_of_slice})
    return records


def csv_text(records: Sequence[dict[str, object]]) -> str:
    """Records as CSV; the first one's keys are the columns."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def _json(
    results: Sequence[Result],
    summaries: Sequence[Summary],
    protocol: Protocol,
    acceleration: Acceleration,
    *,
    syntheses: str,
    notes: Sequence[str],
    weights: Mapping[str, str],
) -> str:
    rows = [
        {
            "label": row.label,
            "direction": row.direction,
            "n_subjects": row.n_subjects,
            "n_slices": row.n_slices,
            "subjects": {column: _plain(spread) for column, spread in row.subjects.items()},
            "slices": {column: _plain(spread) for column, spread in row.slices.items()},
        }
        for row in summaries
    ]
    subjects = [
        {name: _number(value) if isinstance(value, float) else value for name, value in record.items()}
        for record in _subject_records(results, acceleration)
    ]
    content = {"protocol": protocol.description(), "acceleration": accelerated(acceleration), "syntheses": syntheses}
    content |= {"notes": list(notes), "weights": dict(weights)}
    content |= {"rows": rows, "subjects": subjects}
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(spread: Spread) -> dict[str, float | str | None]:
    number = {} if spread.n is None else {"n": spread.n}
    return {"mean": _number(spread.mean), "std": _number(spread.std), **number}


def _number(value: float) -> float | str | None:
    """JSON knows no infinity and no NaN."""
    return value if math.isfinite(value) else None if math.isnan(value) else str(value)
