"""Runs on a prepared cohort's split: synthesis against truth, under a protocol, as tables and pictures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from scansynth.data.cohort import Cohort
from scansynth.data.datasets import from_network, read_image, whole_subject
from scansynth.errors import InputError
from scansynth.evaluation.costs import Cost, measured_cost, typical
from scansynth.evaluation.montage import montage
from scansynth.evaluation.plots import plot_sparsification
from scansynth.evaluation.protocols import Case, brain, find_protocol, measure
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
    protocol: str
    split: str
    seed: int
    """Of the noise."""
    samples: int
    """Drawn for each image of a stochastic method."""


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
    find_protocol(protocol)
    if samples < 1:
        raise InputError(f"samples {samples}: draw at least one")
    labels = [run.folder.name for run in runs]
    if len(set(labels)) < len(labels):
        raise InputError(f"runs of one name ({', '.join(labels)}) cannot stand in one table; rename a run folder")
    for run in runs:
        run.record.check_same(cohort, run.folder)
    contrasts = tuple(dict.fromkeys(name for run in runs for name in run.config.contrasts))
    acceleration = common_acceleration(runs)
    targets = {run.folder: (run.choose_target(target, {}),) if target else run.method.targets for run in runs}
    work = [
        (subject, name)
        for subject in cohort.subjects(split)
        for name in contrasts
        if any(name in targets[run.folder] for run in runs)
        and name in cohort.available(subject)
        and len(set(cohort.available(subject)) & set(contrasts)) > 1
    ]
    if not work:
        raise InputError(f"{cohort.folder}: no {split} subject has a target together with a source")
    results: list[Result] = []
    spreads: dict[tuple[str, str, str], Uncertainty] = {}
    costs: dict[str, list[Cost]] = {label: [] for label in labels}
    drawn = list(dict.fromkeys(subject for subject, _ in work))[:pictures]
    shown: list[Shown] = []
    done, total = 0, sum(name in targets[run.folder] for _, name in work for run in runs)
    for subject, name in work:
        truth = read_image(cohort, subject, name, acceleration).numpy()
        masks = {mask: cohort.read_mask(subject, mask) for mask in cohort.masks(subject)}
        statistics = cohort.statistics[name]
        take = partial(
            measure,
            protocol,
            reference=truth,
            masks=masks,
            to_units=statistics.to_units if statistics.unit == "HU" else None,
        )
        syntheses: dict[str, np.ndarray] = {}
        deviations: dict[str, np.ndarray] = {}
        copies = [source for source in contrasts if source != name and source in cohort.available(subject)]
        for source in copies:
            figures = take(read_image(cohort, subject, source, acceleration).numpy())
            results.append(Result(COPIED_SOURCE, (source,), name, subject, figures))
        for run, label in zip(runs, labels, strict=True):
            if name not in targets[run.folder]:
                continue
            count = samples if run.method.stochastic else 1
            parameters = sum(parameter.numel() for parameter in run.method.parameters())
            (drawings, sources), cost = measured_cost(
                lambda run=run, subject=subject, name=name, count=count: synthesise(
                    run, cohort, subject, name, seed, count
                ),
                run.device,
                parameters,
            )
            costs[label].append(cost)
            synthesis = drawings.mean(0)
            if count > 1:
                mask = brain(Case(synthesis, truth, masks))
                direction = f"{'+'.join(sources)}→{name}"
                spreads[label, direction, subject] = uncertainty(drawings, truth, mask)
            results.append(Result(label, sources, name, subject, take(synthesis)))
            syntheses[label] = synthesis
            if count > 1:
                deviations[label] = drawings.std(0, ddof=1)
            done += 1
            if report:
                report(done, total, f"{label} {subject} {name}")
        if subject in drawn:
            sources = {source: read_image(cohort, subject, source, acceleration).numpy() for source in copies}
            shown.append(Shown(subject, name, cohort.affine(subject, name), truth, sources, syntheses, deviations))
            draw(shown[-1], results, out)
    write_tables(results, out, protocol)
    if spreads:
        write_uncertainty(spreads, out)
        plot_sparsification(spreads, out)
    taken = {label: typical(found) for label, found in costs.items() if found}
    return Evaluation(results, taken, spreads, shown, protocol, split, seed, samples)


def draw(shown: Shown, results: Sequence[Result], out: Path) -> None:
    """Write a montage for each run of a subject."""
    out.mkdir(parents=True, exist_ok=True)
    for result in results:
        if (result.subject, result.target) == (shown.subject, shown.target) and result.label in shown.syntheses:
            montage(
                out / shown.montage(result.label),
                {source: shown.sources[source] for source in result.sources},
                shown.syntheses[result.label],
                shown.truth,
                shown.spacing,
                f"{result.label}: {result.direction}",
                shown.subject,
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
    run: Run, cohort: Cohort, subject: str, target: str, seed: int, samples: int = 1
) -> tuple[np.ndarray, tuple[str, ...]]:
    """A prepared subject's target from its other contrasts.

    Returns:
        Samples (S, X, Y, Z) in [0, 1], and the contrasts that they are made from.
    """
    batch = whole_subject(cohort, subject, run.config.contrasts, run.config.data.acceleration)
    index = run.config.contrasts.index(target)
    images, available = from_network(batch["images"]), batch["available"].clone()
    available[:, index] = False
    images[:, index] = 0.0
    sources = tuple(name for k, name in enumerate(run.config.contrasts) if available[0, k])
    if not sources:
        raise InputError(f"{subject}: no source for {target} among {', '.join(run.config.contrasts)}")
    keys = [(seed, subject, sample) for sample in range(samples)]
    made = [run.make(images, available, target, Noise([key], run.device)) for key in keys]
    return np.stack(made), sources
