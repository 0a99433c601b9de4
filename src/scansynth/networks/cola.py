"""CoLa-Diff's latent network (sections 2.1 to 2.3): its U-Net, and the path of its conditions."""

import itertools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from scansynth.networks.auto_weight import AutoWeight
from scansynth.networks.blocks import (
    ResidualBlock,
    channel_bias,
    convolution,
    downsample,
    group_norm,
    near_zero,
    shortcut,
    upsample,
)
from scansynth.networks.cooperative_filter import CooperativeFilter
from scansynth.networks.embedding import TimeEmbedding
from scansynth.networks.fusion import AttentionalFusion
from scansynth.networks.levels import Layer, check_attention, plan_levels, walk


@dataclass(frozen=True)
class Size:
    """Widths and depth that the U-Net and the condition path share.

    Raises:
        InputError: if there is no such attention level.
    """

    channels: int
    """Base width."""
    multipliers: tuple[int, ...]
    """Width of each level over the base width; level n is 2^n smaller."""
    blocks: int
    """Residual blocks a level."""
    attention_levels: tuple[int, ...]
    """Levels with transformer blocks, where the conditions come in."""

    def __post_init__(self):
        check_attention(self.attention_levels, len(self.multipliers))

    @property
    def widths(self) -> list[int]:
        """Of the levels."""
        return [self.channels * multiplier for multiplier in self.multipliers]


