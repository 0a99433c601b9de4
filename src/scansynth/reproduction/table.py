"""`reproduction.md`, `.csv` and `.json`: what was measured here, beside the figures that the paper prints."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from scansynth.config import read_yaml
from scansynth.data.cohort import Cohort
from scansynth.data.splits import SPLITS
from scansynth.evaluation.tables import COPIED_SOURCE, Spread, spread_text
from scansynth.files import write_text
from scansynth.metrics.protocols import PROTOCOLS
from scansynth.ranges import Natural
from scansynth.records import read_json
from scansynth.reproduction.request import Request, split_words
from scansynth.reproduction.tables.paper_table import Figure, PaperTable, PaperTask, Row
from scansynth.sets.set_measures import SUMMARY
from scansynth.training import checkpoint

MEASURED = "measured"
REAL = "real, "
"""How rows of real volumes begin, which stand beside generated sets."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A method in one direction of a task."""

    task: str
    direction: str
    method: str
    """As the paper calls it."""
    status: str
    """`measured`, or why it is not."""
    paper: Mapping[str, Figure]
    """By column; empty where the paper gives none or it is not transcribed."""
    subjects: int = 0
    own: Mapping[str, Spread] = field(default_factory=dict)
    """Over subjects, by column; empty where not measured."""


def lines(request: Request) -> list[Line]:
    """All rows of the table, measured or not: none is left out."""
    found = []
    for task in request.table.tasks:
        measured = _measured(request, task)
        for target in task.targets or ("?",):
            others = "+".join(name for name in task.contrasts if name != target)
            direction = f"{others}→{target}" if target != "?" else f"{others}, target not stated"
            here = [row for row in measured if row["direction"].endswith(f"→{target}")]
            ours = [row for row in here if row["label"] == COPIED_SOURCE or row["label"].startswith(REAL)]
            for row in ours:
                subjects, figures = _own(row)
                found.append(
                    Line(
                        task=task.name,
                        direction=row["direction"],
                        method=row["label"],
                        status=MEASURED,
                        paper={},
                        subjects=subjects,
                        own=figures,
                    )
                )
            for row in request.table.rows:
                paper = request.table.figures.get((row.name, task.name, target), {})
                subjects, figures = next((_own(one) for one in here if one["label"] == row.name), (0, {}))
                found.append(
                    Line(
                        task=task.name,
                        direction=direction,
                        method=row.label,
                        status=MEASURED if subjects else _missing(request, task, row),
                        paper=paper,
                        subjects=subjects,
                        own=figures,
                    )
                )
    return found


def _missing(request: Request, task: PaperTask, row: Row) -> str:
    """Why a row has no figures of its own."""
    if not row.recipe:
        return f"absent: no method {row.label} yet"
    if not request.table.protocol:
        return f"absent: nothing measures {request.table.measures} yet"
    if task not in request.tasks:
        return f"not run: no --data {task.data}=FOLDER"
    return "not run yet"


class _Spread(TypedDict):
    mean: float | str | None
    std: float | str | None


class _MeasuredRow(TypedDict):
    label: str
    direction: str
    subjects: dict[str, _Spread]
    n_subjects: Natural


class _Measured(TypedDict):
    rows: list[_MeasuredRow]


def _measured(request: Request, task: PaperTask) -> Sequence[Mapping[str, Any]]:
    """Rows of a task's `table.json`; none before it is measured."""
    folder = request.evaluation_folder(task)
    if not (folder / "measured.json").is_file():
        return []
    cure = f"delete {folder}, and it is measured again"
    return read_json(folder / "table.json", _Measured, cure, most_mb=1000)["rows"]


def _own(row: Mapping[str, Any]) -> tuple[int, dict[str, Spread]]:
    def number(value: float | str | None) -> float:
        return math.nan if value is None else float(value)

    figures = {name: Spread(number(one["mean"]), number(one["std"])) for name, one in row["subjects"].items()}
    return row["n_subjects"], figures


