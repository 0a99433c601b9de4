"""The networks of Hi-Net (Zhou et al., IEEE TMI 39(9), 2020): a branch a source, their fusion, and the discriminator.

All convolutions are 3×3, with batch norm and LeakyReLU 0.2 behind them unless something else is said.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from scansynth.errors import InputError
from scansynth.networks.batch_norm import BatchNorm
from scansynth.networks.blocks import convolution, upsample

SLOPE = 0.2
LEVELS = 3
"""Halvings of the generator."""


def _normed(width_in: int, width_out: int, *, stride: int = 1) -> nn.Sequential:
    # The norm takes the mean away again: the convolution needs no bias.
    conv = nn.Conv2d(width_in, width_out, kernel_size=3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, BatchNorm(width_out), nn.LeakyReLU(SLOPE))


class Branch(nn.Module):
    """One source's own autoencoder: its features at each level serve the fusion (section III-A).

    Two convolutions a level, 32, 64 and 128 channels wide, and max-pooling after each level; back by two convolutions a
    level, the second behind nearest neighbours at twice the size, and a last one with tanh.

    Args:
        channels: width of the first level.
    """

    def __init__(self, channels: int):
        super().__init__()
        widths = [channels * 2**level for level in range(LEVELS)]
        self.down = nn.ModuleList(
            nn.Sequential(_normed(above, width), _normed(width, width))
            for above, width in zip([1, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            nn.ModuleList([_normed(below, width), _normed(width, width)])
            for below, width in zip([widths[-1], *widths[::-1]], widths[::-1], strict=False)
        )
        self.last = convolution(2, channels, 1, kernel=3)

    def encode(self, y: Tensor) -> list[Tensor]:
        """(B, 1, H, W) → pooled features of each level, (B, C, H/2, W/2), (B, 2C, H/4, W/4), (B, 4C, H/8, W/8)."""
        pooled = [y]
        for level in self.down:
            pooled.append(functional.max_pool2d(level(pooled[-1]), 2))
        return pooled[1:]

    def decode(self, deepest: Tensor) -> Tensor:
        """ŷ, (B, 1, H, W) in [−1, 1], from the deepest features."""
        h = deepest
        for level in self.up:
            assert isinstance(level, nn.ModuleList)
            h = level[1](upsample(level[0](h)))
        return torch.tanh(self.last(h))


class MixedFusion(nn.Module):
    """The mixed fusion block, MFB: sum, product and maximum of the sources' features, joined with the level before.

    None of the three depends on the order of the sources, and all of them take any number M of them. A product of three
    features is small where they are; the norm directly behind the first convolution brings it back to size.

    Args:
        channels: C, of one source's features.
        before: channels that come from the level before; 0: this is the first.
        out_channels: of the result.
    """

    def __init__(self, channels: int, before: int, out_channels: int):
        super().__init__()
        self.fuse = _normed(3 * channels, channels)
        self.join = _normed(channels + before, out_channels)

    def forward(self, features: Tensor, before: Tensor | None = None) -> Tensor:
        """Fuse the features of M sources, (B, M, C, h, w), and (B, before, h, w) → (B, out_channels, h, w)."""
        mixed = torch.cat([features.sum(1), features.prod(1), features.amax(1)], dim=1)
        fused = self.fuse(mixed)
        return self.join(fused if before is None else torch.cat([fused, before], dim=1))


class HiNetGenerator(nn.Module):
    """Branches, the fusion network down to a common code, and the synthesis network back up from it.

    Convolutions and halvings only: any size of multiples of 8 goes through, whole slices as well as patches.

    Args:
        sources: M.
        channels: width of a branch's first level.
    """

    size_multiple = 2**LEVELS

    def __init__(self, sources: int, channels: int = 32):
        super().__init__()
        c = channels
        self.branches = nn.ModuleList(Branch(c) for _ in range(sources))
        self.fusions = nn.ModuleList(
            [MixedFusion(c, 0, 2 * c), MixedFusion(2 * c, 2 * c, 4 * c), MixedFusion(4 * c, 4 * c, 4 * c)]
        )
        self.code = nn.Sequential(_normed(4 * c, 8 * c), _normed(8 * c, 4 * c))
        self.syntheses = nn.ModuleList(  # from the deepest level up
            [MixedFusion(4 * c, 4 * c, 2 * c), MixedFusion(2 * c, 2 * c, c), MixedFusion(c, c, c)]
        )
        self.smooth = _normed(c, c)
        self.last = convolution(2, c, 1, kernel=3)

    def forward(self, y: Tensor, *, rebuild: bool = False) -> Tensor:
        """Make the target.

        Args:
            y: sources, (B, M, H, W).
            rebuild: whether the branches rebuild their sources, too: for training.

        Returns:
            x̂, (B, 1, H, W) in [−1, 1]; with `rebuild` x̂ and ŷ, (B, 1 + M, H, W).

        Raises:
            InputError: if a side is no multiple of 8.
        """
        if any(side % self.size_multiple for side in y.shape[2:]):
            raise InputError(f"Hi-Net: image size {tuple(y.shape[2:])}: pad to multiples of {self.size_multiple}")
        branches = [branch for branch in self.branches if isinstance(branch, Branch)]
        encoded = [branch.encode(one) for branch, one in zip(branches, y.split(1, 1), strict=True)]
        levels = [torch.stack(features, dim=1) for features in zip(*encoded, strict=True)]  # (B, M, C, h, w) each
        h = None
        for fusion, features in zip(self.fusions, levels, strict=True):
            h = fusion(features, h if h is None else functional.max_pool2d(h, 2))
        h = self.code(h)
        for synthesis, features in zip(self.syntheses, reversed(levels), strict=True):
            h = upsample(synthesis(features, h))
        x_hat = torch.tanh(self.last(self.smooth(h)))
        if not rebuild:
            return x_hat
        rebuilt = [branch.decode(features[-1]) for branch, features in zip(branches, encoded, strict=True)]
        return torch.cat([x_hat, *rebuilt], dim=1)


class HiNetDiscriminator(nn.Module):
    """Judges patches of a target alone: 3×3 convolutions of stride 2, and one without padding; 128×128 → 6×6 values.

    The first has no batch norm.

    # Paper's code: batch norm with 0.8 as its ε, where a momentum was meant. Here: the usual ε.

    Args:
        channels: width of the first convolution; it doubles.
        halvings: convolutions of stride 2. A side needs more than 2·2^halvings pixels, so that a value is left.
    """

    def __init__(self, channels: int = 32, halvings: int = 4):
        super().__init__()
        widths = [channels * 2**level for level in range(halvings)]
        self.smallest = 2 * 2**halvings + 1
        self.layers = nn.Sequential(
            convolution(2, 1, channels, kernel=3, stride=2),
            nn.LeakyReLU(SLOPE),
            *(_normed(above, width, stride=2) for above, width in pairwise(widths)),
            nn.Conv2d(widths[-1], 1, kernel_size=3),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) → (B, 1, H/2^halvings − 2, W/2^halvings − 2), sides rounded up before the 2 is taken.

        Raises:
            InputError: if a side is too small.
        """
        if min(x.shape[2:]) < self.smallest:
            raise InputError(
                f"Hi-Net's discriminator: sides of at least {self.smallest} are needed, the image has "
                f"{tuple(x.shape[2:])}: use larger patches or fewer discriminator_halvings"
            )
        return self.layers(x)
