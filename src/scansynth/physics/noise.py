"""Noise of an acquisition: Gaussian in both channels of the signal, of which a scan shows the magnitude."""

import torch
from torch import Tensor

from scansynth.noise import Noise


def noisy(images: Tensor, level: float, noise: Noise) -> Tensor:
    """Scans with more noise than they were acquired with: the magnitude of the signal with noise in both channels.

    Paper: "zero-mean bivariate Gaussian white noise … at std. values ranging in [0.03 0.21] relative to the mean pixel
    intensity" of a cross-section. Here: relative to the mean of the scan, so that noise is equal in all its slices, as
    in an acquisition.

    Args:
        images: in [0, 1], (B, K, *S).
        level: standard deviation in each channel over the mean of the scan, background included; 0 changes nothing.
        noise: random numbers.

    Returns:
        The same shape, 0 and up.
    """
    if not level:
        return images
    deviation = level * images.mean(dim=tuple(range(2, images.ndim)), keepdim=True)
    real, imaginary = (noise.normal(name, images.shape[1:]) * deviation for name in ("real", "imaginary"))
    return torch.hypot(images + real, imaginary)
