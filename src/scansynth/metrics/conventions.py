"""One pair of images under the conventions in use: why two papers' figures cannot be laid side by side.

Published PSNR and SSIM differ in intensities, range, mask, unit and window, and seldom say so. Nothing here is a way to
measure: use a protocol. What is listed was met in papers and public code.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from scansynth.errors import InputError
from scansynth.metrics.cases import Case, brain, by_mean_and_reference_maximum, slices_with_foreground
from scansynth.metrics.image_metrics import Images, psnr, ssim
from scansynth.metrics.protocols import PROTOCOLS, Unit, measure


@dataclass(frozen=True)
class Convention:
    """A figure of the pair under one convention."""

    name: str
    unit: Unit
    psnr: float
    """dB; of slices, the mean."""
    ssim: float
    """Per cent; of slices, the mean."""


def under_conventions(synthesis: np.ndarray, reference: np.ndarray) -> list[Convention]:
    """PSNR and SSIM of a pair under each convention, from the highest PSNR to the lowest.

    Args:
        synthesis: (X, Y, Z), not negative.
        reference: (X, Y, Z), not negative, on the same grid and scale.

    Raises:
        InputError: as `measure`, or if the reference is empty.
    """
    if not reference.max() > 0:
        raise InputError("the reference is empty: nothing can be measured")
    x, y = (volume.astype(np.float64) / reference.max() for volume in (synthesis, reference))
    measure("syndiff", x, y)  # its errors say what is wrong with the images
    mask = brain(Case(x, y))
    box = tuple([slice(int(places.min()), int(places.max()) + 1) for places in np.nonzero(mask)])
    slices = slices_with_foreground(y)
    xs, ys = (np.moveaxis(volume[:, :, slices], 2, 0) for volume in (x, y))
    everything = [np.moveaxis(volume, 2, 0) for volume in (x, y)]
    top = np.percentile(y[mask], 99.5)

    def clip(image: np.ndarray) -> np.ndarray:
        return np.clip(image / top, 0, 1)

    found = [
        _volume("whole volume, range 1 after division by the reference's maximum", x, y, 1.0),
        _volume("the same, mapped to [−1, 1], range 2", 2 * x - 1, 2 * y - 1, 2.0),
        _volume("the same, mapped to [−1, 1], range 1", 2 * x - 1, 2 * y - 1, 1.0),
        _volume("whole volume, each image divided by its own maximum, range 1", x / max(x.max(), 1e-12), y, 1.0),
        _volume("whole volume, clipped at the reference's 99.5th percentile, range 1", clip(x), clip(y), 1.0),
        _volume("cropped to the brain's box, range 1", x[box], y[box], 1.0),
        _volume("inside the brain, range 1", x, y, 1.0, mask=mask),
        _volume("inside the brain, the reference's range inside it", x, y, float(np.ptp(y[mask])), mask=mask),
        _slices("every slice, empty ones too, range 1 (equal slices left out)", everything[0], everything[1], _same),
        _slices("slices with 10 % foreground, range 1", xs, ys, _same),
        _slices("slices with 10 % foreground, each divided by the reference slice's maximum", xs, ys, _by_reference),
        _slices("slices with 10 % foreground, each image mapped to its own [0, 1]", xs, ys, _by_own_range),
        _slices("slices with 10 % foreground, each image rounded to 8 bits by its own range", xs, ys, _by_8_bits),
        _slices(
            "protocol syndiff: each slice by its mean, then by the reference's maximum",
            xs,
            ys,
            by_mean_and_reference_maximum,
        ),
    ]
    return sorted(found, key=lambda convention: -convention.psnr)


def markdown(conventions: list[Convention]) -> str:
    """A table for people."""
    lines = ["| convention | unit | PSNR (dB) | SSIM (%) |", "| --- | --- | ---: | ---: |"]
    lines += [f"| {one.name} | {one.unit} | {one.psnr:.2f} | {one.ssim:.2f} |" for one in conventions]
    figures = [one.psnr for one in conventions]
    lines += ["", f"PSNR of one pair of images spans {max(figures) - min(figures):.1f} dB by convention alone."]
    return "\n".join([*lines, f"Protocols of scansynth: {', '.join(PROTOCOLS)}.", ""])


def _volume(
    name: str, x: np.ndarray, y: np.ndarray, data_range: float, *, mask: np.ndarray | None = None
) -> Convention:
    images = Images.of(x[None], y[None], data_range, mask=None if mask is None else mask[None])
    return Convention(name, "volume", psnr(images).item(), ssim(images).item())


def _slices(
    name: str,
    x: np.ndarray,
    y: np.ndarray,
    scale: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> Convention:
    images = Images.of(*scale(x, y), 1.0)
    decibels = psnr(images)
    return Convention(name, "slice", decibels[torch.isfinite(decibels)].mean().item(), ssim(images).mean().item())


def _same(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x, y


def _by_reference(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    top = y.max(axis=(1, 2), keepdims=True)
    return x / top, y / top


def _by_own_range(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lows, ranges = ([f(image, axis=(1, 2), keepdims=True) for image in (x, y)] for f in (np.min, np.ptp))
    a, b = (
        (image - low) / np.where(extent > 0, extent, 1) for image, low, extent in zip((x, y), lows, ranges, strict=True)
    )
    return a, b


def _by_8_bits(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = (np.round(255 * image) / 255 for image in _by_own_range(x, y))
    return a, b
