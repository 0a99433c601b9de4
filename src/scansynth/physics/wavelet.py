"""Orthonormal Haar wavelets in 2D and 3D: white noise keeps its unit variance, and nothing is lost.

Source: A. Haar, "Zur Theorie der orthogonalen Funktionensysteme", Mathematische Annalen 69, 1910; the 2^d sub-bands of
d dimensions are the products of the two filters (1, 1)/√2 (L) and (1, −1)/√2 (H) along each axis. MRDiff, section 2.2.
"""

import itertools
import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@lru_cache(maxsize=16)
def _filters(dims: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """All products of the two filters, (2^d, 1, 2, …); the first axis of S is the slowest: LL, LH, HL, HH."""
    low, high = torch.tensor([1.0, 1.0], dtype=torch.float64), torch.tensor([1.0, -1.0], dtype=torch.float64)
    bands = []
    for chosen in itertools.product((low, high), repeat=dims):
        band = chosen[0]
        for one in chosen[1:]:
            band = band[..., None] * one
        bands.append(band / math.sqrt(2) ** dims)
    return torch.stack(bands)[:, None].to(device, dtype)


class _Haar(torch.autograd.Function):
    """The transform as one strided convolution, or its transpose, which is its inverse; each is the other's gradient.

    Derived by PyTorch, the gradient of a strided convolution of single channels takes a CPU several times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, inverse: bool) -> Tensor:
        """(B, C, *S) → (B, C·2^d, *S/2), or back."""
        ctx.inverse = inverse
        dims = x.ndim - 2
        channels = x.shape[1] // 2**dims if inverse else x.shape[1]
        filters = _filters(dims, x.dtype, x.device).repeat(channels, *[1] * (dims + 1))
        with torch.autocast(x.device.type, enabled=False):
            return torch.convolution(
                x, filters, None, stride=[2] * dims, padding=[0] * dims, dilation=[1] * dims, transposed=inverse,
                output_padding=[0] * dims, groups=channels,
            )  # fmt: skip

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        """The other one."""
        (grad,) = grad_outputs
        return _Haar.apply(grad, not ctx.inverse), None


def dwt(x: Tensor) -> Tensor:
    """Images to sub-bands of half the size.

    Args:
        x: (B, C, *S), all sides even, 2 or 3 of them.

    Returns:
        (B, C·2^d, *S/2); the 2^d sub-bands of a channel stand together, LL…L first.
    """
    assert all(side % 2 == 0 for side in x.shape[2:]), f"sides {tuple(x.shape[2:])} are not even"
    return _Haar.apply(x, False)


def iwt(bands: Tensor) -> Tensor:
    """Sub-bands back to images: the inverse of `dwt`, and its transpose.

    Args:
        bands: (B, C·2^d, *S), the sub-bands of a channel together.

    Returns:
        (B, C, *2S).
    """
    count = 2 ** (bands.ndim - 2)
    assert bands.shape[1] % count == 0, f"{bands.shape[1]} channels are not those of {count} sub-bands"
    return _Haar.apply(bands, True)
