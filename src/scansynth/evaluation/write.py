"""Files of an evaluation: tables, plots and montages."""

from collections.abc import Sequence
from pathlib import Path

from scansynth.evaluation.evaluate import Evaluation
from scansynth.evaluation.shown import Shown
from scansynth.evaluation.tables import Result, write_sites, write_tables
from scansynth.metrics.montage import montage


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write an evaluation's figures and pictures.

    Always `table.md`, `table.csv`, `slices.csv` (under protocols of slices) and `table.json`; where subjects are of
    several sites `sites.md` and `sites.csv`; of the subjects that are
    shown `montage_<run>_<subject>_<target>.png`; and what each kind of figure writes, where there are some: jumps
    between slices as `coherence.md` and `.csv`, of regions `regions.md` and `regions.csv`, of several samples
    `uncertainty.csv` and `sparsification.png`, under a protocol with MS-SSIM also `consistency.md`, `.csv` and `.png`,
    of methods that observe their own steps `observed.csv` and `.png`.

    Args:
        evaluation: what was measured.
        folder: where to; made if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tables(
        evaluation.results,
        folder,
        evaluation.protocol,
        acceleration=evaluation.acceleration,
        syntheses=evaluation.syntheses,
        notes=evaluation.notes,
        weights=evaluation.weights,
    )
    if evaluation.sites:
        write_sites(evaluation.results, folder, evaluation.protocol, evaluation.sites)
    for figures in evaluation.figures:
        if not figures.empty:
            figures.write(folder, acceleration=evaluation.acceleration)
    for shown in evaluation.shown:
        _write_montages(shown, evaluation.results, folder)


def _write_montages(shown: Shown, results: Sequence[Result], folder: Path) -> None:
    """A montage for each run of a subject."""
    for result in results:
        if (result.subject, result.target) == (shown.subject, shown.target) and result.label in shown.syntheses:
            montage(
                folder / shown.montage(result.label),
                {source: shown.sources[source] for source in result.sources},
                shown.syntheses[result.label],
                target=shown.truth,
                spacing=shown.spacing,
                title=f"{result.label}: {result.direction}",
                subject=shown.subject,
                uncertainty=shown.deviations.get(result.label),
            )
