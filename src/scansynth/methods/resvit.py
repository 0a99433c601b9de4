"""ResViT: a residual translator with a vision transformer inside, judged patch by patch; paired translation.

Source: Dalmaz, Yurt & Çukur, "ResViT: Residual Vision Transformers for Multimodal Medical Image Synthesis", IEEE
Transactions on Medical Imaging 41(10), 2022.

Symbol | meaning
------ | -------
x      | sources, (B, K, H, W): 0 where a contrast is the target, unavailable or left out; planes say which are given
y      | target image, (B, 1, H, W); unified: all contrasts, (B, K, H, W)
ŷ      | what G makes of x
G      | generator, in [-1, 1]
D      | discriminator: values of patches of 70×70 pixels, of sources and target together, 1 for real

Part of the paper                                          | function
---------------------------------------------------------- | --------
ART blocks, one transformer for two of them                | `networks.resvit`
L = ‖D(x, ŷ) − 1‖² + 100 ‖ŷ − y‖₁                          | `training_step`, with `losses.adversarial`
stage 1, without transformers; stage 2, all of it trained  | `transformed`, `lr_factor`
start of the transformer                                   | `take_named_weights`
unified: any subset of contrasts in, all out               | `training_step`, `impute`

# Paper: two trainings, of which the second starts from the first one's weights. Here: one, whose second stage begins
# after `first_stage` of it, because a run then resumes and ends as any other; Adam's moments go on with the weights.
# Paper: the transformer starts from weights of ImageNet-21k. Here: from a file that the user names, else at random,
# because none are ours to give; the run says which.
# Paper: one kind of source to one kind of target, a training each. Here: any subset of sources to any target, with
# planes that say which are given and which one is asked for, as in `pix2pix.py`. `targets` names one target; two
# contrasts and one target are the paper's.
# Paper: the generator of the last step. Here: its moving average, because with it a late, noisy step of the adversarial
# game does not decide what is synthesised (as in `syndiff.py`).
# Paper (unified): zeros alone tell what is missing. Here: K planes do, because 0 is no background in [-1, 1]. A
# contrast that a subject lacks is neither given nor made, and no loss asks about it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from scansynth.diffusion.windows import Windows
from scansynth.errors import InputError
from scansynth.losses.adversarial import least_squares_discriminator_loss, least_squares_generator_loss
from scansynth.method import Batch, Made, Progress, Update
from scansynth.methods.any_to_any import (
    AnyToAny,
    as_factors,
    channel_mean,
    draw_missing,
    draw_task,
    sources_of,
    task_planes,
)
from scansynth.needs import Needs
from scansynth.networks.pix2pix import drop
from scansynth.networks.public_syndiff import PatchDiscriminator
from scansynth.networks.resvit import Drop, ResVitGenerator
from scansynth.noise import Noise
from scansynth.ranges import Count, Share, Weight
from scansynth.units import Slices


@dataclass(frozen=True, kw_only=True)
class ResVitConfig:
    """Settings of ResViT; the defaults are the paper's."""

    channels: Count = 64
    """Width of the generator at full resolution."""
    width: Count = 768
    """Width of the transformer's tokens."""
    layers: Count = 12
    """Layers of the transformer."""
    heads: Count = 12
    """Heads of its attention."""
    dropout: Share = 0.1
    """Probability that a feature of the transformer is dropped in training."""
    transformer_weights: str = ""
    """Safetensors file that the transformer starts from (`networks/resvit.py` says which keys); empty: at random."""
    discriminator_channels: Count = 64
    """Width of the discriminator's first convolution."""
    unified: bool = False
    """Whether one call makes all contrasts that are missing, from any subset of the others, and is trained so."""
    l1_weight: Weight = 100.0
    """Weight of the L1 loss of what is made."""
    reconstruction_weight: Weight = 100.0
    """Weight of the L1 loss of what is given, which comes out as well (unified)."""
    first_stage: Share = 2 / 3
    """Share of the training without transformers (paper: 100 of 150 epochs), below 1."""
    targets: tuple[str, ...] = ()
    """Contrasts to make; empty for every contrast of the run in turn."""
    learning_rate: Weight = 2e-4
    """Adam's learning rate, of both networks; in the second half of each stage it falls to zero."""
    second_rate: Weight = 5.0
    """What the learning rate is multiplied by in the second stage (paper: 1e-3 after 2e-4)."""

    def __post_init__(self):
        if not (0 <= self.dropout < 1 and 0 <= self.first_stage < 1):
            raise InputError(
                f"resvit: dropout {self.dropout}, first_stage {self.first_stage}: numbers in [0, 1); at a first stage "
                "of 1 the transformer would never be trained"
            )
        if self.heads > 0 and self.width % self.heads:
            raise InputError(f"resvit: width {self.width}: must be a multiple of its heads, {self.heads}")

    @classmethod
    def tiny(cls) -> "ResVitConfig":
        """Networks that train in seconds, for tests."""
        return cls(
            channels=4, width=16, layers=2, heads=2, discriminator_channels=8, first_stage=0.5, learning_rate=1e-3,
            second_rate=1.0,
        )  # fmt: skip


