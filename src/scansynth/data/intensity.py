"""Intensities of a scan, to the unit range and back.

Each normalisation is two straight lines. The *own half* is read from the volume itself, `n = (v − offset) / scale`;
the *cohort half* from the training subjects only, `image = (n − offset_cohort) / scale_cohort`. A synthetic image has
no volume of its own to read the first half from, so the way back takes the training median of the own halves:
`v = (image · scale_cohort + offset_cohort) · typical_scale + typical_offset`.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scansynth.data.foreground import AIR_HU, CEILING, bounding_box, top_of
from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.ranges import Count, Finite, Positive

AGREE = 1.5
"""Of the training scans' median: no scan's brightest tissue moves a contrast's range further than so."""


@dataclass(frozen=True)
class Scaling:
    """One straight line, `(values − offset) / scale`, and where it ends."""

    scale: Finite
    offset: Finite
    lowest: Finite | None = None
    """What lies below it after the line is clipped: empty voxels are there."""
    top: Finite | None = None
    """Where the scan's brightest tissue lies after the line; what is beyond twice that is a spike or metal: clipped."""

    def apply(self, values: np.ndarray) -> np.ndarray:
        """To the smaller range; shape and float32 are kept."""
        return (values - self.offset) / self.scale

    def undo(self, values: np.ndarray) -> np.ndarray:
        """The way back."""
        return values * self.scale + self.offset

    @property
    def limits(self) -> tuple[float, float]:
        """What the line's values are clipped to."""
        lowest = -np.inf if self.lowest is None else self.lowest
        return lowest, np.inf if self.top is None else lowest + CEILING * (self.top - lowest)


@dataclass(frozen=True, kw_only=True)
class ContrastStatistics:
    """What the training subjects say about a contrast; it travels with the run."""

    scale_cohort: Positive
    offset_cohort: Finite
    typical_scale: Positive
    """Training median of the own scales."""
    typical_offset: Finite
    """Training median of the own offsets."""
    background: Finite
    """Value of an empty voxel, in the contrast's unit."""
    unit: str
    """Unit of what `to_units` gives."""
    scans: Count
    """Training scans counted."""

    def to_image(self, n: np.ndarray) -> np.ndarray:
        """Cohort half: a volume after its own half → [0, 1] (test scans may go beyond)."""
        return Scaling(self.scale_cohort, self.offset_cohort).apply(n)

    def to_units(self, image: np.ndarray) -> np.ndarray:
        """Image in [0, 1] → the contrast's unit, by the typical own half."""
        n = Scaling(self.scale_cohort, self.offset_cohort).undo(image)
        return Scaling(self.typical_scale, self.typical_offset).undo(n)


class Normalisation(ABC):
    """A named way to bring intensities to [0, 1]."""

    limits: tuple[float, float] = (-np.inf, np.inf)
    """What the own half is clipped to, whatever the scan."""

    @abstractmethod
    def own_values(self, volume: Volume, contrast: str) -> Scaling:
        """The own half of a scan, read from its array as acquired."""

    def cohort_values(self, own: Sequence[Scaling], ranges: Sequence[tuple[float, float]]) -> Scaling:
        """The cohort half, from the training scans' own halves and the ranges that they have after them."""
        return Scaling(1.0, 0.0)

    def unit(self, contrast: str) -> str:
        """Unit of an image after the way back."""
        if contrast == "CT":
            return "HU, scaled to the training median"
        return "arbitrary units, scaled to the training median"

    def own(self, volume: Volume, contrast: str) -> Scaling:
        """`own_values`, checked.

        Raises:
            InputError: if the scan cannot be scaled.
        """
        own = self.own_values(volume, contrast)
        if not (np.isfinite(own.scale) and np.isfinite(own.offset) and own.scale > 0):
            raise InputError(
                f"{volume.name}: its intensities cannot be normalised as {contrast} (scale {own.scale:.4g}): "
                "check that the file is that contrast and is not almost empty"
            )
        return own

    def apply_own(self, array: np.ndarray, own: Scaling) -> np.ndarray:
        """Own half of an array of this scan, on whatever grid; float32."""
        low, high = own.limits
        limits = max(low, self.limits[0]), min(high, self.limits[1])
        return np.clip(own.apply(array), *limits).astype(np.float32, copy=False)

    def fit(
        self,
        contrast: str,
        own: Sequence[Scaling],
        ranges: Sequence[tuple[float, float]],
        backgrounds: Sequence[float],
    ) -> ContrastStatistics:
        """Statistics of a contrast.

        Args:
            contrast: standard name of the contrast.
            own: own halves of the training scans.
            ranges: lowest and highest value of each prepared training scan after its own half.
            backgrounds: of the training scans, in the files' unit.
        """
        assert own, "statistics need a training scan"
        cohort = self.cohort_values(own, ranges)
        return ContrastStatistics(
            scale_cohort=cohort.scale,
            offset_cohort=cohort.offset,
            typical_scale=float(np.median([scaling.scale for scaling in own])),
            typical_offset=float(np.median([scaling.offset for scaling in own])),
            background=float(np.median(backgrounds)),
            unit=self.unit(contrast),
            scans=len(own),
        )


