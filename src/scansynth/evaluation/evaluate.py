"""Runs on a prepared cohort's split: synthesis against truth, under a protocol. Files of it: `write.py`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from scansynth.data.cohort import Cohort
from scansynth.errors import InputError
from scansynth.evaluation.coherence import CoherenceFigures
from scansynth.evaluation.consistency import ConsistencyFigures
from scansynth.evaluation.costs import CostFigures
from scansynth.evaluation.figures import Figures, Key, Synthesis
from scansynth.evaluation.intervals import IntervalFigures
from scansynth.evaluation.observed import Observed, ObservedFigures
from scansynth.evaluation.regions import RegionFigures, RegionResult
from scansynth.evaluation.samples import DrawnSample, calls_left, draw, partway
from scansynth.evaluation.shown import Shown
from scansynth.evaluation.tables import COPIED_SOURCE, Result
from scansynth.evaluation.tasks import Task, choose_work
from scansynth.evaluation.uncertainty import UncertaintyFigures
from scansynth.metrics.coherence import Jumps
from scansynth.metrics.consistency import Consistency
from scansynth.metrics.protocols import Protocol, find_protocol
from scansynth.metrics.uncertainty import Uncertainty
from scansynth.progress import Parts, Report
from scansynth.synthesis.realism import check_realism, is_between
from scansynth.synthesis.run import Run
from scansynth.training.costs import Cost

Kind = TypeVar("Kind", bound=Figures)

KINDS: tuple[type[Figures], ...] = (
    UncertaintyFigures,
    ConsistencyFigures,
    ObservedFigures,
    IntervalFigures,
    RegionFigures,
    CoherenceFigures,
    CostFigures,
)
"""What is taken of every synthesis beside the protocol's table, in the order of the report's sections."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured."""

    results: list[Result]
    figures: Sequence[Figures]
    """What else was taken, one object a kind."""
    shown: list[Shown]
    """Volumes of the first subjects, as many as pictures were asked for."""
    protocol: Protocol
    """What all was measured with."""
    acceleration: Sequence[tuple[str, int]]
    """Of the contrasts, as all runs see them."""
    split: str
    seed: int
    """Of the noise."""
    samples: int
    """Drawn for each image of a stochastic method."""
    mean: bool
    """Whether means given the sources were measured, not draws."""
    weights: Mapping[str, str] = field(default_factory=dict)
    """Label of a run → SHA-256 of its weights."""
    realism: float = 1.0
    """How far from the mean to a draw the syntheses lie, of runs that have both."""
    external: bool = False
    """Whether the cohort is another one than the runs were trained on, prepared like it."""
    together: bool = False
    """Whether the cohort's scans were registered, the targets among them (`prepare --raw`)."""
    sites: Mapping[str, str] = field(default_factory=dict)
    """Subject → where it was scanned, of those of whom that is known (`participants.tsv`)."""

    @property
    def notes(self) -> list[str]:
        """What the reader of any of its tables must know, each a sentence."""
        people = len({result.subject for result in self.results})
        return [*([EXTERNAL.format(people)] if self.external else ()), *([TOGETHER] if self.together else ())]

    def of(self, kind: type[Kind]) -> Kind:
        """The figures of a kind; empty ones where it was not taken."""
        return next((one for one in self.figures if isinstance(one, kind)), None) or kind()

    @property
    def syntheses(self) -> str:
        """What the syntheses are, in words."""
        several = f"the mean of {self.samples} draws"
        if self.realism < 1:
            return f"realism {self.realism:g} between the mean given the sources (0) and a draw (1)"
        if self.mean:
            return "the mean given the sources, in one call" + (f", or {several}" if self.samples > 1 else "")
        return "one draw each" if self.samples == 1 else f"{several} each"

    @property
    def costs(self) -> dict[str, Cost]:
        """What the synthesis of a volume takes, by run."""
        return self.of(CostFigures).found

    @property
    def seconds(self) -> float:
        """That drawing all samples took, those that were read included."""
        return sum(cost.seconds for costs in self.of(CostFigures).drawn.values() for cost in costs)

    @property
    def uncertainty(self) -> dict[Key, Uncertainty]:
        """By run, direction and subject, where several samples were drawn."""
        return self.of(UncertaintyFigures).found

    @property
    def consistency(self) -> dict[Key, Consistency]:
        """The same, under a protocol with MS-SSIM."""
        return self.of(ConsistencyFigures).found

    @property
    def observed(self) -> dict[Key, list[Observed]]:
        """What methods saw of their own steps, of each sample."""
        return self.of(ObservedFigures).found

    @property
    def regions(self) -> list[RegionResult]:
        """Figures inside the subjects' masks, where they have some."""
        return self.of(RegionFigures).found

    @property
    def coherence(self) -> dict[Key, Jumps]:
        """Jumps between slices over the truth's own, by run, direction and subject."""
        return self.of(CoherenceFigures).found


