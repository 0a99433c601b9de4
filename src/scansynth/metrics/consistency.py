"""How much a stochastic method's samples differ, and what averaging them brings (CG-DDPM, sections 3.2 and 3.4).

*Uncertainty* is the standard deviation of the samples, averaged over the volume. *MC-n* is the MS-SSIM of the mean of
the first n samples, *N-MSSIM* that over its maximum over n, and *inconsistency* the standard deviation of N-MSSIM over
n = 1 … N: by subject, then averaged.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scansynth.data.datasets import to_network
from scansynth.errors import InputError


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
