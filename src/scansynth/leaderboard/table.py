"""The leaderboard as files: for people, for spreadsheets, for programs, and as a section of the report."""

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from scansynth.data.datasets import Acceleration
from scansynth.evaluation.comparison_tables import difference_lines, notes, without_nan, write_comparison
from scansynth.evaluation.downstream import left_out, write_downstream
from scansynth.evaluation.figures import Figures, Synthesis
from scansynth.evaluation.plots import plot_subjects
from scansynth.evaluation.sections import Cell, Section, Table
from scansynth.evaluation.sections import Line as ShownLine
from scansynth.evaluation.tables import spread_text
from scansynth.evaluation.write import write_evaluation
from scansynth.files import write_text
from scansynth.leaderboard.board import COVERAGE, NOMINAL, PROTOCOL, Board, Line, measured
from scansynth.leaderboard.plan import Plan, Training
from scansynth.leaderboard.request import Request
from scansynth.metrics.protocols import PROTOCOLS
from scansynth.progress import Report
from scansynth.records import read_json
from scansynth.report.report import write_report
from scansynth.synthesis.run import Run
from scansynth.training import checkpoint
from scansynth.training.checkpoint_folder import read_state

FOLDER = "evaluation"
COSTS = ("s a volume", "memory (GB)", "steps", "of its first stage", "parameters (M)")
CURE = "delete it, and it is written again"


def is_written(plan: Plan, failed: Mapping[str, str]) -> bool:
    """Whether the table that lies there is of these trainings, and whole: `table.json` is written last."""
    path = plan.request.out / "table.json"
    return path.is_file() and read_json(path, dict[str, Any], CURE, most_mb=1000).get("of") == _state(plan, failed)


