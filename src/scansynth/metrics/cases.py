"""What a protocol is given of a subject, and how its images are prepared: foreground, masks, intensities."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from scansynth.errors import InputError
from scansynth.metrics.image_metrics import Images

FOREGROUND = 1 / 8
"""A voxel is foreground where it is above this share of its volume's mean (background included in the mean)."""
MIN_FOREGROUND = 0.10
"""Slices with a smaller share of foreground are left out by `syndiff`."""
HU_RANGE = (-1024.0, 3071.0)
"""Hounsfield units that `synthrad` compares."""
BODY_HU = -400.0
"""Above it lies a body: between lung and fat."""


@dataclass(frozen=True)
class Case:
    """What a protocol is given of one subject."""

    synthesis: np.ndarray
    """Prepared volume, (X, Y, Z) in [0, 1] (other values are measured as they stand)."""
    reference: np.ndarray
    """The true prepared volume, (X, Y, Z) in [0, 1] (larger values may occur)."""
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Masks of the subject by name, (X, Y, Z), 0 outside."""
    to_units: Callable[[np.ndarray], np.ndarray] | None = None
    """From [0, 1] to the contrast's unit, where that is known."""


@dataclass(frozen=True)
class Prepared:
    """What the metrics of a protocol see of a subject."""

    images: Mapping[str, Images]
    """By region; the region of the whole is named ''."""
    slices: np.ndarray | None = None
    """Indices along Z of the measured slices, (n,), where the unit is a slice."""


def foreground(volume: np.ndarray) -> np.ndarray:
    """Voxels above one eighth of the volume's mean, (X, Y, Z) bool.

    Our choice: the papers speak of foreground without saying what it is. A share of the mean does not depend on
    the scale of the intensities, and in skull-stripped and padded images it separates tissue from exact zeros.
    """
    return volume > FOREGROUND * volume.mean()


def slices_with_foreground(reference: np.ndarray, share: float = MIN_FOREGROUND) -> np.ndarray:
    """Indices (n,) of the axial slices of the reference (X, Y, Z) with at least so much foreground.

    The share is that of the slice as prepared, padding included. Only the reference decides, so that every
    synthesis of a subject is measured on the same slices.

    Raises:
        InputError: if no slice is left.
    """
    shares = foreground(reference).mean(axis=(0, 1))
    kept = np.flatnonzero((shares >= share) & (shares > 0))
    if kept.size == 0:
        raise InputError(
            f"no slice of the reference has {share:.0%} foreground (the fullest has {shares.max():.1%}):"
            " nothing can be measured; is this the prepared image of the right subject?"
        )
    return kept


def by_mean_and_reference_maximum(synthesis: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """SynDiff's intensities: each image divided by its own mean, then both by the reference's maximum.

    An image is a slice; the maximum is that of the reference slice after its division by the mean. So the
    reference has the maximum 1, and the scale of the synthesis does not matter. Nothing is clipped: larger values
    of the synthesis and negative ones stay as they are. A synthesis whose mean is zero or negative cannot be
    divided by it; it enters as given, divided by the reference's maximum only (an empty slice stays empty and is
    measured as such).

    Args:
        synthesis: slices, (n, X, Y) float64.
        reference: slices, (n, X, Y) float64, not negative and none empty.

    Returns:
        Both on the intensities that are compared, (n, X, Y).
    """
    synthesis_mean = synthesis.mean(axis=(1, 2), keepdims=True)
    synthesis = synthesis / np.where(synthesis_mean > 0, synthesis_mean, 1.0)
    reference = reference / reference.mean(axis=(1, 2), keepdims=True)
    maximum = reference.max(axis=(1, 2), keepdims=True)
    return synthesis / maximum, reference / maximum


def brain(case: Case) -> np.ndarray:
    """The mask `brain`, or the reference's foreground with its holes filled, slice by slice; (X, Y, Z) bool."""
    if "brain" in case.masks:
        return case.masks["brain"] > 0
    return filled(foreground(case.reference))


def filled(mask: np.ndarray) -> np.ndarray:
    """A mask (X, Y, Z) with the holes of its axial slices filled."""
    slices = [np.asarray(ndimage.binary_fill_holes(mask[:, :, z])) for z in range(mask.shape[2])]
    return np.stack(slices, axis=2)


def body(case: Case, reference: np.ndarray) -> np.ndarray:
    """The mask `body`, or the largest piece of the reference (HU) above −400 with its holes filled; (X, Y, Z) bool."""
    if "body" in case.masks:
        return case.masks["body"] > 0
    pieces: Any = ndimage.label(reference > BODY_HU)[0]  # pyright: ignore[reportGeneralTypeIssues, reportIndexIssue]
    if not pieces.any():
        raise InputError(
            "the reference has no voxel above −400 HU: there is no body; is this a CT in Hounsfield units?"
        )
    return filled(pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:])))


