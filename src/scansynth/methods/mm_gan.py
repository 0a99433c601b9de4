"""MM-GAN: one GAN that makes all missing contrasts of a subject at once, from whichever it has.

Source: Sharma & Hamarneh, "Missing MRI Pulse Sequence Synthesis Using Multi-Modal Generative Adversarial Network",
IEEE Transactions on Medical Imaging 39(4), 2020.

Symbol | meaning
------ | -------
x      | all contrasts of a slice, (B, K, H, W): 0 where the subject lacks one
y      | what G sees, (B, K, H, W): x, and 0 where a contrast is missing; with n neighbours on each side of each,
       | (B, K (1 + 2n), H, W); `availability_planes` tell in K channels more which are given
x̂      | what G makes of y, (B, K, H, W), and x itself where a contrast is given (implicit conditioning)
r      | which contrasts of x̂ are real, (B, K): 1 where given, 0 where made
G      | generator, in [-1, 1]
D      | discriminator: of each patch of 94×94 pixels of (x̂, x), 2K channels, one value a contrast, 1 for real
λ      | share of the L1 loss, 0.9

Equation                                                           | function
------------------------------------------------------------------ | --------
y: missing contrasts are zeros                                     | `condition`
x̂: given contrasts are put back before any loss                    | `impute`
L_D = ½(‖D(x, x) − 1‖² + ‖D(x̂, x) − r‖²)                          | `training_step`, `judge`, `any_to_any.channel_mean`
L_G = (1 − λ) ‖D(x̂, x) − 1‖² + λ mean over missing c ‖x̂_c − x_c‖₁ | `training_step`, `judge`, `any_to_any.channel_mean`
the curriculum                                                     | `most_missing`, `any_to_any.draw_missing`
G, and its dropout                                                 | `networks.pix2pix.Pix2PixUNet`
D                                                                  | `networks.public_syndiff.PatchDiscriminator`

# Paper: each contrast of a volume divided by its mean, 0 is background, and a ReLU ends G. Here: [-1, 1] and a tanh,
# because all methods here see the same images; 0 still stands for a missing contrast, and is no longer background.
# Paper: every subject has every contrast. Here: one that a subject lacks is neither given nor made. G and D see zeros
# there, and no loss asks about it, because there is no truth; so training takes subjects whatever they lack.
# Paper: the epochs 1 to 10 of 60 lack one contrast, those to 20 also two, to 30 also three, then any number. Here: the
# same shares of the training, by steps, because epochs differ between cohorts; every set allowed is drawn alike.
# Paper: every contrast may be made. Here: `targets` may name some, and then every set drawn lacks one of them at least,
# so that the training is about what will be asked for, from any sources.
# Paper: G of the last step. Here: its moving average, because with it a late, noisy step of the adversarial game does
# not decide what is synthesised (as in `syndiff.py`).
# Paper: D's loss over all contrasts as one figure. Here: its parts are named apart, because D sees the truth beside x̂
# and so knows a given contrast at sight: the part of the missing ones alone tells how the game stands.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from scansynth.diffusion.windows import Windows
from scansynth.errors import InputError
from scansynth.method import Batch, Made, Progress, Update
from scansynth.methods.any_to_any import AnyToAny, as_factors, channel_mean, draw_missing, sources_of
from scansynth.needs import Needs
from scansynth.networks.pix2pix import Pix2PixUNet
from scansynth.networks.public_syndiff import PatchDiscriminator
from scansynth.noise import Noise
from scansynth.ranges import Count, Natural, Share, Weight
from scansynth.units import Slices

DROPPED_UP, DROPPED_FROM = 4, 3
"""Dropout: the four deepest levels of the decoder, and those of the encoder from the fourth on."""


@dataclass(frozen=True, kw_only=True)
class MmGanConfig:
    """Settings of MM-GAN; the defaults are the paper's."""

    channels: Count = 64
    """Width of the generator's first level."""
    halvings: Count = 8
    """Levels of the generator; a slice needs sides of at least 2 to this number, so that its bottleneck has a pixel."""
    discriminator_channels: Count = 64
    """Width of the discriminator's first convolution."""
    dropout: Share = 0.2
    """Probability that a feature of the deep levels is dropped in training."""
    l1_share: Share = 0.9
    """λ, of the L1 loss; the adversarial loss has what is left of 1."""
    availability_planes: bool = False
    """Whether the generator is told which contrasts are given, by K more channels of 0 and 1; else zeros tell it."""
    neighbours: Natural = 0
    """Slices on each side of each source that are given with it, as further channels (2.5D)."""
    targets: tuple[str, ...] = ()
    """Contrasts to make; empty for every contrast of the run."""
    learning_rate: Weight = 2e-4
    """Adam's learning rate, of both networks; it is constant."""

    def __post_init__(self):
        if not 0 <= self.dropout < 1:
            raise InputError(f"mm_gan: dropout {self.dropout}: a number in [0, 1)")

    @classmethod
    def tiny(cls) -> "MmGanConfig":
        """Networks that train in seconds, for tests; as deep as it takes for the encoder to have dropout."""
        return cls(channels=8, halvings=4, discriminator_channels=8, learning_rate=1e-3)


