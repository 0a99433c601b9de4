"""The network of M2DN: an encoder and a decoder for each contrast, around a U-Net that fuses all of them.

Source: Meng et al., "Multi-modal Modality-masked Diffusion Network for Brain MRI Synthesis with Random Modality
Missing", IEEE Transactions on Medical Imaging 43(7), 2024; parts: Hu, Shen & Sun, "Squeeze-and-Excitation Networks",
CVPR 2018, as `fusion.ChannelAttention`.

# Paper: how many levels each part has could not be verified. Here: each contrast has those at a half and a quarter of
# the image for itself, the rest is shared; of 256×256 the bottleneck is 16×16 with 128 channels, as the paper has it.
# Paper: what a decoder reads of the way down could not be verified. Here: the features of all encoders at its size,
# fused, because what is fine in a missing contrast is known from the others alone.
# Paper: what doubles the last map could not be verified. Here: a transposed convolution, the mirror of the first one,
# and a plain one behind it that reaches across its grid of two pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from scansynth.errors import InputError
from scansynth.networks.blocks import ResidualBlock, channel_bias, convolution, downsample, group_norm
from scansynth.networks.embedding import TimeEmbedding
from scansynth.networks.fusion import ChannelAttention

APART = 2
"""Levels that each contrast has for itself."""


def bilinear_upsample(h: Tensor) -> Tensor:
    """Twice the size, bilinearly: (B, C, H, W) → (B, C, 2H, 2W). Half of it bilinearly is `blocks.downsample`."""
    return functional.interpolate(h, scale_factor=2.0, mode="bilinear", align_corners=False)


class Blocks(nn.Module):
    """Residual blocks of one size, each with channel attention behind it if asked for.

    Args:
        reads: channels of the input.
        gives: channels of the output.
        count: how many.
        time_width: width of the time embedding.
        attend: whether they have channel attention.
    """

    def __init__(self, reads: int, gives: int, count: int, *, time_width: int, attend: bool = False):
        super().__init__()
        self.residual = nn.ModuleList(
            ResidualBlock(2, gives if block else reads, gives, time_width=time_width) for block in range(count)
        )
        self.attention = nn.ModuleList(ChannelAttention(gives) if attend else nn.Identity() for _ in range(count))

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        """(B, reads, h, w) and (B, time_width) → (B, gives, h, w)."""
        for residual, attention in zip(self.residual, self.attention, strict=True):
            h = attention(residual(h, time))
        return h


class Encoder(nn.Module):
    """What one contrast shows, at a half of its size, a quarter, and so on.

    Args:
        widths: channels at each of them.
        blocks: residual blocks at each.
        time_width: width of the time embedding.
    """

    def __init__(self, widths: Sequence[int], blocks: int, *, time_width: int):
        super().__init__()
        self.first = convolution(2, 1, widths[0], kernel=3, stride=2)
        self.norm = group_norm(widths[0])
        before = (widths[0], *widths[:-1])
        self.levels = nn.ModuleList(
            Blocks(reads, gives, blocks, time_width=time_width) for reads, gives in zip(before, widths, strict=True)
        )

    def forward(self, x: Tensor, time: Tensor) -> list[Tensor]:
        """(B, 1, H, W) and (B, time_width) → a map (B, width, H/2, W/2), (B, width, H/4, W/4), … of each level."""
        h, kept = functional.relu(self.norm(self.first(x))), []
        for level, blocks in enumerate(self.levels):
            h = blocks(downsample(h) if level else h, time)
            kept.append(h)
        return kept


class Decoder(nn.Module):
    """One contrast's image, from what was fused.

    Args:
        reads: channels that come from the fusion.
        widths: channels of the levels, the finest first.
        blocks: residual blocks of each.
        time_width: width of the time embedding.
    """

    def __init__(self, reads: int, widths: Sequence[int], blocks: int, *, time_width: int):
        super().__init__()
        self.levels, coming = nn.ModuleList(), reads
        for width in reversed(widths):
            self.levels.append(Blocks(coming + width, width, blocks, time_width=time_width))
            coming = width
        self.enlarge = nn.ConvTranspose2d(coming, coming, 4, 2, padding=1)
        self.norm = group_norm(coming)
        self.last = convolution(2, coming, 1, kernel=3)

    def forward(self, h: Tensor, skips: Sequence[Tensor], time: Tensor) -> Tensor:
        """An image (B, 1, H, W).

        Args:
            h: of the fusion, (B, reads, h, w).
            skips: a map of the way down for each level, the finest first.
            time: (B, time_width).
        """
        for blocks, skip in zip(self.levels, reversed(skips), strict=True):
            h = blocks(torch.cat([bilinear_upsample(h), skip], dim=1), time)
        return self.last(functional.relu(self.norm(self.enlarge(h))))


class Concatenation(nn.Module):
    """Maps of all contrasts as one: concatenated, weighed by channel, and brought to a width.

    Args:
        reads: channels of all of them.
        gives: of the result.
    """

    def __init__(self, reads: int, gives: int):
        super().__init__()
        self.attention = ChannelAttention(reads)
        self.convolution = convolution(2, reads, gives, kernel=1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """K maps (B, C, h, w) → (B, gives, h, w)."""
        return self.convolution(self.attention(torch.cat(list(maps), dim=1)))


class Fusion(nn.Module):
    """A U-Net of residual blocks with channel attention, in whose bottleneck v is joined.

    Args:
        widths: of its levels; the last one's size is the bottleneck's.
        blocks: residual blocks a level.
        time_width: width of the time embedding.
        code: K, the length of v; 0: without.
    """

    def __init__(self, widths: Sequence[int], blocks: int, *, time_width: int, code: int):
        super().__init__()
        before = (widths[0], *widths[:-1])
        self.down = nn.ModuleList(
            Blocks(reads, gives, blocks, time_width=time_width, attend=True)
            for reads, gives in zip(before, widths, strict=True)
        )
        self.bottleneck = Blocks(widths[-1] + code, widths[-1], blocks, time_width=time_width, attend=True)
        self.up = nn.ModuleList(
            Blocks(below + width, width, blocks, time_width=time_width, attend=True)
            for below, width in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )

    def forward(self, h: Tensor, time: Tensor, v: Tensor | None) -> Tensor:
        """(B, widths[0], h, w), (B, time_width) and (B, K) → (B, widths[0], h, w)."""
        kept = []
        for level, blocks in enumerate(self.down):
            h = blocks(downsample(h) if level else h, time)
            kept.append(h)
        if v is not None:
            h = torch.cat([h, channel_bias(v.to(h.dtype), h).expand(-1, -1, *h.shape[2:])], dim=1)
        h = self.bottleneck(h, time)
        for blocks, skip in zip(self.up, reversed(kept[:-1]), strict=True):
            h = blocks(torch.cat([bilinear_upsample(h), skip], dim=1), time)
        return h


class M2DNNetwork(nn.Module):
    """f(M_t, t, v): what all contrasts are, from those that are given and those that are noisy.

    Args:
        contrasts: K.
        channels: width of each contrast's first level.
        multipliers: width of each level over that; level n has 1/2^(n+1) of the image's side. The first two are each
            contrast's own, the others are shared.
        blocks: residual blocks a level.
        knows_missing: whether it is told v.

    Raises:
        InputError: if there is no level to share.
    """

    def __init__(
        self, contrasts: int, *, channels: int, multipliers: Sequence[int], blocks: int, knows_missing: bool = True
    ):
        super().__init__()
        if len(multipliers) <= APART:
            raise InputError(
                f"m2dn: multipliers {tuple(multipliers)}: at least {APART + 1}; {APART} levels are each contrast's own"
            )
        self.knows_missing = knows_missing
        self.size_multiple = 2 ** len(multipliers)
        widths = [channels * multiplier for multiplier in multipliers]
        own, shared, time_width = widths[:APART], widths[APART:], 4 * channels
        self.time = TimeEmbedding(time_width)
        self.encoders = nn.ModuleList(Encoder(own, blocks, time_width=time_width) for _ in range(contrasts))
        self.skips = nn.ModuleList(Concatenation(contrasts * width, width) for width in own)
        self.enter = Concatenation(contrasts * own[-1], shared[0])
        self.fusion = Fusion(shared, blocks, time_width=time_width, code=contrasts * knows_missing)
        self.decoders = nn.ModuleList(Decoder(shared[0], own, blocks, time_width=time_width) for _ in range(contrasts))

    def forward(self, x: Tensor, t: Tensor, v: Tensor) -> Tensor:
        """Apply the network.

        Args:
            x: M_t, (B, K, H, W); sides are multiples of `size_multiple`.
            t: times, (B,).
            v: 1 where a contrast is missing, 0 where it is given, (B, K).

        Returns:
            M̂, (B, K, H, W); the last convolutions are plain.

        Raises:
            InputError: if a side is not such a multiple.
        """
        if any(side % self.size_multiple for side in x.shape[2:]):
            raise InputError(
                f"m2dn: image size {tuple(x.shape[2:])}: pad every side to a multiple of {self.size_multiple}"
            )
        time = self.time(t)
        seen = [encoder(one, time) for encoder, one in zip(self.encoders, x.split(1, dim=1), strict=True)]
        skips = [fuse(maps) for fuse, maps in zip(self.skips, zip(*seen, strict=True), strict=True)]
        h = self.enter([downsample(maps[-1]) for maps in seen])
        h = self.fusion(h, time, v if self.knows_missing else None)
        return torch.cat([decoder(h, skips, time) for decoder in self.decoders], dim=1)
