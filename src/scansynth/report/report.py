"""`report.html`: tables, curves, pictures and a viewer in one file, which a browser opens from disk.

Browsers block requests and modules on pages from disk, so everything is embedded: volumes as text (`volumes.py`),
pictures as data, NiiVue and the page's own scripts as classic scripts. A content policy in the page forbids all
requests and all scripts but those; what is written by users (names of subjects and runs) is escaped besides.
"""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scansynth.evaluation.acceleration import acceleration_note
from scansynth.evaluation.comparison import Comparison
from scansynth.evaluation.downstream import Dice
from scansynth.evaluation.evaluate import Evaluation
from scansynth.evaluation.tables import COPIED_SOURCE
from scansynth.files import write_text
from scansynth.methods import METHODS
from scansynth.report.curves import loss_plot, read_curves, validation_plot
from scansynth.report.figures import dice_table, difference_table, main_table, subject_tables, training_table
from scansynth.report.methods_text import run_text
from scansynth.report.page import pictures, render
from scansynth.report.viewer import Viewer
from scansynth.report.volumes import LARGEST
from scansynth.synthesis.run import Run


def write_report(
    evaluation: Evaluation,
    runs: Sequence[Run],
    out: Path,
    *,
    comparison: Comparison | None = None,
    largest: int = LARGEST,
    noise: bool = False,
    dice: Sequence[Dice] = (),
    notes: Sequence[str] = (),
    links: Mapping[str, str] | None = None,
) -> Path:
    """Write `report.html` beside the tables and pictures of an evaluation, which it takes up.

    Args:
        evaluation: what was measured.
        runs: the runs that were measured; their folders hold the training curves.
        out: the folder that `write_evaluation` has written into, with the plots of the comparison where there is one.
        comparison: the runs held against each other.
        largest: characters that embedded volumes may take; subjects beyond them are in the montages only.
        noise: whether the folder has `noise.png` of this evaluation.
        dice: what a segmenter found.
        notes: what else the reader must know beside `evaluation.notes`, each a sentence.
        links: to pages that belong to this one: path from its folder → what it is.

    Returns:
        The file.
    """
    protocol = evaluation.protocol
    viewer = Viewer.of(evaluation.shown, largest)
    curves = {name: read_curves(run.folder) for name, run in _named(runs).items()}
    targets = list(dict.fromkeys(result.target for result in evaluation.results))
    measured = _listed(list(dict.fromkeys(run.folder.name for run in runs)))
    sections = [section for one in evaluation.figures if not one.empty and (section := one.section())]
    page = render(
        "report.html.j2",
        viewer.scripts,
        title=f"{'Comparison' if comparison else 'Evaluation'} of {measured}",
        protocol=protocol,
        evaluation=evaluation,
        subjects=list(dict.fromkeys(result.subject for result in evaluation.results)),
        targets=targets,
        links=links or {},
        texts=[(name, run_text(run)) for name, run in _named(runs).items()],
        runs=[_described(name, run) for name, run in _named(runs).items()],
        table=main_table(evaluation.results, protocol, evaluation.costs, comparison),
        table_notes=[*evaluation.notes, *notes],
        differences=difference_table(comparison) if comparison else None,
        trainings=training_table(comparison) if comparison else None,
        subject_tables=subject_tables(evaluation.results, protocol),
        subject_plots=pictures(out, {f"subjects_{target}.png": target for target in targets}) if comparison else [],
        sections=[(section, pictures(out, section.plots)) for section in sections],
        noise=pictures(out, {"noise.png": "noise"}) if noise else [],
        dice=dice_table(dice),
        acceleration=acceleration_note(evaluation.acceleration),
        validation=_embedded(validation_plot(curves)),
        losses=_embedded(loss_plot(curves)),
        without_curves=[name for name, found in curves.items() if not found],
        montages=_montages(evaluation, out),
        **viewer.values,
    )
    path = out / "report.html"
    write_text(path, page)
    return path


def _named(runs: Sequence[Run]) -> dict[str, Run]:
    """Runs by their folders' names; where two have one, which then make different targets, with these."""
    names = [run.folder.name for run in runs]
    return {
        name if names.count(name) == 1 else f"{name} to {', '.join(run.method.targets)}": run
        for name, run in zip(names, runs, strict=True)
    }


def _described(name: str, run: Run) -> dict[str, Any]:
    variant = getattr(run.config.settings, "variant", None)
    return {
        "name": name,
        "method": f"{run.config.method}, {variant}" if variant else run.config.method,
        "citation": METHODS[run.config.method].citation,
        "contrasts": ", ".join(run.config.contrasts),
        "step": run.weights["training_step"],
        "chosen": run.chosen,
        "weights": run.weights["sha256"][:16],
    }


def _montages(evaluation: Evaluation, out: Path) -> list[tuple[str, list[tuple[str, str]]]]:
    """Pictures (what they show, data) by subject and target."""
    groups = []
    for shown in evaluation.shown:
        names = {
            shown.montage(result.label): f"{result.label}: {result.direction}"
            for result in evaluation.results
            if (result.subject, result.target) == (shown.subject, shown.target) and result.label != COPIED_SOURCE
        }
        if found := pictures(out, names, smaller=True):
            groups.append((f"{shown.subject}, {shown.target}", found))
    return groups


def _embedded(svg: str | None) -> str | None:
    return svg and f"data:image/svg+xml;base64,{base64.b64encode(svg.encode('utf-8')).decode('ascii')}"


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
