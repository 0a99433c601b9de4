"""Orthonormal Haar wavelets in 2D and 3D: white noise keeps its unit variance, and nothing is lost.

Source: A. Haar, "Zur Theorie der orthogonalen Funktionensysteme", Mathematische Annalen 69, 1910; the 2^d sub-bands of
d dimensions are the products of the two filters (1, 1)/√2 (L) and (1, −1)/√2 (H) along each axis. MRDiff, section 2.2.
"""

from typing import Any

import torch
from torch import Tensor


def _neighbours(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Every other place along an axis, from the first and from the second."""
    place = [slice(None)] * axis
    return x[(*place, slice(0, None, 2))], x[(*place, slice(1, None, 2))]


def _analyse(x: Tensor) -> Tensor:
    """(B, C, *S) → (B, C·2^d, *S/2); the first axis of S is the slowest of the sub-bands: LL, LH, HL, HH."""
    dims = x.ndim - 2
    parts = [x]
    for axis in range(2, x.ndim - 1):
        pairs = [_neighbours(part, axis) for part in parts]
        parts = [band for a, b in pairs for band in (a + b, a - b)]
    bands = x.new_empty(*x.shape[:2], 2**dims, *(side // 2 for side in x.shape[2:]))
    for k, part in enumerate(parts):
        a, b = _neighbours(part, x.ndim - 1)
        torch.add(a, b, out=bands[:, :, 2 * k])
        torch.sub(a, b, out=bands[:, :, 2 * k + 1])
    return bands.mul_(2 ** (-dims / 2)).flatten(1, 2)


def _synthesise(bands: Tensor) -> Tensor:
    """The transpose of `_analyse`, which is its inverse."""
    dims = bands.ndim - 2
    parts = list(bands.unflatten(1, (-1, 2**dims)).unbind(2))
    for axis in range(bands.ndim - 1, 1, -1):
        joined = []
        for low, high in zip(parts[::2], parts[1::2], strict=True):
            whole = low.new_empty([side * (1 + (k == axis)) for k, side in enumerate(low.shape)])
            a, b = _neighbours(whole, axis)
            torch.add(low, high, out=a)
            torch.sub(low, high, out=b)
            joined.append(whole)
        parts = joined
    return parts[0].mul_(2 ** (-dims / 2))


class _Haar(torch.autograd.Function):
    """The transform, or its transpose, which is its inverse; each is the other's gradient.

    Sums and differences of neighbours: about as fast as one strided convolution of single channels, the inverse 1.2 to
    5 times as fast (`benchmarks/wavelet.py`). In single precision inside, where half of it comes in: in half precision
    every second number of a row is read slowly.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, inverse: bool) -> Tensor:
        """(B, C, *S) → (B, C·2^d, *S/2), or back."""
        ctx.inverse = inverse
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return (_synthesise(wide) if inverse else _analyse(wide)).to(x.dtype)

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
