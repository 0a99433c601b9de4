"""Jumps between neighbouring slices: do slices that were made one by one fit each other?

A step is the absolute difference of a voxel to the one before it along an axis. Generated sets (`sets/coherence.py`)
hold the mean steps of whole slices against those of real volumes. A synthesis has a truth of its own: `jumps` holds
its mean step along each axis, inside a mask, against the truth's. Smooth images have small steps along all axes; in
stripes those along the slices alone are too large: so the axes in the plane, which one network call fills, stand
beside.
"""

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Jumps:
    """Mean steps of a synthesis over those of its truth; NaN where the truth has no step."""

    slices: float
    """Along the slices: 1 as smooth as real, above it stripes, below it blur."""
    in_plane: tuple[float, float]
    """Along the two other axes, in their order."""

    @property
    def excess(self) -> float:
        """Along the slices over the mean of the plane's axes: above 1 slices fit together less well than the synthesis
        is smooth."""
        plane = sum(self.in_plane) / 2
        return self.slices / plane if plane > 0 else math.nan


def steps(volume: np.ndarray, axis: int = 2) -> np.ndarray:
    """Absolute difference of each voxel to the one before it, float64, one shorter along the axis."""
    return np.abs(np.diff(volume.astype(np.float64), axis=axis))


def slice_steps(volume: np.ndarray) -> np.ndarray:
    """Mean absolute difference of each axial slice to the one below it, (Z − 1,) float64."""
    return steps(volume).mean((0, 1))


def mean_step(volume: np.ndarray, mask: np.ndarray, axis: int) -> float:
    """Mean of the steps along an axis between voxels (X, Y, Z) that both lie in the mask; NaN without any."""
    inside = np.moveaxis(mask, axis, 0)
    both = np.moveaxis(inside[1:] & inside[:-1], 0, axis)
    return float(steps(volume, axis)[both].mean()) if both.any() else math.nan


def jumps(synthesis: np.ndarray, truth: np.ndarray, mask: np.ndarray, *, axis: int = 2) -> Jumps:
    """Hold a synthesis against its truth.

    Args:
        synthesis: (X, Y, Z).
        truth: likewise.
        mask: where, (X, Y, Z) bool.
        axis: that the slices lie along.
    """

    def ratio(along: int) -> float:
        real = mean_step(truth, mask, along)
        return mean_step(synthesis, mask, along) / real if real > 0 else math.nan

    first, second = (ratio(other) for other in range(3) if other != axis)
    return Jumps(slices=ratio(axis), in_plane=(first, second))
