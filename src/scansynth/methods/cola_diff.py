"""CoLa-Diff: any number of contrasts to one by diffusion in a latent space, guided by the sources' tissue.

Source: Jiang, Mao, Wang, Chen & Li, "CoLa-Diff: Conditional Latent Diffusion Model for Multi-modal MRI Synthesis",
MICCAI 2023.

Symbol | meaning
------ | -------
E, D   | the first stage: encoder and decoder
κ_t    | the target's latent at time t, (B, c, h, w)
y, ỹ   | conditions: latents of the sources and features of their tissue maps; the same, weighted
ε, ε_θ | noise, and the network's estimate of it

Equation                                          | here
------------------------------------------------- | ----
1: κ_t                                            | `latent_translation.training_step`
2: DDIM                                           | `latent_translation.translate`
3: L_E; 5: L_E + L_KL; 6: L_KL                    | `losses`, `kl_weight`
4: similar cooperative filter                     | `networks.cooperative_filter`
7 to 10: auto-weight adaptation                   | `networks.auto_weight`
section 2.1: the network; 2.2: tissue             | `networks.cola`

# Paper: L_KL sums over all times. Here: its term at the time that was drawn, from 2 on, not multiplied by T, because
# the sum is what drawing estimates, up to a factor that would drown L_E.
# Paper: transformer blocks at resolutions 32, 16 and 8. Here: at levels, because a 224 crop at a factor of 4 has 56,
# 28, 14 and 7 and none of these.
# Paper: "distillation" (FastDPM). Here: FastDPM's own shorter list of times, which needs no training.
# Paper: masks by FSL-FAST "with inherent density distributions". Here: each source is segmented alone
# (`data/tissue.py`) and the sources' densities are combined; the mask of a tissue is where it is the densest.
# Paper: the expert labels' tumour. Here: off by default, because they were drawn with the target in sight.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from scansynth.diffusion.schedule import Schedule, expand
from scansynth.method import Batch
from scansynth.methods.latent_translation import LatentConfig, LatentTranslator
from scansynth.needs import Needs
from scansynth.networks.cola import ColaUnet, ConditionPath, Size, TissueEncoder
from scansynth.physics.tissue import WEIGHTS, combine
from scansynth.ranges import Count


@dataclass(frozen=True)
class ColaDiffConfig(LatentConfig):
    """Settings of CoLa-Diff; the defaults are the paper's, or settled where it is silent."""

    tissue_channels: Count = 16
    """Channels of the features of tissue maps."""
    modified_network: bool = True
    """Bottleneck blocks and wide, fused downsampling; else plain residual blocks (Table 2)."""
    structural_guidance: bool = True
    """Tissue maps among the conditions (Table 2)."""
    auto_weight: Literal["sigmoid", "tanh", "none"] = "sigmoid"
    """The gate of auto-weight adaptation: 1 + sigmoid (Eq. 10), 1 + tanh, or no adaptation (Table 2)."""
    cooperative_filter: bool = True
    """Skip connections pass the similar cooperative filter (Table 2)."""


class ColaDiff(LatentTranslator):
    """ε_θ(κ_t, t, ỹ), trained with L_E + L_KL."""

    Config = ColaDiffConfig
    name = "cola_diff"

    @classmethod
    def needs_of(cls, config: Any, contrasts: Sequence[str]) -> Needs:
        """As latent diffusion, with structural guidance tissue, too."""
        return replace(super().needs_of(config, contrasts), tissue=config.structural_guidance)

    def networks(self) -> nn.ModuleDict:
        """The U-Net, the path of the conditions, and the encoder of tissue maps."""
        config: ColaDiffConfig = self.config
        size = Size(config.channels, config.multipliers, config.blocks, config.attention_levels)
        count = len(self.contrasts)
        channels = count * (1 + 2 * config.neighbours) * config.latent_channels
        channels += config.tissue_channels if config.structural_guidance else 0
        nets: dict[str, nn.Module] = {
            "unet": ColaUnet(
                config.latent_channels,
                channels + 2 * count,
                size,
                modified=config.modified_network,
                filtered=config.cooperative_filter,
            ),
            "path": ConditionPath(channels, 2 * count, size, config.auto_weight),
        }
        if config.structural_guidance:
            nets["tissue"] = TissueEncoder(config.tissue_channels, config.factor)
        return nn.ModuleDict(nets)

    def condition(self, y: Tensor, planes: Tensor, tissue: Tensor | None) -> tuple[Tensor, ...]:
        """Weighted conditions, and features of every attention level."""
        parts = [y.flatten(1, 2)]
        if tissue is not None:
            parts.append(self.nets["tissue"](tissue))
        return self.nets["path"](torch.cat(parts, dim=1), planes.to(y.dtype).expand(-1, -1, *y.shape[3:]))

    def network(self, kappa_t: Tensor, condition: tuple[Tensor, ...], t: Tensor) -> Tensor:
        """The U-Net under these conditions."""
        return self.nets["unet"](kappa_t, t, *condition)

    def losses(self, eps_theta: Tensor, eps: Tensor, t: Tensor) -> dict[str, Tensor]:
        """L_E and L_KL, means over latents."""
        square = (eps_theta - eps).square()
        bound = expand(kl_weight(self.schedule, t), square) * square
        return {"noise": self.noise_loss(eps_theta, eps, t), "kl": bound.mean()}

    def tissue_of_sources(self, batch: Batch, is_source: Tensor) -> Tensor | None:
        """The sources' densities combined; the target's are never read."""
        if not self.needs.tissue:
            return None
        weights = is_source * torch.tensor([WEIGHTS.get(name, 0.0) for name in self.contrasts]).to(is_source.device)
        return combine(batch["tissue"], weights)


def kl_weight(schedule: Schedule, t: Tensor) -> Tensor:
    """w_t of D_KL(q(κ_{t−1} given κ_t, κ_0) and p_θ) = w_t ‖ε − ε_θ‖², where both have the variance β̃_t.

    Args:
        schedule: of the process.
        t: (B,), 1 to T.

    Returns:
        β_t / (2 α_t (1 − ᾱ_{t−1})), (B,) float32; 0 at t = 1, of which L_KL has no term.
    """
    alpha_bar, before = schedule.lookup(t), schedule.lookup(t - 1)
    alpha = alpha_bar / before
    rest = torch.where(before < 1, 1 - before, torch.inf)
    return ((1 - alpha) / (2 * alpha * rest)).float()
