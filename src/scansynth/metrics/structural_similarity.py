"""SSIM and MS-SSIM of stacks of images or volumes, by separable Gaussian windows.

SSIM: Wang, Bovik, Sheikh & Simoncelli, "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE
Transactions on Image Processing 13(4), 2004. MS-SSIM: Wang, Simoncelli & Bovik, "Multiscale Structural Similarity for
Image Quality Assessment", Asilomar Conference on Signals, Systems and Computers, 2003. The Gaussian window is applied
axis by axis, to many slices at once; in 3D that is 33 products a voxel in place of 1331.
"""

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

K1, K2 = 0.01, 0.03
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of MS-SSIM, from the finest scale on (Wang et al. 2003, section 3.2)."""


BLOCK = 32
"""Places that one product of matrices works out: more would multiply more zeros, fewer would start more products."""


def gaussian(size: int, sigma: float = 1.5) -> Tensor:
    """A Gaussian window along one axis that sums to 1, (size,) float64."""
    places = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    weights = torch.exp(-(places**2) / (2 * sigma**2))
    return weights / weights.sum()


def windowed(images: Tensor, window: Tensor, *, reflect: bool = False) -> Tensor:
    """Mean of each image under the window, wherever it fits: (N, *S) → (N, *S − size + 1).

    With `reflect` the image goes on as its mirror image, and the window fits everywhere: (N, *S).
    """
    for axis in range(1, images.ndim):
        blocks = band(images.shape[axis], tuple(window.tolist()), reflect=reflect, dtype=images.dtype)
        images = torch.cat([_along(images.narrow(axis, low, rows.shape[1]), rows, axis) for low, rows in blocks], axis)
    return images


def _along(images: Tensor, rows: Tensor, axis: int) -> Tensor:
    """A matrix times the images along an axis."""
    if axis == images.ndim - 1:
        return images @ rows.T
    found = rows @ images.flatten(axis + 1).flatten(0, axis - 1)
    return found.reshape(*images.shape[:axis], len(rows), *images.shape[axis + 1 :])


@lru_cache(maxsize=64)
def band(side: int, window: tuple[float, ...], *, reflect: bool, dtype: torch.dtype) -> list[tuple[int, Tensor]]:
    """The window along one axis as a matrix: a product of matrices is many times faster than a long, thin convolution.

    Args:
        side: of the image.
        window: weights.
        reflect: whether the image goes on as its mirror image.
        dtype: of the matrix.

    Returns:
        The matrix (places where the window fits, side) in blocks of `BLOCK` places: the first column that is not 0, and
        the block from there to the last such one.
    """
    fits = side if reflect else side - len(window) + 1
    rows = torch.arange(fits)
    matrix = torch.zeros(fits, side, dtype=torch.float64)
    for k, weight in enumerate(window):
        columns = (rows + k - (len(window) // 2 if reflect else 0)).abs()
        matrix[rows, side - 1 - (side - 1 - columns).abs()] += weight
    blocks = []
    for block in matrix.to(dtype).split(BLOCK):
        reached = block.any(0).nonzero()
        low, high = int(reached[0]), int(reached[-1]) + 1
        blocks.append((low, block[:, low:high].contiguous()))
    return blocks


def ssim_maps(
    synthesis: Tensor, reference: Tensor, data_range: float, *, size: int = 11, reflect: bool = False
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
    structure, squares, products = _moments(synthesis, reference, data_range, size, reflect=reflect)
    c1 = (K1 * data_range) ** 2
    return products.mul_(2).add_(c1).div_(squares.add_(c1)).mul_(structure), structure


def _moments(x: Tensor, y: Tensor, data_range: float, size: int, *, reflect: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The contrast–structure part, and sum of squares and product of the means under the window."""
    c2 = (K2 * data_range) ** 2
    # Of the squares only their sum is needed.
    stack = torch.stack([x, y, x, x])
    stack[2].mul_(x).addcmul_(y, y)
    stack[3].mul_(y)
    mean_x, mean_y, mean_squares, mean_products = windowed(stack.flatten(0, 1), gaussian(size), reflect=reflect).split(
        len(y)
    )
    squares, products = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    covariance = mean_products.sub_(products).mul_(2).add_(c2)
    return covariance.div_(mean_squares.sub_(squares).add_(c2)), squares, products


def structure_by_scale(
    synthesis: Tensor, reference: Tensor, data_range: float, *, size: int, scales: int, reflect: bool = False
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
        if last:
            yield ssim_maps(x, y, data_range, size=size, reflect=True)[0]
        else:
            yield _moments(x, y, data_range, size, reflect=reflect)[0]
            x, y = pool(x[:, None], 2)[:, 0], pool(y[:, None], 2)[:, 0]
