"""What is measured: each target of each subject of a split, and its synthesis by a run."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import torch

from scansynth.data.cohort import Cohort
from scansynth.data.crops import Crop
from scansynth.data.datasets import Acceleration, from_network, read_image, whole_subject
from scansynth.data.tissue import OWN_MASK
from scansynth.errors import InputError
from scansynth.given import sources_for
from scansynth.metrics.protocols import Measurement, Protocol, find_protocol, measure
from scansynth.noise import Noise
from scansynth.progress import Report, one_of
from scansynth.synthesis.run import Run, Sample


@dataclass(frozen=True, kw_only=True)
class Task:
    """One subject's target, which some runs make."""

    cohort: Cohort
    protocol: Protocol
    subject: str
    target: str
    sources: tuple[str, ...]
    """What it is made from, as far as a run knows it: the subject's other contrasts among those of the runs, some of
    them, or, of runs that reconstruct, the target itself."""
    whole: bool
    """Whether these are all sources that there are."""
    runs: tuple[Run, ...]
    """Those that make the target."""
    acceleration: Acceleration
    """Of the runs' contrasts."""

    @property
    def crop(self) -> Crop | None:
        """Where the subject is cropped: as the sources alone would have it (`Cohort.crop`).

        A run that takes only some of the sources is cropped as the others are: one truth serves all of them.
        """
        return self.cohort.crop(self.subject, self.sources)

    def read(self, contrast: str) -> np.ndarray:
        """A scan as the runs see it, (X, Y, Z) in [0, 1]."""
        return read_image(self.cohort, self.subject, contrast, acceleration=self.acceleration, crop=self.crop).numpy()

    def truth(self) -> np.ndarray:
        """The target, (X, Y, Z) in [0, 1]."""
        return self.read(self.target)

    def masks(self) -> dict[str, np.ndarray]:
        """The subject's masks by name, (X, Y, Z)."""
        crop = self.crop
        return {mask: self.cohort.read_mask(self.subject, mask, crop=crop) for mask in self.cohort.masks(self.subject)}

    def measuring(self) -> Callable[[np.ndarray], Measurement]:
        """The function that measures a synthesis (X, Y, Z) under the protocol."""
        statistics = self.cohort.statistics[self.target]
        to_units = statistics.to_units if statistics.unit == "HU" else None
        return partial(measure, self.protocol, reference=self.truth(), masks=self.masks(), to_units=to_units)


def choose_work(
    runs: Sequence[Run],
    cohort: Cohort,
    split: str,
    *,
    protocol: str | Protocol,
    target: str | None,
    subsets: bool = False,
) -> list[Task]:
    """Every target of every subject of a split that a run makes, and that has a source beside it.

    Args:
        runs: trained on this cohort, or on the one that it was prepared like.
        cohort: the prepared cohort.
        split: which subjects.
        protocol: how to measure.
        target: one contrast, or None for all that the runs make.
        subsets: each target from every set of its sources, not only from all of them.

    Raises:
        InputError: if a run was trained on another cohort, two of one name make one target, runs see a contrast at
            different accelerations, the protocol is unknown, or nothing is left to measure.
    """
    protocol = find_protocol(protocol)
    labels = [run.folder.name for run in runs]
    made = [(run.folder.name, name) for run in runs for name in run.method.targets]
    if len(set(made)) < len(made):
        raise InputError(f"runs of one name ({', '.join(labels)}) cannot stand in one table; rename a run folder")
    for run in runs:
        run.record.check_measurable(cohort, run.folder)
    contrasts = tuple(dict.fromkeys(name for run in runs for name in run.config.contrasts))
    acceleration = common_acceleration(runs)
    targets = {run.folder: (run.choose_target(target, {}),) if target else run.method.targets for run in runs}
    work = []
    for subject in cohort.subjects(split):
        shown = [name for name in contrasts if name in cohort.available(subject)]
        for name in shown:
            makers = [run for run in runs if name in targets[run.folder]]
            sources = tuple(source for source in shown if source != name)
            for given in subsets_of(sources) if subsets else [sources]:
                able = tuple(
                    run
                    for run in makers
                    if not run.method.reconstructs and run.method.needs.suffice(given, name, run.config.contrasts)
                )
                if able and given:
                    work.append(
                        Task(
                            cohort=cohort,
                            protocol=protocol,
                            subject=subject,
                            target=name,
                            sources=given,
                            whole=given == sources,
                            runs=able,
                            acceleration=acceleration,
                        )
                    )
            if mirrors := tuple(run for run in makers if run.method.reconstructs):
                work.append(
                    Task(
                        cohort=cohort,
                        protocol=protocol,
                        subject=subject,
                        target=name,
                        sources=(name,),
                        whole=True,
                        runs=mirrors,
                        acceleration=acceleration,
                    )
                )
    if not work:
        raise InputError(f"{cohort.folder}: no {split} subject has a target together with a source")
    return work


def subsets_of(sources: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """All sets of sources but the empty one, the smallest first."""
    for count in range(1, len(sources) + 1):
        yield from combinations(sources, count)


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
    *,
    target: str,
    seed: int,
    samples: Sequence[int | None] = (0,),
    change: Callable[[torch.Tensor], torch.Tensor] | None = None,
    given: Sequence[str] | None = None,
    crop: Crop | None = None,
    report: Report | None = None,
) -> tuple[list[Sample], tuple[str, ...]]:
    """A prepared subject's target from its other contrasts, or, by a run that reconstructs, from itself.

    Args:
        run: what makes it.
        cohort: where the subject is.
        subject: its name.
        target: what to make.
        seed: of the noise.
        samples: numbers of the samples to draw; None: the mean, by a run that gives it (`Method.gives_mean`).
        change: what is done first to the contrasts (1, K, X, Y, Z) in [0, 1].
        given: the contrasts that may be read, None for all.
        crop: where a test subject is cropped (`Task.crop`), None for the crop on all its scans.
        report: told of the network calls that are done.

    Returns:
        The samples, and the contrasts that they are made from.
    """
    wants_tissue = run.method.needs.tissue
    run.method.needs.check_voxels(cohort.spacing(subject, target), f"{cohort.folder}: {subject}")
    stored = change is None or OWN_MASK in cohort.masks(subject)
    batch = whole_subject(
        cohort,
        subject,
        run.config.contrasts,
        acceleration=run.config.data.acceleration,
        tissue=wants_tissue and stored,
        crop=crop,
    )
    images = from_network(batch["images"])
    if change is not None:
        images = change(images)
    contrasts = run.config.contrasts
    available = batch["available"] & sources_for(
        target, contrasts, reconstructs=run.method.reconstructs, among=given or contrasts
    )
    sources = tuple(name for k, name in enumerate(run.config.contrasts) if available[0, k])
    if not sources:
        raise InputError(f"{subject}: no source for {target} among {', '.join(run.config.contrasts)}")
    tissue = batch.get("tissue")
    if wants_tissue and tissue is None:  # of the changed images, which are all that the run may know
        tissue = run.segmented(images, available, cohort.affine(subject, sources[0]))
    made = []
    for part, sample in enumerate(samples):
        noise = Noise([(seed, subject, sample or 0)], run.device)
        told, realism = one_of(report, part, len(samples)), float(sample is not None)
        made.append(run.make(images, available, target, noise=noise, report=told, tissue=tissue, realism=realism))
    return made, sources
