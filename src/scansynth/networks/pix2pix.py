"""The U-Net generator of pix2pix (Isola et al., CVPR 2017, section 3.2.1 and appendix 6.1.1).

And of MM-GAN (Sharma & Hamarneh, IEEE TMI 39(4), 2020): its encoder drops features, too, and its last layer enlarges
before it convolves.
"""

from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor, nn
from torch.nn import functional

from scansynth.errors import InputError
from scansynth.networks.start import normal_start

SLOPE = 0.2


class EnlargedConvolution(nn.Module):
    """Nearest neighbours at twice the size, then a 4×4 convolution that keeps it: no grid of uneven overlaps.

    Four has no middle: a pixel sees one before and two behind it.

    Args:
        in_channels: channels of the features.
        out_channels: channels of the image.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, out_channels, 4)

    def forward(self, h: Tensor, output_size: Sequence[int]) -> Tensor:
        """(B, in_channels, h, w) → (B, out_channels, *output_size)."""
        h = functional.interpolate(h, size=tuple(output_size), mode="nearest")
        return self.convolution(functional.pad(h, (1, 2, 1, 2)))


class Pix2PixUNet(nn.Module):
    """Strided convolutions down to a bottleneck and transposed ones back, with skips between levels of one size.

    Down: 4×4 with stride 2, LeakyReLU 0.2 before all but the first. Up: ReLU, transposed 4×4 with stride 2, dropout in
    the deepest levels. A side that is odd loses half a pixel on the way down and has it back on the way up.

    # Paper: batch norm, whose statistics at its batch of 1 are those of the one image. Here: instance norm, which is
    # the same at a batch of 1 and lets no image depend on others in larger batches and in synthesis.
    # Paper: the bottleneck has a norm as well. Here: none, as in the first level, because at 256×256 it is a single
    # pixel, which a norm makes 0 whatever it held.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        channels: width of the first level; it doubles three times and then stays.
        halvings: levels. A side needs 2^halvings pixels, so that the bottleneck has one.
        dropout: probability that a feature is dropped.
        dropped_up: deepest levels of the decoder that have dropout; its last layer never has.
        dropped_from: level of the encoder from which on it has dropout, counted from 0; None: it has none.
        enlarged: whether the last layer is an `EnlargedConvolution`, not a transposed convolution.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 1,
        channels: int = 64,
        *,
        halvings: int = 8,
        dropout: float = 0.5,
        dropped_up: int = 3,
        dropped_from: int | None = None,
        enlarged: bool = False,
    ):
        super().__init__()
        assert halvings >= 1, "there is no level"
        self.dropout = dropout
        self.dropped_down = range(halvings if dropped_from is None else dropped_from, halvings)
        self.dropped_up = range(halvings - 1, max(halvings - 1 - dropped_up, 0), -1)
        self.widths = [channels * min(2**level, 8) for level in range(halvings)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.down_norms, self.up_norms = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(self.widths):
            outermost, innermost = level == 0, level == halvings - 1
            above = in_channels if outermost else self.widths[level - 1]
            back, joined = out_channels if outermost else above, width if innermost else 2 * width
            # A norm takes the mean away again: convolutions before one need no bias.
            self.down.append(nn.Conv2d(above, width, 4, 2, padding=1, bias=outermost or innermost))
            self.down_norms.append(nn.Identity() if outermost or innermost else nn.InstanceNorm2d(width, affine=True))
            self.up.append(
                EnlargedConvolution(joined, back)
                if outermost and enlarged
                else nn.ConvTranspose2d(joined, back, 4, 2, padding=1, bias=outermost)
            )
            self.up_norms.append(nn.Identity() if outermost else nn.InstanceNorm2d(back, affine=True))
        normal_start(self)

    def dropped(self, size: Sequence[int]) -> list[tuple[int, int, int]]:
        """Shapes (C, h, w) of the features that have dropout, for images of `size` (H, W), in the order of their use.

        Raises:
            InputError: if a side is too small to be halved that often.
        """
        halvings = len(self.widths)
        if min(size) < 2**halvings:
            raise InputError(
                f"U-Net: {halvings} halvings need sides of at least {2**halvings}, the image has {tuple(size)}: "
                "use fewer halvings or larger images"
            )
        if not self.dropout:
            return []
        down = [(self.widths[level], size[0] >> level + 1, size[1] >> level + 1) for level in self.dropped_down]
        return down + [(self.widths[level - 1], size[0] >> level, size[1] >> level) for level in self.dropped_up]

    def forward(self, x: Tensor, noise: Sequence[Tensor] = ()) -> Tensor:
        """Translate images.

        Args:
            x: images, (B, in_channels, H, W).
            noise: standard normal numbers, (B, *shape) for each shape of `dropped`: a feature is dropped where its
                number lies in the lower tail of probability `dropout`. Empty: nothing is dropped.

        Returns:
            (B, out_channels, H, W) in [-1, 1].

        Raises:
            InputError: if a side is too small.
        """
        shapes = self.dropped(x.shape[2:])
        assert len(noise) in (0, len(shapes)), f"{len(noise)} tensors of noise for {len(shapes)} levels with dropout"
        drawn = iter(noise)
        skips, h = [x], x
        for level, (down, norm) in enumerate(zip(self.down, self.down_norms, strict=True)):
            h = norm(down(functional.leaky_relu(h, SLOPE) if level else h))
            if noise and level in self.dropped_down:
                h = drop(h, next(drawn), self.dropout)
            skips.append(h)
        for level in reversed(range(len(self.widths))):
            innermost = level == len(self.widths) - 1
            h = functional.relu(h if innermost else torch.cat([h, skips[level + 1]], dim=1))
            h = self.up_norms[level](self.up[level](h, output_size=skips[level].shape[2:]))
            if noise and level in self.dropped_up:
                h = drop(h, next(drawn), self.dropout)
        return torch.tanh(h)


def drop(h: Tensor, noise: Tensor, probability: float) -> Tensor:
    """Dropout of features that is told what to drop: where `noise` (normal) lies below its quantile `probability`.

    What is kept is divided by 1 − probability, so that the mean over the noise is `h`.
    """
    return h * (noise > NormalDist().inv_cdf(probability)) / (1 - probability)
