"""2D U-Net on sets of slices: convolutions see one slice each, attention joins the slices of a set.

Peng et al. (cDPM, section 2.3) name a U-Net, an attention network and the slice indices as its input, no more. The
relative encodings are those of Harvey et al., "Flexible Diffusion Modeling of Long Videos", NeurIPS 2022, section 4.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from scansynth.errors import InputError
from scansynth.networks.blocks import ResidualBlock, SelfAttention, convolution, group_norm, near_zero
from scansynth.networks.embedding import TimeEmbedding
from scansynth.networks.levels import Layer, check_attention, plan_levels, walk

HEAD_WIDTH = 32
"""Channels of an attention head."""
POSITIONS = 1000
"""What the absolute position index/depth is multiplied by: the range of the time steps, whose encoding it shares."""


@dataclass(frozen=True)
class Sets:
    """What the layers are told of B sets of up to n slices, N of which are no padding."""

    rows: Tensor
    """Which of the B·n places hold a slice, (N,) int64."""
    counts: tuple[int, ...]
    """Slices of each set."""
    time: Tensor
    """Time embedding of each set, with its labels where the network knows some, (B, time_width)."""
    slice_time: Tensor
    """That of each slice, with its absolute position where the network knows it, (N, time_width)."""
    differences: tuple[Tensor, ...]
    """Of each set's c slices the index of slice i less that of slice j, (c, c) float32."""


class RelativeEncoding(nn.Module):
    """What queries, keys and values of attention learn of the difference d of two indices (Harvey et al., section 4).

    Features log(1 + max(d, 0)), log(1 + max(−d, 0)) and d = 0 go through a perceptron with the time embedding.

    Args:
        channels: of queries, keys and values.
        time_width: width of the time embedding.
    """

    def __init__(self, channels: int, time_width: int):
        super().__init__()
        self.distance = nn.Linear(3, channels)
        self.time = nn.Linear(time_width, channels)
        self.out = near_zero(nn.Linear(channels, 3 * channels))

    def forward(self, difference: Tensor, time: Tensor) -> Tensor:
        """Encode the differences (c, c) of a set at its time (time_width,) as (c, c, 3·channels)."""
        features = torch.stack(
            [difference.clamp_min(0).log1p(), (-difference).clamp_min(0).log1p(), (difference == 0).float()], dim=-1
        ).to(self.distance.weight.dtype)
        hidden = self.distance(features) + self.time(functional.silu(time))
        return self.out(functional.silu(hidden))


class SliceAttention(nn.Module):
    """At each pixel, attention across the slices of a set, as a residual block of this package's U-Net.

    Slice i attends to slice j with (q_i + r^Q_ij)·(k_j + r^K_ij)/√width, and reads v_j + r^V_ij; r encodes the
    difference of their indices.

    Args:
        channels: channels of input and output.
        time_width: width of the time embedding.
    """

    def __init__(self, channels: int, time_width: int):
        super().__init__()
        self.heads = heads_of(channels)
        self.norm = group_norm(channels)
        self.qkv = convolution(2, channels, 3 * channels, kernel=1)
        self.relative = RelativeEncoding(channels, time_width)
        self.out = near_zero(convolution(2, channels, channels, kernel=1))

    def forward(self, h: Tensor, sets: Sets) -> Tensor:
        """Let the slices (N, C, H, W) of each set attend to each other; the shape stays."""
        qkv = self.qkv(self.norm(h)).flatten(2).split(sets.counts)
        # Set by set: work grows with the square of a set's size, so that padding would be most of it.
        read = torch.cat([self.read(*one) for one in zip(qkv, sets.differences, sets.time, strict=True)])
        return (h + self.out(read.reshape(h.shape))) / math.sqrt(2)

    def read(self, qkv: Tensor, difference: Tensor, time: Tensor) -> Tensor:
        """What the slices of one set read of each other.

        Args:
            qkv: queries, keys and values of its c slices, (c, 3·channels, places).
            difference: of their indices, (c, c).
            time: embedding, (time_width,).

        Returns:
            (c, channels, places).
        """
        count, width = len(qkv), qkv.shape[1] // 3 // self.heads
        # Each (places, heads, c, width).
        q, k, v = qkv.reshape(count, 3, self.heads, width, -1).permute(1, 4, 2, 0, 3).contiguous()
        r = self.relative(difference, time).to(q.dtype)
        # Each (heads, c, c, width).
        r_q, r_k, r_v = r.reshape(count, count, 3, self.heads, width).permute(2, 3, 0, 1, 4)
        logits = (
            q @ k.transpose(-1, -2)
            + torch.einsum("phid,hijd->phij", q, r_k)
            + torch.einsum("phjd,hijd->phij", k, r_q)
            + (r_q * r_k).sum(-1)
        ) / math.sqrt(width)
        weights = logits.softmax(-1).to(v.dtype)
        read = weights @ v + torch.einsum("phij,hijd->phid", weights, r_v)
        return read.permute(2, 1, 3, 0).flatten(1, 2)


