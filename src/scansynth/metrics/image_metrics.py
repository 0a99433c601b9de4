"""Metrics of syntheses against their references: slices (N, H, W) or volumes (N, X, Y, Z), under a mask or without.

A figure means nothing without the intensities, the range and the mask it was taken with: `Images` holds them, and the
protocols (`scansynth.metrics.protocols`) say which. Every metric gives one figure an image.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scansynth.errors import InputError
from scansynth.metrics import feature_similarity, texture_similarity
from scansynth.metrics.structural_similarity import SCALE_WEIGHTS, ssim_maps, structure_by_scale

WINDOW = 11
"""Side of SSIM's window."""
SLICES = 4
"""Slices that a metric works on at once: more leave the processor's caches and are slower."""
FEATURE_SLICES = 2
"""The same for metrics that look at a slice in many ways (filters, layers of a network)."""

Better = Literal["more", "less", "one"]
"""Which way a figure is better: `one` is a ratio to the truth, best at 1."""


@dataclass(frozen=True)
class Images:
    """What is compared: images on one scale, with their range and what of them counts."""

    synthesis: Tensor
    """Slices (N, H, W) or volumes (N, X, Y, Z), float64."""
    reference: Tensor
    """The truth, the same shape."""
    data_range: float
    """What counts as the full range of intensities."""
    mask: Tensor | None = None
    """Voxels that count, bool, the same shape; None: all."""
    lowest: float = 0.0
    """Where the range begins: what is black."""

    @classmethod
    def of(
        cls, synthesis: Any, reference: Any, data_range: float | None, *, mask: Any = None, lowest: float = 0.0
    ) -> "Images":
        """Images of numpy arrays or tensors.

        Raises:
            InputError: if shapes differ or are not those of images, a voxel is not finite, there is no range, or a mask
                has an image without a voxel.
        """
        x, y = (torch.as_tensor(image).detach().to("cpu", torch.float64) for image in (synthesis, reference))
        if x.shape != y.shape:
            raise InputError(
                f"synthesis {tuple(x.shape)} and reference {tuple(y.shape)} lie on different grids: bring them to one"
            )
        if y.ndim not in (3, 4) or 0 in y.shape:
            raise InputError(f"images of shape {tuple(y.shape)}: expected (N, H, W) or (N, X, Y, Z), no side empty")
        for name, image in (("synthesis", x), ("reference", y)):
            if bad := image.numel() - int(image.isfinite().sum()):
                raise InputError(f"the {name} has {bad} voxels that are NaN or infinite: it cannot be measured")
        if data_range is None or not (math.isfinite(data_range) and data_range > 0):
            raise InputError(f"data range {data_range}: name the positive range of intensities of the figure")
        if mask is not None:
            mask = torch.as_tensor(mask).detach().to("cpu", torch.bool)
            if mask.shape != y.shape:
                raise InputError(f"mask {tuple(mask.shape)} and images {tuple(y.shape)} lie on different grids")
            if not mask.flatten(1).any(1).all():
                raise InputError("the mask has no voxel: nothing can be measured under it")
        return cls(x, y, float(data_range), mask, lowest)


