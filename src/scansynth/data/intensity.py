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

from scansynth.data.volume import Volume
from scansynth.errors import InputError

AIR_HU = -1000.0


def background(contrast: str) -> float:
    """What an empty voxel measures: air (−1000 HU) in CT, 0 in MRI."""
    return AIR_HU if contrast == "CT" else 0.0


def foreground_threshold(array: np.ndarray, contrast: str) -> float:
    """The value above which a voxel counts as foreground: one eighth of the mean above the background.

    SPM's global (`spm_global`) draws the same line. CT is counted from air, and nothing lies below air.

    Args:
        array: the whole scan as acquired, (X, Y, Z).
        contrast: standard name of the contrast.
    """
    empty = background(contrast)
    above = np.maximum(array - empty, 0) if contrast == "CT" else array
    return empty + float(above.mean(dtype=np.float64)) / 8


@dataclass(frozen=True)
class Scaling:
    """One straight line, `(values − offset) / scale`."""

    scale: float
    offset: float

    def apply(self, values: np.ndarray) -> np.ndarray:
        """To the smaller range; shape and float32 are kept."""
        return (values - self.offset) / self.scale

    def undo(self, values: np.ndarray) -> np.ndarray:
        """The way back."""
        return values * self.scale + self.offset


@dataclass(frozen=True)
class ContrastStatistics:
    """What the training subjects say about a contrast; it travels with the run."""

    scale_cohort: float
    offset_cohort: float
    typical_scale: float
    """Training median of the own scales."""
    typical_offset: float
    """Training median of the own offsets."""
    background: float
    """Value of an empty voxel, in the contrast's unit."""
    unit: str
    """Unit of what `to_units` gives."""
    scans: int
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
    """What the own half is clipped to."""

    @abstractmethod
    def own_values(self, volume: Volume, contrast: str) -> Scaling:
        """The own half of a scan, read from its array as acquired."""

    def cohort_values(self, lowest: float, highest: float) -> Scaling:
        """The cohort half, from the range that the training scans have after their own halves."""
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
                f"{volume.path}: its intensities cannot be normalised as {contrast} (scale {own.scale:.4g}): "
                "check that the file is that contrast and is not almost empty"
            )
        return own

    def apply_own(self, array: np.ndarray, own: Scaling) -> np.ndarray:
        """Own half of an array of this scan, on whatever grid; float32."""
        return np.clip(own.apply(array), *self.limits).astype(np.float32, copy=False)

    def fit(self, contrast: str, own: Sequence[Scaling], ranges: Sequence[tuple[float, float]]) -> ContrastStatistics:
        """Statistics of a contrast.

        Args:
            contrast: standard name of the contrast.
            own: own halves of the training scans.
            ranges: lowest and highest value of each prepared training scan after its own half.
        """
        assert own, "statistics need a training scan"
        cohort = self.cohort_values(min(low for low, _ in ranges), max(high for _, high in ranges))
        return ContrastStatistics(
            scale_cohort=cohort.scale,
            offset_cohort=cohort.offset,
            typical_scale=float(np.median([scaling.scale for scaling in own])),
            typical_offset=float(np.median([scaling.offset for scaling in own])),
            background=background(contrast),
            unit=self.unit(contrast),
            scans=len(own),
        )


class SynDiff(Normalisation):
    """Divided by the scan's mean, then by the contrast's training maximum; CT counted from air (SynDiff, sec. IV-A)."""

    # Paper: the mean of the volume. Here: the mean of its foreground, because the mean over a padded grid depends on
    # the field of view. Below 0 there is nothing: CT by the paper, MR because magnitudes are not negative. Values above
    # the training maximum are kept.
    limits = (0.0, np.inf)

    def own_values(self, volume: Volume, contrast: str) -> Scaling:
        """Mean of the foreground, above the background."""
        empty = background(contrast)
        values = volume.array[volume.array > foreground_threshold(volume.array, contrast)]
        return Scaling(float(values.mean(dtype=np.float64)) - empty if values.size else 0.0, empty)

    def cohort_values(self, lowest: float, highest: float) -> Scaling:
        """The training maximum."""
        return Scaling(highest, 0.0)


class Percentile(Normalisation):
    """0.5th to 99.5th percentile of the box around the scan's foreground to [0, 1], clipped (for CG-DDPM)."""

    # The box and not the grid: how much air was acquired around the head must not move the percentiles.
    limits = (0.0, 1.0)

    def own_values(self, volume: Volume, contrast: str) -> Scaling:
        """The two percentiles."""
        box = bounding_box(volume.array > foreground_threshold(volume.array, contrast))
        low, high = np.percentile(volume.array[box], (0.5, 99.5))
        return Scaling(float(high - low), float(low))


class ZScore(Normalisation):
    """Mean 0 and standard deviation 1 over the scan's foreground, then the training range to [0, 1]."""

    def own_values(self, volume: Volume, contrast: str) -> Scaling:
        """Mean and standard deviation of the foreground."""
        values = volume.array[volume.array > foreground_threshold(volume.array, contrast)]
        if not values.size:
            return Scaling(0.0, 0.0)
        return Scaling(float(values.std(dtype=np.float64)), float(values.mean(dtype=np.float64)))

    def cohort_values(self, lowest: float, highest: float) -> Scaling:
        """The training range."""
        return Scaling(highest - lowest, lowest)


class HuWindow(Normalisation):
    """CT only: −1000 HU (air) to 2000 HU (dense bone; metal is clipped) to [0, 1]; comes back in HU exactly."""

    limits = (0.0, 1.0)

    def own_values(self, volume: Volume, contrast: str) -> Scaling:
        """The window, the same for every scan."""
        if contrast != "CT":
            raise InputError(f"{volume.path}: normalisation 'hu-window' is for CT, not {contrast}: choose another one")
        return Scaling(3000.0, AIR_HU)

    def unit(self, contrast: str) -> str:
        """Hounsfield units."""
        return "HU"


NORMALISATIONS: dict[str, Normalisation] = {
    "syndiff": SynDiff(),
    "percentile": Percentile(),
    "z-score": ZScore(),
    "hu-window": HuWindow(),
}


def bounding_box(mask: np.ndarray) -> tuple[slice, slice, slice]:
    """The smallest box that holds a mask, (X, Y, Z) bool; the whole array if the mask is empty."""
    box = []
    for axis in range(3):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(hits[0]), int(hits[-1]) + 1) if hits.size else slice(0, mask.shape[axis]))
    return box[0], box[1], box[2]
