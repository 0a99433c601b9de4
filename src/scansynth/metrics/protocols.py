"""Protocols: how a figure is measured, by name. No figure is given without one.

A protocol says in words what is compared (unit), on which intensities, under which mask, with which range and by
which test, and holds the function that prepares the images so. A change that moves a figure raises its version.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from scansynth.errors import InputError
from scansynth.metrics.cases import (
    Case,
    Prepared,
    prepare_brasyn,
    prepare_cg_ddpm,
    prepare_default,
    prepare_slices,
    prepare_syndiff,
    prepare_synthrad,
)
from scansynth.metrics.image_metrics import (
    FSIM,
    GMSD,
    GRADIENT_ENERGY,
    MAE,
    MAE_HU,
    NMSE,
    PSNR,
    SSIM,
    TEXTURE,
    Images,
    Metric,
    named_ms_ssim,
)

WIDEST = 4.0
"""Times the reference's own span that a range may have: beyond it PSNR is 12 dB too high."""

Unit = Literal["slice", "volume", "set"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How figures are measured."""

    name: str
    version: int
    source: str
    """The paper, or who has settled it."""
    unit: Unit
    """What one figure belongs to. The subject is the primary unit: its figure is the mean of its slices. A set holds
    generated volumes, which belong to no subject: `measure` has no figure for one."""
    intensities: str
    """What is done to the images first, in words."""
    mask: str
    """Which slices and voxels count, and what the background does, in words."""
    data_range: str
    """Range of intensities in PSNR and SSIM, in words."""
    test: str
    """Statistical test of differences, in words."""
    metrics: tuple[tuple[Metric, str], ...]
    """Metrics, each with its region."""
    prepare: Callable[[Case], Prepared] | None
    """A subject's images as the metrics see them; None where sets are compared."""
    whole: str = ""
    """The region that holds all others, where a further metric is taken."""
    figures: str = ""
    """What is measured of sets, in words."""
    caution: str = ""
    """What a reader must know who holds these figures beside those of another protocol."""

    def only(self, column: str) -> "Protocol":
        """The protocol with one of its figures."""
        return replace(self, metrics=tuple(one for one in self.metrics if one[0].column == column))

    def with_metric(self, metric: Metric) -> "Protocol":
        """The same protocol with one figure more, the last; its own figures stay as they are."""
        return replace(self, metrics=(*self.metrics, (metric, self.whole)))

    @property
    def columns(self) -> dict[str, Metric]:
        """The figures' names, with their metrics (whose heading names the region)."""
        return {f"{metric.column}{'_' if region else ''}{region}": metric for metric, region in self.metrics}

    def heading(self, column: str) -> str:
        """A figure's heading for people, `SSIM (%), tumour`."""
        region = next(
            region for metric, region in self.metrics if f"{metric.column}{'_' * bool(region)}{region}" == column
        )
        return self.columns[column].heading + (f", {region}" if region else "")

    def description(self) -> dict[str, str | int]:
        """The protocol in words, for the head of a table."""
        words = ("name", "version", "source", "unit", "intensities", "mask", "data_range", "test")
        further = {name: getattr(self, name) for name in ("figures", "caution") if getattr(self, name)}
        return {name: getattr(self, name) for name in words} | further


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Figures of one subject under one protocol."""

    protocol: str
    protocol_version: int
    figures: Mapping[str, np.ndarray]
    """By the names in `Protocol.columns`: one a slice (n,), or one for the subject (1,); float64."""
    slices: np.ndarray | None = None
    """Indices along Z of the measured slices, (n,) int64, n ≥ 1; None where the unit is a volume."""
    voxels: int = 0
    """Voxels that count."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Figures that cannot be had or trusted, which are NaN, and why."""

    def mean(self, column: str) -> float:
        """The subject's figure: the mean over its slices (infinite if one slice is)."""
        return float(self.figures[column].mean())


def _whole(*metrics: Metric) -> tuple[tuple[Metric, str], ...]:
    return tuple((metric, "") for metric in metrics)


_AS_PREPARED = "as prepared, [0, 1]"
_ALL_SLICES = (
    "whole slices, background included; slices without foreground (voxels above one eighth of the reference volume's "
    "mean) are left out"
)


def _background_counts(decibels: str) -> str:
    """What it gives away, as measured on phantoms (docs/protocols.md)."""
    return (
        "Background counts, where a synthesis is right by doing nothing: of a whole head PSNR is some "
        f"{decibels} dB above that inside the brain (protocol default), and SSIM higher; no figure that is taken "
        "inside it can be held against these"
    )


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol(
            name="default",
            version=2,
            source="scansynth",
            unit="volume",
            intensities=_AS_PREPARED,
            mask="inside the brain: the mask `brain`, or the reference's foreground (voxels above one eighth of its "
            "mean) with its holes filled; SSIM and MS-SSIM average their 3D maps over it; FSIM, GMSD and "
            "texture similarity count both images as 0 outside it and are means over axial slices",
            data_range="of the reference inside the mask, its maximum less its minimum",
            test="Wilcoxon signed-rank over subjects, Holm's correction",
            metrics=_whole(PSNR, SSIM, named_ms_ssim(7, 3), MAE, NMSE, FSIM, GMSD, TEXTURE, GRADIENT_ENERGY),
            prepare=prepare_default,
        ),
        Protocol(
            name="syndiff",
            version=1,
            source="Özbey et al., IEEE TMI 42(12), 2023",
            unit="slice",
            intensities="each image divided by its own mean, then all images of the slice by the reference's maximum; "
            "nothing clipped; a synthesis without a positive mean is not divided by it",
            mask="slices as prepared, background included; left out: slices with under 10 % foreground "
            "(voxels above one eighth of the reference volume's mean)",
            data_range="1",
            test="Wilcoxon signed-rank, p < 0.05",
            metrics=_whole(PSNR, SSIM, GRADIENT_ENERGY),
            prepare=prepare_syndiff,
            caution=_background_counts("3 to 6"),
        ),
        Protocol(
            name="cg-ddpm",
            version=1,
            source="CG-DDPM (cycle-guided DDPM for cross-modality MRI synthesis); range assumed",
            unit="volume",
            intensities="as prepared, to [−1, 1]",
            mask="the whole volume, padding included",
            data_range="2",
            test="Wilcoxon signed-rank over subjects (the paper names none)",
            metrics=_whole(named_ms_ssim(7, 3), MAE, PSNR, GRADIENT_ENERGY),
            prepare=prepare_cg_ddpm,
            caution=_background_counts("4 to 5"),
        ),
        Protocol(
            name="mrdiff",
            version=2,
            source="MRDiff (Shin et al.); range assumed",
            unit="slice",
            intensities=_AS_PREPARED,
            mask=_ALL_SLICES,
            data_range="1",
            test="paired t-test over subjects (over slices in the paper)",
            metrics=_whole(PSNR, SSIM, FSIM, GMSD, GRADIENT_ENERGY),
            prepare=prepare_slices,
            caution=_background_counts("6 to 7"),
        ),
        Protocol(
            name="cola-diff",
            version=1,
            source="CoLa-Diff (Jiang et al.); range assumed",
            unit="slice",
            intensities=_AS_PREPARED,
            mask=_ALL_SLICES,
            data_range="1",
            test="none",
            metrics=_whole(PSNR, SSIM, GRADIENT_ENERGY),
            prepare=prepare_slices,
            caution=_background_counts("6 to 7"),
        ),
        Protocol(
            name="brasyn",
            version=1,
            source="missing-MRI challenge (BraSyn); details settled here",
            unit="volume",
            intensities=_AS_PREPARED,
            mask="the 3D SSIM map averaged inside the tumour (mask `seg`), inside the rest of the brain (mask `brain`, "
            "or the reference's foreground with its holes filled), and inside both",
            data_range="1",
            test="Wilcoxon signed-rank over subjects, Holm's correction",
            metrics=tuple((metric, region) for metric in (SSIM, PSNR) for region in ("tumour", "healthy", "whole")),
            prepare=prepare_brasyn,
            whole="whole",
        ),
        Protocol(
            name="synthrad",
            version=1,
            source="MR-to-CT challenge (SynthRAD); details settled here",
            unit="volume",
            intensities="Hounsfield units, clipped to −1024…3071",
            mask="inside the body: the mask `body`, or the largest piece of the reference above −400 HU with its holes "
            "filled",
            data_range="4095 HU",
            test="Wilcoxon signed-rank over subjects, Holm's correction",
            metrics=_whole(MAE_HU, PSNR, named_ms_ssim(7, 3)),
            prepare=prepare_synthrad,
        ),
        Protocol(
            name="cdpm",
            version=1,
            source="cDPM (conditional DPM of whole 3D brain MRIs)",
            unit="set",
            intensities=_AS_PREPARED,
            mask="whole volumes of 128×128×128, background included",
            data_range="1",
            test="none",
            metrics=(),
            prepare=None,
            figures="MS-SSIM (%; 5 scales, window 7) of random pairs of generated volumes, beside that of pairs of "
            "real ones; squared MMD (linear kernel on all voxels, Gaussian kernel on 32 voxels a side); FID of the "
            "central axial, coronal and sagittal slices (FID-A, FID-C, FID-S), with the features' extractor named",
        ),
    )
}
"""Protocols by name."""


