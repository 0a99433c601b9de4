"""A run's intervals, from what it makes of the validation subjects."""

import logging
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from scansynth.data.cohort import Cohort
from scansynth.errors import InputError
from scansynth.evaluation.evaluate import numbers_of
from scansynth.evaluation.samples import calls_left, draw
from scansynth.evaluation.tasks import choose_work
from scansynth.metrics.conformal import Held, Intervals, calibrate
from scansynth.progress import Parts, Report
from scansynth.synthesis.intervals import write_intervals
from scansynth.synthesis.run import Run

log = logging.getLogger(__name__)


def calibrate_run(
    run: Run,
    cohort: Cohort,
    *,
    samples: int = 1,
    mean: bool = False,
    seed: int = 0,
    kept: Path | None = None,
    report: Report | None = None,
) -> dict[str, Intervals]:
    """Intervals of each target that a run makes, written into its folder.

    Args:
        run: trained on the cohort.
        cohort: the prepared cohort; its validation subjects are held out of training (they chose the best weights,
            where such are taken).
        samples: to draw for each image.
        mean: of the mean given the sources, as in `evaluate`.
        seed: of the noise.
        kept: folder of samples, as in `evaluate`.
        report: told of the network calls that are done.

    Raises:
        InputError: if the run was trained on another cohort, or too few subjects validate.
    """
    work = choose_work([run], cohort, "val", protocol="default", target=None)
    numbers = numbers_of([run], samples=samples, mean=mean)[run.folder]
    usual = {}
    for target in dict.fromkeys(task.target for task in work):
        counted = Counter(task.sources for task in work if task.target == target)
        usual[target], count = counted.most_common(1)[0]
        if count < counted.total():
            log.warning(
                "%s: intervals are of syntheses from %s; %d validation subjects have other contrasts and are left out",
                target, "+".join(usual[target]), counted.total() - count,
            )  # fmt: skip
    work = [task for task in work if task.sources == usual[task.target]]
    calls = [[calls_left(run, task, number, kept=kept) for number in numbers] for task in work]
    parts, held = Parts(report, sum(map(sum, calls))), {}
    for task, counts in zip(work, calls, strict=True):
        images = []
        for number, count in zip(numbers, counts, strict=True):
            with parts.part(count, f"{run.folder.name} {task.subject} {task.target}") as told:
                images.append(draw(run, task, seed, sample=number, kept=kept, report=told).image)
        drawn = np.stack(images)
        deviation = drawn.std(0, ddof=1) if len(drawn) > 1 else None
        held.setdefault(task.target, []).append(Held(drawn.mean(0), task.truth(), deviation))
    found = {}
    for target, subjects in held.items():
        try:
            found[target] = replace(calibrate(subjects), sources=usual[target])
        except InputError as error:
            raise InputError(f"{target}: {error}") from None
    write_intervals(run, found, samples=samples, mean=mean, cohort=cohort.fingerprint)
    return found
