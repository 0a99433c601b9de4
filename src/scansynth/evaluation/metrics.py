"""Metrics of a synthesis against its reference.

PSNR and SSIM are torchmetrics' functions with the settings that the protocols name, one figure a slice. A figure
means nothing without the intensities, the range and the mask it was taken with: take it through
`scansynth.evaluation.protocols`.
"""

import math

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from scansynth.errors import InputError

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
SSIM_K = (0.01, 0.03)


def psnr(synthesis: np.ndarray | Tensor, reference: np.ndarray | Tensor, data_range: float) -> np.ndarray:
    """Peak signal-to-noise ratio of each slice, 10·log10(data_range² / mean squared error), in dB.

    The mean runs over the whole slice, background included. Identical slices give infinity, which is kept: a
    cap would be a figure that nobody measured.

    Args:
        synthesis: slices, (N, H, W).
        reference: the true slices, (N, H, W).
        data_range: what counts as the full range of intensities, positive.

    Returns:
        (N,) float64.

    Raises:
        InputError: if the shapes differ, are not (N, H, W), or no data range is given.
    """
    x, y = _slices(synthesis, reference, data_range)
    return peak_signal_noise_ratio(x, y, data_range=float(data_range), reduction="none", dim=(1, 2)).numpy()


def ssim(synthesis: np.ndarray | Tensor, reference: np.ndarray | Tensor, data_range: float) -> np.ndarray:
    """Structural similarity index (Wang et al. 2004) of each slice, at most 1.

    Gaussian window of 11×11 with σ = 1.5, K = (0.01, 0.03), population covariance. The map is averaged over
    every pixel whose window lies in the slice (the outer 5 pixels are left out), background included.

    Args:
        synthesis: slices, (N, H, W), no side under 11 pixels.
        reference: the true slices, (N, H, W).
        data_range: what counts as the full range of intensities, positive.

    Returns:
        (N,) float64.

    Raises:
        InputError: as `psnr`, and if a side is shorter than the window.
    """
    x, y = _slices(synthesis, reference, data_range)
    if min(x.shape[1:]) < SSIM_WINDOW:
        raise InputError(
            f"slices of {x.shape[1]}×{x.shape[2]} pixels: SSIM's window needs {SSIM_WINDOW}×{SSIM_WINDOW};"
            " use larger slices"
        )
    border = SSIM_WINDOW // 2
    values = []
    # One slice at a time and in float32: ten times faster than float64, and it moves the figure by about 1e-5.
    for a, b in zip(x.float(), y.float(), strict=True):
        _, image = structural_similarity_index_measure(
            a[None, None],
            b[None, None],
            gaussian_kernel=True,
            sigma=SSIM_SIGMA,
            kernel_size=SSIM_WINDOW,
            data_range=float(data_range),
            k1=SSIM_K[0],
            k2=SSIM_K[1],
            return_full_image=True,
        )
        # The library's own mean includes the reflected border in some releases and not in others.
        values.append(image[0, 0, border:-border, border:-border].double().mean())
    return torch.stack(values).numpy()


def gradient_energy_ratio(synthesis: np.ndarray, reference: np.ndarray) -> float:
    """Energy of the in-plane gradients of a volume, synthesis over reference.

    The energy is the sum of squared differences between neighbouring voxels along X and along Y, that is inside
    the axial slices; differences between slices (Z) do not enter, so that slices may be missing. Below 1 the
    synthesis is smoother than the truth, above 1 it is rougher (noise, seams). It grows with the square of the
    intensities: compare images on one scale.

    Args:
        synthesis: volume, (X, Y, Z).
        reference: the true volume, (X, Y, Z).

    Returns:
        The ratio, 1 for identical volumes.

    Raises:
        InputError: if the shapes differ, are not (X, Y, Z), or the reference is flat.
    """
    _check_shapes(synthesis.shape, reference.shape, "(X, Y, Z)")
    truth = _gradient_energy(reference)
    if truth == 0:
        raise InputError("the reference has no in-plane gradient (flat slices): the gradient energy ratio is undefined")
    return _gradient_energy(synthesis) / truth


def _gradient_energy(volume: np.ndarray) -> float:
    volume = volume.astype(np.float64)
    return float(sum(np.square(np.diff(volume, axis=axis)).sum() for axis in (0, 1)))


def _slices(synthesis: np.ndarray | Tensor, reference: np.ndarray | Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """Both batches as float64 on the CPU."""
    _check_shapes(tuple(synthesis.shape), tuple(reference.shape), "(N, H, W)")
    if data_range is None or not (math.isfinite(data_range) and data_range > 0):
        raise InputError(f"data range {data_range}: name the positive range of intensities of the figure")
    x, y = (torch.as_tensor(image).detach().to("cpu", torch.float64) for image in (synthesis, reference))
    return x, y


def _check_shapes(synthesis: tuple[int, ...], reference: tuple[int, ...], form: str) -> None:
    if synthesis != reference:
        raise InputError(f"synthesis {synthesis} and reference {reference} differ in shape: bring them to one grid")
    if len(synthesis) != 3 or 0 in synthesis:
        raise InputError(f"images of shape {synthesis}: expected {form}, no side empty")
