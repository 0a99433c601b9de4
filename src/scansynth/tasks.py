"""What is measured: each target of each subject of a split, and its synthesis by a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from scansynth.data.cohort import Cohort
from scansynth.data.datasets import Acceleration, from_network, read_image, whole_subject
from scansynth.errors import InputError
from scansynth.evaluation.protocols import Measurement, Protocol, find_protocol, measure
from scansynth.method import Noise
from scansynth.synthesis import Run


@dataclass(frozen=True)
class Task:
    """One subject's target, which some runs make."""

    cohort: Cohort
    protocol: Protocol
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


def choose_work(
    runs: Sequence[Run], cohort: Cohort, split: str, protocol: str | Protocol, target: str | None
) -> list[Task]:
    """Every target of every subject of a split that a run makes, and that has a source beside it.

    Raises:
        InputError: if a run was trained on another cohort, two have one name, runs see a contrast at different
            accelerations, the protocol is unknown, or nothing is left to measure.
    """
    protocol = find_protocol(protocol)
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
    samples: Sequence[int] = (0,),
    change: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """A prepared subject's target from its other contrasts.

    Args:
        run: what makes it.
        cohort: where the subject is.
        subject: its name.
        target: what to make.
        seed: of the noise.
        samples: numbers of the samples to draw.
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
    keys = [(seed, subject, sample) for sample in samples]
    made = [run.make(images, available, target, Noise([key], run.device)) for key in keys]
    return np.stack(made), sources
