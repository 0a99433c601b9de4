"""What a scan's tissues measure: their mean intensities and the receive field, from the scan alone.

The intensities of white matter, grey matter and CSF are a mixture of three Gaussians and of voxels that two tissues
share. A share is as likely as any other, so that a mixed voxel's intensity is uniform between two means, blurred by the
noise (Santago and Gage, IEEE Trans. Med. Imaging 12 (1993) 566). Without these classes the Gaussian of CSF swallows the
cortex at the usual voxel sizes. A sixth, uniform class takes what is none of the three: vessels, enhancement, lesions.

The receive field is smooth and multiplies. It is estimated between the updates of the mixture, as FAST does
(Zhang, Brady and Smith, IEEE Trans. Med. Imaging 20 (2001) 45; after Wells et al., ibid. 15 (1996) 429): what a voxel
measures over what its classes measure, averaged with a Gaussian window and the classes' inverse variances.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.special import ndtr

_UPDATES = 60
_FIRST_FIELD = 5  # updates of the mixture before the field: the classes must roughly stand
_GRID = 3.0  # mm; means and a smooth field need no more voxels
_SMOOTH = 25.0  # mm, deviation of the window: well above the gyri, below the coil
_INNER = 4.0  # mm below the brain's surface, where voxels hold no air
_NOISE = 0.02  # of the brightest mean; keeps a dark class from collapsing
_SPREAD = (0.01, 0.12)  # range of a tissue's own variation, as a share of its mean
_ODD = 0.15  # most that the sixth class may take
# Least weight of white and grey matter, either of which is some 40 % of a brain: else one wide class takes both where
# they differ little, or a large tumour takes the place of one.
_LEAST = 0.3


@dataclass(frozen=True, eq=False)
class Intensities:
    """Fitted to one scan, in the scan's unit."""

    means: np.ndarray
    """White matter, grey matter, CSF: (3,)."""
    spread: float
    """Standard deviation of a tissue as a share of its mean."""
    field: np.ndarray
    """Receive field with geometric mean 1 in the brain, (X, Y, Z)."""


def fit(
    values: np.ndarray,
    brain: np.ndarray,
    voxel: Sequence[float],
    *,
    order: Sequence[int],
    start: Sequence[float],
    bounds: Mapping[int, tuple[float, float]],
) -> Intensities:
    """Fit means and field by expectation and maximisation.

    Args:
        values: intensities above the background, (X, Y, Z) float64.
        brain: (X, Y, Z) bool.
        voxel: sizes, mm.
        order: of white matter (0), grey matter (1) and CSF (2), the darkest first.
        start: quantiles of the brain's intensities at which the three means start, the darkest first.
        bounds: of the means of grey matter and CSF, as shares of that of white matter.
    """
    depth = ndimage.distance_transform_edt(np.pad(brain, 1), sampling=voxel)
    inner = np.asarray(depth)[1:-1, 1:-1, 1:-1] > _INNER
    step = [max(1, round(_GRID / size)) for size in voxel]
    cut = tuple(slice(None, None, n) for n in step)
    window = [_SMOOTH / (size * n) for size, n in zip(voxel, step, strict=True)]
    y, inside = values[cut], inner[cut] if inner[cut].any() else brain[cut]
    white, grey, csf = (order.index(tissue) for tissue in range(3))
    # CSF meets the cortex, and the cortex white matter. CSF and white matter meet at the ventricles only.
    mixed = [sorted(pair) for pair in ((csf, grey), (grey, white))]

    means, spread = np.quantile(y[inside], start), 0.05
    weights = np.array([0.25, 0.25, 0.25, 0.11, 0.11, 0.03])
    highest = float(y[inside].max())
    field = np.ones_like(y)
    for update in range(_UPDATES):
        u = y[inside] / field[inside]
        deviation = np.hypot(spread * means, _NOISE * means.max())
        z = (u - means[:, None]) / deviation[:, None]
        pure = np.exp(-0.5 * z**2) / (np.sqrt(2 * np.pi) * deviation[:, None])
        shared = [(ndtr(z[a]) - ndtr(z[b])) / max(means[b] - means[a], 1e-3 * means.max()) for a, b in mixed]
        odd = np.full_like(u, 1 / highest)
        likelihood = weights[:, None] * np.stack([*pure, *np.maximum(shared, 0), odd])
        share = likelihood / likelihood.sum(0)
        weights = np.maximum(share.mean(1), 1e-3)
        weights[5] = min(weights[5], _ODD)
        weights[[white, grey]] = np.maximum(weights[[white, grey]], _LEAST)
        share = share[:3]
        total = share.sum(1) + 1e-12
        means = (share * u).sum(1) / total
        for tissue, place in ((1, grey), (2, csf)):
            if tissue in bounds:
                means[place] = np.clip(means[place], *np.multiply(bounds[tissue], means[white]))
        means = np.sort(means)
        deviation_seen = np.sqrt((share * (u - means[:, None]) ** 2).sum(1) / total)
        # One variation for all tissues, that of the purer of white and grey matter: CSF lies in few whole voxels, and
        # a wide class of its own would take the mixed ones.
        own = deviation_seen / np.maximum(means, _NOISE * means.max())
        spread = float(np.clip(min(own[white], own[grey]), *_SPREAD))
        if update >= _FIRST_FIELD:
            field = _field(y, inside, share, means=means, deviation=deviation, window=window)
    # scipy's types know a scalar offset and scale only.
    scale: list[float] = [1 / n for n in step]
    whole = ndimage.affine_transform(field, np.array(scale), output_shape=values.shape, order=1, mode="nearest")
    return Intensities(means[[white, grey, csf]], spread, whole)


def _field(y, inside, share, *, means, deviation, window) -> np.ndarray:
    """The field that, smooth as the window, fits best in the sense of weighted least squares."""
    above, below = np.zeros_like(y), np.zeros_like(y)
    above[inside] = (share * (means / deviation**2)[:, None]).sum(0) * y[inside]
    below[inside] = (share * (means**2 / deviation**2)[:, None]).sum(0)
    above, below = (ndimage.gaussian_filter(part, window, truncate=3) for part in (above, below))
    field = above / np.maximum(below, 1e-12 * below.max() + 1e-300)
    field = np.clip(field, max(field[inside].min(), 1e-3), field[inside].max())
    return field / np.exp(np.log(field[inside]).mean())
