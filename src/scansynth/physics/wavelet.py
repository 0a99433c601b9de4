"""Orthonormal Haar wavelets in 2D and 3D: white noise keeps its unit variance, and nothing is lost.

Source: A. Haar, "Zur Theorie der orthogonalen Funktionensysteme", Mathematische Annalen 69, 1910; the 2^d sub-bands of
d dimensions are the products of the two filters (1, 1)/√2 (L) and (1, −1)/√2 (H) along each axis. MRDiff, section 2.2.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def _neighbours(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Every other place along an axis, from the first and from the second."""
    place = [slice(None)] * axis
    return x[(*place, slice(0, None, 2))], x[(*place, slice(1, None, 2))]


def _analyse(x: Tensor) -> list[Tensor]:
    parts = [x]
    for axis in range(2, x.ndim):
        pairs = [_neighbours(part, axis) for part in parts]
        parts = [band for a, b in pairs for band in (a + b, a - b)]
    return [part.mul_(2 ** (1 - x.ndim / 2)) for part in parts]


def _synthesise(parts: list[Tensor]) -> Tensor:
    """The transpose of `_analyse`, which is its inverse."""
    dims = parts[0].ndim - 2
    last = (torch.channels_last, torch.channels_last_3d)[dims - 2]
    order = last if parts[0].is_contiguous(memory_format=last) else torch.contiguous_format
    for axis in range(dims + 1, 1, -1):
        joined = []
        for low, high in zip(parts[::2], parts[1::2], strict=True):
            shape = [side * (1 + (k == axis)) for k, side in enumerate(low.shape)]
            whole = torch.empty(shape, dtype=low.dtype, device=low.device, memory_format=order)
            a, b = _neighbours(whole, axis)
            torch.add(low, high, out=a)
            torch.sub(low, high, out=b)
            joined.append(whole)
        parts = joined
    return parts[0].mul_(2 ** (-dims / 2))


class _Split(torch.autograd.Function):
    """Sums and differences of neighbours.

    Beside one strided convolution of single channels (`benchmarks/wavelet.py`) `iwt` is 1.2 to 4 times as fast, `dwt`,
    which copies the bands together, 0.6 to 1.8 times; who takes the bands apart (`split`) saves that copy. In single
    precision inside, where half of it comes in: in half every second number of a row is read slowly.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, ...]:
        """(B, C, *S) → 2^d bands (B, C, *S/2)."""
        return tuple(band.to(x.dtype) for band in _analyse(_wide(x)))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        """The inverse."""
        return _Join.apply(*grad_outputs)


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *bands: Tensor) -> Tensor:
        """The inverse of `_Split`."""
        return _synthesise([_wide(band) for band in bands]).to(bands[0].dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
        """The inverse."""
        return _Split.apply(grad_outputs[0])


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def split(x: Tensor) -> tuple[Tensor, ...]:
    """Images to sub-bands of half the size.

    Args:
        x: (B, C, *S), all sides even, 2 or 3 of them.

    Returns:
        2^d of (B, C, *S/2); the first axis of S is the slowest: LL, LH, HL, HH.
    """
    assert all(side % 2 == 0 for side in x.shape[2:]), f"sides {tuple(x.shape[2:])} are not even"
    return _Split.apply(x)


def join(bands: Sequence[Tensor]) -> Tensor:
    """Sub-bands back to images: the inverse of `split`, and its transpose.

    Args:
        bands: 2^d of (B, C, *S).

    Returns:
        (B, C, *2S).
    """
    assert len(bands) == 2 ** (bands[0].ndim - 2), f"{len(bands)} sub-bands of {bands[0].ndim - 2} dimensions"
    return _Join.apply(*bands)


def dwt(x: Tensor) -> Tensor:
    """Images to sub-bands of half the size, as channels.

    Args:
        x: as of `split`.

    Returns:
        (B, C·2^d, *S/2); the 2^d sub-bands of a channel stand together, LL…L first.
    """
    return torch.stack(split(x), dim=2).flatten(1, 2)


def iwt(bands: Tensor) -> Tensor:
    """Sub-bands back to images: the inverse of `dwt`, and its transpose.

    Args:
        bands: (B, C·2^d, *S), the sub-bands of a channel together.

    Returns:
        (B, C, *2S).
    """
    count = 2 ** (bands.ndim - 2)
    assert bands.shape[1] % count == 0, f"{bands.shape[1]} channels are not those of {count} sub-bands"
    return join(bands.unflatten(1, (-1, count)).unbind(2))