def evaluate(
    runs: Sequence[Run],
    cohort: Cohort,
    *,
    split: str = "test",
    protocol: str | Protocol = "default",
    target: str | None = None,
    seed: int = 0,
    pictures: int = 3,
    report: Report | None = None,
    samples: int = 1,
    mean: bool = False,
    realism: float = 1.0,
    kept: Path | None = None,
    subsets: bool = False,
    kinds: Sequence[type[Figures]] = KINDS,
) -> Evaluation:
    """Synthesise every target of every subject of a split, measure it, and measure the copied sources beside it.

    A test subject is cropped as the sources of each target alone would have it, as in translation (`Cohort.crop`).
    By default one sample is drawn for each image, as in the papers. Of several, the mean is measured, and their spread
    is held against its error. Accelerated contrasts are the low-resolution images that the
    runs know, as sources, as copied sources, as truth and in pictures. No file is written but samples that are kept:
    `write_evaluation` writes.

    Args:
        runs: trained on this cohort, or on the one that it was prepared like (an external test); named by their
            folders.
        cohort: the prepared cohort.
        split: which subjects.
        protocol: how to measure: a name, or a protocol with a further figure (`Protocol.with_metric`).
        target: one contrast, or None for all that the runs make.
        seed: of the noise.
        pictures: of how many subjects volumes are kept, to be shown.
        report: told of the network calls that are done, and of which image ("run subject contrast").
        samples: to draw for each image of a stochastic method.
        mean: measure the mean given the sources, of a run whose method gives it in one call; of others the mean of
            several samples.
        realism: of one image, how far from the mean to a draw (`synthesis/realism.py`), of runs that have both; what
            draws nothing is measured as it is.
        kept: folder of samples: those that are there are read, others are put there. A stopped evaluation goes on.
        subsets: each target from every set of its sources, not only from all of them.
        kinds: of figures that are taken beside the protocol's.

    Returns:
        All figures.

    Raises:
        InputError: if a run was trained on another cohort, runs see a contrast at different accelerations, or the split
            has no subject to measure.
    """
    protocol = find_protocol(protocol)
    work = choose_work(runs, cohort, split, protocol=protocol, target=target, subsets=subsets)
    numbers = numbers_of(runs, samples=samples, mean=mean, realism=realism)
    calls = {
        (number, run.folder, sample): calls_left(run, task, sample, kept=kept)
        for number, task in enumerate(work)
        for run in task.runs
        for sample in numbers[run.folder]
    }
    parts = Parts(report, sum(calls.values()))

    def drawn(number: int, run: Run) -> list[DrawnSample]:
        task, found = work[number], []
        for sample in numbers[run.folder]:
            what = f"{run.folder.name} {task.subject} {task.target}"
            with parts.part(calls[number, run.folder, sample], what) as told:
                found.append(draw(run, task, seed, sample=sample, kept=kept, report=told))
        if numbers[run.folder] == BOTH:
            mean, sample = found
            return [partway(mean, sample, realism)]
        return found

    figures = [kind() for kind in kinds]
    results: list[Result] = []
    shown: list[Shown] = []
    pictured = list(dict.fromkeys(task.subject for task in work))[:pictures]
    for number, task in enumerate(work):
        keep = task.whole and task.subject in pictured
        images: dict[str, np.ndarray] = {}
        deviations: dict[str, np.ndarray] = {}
        truth, masks = task.truth(), task.masks()
        for synthesis in _syntheses(task, truth, masks, partial(drawn, number), mean=mean):
            results.append(synthesis.result)
            for one in figures:
                one.collect(synthesis)
            if keep and synthesis.drawn:
                images[synthesis.result.label] = synthesis.image
                if len(synthesis.samples) > 1:
                    deviations[synthesis.result.label] = synthesis.samples.std(0, ddof=1)
        if keep:
            shown.append(
                Shown(
                    subject=task.subject,
                    target=task.target,
                    affine=cohort.affine(task.subject, task.target, crop=task.crop),
                    truth=truth,
                    sources={source: task.read(source) for source in task.sources},
                    syntheses=images,
                    deviations=deviations,
                )
            )
    return Evaluation(
        results=results,
        figures=figures,
        shown=shown,
        protocol=protocol,
        acceleration=work[0].acceleration,
        split=split,
        seed=seed,
        samples=samples,
        mean=mean,
        weights={run.folder.name: run.weights["sha256"] for run in runs},
        realism=realism,
        external=cohort.like is not None,
        together=cohort.raw is not None,
        sites=sites_of(cohort, [result.subject for result in results]),
    )