class Robust(Normalisation):
    """Divided by the mean of the scan's foreground, then by where the training scans' brightest tissue lies.

    No single voxel and no single scan sets a contrast's scale: the brightest tissue of a scan is the 99.9th percentile
    of its foreground, and of the training scans the highest counts, but at most 1.5 times their median.
    """

    def own_values(self, volume: Volume, contrast: str) -> Scaling:
        """Mean of the foreground above the background; brighter than its 99.9th percentile counts as that."""
        empty = volume.background(contrast)
        values = volume.array[volume.array > volume.threshold(contrast)]
        if not values.size:
            return Scaling(0.0, empty)
        top = top_of(values)
        scale = float(np.minimum(values, top).mean(dtype=np.float64)) - empty
        return Scaling(scale, empty, 0.0, (top - empty) / scale)

    def cohort_values(self, own: Sequence[Scaling], ranges: Sequence[tuple[float, float]]) -> Scaling:
        """Where the brightest tissue lies."""
        return Scaling(_agreed(_tops(own, ranges)), 0.0)


class SynDiff(Normalisation):
    """Divided by the scan's mean, then by the contrast's training maximum; CT counted from air (SynDiff, sec. IV-A)."""

    # Paper: the mean of the volume. Here: the mean of its foreground, because the mean over a padded grid depends on
    # the field of view, counted from the scan's background, because not all MR begins at 0. Values above the training
    # maximum are kept. One voxel can set that maximum: `Robust` is the default.
    limits = (0.0, np.inf)

    def own_values(self, volume: Volume, contrast: str) -> Scaling:
        """Mean of the foreground, above the background."""
        empty = volume.background(contrast)
        values = volume.array[volume.array > volume.threshold(contrast)]
        return Scaling(float(values.mean(dtype=np.float64)) - empty if values.size else 0.0, empty)

    def cohort_values(self, own: Sequence[Scaling], ranges: Sequence[tuple[float, float]]) -> Scaling:
        """The training maximum."""
        return Scaling(max(high for _, high in ranges), 0.0)


class Percentile(Normalisation):
    """0.5th to 99.5th percentile of the box around the scan's foreground to [0, 1], clipped (for CG-DDPM)."""

    # The box and not the grid: how much air was acquired around the head must not move the percentiles.
    limits = (0.0, 1.0)

    def own_values(self, volume: Volume, contrast: str) -> Scaling:
        """The two percentiles; what lies below the background (CT's padding) counts as background."""
        box = bounding_box(volume.array > volume.threshold(contrast))
        low, high = np.percentile(np.maximum(volume.array[box], volume.background(contrast)), (0.5, 99.5))
        return Scaling(float(high - low), float(low))


class ZScore(Normalisation):
    """Mean 0 and standard deviation 1 over the scan's foreground, then the training range to [0, 1].

    As in `Robust`, the range ends at the brightest tissue, not at the brightest voxel.
    """

    def own_values(self, volume: Volume, contrast: str) -> Scaling:
        """Mean and standard deviation of the foreground."""
        empty = volume.background(contrast)
        values = volume.array[volume.array > volume.threshold(contrast)]
        if not values.size:
            return Scaling(0.0, 0.0)
        top = top_of(values)
        values = np.minimum(values, top)
        mean, deviation = float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64))
        if not deviation:
            return Scaling(0.0, mean)
        return Scaling(deviation, mean, (empty - mean) / deviation, (top - mean) / deviation)

    def cohort_values(self, own: Sequence[Scaling], ranges: Sequence[tuple[float, float]]) -> Scaling:
        """The training range."""
        lowest = min(low for low, _ in ranges)
        highest = _agreed([top - lowest for top in _tops(own, ranges)])
        return Scaling(highest, lowest)


def _tops(own: Sequence[Scaling], ranges: Sequence[tuple[float, float]]) -> list[float]:
    """Where each scan's brightest tissue lies; its highest value where that is lower, as where the grid cuts it."""
    return [high if one.top is None else min(one.top, high) for one, (_, high) in zip(own, ranges, strict=True)]


def _agreed(tops: Sequence[float]) -> float:
    """The highest, as far as the median of all vouches for it."""
    return min(max(tops), AGREE * float(np.median(tops)))


class HuWindow(Normalisation):
    """CT only: −1000 HU (air) to 2000 HU (dense bone; metal is clipped) to [0, 1]; comes back in HU exactly."""

    limits = (0.0, 1.0)

    def own_values(self, volume: Volume, contrast: str) -> Scaling:
        """The window, the same for every scan."""
        if contrast != "CT":
            raise InputError(f"{volume.name}: normalisation 'hu-window' is for CT, not {contrast}: choose another one")
        return Scaling(3000.0, AIR_HU)

    def unit(self, contrast: str) -> str:
        """Hounsfield units."""
        return "HU"


NORMALISATIONS: dict[str, Normalisation] = {
    "robust": Robust(),
    "syndiff": SynDiff(),
    "percentile": Percentile(),
    "z-score": ZScore(),
    "hu-window": HuWindow(),
}
