"""How much a stochastic method's samples differ, and what averaging them brings (CG-DDPM, sections 3.2 and 3.4).

*Uncertainty* is the standard deviation of the samples, averaged over the volume. *MC-n* is the MS-SSIM of the mean of
the first n samples, *N-MSSIM* that over its maximum over n, and *inconsistency* the standard deviation of N-MSSIM over
n = 1 … N: by subject, then averaged.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scansynth.data.datasets import Acceleration, to_network
from scansynth.errors import InputError
from scansynth.evaluation.acceleration import acceleration_text
from scansynth.evaluation.plots import MARKERS
from scansynth.evaluation.tables import csv_text, spread_of, spread_text
from scansynth.files import write_text

Key = tuple[str, str, str]
"""Run, direction and subject."""
NOTE = (
    "Uncertainty: mean standard deviation of the samples in [−1, 1]. MC-n: of the mean of n samples. Inconsistency: "
    "standard deviation over n of MC-n over its maximum."
)


@dataclass(frozen=True)
class Consistency:
    """Of one subject's samples."""

    uncertainty: float
    """Mean over all voxels, padding included, of the samples' standard deviation in [−1, 1]."""
    averaged: tuple[float, ...]
    """MC-1 … MC-N, in per cent."""

    @property
    def normalised(self) -> tuple[float, ...]:
        """N-MSSIM of MC-1 … MC-N, at most 1; NaN where no MC-n is above 0 (such are samples of no training)."""
        most = max(self.averaged)
        return tuple(value / most if most > 0 else math.nan for value in self.averaged)

    @property
    def inconsistency(self) -> float:
        """Sample standard deviation of N-MSSIM over n."""
        return float(np.std(self.normalised, ddof=1))


def consistency(samples: np.ndarray, ms_ssim: Callable[[np.ndarray], float]) -> Consistency:
    """Measure the samples of one subject.

    Args:
        samples: (N, X, Y, Z) in [0, 1], N ≥ 2.
        ms_ssim: of a synthesis (X, Y, Z), in per cent.

    Raises:
        InputError: for fewer than two samples.
    """
    if len(samples) < 2:
        raise InputError("consistency needs at least two samples of a subject: draw more with --samples")
    averaged = tuple(ms_ssim(samples[:count].mean(0)) for count in range(1, len(samples) + 1))
    return Consistency(float(to_network(samples).std(0, ddof=1).mean()), averaged)


def write_consistency(found: Mapping[Key, Consistency], folder: Path, acceleration: Acceleration = ()) -> None:
    """Write `consistency.md`, `consistency.csv` (a line a subject) and `consistency.png` (MC-n)."""
    records = [
        {
            "label": label,
            "direction": direction,
            "subject": subject,
            "acceleration": acceleration_text(acceleration),
            "uncertainty": one.uncertainty,
            "inconsistency": one.inconsistency,
            **{f"mc_{n}_ms_ssim_percent": value for n, value in enumerate(one.averaged, 1)},
        }
        for (label, direction, subject), one in found.items()
    ]
    write_text(folder / "consistency.csv", csv_text(records))
    write_text(folder / "consistency.md", markdown(found))
    _plot(by_direction(found), folder / "consistency.png")


def headings(found: Mapping[Key, Consistency]) -> list[str]:
    """Of the figures of `spreads`."""
    most = max(len(one.averaged) for one in found.values())
    return ["uncertainty", "inconsistency", *(f"MC-{n} MS-SSIM (%)" for n in range(1, most + 1))]


def spreads(group: Sequence[Consistency]) -> list[str]:
    """Each figure's mean ± standard deviation over subjects."""
    values = [([one.uncertainty for one in group], 5), ([one.inconsistency for one in group], 5)]
    values += [(list(averaged), 2) for averaged in zip(*[one.averaged for one in group], strict=True)]
    return [spread_text(spread_of(numbers), digits) for numbers, digits in values]


def by_direction(found: Mapping[Key, Consistency]) -> dict[tuple[str, str], list[Consistency]]:
    """By run and direction, over subjects."""
    groups: dict[tuple[str, str], list[Consistency]] = {}
    for (label, direction, _), one in found.items():
        groups.setdefault((label, direction), []).append(one)
    return groups


def markdown(found: Mapping[Key, Consistency]) -> str:
    """A row a run and direction: mean ± standard deviation over subjects."""
    heads = headings(found)
    lines = [
        f"{NOTE} By subject; mean ± standard deviation over subjects.",
        "",
        f"| method | direction | subjects | {' | '.join(heads)} |",
        f"| --- | --- | ---: |{' ---: |' * len(heads)}",
    ]
    for (label, direction), group in by_direction(found).items():
        name = label.replace("|", "\\|")
        lines.append(f"| {name} | {direction} | {len(group)} | {' | '.join(spreads(group))} |")
    return "\n".join(lines) + "\n"


def _plot(groups: Mapping[tuple[str, str], Sequence[Consistency]], path: Path) -> None:
    """N-MSSIM by the number of samples (CG-DDPM, Fig. 4), a line a run, a panel a direction."""
    directions = list(dict.fromkeys(direction for _, direction in groups))
    figure = Figure(figsize=(4.5 * len(directions), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for place, direction in enumerate(directions):
        axes = figure.add_subplot(1, len(directions), place + 1)
        own = [(label, group) for (label, other), group in groups.items() if other == direction]
        for number, (label, group) in enumerate(own):
            means = np.mean([one.normalised for one in group], axis=0)
            axes.plot(range(1, len(means) + 1), means, marker=MARKERS[number % len(MARKERS)], label=label)
        axes.set_xlabel("samples that are averaged")
        axes.set_ylabel("N-MSSIM")
        axes.set_title(direction, fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
