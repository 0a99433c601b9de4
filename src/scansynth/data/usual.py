"""What scans of one contrast are usually like: figures, voxels, skull, and how they look from afar."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scansynth.data.appearance import Pattern
from scansynth.data.scan_facts import ScanFacts

LARGEST_BRAIN = 2000.0
"""Millilitres: no brain with its fluid fills more."""

FIGURES: dict[str, Callable[[ScanFacts], float]] = {
    "contrast inside the head": lambda one: (one.quartiles[2] - one.quartiles[0]) / _above(one),
    "brightness of the brightest tissue": lambda one: (one.top - one.background) / _above(one),
    "volume of the head": lambda one: one.head_ml,
}
"""What scans of one contrast have in common, whatever the scanner's gain."""


def _above(scan: ScanFacts) -> float:
    return max(scan.quartiles[1] - scan.background, 1e-9)


def has_skull(scan: ScanFacts) -> bool:
    """Whether a scan shows more than a brain."""
    return scan.head_ml > LARGEST_BRAIN


def deviation_of(values: np.ndarray) -> float:
    """A robust standard deviation, at least a twentieth of the median: few scans may agree by chance."""
    usual = float(np.median(values))
    return max(1.4826 * float(np.median(np.abs(values - usual))), 0.05 * abs(usual), 1e-9)


@dataclass(frozen=True)
class Usual:
    """What the training scans of a contrast are usually like; it travels with the run."""

    figures: dict[str, tuple[float, float]]
    """Name in `FIGURES` → median and robust standard deviation."""
    spacing: tuple[float, float, float]
    """mm, median."""
    with_skull: float
    """Share of the scans."""
    scans: int
    pattern: Pattern | None = None
    """What they look like from afar; none of few scans, or of an older version's run."""

    @classmethod
    def of(cls, scans: Sequence[ScanFacts], pattern: Pattern | None = None) -> "Usual":
        """From the training scans of one contrast, at least one, and their pattern."""
        figures = {}
        for name, figure in FIGURES.items():
            values = np.array([figure(one) for one in scans])
            figures[name] = (float(np.median(values)), deviation_of(values))
        x, y, z = np.median([one.spacing for one in scans], axis=0).tolist()
        return cls(figures, (x, y, z), sum(map(has_skull, scans)) / len(scans), len(scans), pattern)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Usual":
        """From JSON values."""
        x, y, z = values["spacing"]
        figures = {name: (float(middle), float(deviation)) for name, (middle, deviation) in values["figures"].items()}
        pattern = Pattern.read(values["pattern"]) if values.get("pattern") else None
        return cls(figures, (x, y, z), values["with_skull"], values["scans"], pattern)