def most_missing(fraction: float, contrasts: int) -> int:
    """How many contrasts may be missing: one in the first sixth of the training, two, three, then any number.

    Args:
        fraction: share of the training that is done, in [0, 1).
        contrasts: K.
    """
    stage = 1 + int(6 * fraction)
    return stage if stage <= 3 else contrasts


class MmGan(AnyToAny):
    """G makes what is missing in y; D tells what is real in (x̂, x), contrast by contrast and patch by patch."""

    Config = MmGanConfig
    name = "mm_gan"
    averaged = ("generator",)

    def __init__(self, config: MmGanConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        count = len(self.contrasts)
        seen = (1 + 2 * config.neighbours + config.availability_planes) * count
        self.nets = nn.ModuleDict({
            "generator": Pix2PixUNet(
                seen, count, config.channels, halvings=config.halvings, dropout=config.dropout,
                dropped_up=DROPPED_UP, dropped_from=DROPPED_FROM, enlarged=True,
            ),
            "discriminator": PatchDiscriminator(2 * count, config.discriminator_channels, logits=count, halvings=4),
        })  # fmt: skip

    @classmethod
    def needs_of(cls, config: MmGanConfig, contrasts: Sequence[str]) -> Needs:
        """Paired slices; odd sides are met by the skips."""
        return Slices(neighbours=config.neighbours, sources=True)

    @property
    def generator(self) -> Pix2PixUNet:
        """G."""
        net = self.nets["generator"]
        assert isinstance(net, Pix2PixUNet)
        return net

    @property
    def players(self) -> Mapping[str, tuple[str, ...]]:
        """D and G."""
        return {"D": ("discriminator",), "G": ("generator",)}

    @property
    def stochastic(self) -> bool:
        """Nothing is dropped in synthesis."""
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

    def condition(self, batch: Batch, is_given: Tensor) -> Tensor:
        """What G sees: y, and where they are asked for the planes.

        Args:
            batch: `images` (B, K, *S), and `neighbours` (B, K, 2n, *S) where they are asked for.
            is_given: (B, K) bool.

        Returns:
            (B, K (1 + 2n), *S), or K channels more.
        """
        y = sources_of(batch, is_given)
        if not self.config.availability_planes:
            return y
        return torch.cat([y, as_factors(is_given, y).expand(-1, -1, *y.shape[2:])], dim=1)

    def impute(self, made: Tensor, x: Tensor, is_missing: Tensor) -> Tensor:
        """x̂: what G made where a contrast is missing, x itself elsewhere.

        Args:
            made: G's output, (B, K, *S).
            x: (B, K, *S).
            is_missing: (B, K) bool.
        """
        return torch.where(as_factors(is_missing, x).bool(), made, x)

    def judge(self, x: Tensor, *x_hat: Tensor) -> tuple[Tensor, ...]:
        """D(x̂, x), (B, K, h, w), for each of several x̂ (B, K, H, W) in one call: weights are read once."""
        pairs = torch.cat([torch.cat([one, x], dim=1) for one in x_hat])
        return self.nets["discriminator"](pairs).chunk(len(x_hat))

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """Draw what is missing of each sample; one update of D, then one of G."""
        images, available = batch["images"], batch["available"]
        most = most_missing(progress.fraction, len(self.contrasts))
        is_missing = draw_missing(available, self.targets, self.contrasts, most, noise)
        is_given = available & ~is_missing
        x = images * as_factors(available, images)
        y = self.condition(batch, is_given)
        z = [noise.normal(f"z {level}", shape) for level, shape in enumerate(self.generator.dropped(y.shape[2:]))]
        x_hat = self.impute(self.generator(y, z), x, is_missing)

        real, fake = self.judge(x, x, x_hat.detach())
        update(
            "D",
            {
                "truth": 0.5 * channel_mean((real - 1).square(), available, available),
                "given": 0.5 * channel_mean((fake - 1).square(), is_given, available),
                "missing": 0.5 * channel_mean(fake.square(), is_missing, available),
            },
        )

        (fake,) = self.judge(x, x_hat)
        share = self.config.l1_share
        update(
            "G",
            {
                "adversarial_given": (1 - share) * channel_mean((fake - 1).square(), is_given, available),
                "adversarial_missing": (1 - share) * channel_mean((fake - 1).square(), is_missing, available),
                "l1": share * channel_mean((x_hat - x).abs(), is_missing, is_missing),
            },
        )

    def translate(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """One forward pass for each slice makes all missing contrasts; the target is one of them. Nothing is drawn."""
        is_given, _ = self.task(batch["available"], target)
        place = self.contrasts.index(target)
        y = self.condition(batch, is_given)
        return Made(windows.map(lambda y: self.generator(y)[:, place : place + 1], y))
