"""Tissue densities of one scan, from that scan alone, and of several sources together.

CoLa-Diff (section 2.2) conditions on white matter, grey matter, CSF and tumour. Here each scan is segmented on its own,
so that what a set of sources gives cannot hold anything of the target.

    tissue_intensities.fit    mean intensities of the tissues, receive field
    _tumour                   what is brighter than any normal tissue may be
    _posterior                DIPY's hidden Markov random field, in place of FSL-FAST
    combine, masks            several sources

Scans must be skull-stripped: what surrounds the brain would be taken for tissue.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from scansynth.data.foreground import bounding_box
from scansynth.data.tissue_intensities import Intensities, fit
from scansynth.errors import InputError
from scansynth.physics.tissue import WEIGHTS
from scansynth.physics.tissue import combine as weighted_mean

OWN_MASK = "tissue"
"""Name of a subject's own label image, which is taken before what is segmented."""
_LABELS = (2, 1, 3, 7)  # BIDS' standard labels of discrete segmentations, in the order of TISSUES
VERSION = 2
"""Goes up when densities change."""

_WHITE, _GREY, _CSF, _TUMOUR = range(4)


@dataclass(frozen=True)
class _Look:
    """How a contrast shows the tissues."""

    order: tuple[int, int, int]
    """The darkest first."""
    start: tuple[float, float, float]
    """Quantiles of the brain's intensities near their means."""
    bounds: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """Of the means of grey matter and CSF, as shares of white matter's."""


# T1: dura and vessels that a skull stripping leaves are darker than CSF, which gives a quarter to a half of white
# matter's signal in usual sequences; grey matter gives less than nine tenths, without which both its mean and white
# matter's may end in one peak.
_T1 = _Look((_CSF, _GREY, _WHITE), (0.05, 0.4, 0.85), {_GREY: (0.0, 0.88), _CSF: (0.25, 0.5)})
LOOKS = {
    "T1w": _T1,
    "T1ce": _T1,
    "T2w": _Look((_WHITE, _GREY, _CSF), (0.2, 0.55, 0.97)),
    "PDw": _Look((_WHITE, _GREY, _CSF), (0.25, 0.6, 0.95)),
    "FLAIR": _Look((_CSF, _WHITE, _GREY), (0.01, 0.4, 0.85)),
}
"""The contrasts that have tissue maps."""

_BETA = 0.3  # pull of a neighbour: little, for the cortex is two voxels thick
_ROUNDS = 3  # the means are known, and with more rounds DIPY's free variances let CSF grow into the cortex
_LEAST_BRAIN = 10.0  # mL
_SURE, _LIKELY = 4.0, 2.5  # above the brightest normal tissue, in its deviations: where a tumour is, and its rim
_OPENING = 1.5  # mm: vessels of 3 mm and less go, the wall of a necrosis stays
_REACH = 6.0  # mm that a tumour grows beyond what is sure
# mL. What is smaller may be bright cortex or choroid plexus (FLAIR: a ball of 1 cm), which enhances too (T1ce).
_LEAST_TUMOUR = {"FLAIR": 0.5, "T1ce": 1.0}
# mm below the brain's surface of a tumour's median voxel: a bright rim lies higher, and so do the sinuses.
_DEPTH = {"FLAIR": 4.0, "T1ce": 10.0}
_GREY_SHARE = 0.75  # of what is not white matter in an adult's brain, by volume; the rest is CSF


