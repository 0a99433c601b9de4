"""ProvoGAN: three 2D GANs in three orientations, each of which corrects the whole volume that the one before it made.

Source: Yurt, Özbey, Dar, Tinaz, Oguz & Çukur, "Progressively Volumetrized Deep Generative Models for Data-Efficient
Contextual Learning of MR Image Recovery", Medical Image Analysis 78, 2022.

Symbol | meaning
------ | -------
n      | stage, 1 to 3; each is a run of its own and sees slices along another axis (`axis`)
y      | the M sources, all contrasts of the run but the target, (B, M, H, W)
x      | target, (B, 1, H, W)
x̂ⁿ⁻¹   | what stage n − 1 made of the whole volume, cut along this stage's axis, (B, 1, H, W)
G_n    | generator of stage n, its output in [-1, 1]
D_n    | discriminator: values of patches of 70×70 pixels, of G_n's input and the target together, 1 for real
λ      | weight of the L1 loss, 100

Equation                                       | here
---------------------------------------------- | ----
stage 1: x̂¹ = G_1(y)                           | `make`
stage n: x̂ⁿ = clip(x̂ⁿ⁻¹ − 2 G_n(y, x̂ⁿ⁻¹))      | `make`, with what `previous` made
L_adv, by least squares; λ L_1                 | `training_step`, with `losses.adversarial`
slices along another axis, and back            | `units.Slices.axis`, `diffusion.windows.SliceWindows`
x̂ⁿ⁻¹ of the training subjects                  | `training/previous.py`, from their other contrasts alone

The factor of 2: two images in [-1, 1] differ by up to 2, and G_n gives no more than 1.

A stage is trained when the one before it is: `train --first-stage RUN` with the setting `follows`. The paper chooses
one of the six orders of the axes by validation (`docs/howto/orders.md`): an order is which runs are trained.

# Paper: batch norm, at a batch of 1. Here: instance norm with scale and shift, which is the same in such a training,
# and lets no image depend on others or on running averages in synthesis.
# Paper: a perceptual loss, too. Here: none, as in its release, where the term is left out.
# Paper: each volume divided by its maximum. Here: as the cohort is prepared, because a single voxel sets no scale.
# Paper: the generator of the last step. Here: its moving average, because with it a late, noisy step of the
# adversarial game does not decide what is synthesised (as in `syndiff.py`).
# Here as in the paper: a stage trains on what the one before it makes of its own training subjects, which may be better
# than what it makes of new ones.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from scansynth.diffusion.windows import Windows
from scansynth.errors import InputError
from scansynth.losses.adversarial import least_squares_discriminator_loss, least_squares_generator_loss
from scansynth.method import Batch, Made, Progress, Update
from scansynth.methods.any_to_any import AllToOne
from scansynth.needs import Needs
from scansynth.networks.public_syndiff import PatchDiscriminator
from scansynth.networks.resnet import ResNetTranslator
from scansynth.networks.start import normal_start
from scansynth.noise import Noise
from scansynth.ranges import Count, Weight
from scansynth.units import AXES, Plane, Slices

ANISOTROPY = 1.5
"""How many times as long as another one a voxel's side may be. Scans that were acquired in 3D stay below it (IXI's, of
0.94 × 0.94 × 1.25 mm: 1.33), stacks of slices lie far above (1 × 1 × 5 mm: 5): across those, a slice is a staircase of
a few wide rows, which no stage learns much from, and which the next stage would have to undo."""


@dataclass(frozen=True, kw_only=True)
class ProvoGANConfig:
    """Settings of a stage of ProvoGAN; the defaults are those of its first one in the paper's release."""

    axis: Plane = "axial"
    """Slices that this stage sees."""
    follows: bool = False
    """Whether it corrects what another run of ProvoGAN makes (--first-stage); else it is the first stage."""
    channels: Count = 64
    """Width of the generator at full resolution."""
    residual_blocks: Count = 9
    """Residual blocks of the generator."""
    discriminator_channels: Count = 64
    """Width of the discriminator's first convolution."""
    l1_weight: Weight = 100.0
    """λ, of the L1 loss."""
    targets: tuple[str, ...] = ()
    """The contrast to make, one; it may be left out of two contrasts, of which the second is made then."""
    learning_rate: Weight = 2e-4
    """Adam's learning rate, of both networks; in the second half of the training it falls to zero."""

    @classmethod
    def tiny(cls) -> "ProvoGANConfig":
        """Networks that train in seconds, for tests."""
        return cls(channels=8, residual_blocks=2, discriminator_channels=8, learning_rate=1e-3)


