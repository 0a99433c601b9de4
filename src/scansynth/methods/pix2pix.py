"""pix2pix and pGAN: paired translation by a generator that a discriminator of patches judges beside its source.

Source: Isola, Zhu, Zhou & Efros, "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017. pGAN:
Dar, Yurt, Karacan, Erdem, Erdem & Çukur, "Image Synthesis in Multi-Contrast MRI With Conditional Generative Adversarial
Networks", IEEE Transactions on Medical Imaging 38(10), 2019.

Symbol | meaning
------ | -------
x      | sources, (B, K, H, W): 0 where a contrast is the target, unavailable or left out; planes say which are given;
       | with n neighbours on each side of each, (B, K (1 + 2n), H, W)
y      | target image, (B, 1, H, W)
z      | noise, as dropout in the three deepest levels of the decoder
G      | generator, G(x, z) in [-1, 1]
D      | discriminator: logits of patches of 70×70 pixels, of sources and target together
λ      | weight of the L1 loss, 100
V      | pGAN: features of a VGG16 whose weights the user names

Equation                       | function
------------------------------ | --------
(1): L_cGAN                    | `training_step`, `judge`, with `losses.adversarial`
(3): L_L1                      | `training_step`
(4): the objective             | `training_step`
3.2.1: G, and z as its dropout | `networks.pix2pix.Pix2PixUNet`, `generate_target`
3.2.2: D                       | `networks.public_syndiff.PatchDiscriminator`, `judge`
3.3: order and optimisers      | `training_step`, `optimizers`, `lr_factor`
pGAN: 100 ‖V(G(x)) − V(y)‖₁    | `training_step`, with `networks.vgg_features`
pGAN: G, and its three slices  | `networks.resnet.ResNetTranslator`, the setting `neighbours`

# Paper: one kind of source to one kind of target, a training each. Here: any subset of sources to any target, because
# a run then serves every subject whatever it lacks; planes tell both networks which contrasts are given and which one
# is asked for. `targets` names one target; two contrasts and one target are the paper's.
# Paper: the generator of the last step. Here: its moving average, because with it a late, noisy step of the
# adversarial game does not decide what is synthesised (as in `syndiff.py`).
# Paper: a rate of 2e-4, without a course. Here: constant in the first half of the training, then linearly to zero, as
# in the same group's CycleGAN (Zhu et al., ICCV 2017), because the last weights then hang less on the last images.
# Paper: crops of magnified images, and mirror images. Here: the recipes mirror alone, because a crop shows less of a
# head than a scan does that is translated.
# Paper (pGAN): the perceptual loss always counts. Here: where the user names weights of VGG16, because none are ours to
# give; the run says so. Dropout in the residual blocks is not stated. Here: none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from scansynth.diffusion.windows import Windows
from scansynth.errors import InputError
from scansynth.losses.adversarial import (
    discriminator_loss,
    generator_loss,
    least_squares_discriminator_loss,
    least_squares_generator_loss,
)
from scansynth.method import Batch, Made, Progress, Update
from scansynth.methods.any_to_any import AnyToAny, as_factors, draw_task, sources_of, task_planes
from scansynth.needs import Needs
from scansynth.networks.pix2pix import Pix2PixUNet
from scansynth.networks.public_syndiff import PatchDiscriminator
from scansynth.networks.resnet import ResNetTranslator
from scansynth.networks.start import normal_start
from scansynth.networks.vgg_features import VggFeatures
from scansynth.noise import Noise
from scansynth.ranges import Count, Natural, Share, Weight
from scansynth.units import Slices

ADVERSARIAL = {
    "cross_entropy": (discriminator_loss, generator_loss, 0.5),
    "least_squares": (least_squares_discriminator_loss, least_squares_generator_loss, 1.0),
}
"""Of D and of G; what D's is multiplied by, where it is not halved yet."""


