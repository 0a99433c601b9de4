"""A U-Net whose skips pass attention gates (Oktay et al., "Attention U-Net", 2018)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from scansynth.errors import InputError


class AttentionGate(nn.Module):
    """Additive attention on a skip: a map α in (0, 1), from the skip x and the coarser features g (Oktay et al. 2018).

    α = σ(ψᵀ ReLU(W_x x + W_g g + b) + b_ψ), brought to x's size; the skip becomes α·x.

    # Paper: x is brought onto g's grid by 1×1×1 convolutions. Here: W_x is 2×2 with stride 2, so that every pixel of x
    # has its part in that, at odd sides all but the last row or column, as in max-pooling.

    Args:
        channels: of x.
        coarser: channels of g, whose sides are half of x's, rounded down.
    """

    def __init__(self, channels: int, coarser: int):
        super().__init__()
        inner = max(channels // 2, 1)
        self.of_x = nn.Conv2d(channels, inner, kernel_size=2, stride=2, bias=False)
        self.of_g = nn.Conv2d(coarser, inner, kernel_size=1)
        self.psi = nn.Conv2d(inner, 1, kernel_size=1)

    def alpha(self, x: Tensor, g: Tensor) -> Tensor:
        """α, (B, 1, H, W), of x (B, channels, H, W) and g (B, coarser, H/2, W/2)."""
        alpha = torch.sigmoid(self.psi(functional.relu(self.of_x(x) + self.of_g(g))))
        return functional.interpolate(alpha, size=x.shape[2:], mode="bilinear", align_corners=False)

    def forward(self, x: Tensor, g: Tensor) -> Tensor:
        """α·x, (B, channels, H, W)."""
        return self.alpha(x, g) * x


def _convolved(width_in: int, width_out: int, count: int) -> nn.Sequential:
    """3×3 convolutions, each with instance norm and ReLU."""
    layers: list[nn.Module] = []
    for number in range(count):
        # The norm takes the mean away again: the convolutions need no bias.
        convolution = nn.Conv2d(width_in if number == 0 else width_out, width_out, 3, padding=1, bias=False)
        layers += [convolution, nn.InstanceNorm2d(width_out), nn.ReLU()]
    return nn.Sequential(*layers)


class AttentionUNet(nn.Module):
    """Attention U-Net: max-pooling down, enlarging and a 3×3 convolution up, gated skips between levels of one size.

    A side that is odd is rounded down on the way down, and has its size again on the way up.

    # Paper: a segmenter of volumes, with batch norm and deep supervision. Here: a generator of slices with a tanh, with
    # instance norm, which is the same at a batch of one as the other generators' (`resnet.py`).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        channels: width of the first level; it doubles with each.
        levels: how many there are. A side needs 2^levels pixels, so that the deepest level has two.
    """

    def __init__(self, in_channels: int = 1, out_channels: int = 1, channels: int = 64, *, levels: int = 5):
        super().__init__()
        widths = [channels * 2**level for level in range(levels)]
        self.down = nn.ModuleList(
            _convolved(before, width, 2) for before, width in zip([in_channels, *widths], widths, strict=False)
        )
        self.enlarged, self.gates, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for width in widths[:-1]:  # by level, the finest first
            self.enlarged.append(_convolved(2 * width, width, 1))
            self.gates.append(AttentionGate(width, 2 * width))
            self.up.append(_convolved(2 * width, width, 2))
        self.last = nn.Conv2d(channels, out_channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        """Translate images `x` (B, in_channels, H, W) into (B, out_channels, H, W) in [-1, 1].

        Raises:
            InputError: if a side is too small.
        """
        smallest = 2 ** len(self.down)
        if min(x.shape[2:]) < smallest:
            raise InputError(
                f"attention U-Net: {len(self.down)} levels need sides of at least {smallest}, the image has "
                f"{tuple(x.shape[2:])}: use fewer levels or larger images"
            )
        h, skips = x, []
        for level, layers in enumerate(self.down):
            h = layers(functional.max_pool2d(h, 2) if level else h)
            skips.append(h)
        skips.pop()
        for level in reversed(range(len(skips))):
            skip = skips[level]
            enlarged = self.enlarged[level](functional.interpolate(h, size=skip.shape[2:], mode="nearest"))
            h = self.up[level](torch.cat([self.gates[level](skip, h), enlarged], dim=1))
        return torch.tanh(self.last(h))
