"""Texture similarity of slices: whether as much structure of each width and direction is there, and not on which pixel.

The terms of mean and deviation of STSIM (Zujovic, Pappas & Neuhoff, "Structural Texture Similarity Metrics for Image
Analysis and Retrieval", IEEE Transactions on Image Processing 22(7), 2013), in windows of the sub-bands of a complex
steerable pyramid (Portilla & Simoncelli, IJCV 40(1), 2000). There is no term of one image against the other, as SSIM's
covariance, by which a texture that is absent scores above one that is right but elsewhere. Nothing is trained.

Other than STSIM: sub-bands are complex (analytic), so that what a window holds hardly changes as a line moves through
it; a deviation is the root of their mean power, and means are compared in the low-pass band alone; neighbours'
correlations are left out, which in windows of seven pixels are mostly chance; a window counts where its centre lies in
the mask.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

SCALES, ORIENTATIONS = 3, 4
WINDOW = 7
"""Side of the windows in each sub-band, its own pixels."""
FLOOR = 0.005
"""Deviation, of the range, below which a window of a sub-band counts as flat: noise of scans."""
LEAST = 2 ** (SCALES + 1)
"""Shortest side of a slice, whose low-pass band then has two pixels."""


def texture_similarity(synthesis: Tensor, reference: Tensor, data_range: float, mask: Tensor) -> Tensor:
    """Texture similarity of slices: the mean over sub-bands of the mean over windows.

    Args:
        synthesis: (N, H, W), 0 outside the mask.
        reference: (N, H, W), 0 outside the mask.
        data_range: full range of intensities.
        mask: what counts, (N, H, W) bool, a voxel or more in each slice.

    Returns:
        (N,) in [0, 1], 1 for equal slices.
    """
    total, floor, share = reference.new_zeros(len(reference)), FLOOR**2, mask.to(reference.dtype)[:, None]
    pairs = list(zip(pyramid(synthesis / data_range), pyramid(reference / data_range), strict=True))
    for number, (x, y) in enumerate(pairs):
        while share.shape[2:] != y.shape[1:]:
            share = functional.avg_pool2d(share, 2, ceil_mode=True)
        if number < len(pairs) - 1:
            a, b = (_windowed(band.real.square() + (band.imag.square() if band.is_complex() else 0)) for band in (x, y))
        else:
            a, b = (_windowed(band).square() for band in (x, y))
        similarity = (2 * (a * b).sqrt() + floor) / (a + b + floor)
        weight = (share[:, 0] >= 0.5).to(similarity.dtype)
        weight = torch.where(weight.sum((1, 2), keepdim=True) > 0, weight, share[:, 0])
        total = total + (similarity * weight).sum((1, 2)) / weight.sum((1, 2))
    return total / len(pairs)


def _windowed(values: Tensor) -> Tensor:
    """Means over the windows, which end at the image's edge."""
    return functional.avg_pool2d(values[:, None], WINDOW, 1, WINDOW // 2, count_include_pad=False)[:, 0]


def pyramid(image: Tensor) -> list[Tensor]:
    """Sub-bands of a steerable pyramid: high-pass, scales × orientations, low-pass.

    Args:
        image: (N, H, W).

    Returns:
        (N, h, w) each; oriented ones complex and, from scale to scale, of half the sides.
    """
    height, width = image.shape[1:]
    spectrum = torch.fft.fft2(image)
    bands = []
    high, _, _ = filters(height, width)
    bands.append(torch.fft.ifft2(spectrum * high.to(image)).real)
    spectrum = spectrum * (1 - high.square()).clamp(min=0).sqrt().to(image)
    for _ in range(SCALES):
        _, low, oriented = filters(*spectrum.shape[1:])
        bands += [torch.fft.ifft2(spectrum * one.to(image)) for one in oriented]
        spectrum = _halved(spectrum * low.to(image))
    return [*bands, torch.fft.ifft2(spectrum).real]


def _halved(spectrum: Tensor) -> Tensor:
    """The spectrum of every second pixel of an image without frequencies above a quarter, its values kept."""
    kept = spectrum
    for axis in (1, 2):
        side = kept.shape[axis]
        half = -(-side // 2)
        first = torch.fft.fftshift(kept, axis).narrow(axis, side // 2 - half // 2, half)
        kept = torch.fft.ifftshift(first, axis) * (half / side)
    return kept


@lru_cache(maxsize=64)
def filters(height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of one scale: high-pass residual, low-pass of the next scale (H, W), and oriented pass bands (O, H, W).

    Radial parts are raised cosines over an octave in log frequency, π/2 to π (high-pass) and π/4 to π/2 (low-pass of
    the next scale); angular parts cos(θ − θ_k)^(O−1) on one half-plane, twice the real ones, whose squares add up to 1.
    """
    rows, columns = (2 * math.pi * torch.fft.fftfreq(side, dtype=torch.float64) for side in (height, width))
    radius = (rows[:, None].square() + columns.square()).sqrt().clamp(min=1e-9)
    angle = torch.atan2(rows[:, None].expand(height, width), columns.expand(height, width))
    high = _rise((radius / math.pi).log2())
    low = (1 - _rise((radius / (math.pi / 2)).log2()).square()).clamp(min=0).sqrt()
    band = (1 - low.square()).clamp(min=0).sqrt()
    order = ORIENTATIONS - 1
    gain = 2 ** (2 * order) * math.factorial(order) ** 2 / (ORIENTATIONS * math.factorial(2 * order))
    oriented = []
    for k in range(ORIENTATIONS):
        cosine = (angle - math.pi * k / ORIENTATIONS).cos()
        oriented.append(2 * math.sqrt(gain) * cosine.clamp(min=0) ** order * band)
    return high, low, torch.stack(oriented)


def _rise(octaves: Tensor) -> Tensor:
    """0 an octave below, 1 from there on."""
    return (math.pi / 2 * (octaves.clamp(-1, 0) + 1)).sin()
