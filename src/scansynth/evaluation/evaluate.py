"""Runs on a prepared cohort's split: synthesis against truth, under a protocol, as tables and pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scansynth.data.cohort import Cohort
from scansynth.errors import InputError
from scansynth.evaluation.observed import Observed, write_observed
from scansynth.evaluation.plots import plot_sparsification
from scansynth.evaluation.regions import RegionResult, measure_regions, write_regions
from scansynth.evaluation.samples import calls_left, draw
from scansynth.evaluation.shown import Shown
from scansynth.evaluation.tables import COPIED_SOURCE, Result, write_tables, write_uncertainty
from scansynth.evaluation.tasks import choose_work
from scansynth.metrics.cases import Case, brain
from scansynth.metrics.consistency import Consistency, consistency, write_consistency
from scansynth.metrics.montage import montage
from scansynth.metrics.protocols import Protocol, find_protocol
from scansynth.metrics.uncertainty import Uncertainty, uncertainty
from scansynth.progress import Parts, Report
from scansynth.synthesis.run import Run
from scansynth.training.costs import Cost, typical

MS_SSIM = "ms_ssim_percent"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured."""

    results: list[Result]
    costs: dict[str, Cost]
    """What the synthesis of a volume takes, by run."""
    uncertainty: dict[tuple[str, str, str], Uncertainty]
    """By run, direction and subject, where several samples were drawn."""
    consistency: dict[tuple[str, str, str], Consistency]
    """The same, under a protocol with MS-SSIM."""
    observed: dict[tuple[str, str, str], list[Observed]]
    """What methods saw of their own steps, of each sample."""
    shown: list[Shown]
    """Volumes of the first subjects, as many as pictures were asked for."""
    protocol: Protocol
    """What all was measured with."""
    regions: list[RegionResult]
    """Figures inside the subjects' masks, where they have some."""
    acceleration: Sequence[tuple[str, int]]
    """Of the contrasts, as all runs see them."""
    split: str
    seed: int
    """Of the noise."""
    samples: int
    """Drawn for each image of a stochastic method."""


