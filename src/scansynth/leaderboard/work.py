"""Carrying a leaderboard out, by one process or by several that share the folder: train, draw, and write one table.

Each training, and each drawing of a run, is a job that one process claims; what is done is told by what lies there.
Killed, the same command goes on. A process that finds nothing to do waits for those of the others, since one of them
may die; whoever sees all jobs ended writes the table.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from scansynth.claims import Claims
from scansynth.errors import InputError, InUseError, StoppedError, why
from scansynth.evaluation.evaluate import numbers_of
from scansynth.evaluation.samples import draw
from scansynth.evaluation.tasks import choose_work
from scansynth.files import write_text
from scansynth.leaderboard.plan import Plan, Training, foresee
from scansynth.leaderboard.rates import measured_yardstick, write_rate
from scansynth.leaderboard.request import SEED, Request
from scansynth.leaderboard.table import is_written, write_board
from scansynth.progress import Event, Report, named
from scansynth.records import read_json
from scansynth.synthesis.run import Run
from scansynth.training.pace import threads
from scansynth.training.train import train

log = logging.getLogger(__name__)

PAUSE = 3.0
"""Seconds between two looks at what others are doing."""


class _Failure(TypedDict):
    """`failed/<job>.json`."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process does."""

    name: str
    """Of its claim and of its failure."""
    after: "Job | None" = None
    """What must be done before."""
    done: Callable[[], bool]
    """Whether it lies there."""
    do: Callable[[Report], None]


def benchmark(request: Request, report: Report) -> Path:
    """Train, draw and measure all that is asked for, with whoever else does.

    Args:
        request: what is asked.
        report: told of every step.

    Returns:
        `table.md`.

    Raises:
        InputError: if nothing fits, nothing came to its end, or the folder holds something else.
        StoppedError: if a signal asked to stop.
    """
    request.begun()  # before anything is written
    claims = Claims(request.out / "claims")
    with threads(int(request.device.type == "cpu")):  # so that seconds of all volumes are of one thread
        plan = agreed(request, claims, report)
        jobs = jobs_of(plan)
        told = set[str]()
        while left := [job for job in jobs if not _ended(request, job)]:
            if any(_attempted(request, claims, job, report) for job in left):
                continue
            if names := {job.name for job in left} - told:
                log.info("at work elsewhere, or waiting for it: %s", ", ".join(sorted(names)))
                told |= names
            time.sleep(PAUSE)
        failed = failures(request, jobs)
        while not is_written(plan, failed):
            with claims.claimed("table") as mine:
                if mine and not is_written(plan, failed):
                    write_board(plan, failed, report)
            time.sleep(0 if mine else PAUSE)
    return request.out / "table.md"


def agreed(request: Request, claims: Claims, report: Report) -> Plan:
    """The plan, whose costs the first process measures for all."""
    while True:
        with claims.claimed("rates") as mine:
            if mine:
                if not request.begun():
                    request.begin(measured_yardstick(request.device))
                return foresee(request, report, lambda recipe, rate: write_rate(request, recipe, rate))
        report(Event(0, 1, "waiting for what a step costs"))
        time.sleep(PAUSE)


def jobs_of(plan: Plan) -> list[Job]:
    """All jobs, in the order in which they are looked through."""
    stages = {one.name: _training_job(plan, one, None) for one in plan.stages}
    trainings = [_training_job(plan, one, stages[one.stage.name] if one.stage else None) for one in plan.trainings]
    drawings = [_drawing_job(plan, one, job) for one, job in zip(plan.trainings, trainings, strict=True)]
    return [*stages.values(), *trainings, *drawings]


def failures(request: Request, jobs: Sequence[Job]) -> dict[str, str]:
    """Of the jobs that ended without result, why; a job that waited for one tells its reason."""
    return {job.name: reason for job in jobs if (reason := _failure(request, job)) is not None}


def _training_job(plan: Plan, training: Training, after: Job | None) -> Job:
    request = plan.request

    def do(report: Report) -> None:
        train(
            training.config,
            request.cohort,
            training.folder,
            device=request.device,
            report=named(report, f"training {training.name}"),
            first_stage=training.stage.folder if training.stage else None,
        )

    return Job(name=training.name, after=after, done=lambda: training.done, do=do)


def _drawing_job(plan: Plan, training: Training, after: Job) -> Job:
    """Draw the test subjects; `drawn.json` says that all are there."""
    request = plan.request
    stamp = request.out / "kept" / training.name / "drawn.json"

    def do(report: Report) -> None:
        run = Run.load(training.folder, str(request.device), weights="last")
        work = choose_work([run], request.cohort, "test", protocol="default", target=request.target)
        numbers = numbers_of([run], samples=request.samples, mean=False)[run.folder]
        for count, task in enumerate(work):
            report(Event(count, len(work), f"drawing {training.name}"))
            for number in numbers:
                draw(run, task, SEED, sample=number, kept=request.out / "kept")
        report(Event(len(work), len(work), f"drawing {training.name}"))
        write_text(stamp, json.dumps({"samples": len(numbers), "subjects": len(work)}) + "\n")

    return Job(name=f"{training.name}.drawing", after=after, done=stamp.is_file, do=do)


def _failure(request: Request, job: Job) -> str | None:
    """Why a job ended without result; None: it did not."""
    if job.after and (reason := _failure(request, job.after)) is not None:
        return reason
    path = request.out / "failed" / f"{job.name}.json"
    if not path.is_file():
        return None
    return read_json(path, _Failure, "delete it, and it is tried again")["why"]


def _ended(request: Request, job: Job) -> bool:
    return _failure(request, job) is not None or job.done()


def _attempted(request: Request, claims: Claims, job: Job, report: Report) -> bool:
    """Do a job, if it may begin and nobody is at it; whether this process had it.

    Raises:
        OSError: for a full disk, which the next job would fail by, too.
        StoppedError: if a signal asked to stop.
    """
    if job.after and not job.after.done():
        return False
    with claims.claimed(job.name) as mine:
        if not mine:
            return False
        if _ended(request, job):  # in the meantime
            return True
        try:
            job.do(report)
        except InUseError:  # one that was taken for dead, or a command of the user's
            return False
        except (OSError, StoppedError):
            raise
        except Exception as error:  # one method's fault is told in its row, and keeps no other back
            if not isinstance(error, InputError):
                log.warning("%s ended", job.name, exc_info=True)
            reason = str(error) if isinstance(error, InputError) else why(error)
            log.warning("%s: %s", job.name, reason)
            write_text(request.out / "failed" / f"{job.name}.json", json.dumps({"why": reason}, indent=1) + "\n")
        return True
