"""FSIM and GMSD of slices, many at once: torch's transforms and convolutions on a stack (N, H, W).

FSIM: Zhang, Zhang, Mou & Zhang, "FSIM: A Feature Similarity Index for Image Quality Assessment", IEEE Transactions on
Image Processing 20(8), 2011. Its phase congruency is Kovesi's ("Image Features from Phase Congruency", Videre 1(3),
1999) with log-Gabor filters. GMSD: Xue, Zhang, Mou & Bovik, "Gradient Magnitude Similarity Deviation", IEEE
Transactions on Image Processing 23(2), 2014. Their constants are for a range of 255; here images have a stated range.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

SCALES, ORIENTATIONS = 4, 4
SHORTEST_WAVE = 6.0
"""Wavelength of the finest filter, pixels; each coarser one has twice it."""
BANDWIDTH = 0.55
"""Of a log-Gabor filter: the deviation of its Gaussian over its centre frequency."""
ANGULAR = 1.2
"""Distance of two orientations over the angular deviation of a filter."""
NOISE_DEVIATIONS = 2.0
"""Deviations above the mean of the noise's energy, below which energy counts as noise."""
NOISE_RESCALE = 1.7
"""The noise threshold is divided by it, as estimated from the finest filter alone it is too high."""
T1, T2 = 0.85, 160.0
"""FSIM's constants of phase congruency and of gradients (range 255)."""
GMSD_T = 170.0
"""GMSD's constant (range 255)."""
EPSILON = 1e-8
"""Keeps the flat background of an image without noise from a division by zero (images of range 255)."""
SAMPLE = 3600
"""Values of a slice by which its median is looked for."""
SCHARR = ((3.0, 0.0, -3.0), (10.0, 0.0, -10.0), (3.0, 0.0, -3.0))
PREWITT = ((1.0, 0.0, -1.0), (1.0, 0.0, -1.0), (1.0, 0.0, -1.0))


def fsim(synthesis: Tensor, reference: Tensor, data_range: float) -> Tensor:
    """Feature similarity of slices.

    Slices are first averaged in squares whose side is the shorter side over 256, rounded.

    Args:
        synthesis: (N, H, W).
        reference: (N, H, W).
        data_range: full range of intensities.

    Returns:
        (N,), 1 for equal slices.
    """
    side = max(1, round(min(reference.shape[1:]) / 256))
    x, y = (image * (255.0 / data_range) for image in (synthesis, reference))
    if side > 1:
        x, y = (functional.avg_pool2d(image[:, None], side)[:, 0] for image in (x, y))
    congruency_x, congruency_y = phase_congruency(x), phase_congruency(y)
    congruency = (2 * congruency_x * congruency_y + T1) / (congruency_x.square() + congruency_y.square() + T1)
    gradient_x, gradient_y = gradient_magnitude(x, SCHARR), gradient_magnitude(y, SCHARR)
    gradient = (2 * gradient_x * gradient_y + T2) / (gradient_x.square() + gradient_y.square() + T2)
    weight = torch.maximum(congruency_x, congruency_y)
    return (congruency * gradient * weight).sum((1, 2)) / weight.sum((1, 2))


def gmsd(synthesis: Tensor, reference: Tensor, data_range: float) -> Tensor:
    """Gradient magnitude similarity deviation of slices, at half their resolution (zeros beside an odd side).

    Args:
        synthesis: (N, H, W).
        reference: (N, H, W).
        data_range: full range of intensities.

    Returns:
        (N,), 0 for equal slices.
    """
    odd = (0, reference.shape[2] % 2, 0, reference.shape[1] % 2)
    x, y = (
        functional.avg_pool2d(functional.pad(image, odd)[:, None] * (255.0 / data_range), 2)[:, 0]
        for image in (synthesis, reference)
    )
    gradient_x, gradient_y = gradient_magnitude(x, PREWITT), gradient_magnitude(y, PREWITT)
    similarity = (2 * gradient_x * gradient_y + GMSD_T) / (gradient_x.square() + gradient_y.square() + GMSD_T)
    return similarity.flatten(1).std(1, correction=0)


def gradient_magnitude(image: Tensor, kernel: tuple[tuple[float, ...], ...]) -> Tensor:
    """Magnitude of the gradient by a 3×3 kernel and its transpose; zeros outside.

    The kernel is a difference of two columns of weights, which are made to sum to 1.
    """
    first, middle, last = (row[0] / sum(row[0] for row in kernel) for row in kernel)
    padded = functional.pad(image, (1, 1, 1, 1))
    across, down = padded[:, :, :-2] - padded[:, :, 2:], padded[:, :-2] - padded[:, 2:]
    x = (across[:, :-2] * first).add_(across[:, 1:-1], alpha=middle).add_(across[:, 2:], alpha=last)
    y = (down[:, :, :-2] * first).add_(down[:, :, 1:-1], alpha=middle).add_(down[:, :, 2:], alpha=last)
    return x.square_().addcmul_(y, y).sqrt_()