class ResVit(AnyToAny):
    """G makes y from x, in the second stage with transformers; D tells (x, y) from (x, ŷ), patch by patch."""

    Config = ResVitConfig
    name = "resvit"
    averaged = ("generator",)

    def __init__(self, config: ResVitConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        count = len(self.contrasts)
        seen, made = (2 * count, count) if config.unified else (3 * count, 1)
        self.nets = nn.ModuleDict({
            "generator": ResVitGenerator(
                seen, made, config.channels, width=config.width, layers=config.layers, heads=config.heads,
                planes=seen - count,
            ),
            "discriminator": PatchDiscriminator(seen + made, config.discriminator_channels),
        })  # fmt: skip
        self.opened: bool | None = None  # what the weights say that a training goes on from, asked once

    @classmethod
    def needs_of(cls, config: ResVitConfig, contrasts: Sequence[str]) -> Needs:
        """Paired slices; odd sides are met on the way back up."""
        return Slices(sources=True)

    @property
    def generator(self) -> ResVitGenerator:
        """G."""
        net = self.nets["generator"]
        assert isinstance(net, ResVitGenerator)
        return net

    @property
    def players(self) -> Mapping[str, tuple[str, ...]]:
        """D and G."""
        return {"D": ("discriminator",), "G": ("generator",)}

    @property
    def stochastic(self) -> bool:
        """Nothing is dropped in synthesis."""
        return False

    def take_named_weights(self, *, started: bool) -> Mapping[str, str]:
        """The transformer's, where the settings name a file."""
        if started:
            return {"transformer": "as the run has it that this one was started from"}
        if not self.config.transformer_weights:
            return {"transformer": "none were named, it started at random"}
        path = Path(self.config.transformer_weights)
        return {"transformer": f"{path.name} (SHA-256 {self.generator.transformer.read(path)}…)"}

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam, β = (0.5, 0.999)."""
        return {
            player: Adam(
                [parameter for name in names for parameter in self.nets[name].parameters()],
                lr=self.config.learning_rate,
                betas=(0.5, 0.999),
                fused=True,
            )
            for player, names in self.players.items()
        }

    def transformed(self, progress: Progress) -> bool:
        """Whether transformers are in: in the second stage, and from the start where the weights had them in before.

        That is so of a training that was given more steps after its end, or started from another (train --init).
        """
        if progress.fraction >= self.config.first_stage:
            return True
        if self.opened is None:
            self.opened = self.generator.opened
        return self.opened

    def lr_factor(self, player: str, progress: Progress) -> float:
        """In each stage constant for a half, then linearly to zero."""
        first, done = self.config.first_stage, progress.fraction
        if done >= first:
            return self.config.second_rate * min(1.0, 2 * (1 - done) / (1 - first))
        return min(1.0, 2 * (1 - done / first))

    def condition(self, batch: Batch, is_source: Tensor, is_target: Tensor) -> Tensor:
        """What both networks see of the task.

        Args:
            batch: `images` (B, K, *S).
            is_source: (B, K) bool.
            is_target: (B, K) bool.

        Returns:
            x and the planes, (B, 3K, *S): sources, 0 where not given; which are given; which one is asked for. Unified,
            where all that is missing is asked for, (B, 2K, *S).
        """
        images = batch["images"]
        planes = as_factors(is_source, images) if self.config.unified else task_planes(is_source, is_target, images)
        return torch.cat([sources_of(batch, is_source), planes.expand(-1, -1, *images.shape[2:])], dim=1)

    def judge(self, x: Tensor, *y: Tensor) -> tuple[Tensor, ...]:
        """D(x, y), (B, 1, h, w), for each of several y in one call: weights are read once."""
        pairs = torch.cat([torch.cat([x, target], dim=1) for target in y])
        return self.nets["discriminator"](pairs).chunk(len(y))

    def impute(self, made: Tensor, y: Tensor, is_target: Tensor) -> Tensor:
        """Unified, what D is shown of all contrasts: ŷ where it was made, y itself elsewhere; (B, K, *S)."""
        return torch.where(as_factors(is_target, y).bool(), made, y)

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """Draw what is given and what is made of each sample; one update of D, then one of G."""
        config, images, available = self.config, batch["images"], batch["available"]
        if config.unified:
            is_target = draw_missing(available, self.targets, self.contrasts, len(self.contrasts), noise)
            is_source = available & ~is_target
            y = images * as_factors(available, images)
        else:
            is_source, is_target = draw_task(available, self.targets, self.contrasts, noise)
            y = (images * as_factors(is_target, images)).sum(1, keepdim=True)
        x = self.condition(batch, is_source, is_target)
        made = self.generator(x, self.dropping(noise), transformed=self.transformed(progress))
        y_hat = self.impute(made, y, is_target) if config.unified else made

        real, fake = self.judge(x, y, y_hat.detach())
        update("D", {"adversarial": least_squares_discriminator_loss(real, fake)})

        (fake,) = self.judge(x, y_hat)
        losses, error = {"adversarial": least_squares_generator_loss(fake)}, (made - y).abs()
        if config.unified:
            losses["l1"] = config.l1_weight * channel_mean(error, is_target, is_target)
            losses["reconstruction"] = config.reconstruction_weight * channel_mean(error, is_source, is_source)
        else:
            losses["l1"] = config.l1_weight * error.mean()
        update("G", losses)

    def dropping(self, noise: Noise) -> Drop:
        """What drops the transformer's features in training, by numbers of `noise`."""

        def dropped(name: str, h: Tensor) -> Tensor:
            return drop(h, noise.normal(f"dropped of {name}", h.shape[1:]), self.config.dropout)

        return dropped if self.config.dropout else lambda name, h: h

    def translate(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """One forward pass for each slice, transformers included: as long as they are not trained, they add nothing."""
        is_source, is_target = self.task(batch["available"], target)
        x = self.condition(batch, is_source, is_target)
        if not self.config.unified:
            return Made(windows.map(self.generator, x))
        place = self.contrasts.index(target)
        return Made(windows.map(lambda x: self.generator(x)[:, place : place + 1], x))
