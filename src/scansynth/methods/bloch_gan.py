"""BlochGAN: several contrasts to one by a GAN whose features must explain the sources by the Bloch signal equation.

Source: Kim et al., "Fat-saturated image generation from multi-contrast MRIs using generative adversarial networks with
Bloch equation-based autoencoder regularization", Medical Image Analysis 73:102198, 2021. Of the paper only the abstract
was at hand.

**Patent.** US 11,874,357 B2 (2024) claims the method for the suppression of fat. Whether you may use it, for what and
where, is for you to find out.

**Every weight, size and rate here is settled by this project**, by the parts of MRDiff, which has BlochGAN's decoder in
a diffusion model, without its noise, its times and its wavelets. A figure of this method is one of these settings.

Symbol | meaning
------ | -------
y      | sources, (B, M, H, W), of repetition times TR_m and echo times TE_m
x, x̂   | target, (B, 1, H, W), and what G makes
E, G   | encoder and generator: E(y) are c features at full size, x̂ = G(E(y)) in [−1, 1]
h      | T1 and T2 in seconds and S0, c channels each, (B, c, H, W)
M_m    | signals of source m that follow from h, (B, c, H, W)
D_ξ    | decoder, which rebuilds the sources from M alone: ŷ, (B, M, H, W)
D      | discriminator: a value for each patch of 70×70 pixels of (y, x), 1 for real

What                                                            | where
--------------------------------------------------------------- | -----
h = (T1, T2, S0) = Conv(E(y)), by softplus                      | `networks.mrdiff.QuantitativeMaps`
s_m = S0 (1 − exp(−TR_m/T1)) exp(−TE_m/T2)                      | `physics/scans.py`, `physics/signal.py`
M_m = Conv(s_m)                                                 | `networks.mrdiff.Modulation`
ŷ = D_ξ(M)                                                      | `rebuild`
L_D = ½(‖D(y, x) − 1‖² + ‖D(y, x̂)‖²)                           | `training_step`, with `losses.adversarial`
L_G = ‖D(y, x̂) − 1‖² + 100 ‖x̂ − x‖₁ + 10 ‖ŷ − y‖₁              | `training_step`

D_ξ has no way past the physics: what leaks past it leaves ‖ŷ − y‖₁ nothing to constrain. D_ξ and D serve training
alone.

# Paper: T1w and T2w to fat-saturated T2w. Here: all contrasts of the run but one to that one, two sources or any
# other number. One source, or two, determine no three maps; they restrain the features, and are no measurement.
# Paper: the Bloch equation. Here: the spin echo's signal for all, over that of typical tissue under the same TR and TE,
# as MRDiff has it; the equation of a source can be named (`equations`).
# Paper: not known. Here: synthesis by moving averages of E and G, because with them a late, noisy step of the
# adversarial game does not decide what is synthesised (as in `syndiff.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from scansynth.diffusion.windows import Windows
from scansynth.errors import InputError
from scansynth.losses.adversarial import least_squares_discriminator_loss, least_squares_generator_loss
from scansynth.method import Batch, Made, Progress, Update
from scansynth.methods.any_to_any import AllToOne, all_but_target
from scansynth.needs import Needs
from scansynth.networks.blocks import convolution
from scansynth.networks.mrdiff import Modulation, QuantitativeMaps
from scansynth.networks.public_syndiff import PatchDiscriminator
from scansynth.networks.unet import UNet
from scansynth.noise import Noise
from scansynth.physics.acquisition import SequenceName
from scansynth.physics.scans import check_once, equations_of, relative_signals
from scansynth.ranges import Count, Natural, Weight
from scansynth.units import Slices


@dataclass(frozen=True, kw_only=True)
class BlochGanConfig:
    """Settings of BlochGAN; all of them are settled here, the paper's are not known."""

    channels: Count = 64
    """Base width of the encoder; with the multipliers, MRDiff's encoder below a level of full size."""
    multipliers: tuple[Count, ...] = (1, 2, 2, 4, 6, 8)
    """Width of each level over the base width; the first is at full size."""
    blocks: Count = 2
    """Residual blocks a level."""
    attention_levels: tuple[Natural, ...] = (4, 5)
    """Levels with self-attention."""
    features: Count = 32
    """c: channels of the features and of each quantitative map."""
    discriminator_channels: Count = 64
    """Width of the discriminator's first convolution."""
    l1_weight: Weight = 100.0
    """Weight of ‖x̂ − x‖₁."""
    rebuilt_weight: Weight = 10.0
    """Weight of ‖ŷ − y‖₁."""
    equations: tuple[tuple[str, SequenceName], ...] = ()
    """Sources whose signal follows another equation than the spin echo's."""
    targets: tuple[str, ...] = ()
    """The contrast to make, one; of two contrasts the second where none is named."""
    learning_rate: Weight = 2e-4
    """Adam's learning rate, of all networks; it is constant."""

    def __post_init__(self):
        check_once(self.equations)

    @classmethod
    def tiny(cls) -> "BlochGanConfig":
        """Networks that train in seconds, for tests."""
        return cls(
            channels=8, multipliers=(1, 2), blocks=1, attention_levels=(), features=4, discriminator_channels=8,
            learning_rate=1e-3,
        )  # fmt: skip


