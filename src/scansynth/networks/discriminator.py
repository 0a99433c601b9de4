"""Discriminators: of whole images, with or without time (SynDiff's, for both modules), and of patches."""

import math

from torch import Tensor, nn
from torch.nn import functional

from scansynth.errors import InputError
from scansynth.networks.blocks import channel_bias, convolution, downsample, shortcut
from scansynth.networks.embedding import TimeEmbedding

SLOPE = 0.2


def check_sides(x: Tensor, blocks: int) -> None:
    """Raise InputError if an image (B, C, *S) is too small to be halved `blocks` times."""
    smallest = 2**blocks
    if min(x.shape[2:]) < smallest:
        raise InputError(
            f"discriminator: {blocks} blocks need sides of at least {smallest}, the image has {tuple(x.shape[2:])}: "
            "use fewer blocks or larger images"
        )


class _Block(nn.Module):
    """Two 3×3 convolutions and a twofold downsampling, with a shortcut; time is a channel bias."""

    def __init__(self, dims: int, channels_in: int, channels_out: int, time_width: int):
        super().__init__()
        self.conv1 = convolution(dims, channels_in, channels_in, kernel=3)
        self.time = nn.Linear(time_width, channels_in) if time_width else None
        self.conv2 = convolution(dims, channels_in, channels_out, kernel=3)
        self.shortcut = shortcut(dims, channels_in, channels_out)
        for conv in (self.conv1, self.conv2):
            # Nothing normalises here: the weights must keep the variance.
            nn.init.kaiming_normal_(conv.get_parameter("weight"), a=SLOPE)
            nn.init.zeros_(conv.get_parameter("bias"))

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        h = self.conv1(x)
        if self.time is not None:
            assert time is not None
            h = h + channel_bias(self.time(time), h)
        h = functional.leaky_relu(h, SLOPE)
        h = functional.leaky_relu(self.conv2(h), SLOPE)
        # The shortcut is 1×1: it commutes with the averaging and costs a quarter after it.
        return (self.shortcut(downsample(x)) + downsample(h)) / math.sqrt(2)


class Discriminator(nn.Module):
    """Blocks of two convolutions and a twofold downsampling, then one logit an image (SynDiff, section IV-B.1).

    It has no normalisation: none of its logits depends on another sample of the batch, and it can be differentiated
    twice (R1). The width doubles from block to block, up to 8 times the base width.

    Args:
        in_channels: channels of the input. The diffusive one sees (x_{t-k}, x_t): 2; the other the image only: 1.
        channels: width of the first block.
        blocks: number of blocks.
        time_width: width of the time embedding, added as a bias in every block; 0: it sees no time.
        dims: 2 or 3.
    """

    def __init__(self, in_channels: int, channels: int = 64, blocks: int = 6, *, time_width: int = 0, dims: int = 2):
        super().__init__()
        widths = [channels * min(2**block, 8) for block in range(blocks)]
        self.time = TimeEmbedding(time_width) if time_width else None
        self.first = convolution(dims, in_channels, channels, kernel=3)
        self.blocks = nn.ModuleList(
            _Block(dims, width_in, width_out, time_width)
            for width_in, width_out in zip([channels, *widths[:-1]], widths, strict=True)
        )
        self.last = nn.Linear(widths[-1], 1)

    def forward(self, x: Tensor, t: Tensor | None = None) -> Tensor:
        """Logits of images: above 0 for real.

        Args:
            x: images, (B, in_channels, *S).
            t: time steps, (B,), where `time_width` > 0.

        Returns:
            (B,).

        Raises:
            InputError: if a side is too small to be halved that often.
        """
        check_sides(x, len(self.blocks))
        assert (t is None) == (self.time is None), "t goes with time_width > 0"
        time = None if self.time is None or t is None else functional.silu(self.time(t))
        h = self.first(x)
        for block in self.blocks:
            h = block(h, time)
        return self.last(h.flatten(2).mean(2)).squeeze(1)


class PatchDiscriminator(nn.Module):
    """Strided convolutions with a logit for every patch (Isola et al., CVPR 2017), without normalisation.

    Args:
        dims: 2 or 3.
        channels: width of the first convolution; it doubles from one to the next, up to 4 times.
        halvings: strided convolutions.
    """

    def __init__(self, dims: int, channels: int = 64, halvings: int = 3):
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        widths = [1, *(channels * min(2**level, 4) for level in range(halvings))]
        layers: list[nn.Module] = []
        for level in range(halvings):
            layers += [conv(widths[level], widths[level + 1], 4, 2, padding=1), nn.LeakyReLU(SLOPE)]
        layers.append(conv(widths[-1], 1, 3, padding=1))
        for layer in layers[::2]:
            nn.init.kaiming_normal_(layer.get_parameter("weight"), a=SLOPE)
            nn.init.zeros_(layer.get_parameter("bias"))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (B, 1, *S), above 0 for real: (B, 1, *S/2^halvings)."""
        return self.layers(x)
