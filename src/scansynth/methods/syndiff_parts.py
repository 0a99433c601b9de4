"""SynDiff's settings and the networks that follow from them (`methods/syndiff.py`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from scansynth.diffusion.samplers import Spacing
from scansynth.errors import InputError
from scansynth.networks.discriminator import Discriminator
from scansynth.networks.embedding import MappingNetwork
from scansynth.networks.public_syndiff import DiffusiveDiscriminator, PatchDiscriminator, public_unet
from scansynth.networks.resnet import ResNetTranslator
from scansynth.networks.unet import UNet, start_variance
from scansynth.ranges import Count, Natural, Share, Weight


@dataclass(frozen=True, kw_only=True)
class SynDiffConfig:
    """Settings of SynDiff; the defaults are the paper's (section IV-B.1)."""

    variant: Literal["unpaired", "supervised", "unconditional", "non-diffusive", "ddpm"] = "unpaired"
    """What guides the diffusive generators: estimated sources (the paper's SynDiff), acquired ones of paired slices
    (section VI-C), or nothing (Table VI); or the non-diffusive module alone (Table VII); or, guided by estimated
    sources, DDPM in place of the adversarial diffusion (Tables II to V)."""
    networks: Literal["paper", "public"] = "paper"
    """Architecture of the paper (section IV-B.1), or of the public release (`networks/public_syndiff.py`)."""
    neighbours: Natural = 0
    """Slices on each side of the guide that are given with it, as further channels (2.5D); supervised alone."""
    steps: Count = 1000
    """T, forward steps of the diffusion."""
    step_size: Count = 250
    """k: T/k network calls make an image."""
    beta_min: Weight = 0.1
    """Lower bound of the noise schedule (Eq. 10)."""
    beta_max: Weight = 20.0
    """Upper bound of the noise schedule (Eq. 10)."""
    first_time: Share = 0.0
    """Where on the schedule's axis, 0 to 1, the clean image lies. Paper: 0. The public release: 0.001."""
    channels: Count = 64
    """Base width of the diffusive generators."""
    multipliers: tuple[Count, ...] = (1, 1, 2, 2, 4, 4)
    """Width of each of their levels over the base width."""
    blocks: Count = 2
    """Their residual blocks a level."""
    attention_levels: tuple[Natural, ...] = (4,)
    """Their levels with self-attention, beside the bottleneck."""
    time_width: Count = 32
    """Width of the time embedding."""
    latent_width: Count = 256
    """Width of the latent that modulates the diffusive generators."""
    discriminator_channels: Count = 64
    """Base width of all discriminators."""
    discriminator_blocks: Count = 6
    """Blocks of all discriminators; each halves the image."""
    translator_channels: Count = 64
    """Base width of the non-diffusive generators."""
    output: Literal["noise", "velocity"] = "noise"
    """What the variant ddpm's networks give: ε itself, or the velocity that it follows from, which learns in far fewer
    steps."""
    spacing: Spacing = "even"
    """How the variant ddpm's times of sampling lie: evenly, or more of them where little noise is left."""
    bound_weight: Weight = 0.001
    """γ of L_VLB, of the variant ddpm (Nichol & Dhariwal)."""
    cycle_weight_translator: Weight = 0.5
    """λ_1φ, cycle loss of the non-diffusive module (Eq. 22)."""
    cycle_weight_diffusive: Weight = 0.5
    """λ_1θ, cycle loss of the diffusive module (Eq. 22); the pixel loss where supervised."""
    adversarial_weight_translator: Weight = 1.0
    """λ_2φ (Eqs. 23, 24)."""
    adversarial_weight_diffusive: Weight = 1.0
    """λ_2θ (Eqs. 23, 24)."""
    gradient_penalty: Weight = 0.5
    """η, weight of the gradient penalty on real pairs (Eq. 12)."""
    penalty_every: Count = 1
    """Training steps from one gradient penalty to the next, which then weighs so many times η."""
    diffusive_from: Natural = 0
    """Training steps in which the non-diffusive module is pretrained alone (Table IX)."""
    translators_until: Natural | None = None
    """Training steps after which the non-diffusive module is frozen (Tables IX and X); None: never."""
    learning_rate: Weight = 1e-4
    """Adam's learning rate, for all networks."""
    discriminator_learning_rate: Weight | None = None
    """Learning rate of the discriminators, if another."""
    final_learning_rate: Weight | None = None
    """What the learning rates fall to by the end, along a cosine; None: they stay."""

    @property
    def z_width(self) -> int:
        """Width of the normal latent z; the public release widens it to that of w."""
        return 100 if self.networks == "public" else self.latent_width

    @classmethod
    def tiny(cls) -> "SynDiffConfig":
        """Networks that train in seconds, for tests."""
        return cls(
            variant="supervised",
            channels=8,
            multipliers=(1, 2),
            blocks=1,
            attention_levels=(),
            latent_width=16,
            discriminator_channels=8,
            discriminator_blocks=3,
            translator_channels=8,
            learning_rate=1e-3,
        )


