"""What UNIT and MUNIT share: their players and optimisers, and the adversarial game at several scales.

Source: Huang, Liu, Belongie & Kautz, "Multimodal Unsupervised Image-to-Image Translation", ECCV 2018, section 5 and the
appendix on training. Settings of both beside SynDiff: Özbey et al., IEEE Transactions on Medical Imaging 42(12), 2023,
section IV-B.2.

# Paper (both): the networks of the last step. Here: moving averages of encoders and decoders, because with them a late,
# noisy step of the adversarial game does not decide what is synthesised (as in `syndiff.py`).
# Paper (both): no weight decay is stated. Here: 1e-4, with which the authors' release is known to train.
# Paper (both): lists of images of natural scenes. Here: each contrast has its own order of its own slices, so that
# which slices meet carries no information, also where the same people have both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from scansynth.errors import InputError
from scansynth.losses.adversarial import multi_scale_discriminator_loss, multi_scale_generator_loss
from scansynth.method import Progress, Update
from scansynth.methods.two_contrasts import TwoContrasts
from scansynth.needs import Needs
from scansynth.networks.unit import DOWNSAMPLINGS
from scansynth.ranges import Count, Share, Weight
from scansynth.units import Slices

WEIGHT_DECAY = 1e-4
"""Of Adam, as its L2 penalty."""


@dataclass(frozen=True, kw_only=True)
class SharedLatentConfig:
    """Settings of both; the defaults are MUNIT's."""

    channels: Count = 64
    """Width of encoders and decoders at full resolution."""
    residual_blocks: Count = 4
    """Residual blocks of each encoder and of each decoder."""
    discriminator_channels: Count = 64
    """Width of the discriminators' first convolutions."""
    scales: Count = 3
    """Scales at which a discriminator sees an image; slices need sides of at least 8 times 2 to this number."""
    learning_rate: Weight = 1e-4
    """Adam's learning rate, of all networks."""
    halve_every: Count = 100_000
    """Training steps after which the learning rate is halved, again and again."""
    beta2: Share = 0.999
    """Adam's decay of squared gradients, below 1; that of gradients is 0.5."""

    def __post_init__(self):
        if not 0 <= self.beta2 < 1:
            raise InputError(f"unit, munit: beta2 {self.beta2}: a number in [0, 1)")


class SharedLatent(TwoContrasts):
    """Base of UNIT and MUNIT: nets `discriminator_*` are of player D, all others of player G."""

    @classmethod
    def needs_of(cls, config: Any, contrasts: Sequence[str]) -> Needs:
        """Unpaired slices; the encoders halve them twice."""
        return Slices(paired=False, size_multiple=2**DOWNSAMPLINGS)

    @property
    def players(self) -> Mapping[str, tuple[str, ...]]:
        """D: both discriminators. G: all encoders and decoders."""
        discriminators = tuple(name for name in self.nets if name.startswith("discriminator_"))
        return {"D": discriminators, "G": tuple(name for name in self.nets if name not in discriminators)}

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam, one for both discriminators and one for all else; β1 = 0.5."""
        return {
            player: Adam(
                [parameter for name in names for parameter in self.nets[name].parameters()],
                lr=self.config.learning_rate,
                betas=(0.5, self.config.beta2),
                weight_decay=WEIGHT_DECAY,
                fused=True,
            )
            for player, names in self.players.items()
        }

    def lr_factor(self, player: str, progress: Progress) -> float:
        """Halved each `halve_every` steps (MUNIT, appendix)."""
        return 0.5 ** (progress.step // self.config.halve_every)

    def judge(self, contrast: str, x: Tensor) -> tuple[Tensor, ...]:
        """Values of the patches of images x (B, 1, H, W), of each scale."""
        return self.nets[f"discriminator_{contrast}"](x)

    def adversarial(self, target: str, made: Tensor) -> Tensor:
        """What the generators lose to the target's discriminator by the images that they made of it."""
        return multi_scale_generator_loss(self.judge(target, made))

    def train_discriminators(self, real: Mapping[str, Tensor], made: Mapping[str, Tensor], update: Update) -> None:
        """One update of both discriminators; real and made images by contrast, (B, 1, H, W) each."""
        losses = {}
        for contrast in self.contrasts:
            both = self.judge(contrast, torch.cat([real[contrast], made[contrast].detach()]))
            logits, logits_fake = zip(*(values.chunk(2) for values in both), strict=True)
            losses[f"adversarial {contrast}"] = multi_scale_discriminator_loss(logits, logits_fake)
        update("D", losses)
