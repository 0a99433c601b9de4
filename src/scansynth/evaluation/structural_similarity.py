"""SSIM and MS-SSIM of stacks of images or volumes, by separable Gaussian windows.

SSIM: Wang, Bovik, Sheikh & Simoncelli, "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE
Transactions on Image Processing 13(4), 2004. MS-SSIM: Wang, Simoncelli & Bovik, "Multiscale Structural Similarity for
Image Quality Assessment", Asilomar Conference on Signals, Systems and Computers, 2003. The Gaussian window is applied
axis by axis, to many slices at once; in 3D that is 33 products a voxel in place of 1331.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

K1, K2 = 0.01, 0.03
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of MS-SSIM, from the finest scale on (Wang et al. 2003, section 3.2)."""


def gaussian(size: int, sigma: float = 1.5) -> Tensor:
    """A Gaussian window along one axis that sums to 1, (size,) float64."""
    places = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = torch.exp(-(places**2) / (2 * sigma**2))
    return weights / weights.sum()


def windowed(images: Tensor, window: Tensor, reflect: bool = False) -> Tensor:
    """Mean of each image under the window, wherever it fits: (N, *S) → (N, *S − size + 1).

    With `reflect` the image goes on as its mirror image, and the window fits everywhere: (N, *S).
    """
    dims = images.ndim - 1
    convolve = {2: functional.conv2d, 3: functional.conv3d}[dims]
    images = images[:, None]
    if reflect:
        images = functional.pad(images, [len(window) // 2] * 2 * dims, mode="reflect")
    for axis in range(dims):
        shape = [1] * dims
        shape[axis] = len(window)
        images = convolve(images, window.to(images.dtype).reshape(1, 1, *shape))
    return images[:, 0]


def ssim_maps(
    synthesis: Tensor, reference: Tensor, data_range: float, size: int = 11, reflect: bool = False
) -> tuple[Tensor, Tensor]:
    """SSIM at each place where the window fits, and its contrast–structure part (without the luminances).

    Gaussian window, σ = 1.5; K = (0.01, 0.03); population covariances.

    Args:
        synthesis: images (N, H, W) or volumes (N, X, Y, Z); no side shorter than the window.
        reference: the same shape.
        data_range: full range of intensities.
        size: side of the window, odd.
        reflect: whether images go on as their mirror images, so that the window fits everywhere.

    Returns:
        Both (N, *S − size + 1), with `reflect` (N, *S).
    """
    window, n = gaussian(size), len(reference)
    x, y = synthesis, reference
    means = windowed(torch.cat([x, y, x * x, y * y, x * y]), window, reflect).split(n)
    mean_x, mean_y = means[:2]
    squares, products = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    structure = (2 * (means[4] - products) + c2) / (means[2] + means[3] - squares + c2)
    return (2 * products + c1) / (squares + c1) * structure, structure


def structure_by_scale(
    synthesis: Tensor, reference: Tensor, data_range: float, size: int, scales: int, reflect: bool = False
) -> Iterator[Tensor]:
    """What MS-SSIM averages at each scale, from the finest on: contrast–structure maps, and SSIM at the coarsest.

    Between scales images are averaged in squares (cubes) of side 2; an odd side loses its last row. At the coarsest
    scale images go on as their mirror images (torchmetrics' way), as little is left where the window fits.

    Args:
        synthesis: images (N, H, W) or volumes (N, X, Y, Z).
        reference: the same shape.
        data_range: full range of intensities.
        size: side of the window, the same at all scales.
        scales: how many.
        reflect: whether images go on as their mirror images at all scales.
    """
    pool = {3: functional.avg_pool2d, 4: functional.avg_pool3d}[reference.ndim]
    x, y = synthesis, reference
    for scale in range(scales):
        last = scale == scales - 1
        full, structure = ssim_maps(x, y, data_range, size, reflect=reflect or last)
        yield full if last else structure
        if not last:
            x, y = pool(x[:, None], 2)[:, 0], pool(y[:, None], 2)[:, 0]
