"""What a scan looks like from afar: its head in 16×16×16 blocks, and how well that fits the heads of a training.

Blocks of a centimetre or so blur what differs between people, and keep what heads of one contrast have in common:
where they are bright, and which way is up. A scan is held against the mean of the training scans in all poses that a
grid can be mistaken for, and against the means of the other contrasts, so that one which lies upside down or has
another's name gives itself away. Left and right look the same from afar: which is which cannot be known so.
"""

import base64
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from scansynth.errors import InputError

SIDE = 16
"""Blocks along each axis of the box around the head."""
RIM = 0.05
"""Of the fullest plane's foreground: planes with less are not of the head."""
INNER = 0.8
"""Radius, in half boxes, inside which tissue is compared, and no outline."""
LEAST = 3
"""Scans of a contrast from which on they have a mean that another is held against."""

UPRIGHT = ((0, 1, 2), (False, False, False))
Pose = tuple[tuple[int, ...], tuple[bool, bool, bool]]
"""Which axis of the scan is taken for right, anterior and superior, and which of them are reversed."""


def seen_from_afar(array: np.ndarray, head: np.ndarray, background: float) -> np.ndarray:
    """A scan in blocks.

    Args:
        array: (X, Y, Z) RAS+.
        head: its foreground, (X, Y, Z) bool.
        background: its intensity.

    Returns:
        (16, 16, 16) uint8: mean intensity of each block between the background and the head's 99th percentile.
    """
    inside = array[head]
    top = float(np.percentile(inside[:: max(1, inside.size // 100_000)], 99)) if inside.size else background + 1
    profiles = [head.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    boxes = []
    for profile in profiles:
        planes = np.flatnonzero(profile > RIM * profile.max())
        boxes.append((int(planes[0]), int(planes[-1]) + 1) if planes.size else (0, profile.size))
    blocks = array[tuple(slice(low, high) for low, high in boxes)]
    blocks = np.clip((blocks - background) / max(top - background, 1e-9), 0, 1)
    for axis in range(3):
        blocks = _blocks(blocks, axis)
    return np.round(255 * blocks).astype(np.uint8)


def _blocks(array: np.ndarray, axis: int) -> np.ndarray:
    """Means over equal parts of an axis, whose edges lie between voxels."""
    array = np.moveaxis(array, axis, 0)
    total = np.concatenate([np.zeros((1, *array.shape[1:])), np.cumsum(array, 0, dtype=np.float64)])
    edges = np.linspace(0, array.shape[0], SIDE + 1)
    below = np.minimum(edges.astype(int), array.shape[0] - 1)
    share = (edges - below)[:, None, None]
    integral = total[below] * (1 - share) + total[below + 1] * share
    return np.moveaxis(np.diff(integral, axis=0) * SIDE / array.shape[0], 0, axis)


def packed(blocks: np.ndarray) -> str:
    """Blocks (16, 16, 16) uint8 as text."""
    return base64.b64encode(np.ascontiguousarray(blocks).tobytes()).decode("ascii")


def unpacked(text: str) -> np.ndarray:
    """Text as blocks.

    Raises:
        ValueError: if it is none of `packed`.
    """
    return np.frombuffer(base64.b64decode(text, validate=True), np.uint8).reshape(SIDE, SIDE, SIDE)


@cache
def other_poses() -> tuple[Pose, ...]:
    """All that a grid can be mistaken for, but for the right one and its mirror image."""
    return tuple(
        (axes, flips)
        for axes in itertools.permutations(range(3))
        for flips in itertools.product((False, True), (False, True), (False, True))
        if (axes, flips[1:]) != (UPRIGHT[0], UPRIGHT[1][1:])
    )


def posed(blocks: np.ndarray, pose: Pose) -> np.ndarray:
    """Blocks with their axes exchanged, then reversed."""
    axes, flips = pose
    return np.flip(blocks.transpose(axes), tuple(axis for axis, flipped in enumerate(flips) if flipped))


def alike(one: np.ndarray, other: np.ndarray, *, inner: bool = False) -> float:
    """Correlation of two scans' blocks, everywhere or inside the head."""
    pairs = [blocks[_inside() if inner else ...].astype(np.float64).ravel() for blocks in (one, other)]
    first, second = (values - values.mean() for values in pairs)
    size = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / size if size > 0 else 0.0


@cache
def _inside() -> np.ndarray:
    middle = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    x, y, z = np.ix_(middle, middle, middle)
    return x**2 + y**2 + z**2 < INNER**2


def mean_of(scans: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of scans' blocks and their mirror images, (16, 16, 16) float."""
    mean = np.mean(scans, axis=0)
    return (mean + mean[::-1]) / 2


def best_pose(blocks: np.ndarray, mean: np.ndarray) -> tuple[float, Pose]:
    """How well the pose that fits a mean best does so, the right one left out."""
    return max(((alike(posed(blocks, pose), mean), pose) for pose in other_poses()), key=lambda one: one[0])


@dataclass(frozen=True)
class Pattern:
    """What the training scans of a contrast look like from afar, and how much they do so."""

    mean: str
    """Their mean, packed."""
    whole: float
    """Least correlation of one of them with the mean of the others."""
    inner: float
    """The same inside the head."""
    upright: float
    """Least by which one of them fits the others' mean better than in any other pose."""
    apart: dict[str, float] = field(default_factory=dict)
    """Other contrast → least by which one of them fits its own contrast's mean better than that one's, inside."""

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Pattern":
        """From JSON values.

        Raises:
            InputError: if they are none of a pattern.
        """
        found = cls(**values)
        try:
            found.blocks()
        except ValueError:
            raise InputError("what the training scans look like is no picture") from None
        return found

    def blocks(self) -> np.ndarray:
        """The mean, (16, 16, 16)."""
        return unpacked(self.mean)


def patterns_of(scans: Mapping[str, Sequence[np.ndarray]]) -> dict[str, Pattern]:
    """The patterns of contrasts.

    Args:
        scans: contrast → blocks of its training scans; of too few there is none.
    """
    enough = {contrast: list(own) for contrast, own in scans.items() if len(own) >= LEAST}
    means = {contrast: mean_of(own) for contrast, own in enough.items()}
    found = {}
    for contrast, own in enough.items():
        whole, inner, upright = [], [], []
        apart: dict[str, list[float]] = {other: [] for other in means if other != contrast}
        total = np.sum(own, axis=0, dtype=np.float64)
        for one in own:
            rest = mean_of([(total - one) / (len(own) - 1)])
            whole.append(alike(one, rest))
            inner.append(alike(one, rest, inner=True))
            upright.append(whole[-1] - best_pose(one, rest)[0])
            for other, margins in apart.items():
                margins.append(inner[-1] - alike(one, means[other], inner=True))
        found[contrast] = Pattern(
            mean=packed(np.round(means[contrast]).astype(np.uint8)),
            whole=round(min(whole), 4), inner=round(min(inner), 4), upright=round(min(upright), 4),
            apart={other: round(min(margins), 4) for other, margins in apart.items()},
        )  # fmt: skip
    return found
