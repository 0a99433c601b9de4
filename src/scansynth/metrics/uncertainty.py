"""What the spread of a stochastic method's samples says about its error.

Of S samples of a voxel, the synthesis is their mean and the uncertainty their standard deviation. A spread that tells
nothing of the error is worse than none: correlation, sparsification and coverage say how much it tells.
"""

from dataclasses import dataclass

import numpy as np
from scipy import integrate, stats

from scansynth.errors import InputError

LEVELS = (0.5, 0.8, 0.9, 0.95)
"""Nominal coverages."""
STEPS = 20
"""Points of a sparsification curve."""


@dataclass(frozen=True, kw_only=True)
class Uncertainty:
    """Error and uncertainty of one subject inside a mask."""

    samples: int
    voxels: int
    correlation: float
    """Spearman's rank correlation of uncertainty and absolute error over voxels; NaN where one of them is constant."""
    fractions: np.ndarray
    """Shares of voxels that are left out, (20,), from 0 on."""
    by_uncertainty: np.ndarray
    """Mean absolute error of the rest when the most uncertain are left out, over that of all, (20,)."""
    by_error: np.ndarray
    """The same when those of the largest error are left out: no uncertainty can do better, (20,)."""
    area: float
    """Area between the two curves (AUSE, Ilg et al., ECCV 2018): 0 at best."""
    coverage: tuple[float, ...]
    """Share of voxels whose truth lies in the interval of each nominal coverage in `LEVELS`."""


def uncertainty(samples: np.ndarray, reference: np.ndarray, mask: np.ndarray) -> Uncertainty:
    """Hold the spread of samples against the error of their mean.

    The interval of a nominal coverage is that of a further sample of a normal distribution whose mean and deviation are
    known from S samples: mean ± t·deviation·√(1 + 1/S), t of S − 1 degrees of freedom.

    Args:
        samples: (S, X, Y, Z), S ≥ 2.
        reference: the truth, (X, Y, Z).
        mask: voxels that count, (X, Y, Z).

    Raises:
        InputError: for fewer than two samples, other grids, values that are not finite, or a mask without a voxel.
    """
    if len(samples) < 2:
        raise InputError("uncertainty needs at least two samples of a subject: draw more with --samples")
    if not samples.shape[1:] == reference.shape == mask.shape:
        raise InputError(
            f"samples {samples.shape[1:]}, reference {reference.shape} and mask {mask.shape} lie on different grids"
        )
    inside = mask.astype(bool)
    if not inside.any():
        raise InputError("the mask has no voxel: nothing can be measured under it")
    values, truth = samples[:, inside].astype(np.float64), reference[inside].astype(np.float64)
    if not (np.isfinite(values).all() and np.isfinite(truth).all()):
        raise InputError("samples or reference have voxels that are NaN or infinite: they cannot be measured")
    mean, deviation = values.mean(0), values.std(0, ddof=1)
    error = np.abs(mean - truth)
    constant = np.ptp(error) == 0 or np.ptp(deviation) == 0
    fractions = np.arange(STEPS) / STEPS
    by_uncertainty, by_error = (sparsification(error, order, fractions) for order in (deviation, error))
    widths = [
        stats.t.ppf((1 + level) / 2, len(values) - 1) * deviation * np.sqrt(1 + 1 / len(values)) for level in LEVELS
    ]
    return Uncertainty(
        samples=len(values),
        voxels=truth.size,
        correlation=float("nan") if constant else float(np.asarray(stats.spearmanr(deviation, error))[0]),
        fractions=fractions,
        by_uncertainty=by_uncertainty,
        by_error=by_error,
        area=float(integrate.trapezoid(by_uncertainty - by_error, fractions)),
        coverage=tuple(float((error <= width).mean()) for width in widths),
    )


def sparsification(error: np.ndarray, order: np.ndarray, fractions: np.ndarray) -> np.ndarray:
    """Mean error of what is left when the voxels of the highest `order` are left out, over the mean error of all.

    Args:
        error: of each voxel, (V,).
        order: of each voxel, (V,).
        fractions: shares to leave out, each below 1.

    Returns:
        The same shape as `fractions`; ones where there is no error at all.
    """
    if not error.any():
        return np.ones_like(fractions)
    sums = np.cumsum(error[np.argsort(order, kind="stable")])
    kept = np.maximum(1, np.round((1 - fractions) * error.size).astype(int))
    return sums[kept - 1] / kept / error.mean()
