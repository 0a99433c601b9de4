"""Slice coherence: do volumes that were made in stages show where one stage ends and the next begins?

The measure is the mean absolute difference of neighbouring axial slices, a step. At the borders of stages it is set
against steps inside stages, and against real volumes at the same positions, since steps change along the head anyway.
Where every slice borders on another stage (as in hierarchical plans), and where there is one stage only, what is left
is all steps against the real ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scansynth.errors import InputError
from scansynth.metrics.coherence import slice_steps
from scansynth.sets.volume_sets import VolumeSet, check_comparable

RESAMPLES = 10_000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Ratio:
    """A ratio of means over volumes, with its bootstrap interval (95 %, percentiles; volumes are drawn anew)."""

    value: float
    interval: tuple[float, float]
    """NaN where a set has a single volume."""


@dataclass(frozen=True, kw_only=True)
class Borders:
    """Steps at the borders of stages."""

    slices: tuple[int, ...]
    """The first slice of each stage but the first: a border at 10 lies between slices 9 and 10."""
    border: float
    """Mean step at the borders, in intensities (0 to 1)."""
    inside: float
    """Mean step inside the stages."""
    to_inside: Ratio
    """Border over inside, in the set."""
    to_real: Ratio
    """At the borders: the set over the real volumes."""
    excess: Ratio
    """Border over inside in the set, over the same in real volumes: 1 where borders cannot be seen, above it jumps."""


@dataclass(frozen=True, kw_only=True)
class Coherence:
    """A set beside a real one."""

    label: str
    real: str
    volumes: int
    real_volumes: int
    steps: np.ndarray
    """Mean over volumes of the step to each slice from the one below it, (Z − 1,): entry z − 1 leads to slice z."""
    real_steps: np.ndarray
    overall: Ratio
    """All steps: the set over the real volumes; above 1 slices fit together less well, below 1 they are smoother."""
    at_borders: Borders | None
    """None where no step, or each one, crosses from a stage to another."""

    def verdict(self) -> str:
        """In words."""
        told = (
            f"{self.volumes} volumes: neighbouring slices differ {_figure(self.overall)} times as much as in real ones"
        )
        if self.at_borders is None:
            return f"{told}; no stage borders to tell from other slices."
        low, high = self.at_borders.excess.interval
        judged = "no more than anywhere else"
        if math.isnan(low):
            judged = "how much more than elsewhere is uncertain with a single volume"
        elif low > 1:
            judged = "more than elsewhere: stage borders are jumps"
        elif high < 1:
            judged = "less than elsewhere"
        return (
            f"{told}; at the {len(self.at_borders.slices)} stage borders {_figure(self.at_borders.excess)} times what "
            f"real volumes at the same positions let expect: {judged}."
        )


def _figure(ratio: Ratio) -> str:
    if math.isnan(ratio.interval[0]):
        return f"{ratio.value:.3f}"
    return f"{ratio.value:.3f} (95 % interval {ratio.interval[0]:.3f} to {ratio.interval[1]:.3f})"


def borders_of(stages: Sequence[int]) -> tuple[int, ...]:
    """The slices whose stage is not that of the slice below (`Method.stages`)."""
    return tuple(z for z in range(1, len(stages)) if stages[z] != stages[z - 1])


def slice_coherence(generated: VolumeSet, real: VolumeSet, borders: Sequence[int], *, seed: int = 0) -> Coherence:
    """Measure coherence.

    Args:
        generated: volumes that were made along Z.
        real: volumes of the same grid.
        borders: as in `Borders.slices`; nothing where volumes were made at once.
        seed: of the bootstrap.

    Raises:
        InputError: if a border lies outside the volumes or stands twice, grids differ, or steps are all 0.
    """
    check_comparable(generated, real)
    depth = generated.shape[2]
    kept = tuple(sorted(set(borders)))
    if len(kept) != len(borders) or (kept and (kept[0] < 1 or kept[-1] >= depth)):
        raise InputError(
            f"stage borders {list(borders)} of volumes with {depth} slices: name each stage's first slice once, from 1 "
            f"to {depth - 1}"
        )
    steps, real_steps = (np.stack([slice_steps(volume) for volume in one]) for one in (generated, real))
    at = np.isin(np.arange(1, depth), kept)
    masks = [np.ones(depth - 1, bool)] + ([at, ~at] if 0 < len(kept) < depth - 1 else [])
    parts = [[one[:, mask].mean(1) for mask in masks] for one in (steps, real_steps)]
    if min(part.mean() for one in parts for part in one) <= 0:
        raise InputError("neighbouring slices do not differ at all, at borders or inside stages: nothing to compare")
    rng = np.random.default_rng(seed)
    drawn, real_drawn = (_resampled(one, rng) for one in parts)
    several = len(steps) > 1
    interval = several and len(real_steps) > 1
    at_borders = None
    if len(masks) > 1:
        (b, i), (rb, ri) = drawn[1:], real_drawn[1:]
        at_borders = Borders(
            slices=kept,
            border=float(b[0]),
            inside=float(i[0]),
            to_inside=_ratio(b / i, interval=several),
            to_real=_ratio(b / rb, interval=interval),
            excess=_ratio((b / i) / (rb / ri), interval=interval),
        )
    overall = _ratio(drawn[0] / real_drawn[0], interval=interval)
    return Coherence(
        label=generated.label,
        real=real.label,
        volumes=len(steps),
        real_volumes=len(real_steps),
        steps=steps.mean(0),
        real_steps=real_steps.mean(0),
        overall=overall,
        at_borders=at_borders,
    )


def _resampled(parts: Sequence[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
    """The mean of each part, then its means over volumes drawn anew, (1 + RESAMPLES,); parts share the draw."""
    n = len(parts[0])
    # How often each volume is drawn: a matrix of counts in place of one of indices and values.
    counts = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES)
    return [np.concatenate([[part.mean()], counts @ part / n]) for part in parts]


def _ratio(values: np.ndarray, *, interval: bool) -> Ratio:
    """Of the true ratio, first, and those of the resampled sets."""
    ends = 50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)
    low, high = np.percentile(values[1:], ends).tolist() if interval else (math.nan, math.nan)
    return Ratio(float(values[0]), (low, high))