def headings(table: PaperTable) -> dict[str, str]:
    """The paper's columns and how they are headed."""
    if not table.protocol:
        return {column: column.upper() for column in table.columns}
    protocol = PROTOCOLS[table.protocol]
    if protocol.unit == "set":
        return {column: SUMMARY[column][0] for column in table.columns}
    return {column: protocol.heading(column) for column in table.columns}


def _digits(table: PaperTable, column: str) -> int:
    if not table.protocol:
        return 2
    protocol = PROTOCOLS[table.protocol]
    return SUMMARY[column][1] if protocol.unit == "set" else protocol.columns[column].digits


def paper_lines(request: Request) -> list[str]:
    """The paper's figures alone, as a Markdown table."""
    columns = headings(request.table)
    titles = ["task", "direction", "method", *columns.values()]
    text = [f"| {' | '.join(titles)} |", f"| --- | --- | --- |{' ---: |' * len(columns)}"]
    for line in lines(request):
        if not _is_ours(line):
            cells = [_paper_cell(request.table, line, column) for column in columns]
            text.append(f"| {' | '.join([line.task, line.direction, line.method, *cells])} |")
    return text


def _paper_cell(table: PaperTable, line: Line, column: str) -> str:
    if _is_ours(line):
        return "–"
    if not line.paper:
        return "not transcribed"
    return line.paper[column].text(_digits(table, column)) if column in line.paper else "none"


def _is_ours(line: Line) -> bool:
    """Whether the paper has no such line: the copied source, and real volumes beside generated ones."""
    return line.method == COPIED_SOURCE or line.method.startswith(REAL)


def write_reproduction(request: Request) -> None:
    """Write all three files from what has been measured so far; each is replaced as a whole."""
    found = lines(request)
    write_text(request.out / "reproduction.md", markdown(request, found))
    write_text(request.out / "reproduction.csv", _csv(request, found))
    write_text(request.out / "reproduction.json", _json(request, found))


