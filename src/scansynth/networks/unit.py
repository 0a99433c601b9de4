"""Networks of UNIT and MUNIT: encoders, decoders with or without a style, and a discriminator of several scales.

Source: Huang, Liu, Belongie & Kautz, "Multimodal Unsupervised Image-to-Image Translation", ECCV 2018 (MUNIT), section
5.1 and the appendix on networks. UNIT (Liu, Breuel & Kautz, NeurIPS 2017) has the same here, without styles. All
convolutions of more than one pixel pad by reflection, so that no edge of zeros stands around a head.

In the terms of MUNIT's appendix, at 64 channels | here
------------------------------------------------ | ----
c7s1-64, d128, d256, R256 × 4                    | `Encoder`
c7s1-64, d128, d256, d256, d256, GAP, fc8        | `StyleEncoder`
R256 × 4, u128, u64, c7s1                        | `Decoder`, with a perceptron 8-256-256-4096 from style to AdaIN
d64, d128, d256, d512, at three scales           | `MultiScaleDiscriminator`
"""

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from scansynth.errors import InputError
from scansynth.networks.cpu import GroupNorm
from scansynth.networks.start import normal_start

STYLE = 8
"""Numbers of a style."""
DOWNSAMPLINGS = 2
"""Of an image to its latent or content code."""
SLOPE = 0.2
HALVINGS = 4
"""Strided convolutions of a discriminator, at each scale."""


def adain(x: Tensor, parameters: Tensor | None = None) -> Tensor:
    """Adaptive instance normalisation: γ (x − μ(x)) / σ(x) + β (MUNIT, section 5.1; Huang & Belongie, ICCV 2017).

    Args:
        x: features, (B, C, h, w); μ and σ are each sample's and channel's own.
        parameters: γ, then β, (B, 2C); None: 1 and 0, which is instance norm.

    Returns:
        (B, C, h, w).
    """
    normed = functional.instance_norm(x)
    if parameters is None:
        return normed
    scale, shift = parameters[..., None, None].chunk(2, dim=1)
    return scale * normed + shift


def convolution(width_in: int, width_out: int, kernel: int, *, bias: bool, halving: bool = False) -> nn.Conv2d:
    """A convolution with reflection padding that keeps the size, or halves it.

    Args:
        width_in: channels of the input.
        width_out: channels of the output.
        kernel: its side: odd where it keeps the size, 4 where it halves.
        bias: none before an instance norm, which takes the mean away again.
        halving: whether its stride is 2.
    """
    padding = 1 if halving else kernel // 2
    stride = 2 if halving else 1
    return nn.Conv2d(width_in, width_out, kernel, stride, padding, padding_mode="reflect", bias=bias)


