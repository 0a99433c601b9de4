"""What reproducing a table would take: every run with its steps, hours and memory here. Nothing is written."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from scansynth.config import RunConfig
from scansynth.data.coarse_phantoms import SUBJECTS
from scansynth.data.prepare import Preparation
from scansynth.precision import choose_precision
from scansynth.progress import Event, Report, silent
from scansynth.reproduction.request import Request, needs
from scansynth.reproduction.table import differences, paper_lines
from scansynth.reproduction.tables.paper_table import PaperTable, PaperTask, Row
from scansynth.training import checkpoint
from scansynth.training.trial import STEPS, WARM_UP, Trial, try_steps


@dataclass(frozen=True)
class RunForecast:
    """One training."""

    task: PaperTask
    row: Row
    config: RunConfig[Any]
    finished: int
    """Steps that are done already."""
    trial: Trial | None
    """None where nothing is left to train."""

    @property
    def hours(self) -> float:
        """Of training that is left."""
        left = max(0, self.config.training.steps - self.finished)
        return left * self.trial.seconds / 3600 if self.trial else 0.0


@dataclass(frozen=True)
class Forecast:
    """All trainings of a request, and where they would run."""

    request: Request
    device: torch.device
    runs: tuple[RunForecast, ...]

    @property
    def hours(self) -> float:
        """Of all training that is left, one run after another."""
        return sum(run.hours for run in self.runs)


class _Trials:
    """One trial for runs of equal settings and size."""

    def __init__(self, device: torch.device, report: Report):
        self.device, self.report, self.found = device, report, dict[tuple[Any, ...], Trial]()

    def of(self, config: RunConfig[Any], size: tuple[int, int]) -> Trial:
        training = config.training
        key = (config.method, config.settings, len(config.contrasts), size, training.batch_size, training.precision)
        if key not in self.found:
            what = f"trying {config.method} at {size[0]}×{size[1]}, trial {len(self.found) + 1}"
            self.report(Event(0, 1, what))
            self.found[key] = try_steps(config, size, self.device)
            self.report(Event(1, 1, what))
        return self.found[key]


def foresee(request: Request, device: torch.device, report: Report | None = None) -> Forecast:
    """Work out the trainings, trying a few steps of each kind on random images.

    Where no data is given at all, all tasks are foreseen.

    Raises:
        InputError: if data is given that does not suffice, or the folder holds something else.
    """
    trials = _Trials(device, report or silent)
    if request.table.obstacle:
        return Forecast(request, device, ())
    request.listings()  # for its errors: a forecast is of no use where the data does not suffice
    known, runs = request.steps(), []
    tasks = request.tasks or request.table.tasks
    trained = [(part, one) for task in tasks for part, row in request.runs(task) for one in request.chain(row)]
    work = [*request.first_stages, *trained]
    for task, row in work:
        size = slice_size(request.preparation(request.table.data_set(task.data)))
        recipe = request.recipe(row)
        if request.minutes and recipe not in known:
            rate = trials.of(request.config(task, replace(row, change=None)), size).seconds
            # A twentieth of the time goes into measuring the rate.
            known[recipe] = max(1, round(0.95 * 60 * request.minutes / rate))
        config = request.config(task, row, known.get(recipe))
        newest = checkpoint.current(request.run_folder(task, row) / "last")
        finished = checkpoint.step_of(newest) if newest else 0
        trial = trials.of(config, size) if finished < config.training.steps else None
        runs.append(RunForecast(task, row, config, finished, trial))
    return Forecast(request, device, tuple(runs))


def slice_size(preparation: Preparation) -> tuple[int, int]:
    """Voxels of a prepared axial slice, which the tables all state."""
    height, width, _ = preparation.size
    assert height is not None, preparation
    assert width is not None, preparation
    return height, width


def text(forecast: Forecast) -> str:
    """The forecast for people."""
    request, table = forecast.request, forecast.request.table
    found = [f"{table.name}: {table.shows}", f"{table.citation}.", ""]
    found += ["Data:", *(f"- {_data_line(request, data.name)}" for data in table.data), ""]
    if forecast.runs:
        found += _run_lines(forecast)
    else:
        found += [f"Nothing of it can be run: {table.obstacle}.", f"Training in the paper: {table.training}."]
    if table.present and table.absent:
        labels = ", ".join(row.label for row in table.absent)
        found += ["", f"Absent: no method {labels} yet; the table will show the paper's figures alone in their rows."]
    found += ["", "Where here and the paper part:", *(f"- {note}" for note in differences(request))]
    found += ["", "The paper's figures:", *(paper_lines(request) if table.figures else ["not transcribed yet"])]
    return "\n".join([*found, "", "Dry run: nothing was written."]) + "\n"


def _data_line(request: Request, name: str) -> str:
    words = needs(request.table, request.table.data_set(name))
    if name in request.data:
        return f"{words}. Given: {request.data[name]}"
    unmade = request.unmade(request.table.data_set(name))
    if request.small and unmade:
        return f"{words}. Not given (--data {name}=FOLDER), and phantoms have no {', '.join(unmade)}: left out"
    if request.small:
        return f"{words}. Here: {SUBJECTS} phantoms"
    return f"{words}. Not given (--data {name}=FOLDER)"


def _run_lines(forecast: Forecast) -> list[str]:
    request = forecast.request
    first = forecast.runs[0]
    lines = [
        "| run | recipe | steps | done | batch | image | s a step | hours left | memory (GB) |",
        "| --- | --- | ---: | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for run in forecast.runs:
        training, trial = run.config.training, run.trial
        recipe = request.recipe(run.row) + (f", {run.row.label}" if run.row.change else "")
        cells = [f"{run.task.name}/{run.row.name}", recipe, f"{training.steps:,}", f"{run.finished:,}"]
        cells += [str(training.batch_size), "×".join(map(str, trial.shape)) if trial else "–"]
        cells += [f"{trial.seconds:.2f}" if trial else "–", _hours(run.hours)]
        cells += [f"{trial.memory_gb:.1f}" if trial and not math.isnan(trial.memory_gb) else "–"]
        lines.append(f"| {' | '.join(cells)} |")
    steps = sum(run.config.training.steps for run in forecast.runs)
    left = sum(max(0, run.config.training.steps - run.finished) for run in forecast.runs)
    threads = f" (threads: {torch.get_num_threads()})" if forecast.device.type == "cpu" else ""
    place = f"{forecast.device}{threads}"
    about = "about " if request.minutes else ""
    lines += [
        "",
        f"In all: {len(forecast.runs)} runs, {about}{steps:,} steps, {left:,} of them left, "
        f"{_hours(forecast.hours)} hours one run after another, on {place}.",
        f"Rates and memory are estimates from a trial just now: {WARM_UP} step to warm up and {STEPS} measured of each "
        "kind, on random images. Preparation, validation and evaluation come on top; other work on the machine counts.",
        f"In the folder: {request.out}",
    ]
    lines.append(f"Networks compute in {choose_precision(first.config.training.precision, forecast.device)}.")
    return lines


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2f}"


def listing(tables: dict[str, PaperTable]) -> str:
    """A line a table: what it shows, which methods exist, whether the paper's figures are transcribed."""
    found = []
    for table in tables.values():
        exist = ", ".join(row.label for row in table.present) or "none"
        absent = ", ".join(row.label for row in table.absent) or "none"
        figures = "not transcribed"
        if table.figures:
            count = sum(len(columns) for columns in table.figures.values())
            figures = f"{count} figures transcribed, {table.unreadable} of them marked as not readable"
        measures = "" if table.protocol else f"; nothing measures {table.measures} yet"
        found.append(f"{table.name}: {table.shows}; methods: {exist}; absent: {absent}; {figures}{measures}")
    return "\n".join(found)
