"""MS-SSIM of pairs of volumes of one set: how much alike, or how diverse, they are.

Paper (cDPM, section 3.3): "pair-wise MS-SSIM", without window, scales or number of pairs. Here: 3D, 5 scales, window 7,
range 1, background included (protocol `cdpm`), over pairs drawn at random. A set that is as diverse as the real one has
the real one's figure; a higher one means less diversity, a much lower one volumes that are no brains.
"""

import logging
from dataclasses import dataclass

import numpy as np

from scansynth.errors import InputError
from scansynth.metrics.image_metrics import Images, ms_ssim
from scansynth.sets.volume_sets import VolumeSet

log = logging.getLogger(__name__)

WINDOW = 7
SCALES = 5
PAIRS = 1000
"""Pairs that are drawn where there are more."""


@dataclass(frozen=True, kw_only=True)
class PairSimilarity:
    """MS-SSIM over pairs of a set, in per cent."""

    mean: float
    std: float
    """Over the pairs, n − 1 below; NaN for a single pair. Pairs share volumes: it is no standard error of the mean."""
    pairs: int
    possible: int
    """How many pairs the set has."""
    scales: int
    seed: int


def scales_for(shape: tuple[int, ...], window: int = WINDOW) -> int:
    """How many scales of MS-SSIM a volume has room for, 5 at most: the window has to fit at the last but one.

    Five need sides of 56 voxels, four 28, three 14. Figures of different numbers of scales are no figures of one
    measure: columns and headings name the number, and only 5 is protocol `cdpm`.

    Raises:
        InputError: if a side is shorter than the window.
    """
    if min(shape) < window:
        raise InputError(f"volumes of {'×'.join(map(str, shape))} voxels: MS-SSIM needs sides of at least {window}")
    return max(scales for scales in range(1, SCALES + 1) if min(shape) >= window * 2 ** max(0, scales - 2))


def similarity(x: np.ndarray, y: np.ndarray, scales: int, *, mask: np.ndarray | None = None) -> float:
    """MS-SSIM of two volumes (X, Y, Z) in per cent, range 1; under a mask (X, Y, Z) or background included."""
    images = Images.of(x[None], y[None], 1.0, mask=None if mask is None else mask[None])
    return float(ms_ssim(images, WINDOW, scales)[0])


def draw_pairs(n: int, count: int, seed: int) -> list[tuple[int, int]]:
    """Different pairs (i < j) of n things at random, sorted; all where there are no more."""
    first, second = np.triu_indices(n, 1)
    if len(first) > count:
        kept = np.sort(np.random.default_rng(seed).choice(len(first), count, replace=False))
        first, second = first[kept], second[kept]
    return list(zip(first.tolist(), second.tolist(), strict=True))


def pair_similarity(volumes: VolumeSet, count: int = PAIRS, seed: int = 0) -> PairSimilarity:
    """MS-SSIM over random pairs of a set; two volumes are in memory at a time.

    Raises:
        InputError: if the set has fewer than two volumes, or they are smaller than the window.
    """
    if len(volumes) < 2 or count < 1:
        raise InputError(f"{volumes.label}: {len(volumes)} volumes, {count} pairs: give two volumes and a pair or more")
    scales = scales_for(volumes.shape)
    if scales < SCALES:
        log.warning(
            "%s: volumes of %s voxels have room for %d scales of MS-SSIM: no figure of protocol cdpm, which has %d",
            volumes.label, "×".join(map(str, volumes.shape)), scales, SCALES,
        )  # fmt: skip
    figures, held = [], (-1, np.empty(0))
    for i, j in draw_pairs(len(volumes), count, seed):
        if held[0] != i:
            held = i, volumes.read(i)
        figures.append(similarity(held[1], volumes.read(j), scales))
    std = float(np.std(figures, ddof=1)) if len(figures) > 1 else float("nan")
    possible = len(volumes) * (len(volumes) - 1) // 2
    return PairSimilarity(
        mean=float(np.mean(figures)), std=std, pairs=len(figures), possible=possible, scales=scales, seed=seed
    )
