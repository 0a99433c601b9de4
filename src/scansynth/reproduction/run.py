"""Carrying a table out: prepare, train, measure, write. Stopped, the same call goes on where it was.

Preparation and training resume by themselves. A task is measured again only if its weights, cohort, protocol or seed
are others than those that its figures are of.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from scansynth.data.build_cohort import build_cohort
from scansynth.data.coarse_phantoms import coarse_phantoms
from scansynth.data.cohort import Cohort
from scansynth.data.layouts import Listing
from scansynth.devices import Processes
from scansynth.errors import InputError
from scansynth.evaluation.arms import arms_of
from scansynth.evaluation.comparison import compare
from scansynth.evaluation.comparison_tables import write_comparison
from scansynth.evaluation.evaluate import evaluate
from scansynth.evaluation.write import write_evaluation
from scansynth.files import write_text
from scansynth.progress import Report, named, silent
from scansynth.records import read_json
from scansynth.report.report import write_report
from scansynth.report.set_report import write_set_report
from scansynth.reproduction.request import Request, check_runnable
from scansynth.reproduction.table import write_reproduction
from scansynth.reproduction.tables.paper_table import DataSet, PaperTask, Row
from scansynth.sets.measure import measure_generated
from scansynth.synthesis.generated import generate_set
from scansynth.synthesis.run import Run
from scansynth.training.first_stage import builds_on
from scansynth.training.parts import find_first_stage, make_parts
from scansynth.training.train import train
from scansynth.training.trial import with_steps


def reproduce(request: Request, device: torch.device, report: Report | None = None) -> Path:
    """Carry out all of a table that there are methods and data for.

    Args:
        request: what to reproduce.
        device: where to compute.
        report: told of every step.

    Returns:
        `reproduction.md`; it is written anew after each task.

    Raises:
        InputError: if nothing can be run, the data does not suffice, or the folder holds something else.
    """
    report = report or silent
    check_runnable(request)
    steps, listings = request.steps(), request.listings()
    request.write_settings(steps)
    cohorts = {data.name: prepared(request, data, listings.get(data.name), report) for data in request.data_sets}

    def train_one(task: PaperTask, row: Row, first_stage: Path | None = None) -> None:
        if request.minutes and request.recipe(row) not in steps:
            steps[request.recipe(row)] = budget(
                request, task, row, cohort=cohorts[task.data], device=device, first_stage=first_stage
            )
            request.write_settings(steps)
        config = request.config(task, row, steps.get(request.recipe(row)))
        train(
            config,
            cohorts[task.data],
            request.run_folder(task, row),
            device=device,
            report=named(report, f"training {task.name}/{row.name}"),
            first_stage=first_stage if builds_on(config) else None,
        )

    for task, row in request.first_stages:
        train_one(task, row)
    for task in request.tasks:
        cohort = cohorts[task.data]
        for part, row in request.runs(task):
            stage = request.first_stage_of(task)
            for one in request.chain(row):
                train_one(part, one, stage)
                stage = request.run_folder(part, one)
        measure_task(request, task, cohort, device, report)
        write_reproduction(request)
    return request.out / "reproduction.md"


def prepared(request: Request, data: DataSet, listing: Listing | None, report: Report) -> Cohort:
    """The cohort of a data set, from its chosen subjects or from phantoms.

    Raises:
        InputError: for bad scans, or if some who validate or test are not registered.
    """
    contrasts = request.table.contrasts_of(data.name)
    if listing is None:
        phantoms = coarse_phantoms(request.out / "data" / data.name, contrasts, seed=request.seed, report=report)
        listing = request.chosen(data, phantoms)
    cohort = build_cohort(
        listing,
        request.out / "cohort" / data.name,
        request.preparation(data),
        contrasts=contrasts,
        seed=request.seed,
        report=named(report, f"preparing {data.name}"),
    )
    held_out = [*cohort.subjects("val"), *cohort.subjects("test")]
    if apart := [subject for subject in held_out if not cohort.registered(subject)]:
        raise InputError(
            f"{listing.root}: {len(apart)} subjects who validate or test have scans on different grids ({apart[0]} …): "
            "register and resample each one's contrasts onto one of them"
        )
    return cohort


def budget(
    request: Request, task: PaperTask, row: Row, *, cohort: Cohort, device: torch.device, first_stage: Path | None
) -> int:
    """Steps that a recipe makes in the minutes, on one task; its variants and other tasks then train as many."""
    assert request.minutes
    config = request.config(task, replace(row, change=None))
    config = replace(config, training=replace(config.training, minutes=request.minutes))
    processes = Processes(device)
    given = first_stage if builds_on(config) else None
    stage = find_first_stage(
        config, cohort, request.run_folder(task, row), given=given, overwrite=False, processes=processes
    )
    _, dataset = make_parts(config, cohort, processes, first_stage=stage)
    return with_steps(config, cohort, dataset, processes, stage).training.steps


def measure_task(request: Request, task: PaperTask, cohort: Cohort, device: torch.device, report: Report) -> None:
    """Measure a task's runs and compare them, unless that has been done."""
    protocol, folder = request.protocol, request.evaluation_folder(task)
    runs = [Run.load(request.run_folder(part, row), device.type) for part, row in request.runs(task)]
    place = request.out / "runs" / task.name
    state = {
        "weights": {run.folder.relative_to(place).as_posix(): run.weights["sha256"] for run in runs},
        "cohort": cohort.fingerprint,
        "protocol": [protocol.name, protocol.version],
        "seed": request.seed,
    }
    stamp = folder / "measured.json"  # written last: it says that the figures are whole, and of what
    if stamp.is_file() and read_json(stamp, dict[str, Any], f"delete {stamp}, and it is measured again") == state:
        return
    if protocol.unit == "set":
        measure_sets_of(request, runs, cohort, folder, report)
        write_text(stamp, json.dumps(state, indent=1) + "\n")
        return
    found = evaluate(
        runs,
        cohort,
        protocol=protocol.name,
        target=task.targets[0] if len(task.targets) == 1 else None,
        seed=request.seed,
        pictures=1,
        report=named(report, f"evaluating {task.name}"),
    )
    write_evaluation(found, folder)
    comparison = compare(
        found.results, protocol, arms=arms_of(runs), costs=found.costs, acceleration=found.acceleration
    )
    write_comparison(comparison, folder)
    write_report(found, runs, folder, comparison=comparison)
    write_text(stamp, json.dumps(state, indent=1) + "\n")


def measure_sets_of(request: Request, runs: list[Run], cohort: Cohort, folder: Path, report: Report) -> None:
    """Generate a set by each run and measure them; figures into `table.json`, in the form that `evaluate` writes."""
    sets = [folder / "sets" / run.folder.name for run in runs]
    for run, one in zip(runs, sets, strict=True):
        generate_set(
            run,
            request.volumes,
            one,
            seed=request.seed,
            report=named(report, f"generating by {run.folder.name}"),
        )
    found = measure_generated(
        sets,
        cohort,
        folder,
        memorisation=False,
        seed=request.seed,
        report=report,
    )
    write_set_report(found, folder)
    rows = [
        {
            "label": row.label,
            "direction": f"→{found.contrast}",
            "n_subjects": row.volumes,
            "subjects": {
                column: {"mean": spread.mean, "std": None if math.isnan(spread.std) else spread.std}
                for column, spread in row.summary().items()
            },
        }
        for row in found.rows
    ]
    write_text(folder / "table.json", json.dumps({"rows": rows}, indent=1, ensure_ascii=False) + "\n")
