"""Networks of SynDiff's public release where they differ from its paper, for comparisons at equal architecture.

The release is a denoising diffusion GAN (DDGAN: Xiao, Kreis & Vahdat, "Tackling the Generative Learning Trilemma with
Denoising Diffusion GANs", ICLR 2022) beside a CycleGAN without its identity loss. Written from the papers.

Network of the release     | here
-------------------------- | ----
diffusive generator        | `public_unet`, with `MappingNetwork(100, 256, 4)`
diffusive discriminator    | `DiffusiveDiscriminator`
non-diffusive generator    | `ResNetTranslator(upsample_kernel=3)`
its discriminator          | `PatchDiscriminator`
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from scansynth.errors import InputError
from scansynth.networks.blocks import channel_bias, convolution, fir_downsample, near_zero
from scansynth.networks.discriminator import check_sides
from scansynth.networks.embedding import TimeEmbedding
from scansynth.networks.start import normal_start
from scansynth.networks.unet import UNet

SLOPE = 0.2
GROUP = 4
"""Largest number of samples that a minibatch standard deviation is taken over."""


def public_unet(
    channels: int = 64,
    multipliers: Sequence[int] = (1, 1, 2, 2, 4, 4),
    blocks: int = 2,
    *,
    attention_levels: Sequence[int] = (4,),
    latent_width: int = 256,
    seen: int = 2,
) -> UNet:
    """NCSN++ (Song et al. 2021, appendix H) as DDGAN has it: both norms modulated, no Fourier features.

    Args:
        channels: base width. The time is encoded as wide, and embedded four times as wide.
        multipliers: width of each level over the base width.
        blocks: residual blocks a level.
        attention_levels: levels with self-attention. The release attends where a side has 16 values: level 4 of images
            of 256, level 2 of images of 64.
        latent_width: width of the latent w.
        seen: channels of x_t and y together; more than the release's 2 where neighbouring slices stand beside y.

    Returns:
        A network (x_t, y) → x̂0, (B, seen, H, W) → (B, 1, H, W), before its tanh.
    """
    return UNet(
        2,
        seen,
        1,
        channels=channels,
        multipliers=multipliers,
        blocks=blocks,
        attention_levels=attention_levels,
        time_width=4 * channels,
        latent_width=latent_width,
        time_encoding=channels,
        resample="fir",
        input_pyramid=True,
        modulate="both",
        project_resampled=True,
    )


def minibatch_deviation(h: Tensor) -> Tensor:
    """How much the samples of a batch differ, as one channel (Karras et al. 2018, 2020).

    The standard deviation over a group of samples, of each feature at each place, averaged over both. Each sample gets
    that of its group: at most 4 neighbours in the batch. A sample alone gets a constant.

    Args:
        h: features, (B, C, *S).

    Returns:
        (B, 1, *S).
    """
    maps = []
    for group in h.split(GROUP):
        variance = group.var(0, correction=0)
        deviation = (variance + 1e-8).sqrt().mean()
        maps.append(deviation.expand(len(group), 1, *h.shape[2:]))
    return torch.cat(maps)


class _Block(nn.Module):
    """Activation, convolution, plus time bias, activation, FIR downsampling, convolution, plus a 1×1 shortcut."""

    def __init__(self, channels_in: int, channels_out: int, time_width: int):
        super().__init__()
        self.conv1 = convolution(2, channels_in, channels_out, kernel=3)
        self.time = nn.Linear(time_width, channels_out)
        self.conv2 = convolution(2, channels_out, channels_out, kernel=3)
        self.shortcut = nn.Conv2d(channels_in, channels_out, kernel_size=1, bias=False)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.conv1(functional.leaky_relu(x, SLOPE))
        h = functional.leaky_relu(h + channel_bias(self.time(time), h), SLOPE)
        return (self.shortcut(fir_downsample(x)) + self.conv2(fir_downsample(h))) / math.sqrt(2)


class DiffusiveDiscriminator(nn.Module):
    """Time-conditional discriminator of DDGAN for large images (Xiao et al. 2022).

    **Its logits depend on the batch**: the last convolution also sees the `minibatch_deviation`. So a sample's logit
    changes with the samples beside it, the gradient of R1 holds what a sample does to its neighbours' logits, and a run
    cannot be repeated at another batch size. At a batch of 1, which the release trains with, the channel is constant
    and none of this happens.

    Args:
        in_channels: channels of the input, (x_s, x_t): 2.
        channels: base width. The first convolution has 2 times as many channels, the first block 4, all others 8.
        blocks: number of blocks.
        time_width: width of the time embedding and of the encoding that it is made from.
    """

    def __init__(self, in_channels: int = 2, channels: int = 64, blocks: int = 6, *, time_width: int = 256):
        super().__init__()
        widths = [2 * channels, 4 * channels, *[8 * channels] * (blocks - 1)]
        self.time = TimeEmbedding(time_width, time_width, nn.LeakyReLU(SLOPE))
        self.first = convolution(2, in_channels, widths[0], kernel=1)
        self.blocks = nn.ModuleList(_Block(width_in, width_out, time_width) for width_in, width_out in pairwise(widths))
        self.last_conv = convolution(2, widths[-1] + 1, widths[-1], kernel=3)
        self.last = nn.Linear(widths[-1], 1)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:  # the variance scaling of DDPM and NCSN++
                nn.init.xavier_uniform_(parameter)
        for block in self.blocks:
            near_zero(block.get_submodule("conv2"))

    def forward(self, x: Tensor, t: Tensor, minibatches: int = 1) -> Tensor:
        """Logits of pairs of images: above 0 for real.

        Args:
            x: images, (B, in_channels, H, W). At sides of 2^blocks, here 64, the last features have a single place.
            t: time steps, (B,).
            minibatches: how many minibatches of one size stand in x one after another; each has its own deviation.

        Returns:
            (B,).

        Raises:
            InputError: if a side is too small to be halved that often.
        """
        check_sides(x, len(self.blocks))
        time = functional.leaky_relu(self.time(t), SLOPE)
        h = self.first(x)
        for block in self.blocks:
            h = block(h, time)
        deviation = torch.cat([minibatch_deviation(part) for part in h.chunk(minibatches)])
        h = functional.leaky_relu(self.last_conv(torch.cat([h, deviation], dim=1)), SLOPE)
        return self.last(h.flatten(2).sum(2)).squeeze(1)


class PatchDiscriminator(nn.Module):
    """The 70×70 PatchGAN: a logit for every patch of an image (Isola et al. 2017, pix2pix, appendix 6.1.2).

    Paper: batch norm. Here: instance norm without scale and shift, as in CycleGAN (Zhu et al. 2017, section 7.2).

    Args:
        in_channels: channels of the image.
        channels: width of the first convolution; it doubles three times.
        logits: for each patch; one a contrast in MM-GAN (Sharma & Hamarneh 2020).
        halvings: convolutions of stride 2, of the first four: 3, or 4 for patches of 94×94 (MM-GAN).
    """

    def __init__(self, in_channels: int = 1, channels: int = 64, *, logits: int = 1, halvings: int = 3):
        super().__init__()
        assert halvings in (3, 4), halvings
        c = channels
        self.smallest = {3: 24, 4: 32}[halvings]

        def normed(width_in: int, width_out: int, stride: int) -> list[nn.Module]:
            # The norm takes the mean away again: the convolutions need no bias.
            convolution = nn.Conv2d(width_in, width_out, kernel_size=4, stride=stride, padding=1, bias=False)
            return [convolution, nn.InstanceNorm2d(width_out), nn.LeakyReLU(SLOPE)]

        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, c, kernel_size=4, stride=2, padding=1),
            nn.LeakyReLU(SLOPE),
            *normed(c, 2 * c, stride=2),
            *normed(2 * c, 4 * c, stride=2),
            *normed(4 * c, 8 * c, stride=halvings - 2),
            nn.Conv2d(8 * c, logits, kernel_size=4, padding=1),
        )
        normal_start(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of the patches of images: above 0 for real.

        Args:
            x: images, (B, in_channels, H, W).

        Returns:
            (B, logits, H/8 − 2, W/8 − 2), rounded down; of four halvings H/16 − 1, W/16 − 1. The losses take the mean
            over them all.

        Raises:
            InputError: if a side is below 24, of four halvings 32, where no patch is left.
        """
        if min(x.shape[2:]) < self.smallest:
            raise InputError(
                f"patch discriminator: sides of at least {self.smallest} are needed, the image has "
                f"{tuple(x.shape[2:])}: use larger images"
            )
        return self.layers(x)
