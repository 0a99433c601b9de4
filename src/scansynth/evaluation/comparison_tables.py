"""A comparison of methods as a table: for people, for a paper, and for programs."""

import csv
import io
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scansynth.evaluation.acceleration import accelerated, acceleration_note, acceleration_text
from scansynth.evaluation.comparison import MARKS, Comparison, Row
from scansynth.evaluation.tables import spread_text
from scansynth.files import write_text
from scansynth.metrics.statistics import FEWEST, TRAININGS


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
        *([f"{protocol.caution}."] if protocol.caution else []),
        f"Mean ± standard deviation over {over}, of several trainings over their mean. Bold: best mean.",
        *acceleration_note(comparison.acceleration),
        *(f"{metric.note}." for metric in comparison.columns.values() if metric.note),
        *comparison.left_out,
    ]
    arms = dict.fromkeys((row.label, row.runs) for row in comparison.rows if len(row.runs) > 1)
    lines += [f"{label}: {len(runs)} trainings ({', '.join(runs)}), equal but for the seed." for label, runs in arms]
    if subjects < FEWEST:
        return [*lines, f"No p-values: they are given from {FEWEST} subjects on."]
    few = list(dict.fromkeys(row.label for row in comparison.rows if not row.tested))
    alone = f"{test} by {comparison.unit} against {against}, Holm's correction over a target's tests"
    lines.append(f"p-values of the table of differences are about these weights ({alone}): not about the methods.")
    if any(found.over_trainings is not None for row in comparison.rows for found in row.differences.values()):
        stars = ", ".join(f"{mark} p < {limit:g}" for limit, mark in reversed(MARKS))
        lines.append(
            f"{stars}: min F′ over {comparison.unit}s and trainings (Clark 1973) against {against}, Holm's correction."
        )
    if few:
        lines.append(
            f"No stars for {', '.join(few)}, nor against {'it' if len(few) == 1 else 'them'}: fewer than {TRAININGS} "
            f"trainings. A difference may be the seed's; train {TRAININGS} or more runs that are equal but for --seed, "
            "and name them all."
        )
    return lines


def differences_of(comparison: Comparison, column: str) -> str:
    """A figure's heading where differences are given."""
    heading = comparison.protocol.heading(column)
    return heading if comparison.columns[column].marked else f"{heading}, distance from 1 (\\|ln\\|)"


def markdown(comparison: Comparison) -> str:
    """The table for people, with its differences to the reference, and how far trainings are apart."""
    headings = ["method", "direction", *_headings(comparison)]
    lines = [f"**{caution}**\n" for caution in comparison.cautions]
    lines += [f"| {' | '.join(headings)} |", f"| --- | --- |{' ---: |' * (len(headings) - 2)}"]
    for row in comparison.rows:
        names = [name.replace("|", "\\|") for name in (row.label, row.direction)]
        lines.append(f"| {' | '.join([*names, *_cells(comparison, row, '**{}**', ' ± ')])} |")
    lines += ["", *(f"- {note}" for note in notes(comparison)[len(comparison.cautions) :]), ""]
    if any(row.trainings for row in comparison.rows):
        columns = comparison.columns
        lines += ["Mean ± standard deviation over trainings, each with its mean over the subjects:", ""]
        lines += [f"| method | direction | trainings | {' | '.join(map(comparison.protocol.heading, columns))} |"]
        lines += [f"| --- | --- | ---: |{' ---: |' * len(columns)}"]
        for row in comparison.rows:
            if row.trainings:
                cells = [row.label.replace("|", "\\|"), row.direction, str(len(row.runs))]
                cells += [spread_text(row.trainings[column], metric.digits) for column, metric in columns.items()]
                lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    lines += difference_lines(comparison)
    return "\n".join(lines) + "\n"


def difference_lines(comparison: Comparison, columns: Collection[str] | None = None) -> list[str]:
    """Differences to the reference, a line an arm, direction and figure (None: all), as a Markdown table."""
    lines = ["| method − reference | direction | figure | n | mean [95 % interval] | d | Wilcoxon p, these weights "]
    lines[-1] += "| t-test p, these weights | min F′ p, methods |"
    lines += ["| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for row in comparison.rows:
        for column, found in row.differences.items():
            if columns is not None and column not in columns:
                continue
            digits = comparison.columns[column].digits
            interval = ", ".join(f"{end:.{digits}f}" for end in found.interval)
            p_values = ["–" if p is None else f"{p:.3g}" for p in (found.wilcoxon, found.t_test, found.over_trainings)]
            cells = [row.label.replace("|", "\\|"), row.direction, differences_of(comparison, column), str(found.n)]
            cells += [f"{found.mean:+.{digits}f} [{interval}]", f"{found.effect_size:.2f}", *p_values]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


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
        "n",
        "wilcoxon_p_these_weights",
        "t_test_p_these_weights",
        "min_f_p_methods",
        "trainings",
        "std_over_trainings",
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
                "trainings": len(row.runs) or "",
                "std_over_trainings": row.trainings[column].std if row.trainings else "",
            }
            if found := row.differences.get(column):
                record |= {
                    "reference": comparison.reference[row.direction.split("→")[-1]],
                    "difference": found.mean,
                    "interval_low": found.interval[0],
                    "interval_high": found.interval[1],
                    "effect_size": found.effect_size,
                    "n": found.n,
                    "wilcoxon_p_these_weights": found.wilcoxon,
                    "t_test_p_these_weights": found.t_test,
                    "min_f_p_methods": found.over_trainings,
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
            "runs": row.runs,
            "trainings": {column: asdict(found) for column, found in (row.trainings or {}).items()},
        }
        for row in comparison.rows
    ]
    content = {"protocol": comparison.protocol.description(), "acceleration": accelerated(comparison.acceleration)}
    content |= {"unit": comparison.unit, "cautions": comparison.cautions}
    content |= {"left_out": comparison.left_out, "p_values": "Wilcoxon's and the t-test's are about these weights"}
    content |= {"reference": dict(comparison.reference), "rows": rows}
    return json.dumps(without_nan(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def without_nan(value: Any) -> Any:
    """JSON knows no infinity and no NaN."""
    if isinstance(value, Mapping):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