class _Layer(nn.Module):
    """A residual block; after it attention across slices, then inside each slice, where the level has them."""

    def __init__(self, residual: ResidualBlock, across: SliceAttention | None, inside: SelfAttention | None):
        super().__init__()
        self.residual, self.across, self.inside = residual, across, inside

    def forward(self, h: Tensor, sets: Sets) -> Tensor:
        h = self.residual(h, sets.slice_time)
        h = h if self.across is None else self.across(h, sets)
        return h if self.inside is None else self.inside(h)


class SliceUNet(nn.Module):
    """U-Net of DDPM's form (`networks/unet.py`) on every slice of a set, with attention across the set.

    The order of a set's slices has no meaning: permuting them permutes the output. Padding is not computed at all.

    Args:
        in_channels: channels of a slice: image, mask of what it is, and what else is given.
        out_channels: channels of the output.
        channels: base width.
        multipliers: width of each level over the base width; level n is 2^n smaller than the slice.
        blocks: residual blocks a level.
        attention_levels: levels with attention across and inside slices; the bottleneck always has it.
        across_levels: levels with attention across slices alone.
        absolute: whether a slice knows its own position in the volume. Otherwise differences of indices alone are
            known, and shifting all indices changes nothing.
        labels: numbers that describe a set's subject (0: none), as another part of the time embedding.
        space_to_depth: squares of so many pixels a side become channels before the first convolution, and pixels
            again after the last (Shi et al., CVPR 2016), so that no level computes at the slice's full size.

    Raises:
        InputError: if there is no such attention level, or a width is not positive.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        channels: int,
        *,
        multipliers: Sequence[int],
        blocks: int,
        attention_levels: Sequence[int],
        absolute: bool = True,
        labels: int = 0,
        across_levels: Sequence[int] = (),
        space_to_depth: int = 1,
    ):
        super().__init__()
        levels, time_width = len(multipliers), 4 * channels
        check_attention((*attention_levels, *across_levels), levels)
        if levels < 1 or min(channels, blocks, space_to_depth, *multipliers) < 1:
            raise InputError(
                f"U-Net: channels {channels}, blocks {blocks}, multipliers {tuple(multipliers)}, space_to_depth "
                f"{space_to_depth}: all > 0"
            )
        self.space_to_depth = space_to_depth
        self.size_multiple = space_to_depth * 2 ** (levels - 1)
        self.time = TimeEmbedding(time_width)
        self.position = TimeEmbedding(time_width) if absolute else None

        self.levels = plan_levels(channels, [channels * multiplier for multiplier in multipliers], blocks)

        def layer(planned: Layer, *, attend: bool = True) -> _Layer:
            """With the attention of its level (the bottleneck is the one after the last), or without any."""
            level = planned.level if attend and planned.resample is None else None
            inside = level in (*attention_levels, levels)
            return _Layer(
                ResidualBlock(2, planned.reads, planned.gives, time_width=time_width, resample=planned.resample),
                SliceAttention(planned.gives, time_width) if inside or level in across_levels else None,
                SelfAttention(2, planned.gives, heads_of(planned.gives)) if inside else None,
            )

        self.first = convolution(2, in_channels * space_to_depth**2, channels, kernel=3)
        self.down = nn.ModuleList(layer(planned) for planned in self.levels.down)
        before, after = self.levels.bottleneck
        self.bottleneck = nn.ModuleList([layer(before), layer(after, attend=False)])
        # Once a level on the way up, as in `UNet`.
        self.up = nn.ModuleList(layer(planned, attend=planned.block == blocks) for planned in self.levels.up)
        self.norm = group_norm(self.levels.gives)
        self.last = convolution(2, self.levels.gives, out_channels * space_to_depth**2, kernel=3)
        self.labels = nn.Linear(labels, time_width, bias=False) if labels else None
        if self.labels is not None:
            nn.init.zeros_(self.labels.weight)  # a class of few subjects then starts as if unknown, not at random

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        index: Tensor,
        depth: Tensor,
        *,
        valid: Tensor | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Apply the network.

        Args:
            x: slices, (B, n, in_channels, H, W); H and W are multiples of `size_multiple`.
            t: time steps of the sets, (B,).
            index: which slice of its volume each one is, (B, n) integers.
            depth: slices of the volume, (B,) integers.
            valid: which slices are no padding, (B, n) bool, at least one a set; None: all.
            labels: of the sets, (B, `labels`); None, as 0: nothing is known.

        Returns:
            (B, n, out_channels, H, W), 0 at padding.

        Raises:
            InputError: if a side is not a multiple of `size_multiple`.
        """
        if any(side % self.size_multiple for side in x.shape[3:]):
            raise InputError(
                f"U-Net: slices of {x.shape[3]}×{x.shape[4]}: pad both sides to a multiple of {self.size_multiple}"
            )
        batch, n = x.shape[:2]
        valid = torch.ones_like(index, dtype=torch.bool) if valid is None else valid
        sets = self.describe(t, index, depth, valid, labels=labels)
        h = self.first(functional.pixel_unshuffle(x.flatten(0, 1)[sets.rows], self.space_to_depth))
        layers = itertools.chain(self.down, self.bottleneck, self.up)
        h = walk(h, self.levels, lambda planned, h: next(layers)(h, sets))
        h = functional.pixel_shuffle(self.last(functional.silu(self.norm(h))), self.space_to_depth)
        return h.new_zeros(batch * n, *h.shape[1:]).index_copy(0, sets.rows, h).unflatten(0, (batch, n))

    def describe(self, t: Tensor, index: Tensor, depth: Tensor, valid: Tensor, *, labels: Tensor | None = None) -> Sets:
        """What the layers are told of the sets; arguments as of `forward`."""
        rows = valid.flatten().nonzero()[:, 0]
        time = self.time(t)
        if labels is not None:
            assert self.labels is not None, "the network was made without labels"
            time = time + self.labels(labels.to(self.labels.weight.dtype))
        slice_time = time.repeat_interleave(index.shape[1], 0)
        if self.position is not None:
            slice_time = slice_time + self.position((POSITIONS * index / depth[:, None]).flatten())
        own = [of_set[is_slice].float() for of_set, is_slice in zip(index, valid, strict=True)]
        differences = tuple(of_set[:, None] - of_set for of_set in own)
        return Sets(rows, tuple(map(len, own)), time, slice_time[rows], differences)


def heads_of(channels: int) -> int:
    """Attention heads of about `HEAD_WIDTH` channels that divide the channels."""
    return next(heads for heads in range(max(1, channels // HEAD_WIDTH), 0, -1) if channels % heads == 0)