@dataclass(frozen=True, kw_only=True)
class Pix2PixConfig:
    """Settings of pix2pix; the defaults are the paper's (sections 3 and 4, appendix 6)."""

    generator: Literal["unet", "resnet"] = "unet"
    """What translates: a U-Net (pix2pix), or a ResNet (pGAN)."""
    channels: Count = 64
    """Width of the generator at full resolution, or of its first level."""
    halvings: Count = 8
    """Levels of the U-Net; a slice needs sides of at least 2 to this number, so that its bottleneck has a pixel."""
    residual_blocks: Count = 9
    """Residual blocks of the ResNet."""
    discriminator_channels: Count = 64
    """Width of the discriminator's first convolution."""
    dropout: Share = 0.5
    """Probability that a feature of the three deepest levels of the U-Net's decoder is dropped."""
    dropout_in_synthesis: bool = False
    """Whether features are dropped in synthesis, too: then two samples differ, a little."""
    # Paper: dropout in synthesis. Here: off by default, because the paper itself finds hardly any variation by it
    # (section 3.1), and one sample of a posterior is further from the truth than what G makes with all its features.
    adversarial: Literal["cross_entropy", "least_squares"] = "cross_entropy"
    """Adversarial loss: binary cross entropy, or least squares (pGAN)."""
    l1_weight: Weight = 100.0
    """λ, of the L1 loss (Eq. 4)."""
    perceptual_weight: Weight = 0.0
    """Weight of the perceptual loss (pGAN: 100), where weights are named; without them it is left out."""
    perceptual_weights: str = ""
    """Safetensors file of VGG16's weights (`networks/vgg_features.py` says which keys); empty: no perceptual loss."""
    neighbours: Natural = 0
    """Slices on each side of each source that are given with it, as further channels (2.5D)."""
    targets: tuple[str, ...] = ()
    """Contrasts to make; empty for every contrast of the run in turn."""
    learning_rate: Weight = 2e-4
    """Adam's learning rate, of both networks; in the second half of the training it falls to zero."""

    def __post_init__(self):
        if self.halvings < 1 or not 0 <= self.dropout < 1:
            raise InputError(
                f"pix2pix: halvings {self.halvings}, dropout {self.dropout}: at least 1, and a number in [0, 1)"
            )
        if self.dropout_in_synthesis and not (self.dropout and self.generator == "unet"):
            raise InputError(
                "pix2pix: dropout_in_synthesis wants a dropout above 0, and the generator unet, which has it"
            )
        if self.perceptual_weights and not self.perceptual_weight:
            raise InputError(
                "pix2pix: perceptual_weights are named, perceptual_weight is 0: give that, too (pGAN: 100)"
            )

    @classmethod
    def tiny(cls) -> "Pix2PixConfig":
        """Networks that train in seconds, for tests."""
        return cls(channels=8, halvings=3, discriminator_channels=8, dropout_in_synthesis=True, learning_rate=1e-3)


def generator(config: Pix2PixConfig, in_channels: int, planes: int) -> Pix2PixUNet | ResNetTranslator:
    """G: what it is shown of the sources, whose last channels are planes, to an image, (B, 1, H, W) in [-1, 1]."""
    if config.generator == "unet":
        return Pix2PixUNet(in_channels, 1, config.channels, halvings=config.halvings, dropout=config.dropout)
    net = ResNetTranslator(
        in_channels, 1, config.channels, residual_blocks=config.residual_blocks, upsample_kernel=3, affine=False,
        planes=planes,
    )  # fmt: skip
    return normal_start(net)


