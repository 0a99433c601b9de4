"""Plots of figures by subject."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scansynth.evaluation.tables import Result
from scansynth.metrics.protocols import Protocol, find_protocol

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