class DiffusiveGenerator(nn.Module):
    """G_θ: x̂0 from the noisy target, the guiding source, the time and a latent (Eq. 19)."""

    def __init__(self, config: SynDiffConfig):
        super().__init__()
        shape = {
            "channels": config.channels,
            "multipliers": config.multipliers,
            "blocks": config.blocks,
            "attention_levels": config.attention_levels,
        }
        seen = 1 if config.variant == "unconditional" else 2 + 2 * config.neighbours
        if config.networks == "public":
            self.mapping = MappingNetwork(config.z_width, config.latent_width, layers=4)
            self.unet = public_unet(**shape, latent_width=config.latent_width, seen=seen)
        else:
            self.mapping = MappingNetwork(config.z_width, config.latent_width)
            self.unet = UNet(
                2,
                seen,
                1,
                **shape,
                time_width=config.time_width,
                latent_width=config.latent_width,
            )

    def forward(self, x_t: Tensor, y: Tensor | None, t: Tensor, z: Tensor) -> Tensor:
        """Estimate x0.

        Args:
            x_t: noisy target, (B, 1, H, W).
            y: guiding source, (B, 1, H, W), or with its neighbours (B, 1 + 2n, H, W); None where there is none.
            t: times, (B,).
            z: standard normal latents, (B, z_width).

        Returns:
            x̂0, (B, 1, H, W) in [-1, 1].
        """
        seen = x_t if y is None else torch.cat([x_t, y], dim=1)
        return torch.tanh(self.unet(seen, t, self.mapping(z)))


def denoiser(config: SynDiffConfig) -> nn.Module:
    """The variant ddpm's network: noisy target and source to what ε_f follows from, and v."""
    unet = UNet(
        2,
        2,
        2,
        channels=config.channels,
        multipliers=config.multipliers,
        blocks=config.blocks,
        attention_levels=config.attention_levels,
        time_width=config.time_width,
    )
    start_variance(unet)
    return unet


def discriminator(config: SynDiffConfig) -> nn.Module:
    """D_θ: (x_s, x_t) and t to logits."""
    if config.networks == "public":
        return DiffusiveDiscriminator(2, config.discriminator_channels, config.discriminator_blocks)
    return Discriminator(2, config.discriminator_channels, config.discriminator_blocks, time_width=config.time_width)


def translator(config: SynDiffConfig) -> nn.Module:
    """G_φ: the other contrast to one."""
    kernel = 3 if config.networks == "public" else 4
    return ResNetTranslator(channels=config.translator_channels, upsample_kernel=kernel)


def translator_discriminator(config: SynDiffConfig) -> nn.Module:
    """D_φ: an image to logits."""
    if config.networks == "public":
        return PatchDiscriminator(1, config.discriminator_channels)
    return Discriminator(1, config.discriminator_channels, config.discriminator_blocks)


def check(config: SynDiffConfig, contrasts: Sequence[str]) -> None:
    """Raise InputError for settings that do not fit together."""
    wanted = 1 if config.variant == "unconditional" else 2
    if len(contrasts) != wanted:
        what = "generates one contrast" if wanted == 1 else "translates between two contrasts"
        raise InputError(
            f"SynDiff ({config.variant}) {what}, got {len(contrasts)} ({', '.join(contrasts)}); "
            f"name {'one' if wanted == 1 else 'two'} with --contrasts"
        )
    if config.steps % config.step_size or config.steps < config.step_size:
        raise InputError(f"SynDiff: {config.steps} steps are not a multiple of the step size {config.step_size}")
    if config.penalty_every < 1 or not 0 <= config.first_time < 1:
        raise InputError(
            f"SynDiff: penalty_every is {config.penalty_every}, first_time {config.first_time}: "
            "give at least 1, and a number in [0, 1)"
        )
    if config.final_learning_rate is not None and 0 in (config.learning_rate, config.discriminator_learning_rate):
        raise InputError("SynDiff: learning rates of 0 fall nowhere: leave final_learning_rate out")
    if config.networks == "public" and config.variant in ("unconditional", "ddpm"):
        raise InputError(f"SynDiff: the public release has no variant {config.variant}; use networks paper")
    if config.variant == "ddpm" and config.adversarial_weight_diffusive:
        raise InputError("SynDiff: the variant ddpm has no diffusive discriminator: set its adversarial weight to 0")
    if config.variant != "ddpm" and (config.output, config.spacing) != ("noise", "even"):
        raise InputError("SynDiff: output and spacing are settings of the variant ddpm")
    phased = config.diffusive_from or config.translators_until is not None
    if phased and config.variant not in ("unpaired", "ddpm"):
        raise InputError("SynDiff: diffusive_from and translators_until are settings of the unpaired variant")
    if config.translators_until is not None and config.translators_until < config.diffusive_from:
        raise InputError(
            f"SynDiff: nothing would train between steps {config.translators_until} (translators_until) and "
            f"{config.diffusive_from} (diffusive_from): exchange them"
        )
