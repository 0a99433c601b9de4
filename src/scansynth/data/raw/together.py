"""A subject's scans as they come onto one grid, that of one of them, in memory.

One scan, the reference, stays where it is; the others are registered to it rigidly and interpolated once. So what is
made of them lies on a grid that the subject's own scanner gave.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scansynth.data.contrasts import STANDARD
from scansynth.data.raw.bias import without_bias
from scansynth.data.raw.brain import BEST, brain_mask
from scansynth.data.raw.registration import Registration, moved, reached, register
from scansynth.data.raw.settings import KEEP, OWN, Raw
from scansynth.data.readers import read_labels
from scansynth.data.volume import Volume, same_grid
from scansynth.errors import InputError

logger = logging.getLogger(__name__)

STAYS = 0.1
"""Of a voxel: a scan on the reference's grid that is moved by less is left as it is."""
COVERED = 0.95
"""Share of the reference's head from which on a scan counts as showing all of it."""
AGREE = 1.0
"""Millimetres within which two starts must end."""
FAR = 30.0, 50.0
"""Degrees and millimetres beyond which a head hardly moves between scans."""


@dataclass(frozen=True, kw_only=True)
class Placed:
    """How a scan was brought onto the reference's grid."""

    matrix: tuple[tuple[float, ...], ...]
    """(4, 4), mm of the reference's world → mm of the scan's."""
    degrees: float
    millimetres: float
    information: float
    before: float
    apart: float
    covered: float
    """Share of the reference's head that the scan reaches."""

    @classmethod
    def by(cls, found: Registration, covered: float) -> "Placed":
        """As registered."""
        rows = tuple(tuple(round(float(value), 6) for value in row) for row in found.matrix)
        return cls(
            matrix=rows, degrees=round(found.degrees, 3), millimetres=round(found.millimetres, 3),
            information=round(found.information, 4), before=round(found.before, 4), apart=round(found.apart, 3),
            covered=round(covered, 4),
        )  # fmt: skip

    def odd(self) -> list[str]:
        """What of it is to be looked at."""
        found = []
        if self.covered < COVERED:
            found.append(f"it reaches only {self.covered:.0%} of the head")
        if self.apart > AGREE:
            found.append(f"two starts of the registration end {self.apart:.1f} mm apart")
        if self.degrees > FAR[0] or self.millimetres > FAR[1]:
            found.append(f"it was turned by {self.degrees:.0f}° and moved by {self.millimetres:.0f} mm")
        return found


@dataclass(frozen=True, eq=False, kw_only=True)
class Together:
    """A subject's scans on one grid."""

    volumes: dict[str, Volume]
    """By contrast, the reference first."""
    reference: str
    placed: dict[str, Placed]
    """Of all but the reference."""
    brain: np.ndarray | None
    """(X, Y, Z) bool, where heads were not kept."""

    def told(self, how: Raw) -> dict[str, Any]:
        """What a sidecar says of it."""
        return {
            "reference": self.reference,
            "registered": {name: asdict(one) for name, one in self.placed.items()},
            "bias": how.bias,
            "brain": how.told.brain,
        }


def reference_of(volumes: Mapping[str, Volume], how: Raw) -> str:
    """Which of some scans stays: the one that is named, if it is there, or the one of the thinnest slices.

    Of equals, that with the smallest voxels, then the first in the order of contrasts.
    """
    if how.reference in volumes:
        return str(how.reference)
    order = [*STANDARD, *sorted(volumes)]

    def coarseness(name: str) -> tuple[float, float, int]:
        spacing = volumes[name].spacing
        return round(max(spacing), 2), round(float(np.prod(spacing)), 3), order.index(name)

    return min(volumes, key=coarseness)