def segment(
    image: np.ndarray, contrast: str, voxel: Sequence[float], *, tumour: np.ndarray | None = None
) -> np.ndarray:
    """Tissue densities of one scan.

    Args:
        image: prepared and skull-stripped, (X, Y, Z); the background is its minimum. A straight line over the
            intensities changes nothing.
        contrast: standard name of the contrast.
        voxel: sizes along X, Y and Z, mm.
        tumour: a tumour that is known, (X, Y, Z) bool, in place of the one that is found.

    Returns:
        (4, X, Y, Z) float32, posterior probabilities of `TISSUES`: in [0, 1], sum 1 in the brain, 0 outside. A tumour
        is 0 or 1. T1w and PDw show none.

    Raises:
        InputError: for a contrast without tissue maps, an image without a brain, or where DIPY is not installed.
    """
    look = look_of(contrast)
    classifier = _dipy()
    image = np.asarray(image, dtype=np.float64)
    brain = _brain(image)
    densities = np.zeros((4, *image.shape), np.float32)
    if brain.sum() * np.prod(voxel) / 1000 < _LEAST_BRAIN:
        raise InputError(f"{contrast}: no brain of {_LEAST_BRAIN:g} mL or more is left in the image: check the scan")
    box = bounding_box(brain)
    brain, values = brain[box], image[box] - image.min()
    values = values / np.percentile(values[brain], 99)
    found = fit(values, brain, voxel, order=look.order, start=look.start, bounds=look.bounds)
    values = values / found.field
    lesion = _tumour(values, brain, contrast, found, voxel) if tumour is None else brain & (tumour[box] > 0)
    part = np.where(brain & ~lesion, _posterior(values, brain & ~lesion, look.order, found, classifier), 0)
    if contrast == "PDw":
        part[_GREY : _CSF + 1] = part[_GREY : _CSF + 1].sum(0) * np.reshape(
            (_GREY_SHARE, 1 - _GREY_SHARE), (2, 1, 1, 1)
        )
    densities[:3, *box] = part
    densities[_TUMOUR, *box] = lesion
    return densities


def combine(by_contrast: Mapping[str, np.ndarray]) -> np.ndarray:
    """One set of densities from those of several sources (`physics.tissue.combine`).

    Args:
        by_contrast: densities of each source, (4, …), all on one grid; volumes or slices.

    Returns:
        (4, …) float32, in [0, 1], summing to 1 where a source sees brain.
    """
    assert by_contrast, "densities of no source"
    stacked = torch.from_numpy(np.stack(list(by_contrast.values())))[None]
    weights = torch.tensor([[WEIGHTS[contrast] for contrast in by_contrast]])
    return weighted_mean(stacked, weights)[0].numpy()


def masks(densities: np.ndarray) -> np.ndarray:
    """The most probable tissue of each voxel, one-hot: densities (4, …) → (4, …) bool, all false outside the brain."""
    likeliest = densities.argmax(0)
    return np.stack([(likeliest == tissue) & (densities.sum(0) > 0) for tissue in range(4)])


def from_labels(labels: np.ndarray) -> np.ndarray:
    """Densities 0 and 1, (4, …) float32, of a label image with BIDS' standard labels.

    1 is grey matter, 2 white matter, 3 CSF, 7 lesion; others are ignored.
    """
    return np.stack([labels == label for label in _LABELS]).astype(np.float32)


def look_of(contrast: str) -> _Look:
    """How a contrast shows the tissues.

    Raises:
        InputError: if that is not known.
    """
    if contrast == "CT":
        raise InputError("CT has no tissue maps: it hardly tells white from grey matter; take an MR contrast")
    if contrast not in LOOKS:
        raise InputError(f"{contrast} has no tissue maps: the order of its tissues is known for {', '.join(LOOKS)}")
    return LOOKS[contrast]


def _dipy() -> Any:
    try:
        from dipy.segment.tissue import TissueClassifierHMRF
    except ImportError as error:
        raise InputError("tissue maps need DIPY: pip install 'scansynth[prepare]'") from error
    return TissueClassifierHMRF(verbose=False)


def _brain(image: np.ndarray) -> np.ndarray:
    """The largest connected part that is not background, without holes."""
    low = image.min()
    labels, count = _label(image > low + 1e-3 * (np.percentile(image, 99.5) - low))
    if not count:
        return np.zeros(image.shape, dtype=bool)
    return np.asarray(ndimage.binary_fill_holes(labels == np.bincount(labels.ravel())[1:].argmax() + 1))