def phase_congruency(image: Tensor) -> Tensor:
    """Kovesi's phase congruency with FSIM's settings, (N, H, W) → (N, H, W) in [0, 1]."""
    wavelets, noise_gain, finest_power = filters(tuple(image.shape[1:]), image.dtype)
    spectrum = torch.view_as_real(torch.fft.fft2(image))[:, None]
    energies, amplitudes = torch.zeros_like(image), torch.zeros_like(image)
    for orientation in range(ORIENTATIONS):
        responses = torch.fft.ifft2(torch.view_as_complex(spectrum * wavelets[orientation]))  # (N, scales, H, W)
        # Real and imaginary parts lie apart from here on: products of complex numbers take several times as long.
        even, odd = responses.real.contiguous(), responses.imag.contiguous()
        power = even.square().addcmul_(odd, odd)
        finest = torch.stack([lower_median(one) for one in power[:, 0]])
        total_even, total_odd = even.sum(1), odd.sum(1)
        # The energy along the mean phase, less what stands across it at each scale.
        across = odd.mul_(total_even[:, None]).addcmul_(even, total_odd[:, None], value=-1).abs_().sum(1)
        squares = total_even.square_().addcmul_(total_odd, total_odd)
        energy = (squares - across).div_(squares.sqrt_().add_(EPSILON))
        noise_power = finest / math.log(2) / finest_power[orientation]
        deviation = (noise_power * noise_gain[orientation] / 2).sqrt()
        threshold = deviation * (math.sqrt(math.pi / 2) + NOISE_DEVIATIONS * math.sqrt(2 - math.pi / 2))
        energies += energy.sub_(threshold[:, None, None] / NOISE_RESCALE).clamp_(min=0)
        amplitudes += power.sqrt_().sum(1)
    return energies / (amplitudes + EPSILON)


def lower_median(values: Tensor) -> Tensor:
    """The median of all values, the lower of two; exact.

    A sample tells where it lies, so that only the values near it are sorted.
    """
    flat = values.flatten().numpy()
    middle = (flat.size - 1) // 2
    sample = np.sort(flat[:: max(1, flat.size // SAMPLE)])
    low, high = sample[int(0.47 * sample.size)], sample[int(0.53 * sample.size)]
    near, below = flat[(flat >= low) & (flat <= high)], np.count_nonzero(flat < low)
    if not below <= middle < below + near.size:
        near, below = flat, 0
    return values.new_tensor(np.partition(near, middle - below)[middle - below])


def frequencies(side: int) -> Tensor:
    """Frequencies of a side as Kovesi's code and FSIM's have them, cycles a pixel in the transform's order, float64.

    An odd side's are divided by side − 1 in place of side, so that the largest is ½ there too.
    """
    true = torch.fft.fftfreq(side, dtype=torch.float64)
    return true * (side / (side - 1)) if side % 2 and side > 1 else true


@lru_cache(maxsize=4)
def filters(size: tuple[int, int], dtype: torch.dtype) -> tuple[Tensor, list[float], list[float]]:
    """Log-Gabor filters in the frequency domain, on Kovesi's grid (`frequencies`).

    Returns:
        The filters, each value twice, for real and imaginary parts of a spectrum (orientations, scales, H, W, 2);
        for each orientation what white noise of unit power adds to the squared energy, and the power of the finest
        filter.
    """
    fy, fx = torch.meshgrid(*(frequencies(side) for side in size), indexing="ij")
    radius, angle = torch.hypot(fx, fy), torch.atan2(-fy, fx)
    radius[0, 0] = 1.0
    low_pass = 1 / (1 + (radius / 0.45) ** 30)
    radial = []
    for scale in range(SCALES):
        centre = 1 / (SHORTEST_WAVE * 2**scale)
        part = torch.exp(-((radius / centre).log() ** 2) / (2 * math.log(BANDWIDTH) ** 2)) * low_pass
        part[0, 0] = 0.0
        radial.append(part)
    angular = []
    for orientation in range(ORIENTATIONS):
        centre = orientation * math.pi / ORIENTATIONS
        difference = torch.atan2(torch.sin(angle - centre), torch.cos(angle - centre)).abs()
        angular.append(torch.exp(-(difference**2) / (2 * (math.pi / ORIENTATIONS / ANGULAR) ** 2)))
    stacked, turned = torch.stack(radial), torch.stack(angular)
    noise_gain, finest_power = [], []
    for part in turned:
        kernels = torch.fft.ifft2(stacked * part).real * math.sqrt(size[0] * size[1])
        squares = kernels.square().sum((1, 2))
        products = sum((kernels[i] * kernels[j]).sum() for i in range(SCALES) for j in range(i + 1, SCALES))
        noise_gain.append(float(2 * squares.sum() + 4 * products))
        finest_power.append(float((stacked[0] * part).square().sum()))
    whole = (turned[:, None] * stacked).to(dtype)
    return torch.stack([whole, whole], -1), noise_gain, finest_power
