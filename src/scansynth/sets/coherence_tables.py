"""Slice coherence as tables and a picture."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scansynth.errors import InputError
from scansynth.evaluation.tables import csv_text
from scansynth.files import write_text
from scansynth.metrics.montage import BANNER, write_png
from scansynth.sets.coherence import Coherence, Ratio


def write_coherence(results: Sequence[Coherence], folder: Path) -> None:
    """Write `coherence.md`, `coherence.csv` (a line a set) and `coherence.json` (with the steps by slice).

    Raises:
        InputError: without results.
    """
    if not results:
        raise InputError("there is no coherence to write")
    records = [_record(one) for one in results]
    write_text(folder / "coherence.csv", csv_text(records))
    profiles = [
        {**_plain(record), "steps": one.steps.tolist(), "real_steps": one.real_steps.tolist()}
        for record, one in zip(records, results, strict=True)
    ]
    write_text(folder / "coherence.json", json.dumps(profiles, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    lines = [
        "| set | volumes | all / real | at borders | inside stages | border / inside | border / real "
        "| excess over real |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in results:
        cells = [one.label.replace("|", "\\|"), str(one.volumes), _text(one.overall)]
        if one.at_borders is None:
            cells += [""] * 5
        else:
            found = one.at_borders
            cells += [f"{found.border:.5f}", f"{found.inside:.5f}"]
            cells += [_text(ratio) for ratio in (found.to_inside, found.to_real, found.excess)]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "Mean absolute differences of neighbouring axial slices, intensities 0 to 1. In brackets: 95 % bootstrap "
        "intervals over volumes. Excess: border over inside in the set, over the same in the real volumes; 1 where "
        "borders cannot be seen.",
        "",
        *(f"- {one.label}: {one.verdict()}" for one in results),
    ]
    write_text(folder / "coherence.md", "\n".join(lines) + "\n")


def _text(ratio: Ratio) -> str:
    return f"{ratio.value:.3f} ({ratio.interval[0]:.3f} to {ratio.interval[1]:.3f})"


def _record(one: Coherence) -> dict[str, object]:
    found = one.at_borders
    ratios = {"to_real": one.overall} | (
        {"border_to_inside": found.to_inside, "border_to_real": found.to_real, "excess": found.excess}
        if found
        else dict.fromkeys(("border_to_inside", "border_to_real", "excess"))
    )
    record: dict[str, object] = {
        "label": one.label,
        "n_volumes": one.volumes,
        "real": one.real,
        "n_real": one.real_volumes,
        "borders": " ".join(map(str, found.slices)) if found else "",
        "border": found.border if found else None,
        "inside": found.inside if found else None,
    }
    for name, ratio in ratios.items():
        low, high = ratio.interval if ratio else (None, None)
        record |= {name: ratio.value if ratio else None, f"{name}_low": low, f"{name}_high": high}
    return record


def _plain(record: dict[str, object]) -> dict[str, object]:
    """JSON knows no NaN."""
    return {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in record.items()}


def plot_coherence(results: Sequence[Coherence], folder: Path) -> Path:
    """Write `coherence.png`: steps along the slices, a line a set, the real volumes black; dots at stage borders.

    Args:
        results: of sets that were held against one real set, at least one.
        folder: where to.
    """
    figure = Figure(figsize=(8, 4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    slices = np.arange(1, len(results[0].steps) + 1)
    axes.plot(slices, results[0].real_steps, color="black", label=f"{results[0].real} ({results[0].real_volumes})")
    colours = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.8, len(results)))
    for one, colour in zip(results, colours, strict=True):
        axes.plot(slices, one.steps, color=colour, label=f"{one.label} ({one.volumes})")
        if one.at_borders:
            at = np.array(one.at_borders.slices)
            axes.plot(at, one.steps[at - 1], "o", color=colour, markersize=4)
    axes.set_xlabel("axial slice")
    axes.set_ylabel("mean |difference| to the slice below")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.suptitle(BANNER, fontsize=9)
    canvas.draw()
    path = folder / "coherence.png"
    folder.mkdir(parents=True, exist_ok=True)
    write_png(path, np.asarray(canvas.buffer_rgba())[:, :, :3].copy(), "slice coherence")
    return path