def masked_mean(maps: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of each map (N, *S) over its mask, (N,)."""
    if mask is None:
        return maps.flatten(1).mean(1)
    return (maps * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)


def box_around(mask: Tensor, margin: int, step: int = 1) -> tuple[slice, ...]:
    """The smallest box that holds a mask (*S) with a margin, as far as the image goes; what a window there can see.

    It begins and ends at multiples of `step` (or at the image's end), so that squares of that side stay the same.
    """
    places = mask.nonzero()
    lows, highs = places.amin(0), places.amax(0)
    return tuple(
        slice(max(0, low - margin) // step * step, min(side, -(-(high + 1 + margin) // step) * step))
        for low, high, side in zip(lows.tolist(), highs.tolist(), mask.shape, strict=True)
    )


def mae(images: Images) -> Tensor:
    """Mean absolute error, in the intensities' unit."""
    return masked_mean((images.synthesis - images.reference).abs(), images.mask)


def nmse(images: Images) -> Tensor:
    """Normalised mean squared error: the squared error over the reference's squares (infinite for an empty one)."""
    error = masked_mean((images.synthesis - images.reference).square(), images.mask)
    return error / masked_mean(images.reference.square(), images.mask)


def psnr(images: Images) -> Tensor:
    """Peak signal-to-noise ratio, 10·log10(range² / mean squared error), in dB.

    Identical images give infinity, which is kept: a cap would be a figure that nobody measured.
    """
    error = masked_mean((images.synthesis - images.reference).square(), images.mask)
    return 10 * (images.data_range**2 / error).log10()


def ssim(images: Images) -> Tensor:
    """Structural similarity (Wang et al. 2004) in per cent: window of 11, Gaussian σ = 1.5, K = (0.01, 0.03).

    Without a mask the map is averaged over every place whose window lies in the image. With one it is averaged over the
    mask, and images go on as their mirror images; windows at the mask's edge see what lies outside.

    Raises:
        InputError: if a side is shorter than the window.
    """
    _check_sides(images, WINDOW, "SSIM")
    means = []
    for part in _parts(images):
        x, y, mask = images.synthesis[part], images.reference[part], None
        if images.mask is not None:
            box = (slice(None), *box_around(images.mask[part].any(0), WINDOW // 2))
            x, y, mask = x[box], y[box], images.mask[part][box]
        maps, _ = ssim_maps(x.float(), y.float(), images.data_range, size=WINDOW, reflect=mask is not None)
        means.append(masked_mean(maps.double(), mask))
    return 100 * torch.cat(means)


def ms_ssim(images: Images, size: int = WINDOW, scales: int = 5) -> Tensor:
    """Multiscale SSIM (Wang et al. 2003) in per cent; see `structural_similarity.structure_by_scale`.

    Under a mask the maps of each scale are averaged over the places of which the mask holds half or more (over all
    places, at a scale where there is none).

    Args:
        images: what is compared.
        size: side of the window.
        scales: how many; their weights are divided by the weights' sum.

    Raises:
        InputError: if a side has no room for the window at the last scale but one.
    """
    _check_sides(images, size * 2 ** max(0, scales - 2), f"MS-SSIM of {scales} scales")
    weights, step = SCALE_WEIGHTS[:scales], 2 ** (scales - 1)
    figures = []
    for part in _parts(images):
        x, y = images.synthesis[part], images.reference[part]
        places: Sequence[Tensor | None] = [None] * scales
        if images.mask is not None:
            mask = images.mask[part]
            box = (slice(None), *box_around(mask.any(0), (size // 2 + 1) * step, step))
            counted = _counted(mask[box], scales)
            if all(bool(one.flatten(1).any(1).all()) for one in counted):
                x, y, places = x[box], y[box], counted
            else:  # at a scale where the mask holds no place all of them count, the farthest too
                places = [
                    one | ~one.flatten(1).any(1).reshape(-1, *[1] * (one.ndim - 1)) for one in _counted(mask, scales)
                ]
        maps = structure_by_scale(
            x.float(), y.float(), images.data_range, size=size, scales=scales, reflect=images.mask is not None
        )
        result = torch.ones(len(y), dtype=torch.float64)
        for weight, one, inside in zip(weights, maps, places, strict=True):
            result = result * masked_mean(one.double(), inside).clamp(min=0) ** (weight / sum(weights))
        figures.append(result)
    return 100 * torch.cat(figures)


def _counted(mask: Tensor, scales: int) -> list[Tensor]:
    """The places of each scale of which a mask (N, *S) holds half or more."""
    pool = {3: functional.avg_pool2d, 4: functional.avg_pool3d}[mask.ndim]
    share, found = mask.float(), []
    for _ in range(scales):
        found.append(share >= 0.5)
        share = pool(share[:, None], 2)[:, 0] if min(share.shape[1:]) > 1 else share
    return found


def fsim(images: Images) -> Tensor:
    """Feature similarity (Zhang et al. 2011); of volumes, the mean over axial slices.

    Outside the mask both images count as 0; slices of a volume without a voxel of it are left out.
    """
    return over_slices(feature_similarity.fsim, images)


def gmsd(images: Images) -> Tensor:
    """Gradient magnitude similarity deviation (Xue et al. 2014); of volumes, the mean over axial slices.

    Outside the mask both images count as 0; slices of a volume without a voxel of it are left out.
    """
    return over_slices(feature_similarity.gmsd, images)


def texture(images: Images) -> Tensor:
    """Texture similarity in per cent (`texture_similarity.py`); of volumes, the mean over axial slices.

    Outside the mask both images count as 0, and no window is centred there; slices of a volume without a voxel of it
    are left out.

    Raises:
        InputError: if a side is too short for the pyramid.
    """
    sides = tuple(images.reference.shape[1:3])
    if min(sides) < texture_similarity.LEAST:
        raise InputError(
            f"slices of {'×'.join(map(str, sides))} voxels: texture similarity needs sides of at least "
            f"{texture_similarity.LEAST}"
        )
    x, y = (image.float() for image in _cleared(images))
    mask = torch.ones_like(y, dtype=torch.bool) if images.mask is None else images.mask
    of_volumes = y.ndim == 4
    stacks = (
        [tuple(one[k].movedim(2, 0) for one in (x, y, mask)) for k in range(len(y))] if of_volumes else [(x, y, mask)]
    )
    figures = []
    for slices, truths, inside in stacks:
        kept = inside.flatten(1).any(1)
        parts = zip(*(one[kept].split(SLICES) for one in (slices, truths, inside)), strict=True)
        figures.append(
            torch.cat(
                [texture_similarity.texture_similarity(a, b, images.data_range, mask=where) for a, b, where in parts]
            )
        )
    return 100 * (torch.stack([one.mean() for one in figures]) if of_volumes else figures[0]).double()


def gradient_energy(images: Images) -> Tensor:
    """Energy of the in-plane gradients of all images together, synthesis over reference: (1,).

    The energy is the sum of squared differences between neighbouring voxels along the first two axes, that is inside
    axial slices. Below 1 the synthesis is smoother than the truth, above 1 it is rougher (noise, seams). Outside the
    mask both count as 0.

    Raises:
        InputError: if the reference is flat.
    """
    x, y = _cleared(images)
    energy_x, energy_y = (sum(image.diff(dim=axis).square().sum() for axis in (1, 2)) for image in (x, y))
    if energy_y == 0:
        raise InputError("the reference has no in-plane gradient (flat slices): the gradient energy ratio is undefined")
    return torch.as_tensor(energy_x / energy_y).reshape(1)


def _parts(images: Images, slices: int = SLICES) -> list[slice]:
    """What is worked on at once: a number of slices, or one volume."""
    step = slices if images.reference.ndim == 3 else 1
    return [slice(start, start + step) for start in range(0, len(images.reference), step)]


def _cleared(images: Images) -> tuple[Tensor, Tensor]:
    if images.mask is None:
        return images.synthesis, images.reference
    return images.synthesis * images.mask, images.reference * images.mask


def over_slices(metric: Callable[[Tensor, Tensor, float], Tensor], images: Images) -> Tensor:
    """A metric of slices, on slices or on the axial slices of volumes."""
    x, y = (image.float() for image in _cleared(images))
    if y.ndim == 3:
        return torch.cat(
            [metric(x[part], y[part], images.data_range) for part in _parts(images, FEATURE_SLICES)]
        ).double()
    figures = []
    for index in range(len(y)):
        slices, truths = x[index].movedim(2, 0), y[index].movedim(2, 0)
        if images.mask is not None:
            kept = images.mask[index].flatten(0, 1).any(0)
            slices, truths = slices[kept], truths[kept]
        volume = Images(slices, truths, images.data_range)
        figures.append(
            torch.cat(
                [metric(slices[part], truths[part], images.data_range) for part in _parts(volume, FEATURE_SLICES)]
            ).mean()
        )
    return torch.stack(figures).double()


def _check_sides(images: Images, least: int, what: str) -> None:
    sides = tuple(images.reference.shape[1:])
    if min(sides) < least:
        raise InputError(
            f"images of {'×'.join(map(str, sides))} voxels: {what} needs sides of at least {least}; "
            "a protocol of slices (syndiff, mrdiff, cola-diff) wants no depth"
        )


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric as tables show it."""

    column: str
    """In CSV and JSON."""
    heading: str
    """For people, with its unit."""
    better: Better
    """Which way it is better."""
    digits: int
    compute: Callable[[Images], Tensor]
    per_image: bool = True
    """Whether each image has a figure of its own; else all images together have one."""
    note: str = ""
    """What the reader of a table must know of it."""
    ranged: bool = False
    """Whether it goes by the range, so that too wide a one flatters it."""

    def of(self, images: Images) -> np.ndarray:
        """One figure an image, or one for all, float64."""
        return self.compute(images).double().numpy()

    @property
    def marked(self) -> bool:
        """Whether a table may mark its best value.

        A ratio says how much there is, not whether it is right: noise and a copied source reach 1 as well as detail.
        """
        return self.better != "one"

    def compared(self, figures: np.ndarray) -> np.ndarray:
        """What differences are of: the figures; of a ratio its distance from 1, |ln|, so that ½ and 2 are as far."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.abs(np.log(figures)) if self.better == "one" else np.asarray(figures)

    def goodness(self, compared: float) -> float:
        """Of what is compared: more is better; −∞ where there is none."""
        if math.isnan(compared):
            return -math.inf
        return compared if self.better == "more" else -compared


def named_ms_ssim(size: int, scales: int) -> Metric:
    """MS-SSIM with its window and number of scales."""
    heading = f"MS-SSIM (%; {scales} scales, window {size})"
    return Metric(
        column="ms_ssim_percent",
        heading=heading,
        better="more",
        digits=2,
        compute=partial(ms_ssim, size=size, scales=scales),
        ranged=True,
    )


PSNR = Metric(column="psnr_db", heading="PSNR (dB)", better="more", digits=2, compute=psnr, ranged=True)
SSIM = Metric(column="ssim_percent", heading="SSIM (%)", better="more", digits=2, compute=ssim, ranged=True)
MAE = Metric(column="mae", heading="MAE", better="less", digits=4, compute=mae)
MAE_HU = Metric(column="mae_hu", heading="MAE (HU)", better="less", digits=1, compute=mae)
NMSE = Metric(column="nmse", heading="NMSE", better="less", digits=4, compute=nmse)
FSIM = Metric(column="fsim", heading="FSIM", better="more", digits=4, compute=fsim, ranged=True)
GMSD = Metric(column="gmsd", heading="GMSD", better="less", digits=4, compute=gmsd, ranged=True)
TEXTURE = Metric(
    column="texture_similarity_percent",
    heading="texture similarity (%)",
    better="more",
    digits=2,
    compute=texture,
    ranged=True,
    note="Texture similarity: untrained features, local deviations in the 14 sub-bands of a steerable pyramid (3 "
    "scales, 4 orientations) of axial slices; whether as much structure of each width is there, not on which voxel",
)
GRADIENT_ENERGY = Metric(
    column="gradient_energy_ratio",
    heading="gradient energy",
    better="one",
    digits=3,
    compute=gradient_energy,
    per_image=False,
    note="Gradient energy: in-plane, synthesis over reference (below 1: smoother than the truth). It is an amount: "
    "noise and a copied source reach 1 too, so that none is marked as best",
)
