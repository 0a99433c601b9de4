"""Plots of figures by subject, and of what uncertainty tells of errors."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scansynth.evaluation.tables import Result
from scansynth.metrics.protocols import Protocol, find_protocol
from scansynth.metrics.uncertainty import LEVELS, Uncertainty

COLUMNS = 3
"""Figures beside each other."""
MARKERS = "osD^vP*X"
"""Of lines, so that they are told apart without their colours."""


def plot_subjects(results: Sequence[Result], protocol: str | Protocol, folder: Path) -> list[Path]:
    """Write `subjects_<target>.png`: a panel a metric, a line a subject, a place a method.

    A line that rises from one method to the next is a subject for whom the second has the higher figure.

    Args:
        results: of all methods.
        protocol: which they were measured with.
        folder: where to.

    Returns:
        The files.
    """
    definition = find_protocol(protocol)
    paths = []
    for target in dict.fromkeys(result.target for result in results):
        own = [result for result in results if result.target == target]
        methods = list(dict.fromkeys((result.label, result.direction) for result in own))
        columns = list(definition.columns)
        rows = -(-len(columns) // COLUMNS)
        figure = Figure(figsize=(4 * COLUMNS, 3.2 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        colours = matplotlib.colormaps["viridis"]
        subjects = list(dict.fromkeys(result.subject for result in own))
        for place, column in enumerate(columns):
            axes = figure.add_subplot(rows, COLUMNS, place + 1)
            for number, subject in enumerate(subjects):
                points = [
                    (methods.index((result.label, result.direction)), result.measurement.mean(column))
                    for result in own
                    if result.subject == subject
                ]
                shade = colours(0.9 * number / max(1, len(subjects) - 1))
                axes.plot(*zip(*sorted(points), strict=True), marker="o", markersize=4, linewidth=1, color=shade)
            several = len({direction for _, direction in methods}) > 1
            names = [f"{label}\n{direction}" if several else label for label, direction in methods]
            axes.set_xticks(range(len(methods)), names, fontsize=7, rotation=20, ha="right")
            axes.set_ylabel(definition.heading(column), fontsize=9)
            axes.grid(alpha=0.3)
        figure.suptitle(
            f"{target}: {len(subjects)} subjects, protocol {definition.name} {definition.version}", fontsize=11
        )
        path = folder / f"subjects_{target}.png"
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
        paths.append(path)
    return paths


def plot_sparsification(spreads: Mapping[tuple[str, str, str], Uncertainty], folder: Path) -> Path:
    """Write `sparsification.png`: for each run and direction the two curves and the coverage, means over subjects.

    Args:
        spreads: by run, direction and subject.
        folder: where to.
    """
    groups: dict[tuple[str, str], list[Uncertainty]] = {}
    for (label, direction, _), found in spreads.items():
        groups.setdefault((label, direction), []).append(found)
    figure = Figure(figsize=(9, 3.2 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    for row, ((label, direction), found) in enumerate(groups.items()):
        curves, coverage = (
            figure.add_subplot(len(groups), 2, 2 * row + 1),
            figure.add_subplot(len(groups), 2, 2 * row + 2),
        )
        for name, values, style in (
            ("most uncertain left out", [one.by_uncertainty for one in found], "-"),
            ("largest errors left out", [one.by_error for one in found], "--"),
        ):
            curves.plot(100 * found[0].fractions, np.mean(values, axis=0), style, label=name)
        curves.set_xlabel("voxels left out (%)")
        curves.set_ylabel("mean error of the rest")
        curves.set_title(f"{label}, {direction}", fontsize=9)
        curves.legend(fontsize=8)
        coverage.plot([0, 100], [0, 100], color="grey", linewidth=1)
        coverage.plot([100 * level for level in LEVELS], 100 * np.mean([one.coverage for one in found], axis=0), "o-")
        coverage.set_xlabel("nominal coverage (%)")
        coverage.set_ylabel("voxels covered (%)")
        coverage.set_title(f"{found[0].samples} samples, {len(found)} subjects", fontsize=9)
    path = folder / "sparsification.png"
    figure.savefig(path, dpi=120)
    return path