class BottleneckBlock(nn.Module):
    """Three convolutions, 1×1, 3×3 and 1×1, and a residual join, in place of single convolutions (section 2.1).

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        time_width: width of the time embedding; 0: it sees no time.
    """

    def __init__(self, channels_in: int, channels_out: int, time_width: int = 0):
        super().__init__()
        middle = max(4, channels_out // 2)
        self.norm1, self.conv1 = group_norm(channels_in), convolution(2, channels_in, middle, kernel=1)
        self.time = nn.Linear(time_width, middle) if time_width else None
        self.norm2, self.conv2 = group_norm(middle), convolution(2, middle, middle, kernel=3)
        self.norm3, self.conv3 = group_norm(middle), near_zero(convolution(2, middle, channels_out, kernel=1))
        self.shortcut = shortcut(2, channels_in, channels_out)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """(B, channels_in, H, W), and the time embedding (B, time_width) → (B, channels_out, H, W)."""
        h = self.conv1(functional.silu(self.norm1(x)))
        if self.time is not None:
            assert time is not None, "this block needs a time embedding"
            h = h + channel_bias(self.time(functional.silu(time)), h)
        h = self.conv2(functional.silu(self.norm2(h)))
        h = self.conv3(functional.silu(self.norm3(h)))
        return (self.shortcut(x) + h) / math.sqrt(2)


class WideDown(nn.Module):
    """Halves a map by a 5×5 and a 7×7 convolution, fused by attention (section 2.1)."""

    def __init__(self, channels: int):
        super().__init__()
        self.five = convolution(2, channels, channels, kernel=5, stride=2)
        self.seven = convolution(2, channels, channels, kernel=7, stride=2)
        self.fuse = AttentionalFusion(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H/2, W/2)."""
        return self.fuse(self.five(x), self.seven(x))


class PlainDown(nn.Module):
    """Halves a map by averaging, then a 3×3 convolution: what stands for `WideDown` in the ablation."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = convolution(2, channels, channels, kernel=3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H/2, W/2)."""
        return self.conv(downsample(x))


class TransformerBlock(nn.Module):
    """Self-attention over all places, then an MLP at every place, each after a layer norm (Fig. 1 D).

    Args:
        channels: of the map.
        head_width: channels of an attention head.
    """

    def __init__(self, channels: int, head_width: int = 32):
        super().__init__()
        self.heads = max(1, channels // head_width)
        while channels % self.heads:
            self.heads -= 1
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = near_zero(nn.Linear(channels, channels))
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), near_zero(nn.Linear(4 * channels, channels))
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        h = x.flatten(2).transpose(1, 2)  # (B, places, C)
        q, k, v = self.qkv(self.norm1(h)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        h = h + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        h = h + self.mlp(self.norm2(h))
        return h.transpose(1, 2).reshape(x.shape)


class TissueEncoder(nn.Module):
    """Masks and densities to features of the latents' size, by strided convolutions.

    Args:
        channels: of the features.
        factor: how many times smaller a latent is, a power of two.
    """

    def __init__(self, channels: int, factor: int):
        super().__init__()
        layers: list[nn.Module] = [convolution(2, 8, channels, kernel=3)]
        for _ in range(round(math.log2(factor))):
            layers += [nn.SiLU(), convolution(2, channels, channels, kernel=3, stride=2)]
        self.layers = nn.Sequential(*layers)

    def forward(self, tissue: Tensor) -> Tensor:
        """Densities (B, 4, H, W) in [0, 1] → (B, channels, H/f, W/f).

        The mask of a tissue is where it is the densest, of all that is no background.
        """
        background = 1 - tissue.sum(1, keepdim=True)
        best = torch.cat([background, tissue], dim=1).argmax(1)
        masks = functional.one_hot(best, 5)[..., 1:].movedim(-1, 1).to(tissue.dtype)
        return self.layers(torch.cat([masks, tissue], dim=1))


class ConditionPath(nn.Module):
    """All that depends on the conditions alone: weighted channels, and features of every attention level.

    Args:
        channels: S, of the conditions.
        planes: channels that say which contrasts are given and which one is asked for.
        size: of the U-Net.
        auto_weight: the gate of `AutoWeight`, or none.
    """

    def __init__(self, channels: int, planes: int, size: Size, auto_weight: Literal["sigmoid", "tanh", "none"]):
        super().__init__()
        self.weigh = AutoWeight(channels, auto_weight) if auto_weight != "none" else nn.Identity()
        self.levels = size.attention_levels
        widths = size.widths
        self.first = convolution(2, channels + planes, widths[0], kernel=3)
        deepest = max(self.levels, default=-1)
        self.blocks = nn.ModuleList(
            ResidualBlock(2, widths[max(level - 1, 0)], widths[level]) for level in range(deepest + 1)
        )
        self.transformers = nn.ModuleDict({str(level): TransformerBlock(widths[level]) for level in self.levels})

    def forward(self, y: Tensor, planes: Tensor) -> tuple[Tensor, ...]:
        """Conditions (B, S, h, w) and planes (B, P, h, w).

        Returns:
            ỹ with the planes, (B, S + P, h, w); then, for each attention level n from the first one on, features
            (B, C_n, h/2^n, w/2^n).
        """
        weighted = torch.cat([self.weigh(y), planes], dim=1)
        h, found = self.first(weighted), [weighted]
        for level, block in enumerate(self.blocks):
            h = block(downsample(h) if level else h)
            if level in self.levels:
                h = self.transformers[str(level)](h)
                found.append(h)
        return tuple(found)


class ColaUnet(nn.Module):
    """ε_θ(κ_t, t, y): a U-Net whose skip connections are filtered.

    Args:
        latent_channels: c of κ_t.
        condition_channels: of what `ConditionPath` gives beside it.
        size: widths and depth.
        modified: bottleneck blocks and wide downsampling (section 2.1), or residual blocks and plain downsampling.
        filtered: whether skip connections pass the similar cooperative filter.
    """

    def __init__(self, latent_channels: int, condition_channels: int, size: Size, *, modified: bool, filtered: bool):
        super().__init__()
        time_width = 4 * size.channels
        self.time = TimeEmbedding(time_width)
        widths, levels = size.widths, size.attention_levels
        self.levels = plan_levels(widths[0], widths, size.blocks, keeps="blocks")

        def block(planned: Layer) -> nn.Module:
            kind = BottleneckBlock(planned.reads, planned.gives, time_width) if modified else None
            return kind or ResidualBlock(2, planned.reads, planned.gives, time_width=time_width)

        self.first = convolution(2, latent_channels + condition_channels, widths[0], kernel=3)
        self.down, self.halve = nn.ModuleList(), nn.ModuleList()
        self.join = nn.ModuleDict({str(level): convolution(2, widths[level], widths[level], 1) for level in levels})
        for planned in self.levels.down:
            if planned.resample:
                self.halve.append((WideDown if modified else PlainDown)(planned.gives))
            else:
                self.down.append(block(planned))
        self.attention = nn.ModuleDict({str(level): TransformerBlock(widths[level]) for level in levels})
        self.filters = nn.ModuleList(
            CooperativeFilter(planned.gives) if filtered else nn.Identity()
            for planned in self.levels.down
            if planned.kept
        )
        self.middle = nn.ModuleList(block(planned) for planned in self.levels.bottleneck)
        self.up = nn.ModuleList(block(planned) for planned in self.levels.up if not planned.resample)
        self.grow = nn.ModuleList(
            convolution(2, planned.gives, planned.gives, kernel=3) for planned in self.levels.up if planned.resample
        )
        self.norm = group_norm(self.levels.gives)
        self.last = convolution(2, self.levels.gives, latent_channels, kernel=3)

    def forward(self, kappa_t: Tensor, t: Tensor, weighted: Tensor, *features: Tensor) -> Tensor:
        """Apply the network.

        Args:
            kappa_t: (B, c, h, w).
            t: (B,).
            weighted: conditions, as `ConditionPath` gives them first.
            *features: and what it gives after them.

        Returns:
            (B, c, h, w).
        """
        time = self.time(t)
        blocks, told = itertools.chain(self.down, self.middle, self.up), iter(features)
        halve, grow, filters = iter(self.halve), iter(self.grow), iter(self.filters)

        def apply(planned: Layer, h: Tensor) -> Tensor:
            if planned.resample == "down":
                return next(halve)(h)
            if planned.resample == "up":
                return next(grow)(upsample(h))
            h, level = next(blocks)(h, time), str(planned.level)
            if level in self.join and planned.kept and not planned.block:  # the first of its level, on the way down
                h = self.attention[level](h + self.join[level](next(told)))
            return h

        h = self.first(torch.cat([kappa_t, weighted], dim=1))
        h = walk(h, self.levels, apply, keep=lambda h: next(filters)(h))
        return self.last(functional.silu(self.norm(h)))
