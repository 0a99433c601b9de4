"""Intervals around syntheses, from how far they were off on validation subjects.

Conformal prediction (Vovk, Gammerman & Shafer, "Algorithmic Learning in a Random World", 2005), split and by region
(Mondrian): the score of a voxel is its absolute error over what the method itself says of its uncertainty, and the
quantile of the scores of held-out subjects makes an interval of it. Voxels of one subject resemble each other, so that
subjects count, not voxels: each has the same weight (as in Lee, Barber & Willett, "Distribution-free inference with
hierarchical data", 2023), and a level is given only where there are subjects enough for it.

Regions are known from the synthesis alone, as the truth is not there when an interval is wanted: the rim of the head,
and what is dark, middle and bright inside.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from scansynth.errors import InputError
from scansynth.metrics.cases import filled, foreground
from scansynth.metrics.uncertainty import LEVELS

REGIONS = ("rim", "dark", "middle", "bright")
RIM = 2
"""Voxels from the head's edge inwards, in the axial plane, that are its rim."""
FLOOR = 0.01
"""Added in squares to a deviation, in shares of the range [0, 1]: samples may all agree where they all err."""
MOST = 20_000
"""Voxels of a region of a subject that are counted, evenly spaced."""


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """What makes intervals of a run's syntheses."""

    levels: tuple[float, ...]
    """Nominal coverages that the subjects suffice for."""
    limits: tuple[float, float]
    """Intensities between dark, middle and bright, in [0, 1]."""
    factors: Mapping[str, tuple[float, ...]]
    """By region, for each level: half the interval's width over the deviation; where there is none, half its width."""
    subjects: int
    """Validation subjects that they come from."""
    sources: tuple[str, ...] = ()
    """Contrasts that the syntheses were made from: from others they err otherwise."""


def levels_for(subjects: int) -> tuple[float, ...]:
    """Levels that so many subjects tell of: of n, one more lies within what all did with a chance of n/(n + 1)."""
    return tuple(level for level in LEVELS if level <= subjects / (subjects + 1) + 1e-9)


def head(image: np.ndarray) -> np.ndarray:
    """Where a synthesis (X, Y, Z) shows a head: its foreground with its holes filled, bool."""
    return filled(foreground(image))


def without_rim(inside: np.ndarray) -> np.ndarray:
    """A head's mask (X, Y, Z) less its rim, bool."""
    disc = ndimage.generate_binary_structure(2, 1)[:, :, None]
    return ndimage.binary_erosion(inside, disc, iterations=RIM)


def regions(image: np.ndarray, limits: tuple[float, float]) -> dict[str, np.ndarray]:
    """Masks (X, Y, Z) bool of a synthesis, which share its head among them.

    Args:
        image: (X, Y, Z) in [0, 1].
        limits: intensities between dark, middle and bright.
    """
    inside = head(image)
    core = without_rim(inside)
    return {
        "rim": inside & ~core,
        "dark": core & (image < limits[0]),
        "middle": core & (image >= limits[0]) & (image < limits[1]),
        "bright": core & (image >= limits[1]),
    }


def scale(image: np.ndarray, deviation: np.ndarray | None) -> np.ndarray:
    """What errors are divided by, (X, Y, Z): the deviation of samples with the floor, or 1 where there is none."""
    return np.ones_like(image) if deviation is None else np.sqrt(np.square(deviation) + FLOOR**2)


@dataclass(frozen=True)
class Held:
    """A validation subject: its synthesis, the truth, and the deviation of the samples where several were drawn."""

    image: np.ndarray
    """(X, Y, Z) in [0, 1]; of several samples, their mean."""
    truth: np.ndarray
    deviation: np.ndarray | None


def calibrate(held: Sequence[Held]) -> Intervals:
    """Intervals from validation subjects.

    Args:
        held: at least four, all with a deviation or none.

    Raises:
        InputError: if there are too few, or their syntheses show nothing.
    """
    levels = levels_for(len(held))
    if len(levels) < 2:
        raise InputError(
            f"{len(held)} validation subjects: intervals need at least 4 (80 %), 9 for 90 % and 19 for 95 %; prepare "
            "with more in the split val"
        )
    assert len({one.deviation is None for one in held}) == 1, "some have a deviation, some none"
    cores = [_taken(one.image[without_rim(head(one.image))]) for one in held]
    if not any(core.size for core in cores):
        raise InputError("the syntheses of the validation subjects show no head: nothing can be calibrated")
    low, high = (weighted_quantile(cores, share) for share in (1 / 3, 2 / 3))
    limits = (low, high)
    scores: dict[str, list[np.ndarray]] = {name: [] for name in REGIONS}
    for one in held:
        score = np.abs(one.image - one.truth) / scale(one.image, one.deviation)
        for name, mask in regions(one.image, limits).items():
            scores[name].append(_taken(score[mask]))
    factors = {}
    for name, found in scores.items():
        known = found if any(part.size for part in found) else [part for parts in scores.values() for part in parts]
        factors[name] = tuple(weighted_quantile(known, level) for level in levels)
    return Intervals(levels=levels, limits=limits, factors=factors, subjects=len(held))


def half_width(image: np.ndarray, deviation: np.ndarray | None, intervals: Intervals, level: float) -> np.ndarray:
    """Half the width of the interval around each voxel, (X, Y, Z), in the image's unit; 0 outside the head.

    Args:
        image: synthesis, (X, Y, Z) in [0, 1].
        deviation: of its samples, where the intervals were made with it.
        intervals: of the run.
        level: one of the intervals' levels.
    """
    place, widths = intervals.levels.index(level), np.zeros_like(image)
    scales = scale(image, deviation)
    for name, mask in regions(image, intervals.limits).items():
        widths[mask] = intervals.factors[name][place] * scales[mask]
    return widths


def coverage(one: Held, intervals: Intervals, level: float) -> dict[str, float]:
    """Share of a subject's voxels whose truth lies in the interval, by region and of the whole head (``head``).

    NaN for a region that the subject's synthesis does not have.
    """
    widths = half_width(one.image, one.deviation, intervals, level)
    covered = np.abs(one.image - one.truth) <= widths
    masks = {"head": head(one.image), **regions(one.image, intervals.limits)}
    return {name: float(covered[mask].mean()) if mask.any() else float("nan") for name, mask in masks.items()}


def weighted_quantile(parts: Sequence[np.ndarray], share: float) -> float:
    """The quantile of numbers that come in parts (subjects), each part of the same weight; empty ones count nothing."""
    parts = [part for part in parts if part.size]
    values = np.concatenate(parts)
    weights = np.concatenate([np.full(part.size, 1 / part.size) for part in parts])
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    place = int(np.searchsorted(reached, share * len(parts) * (1 - 1e-12)))
    return float(values[order[min(place, values.size - 1)]])


def _taken(values: np.ndarray) -> np.ndarray:
    """At most `MOST` of them, evenly spaced."""
    return values[:: -(-values.size // MOST)] if values.size > MOST else values
