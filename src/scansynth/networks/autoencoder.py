"""Encoder, decoder and codebook of the first stage of latent diffusion (Rombach et al. 2022, appendix G)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from scansynth.networks.blocks import ResidualBlock, convolution, group_norm


class Encoder(nn.Module):
    """Images to features that are 2^(levels − 1) times smaller along each axis.

    Args:
        dims: 2 or 3.
        channels: base width.
        multipliers: width of each level over the base width.
        blocks: residual blocks a level.
        out_channels: channels of the features.
    """

    def __init__(self, dims: int, channels: int, multipliers: Sequence[int], blocks: int, out_channels: int):
        super().__init__()
        self.first = convolution(dims, 1, channels, kernel=3)
        layers, width = [], channels
        for level, multiplier in enumerate(multipliers):
            if level:
                layers.append(ResidualBlock(dims, width, width, resample="down"))
            for _ in range(blocks):
                layers.append(ResidualBlock(dims, width, channels * multiplier))
                width = channels * multiplier
        self.layers = nn.ModuleList(layers)
        self.norm = group_norm(width)
        self.last = convolution(dims, width, out_channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, *S) → (B, out_channels, *S/f)."""
        h = self.first(x)
        for layer in self.layers:
            h = layer(h)
        return self.last(functional.silu(self.norm(h)))


class Decoder(nn.Module):
    """The way back.

    Args:
        dims: 2 or 3.
        channels: base width.
        multipliers: as the encoder's.
        blocks: residual blocks a level.
        in_channels: channels of a latent.
    """

    def __init__(self, dims: int, channels: int, multipliers: Sequence[int], blocks: int, in_channels: int):
        super().__init__()
        width = channels * multipliers[-1]
        self.first = convolution(dims, in_channels, width, kernel=3)
        layers = []
        for level in reversed(range(len(multipliers))):
            for _ in range(blocks):
                layers.append(ResidualBlock(dims, width, channels * multipliers[level]))
                width = channels * multipliers[level]
            if level:
                layers.append(ResidualBlock(dims, width, width, resample="up"))
        self.layers = nn.ModuleList(layers)
        self.norm = group_norm(width)
        self.last = convolution(dims, width, 1, kernel=3)

    def forward(self, z: Tensor) -> Tensor:
        """(B, in_channels, *S/f) → (B, 1, *S)."""
        h = self.first(z)
        for layer in self.layers:
            h = layer(h)
        return self.last(functional.silu(self.norm(h)))


class Codebook(nn.Module):
    """A vector at every place is replaced by the nearest of a learned set (van den Oord et al. 2017).

    Args:
        codes: how many.
        channels: of a vector.
    """

    def __init__(self, codes: int, channels: int):
        super().__init__()
        self.codes = nn.Parameter(torch.randn(codes, channels))

    def forward(self, z: Tensor) -> Tensor:
        """The nearest codes of (B, channels, *S), of the same shape; gradients reach the codes, not z."""
        vectors = z.movedim(1, -1).flatten(0, -2)
        # ‖z − e‖² = ‖z‖² − 2 z·e + ‖e‖², of which the first is the same for all codes.
        nearest = (self.codes.square().sum(1) - 2 * vectors @ self.codes.T).argmin(1)
        return functional.embedding(nearest, self.codes).reshape(z.movedim(1, -1).shape).movedim(-1, 1)
