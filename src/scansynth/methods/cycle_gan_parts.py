"""CycleGAN's settings, networks and image pool (`methods/cycle_gan.py`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from scansynth.errors import InputError
from scansynth.networks.attention_unet import AttentionUNet
from scansynth.networks.public_syndiff import PatchDiscriminator
from scansynth.networks.resnet import ResNetTranslator
from scansynth.networks.start import normal_start
from scansynth.ranges import Count, Natural, Share, Weight

ATTENTIVE = 2
"""Last residual blocks that have self-attention in SAGAN (SynDiff, section IV-B.2)."""


@dataclass(frozen=True, kw_only=True)
class CycleGANConfig:
    """Settings of CycleGAN; the defaults are its paper's (Zhu et al. 2017, sections 4 and 7)."""

    generator: Literal["resnet", "attention_unet", "self_attention"] = "resnet"
    """What translates: a ResNet (CycleGAN, cGAN), a U-Net with attention gates on its skips (AttGAN), or the ResNet
    with self-attention in its last two residual blocks (SAGAN)."""
    channels: Count = 64
    """Width of the generators at full resolution."""
    residual_blocks: Count = 9
    """Residual blocks of the ResNet, with and without self-attention."""
    levels: Count = 5
    """Levels of the U-Net; a slice needs sides of at least 2 to this number."""
    discriminator_channels: Count = 64
    """Width of the discriminators' first convolution."""
    cycle_weight: Weight = 10.0
    """λ, of the cycle losses (Eq. 3)."""
    identity_weight: Weight = 0.0
    """Weight of the identity losses over λ (section 5.2); 0: none. The paper's is 0.5 where it has them."""
    pool: Natural = 50
    """Images of each contrast, made in earlier steps, that its discriminator may be shown again; 0: none are kept."""
    learning_rate: Weight = 2e-4
    """Adam's learning rate, of all networks; in the second half of the training it falls to zero."""
    beta2: Share = 0.999
    """Adam's decay of squared gradients, below 1; that of gradients is 0.5."""

    def __post_init__(self):
        if not 0 <= self.beta2 < 1:
            raise InputError(f"cycle_gan: beta2 {self.beta2}: a number in [0, 1)")
        if self.generator == "self_attention" and (self.channels % 2 or self.residual_blocks < ATTENTIVE):
            raise InputError(
                f"cycle_gan: self-attention wants an even number of channels (here {self.channels}) and at least "
                f"{ATTENTIVE} residual blocks (here {self.residual_blocks})"
            )

    @classmethod
    def tiny(cls) -> "CycleGANConfig":
        """Networks that train in seconds, and a pool that is soon full, for tests."""
        return cls(
            channels=8, residual_blocks=2, levels=3, discriminator_channels=8, identity_weight=0.5, pool=3,
            learning_rate=1e-3,
        )  # fmt: skip


def generator(config: CycleGANConfig) -> nn.Module:
    """G: an image of one contrast to one of the other, (B, 1, H, W) in [-1, 1]."""
    if config.generator == "attention_unet":
        return normal_start(AttentionUNet(channels=config.channels, levels=config.levels))
    net = ResNetTranslator(
        channels=config.channels,
        residual_blocks=config.residual_blocks,
        upsample_kernel=3,
        affine=False,
        attentive=ATTENTIVE if config.generator == "self_attention" else 0,
    )
    return normal_start(net)


def discriminator(config: CycleGANConfig) -> nn.Module:
    """D: an image to values of its patches of 70×70 pixels, 1 for real."""
    return PatchDiscriminator(1, config.discriminator_channels)


class ImagePool:
    """Images made in earlier steps, which a discriminator is shown again (Shrivastava et al., CVPR 2017, section 2.3).

    As in CycleGAN (Zhu et al. 2017, section 4): while it is not full it takes what comes and shows it. Then, with
    probability ½, it shows one of its own in place of what comes, which takes that place.

    Args:
        size: images it holds; 0: it holds none, and shows what comes.
    """

    def __init__(self, size: int):
        self.size = size
        self.images: list[Tensor] = []
        """(1, H, W) each."""

    def shown(self, images: Tensor, again: Sequence[bool], places: Sequence[int]) -> Tensor:
        """What the discriminator sees.

        Args:
            images: what comes, in its order, (B, 1, H, W), without gradients.
            again: of each, whether one of the pool is shown in its place where the pool is full.
            places: of each, which one, in [0, size).

        Returns:
            (B, 1, H, W).
        """
        seen = []
        for image, old, place in zip(images, again, places, strict=True):
            if len(self.images) < self.size:
                self.images.append(image.clone())
            elif self.size and old:
                seen.append(self.images[place])
                self.images[place] = image.clone()
                continue
            seen.append(image)
        return torch.stack(seen)

    def fill(self, images: Tensor) -> None:
        """Hold these images, (n, 1, H, W), in place of its own.

        Raises:
            InputError: if they are none that it could hold.
        """
        if images.ndim != 4 or images.shape[1] != 1 or len(images) > self.size or not images.is_floating_point():
            raise InputError(f"a pool of {self.size} images cannot hold {tuple(images.shape)} of {images.dtype}")
        self.images = list(images.clone())
