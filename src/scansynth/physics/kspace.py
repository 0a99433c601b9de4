"""Accelerated MRI: what a scan shows of which only the centre of k-space was acquired.

Retrospective undersampling as in SynDiff (Özbey et al. 2023), section IV-A: fully sampled images are "undersampled
4-fold in two dimensions to attain low-resolution images at a 16x acceleration rate". It does not say which lines are
kept; low resolution means the central ones, and the grid stays.

    A_F x = |P_F x|,    P_F = ℱ⁻¹ M_F ℱ,    M_F(k) = 1 where |k_x| ≤ N_x / 2F and |k_y| ≤ N_y / 2F, else 0

ℱ is the discrete Fourier transform of a slice and k the signed index of a frequency, in cycles per field of view of
N voxels. The bound is |f| ≤ 1 / 2F cycles per voxel: the Nyquist frequency of voxels F times as large. So the sizes of
image and padding do not matter, and F = 1 keeps everything. Of each axis an odd number of frequencies is kept, the
one nearest to N/F (N = 256, F = 4: 65), because the region is symmetric and a real image then stays real. They are
worth N/F acquired lines where N/F is even: of a real image the lines at N/2F and −N/2F are conjugates.
"""

import torch
from torch import Tensor

from scansynth.errors import InputError


def keep_centre(images: Tensor, fold: int) -> Tensor:
    """P_F x: the central k-space alone. Linear, and a projection: P_F P_F = P_F.

    Args:
        images: real, floating point, (*, H, W), of any sizes, any unit.
        fold: F, in each of the two dimensions, ≥ 1; F² in all.

    Returns:
        Real images of the same shape, dtype and unit. They may ring below zero.

    Raises:
        InputError: for a fold below 1.
    """
    if fold < 1:
        raise InputError(f"acceleration {fold}: give the fold in each dimension, at least 1")
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device)
    columns = torch.arange(width // 2 + 1, device=images.device)  # of a real image the others are conjugates
    kept = (2 * fold * torch.minimum(rows, height - rows) <= height)[:, None] & (2 * fold * columns <= width)
    return torch.fft.irfft2(torch.fft.rfft2(images) * kept, s=(height, width))


def undersample(images: Tensor, fold: int) -> Tensor:
    """A_F x = |P_F x|: the magnitude image of an accelerated scan, on the grid of the full one (SynDiff, sec. IV-A).

    But for the magnitude it is a projection. So images that were acquired at this acceleration change only by the
    ringing below zero, which the magnitude has folded up: about a fifth as much as full scans of phantom heads
    (192×192, F = 4), and less than two fifths as much where edges are as sharp as can be.

    Args:
        images: magnitudes, floating point, (*, H, W), of any sizes, any unit.
        fold: F, in each of the two dimensions, ≥ 1; F² in all.

    Returns:
        Images of the same shape, dtype and unit, 0 and up.

    Raises:
        InputError: for a fold below 1.
    """
    return keep_centre(images, fold).abs()