def write_board(plan: Plan, failed: Mapping[str, str], report: Report) -> None:
    """Measure what was drawn, and write `evaluation/`, `table.md`, `table.tsv` and `table.json`.

    Args:
        plan: of all trainings.
        failed: by job, why it ended without result.
        report: told of what is measured.

    Raises:
        InputError: if nothing came to its end.
    """
    request, folder = plan.request, plan.request.out / FOLDER
    trainings = _whole(plan, failed)
    board = measured(plan, trainings, failed, report)
    runs = [Run.load(one.folder, str(request.device), weights="last") for one in trainings]
    mask, found = board.mask, board.evaluation
    found = replace(found, figures=[Ranking(board), *found.figures])
    write_evaluation(found, folder)
    write_comparison(board.comparison, folder)
    plot_subjects(found.results, found.protocol, folder)
    if mask:
        write_downstream(board.dice, mask, None, folder, missing=left_out(runs, request.cohort, mask, "test"))
    write_report(
        found, runs, folder, comparison=board.comparison, dice=board.dice, links={"../table.md": "The leaderboard"}
    )
    write_text(request.out / "table.md", markdown(board))
    write_text(request.out / "table.tsv", tsv(board))
    content = {"of": _state(plan, failed), **_content(board)}
    write_text(request.out / "table.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def best_run(request: Request) -> Path:
    """The training with the best first figure of the table that lies there."""
    path = request.out / "table.json"
    return request.out / "runs" / read_json(path, dict[str, Any], CURE, most_mb=1000)["best"]


def _whole(plan: Plan, failed: Mapping[str, str]) -> list[Training]:
    """Trainings that were trained and drawn."""
    return [one for one in plan.trainings if not {one.name, f"{one.name}.drawing"} & failed.keys()]


def _state(plan: Plan, failed: Mapping[str, str]) -> dict[str, Any]:
    """What a table is of."""
    request = plan.request
    weights = {}
    for one in _whole(plan, failed):
        newest = checkpoint.current(one.folder / "last")
        assert newest is not None, one.folder
        weights[one.name] = read_state(newest).get("files", {}).get("weights.safetensors", [0, ""])[1]
    return {
        "protocol": [PROTOCOL, PROTOCOLS[PROTOCOL].version], "weights": weights, "samples": request.samples,
        "not_trained": dict(plan.unfit), "failed": dict(failed),
    }  # fmt: skip


class Ranking(Figures):
    """The leaderboard as the first section of the report.

    Args:
        board: what is shown.
    """

    def __init__(self, board: Board):
        self.board = board

    def collect(self, synthesis: Synthesis) -> None:
        """Nothing: all has been measured."""

    @property
    def empty(self) -> bool:
        """Never."""
        return False

    def write(self, folder: Path, *, acceleration: Acceleration = ()) -> None:
        """Nothing: it stands in files of its own."""

    def section(self) -> Section:
        """Rows of recipes, and of each training."""
        board, lines = self.board, []
        for line in board.lines:
            cells = []
            for column, (_, digits) in board.headings.items():
                figure = line.figures.get(column)
                mean, _, spread = spread_text(figure, digits).partition(" ") if figure else ("–", "", "")
                cells.append(Cell(mean, spread, column in line.best, line.marks.get(column, "")))
            names = (line.label, _seed(line), line.direction)
            lines.append(ShownLine(names, (*cells, *map(Cell, _costs(line)))))
        headings = (*(heading for heading, _ in board.headings.values()), *COSTS)
        table = Table("Leaderboard", ("recipe", "seed", "direction"), headings, tuple(lines), tuple(words(board)))
        return Section(name="leaderboard", heading="Leaderboard", table=table)


def _seed(line: Line) -> str:
    if not line.trainings:
        return "–"
    return f"mean of {line.trainings}" if line.seed is None else str(line.seed)


def _costs(line: Line) -> list[str]:
    cost = line.cost
    spent = [f"{cost.seconds:.2f}", f"{cost.memory_gb:.2f}"] if cost else ["–", "–"]
    steps = ["–" if count is None else f"{count:,}" for count in (line.steps, line.stage_steps)]
    return [*spent, *steps, f"{cost.parameters / 1e6:.2f}" if cost else "–"]


def words(board: Board) -> list[str]:
    """What a reader of the table must know."""
    request = board.plan.request
    people = [f"{len(request.cohort.subjects(split))} {split}" for split in ("train", "val", "test")]
    of = "processor minutes of one thread" if request.device.type == "cpu" else f"minutes on {request.device.type}"
    lines = [
        f"{request.direction} on the cohort `{request.cohort.folder.name}` (subjects: {', '.join(people)}). Every "
        f"training costs {request.minutes:g} {of}: a step of each recipe was timed once, and the steps that they "
        "pay for were written down before anything was trained.",
    ]
    if any(fit.stage for fit in board.plan.fits):
        lines.append(
            "A method that builds on a first stage has half of the minutes, its first stage the other half; recipes of "
            "one seed that build on the same one share it, and each counts it in full."
        )
    if COVERAGE in board.headings:
        lines.append(
            f"Figures are those of one draw. Coverage: voxels inside the brain whose truth lies in the "
            f"{100 * NOMINAL:g} % interval of {request.samples} draws, nothing calibrated; what draws nothing has none."
        )
    lines += [
        "Jumps between slices: of neighbouring slices over the truth's own, 1 is as smooth as real. Seconds (median; "
        "one thread on a CPU) and memory (peak; on a CPU of the whole process) are those of one draw of a volume.",
        *board.notes,
        *(f"{recipe} was not trained: {reason}" for recipe, reason in board.plan.unfit.items()),
        *(f"{name} has no row: {reason}" for name, reason in board.failed.items()),
    ]
    return lines


def markdown(board: Board) -> str:
    """The table for people, with differences to the best."""
    headings = ["recipe", "seed", "direction", *(heading for heading, _ in board.headings.values()), *COSTS]
    lines = [
        f"# {board.plan.request.direction}, {board.plan.request.minutes:g} minutes a training",
        "",
        f"| {' | '.join(headings)} |",
        f"| --- | --- | --- |{' ---: |' * (len(headings) - 3)}",
    ]
    for line in board.lines:
        cells = [line.label, _seed(line), line.direction]
        for column, (_, digits) in board.headings.items():
            text = spread_text(line.figures[column], digits) if column in line.figures else "–"
            cells.append((f"**{text}**" if column in line.best else text) + line.marks.get(column, ""))
        lines.append(f"| {' | '.join([*cells, *_costs(line)])} |")
    lines += ["", *(f"- {note}" for note in (*words(board), *notes(board.comparison))), ""]
    lines += ["## Differences to the best", "", *difference_lines(board.comparison, board.headings), ""]
    lines.append(f"All figures of the protocol, by subject, and pictures: `{FOLDER}/report.html`.")
    return "\n".join(lines) + "\n"


def tsv(board: Board) -> str:
    """A line a recipe, training and copied source, for a spreadsheet; what is not known is empty."""
    stream = io.StringIO()
    columns = [f"{name}{end}" for name in board.headings for end in ("", "_std")]
    names = ["recipe", "seed", "direction", "trainings", "subjects", *columns]
    names += ["seconds_a_volume", "memory_gb", "steps", "first_stage_steps", "parameters"]
    writer = csv.DictWriter(stream, names, delimiter="\t", lineterminator="\n")
    writer.writeheader()
    for line in board.lines:
        cost = line.cost
        record: dict[str, object] = {
            "recipe": line.label, "seed": line.seed, "direction": line.direction, "trainings": line.trainings,
            "subjects": board.comparison.rows[0].subjects, "steps": line.steps, "first_stage_steps": line.stage_steps,
        }  # fmt: skip
        for name, figure in line.figures.items():
            record |= {name: figure.mean, f"{name}_std": None if math.isnan(figure.std) else figure.std}
        if cost:
            record |= {"seconds_a_volume": cost.seconds, "parameters": cost.parameters}
            record["memory_gb"] = None if math.isnan(cost.memory_gb) else cost.memory_gb
        writer.writerow(record)
    return stream.getvalue()


def _content(board: Board) -> dict[str, Any]:
    request = board.plan.request
    rows = [
        {
            "recipe": line.label, "seed": line.seed, "direction": line.direction, "trainings": line.trainings,
            "figures": {name: asdict(figure) for name, figure in line.figures.items()},
            "best": sorted(line.best & board.headings.keys()),
            "marks": {name: one for name, one in line.marks.items() if one},
            "cost": asdict(line.cost) if line.cost else None,
            "steps": line.steps, "first_stage_steps": line.stage_steps,
        }
        for line in board.lines
    ]  # fmt: skip
    first = PROTOCOLS[PROTOCOL].metrics[0][0]
    trained = [line for line in board.lines if line.seed is not None]
    best = max(trained, key=lambda line: np.nan_to_num(first.goodness(line.figures[first.column].mean), nan=-np.inf))
    return without_nan({
        "best": f"{best.label}-{best.seed}",
        "protocol": PROTOCOLS[PROTOCOL].description(), "cohort": request.cohort.fingerprint,
        "direction": request.direction, "minutes": request.minutes,
        "rates": {recipe: asdict(rate) for recipe, rate in board.plan.rates.items()},
        "notes": [*words(board), *notes(board.comparison)], "rows": rows,
    })  # fmt: skip