class BlochGan(AllToOne):
    """G(E(y)) makes x; D_ξ rebuilds y from the signals of E's features; D tells (y, x) from (y, x̂)."""

    Config = BlochGanConfig
    name = "bloch_gan"
    averaged = ("E", "G")

    def __init__(self, config: BlochGanConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        if "CT" in self.sources:
            raise InputError("bloch_gan explains its sources by MR physics: leave CT out")
        if unknown := [name for name, _ in config.equations if name not in self.sources]:
            raise InputError(
                f"bloch_gan: equations name {unknown[0]!r}, which is not among the sources {', '.join(self.sources)}"
            )
        count = len(self.sources)
        encoder = UNet(
            2,
            count,
            config.features,
            channels=config.channels,
            multipliers=config.multipliers,
            blocks=config.blocks,
            attention_levels=config.attention_levels,
            bottleneck_attention=bool(config.attention_levels),
        )
        self.nets = nn.ModuleDict({
            "E": encoder,
            "G": _shallow(config.features, config.channels, 1, nn.Tanh()),
            "I": QuantitativeMaps(config.features, wavelets=False),
            "M": Modulation(count, config.features, wavelets=False),
            "decoder": _shallow(count * config.features, config.channels, count),
            "discriminator": PatchDiscriminator(count + 1, config.discriminator_channels),
        })  # fmt: skip
        self.equations = equations_of(config.equations, self.sources)

    @classmethod
    def needs_of(cls, config: BlochGanConfig, contrasts: Sequence[str]) -> Needs:
        """Paired slices of subjects with all contrasts, and the acquisitions of the sources."""
        return Slices(
            size_multiple=2 ** (len(config.multipliers) - 1),
            sequences=equations_of(config.equations, all_but_target(config.targets, contrasts)),
            complete=True,
            sources=True,
        )

    @property
    def players(self) -> Mapping[str, tuple[str, ...]]:
        """D, and all that makes or rebuilds images."""
        return {"D": ("discriminator",), "G": ("E", "G", "I", "M", "decoder")}

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

    def rebuild(self, maps: tuple[Tensor, Tensor, Tensor], acquisition: Tensor) -> Tensor:
        """ŷ = D_ξ(M), the sources rebuilt from h and nothing else.

        Args:
            maps: h: T1 and T2 in seconds, and S0, (B, c, H, W) each.
            acquisition: TR, TE, TI in ms and flip angle in degrees of the sources, (B, M, 4).

        Returns:
            (B, M, H, W).
        """
        given = torch.ones(acquisition.shape[:2], dtype=torch.bool, device=acquisition.device)
        signals = relative_signals(maps, acquisition, given, self.equations)
        return self.nets["decoder"](self.nets["M"](signals, given))

    def judge(self, y: Tensor, *x: Tensor) -> tuple[Tensor, ...]:
        """D(y, x), (B, 1, h, w), for each of several x (B, 1, H, W) in one call: weights are read once."""
        pairs = torch.cat([torch.cat([y, one], dim=1) for one in x])
        return self.nets["discriminator"](pairs).chunk(len(x))

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """One update of D, then one of all other networks."""
        y, x = self.split(batch)
        e = self.nets["E"](y)
        x_hat = self.nets["G"](e)
        y_hat = self.rebuild(self.nets["I"](e), self.without_target(batch["acquisition"]))

        real, fake = self.judge(y, x, x_hat.detach())
        update("D", {"adversarial": least_squares_discriminator_loss(real, fake)})

        (fake,) = self.judge(y, x_hat)
        update(
            "G",
            {
                "adversarial": least_squares_generator_loss(fake),
                "l1": self.config.l1_weight * (x_hat - x).abs().mean(),
                "rebuilt": self.config.rebuilt_weight * (y_hat - y).abs().mean(),
            },
        )

    def translate(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """One forward pass of E and G for each slice. Nothing is drawn, and no TR and TE are read."""
        return Made(windows.map(lambda y: self.nets["G"](self.nets["E"](y)), self.given(batch, target)))


def _shallow(channels_in: int, channels: int, images: int, *last: nn.Module) -> nn.Sequential:
    """Two 3×3 convolutions, as MRDiff's decoder and generator have: features to images."""
    first = convolution(2, channels_in, channels, kernel=3)
    return nn.Sequential(first, nn.SiLU(), convolution(2, channels, images, kernel=3), *last)
