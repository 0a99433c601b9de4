"""Protocols: how a figure is measured, by name. No figure is given without one.

A protocol says in words what is compared (unit), on which intensities, under which mask, with which range and by
which test, and holds the functions that do it. A change that moves a figure raises its version.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scansynth.errors import InputError
from scansynth.evaluation.metrics import gradient_energy_ratio, psnr, ssim

FOREGROUND = 1 / 8
"""A voxel is foreground where it is above this share of its volume's mean (background included in the mean)."""
MIN_FOREGROUND = 0.10
"""Slices with a smaller share of foreground are left out."""


@dataclass(frozen=True)
class Protocol:
    """How figures are measured."""

    name: str
    version: int
    unit: str
    """What one figure belongs to, in words."""
    intensities: str
    """What is done to the images first, in words; `scale` does it."""
    mask: str
    """Which slices and voxels count, in words; `select` chooses the slices."""
    data_range: float
    """Range of intensities in PSNR and SSIM."""
    test: str
    """Statistical test of differences, in words."""
    select: Callable[[np.ndarray], np.ndarray]
    """Reference (X, Y, Z) → indices (n,) of the axial slices that are measured."""
    scale: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
    """Slices of synthesis and reference, (n, X, Y) each → the same on the intensities that are compared."""

    def description(self) -> dict[str, str | int | float]:
        """The protocol in words, for the head of a table."""
        return {
            "name": self.name,
            "version": self.version,
            "unit": self.unit,
            "intensities": self.intensities,
            "mask": self.mask,
            "range": self.data_range,
            "test": self.test,
        }


@dataclass(frozen=True)
class Measurement:
    """Figures of one subject under one protocol."""

    protocol: str
    protocol_version: int
    slices: np.ndarray
    """Indices along Z of the measured slices, (n,) int64, n ≥ 1."""
    psnr: np.ndarray
    """dB, one a slice, (n,) float64. Infinite where synthesis and reference are identical."""
    ssim: np.ndarray
    """Per cent, one a slice, (n,) float64."""
    gradient_energy_ratio: float
    """In-plane gradient energy of the measured slices, synthesis over reference, on the protocol's intensities."""

    @property
    def mean_psnr(self) -> float:
        """The subject's PSNR: the mean over its slices, in dB (infinite if one slice is)."""
        return float(self.psnr.mean())

    @property
    def mean_ssim(self) -> float:
        """The subject's SSIM: the mean over its slices, in per cent."""
        return float(self.ssim.mean())


def foreground(volume: np.ndarray) -> np.ndarray:
    """Voxels above one eighth of the volume's mean, (X, Y, Z) bool.

    Our choice: the papers speak of foreground without saying what it is. A share of the mean does not depend on
    the scale of the intensities, and in skull-stripped and padded images it separates tissue from exact zeros.
    """
    return volume > FOREGROUND * volume.mean()


def slices_with_foreground(reference: np.ndarray) -> np.ndarray:
    """Indices (n,) of the axial slices of the reference (X, Y, Z) with at least 10 % foreground.

    The share is that of the slice as prepared, padding included. Only the reference decides, so that every
    synthesis of a subject is measured on the same slices.

    Raises:
        InputError: if no slice is left.
    """
    shares = foreground(reference).mean(axis=(0, 1))
    kept = np.flatnonzero(shares >= MIN_FOREGROUND)
    if kept.size == 0:
        raise InputError(
            f"no slice of the reference has {MIN_FOREGROUND:.0%} foreground (the fullest has {shares.max():.1%}):"
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


PROTOCOLS = {
    "syndiff": Protocol(
        name="syndiff",
        version=1,
        unit="axial slice; subjects are the primary unit, a subject is the mean of its slices",
        intensities="each image divided by its own mean, then all images of the slice by the reference's maximum; "
        "nothing clipped; a synthesis without a positive mean is not divided by it",
        mask="slices as prepared, background included; left out: slices with under 10 % foreground "
        "(voxels above one eighth of the reference volume's mean)",
        data_range=1.0,
        test="Wilcoxon signed-rank, p < 0.05",
        select=slices_with_foreground,
        scale=by_mean_and_reference_maximum,
    ),
}


def find_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Raises:
        InputError: if there is none.
    """
    if name not in PROTOCOLS:
        raise InputError(f"protocol {name!r} is unknown: choose from {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def measure(protocol_name: str, synthesis: np.ndarray, reference: np.ndarray) -> Measurement:
    """Measure a synthesis against its reference.

    Args:
        protocol_name: a name in `PROTOCOLS`.
        synthesis: prepared volume, (X, Y, Z) in [0, 1] (other values are measured as they stand).
        reference: the true prepared volume, (X, Y, Z) in [0, 1] (larger values may occur).

    Returns:
        PSNR (dB) and SSIM (%) of each measured slice, and the in-plane gradient energy ratio of these slices.

    Raises:
        InputError: for an unknown protocol, volumes of different shapes, voxels that are not finite, a reference
            with negative values, or a reference without a slice to measure.
    """
    protocol = find_protocol(protocol_name)
    if synthesis.shape != reference.shape or synthesis.ndim != 3:
        raise InputError(
            f"synthesis {synthesis.shape} and reference {reference.shape}: expected two volumes (X, Y, Z) on one grid"
        )
    for name, volume in (("synthesis", synthesis), ("reference", reference)):
        if bad := volume.size - np.count_nonzero(np.isfinite(volume)):
            raise InputError(f"the {name} has {bad} voxels that are NaN or infinite: it cannot be measured")
    if reference.min() < 0:
        raise InputError(f"the reference has negative values (down to {reference.min():.4g}): give the prepared image")
    synthesis, reference = synthesis.astype(np.float64), reference.astype(np.float64)
    slices = protocol.select(reference)
    x, y = protocol.scale(*(np.moveaxis(volume[:, :, slices], 2, 0) for volume in (synthesis, reference)))
    return Measurement(
        protocol=protocol.name,
        protocol_version=protocol.version,
        slices=slices,
        psnr=psnr(x, y, protocol.data_range),
        ssim=100 * ssim(x, y, protocol.data_range),
        gradient_energy_ratio=gradient_energy_ratio(np.moveaxis(x, 0, 2), np.moveaxis(y, 0, 2)),
    )
