"""The U-Net generator of pix2pix (Isola et al., CVPR 2017, section 3.2.1 and appendix 6.1.1)."""

from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor, nn
from torch.nn import functional

from scansynth.errors import InputError

SLOPE = 0.2
DROPPED_LEVELS = 3
"""Deepest levels of the decoder, which have dropout."""


class Pix2PixUNet(nn.Module):
    """Strided convolutions down to a bottleneck and transposed ones back, with skips between levels of one size.

    Down: 4×4 with stride 2, LeakyReLU 0.2 before all but the first. Up: ReLU, transposed 4×4 with stride 2, dropout in
    the three deepest levels. A side that is odd loses half a pixel on the way down and has it back on the way up.

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
    """

    def __init__(
        self, in_channels: int, out_channels: int = 1, channels: int = 64, *, halvings: int = 8, dropout: float = 0.5
    ):
        super().__init__()
        assert halvings >= 1, "there is no level"
        self.dropout = dropout
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
            self.up.append(nn.ConvTranspose2d(joined, back, 4, 2, padding=1, bias=outermost))
            self.up_norms.append(nn.Identity() if outermost else nn.InstanceNorm2d(back, affine=True))
        for name, parameter in self.named_parameters():  # appendix 6.2
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif "norms" not in name:
                nn.init.normal_(parameter, std=0.02)

    def dropped(self, size: Sequence[int]) -> list[tuple[int, int, int]]:
        """Shapes (C, h, w) of the features that have dropout, from the deepest on, for images of `size` (H, W).

        Raises:
            InputError: if a side is too small to be halved that often.
        """
        halvings = len(self.widths)
        if min(size) < 2**halvings:
            raise InputError(
                f"pix2pix: {halvings} halvings need sides of at least {2**halvings}, the image has {tuple(size)}: "
                "use fewer halvings or larger images"
            )
        levels = range(halvings - 1, max(halvings - 1 - DROPPED_LEVELS, 0), -1) if self.dropout else ()
        return [(self.widths[level - 1], size[0] >> level, size[1] >> level) for level in levels]

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
        skips, h = [x], x
        for level, (down, norm) in enumerate(zip(self.down, self.down_norms, strict=True)):
            h = norm(down(functional.leaky_relu(h, SLOPE) if level else h))
            skips.append(h)
        drawn = iter(noise)
        for level in reversed(range(len(self.widths))):
            innermost = level == len(self.widths) - 1
            h = functional.relu(h if innermost else torch.cat([h, skips[level + 1]], dim=1))
            h = self.up_norms[level](self.up[level](h, output_size=skips[level].shape[2:]))
            if (numbers := next(drawn, None)) is not None:
                h = drop(h, numbers, self.dropout)
        return torch.tanh(h)


def drop(h: Tensor, noise: Tensor, probability: float) -> Tensor:
    """Dropout of features that is told what to drop: where `noise` (normal) lies below its quantile `probability`.

    What is kept is divided by 1 − probability, so that the mean over the noise is `h`.
    """
    return h * (noise > NormalDist().inv_cdf(probability)) / (1 - probability)
