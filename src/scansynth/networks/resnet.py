"""Residual translator of images: SynDiff's non-diffusive generator, and the generators of CycleGAN, cGAN and SAGAN.

Its parts are those of ResViT's generator, too (`resvit.py`).
"""

from collections.abc import Iterable
from typing import Literal

from torch import Tensor, nn

from scansynth.errors import InputError
from scansynth.networks.sagan import SaganAttention


class Residual(nn.Module):
    """Two 3×3 convolutions with instance norm, added to the input (Johnson et al. 2016, supplement).

    Args:
        channels: of input and output.
        affine: whether the norms have a scale and a shift.
    """

    def __init__(self, channels: int, *, affine: bool):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False),
            nn.InstanceNorm2d(channels, affine=affine),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect", bias=False),
            nn.InstanceNorm2d(channels, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) → the same shape."""
        return x + self.layers(x)


def normed(convolution: nn.Module, width: int, *, affine: bool) -> list[nn.Module]:
    """A convolution, instance norm and ReLU.

    The norm takes the mean away again: the convolution needs no bias.
    """
    return [convolution, nn.InstanceNorm2d(width, affine=affine), nn.ReLU()]


def halving(width_in: int, width_out: int, *, padding_mode: Literal["reflect", "zeros"] = "reflect") -> nn.Conv2d:
    """A 3×3 convolution to half the size; an odd side is rounded up."""
    return nn.Conv2d(width_in, width_out, 3, stride=2, padding=1, padding_mode=padding_mode, bias=False)


def doubling(width_in: int, width_out: int, kernel: Literal[3, 4]) -> nn.ConvTranspose2d:
    """A transposed convolution to twice the size."""
    # A kernel of 3 gives a row and a column too few for twice the size.
    return nn.ConvTranspose2d(
        width_in, width_out, kernel, stride=2, padding=1, output_padding=4 - kernel, bias=False
    )  # fmt: skip


class Told(nn.Module):
    """A convolution and its norm, behind which comes what planes tell.

    A plane is one number in all pixels. Convolved with the images its share is constant too, and instance norm takes it
    away: the network would not know which contrasts are given, nor which one is asked for.

    Args:
        convolution: of the images.
        norm: of what it gives.
        planes: number of the last channels that are planes.
        width: channels of the output.
    """

    def __init__(self, convolution: nn.Module, norm: nn.Module, planes: int, *, width: int):
        super().__init__()
        self.convolution, self.norm, self.planes = convolution, norm, planes
        self.shift = nn.Conv2d(planes, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images and planes, (B, C, H, W), to (B, width, H, W)."""
        images, planes = x[:, : -self.planes], x[:, -self.planes :]
        return self.norm(self.convolution(images)) + self.shift(planes)


def encoding(in_channels: int, c: int, *, affine: bool, planes: int = 0) -> list[nn.Module]:
    """Layers from an image, whose last channels may be planes, to 4c channels of a quarter of its size."""
    first = nn.Conv2d(in_channels - planes, c, 7, padding=3, padding_mode="reflect", bias=False)
    begin = normed(first, c, affine=affine)
    if planes:
        begin = [Told(first, begin[1], planes, width=c), *begin[2:]]
    return [
        *begin,
        *normed(halving(c, 2 * c), 2 * c, affine=affine),
        *normed(halving(2 * c, 4 * c), 4 * c, affine=affine),
    ]


def decoding(out_channels: int, c: int, *, upsample_kernel: Literal[3, 4], affine: bool) -> list[nn.Module]:
    """Layers from 4c channels to an image of four times the size, in [-1, 1]."""
    return [
        *normed(doubling(4 * c, 2 * c, upsample_kernel), 2 * c, affine=affine),
        *normed(doubling(2 * c, c, upsample_kernel), c, affine=affine),
        nn.Conv2d(c, out_channels, 7, padding=3, padding_mode="reflect"),
        nn.Tanh(),
    ]


def through(layers: Iterable[nn.Module], x: Tensor, sizes: list[tuple[int, ...]]) -> Tensor:
    """Walk through layers; what doubles the size gives the one that was there before it was halved, odd or even.

    Args:
        layers: in their order.
        x: (B, C, H, W).
        sizes: before each halving, the newest last; those that were undone are taken off.
    """
    for layer in layers:
        if isinstance(layer, nn.ConvTranspose2d):
            x = layer(x, output_size=list(sizes.pop()))
            continue
        if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
            sizes.append(tuple(x.shape[2:]))
        x = layer(x)
    return x


class ResNetTranslator(nn.Module):
    """Three encoding, some residual, three decoding blocks (Johnson et al. 2016; SynDiff, section IV-B.1).

    Paper: Johnson et al. upsample with 3×3 fractionally strided convolutions. Here: 4×4 by default, because then every
    output pixel gets the same number of taps and no checkerboard starts. With 3×3 a side may be odd: it is rounded up
    on the way down, and has its size again on the way up.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        channels: width at full resolution; it doubles twice.
        residual_blocks: number of residual blocks.
        upsample_kernel: side of the kernels that upsample: 4, or 3 as in Johnson et al. (and SynDiff's public code).
        affine: whether the instance norms have a scale and a shift (Johnson et al.); CycleGAN's have none.
        planes: how many of the input's channels, the last ones, are constant planes (`Told`).
        attentive: how many of the residual blocks, from the last on, are followed by self-attention (SAGAN).
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        channels: int = 64,
        *,
        residual_blocks: int = 6,
        upsample_kernel: Literal[3, 4] = 4,
        affine: bool = True,
        planes: int = 0,
        attentive: int = 0,
    ):
        super().__init__()
        assert upsample_kernel in (3, 4), f"no padding is known for upsampling by {upsample_kernel}×{upsample_kernel}"
        assert attentive <= residual_blocks, f"attention in {attentive} of {residual_blocks} blocks"
        self.size_multiple = 4 if upsample_kernel == 4 else 1
        encode = encoding(in_channels, channels, affine=affine, planes=planes)
        decode = decoding(out_channels, channels, upsample_kernel=upsample_kernel, affine=affine)
        blocks: list[nn.Module] = []
        for number in range(residual_blocks):
            blocks.append(Residual(4 * channels, affine=affine))
            if number >= residual_blocks - attentive:
                blocks.append(SaganAttention(4 * channels))
        self.layers = nn.Sequential(*encode, *blocks, *decode)

    def forward(self, x: Tensor) -> Tensor:
        """Translate images `x` (B, in_channels, H, W) into (B, out_channels, H, W) in [-1, 1].

        Raises:
            InputError: if a side is below 8 (reflection padding needs 2 pixels inside), or is no multiple of 4 where
                kernels of 4 upsample.
        """
        if any(side % self.size_multiple or side < 8 for side in x.shape[2:]):
            multiples = f"multiples of {self.size_multiple}, " if self.size_multiple > 1 else ""
            raise InputError(f"ResNet translator: image size {tuple(x.shape[2:])}: pad to {multiples}at least 8")
        return through(self.layers, x, [])