def find_protocol(name: str | Protocol) -> Protocol:
    """The protocol of that name, to measure pairs with; a protocol itself is taken as it is.

    Raises:
        InputError: if there is none, or it compares sets.
    """
    if isinstance(name, str) and name not in PROTOCOLS:
        raise InputError(f"protocol {name!r} is unknown: choose from {', '.join(PROTOCOLS)}")
    protocol = PROTOCOLS[name] if isinstance(name, str) else name
    if protocol.unit == "set":
        pairs = ", ".join(other.name for other in PROTOCOLS.values() if other.unit != "set")
        raise InputError(
            f"protocol {protocol.name} compares a set of generated volumes with a set of real ones, and has no figure "
            f"for a synthesis and its reference: choose from {pairs}"
        )
    return protocol


def measure(
    protocol: str | Protocol,
    synthesis: np.ndarray,
    reference: np.ndarray,
    *,
    masks: Mapping[str, np.ndarray] | None = None,
    to_units: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Measurement:
    """Measure a synthesis against its reference.

    Args:
        protocol: a name in `PROTOCOLS`, or a protocol (one with a further metric).
        synthesis: prepared volume, (X, Y, Z) in [0, 1] (other values are measured as they stand).
        reference: the true prepared volume, (X, Y, Z) in [0, 1] (larger values may occur).
        masks: of the subject, by name, (X, Y, Z).
        to_units: from [0, 1] to the contrast's unit, for CT in Hounsfield units.

    Returns:
        The protocol's figures. One that cannot be had of these volumes (too few slices), or not trusted (a range far
        beyond the reference's own), is missing and keeps no other back.

    Raises:
        InputError: for an unknown protocol or one of sets, volumes of different shapes, voxels that are not finite, a
            reference with negative values, a mask that is missing or has no voxel, a reference without a slice to
            measure, or if no figure can be had.
    """
    protocol = find_protocol(protocol)
    assert protocol.prepare is not None, protocol.name
    if synthesis.shape != reference.shape or synthesis.ndim != 3:
        raise InputError(
            f"synthesis {synthesis.shape} and reference {reference.shape}: expected two volumes (X, Y, Z) on one grid"
        )
    if protocol.unit == "volume" and min(reference.shape) == 1:
        raise InputError(
            f"a single slice {reference.shape} is no volume: measure it by a protocol of slices (syndiff, mrdiff, "
            "cola-diff)"
        )
    for name, volume in (("synthesis", synthesis), ("reference", reference)):
        if bad := volume.size - np.count_nonzero(np.isfinite(volume)):
            raise InputError(f"the {name} has {bad} voxels that are NaN or infinite: it cannot be measured")
    if reference.min() < 0:
        raise InputError(f"the reference has negative values (down to {reference.min():.4g}): give the prepared image")
    for name, mask in (masks or {}).items():
        if mask.shape != reference.shape:
            raise InputError(f"mask {name} {mask.shape} and reference {reference.shape} lie on different grids")
    case = Case(synthesis.astype(np.float64), reference.astype(np.float64), masks or {}, to_units)
    prepared = protocol.prepare(case)
    figures: dict[str, np.ndarray] = {}
    missing: dict[str, str] = {}
    for column, (metric, region) in zip(protocol.columns, protocol.metrics, strict=True):
        images = prepared.images[region]
        try:
            if metric.ranged:  # a part of the image may well span less than the whole
                check_range(prepared.images[protocol.whole])
            figures[column] = metric.of(images)
        except InputError as error:
            figures[column] = np.full(len(images.reference) if metric.per_image else 1, np.nan)
            missing[column] = str(error)
    if len(missing) == len(figures):
        raise InputError(next(iter(missing.values())))
    counted = max(
        int(images.reference.numel() if images.mask is None else images.mask.sum())
        for images in prepared.images.values()
    )
    return Measurement(
        protocol=protocol.name,
        protocol_version=protocol.version,
        figures=figures,
        slices=prepared.slices,
        voxels=counted,
        missing=missing,
    )


def check_range(images: Images) -> None:
    """Raise InputError if figures that are taken by a range would be flattered by it.

    A range of n times the reference's own adds 20·log10(n) dB to every PSNR. One voxel can do that, where it sets a
    contrast's scale (an image in a hundredth of its range) or a reference's maximum.
    """
    counted = images.reference if images.mask is None else images.reference[images.mask]
    low, high = np.percentile(counted.numpy(), (0.1, 99.9))
    own = float(high - low)
    if images.data_range > WIDEST * own:
        raise InputError(
            f"the range, {images.data_range:.3g}, is more than {WIDEST:g} times what the reference spans ({own:.3g}, "
            "from its 0.1st to its 99.9th percentile): PSNR and what is like it would come out too high; prepare with "
            "--intensity robust, or look for a voxel that sets the scale (census.tsv)"
        )
