"""Runs on a prepared cohort's split: synthesis against truth, under a protocol, as tables and pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from scansynth.data.cohort import Cohort
from scansynth.data.datasets import Acceleration, from_network, read_image, whole_subject
from scansynth.errors import InputError
from scansynth.evaluation.costs import Cost, measured_cost, typical
from scansynth.evaluation.montage import montage
from scansynth.evaluation.plots import plot_sparsification
from scansynth.evaluation.protocols import Case, Measurement, brain, find_protocol, measure
from scansynth.evaluation.shown import Shown
from scansynth.evaluation.tables import COPIED_SOURCE, Result, write_tables, write_uncertainty
from scansynth.evaluation.uncertainty import Uncertainty, uncertainty
from scansynth.method import Noise
from scansynth.synthesis import Run

Report = Callable[[int, int, str], None]
"""Called with (images done, images in all, "run subject contrast")."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured."""

    results: list[Result]
    costs: dict[str, Cost]
    """What the synthesis of a volume takes, by run."""
    uncertainty: dict[tuple[str, str, str], Uncertainty]
    """By run, direction and subject, where several samples were drawn."""
    shown: list[Shown]
    """Volumes of the first subjects, as many as pictures were asked for."""


def evaluate(
    runs: Sequence[Run],
    cohort: Cohort,
    out: Path,
    split: str = "test",
    protocol: str = "default",
    target: str | None = None,
    seed: int = 0,
    pictures: int = 3,
    report: Report | None = None,
    samples: int = 1,
) -> Evaluation:
    """Synthesise every target of every subject of a split, measure it, and measure the copied sources beside it.

    By default one sample is drawn for each image, as in the papers. Of several, the mean is measured, and their spread
    is held against its error. Accelerated contrasts are the low-resolution images that the
    runs know, as sources, as copied sources, as truth and in pictures. Written are `table.md`, `table.csv`,
    `slices.csv`, `table.json` and `montage_<run>_<subject>_<target>.png`; with several samples also `uncertainty.csv`
    and `sparsification.png`.

    Args:
        runs: trained on this cohort; named by their folders.
        cohort: the prepared cohort.
        out: folder to write into.
        split: which subjects.
        protocol: how to measure.
        target: one contrast, or None for all that the runs make.
        seed: of the noise.
        pictures: for how many subjects montages are made.
        report: told of every image.
        samples: to draw for each image of a stochastic method.

    Returns:
        All figures, and what each run's synthesis takes.

    Raises:
        InputError: if a run was trained on another cohort, runs see a contrast at different accelerations, or the split
            has no subject to measure.
    """
    if samples < 1:
        raise InputError(f"samples {samples}: draw at least one")
    work = choose_work(runs, cohort, split, protocol, target)
    results: list[Result] = []
    spreads: dict[tuple[str, str, str], Uncertainty] = {}
    costs: dict[str, list[Cost]] = {}
    drawn = list(dict.fromkeys(task.subject for task in work))[:pictures]
    shown: list[Shown] = []
    done, total = 0, sum(len(task.runs) for task in work)
    for task in work:
        subject, name = task.subject, task.target
        syntheses: dict[str, np.ndarray] = {}
        deviations: dict[str, np.ndarray] = {}
        truth, take = task.truth(), task.measuring()
        for source in task.sources:
            results.append(Result(COPIED_SOURCE, (source,), name, subject, take(task.read(source))))
        for run in task.runs:
            label = run.folder.name
            count = samples if run.method.stochastic else 1
            parameters = sum(parameter.numel() for parameter in run.method.parameters())
            (drawings, sources), cost = measured_cost(
                lambda run=run, subject=subject, name=name, count=count: synthesise(
                    run, cohort, subject, name, seed, count
                ),
                run.device,
                parameters,
            )
            costs.setdefault(label, []).append(cost)
            synthesis = syntheses[label] = drawings.mean(0)
            if count > 1:
                deviations[label] = drawings.std(0, ddof=1)
                mask = brain(Case(synthesis, truth, task.masks()))
                direction = f"{'+'.join(sources)}→{name}"
                spreads[label, direction, subject] = uncertainty(drawings, truth, mask)
            results.append(Result(label, sources, name, subject, take(synthesis)))
            done += 1
            if report:
                report(done, total, f"{label} {subject} {name}")
        if subject in drawn:
            images = {source: task.read(source) for source in task.sources}
            shown.append(Shown(subject, name, cohort.affine(subject, name), truth, images, syntheses, deviations))
            draw(shown[-1], results, out)
    write_tables(results, out, protocol)
    if spreads:
        write_uncertainty(spreads, out)
        plot_sparsification(spreads, out)
    return Evaluation(results, {label: typical(found) for label, found in costs.items()}, spreads, shown)


