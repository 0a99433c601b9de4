"""The demo: a cohort, two trainings, held-out subjects translated and evaluated, in minutes and without any data.

data/            phantom scans as NIfTI files (or the user's own folder)
cohort/          prepared
runs/            regression and supervised SynDiff
translated/      the test subjects' missing contrasts as NIfTI files, with sidecars
evaluation/      tables, pictures and report.html
"""

import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from scansynth.config import RunConfig
from scansynth.data.build_cohort import build_cohort
from scansynth.data.coarse_phantoms import SIZE, SPACING, SUBJECTS, coarse_phantoms
from scansynth.data.cohort import Cohort
from scansynth.data.layouts import Listing, Subject, find_subjects
from scansynth.data.prepare import Preparation
from scansynth.errors import InputError
from scansynth.evaluation.evaluate import evaluate
from scansynth.evaluation.tables import COPIED_SOURCE, Summary, summarise
from scansynth.evaluation.write import write_evaluation
from scansynth.metrics.image_metrics import PSNR, SSIM
from scansynth.progress import Report, named, silent
from scansynth.recipes import find_recipe
from scansynth.report.report import write_report
from scansynth.synthesis.folder import translate_cohort
from scansynth.synthesis.run import Run
from scansynth.synthesis.sampling import Sampling
from scansynth.training import checkpoint
from scansynth.training.train import train
from scansynth.training.trial import try_steps

log = logging.getLogger(__name__)

CONTRASTS = ("T1w", "T2w")
STEPS = {"regression_small": 250, "syndiff_small_supervised": 600}
"""Training steps, the same on every machine, so that it makes the same images. Few, because the demo shows the way and
not what the methods can reach: six minutes on two cores without bfloat16, of which the rest takes one and a half."""
REST = 90.0
"""Seconds of all that is not training, about, on two cores."""


@dataclass(frozen=True)
class Outcome:
    """What the demo made."""

    folder: Path
    summaries: list[Summary]
    seconds: float

    @property
    def beats_copied_source(self) -> bool:
        """Whether each run has a higher mean PSNR and SSIM than the copied source, in each direction."""
        copied = {row.direction: row for row in self.summaries if row.label == COPIED_SOURCE}
        return all(
            row.subjects[column].mean > copied[row.direction].subjects[column].mean
            for row in self.summaries
            if row.label != COPIED_SOURCE
            for column in (PSNR.column, SSIM.column)
        )


def demo(
    out: Path,
    device: torch.device,
    *,
    data: Path | None = None,
    contrasts: tuple[str, str] = CONTRASTS,
    minutes: float | None = None,
    seed: int = 0,
    report: Report | None = None,
) -> Outcome:
    """Run all of it; a stopped demo goes on where it was.

    Args:
        out: folder to write into.
        device: where to train.
        data: the user's own scans; None for phantoms.
        contrasts: the two contrasts to translate between, both ways.
        minutes: training time of both runs together, in place of the steps that the demo is made for.
        seed: of phantoms, splits, weights and noise.
        report: told of every step.

    Raises:
        InputError: if the data has no subjects with both contrasts, or too few to hold some out.
    """
    begun = time.perf_counter()
    report = report or silent
    out.mkdir(parents=True, exist_ok=True)
    listing = find_subjects(data) if data else coarse_phantoms(out / "data", contrasts, seed=seed, report=report)
    both = [subject for subject in listing.subjects if set(contrasts) <= subject.scans.keys()]
    if len(both) < 3:
        raise InputError(
            f"{listing.root}: {len(both)} subjects have both {' and '.join(contrasts)}; the demo needs at least three "
            "(choose two other --contrasts, or more data)"
        )
    cohort = build_cohort(
        replace(listing, subjects=tuple(both), contrasts=contrasts),
        out / "cohort",
        Preparation(spacing=(SPACING, SPACING, None), size=SIZE),
        contrasts=contrasts,
        seed=seed,
        report=named(report, "preparing scans"),
    )
    runs = []
    for name in STEPS:
        config = settings(name, contrasts, seed, minutes)
        folder = out / "runs" / name
        train(
            config,
            cohort,
            folder,
            device=device,
            report=named(report, f"training {name}"),
        )
        runs.append(Run.load(folder, device.type))
    translate_test(runs[-1], cohort, listing, subjects=both, out=out / "translated", seed=seed, report=report)
    measured = evaluate(
        runs,
        cohort,
        protocol="syndiff",
        seed=seed,
        report=named(report, "evaluating"),
    )
    write_evaluation(measured, out / "evaluation")
    write_report(measured, runs, out / "evaluation")
    return Outcome(out, summarise(measured.results), time.perf_counter() - begun)


def settings(name: str, contrasts: tuple[str, str], seed: int, minutes: float | None) -> RunConfig[Any]:
    """How the demo trains a recipe."""
    recipe = find_recipe(name)
    # One validation, at the end: at this length it would cost a good part of the time.
    training = replace(recipe.training, steps=STEPS[name], validate_every=1_000_000)
    if minutes:
        training = replace(training, minutes=minutes / len(STEPS))
    return replace(recipe, contrasts=contrasts, training=training, seed=seed)


def announcement(
    out: Path, device: torch.device, data: Path | None, contrasts: tuple[str, str], minutes: float | None
) -> str:
    """What the demo will do, and how long that takes here, by a trial of a few steps."""
    height, width, _ = SIZE
    what = f"scans of {data}" if data else f"{SUBJECTS} phantom heads (no data is needed)"
    names = " and ".join(f"{name} ({steps} steps)" for name, steps in STEPS.items())
    if minutes:
        time_there = f"{minutes:g} minutes of training"
    elif any(checkpoint.current(out / "runs" / name / "last") for name in STEPS):
        time_there = "what is there already is kept"
    else:
        seconds = REST + sum(
            steps * try_steps(settings(name, contrasts, 0, None), (height, width), device).seconds
            for name, steps in STEPS.items()
        )
        time_there = f"about {max(1, round(seconds / 60))} minutes here, by a trial just now"
    return (
        f"The demo prepares {what}, trains {names} on {contrasts[0]} and {contrasts[1]}, translates and measures "
        f"held-out subjects, and writes a report: {time_there}."
    )


def translate_test(
    run: Run, cohort: Cohort, listing: Listing, *, subjects: list[Subject], out: Path, seed: int, report: Report
) -> None:
    """Translate the test subjects' own files, each contrast from the other."""
    held_out = set(cohort.subjects("test"))
    kept = tuple(subject for subject in subjects if subject.name in held_out)
    translate_cohort(
        run,
        replace(listing, subjects=kept),
        out,
        sampling=Sampling(seed=seed),
        report=named(report, "translating test subjects"),
    )