def _as_slices(case: Case, slices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.moveaxis(volume[:, :, slices], 2, 0) for volume in (case.synthesis, case.reference))
    return x, y


def prepare_syndiff(case: Case) -> Prepared:
    """Slices on SynDiff's intensities."""
    slices = slices_with_foreground(case.reference)
    return Prepared({"": Images.of(*by_mean_and_reference_maximum(*_as_slices(case, slices)), 1.0)}, slices)


def prepare_slices(case: Case) -> Prepared:
    """Slices with any foreground, as prepared."""
    slices = slices_with_foreground(case.reference, share=0.0)
    return Prepared({"": Images.of(*_as_slices(case, slices), 1.0)}, slices)


def prepare_cg_ddpm(case: Case) -> Prepared:
    """The whole volume in [−1, 1]."""
    return Prepared({"": Images.of(2 * case.synthesis[None] - 1, 2 * case.reference[None] - 1, 2.0, lowest=-1.0)})


def prepare_brasyn(case: Case) -> Prepared:
    """The volume by region: tumour, healthy, whole.

    Raises:
        InputError: if there is no mask `seg`, or a region has no voxel.
    """
    if "seg" not in case.masks:
        raise InputError("protocol brasyn measures inside and outside the tumour: the subject has no mask `seg`")
    tumour, whole = case.masks["seg"] > 0, brain(case)
    regions = {"tumour": tumour, "healthy": whole & ~tumour, "whole": whole | tumour}
    empty = [name for name, region in regions.items() if not region.any()]
    if empty:
        raise InputError(f"protocol brasyn: the region {', '.join(empty)} has no voxel; check the mask `seg`")
    x, y = case.synthesis[None], case.reference[None]
    return Prepared({name: Images.of(x, y, 1.0, mask=region[None]) for name, region in regions.items()})


def prepare_synthrad(case: Case) -> Prepared:
    """Hounsfield units inside the body.

    Raises:
        InputError: if the unit is not known, or there is no body.
    """
    if case.to_units is None:
        raise InputError("protocol synthrad measures CT in Hounsfield units: prepare CT with --intensity hu-window")
    reference = case.to_units(case.reference)
    mask = body(case, reference)
    x, y = (np.clip(volume, *HU_RANGE) - HU_RANGE[0] for volume in (case.to_units(case.synthesis), reference))
    return Prepared({"": Images.of(x[None], y[None], HU_RANGE[1] - HU_RANGE[0], mask=mask[None])})


def inside_the_brain(case: Case) -> Images:
    """The volume as protocol `default` sees it: as prepared, inside the brain, with the reference's range there.

    Raises:
        InputError: if the brain has no voxel or no range, or the volumes cannot be measured.
    """
    mask = brain(case)
    if not mask.any():
        raise InputError("the mask has no voxel: nothing can be measured under it")
    return Images.of(case.synthesis[None], case.reference[None], np.ptp(case.reference[mask]), mask=mask[None])


def prepare_default(case: Case) -> Prepared:
    """The volume inside the brain (`inside_the_brain`)."""
    return Prepared({"": inside_the_brain(case)})