def bring_together(volumes: Mapping[str, Volume], how: Raw, *, mask: Path | None = None) -> Together:
    """Bring a subject's scans onto the grid of one of them.

    Args:
        volumes: as acquired, by standard contrast name.
        how: what else is done to them.
        mask: label image of the brain on the grid of one of them, where `how` takes the subject's own.

    Raises:
        InputError: if SimpleITK is missing, or a brain is wanted and none is found, or of a CT.
    """
    if how.brain == OWN and mask is None:
        raise InputError("no mask of its brain is there (_desc-brain_mask in BIDS, _brain elsewhere): make one, or "
                         "find the brain otherwise (--brain rough, or a program)")  # fmt: skip
    if "CT" in volumes and how.brain != KEEP:
        raise InputError("a CT is masked by no brain here: leave it out, or keep the heads (--brain keep)")
    name, as_they_lay = reference_of(volumes, how), volumes
    if how.bias == "n4":
        volumes = {contrast: without_bias(volume, contrast) for contrast, volume in volumes.items()}
    reference = volumes[name]
    head = reference.array > reference.threshold(name)
    result, placed = {name: reference}, {}
    for contrast, volume in volumes.items():
        if contrast == name:
            continue
        found = register(reference, volume, contrasts=(name, contrast))
        inside = reached(volume, found.matrix, reference)
        placed[contrast] = Placed.by(found, float(inside[head].mean()) if head.any() else 0.0)
        there = same_grid(reference.space, volume.space)
        if there and found.shift < STAYS * min(reference.spacing):
            result[contrast] = replace(reference, array=volume.array, path=volume.path, _found={})
            continue
        array = moved(volume, found.matrix, reference, volume.background(contrast))
        result[contrast] = replace(reference, array=array, path=volume.path, _found={})
    brain = None
    if how.brain != KEEP:
        if mask and how.brain == OWN:
            brain = labels_together(mask, as_they_lay, name, placed) > 0
        else:
            best = next((contrast for contrast in BEST if contrast in result), name)
            brain = brain_mask(result[best], best, how.brain)
        result = {
            contrast: replace(volume, array=np.where(brain, volume.array, 0).astype(np.float32), _found={})
            for contrast, volume in _above_nothing(result).items()
        }
    return Together(volumes=result, reference=name, placed=placed, brain=brain)


def labels_together(
    path: Path, volumes: Mapping[str, Volume], reference: str, placed: Mapping[str, Placed]
) -> np.ndarray:
    """A label image on the reference's grid, moved as the scan that it lies on.

    Args:
        path: of the labels.
        volumes: the scans as they lay.
        reference: the contrast that stays.
        placed: how the others were brought onto its grid.

    Returns:
        (X, Y, Z).

    Raises:
        InputError: if it is no label image, or lies on no scan's grid.
    """
    labels, affine = read_labels(path)
    owners = [key for key in volumes if same_grid(volumes[key].space, (labels.shape, affine))]
    if not owners:
        raise InputError(f"{path}: the mask lies on no scan's grid: resample it to its scan")
    if reference in owners:
        return labels
    matrix = np.asarray(placed[owners[0]].matrix)
    return moved(Volume.of(labels, affine), matrix, volumes[reference], 0.0, order=0)


def _above_nothing(volumes: Mapping[str, Volume]) -> dict[str, Volume]:
    """Scans whose background is 0, as that of a masked one must be."""
    shifted = {}
    for contrast, volume in volumes.items():
        array = np.maximum(volume.array - np.float32(volume.background(contrast)), 0)
        shifted[contrast] = replace(volume, array=array, _found={})
    return shifted


def together_odd(placed: Mapping[str, Mapping[str, Placed]]) -> dict[tuple[str, str], list[str]]:
    """Subject and contrast → what is to be looked at, each registration beside those of the other subjects.

    Args:
        placed: subject → contrast → how it was placed.
    """
    known: dict[str, list[float]] = {}
    for scans in placed.values():
        for contrast, one in scans.items():
            known.setdefault(contrast, []).append(one.information)
    found = {}
    for subject, scans in placed.items():
        for contrast, one in scans.items():
            odd = one.odd()
            usual = float(np.median(known[contrast]))
            if len(known[contrast]) > 2 and one.information < 0.5 * usual:
                odd.append(f"it has {one.information:.2f} nats in common with the reference, others {usual:.2f}")
            if odd:
                found[subject, contrast] = odd
    return found
