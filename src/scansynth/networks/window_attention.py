"""Self-attention inside windows of a feature map, shifted in every second layer (Swin transformer, Liu et al. 2021)."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from scansynth.networks.blocks import convolution, group_norm, near_zero


def fitting(side: int, window: int) -> int:
    """The largest divisor of a side that is no longer than the window."""
    return next(width for width in range(min(side, window), 0, -1) if side % width == 0)


def partition(x: Tensor, window: Sequence[int]) -> Tensor:
    """A map (B, *S, C) as windows, (B, number of windows, places in a window, C)."""
    batch, *shape, channels = x.shape
    dims = len(shape)
    split = [part for side, width in zip(shape, window, strict=True) for part in (side // width, width)]
    x = x.reshape(batch, *split, channels)
    counts, places = range(1, 2 * dims, 2), range(2, 2 * dims + 1, 2)
    x = x.permute(0, *counts, *places, 2 * dims + 1)
    return x.reshape(batch, -1, math.prod(window), channels)


def merge(x: Tensor, window: Sequence[int], shape: Sequence[int]) -> Tensor:
    """The way back from `partition` to (B, *S, C)."""
    batch, channels, dims = x.shape[0], x.shape[-1], len(shape)
    counts = [side // width for side, width in zip(shape, window, strict=True)]
    x = x.reshape(batch, *counts, *window, channels)
    order = [axis for pair in zip(range(1, dims + 1), range(dims + 1, 2 * dims + 1), strict=True) for axis in pair]
    return x.permute(0, *order, 2 * dims + 1).reshape(batch, *shape, channels)


@lru_cache(maxsize=64)
def relative_index(window: tuple[int, ...], largest: int, device: torch.device) -> Tensor:
    """For each two places of a window the row of the table of biases that their distance has, (P, P) int64."""
    grid = torch.cartesian_prod(*[torch.arange(width) for width in window]).reshape(-1, len(window))
    distance = grid[:, None] - grid[None] + largest - 1  # each axis: 0 … 2·largest − 2
    powers = torch.tensor([(2 * largest - 1) ** axis for axis in range(len(window))])
    return (distance * powers).sum(-1).to(device)


@lru_cache(maxsize=64)
def shift_mask(shape: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], device: torch.device) -> Tensor:
    """Which places of a window were neighbours before the map was rolled, (number of windows, P, P) bool."""
    labels = torch.zeros(1, *shape, 1)
    for axis, (side, width, by) in enumerate(zip(shape, window, shift, strict=True)):
        place = torch.arange(side)
        # The last window holds what was rolled over the edge, beside what was there.
        part = (place >= side - width).long() + (place >= side - by).long() if by else torch.zeros(side)
        labels = 3 * labels + part.reshape(*[-1 if other == axis + 1 else 1 for other in range(len(shape) + 2)])
    windows = partition(labels, window)[0, :, :, 0]
    return (windows[:, :, None] == windows[:, None]).to(device)


class WindowAttention(nn.Module):
    """Attention inside windows and a perceptron, both as residual blocks of this package's U-Net.

    Windows do not overlap; in a shifted layer they lie half a window further, so that two layers join all neighbours.
    A side that is no multiple of the window has the largest windows that divide it; one no longer has a single one.

    Args:
        dims: 2 or 3.
        channels: channels of input and output.
        window: side of a window.
        shifted: whether windows are shifted.
        heads: attention heads; it divides `channels`.
    """

    def __init__(self, dims: int, channels: int, window: int, *, shifted: bool, heads: int):
        super().__init__()
        assert channels % heads == 0, f"{heads} heads do not divide {channels} channels"
        self.window, self.shifted, self.heads = window, shifted, heads
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = near_zero(nn.Linear(channels, channels))
        self.bias = nn.Parameter(torch.zeros((2 * window - 1) ** dims, heads))
        self.norm2 = group_norm(channels)
        self.expand = convolution(dims, channels, 4 * channels, kernel=1)
        self.contract = near_zero(convolution(dims, 4 * channels, channels, kernel=1))

    def forward(self, x: Tensor) -> Tensor:
        """Attend inside the windows of `x` (B, C, *S), then the perceptron at every place; the shape stays."""
        x = (x + self.attend(self.norm(x))) / math.sqrt(2)
        return (x + self.contract(functional.gelu(self.expand(self.norm2(x))))) / math.sqrt(2)

    def attend(self, x: Tensor) -> Tensor:
        """Attention alone, (B, C, *S) → (B, C, *S)."""
        shape = tuple(x.shape[2:])
        window = tuple(fitting(side, self.window) for side in shape)
        shift = tuple(
            width // 2 if self.shifted and side > width else 0 for side, width in zip(shape, window, strict=True)
        )
        axes = list(range(1, 1 + len(shape)))
        x = x.movedim(1, -1)
        if any(shift):
            x = x.roll([-by for by in shift], axes)
        windows = partition(x, window)
        batch, number, places, channels = windows.shape
        qkv = self.qkv(windows).reshape(batch, number, places, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5).unbind(0)  # each (B, windows, heads, P, C/heads)
        mask = self.bias[relative_index(window, self.window, x.device)].permute(2, 0, 1)[None]
        if any(shift):
            joined = shift_mask(shape, window, shift, x.device)[:, None]
            mask = mask.masked_fill(~joined, -torch.inf)
        # One mask for all windows of a sample; SDPA's fast kernels want four axes.
        mask = mask.to(q.dtype).expand(number, -1, -1, -1).repeat(batch, 1, 1, 1)
        h = functional.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), attn_mask=mask)
        h = self.out(h.transpose(1, 2).reshape(batch, number, places, channels))
        h = merge(h, window, shape)
        if any(shift):
            h = h.roll(shift, axes)
        return h.movedim(-1, 1)