TOGETHER = (
    "The scans were brought together with the targets in sight (`prepare --raw`): grid, registration and mask of a "
    "source may come from its target, which `translate` does not have."
)
EXTERNAL = (
    "External test: {} subjects of another cohort than the runs were trained on, prepared with the runs' settings and "
    "training statistics."
)


def sites_of(cohort: Cohort, subjects: Sequence[str]) -> dict[str, str]:
    """Subject → site, by the column of `participants.tsv` that says it; empty unless there are two sites or more."""
    found = {}
    for subject in subjects:
        labels = {name.lower(): text for name, text in cohort.labels(subject).items()}
        if site := next((labels[name] for name in SITES if name in labels), None):
            found[subject] = site
    return found if len(set(found.values())) > 1 else {}


SITES = ("site", "site_id", "centre", "center", "institution", "scanner")
"""Columns of `participants.tsv` that say where a subject was scanned, the first that there is."""

BOTH = (None, 0)
"""The mean and a draw, between which an image lies."""


def numbers_of(
    runs: Sequence[Run], *, samples: int, mean: bool, realism: float = 1.0
) -> dict[Path, Sequence[int | None]]:
    """Which samples are drawn of each image, by run folder; None stands for the mean.

    Args:
        runs: what draws.
        samples: to draw by a stochastic method.
        mean: the mean given the sources, by methods that give it in one call.
        realism: how far from the mean to a draw, by methods that have both.

    Raises:
        InputError: if there is none to draw, or a mean is that of one draw.
    """
    if samples < 1:
        raise InputError(f"samples {samples}: draw at least one")
    if mean and samples == 1 and (drawn_only := [run.folder.name for run in runs if not run.method.gives_mean]):
        raise InputError(f"the mean of {drawn_only[0]} is that of several draws: say how many, --samples 8")
    for run in runs:
        if run.method.stochastic:
            check_realism(run.method, run.folder.name, realism, samples=samples, mean=mean)
    if realism < 1:
        chosen = BOTH if is_between(realism) else (None,)
        return {run.folder: chosen if run.method.stochastic else (0,) for run in runs}
    return {
        run.folder: (None,) if mean and run.method.gives_mean else range(samples if run.method.stochastic else 1)
        for run in runs
    }


def _syntheses(
    task: Task,
    truth: np.ndarray,
    masks: Mapping[str, np.ndarray],
    drawn: Callable[[Run], list[DrawnSample]],
    *,
    mean: bool,
) -> Iterator[Synthesis]:
    """What there is of a target, measured: each source copied, where all of them are given, then what each run makes.

    Args:
        task: what is made of whom.
        truth: (X, Y, Z) in [0, 1].
        masks: of the subject, by name, (X, Y, Z).
        drawn: draws a run's samples.
        mean: whether means are made.
    """
    take = task.measuring()
    for source in task.sources if task.whole and task.target not in task.sources else ():
        copied = task.read(source)
        result = Result(COPIED_SOURCE, (source,), task.target, task.subject, take(copied))
        yield Synthesis(task=task, result=result, image=copied, samples=copied[None], truth=truth, masks=masks)
    for run in task.runs:
        found = drawn(run)
        samples = np.stack([one.image for one in found])
        image = samples.mean(0)
        result = Result(run.folder.name, found[0].sources, task.target, task.subject, take(image))
        yield Synthesis(
            task=task,
            result=result,
            image=image,
            samples=samples,
            truth=truth,
            masks=masks,
            drawn=found,
            run=run,
            drawn_as_mean=mean,
        )