class Pix2Pix(AnyToAny):
    """G makes y from x; D tells (x, y) from (x, G(x, z)), patch by patch."""

    Config = Pix2PixConfig
    name = "pix2pix"
    averaged = ("generator",)

    def __init__(self, config: Pix2PixConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        # Sources and their neighbours, planes that say which are given, planes that say which is asked for.
        seen = (3 + 2 * config.neighbours) * len(self.contrasts)
        self.nets = nn.ModuleDict(
            {
                "generator": generator(config, seen, 2 * len(self.contrasts)),
                "discriminator": PatchDiscriminator(seen + 1, config.discriminator_channels),
            }
        )
        self.perceptual: VggFeatures | None = None  # read when it is first trained with

    @classmethod
    def needs_of(cls, config: Pix2PixConfig, contrasts: Sequence[str]) -> Needs:
        """Paired slices; odd sides are met by the skips."""
        return Slices(neighbours=config.neighbours, sources=True)

    @property
    def generator(self) -> Pix2PixUNet | ResNetTranslator:
        """G."""
        net = self.nets["generator"]
        assert isinstance(net, Pix2PixUNet | ResNetTranslator)
        return net

    def dropped(self, size: Sequence[int]) -> list[tuple[int, int, int]]:
        """Shapes of the features that G may drop, for images of `size` (H, W); a ResNet drops none."""
        return self.generator.dropped(size) if isinstance(self.generator, Pix2PixUNet) else []

    def generate(self, x: Tensor, z: Sequence[Tensor] = ()) -> Tensor:
        """G(x, z), (B, 1, H, W)."""
        return self.generator(x, z) if z else self.generator(x)

    @property
    def players(self) -> Mapping[str, tuple[str, ...]]:
        """D and G."""
        return {"D": ("discriminator",), "G": ("generator",)}

    @property
    def stochastic(self) -> bool:
        """Dropout is the only noise."""
        return self.config.dropout_in_synthesis

    def take_named_weights(self, *, started: bool) -> Mapping[str, str]:
        """Those of the perceptual loss, where it shall count."""
        if not self.config.perceptual_weight:
            return {}
        if not self.config.perceptual_weights:
            return {"perceptual loss": "none were named, it is left out"}
        name, read = Path(self.config.perceptual_weights).name, self.features
        return {"perceptual loss": f"{name} (SHA-256 {read.sha256}…)"}

    @property
    def features(self) -> VggFeatures:
        """V."""
        self.perceptual = self.perceptual or VggFeatures.read(Path(self.config.perceptual_weights))
        return self.perceptual

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam, β = (0.5, 0.999) (section 3.3)."""
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

    def condition(self, batch: Batch, is_source: Tensor, is_target: Tensor) -> Tensor:
        """What both networks see of the task.

        Args:
            batch: `images` (B, K, *S), and `neighbours` (B, K, 2n, *S) where they are asked for.
            is_source: (B, K) bool.
            is_target: (B, K) bool, one true a row.

        Returns:
            x and the planes, (B, (3 + 2n) K, *S): sources and their neighbours, 0 where not given; which are given;
            which one is asked for.
        """
        images = batch["images"]
        planes = task_planes(is_source, is_target, images).expand(-1, -1, *images.shape[2:])
        return torch.cat([sources_of(batch, is_source), planes], dim=1)

    def judge(self, x: Tensor, *y: Tensor) -> tuple[Tensor, ...]:
        """Logits of D(x, y), (B, 1, h, w), for each of several y (B, 1, H, W) in one call: weights are read once."""
        pairs = torch.cat([torch.cat([x, target], dim=1) for target in y])
        return self.nets["discriminator"](pairs).chunk(len(y))

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """Draw a target and a subset of sources for each sample; one update of D, then one of G (section 3.3)."""
        images, available = batch["images"], batch["available"]
        is_source, is_target = draw_task(available, self.targets, self.contrasts, noise)
        x = self.condition(batch, is_source, is_target)
        y = (images * as_factors(is_target, images)).sum(1, keepdim=True)
        z = [noise.normal(f"z {level}", shape) for level, shape in enumerate(self.dropped(x.shape[2:]))]
        y_hat = self.generate(x, z)

        of_d, of_g, halved = ADVERSARIAL[self.config.adversarial]
        logit, logit_fake = self.judge(x, y, y_hat.detach())
        # "We divide the objective by 2 while optimizing D" (section 3.3).
        update("D", {"adversarial": halved * of_d(logit, logit_fake)})

        (logit_fake,) = self.judge(x, y_hat)
        losses = {"adversarial": of_g(logit_fake), "l1": self.config.l1_weight * (y_hat - y).abs().mean()}
        if self.config.perceptual_weights:
            losses["perceptual"] = self.config.perceptual_weight * self.features.distance(y_hat, y)
        update("G", losses)

    def translate(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """One forward pass for each slice; what is dropped, if anything, is drawn for the whole volume first."""
        is_source, is_target = self.task(batch["available"], target)
        *size, depth = batch["images"].shape[2:]
        shapes = self.dropped(size) if self.stochastic else []
        z = [noise.normal(f"z {level}", (*shape, depth)) for level, shape in enumerate(shapes)]
        x = self.condition(batch, is_source, is_target)
        return Made(windows.map(lambda x, *z: self.generate(x, z), x, *z))
