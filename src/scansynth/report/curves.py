"""Training curves of runs, from the `metrics.jsonl` of their folders."""

import io
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from scansynth.evaluation.plots import MARKERS
from scansynth.training.metrics_file import read_metrics

POINTS = 200
"""Of a curve; of more, neighbours are averaged."""
COLUMNS = 3
"""Panels of losses beside each other."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
"""Told apart by the colour-blind (Okabe and Ito); line styles and markers tell them apart too."""
STYLES = ("-", "--", "-.", ":")

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Figure → steps and values."""


def read_curves(run: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Losses and validation figures of a run by step; none where its folder has no `metrics.jsonl`.

    Keys are `<player>/<loss>` and `validation/<target>/<figure>`.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for step, figures in read_metrics(run / "metrics.jsonl"):
        for name, value in figures.items():
            if "/" in name:
                points.setdefault(name, []).append((step, value))
    return {name: (np.array(pairs)[:, 0], np.array(pairs)[:, 1]) for name, pairs in points.items()}


def validation_plot(runs: Mapping[str, Curves]) -> str | None:
    """An SVG picture of the validation figures, a panel a target and figure, a line a run; None where there are none.

    Args:
        runs: curves by run.
    """
    parts = [name.split("/") for curves in runs.values() for name in curves if name.startswith("validation/")]
    panels = list(dict.fromkeys(tuple(part[1:]) for part in parts if len(part) == 3))
    if not panels:
        return None
    targets, figures = (list(dict.fromkeys(panel[place] for panel in panels)) for place in (0, 1))
    figure = Figure(figsize=(5.2 * len(figures), 2.7 * len(targets) + 0.5), layout="constrained")
    for row, target in enumerate(targets):
        for column, name in enumerate(figures):
            axes = figure.add_subplot(len(targets), len(figures), row * len(figures) + column + 1)
            for number, (run, curves) in enumerate(runs.items()):
                if found := curves.get(f"validation/{target}/{name}"):
                    _line(axes, *found, name=run, number=number, marker=MARKERS[number % len(MARKERS)])
            unit = {"psnr": "PSNR (dB)", "ssim": "SSIM (%)"}.get(name, name)
            _finish(axes, f"{target}: validation {unit}", unit)
    return _svg(figure)


def loss_plot(runs: Mapping[str, Curves]) -> str | None:
    """An SVG picture of the training losses, a panel a run, a line a loss; None where there are none."""
    losses = {
        run: {name: curve for name, curve in curves.items() if not name.startswith("validation/")}
        for run, curves in runs.items()
    }
    losses = {run: curves for run, curves in losses.items() if curves}
    if not losses:
        return None
    columns = min(COLUMNS, len(losses))
    rows = -(-len(losses) // columns)
    figure = Figure(figsize=(max(5.2, 10.4 / columns) * columns, 3.2 * rows), layout="constrained")
    for place, (run, curves) in enumerate(losses.items()):
        axes = figure.add_subplot(rows, columns, place + 1)
        for number, (name, (steps, values)) in enumerate(curves.items()):
            _line(axes, steps, values, name=name, number=number)
        _finish(axes, run, "loss")
    return _svg(figure)


def thinned(values: np.ndarray) -> np.ndarray:
    """At most `POINTS` values, (n,): means of neighbours."""
    if len(values) <= POINTS:
        return values
    return np.array([part.mean() for part in np.array_split(values, POINTS)])


def _line(axes: Axes, steps: np.ndarray, values: np.ndarray, *, name: str, number: int, marker: str = "") -> None:
    # A name that begins with _ would be left out of the legend, and $ would begin mathematics.
    label = ("\u200b" if name.startswith("_") else "") + name.replace("$", r"\$")
    axes.plot(
        thinned(steps), thinned(values), STYLES[number % len(STYLES)], marker=marker, markersize=4, linewidth=1.4,
        color=COLOURS[number % len(COLOURS)], label=label,
    )  # fmt: skip


def _finish(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.set_xlabel("training step", fontsize=9)
    axes.set_ylabel(unit, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _svg(figure: Figure) -> str:
    stream = io.BytesIO()
    FigureCanvasSVG(figure)
    # Identifiers from the content and no date: one input makes one file.
    with matplotlib.rc_context({"svg.hashsalt": "scansynth"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue().decode("utf-8")