class ProvoGAN(AllToOne):
    """G_n makes x, or corrects x̂ⁿ⁻¹; D_n tells the target from what is made, patch by patch, beside G_n's input."""

    Config = ProvoGANConfig
    name = "provogan"
    averaged = ("generator",)

    def __init__(self, config: ProvoGANConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        seen = len(self.sources) + config.follows  # y, and what the stage before made
        generator = ResNetTranslator(
            seen, channels=config.channels, residual_blocks=config.residual_blocks, upsample_kernel=3
        )
        self.nets = nn.ModuleDict({
            "generator": normal_start(generator),
            "discriminator": PatchDiscriminator(seen + 1, config.discriminator_channels),
        })  # fmt: skip

    @classmethod
    def needs_of(cls, config: ProvoGANConfig, contrasts: Sequence[str]) -> Needs:
        """Slices of all contrasts along the stage's axis, of voxels that are about as long along all axes."""
        return Slices(
            axis=AXES[config.axis],
            complete=True,
            anisotropy=ANISOTROPY,
            previous=config.follows,
            sources=not config.follows,  # the stage before saw the sources as they are
        )

    @classmethod
    def builds_on(cls, config: ProvoGANConfig) -> str | None:
        """The stage before, where this one follows."""
        return cls.name if config.follows else None

    @classmethod
    def check_first_stage(cls, config: ProvoGANConfig, method: str, settings: Any, name: str) -> None:
        """A stage along another axis that makes the same target."""
        super().check_first_stage(config, method, settings, name)
        if settings.axis == config.axis:
            raise InputError(
                f"--first-stage {name}: it sees {settings.axis} slices, as this one does: give this one another "
                f"--settings.axis ({', '.join(axis for axis in AXES if axis != settings.axis)})"
            )
        if settings.targets != config.targets:
            own, its = (" ".join(targets) or "none" for targets in (config.targets, settings.targets))
            raise InputError(
                f"--first-stage {name}: its settings name {its} as target, this one's {own}: give both the same "
                "--settings.targets"
            )

    @property
    def players(self) -> Mapping[str, tuple[str, ...]]:
        """D and G."""
        return {"D": ("discriminator",), "G": ("generator",)}

    @property
    def stochastic(self) -> bool:
        """Nothing is drawn."""
        return False

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

    def lr_factor(self, player: str, progress: Progress) -> float:
        """One in the first half of the training, then linearly to zero."""
        return min(1.0, 2 * (1 - progress.fraction))

    def make(self, seen: Tensor) -> Tensor:
        """x̂ⁿ of slices, (B, 1, H, W) in [-1, 1], from y, (B, M, H, W), or from y and x̂ⁿ⁻¹, (B, M + 1, H, W)."""
        made = self.nets["generator"](seen)
        return (seen[:, -1:] - 2 * made).clamp(-1, 1) if self.config.follows else made

    def judge(self, seen: Tensor, *x: Tensor) -> tuple[Tensor, ...]:
        """Values of D_n beside what G_n saw, (B, 1, h, w), for each of several x (B, 1, H, W) in one call."""
        pairs = torch.cat([torch.cat([seen, target], dim=1) for target in x])
        return self.nets["discriminator"](pairs).chunk(len(x))

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """One update of D, then one of G."""
        y, x = self.split(batch)
        seen = y
        if self.config.follows:  # what was made of a source was made from the target: the target's own is read, no more
            seen = torch.cat([y, batch["previous"].narrow(1, self.target, 1)], dim=1)
        x_hat = self.make(seen)

        logit, logit_fake = self.judge(seen, x, x_hat.detach())
        update("D", {"adversarial": least_squares_discriminator_loss(logit, logit_fake)})

        (logit_fake,) = self.judge(seen, x_hat)
        l1 = self.config.l1_weight * (x_hat - x).abs().mean()
        update("G", {"adversarial": least_squares_generator_loss(logit_fake), "l1": l1})

    def previous(self, batch: Batch, target: str, noise: Noise) -> Tensor:
        """x̂ⁿ⁻¹ of a subject's whole volume, (1, 1, X, Y, Z), by the stage before and those before it."""
        assert self.first_stage is not None, "the engine gives a stage the one before it"
        before = self.first_stage.method
        return before.translate(batch, target, before.needs.windows(), noise).image

    def translate(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """All stages up to this one, one after another; one call for each slice."""
        seen = self.given(batch, target)
        if self.config.follows:
            seen = torch.cat([seen, self.previous(batch, target, noise)], dim=1)
        return Made(windows.map(self.make, seen))