def _posterior(
    values: np.ndarray, where: np.ndarray, order: Sequence[int], found: Intensities, classifier: Any
) -> np.ndarray:
    """White matter, grey matter and CSF by the hidden Markov random field, (3, X, Y, Z).

    DIPY starts K classes and its background at i·max/(K + 1), i = 0 … K, and cuts half-way between them. So
    intensities are carried there, piece by piece: the fitted means to 1/6, 3/6 and 5/6, what two tissues share
    equally to 2/6 and 4/6, where two classes of mixed voxels start. A mixed voxel is then divided by its intensity.
    """
    low, middle, high = means = found.means[list(order)]
    gap = 0.02 * high  # PDw: grey matter and CSF may coincide, and knots must not
    middle, high = max(middle, low + gap), max(high, middle + gap, low + 2 * gap)
    half = (low + middle) / 2
    if tuple(order) == LOOKS["FLAIR"].order:  # the darkest is CSF, which borders on grey matter, the brightest
        half = min((means[0] + means[2]) / 2, 0.05 * low + 0.95 * middle)
    knots = [low - 0.4 * (middle - low), low, half, middle, (middle + high) / 2, high, 1.5 * high - 0.5 * middle]
    place = np.interp(values, knots, np.array([0.6, 1, 2, 3, 4, 5, 6]) / 6)

    # DIPY puts noise of no fixed seed where the image is 0, and a class of no variance is none: so ours stands there,
    # never 0. One voxel of the margin holds the 1 that sets the scale.
    noise = np.random.default_rng(0).uniform(1e-4, 2e-3, tuple(side + 4 for side in values.shape))
    inside = (slice(2, -2),) * 3
    noise[inside][where] = place[where]
    noise[0, 0, 0] = 1
    _, _, p = classifier.classify(noise, 5, _BETA, tolerance=0, max_iter=_ROUNDS)
    p = np.moveaxis(p[inside], -1, 0)
    upper, lower = np.clip(3 * place - 1.5, 0, 1), np.clip(3 * place - 0.5, 0, 1)
    classes = np.stack([p[0] + p[1] * (1 - lower), p[1] * lower + p[2] + p[3] * (1 - upper), p[3] * upper + p[4]])
    classes = np.clip(classes / np.maximum(classes.sum(0), 1e-12), 0, 1)
    return classes[[order.index(tissue) for tissue in range(3)]]


def _tumour(
    values: np.ndarray, brain: np.ndarray, contrast: str, found: Intensities, voxel: Sequence[float]
) -> np.ndarray:
    """What no normal tissue looks like, (X, Y, Z) bool.

    FLAIR: brighter than grey matter, its brightest normal tissue. T1ce: brighter than white matter, and reaching into
    the brain's depth, unlike the sinuses. Both with what they enclose, as a necrotic core. T2w shows nothing reliable,
    for the cortex beside CSF is as bright as oedema; T1w and PDw show no tumour's own brightness at all.
    """
    if contrast not in ("FLAIR", "T1ce"):
        return np.zeros_like(brain)
    brightest = found.means[_GREY if contrast == "FLAIR" else _WHITE]
    excess = np.where(brain, values / brightest - 1, 0) / found.spread
    seeds = _opened(excess > _SURE, voxel)
    candidates = _propagated(seeds, excess > _SURE) & (_distance(~seeds, voxel) <= _REACH)
    parts, count = _label(candidates)
    sizes = np.bincount(parts.ravel(), minlength=count + 1) * np.prod(voxel) / 1000
    depth = _distance(np.pad(brain, 1), voxel)[1:-1, 1:-1, 1:-1]
    medians: Any = ndimage.median(depth, parts, np.arange(1, count + 1)) if count else []
    middle = np.array([0, *medians])
    keep = (sizes >= _LEAST_TUMOUR[contrast]) & (middle >= _DEPTH[contrast])
    keep[0] = False
    kept = keep[parts]
    if not kept.any():
        return kept
    grown = kept | (_propagated(kept, kept | (excess > _LIKELY)) & (_distance(~kept, voxel) <= _REACH))
    # Closed before it is filled: a thin wall has gaps.
    closed = _distance(_distance(~grown, voxel) <= _OPENING, voxel) > _OPENING
    return brain & (grown | np.asarray(ndimage.binary_fill_holes(grown | closed)))


def _label(where: np.ndarray) -> tuple[np.ndarray, int]:
    """Connected parts, numbered from 1, and how many; scipy's types leave open what it returns."""
    found: Any = ndimage.label(where)
    return found[0], found[1]


def _propagated(seeds: np.ndarray, where: np.ndarray) -> np.ndarray:
    """What of a mask is connected with seeds."""
    return np.asarray(ndimage.binary_propagation(seeds, mask=where), dtype=bool)


def _distance(where: np.ndarray, voxel: Sequence[float]) -> np.ndarray:
    """Of each voxel that is set, to the nearest that is not, mm."""
    if where.all():
        return np.full(where.shape, np.inf)
    return np.asarray(ndimage.distance_transform_edt(where, sampling=voxel))


def _opened(where: np.ndarray, voxel: Sequence[float]) -> np.ndarray:
    """What holds a ball of `_OPENING` mm."""
    return _distance(~(_distance(where, voxel) > _OPENING), voxel) <= _OPENING