def markdown(request: Request, found: Sequence[Line]) -> str:
    """The table for people."""
    table, columns = request.table, headings(request.table)
    text = [f"# {table.name}: {table.shows}", "", f"{table.citation}.", ""]
    if request.small:
        text += [f"**{small_words(request)}**", ""]
    titles = ["task", "direction", "method", "subjects"]
    titles += [title for heading in columns.values() for title in (f"{heading}, here", "paper")]
    text += [f"| {' | '.join(titles)} |", f"| --- | --- | --- |{' ---: |' * (len(titles) - 3)}"]
    for line in found:
        cells = [line.task, line.direction, line.method, str(line.subjects or "–")]
        for place, column in enumerate(columns):
            own = spread_text(line.own[column], _digits(table, column)) if column in line.own else "–"
            cells += [line.status if line.status != MEASURED and place == 0 else own, _paper_cell(table, line, column)]
        text.append(f"| {' | '.join(cells)} |")
    text += ["", "## Where here and the paper part", ""]
    text += [f"- {note}" for note in differences(request)]
    text += [
        "",
        "## Runs",
        "",
        "| run | recipe | steps | batch | weights of step |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    text += [f"| {' | '.join(map(str, run.values()))} |" for run in _runs(request)]
    text += [
        "",
        f"Figures of each task, with differences and their tests: `evaluation/*/comparison.md`. Seed {request.seed}.",
    ]
    return "\n".join(text) + "\n"


def small_words(request: Request) -> str:
    """What a small run is and what it is not."""
    own = ", ".join(request.data)
    data = f"phantoms of heads (own data: {own})" if own else "phantoms of heads"
    budget = f"{request.minutes:g} minutes" if request.minutes else "the recipe's steps"
    return (
        f"A small run on {data}: 2.5 mm in plane, 64×80 voxels, small networks, {budget} of training a run. "
        "It shows the way from beginning to end and is no reproduction of the paper's figures, which stand beside for "
        "orientation."
    )


def differences(request: Request) -> list[str]:
    """What differs from the paper: data, training, protocol."""
    table = request.table
    notes = [small_words(request)] if request.small else []
    for data in table.data:
        if not any(task.data == data.name for task in request.tasks):
            notes.append(f"Data {data.name}: none was given, so its tasks are not run.")
        elif not request.small:
            notes.append(
                f"Data {data.name}: the paper's numbers of subjects ({split_words(data)}); which ones it took is not "
                f"known, here they are as the data states, or drawn with seed {request.seed}."
            )
        elif (cohort := request.out / "cohort" / data.name / "cohort.json").is_file():
            prepared = Cohort.open(cohort.parent)
            splits = [prepared.split_of(name) for name in prepared.subjects()]
            counts = ", ".join(f"{splits.count(split)} {split}" for split in SPLITS)
            notes.append(f"Data {data.name}: subjects here are {counts}; in the paper {split_words(data)}.")
    notes.append(f"Training in the paper: {table.training}. Here: the runs that are listed.")
    if table.protocol:
        protocol = PROTOCOLS[table.protocol]
        notes.append(
            f"Protocol here: {protocol.name}, version {protocol.version}; unit {protocol.unit}; intensities: "
            f"{protocol.intensities}; mask: {protocol.mask}; range: {protocol.data_range}."
        )
    notes += table.notes
    if absent := ", ".join(row.label for row in table.absent):
        notes.append(f"Absent here, so that only the paper's figures stand there: {absent}.")
    if not table.figures:
        notes.append("The paper's figures are not transcribed: its method does not exist here yet.")
    return notes


def _runs(request: Request) -> Iterator[dict[str, Any]]:
    """What the weights came from, of all runs that have begun."""
    for task in request.table.tasks:
        for part, row in request.runs(task):
            folder = request.run_folder(part, row)
            if folder.is_dir() and any(checkpoint.current(folder / kind) for kind in ("last", "best")):
                weights = checkpoint.find_weights(folder)
                training = read_yaml(folder / "config.yaml").training
                yield {
                    "run": f"{part.name}/{row.name}",
                    "recipe": request.recipe(row) + (f", {row.label}" if row.change else ""),
                    "steps": training.steps,
                    "batch": training.batch_size,
                    "weights_of_step": checkpoint.step_of(weights),
                }


def _records(request: Request, found: Sequence[Line]) -> Iterator[dict[str, Any]]:
    """A record a figure."""
    for line in found:
        for column in request.table.columns:
            own, paper = line.own.get(column), line.paper.get(column)
            yield {
                "table": request.table.name,
                "task": line.task,
                "direction": line.direction,
                "method": line.method,
                "status": line.status,
                "small": request.small,
                "figure": column,
                "subjects": line.subjects,
                "mean": _plain(own.mean if own else None),
                "std": _plain(own.std if own else None),
                "paper_mean": _plain(paper.mean if paper else None),
                "paper_std": _plain(paper.std if paper else None),
                "paper_readable": paper and not math.isnan(paper.mean) and not math.isnan(paper.std or 0.0),
            }


def _plain(value: float | None) -> float | str | None:
    """JSON knows no infinity and no NaN."""
    if value is None or math.isnan(value):
        return None
    return value if math.isfinite(value) else str(value)


def _csv(request: Request, found: Sequence[Line]) -> str:
    records = list(_records(request, found))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return stream.getvalue()


def _json(request: Request, found: Sequence[Line]) -> str:
    table = request.table
    content = {
        "table": table.name,
        "shows": table.shows,
        "citation": table.citation,
        "small": request.small,
        "protocol": PROTOCOLS[table.protocol].description() if table.protocol else None,
        "differences": differences(request),
        "runs": list(_runs(request)),
        "figures": list(_records(request, found)),
    }
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
