"""Latent diffusion, conditional: any subset of sources to any target, in the latents of an autoencoder.

Source: Rombach, Blattmann, Lorenz, Esser & Ommer, "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR
2022. The sources' latents are channels beside the noisy latent (section 3.3, concatenation). It is the LDM that
CoLa-Diff compares with, and CoLa-Diff is built on it.

Symbol | meaning
------ | -------
E, D   | the first stage: encoder and decoder (`training/first_stage.py`)
κ_0    | the target's latent E(x), of mean 0 and variance 1 where tissue is, (B, c, h, w); κ_t at time t
y      | the sources' latents, (B, K, c, h, w): 0 where a contrast is the target, unavailable or left out
ε, ε_θ | noise, and the network's estimate of it

Equation                             | here
------------------------------------ | ----
LDM 2, conditional: ‖ε − ε_θ‖²       | `latent_translation.noise_loss`
DDIM 12, η = 0                       | `latent_translation.translate`

# Paper: an encoder of the condition's own. Here: every source goes through the first stage's, each alone, because any
# subset of them may be given.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from scansynth.methods.latent_translation import LatentConfig, LatentTranslator
from scansynth.networks.unet import UNet


@dataclass(frozen=True, kw_only=True)
class LatentDiffusionConfig(LatentConfig):
    """Settings of latent diffusion; the defaults are those that CoLa-Diff's paper states."""


class LatentDiffusion(LatentTranslator):
    """p(κ_s | κ_t, y) by DDIM on ε_θ(κ_t, t, y)."""

    Config = LatentDiffusionConfig
    name = "ldm"

    def networks(self) -> nn.ModuleDict:
        """The U-Net."""
        config: LatentDiffusionConfig = self.config
        count = len(self.contrasts)
        unet = UNet(
            2,
            (1 + count * (1 + 2 * config.neighbours)) * config.latent_channels + 2 * count,
            config.latent_channels,
            channels=config.channels,
            multipliers=config.multipliers,
            blocks=config.blocks,
            attention_levels=config.attention_levels,
            time_width=4 * config.channels,
        )
        return nn.ModuleDict({"unet": unet})

    def condition(self, y: Tensor, planes: Tensor, tissue: Tensor | None) -> Tensor:
        """The sources' latents, with neighbours, and the planes as channels, (B, K (1 + 2n) c + 2K, h, w)."""
        return torch.cat([y.flatten(1, 2), planes.to(y.dtype).expand(-1, -1, *y.shape[3:])], dim=1)

    def network(self, kappa_t: Tensor, condition: Tensor, t: Tensor) -> Tensor:
        """The U-Net, with the conditions beside the noisy latent."""
        return self.nets["unet"](torch.cat([kappa_t, condition], dim=1), t)