def evaluate(
    runs: Sequence[Run],
    cohort: Cohort,
    out: Path,
    *,
    split: str = "test",
    protocol: str | Protocol = "default",
    target: str | None = None,
    seed: int = 0,
    pictures: int = 3,
    report: Report | None = None,
    samples: int = 1,
    kept: Path | None = None,
    subsets: bool = False,
) -> Evaluation:
    """Synthesise every target of every subject of a split, measure it, and measure the copied sources beside it.

    A test subject is cropped as the sources of each target alone would have it, as in translation (`Cohort.crop`).
    By default one sample is drawn for each image, as in the papers. Of several, the mean is measured, and their spread
    is held against its error. Accelerated contrasts are the low-resolution images that the
    runs know, as sources, as copied sources, as truth and in pictures. Written are `table.md`, `table.csv`,
    `slices.csv`, `table.json` and `montage_<run>_<subject>_<target>.png`; where subjects have masks also `regions.md`
    and `regions.csv`, with several samples `uncertainty.csv` and `sparsification.png`, under a protocol with MS-SSIM
    also `consistency.md`, `.csv` and `.png`; where a method observes its own steps, `observed.csv` and `.png`.

    Args:
        runs: trained on this cohort; named by their folders.
        cohort: the prepared cohort.
        out: folder to write into.
        split: which subjects.
        protocol: how to measure: a name, or a protocol with a further figure (`Protocol.with_metric`).
        target: one contrast, or None for all that the runs make.
        seed: of the noise.
        pictures: for how many subjects montages are made.
        report: told of the network calls that are done, and of which image ("run subject contrast").
        samples: to draw for each image of a stochastic method.
        kept: folder of samples: those that are there are read, others are put there. A stopped evaluation goes on.
        subsets: each target from every set of its sources, not only from all of them.

    Returns:
        All figures, and what each run's synthesis takes.

    Raises:
        InputError: if a run was trained on another cohort, runs see a contrast at different accelerations, or the split
            has no subject to measure.
    """
    if samples < 1:
        raise InputError(f"samples {samples}: draw at least one")
    protocol = find_protocol(protocol)
    work = choose_work(runs, cohort, split, protocol=protocol, target=target, subsets=subsets)
    acceleration = work[0].acceleration
    results: list[Result] = []
    regions: list[RegionResult] = []
    spreads: dict[tuple[str, str, str], Uncertainty] = {}
    consistencies: dict[tuple[str, str, str], Consistency] = {}
    observed: dict[tuple[str, str, str], list[Observed]] = {}
    costs: dict[str, list[Cost]] = {}
    pictured = list(dict.fromkeys(task.subject for task in work))[:pictures]
    shown: list[Shown] = []
    counts = {run.folder: samples if run.method.stochastic else 1 for run in runs}
    calls = {
        (number, run.folder, sample): calls_left(run, task, sample, kept=kept)
        for number, task in enumerate(work)
        for run in task.runs
        for sample in range(counts[run.folder])
    }
    parts = Parts(report, sum(calls.values()))
    for number, task in enumerate(work):
        subject, name = task.subject, task.target
        syntheses: dict[str, np.ndarray] = {}
        deviations: dict[str, np.ndarray] = {}
        truth, masks, take = task.truth(), task.masks(), task.measuring()
        for source in task.sources if task.whole and task.target not in task.sources else ():
            copied = task.read(source)
            results.append(Result(COPIED_SOURCE, (source,), name, subject, take(copied)))
            regions += measure_regions(results[-1], copied, truth, masks)
        for run in task.runs:
            label = run.folder.name
            drawn = []
            for sample in range(counts[run.folder]):
                with parts.part(calls[number, run.folder, sample], f"{label} {subject} {name}") as told:
                    drawn.append(draw(run, task, seed, sample=sample, kept=kept, report=told))
            costs.setdefault(label, []).extend(one.cost for one in drawn)
            images_drawn, sources = np.stack([one.image for one in drawn]), drawn[0].sources
            direction = f"{'+'.join(sources)}→{name}"
            if drawn[0].observed:
                observed[label, direction, subject] = [one.observed for one in drawn]
            synthesis = syntheses[label] = images_drawn.mean(0)
            if len(drawn) > 1:
                deviations[label] = images_drawn.std(0, ddof=1)
                mask = brain(Case(synthesis, truth, masks))
                spreads[label, direction, subject] = uncertainty(images_drawn, truth, mask)
                if MS_SSIM in protocol.columns:
                    alone = replace(task, protocol=protocol.only(MS_SSIM)).measuring()
                    consistencies[label, direction, subject] = consistency(
                        images_drawn, lambda image, alone=alone: alone(image).mean(MS_SSIM)
                    )
            results.append(Result(label, sources, name, subject, take(synthesis)))
            regions += measure_regions(results[-1], synthesis, truth, masks)
        if subject in pictured and task.whole:
            images = {source: task.read(source) for source in task.sources}
            shown.append(
                Shown(
                    subject=subject,
                    target=name,
                    affine=cohort.affine(subject, name, crop=task.crop),
                    truth=truth,
                    sources=images,
                    syntheses=syntheses,
                    deviations=deviations,
                )
            )
            write_montages(shown[-1], results, out)
    write_tables(results, out, protocol, acceleration=acceleration)
    if regions:
        write_regions(regions, results, out, acceleration=acceleration)
    if spreads:
        write_uncertainty(spreads, out, acceleration)
        plot_sparsification(spreads, out)
    if consistencies:
        write_consistency(consistencies, out, acceleration)
    if observed:
        write_observed(observed, out)
    taken = {label: typical(found) for label, found in costs.items()}
    return Evaluation(
        results=results,
        costs=taken,
        uncertainty=spreads,
        consistency=consistencies,
        observed=observed,
        shown=shown,
        protocol=protocol,
        regions=regions,
        acceleration=acceleration,
        split=split,
        seed=seed,
        samples=samples,
    )


def write_montages(shown: Shown, results: Sequence[Result], out: Path) -> None:
    """Write a montage for each run of a subject."""
    out.mkdir(parents=True, exist_ok=True)
    for result in results:
        if (result.subject, result.target) == (shown.subject, shown.target) and result.label in shown.syntheses:
            montage(
                out / shown.montage(result.label),
                {source: shown.sources[source] for source in result.sources},
                shown.syntheses[result.label],
                target=shown.truth,
                spacing=shown.spacing,
                title=f"{result.label}: {result.direction}",
                subject=shown.subject,
                uncertainty=shown.deviations.get(result.label),
            )