def kaiming_start(network: nn.Module) -> None:
    """Let weights start as in He et al. 2015 (MUNIT), biases from 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions, each with AdaIN or, without a style, instance norm; added to the input.

    Args:
        channels: C.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = (convolution(channels, channels, 3, bias=False) for _ in range(2))
        kaiming_start(self)

    def forward(self, x: Tensor, parameters: Tensor | None = None) -> Tensor:
        """Change features (B, C, h, w); `parameters` (B, 4C) of both norms, where a style sets them."""
        first, second = (None, None) if parameters is None else parameters.chunk(2, dim=1)
        h = adain(self.first(x), first).relu()
        return x + adain(self.second(h), second)


class Encoder(nn.Module):
    """An image to its latent (UNIT) or its content code (MUNIT), of a quarter of its sides.

    Args:
        channels: width at full resolution; it doubles twice.
        residual_blocks: number of residual blocks; 0 where those are shared (UNIT).
    """

    def __init__(self, channels: int = 64, residual_blocks: int = 4):
        super().__init__()
        c = channels
        layers: list[nn.Module] = [convolution(1, c, 7, bias=False), nn.InstanceNorm2d(c), nn.ReLU()]
        for width in (2 * c, 4 * c):
            layers += [
                convolution(width // 2, width, 4, bias=False, halving=True), nn.InstanceNorm2d(width), nn.ReLU(),
            ]  # fmt: skip
        self.layers = nn.Sequential(*layers, *(ResidualBlock(4 * c) for _ in range(residual_blocks)))
        kaiming_start(self)

    def forward(self, x: Tensor) -> Tensor:
        """Encode images (B, 1, H, W) as (B, 4 channels, H/4, W/4).

        Raises:
            InputError: if a side is below 8 or no multiple of 4.
        """
        if any(side < 8 or side % 2**DOWNSAMPLINGS for side in x.shape[2:]):
            raise InputError(f"encoder: image size {tuple(x.shape[2:])}: pad to multiples of 4, at least 8")
        return self.layers(x)


class StyleEncoder(nn.Module):
    """An image to its style: without norms, which would take away the means and deviations that it is about.

    Args:
        channels: width at full resolution; it doubles twice.
    """

    def __init__(self, channels: int = 64):
        super().__init__()
        c = channels
        layers: list[nn.Module] = [convolution(1, c, 7, bias=True), nn.ReLU()]
        for width_in, width in pairwise((c, 2 * c, 4 * c, 4 * c, 4 * c)):
            layers += [convolution(width_in, width, 4, bias=True, halving=True), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(4 * c, STYLE)
        kaiming_start(self)

    def forward(self, x: Tensor) -> Tensor:
        """Encode images (B, 1, H, W) as styles (B, 8).

        Raises:
            InputError: if a side is below 16, too small to be halved four times.
        """
        if min(x.shape[2:]) < 2**HALVINGS:
            raise InputError(f"style encoder: image size {tuple(x.shape[2:])}: sides of at least 16 are needed")
        return self.last(self.layers(x).mean((2, 3)))


class Decoder(nn.Module):
    """A latent, or a content code with a style, to an image.

    Residual blocks, two nearest-neighbour doublings each with a 5×5 convolution and layer norm over (C, h, w), and a
    7×7 convolution with tanh.

    Args:
        channels: width at full resolution.
        residual_blocks: number of residual blocks; 0 where those are shared (UNIT).
        styled: whether a style sets scales and shifts of the residual blocks' norms.
    """

    def __init__(self, channels: int = 64, residual_blocks: int = 4, *, styled: bool = False):
        super().__init__()
        c = channels
        self.blocks = nn.ModuleList(ResidualBlock(4 * c) for _ in range(residual_blocks))
        self.mlp = None
        if styled:
            self.mlp = nn.Sequential(
                nn.Linear(STYLE, 4 * c), nn.ReLU(),
                nn.Linear(4 * c, 4 * c), nn.ReLU(),
                nn.Linear(4 * c, 16 * c * residual_blocks),  # γ and β of two norms a block, 4c channels each
            )  # fmt: skip
        layers: list[nn.Module] = []
        for width in (2 * c, c):
            # With one group, group norm is layer norm over channels and places. It leaves a channel's mean: a bias.
            doubling = [nn.Upsample(scale_factor=2), convolution(2 * width, width, 5, bias=True)]
            layers += [*doubling, GroupNorm(1, width), nn.ReLU()]
        self.layers = nn.Sequential(*layers, convolution(c, 1, 7, bias=True), nn.Tanh())
        kaiming_start(self)

    def forward(self, z: Tensor, s: Tensor | None = None) -> Tensor:
        """Decode (B, 4 channels, h, w), of styled ones with styles s (B, 8), into images (B, 1, 4h, 4w) in [-1, 1]."""
        assert (s is None) == (self.mlp is None), "a style goes with `styled`"
        parameters = [None] * len(self.blocks)
        if self.mlp is not None:
            parameters = self.mlp(s).chunk(len(self.blocks), dim=1)
        for block, own in zip(self.blocks, parameters, strict=True):
            z = block(z, own)
        return self.layers(z)


class MultiScaleDiscriminator(nn.Module):
    """Values of patches at several scales (Wang et al., CVPR 2018), without norms: local detail and the whole head.

    Each scale has a network of its own, of four 4×4 convolutions of stride 2 and a 1×1 one. From scale to scale the
    image is mean-pooled, 3×3 with stride 2.

    Args:
        channels: width of the first convolutions; it doubles three times.
        scales: number of scales.
    """

    def __init__(self, channels: int = 64, scales: int = 3):
        super().__init__()
        self.nets = nn.ModuleList()
        for _ in range(scales):
            layers: list[nn.Module] = []
            for width_in, width in pairwise((1, *(channels * 2**level for level in range(HALVINGS)))):
                layers += [convolution(width_in, width, 4, bias=True, halving=True), nn.LeakyReLU(SLOPE)]
            self.nets.append(nn.Sequential(*layers, nn.Conv2d(8 * channels, 1, kernel_size=1)))
        normal_start(self)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Values of the patches of images, 1 for real.

        Args:
            x: images, (B, 1, H, W).

        Returns:
            (B, 1, h, w) for each scale, the finest first: its sides over 16, rounded down.

        Raises:
            InputError: if a side is too small for the coarsest scale: below 16 at one scale, 32 at two, 64 at three.
        """
        smallest = 2 ** (HALVINGS + len(self.nets) - 1)
        if min(x.shape[2:]) < smallest:
            raise InputError(
                f"discriminator: {len(self.nets)} scales need sides of at least {smallest}, the image has "
                f"{tuple(x.shape[2:])}: use fewer scales or larger images"
            )
        values = []
        for scale, net in enumerate(self.nets):
            # A border's mean is that of the pixels that are there: what is constant stays so.
            x = functional.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False) if scale else x
            values.append(net(x))
        return tuple(values)
