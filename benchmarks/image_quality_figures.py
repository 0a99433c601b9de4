"""Figures of what `image_quality.py` has drawn: one draw, the mean, jumps between slices, and coverage of intervals.

Protocol `default` against the truth on the crop of the source alone. Coverage is that of the 90 % interval of several
draws' mean and deviation, as `evaluate --samples` gives it, before anything is calibrated.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from scansynth.data.cohort import Cohort
from scansynth.data.datasets import read_image
from scansynth.metrics.cases import Case, brain
from scansynth.metrics.coherence import jumps
from scansynth.metrics.image_metrics import GRADIENT_ENERGY, PSNR, SSIM
from scansynth.metrics.protocols import measure
from scansynth.metrics.uncertainty import LEVELS, uncertainty

FIGURES = {"psnr_db": PSNR.column, "ssim_percent": SSIM.column, "gradient_energy": GRADIENT_ENERGY.column}
NOMINAL = 0.9


def copied(cohort: Cohort, source: str, target: str, count: int | None = None) -> dict[str, Any]:
    """The source in the target's place, of the first `count` test subjects; None: of all."""
    pairs = zip(read(cohort, source, source, count), read(cohort, source, target, count), strict=True)
    return {"draw": summary([of_image(image, truth) for image, truth in pairs])}


def figures(place: Path, cohort: Cohort, source: str, target: str, count: int | None = None) -> dict[str, Any]:
    """Means over the first `count` test subjects, or all, of what was drawn in a folder."""
    draws, means, averaged, covered = [], [], [], []
    for truth, kept in zip(read(cohort, source, target, count), drawn(place), strict=True):
        draws.append(of_image(kept["draws"][0], truth))
        if "mean" in kept:
            means.append(of_image(kept["mean"], truth))
        if len(kept["draws"]) > 1:
            mean = kept["draws"].mean(0)
            averaged.append(of_image(mean, truth))
            found = uncertainty(kept["draws"], truth, brain(Case(mean, truth)))
            covered.append(found.coverage[LEVELS.index(NOMINAL)])
    rows = {"draw": draws, "mean": means, "mean_of_draws": averaged}
    result = json.loads((place / "drawn.json").read_text()) | {
        name: summary(found) for name, found in rows.items() if found
    }
    return result | ({"coverage_of_90_percent": round(float(np.mean(covered)), 3)} if covered else {})


def read(cohort: Cohort, source: str, contrast: str, count: int | None = None) -> Iterator[np.ndarray]:
    """A contrast of test subjects, on the crop of the source alone, which the syntheses are on."""
    for subject in cohort.subjects("test")[:count]:
        yield read_image(cohort, subject, contrast, acceleration=(), crop=cohort.crop(subject, (source,))).numpy()


def of_image(image: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """PSNR, SSIM, gradient energy, and jumps along the slices over those in the plane."""
    found = measure("default", image, truth)
    own = {name: found.mean(column) for name, column in FIGURES.items()}
    steps = jumps(image, truth, brain(Case(image, truth)))
    return own | {"jumps": steps.slices, "jumps_over_plane": steps.excess}


def summary(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Mean over subjects; of gradient energy the geometric one."""
    return {
        name: round(float(np.exp(np.mean(np.log(values))) if name == "gradient_energy" else np.mean(values)), 4)
        for name, values in ((name, [row[name] for row in rows]) for name in rows[0])
    }


def drawn(place: Path) -> Iterator[dict[str, np.ndarray]]:
    """What was kept, in the order of the test subjects."""
    for path in sorted(place.glob("[0-9][0-9].npz")):
        with np.load(path, allow_pickle=False) as file:
            yield dict(file)