@dataclass(frozen=True)
class Task:
    """One subject's target, which some runs make."""

    cohort: Cohort
    protocol: str
    subject: str
    target: str
    sources: tuple[str, ...]
    """The subject's other contrasts among those of the runs."""
    runs: tuple[Run, ...]
    """Those that make the target."""
    acceleration: Acceleration
    """Of the runs' contrasts."""

    def read(self, contrast: str) -> np.ndarray:
        """A scan as the runs see it, (X, Y, Z) in [0, 1]."""
        return read_image(self.cohort, self.subject, contrast, self.acceleration).numpy()

    def truth(self) -> np.ndarray:
        """The target, (X, Y, Z) in [0, 1]."""
        return self.read(self.target)

    def masks(self) -> dict[str, np.ndarray]:
        """The subject's masks by name, (X, Y, Z)."""
        return {mask: self.cohort.read_mask(self.subject, mask) for mask in self.cohort.masks(self.subject)}

    def measuring(self) -> Callable[[np.ndarray], Measurement]:
        """The function that measures a synthesis (X, Y, Z) under the protocol."""
        statistics = self.cohort.statistics[self.target]
        to_units = statistics.to_units if statistics.unit == "HU" else None
        return partial(measure, self.protocol, reference=self.truth(), masks=self.masks(), to_units=to_units)


def choose_work(runs: Sequence[Run], cohort: Cohort, split: str, protocol: str, target: str | None) -> list[Task]:
    """Every target of every subject of a split that a run makes, and that has a source beside it.

    Raises:
        InputError: if a run was trained on another cohort, two have one name, runs see a contrast at different
            accelerations, the protocol is unknown, or nothing is left to measure.
    """
    find_protocol(protocol)
    labels = [run.folder.name for run in runs]
    if len(set(labels)) < len(labels):
        raise InputError(f"runs of one name ({', '.join(labels)}) cannot stand in one table; rename a run folder")
    for run in runs:
        run.record.check_same(cohort, run.folder)
    contrasts = tuple(dict.fromkeys(name for run in runs for name in run.config.contrasts))
    acceleration = common_acceleration(runs)
    targets = {run.folder: (run.choose_target(target, {}),) if target else run.method.targets for run in runs}
    work = []
    for subject in cohort.subjects(split):
        shown = [name for name in contrasts if name in cohort.available(subject)]
        for name in shown:
            makers = tuple(run for run in runs if name in targets[run.folder])
            sources = tuple(source for source in shown if source != name)
            if makers and sources:
                work.append(Task(cohort, protocol, subject, name, sources, makers, acceleration))
    if not work:
        raise InputError(f"{cohort.folder}: no {split} subject has a target together with a source")
    return work


def draw(shown: Shown, results: Sequence[Result], out: Path) -> None:
    """Write a montage for each run of a subject."""
    out.mkdir(parents=True, exist_ok=True)
    for result in results:
        if (result.subject, result.target) == (shown.subject, shown.target) and result.label in shown.syntheses:
            montage(
                out / f"montage_{result.label}_{shown.subject}_{shown.target}.png",
                {source: shown.sources[source] for source in result.sources},
                shown.syntheses[result.label],
                shown.truth,
                shown.spacing,
                f"{result.label}: {result.direction}",
                shown.subject,
                shown.deviations.get(result.label),
            )


def common_acceleration(runs: Sequence[Run]) -> list[tuple[str, int]]:
    """The acceleration of the contrasts of several runs, which one table can have one of.

    Raises:
        InputError: if two runs see a contrast at different accelerations.
    """
    folds: dict[str, tuple[int, Run]] = {}
    for run in runs:
        for name in run.config.contrasts:
            fold = dict(run.config.data.acceleration).get(name, 1)
            other_fold, other = folds.setdefault(name, (fold, run))
            if fold != other_fold:
                raise InputError(
                    f"{other.folder} and {run.folder} see {name} at accelerations {other_fold} and {fold}: their "
                    "sources or truths differ; evaluate them apart"
                )
    return [(name, fold) for name, (fold, _) in folds.items()]


def synthesise(
    run: Run,
    cohort: Cohort,
    subject: str,
    target: str,
    seed: int,
    samples: int = 1,
    change: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """A prepared subject's target from its other contrasts.

    Args:
        run: what makes it.
        cohort: where the subject is.
        subject: its name.
        target: what to make.
        seed: of the noise.
        samples: how many to draw.
        change: what is done first to the contrasts (1, K, X, Y, Z) in [0, 1].

    Returns:
        Samples (S, X, Y, Z) in [0, 1], and the contrasts that they are made from.
    """
    batch = whole_subject(cohort, subject, run.config.contrasts, run.config.data.acceleration)
    index = run.config.contrasts.index(target)
    images, available = from_network(batch["images"]), batch["available"].clone()
    if change is not None:
        images = change(images)
    available[:, index] = False
    images[:, index] = 0.0
    sources = tuple(name for k, name in enumerate(run.config.contrasts) if available[0, k])
    if not sources:
        raise InputError(f"{subject}: no source for {target} among {', '.join(run.config.contrasts)}")
    keys = [(seed, subject, sample) for sample in range(samples)]
    made = [run.make(images, available, target, Noise([key], run.device)) for key in keys]
    return np.stack(made), sources
