"""SynDiff: unpaired (or supervised) translation by adversarial diffusion, both directions from one training.

Source: Özbey, Dalmaz, Dar, Bedel, Özturk, Güngör & Çukur, "Unsupervised Medical Image Translation With Adversarial
Diffusion Models", IEEE Transactions on Medical Imaging 42(12), 2023.

Symbol     | meaning                                                            | here
---------- | ------------------------------------------------------------------ | ----
x0         | target image of one direction, (B, 1, H, W) in [-1, 1]             | `x0`
y          | guiding source image: acquired, or estimated from x0               | `y`
T, k       | forward steps and step size: T/k network calls                     | `config.steps`, `config.step_size`
t, s       | time and the next smaller time, s = t − k                          | `t`, `s`
γ_t, ᾱ_t   | noise variance of a large step, and the product of 1 − γ           | `diffusion.Schedule`
G_θ, D_θ   | diffusive generator and discriminator of a target                  | nets `generator_*`, `discriminator_*`
G_φ        | non-diffusive generator of a contrast                              | nets `translator_*`
D_φ        | its discriminator                                                  | nets `translator_discriminator_*`

Equation         | function
---------------- | --------
(8)–(10)         | `Schedule.variance_preserving`, `q_sample`, `q_step`
(11), (12)       | `SynDiff.training_step`, with `losses.adversarial`
(13)–(15), (20)  | `q_posterior`, `SynDiff.training_step`; in synthesis `samplers.ancestral`
(16)–(18), (21)  | `SynDiff.training_step`
(19)             | `SynDiff.estimate_x0`
(22)–(24)        | `SynDiff.training_step`

`supervised=True` is the variant of section VI-C: paired data, the acquired source guides, a pixel loss on x̂0 takes
the place of the cycle loss, and there is no non-diffusive module.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from scansynth.diffusion import samplers
from scansynth.diffusion.gaussian import q_posterior, q_sample, q_step
from scansynth.diffusion.schedule import Schedule
from scansynth.errors import InputError
from scansynth.losses.adversarial import discriminator_loss, generator_loss, r1_penalty
from scansynth.method import Batch, Method, Needs, Noise, Progress, Update, Windows
from scansynth.networks.discriminator import Discriminator
from scansynth.networks.embedding import MappingNetwork
from scansynth.networks.resnet import ResNetTranslator
from scansynth.networks.unet import UNet


@dataclass(frozen=True)
class SynDiffConfig:
    """Settings of SynDiff; the defaults are the paper's (section IV-B.1)."""

    supervised: bool = False
    """Train on paired slices, with the acquired source as guide and a pixel loss (section VI-C)."""
    steps: int = 1000
    """T, forward steps of the diffusion."""
    step_size: int = 250
    """k: T/k network calls make an image."""
    beta_min: float = 0.1
    """Lower bound of the noise schedule (Eq. 10)."""
    beta_max: float = 20.0
    """Upper bound of the noise schedule (Eq. 10)."""
    channels: int = 64
    """Base width of the diffusive generators."""
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4, 4)
    """Width of each of their levels over the base width."""
    blocks: int = 2
    """Their residual blocks a level."""
    attention_levels: tuple[int, ...] = (4,)
    """Their levels with self-attention, beside the bottleneck."""
    time_width: int = 32
    """Width of the time embedding."""
    latent_width: int = 256
    """Width of the latent that modulates the diffusive generators."""
    discriminator_channels: int = 64
    """Base width of all discriminators."""
    discriminator_blocks: int = 6
    """Blocks of all discriminators; each halves the image."""
    translator_channels: int = 64
    """Base width of the non-diffusive generators."""
    cycle_weight_translator: float = 0.5
    """λ_1φ, cycle loss of the non-diffusive module (Eq. 22)."""
    cycle_weight_diffusive: float = 0.5
    """λ_1θ, cycle loss of the diffusive module (Eq. 22); the pixel loss where supervised."""
    adversarial_weight_translator: float = 1.0
    """λ_2φ (Eqs. 23, 24)."""
    adversarial_weight_diffusive: float = 1.0
    """λ_2θ (Eqs. 23, 24)."""
    gradient_penalty: float = 0.5
    """η, weight of the gradient penalty on real pairs (Eq. 12)."""
    learning_rate: float = 1e-4
    """Of Adam, for all networks."""

    @classmethod
    def tiny(cls) -> "SynDiffConfig":
        """Networks that train in seconds, for tests."""
        return cls(
            supervised=True,
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
        self.mapping = MappingNetwork(config.latent_width, config.latent_width)
        self.unet = UNet(
            2,
            2,
            1,
            channels=config.channels,
            multipliers=config.multipliers,
            blocks=config.blocks,
            attention_levels=config.attention_levels,
            time_width=config.time_width,
            latent_width=config.latent_width,
        )

    def forward(self, x_t: Tensor, y: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """Estimate x0.

        Args:
            x_t: noisy target, (B, 1, H, W).
            y: guiding source, (B, 1, H, W).
            t: times, (B,).
            z: standard normal latents, (B, latent_width).

        Returns:
            x̂0, (B, 1, H, W) in [-1, 1].
        """
        return torch.tanh(self.unet(torch.cat([x_t, y], dim=1), t, self.mapping(z)))


class SynDiff(Method):
    """Two diffusive generators, one a direction, and their discriminators; unpaired, the same again non-diffusive."""

    Config = SynDiffConfig

    def __init__(self, config: SynDiffConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        if len(self.contrasts) != 2:
            raise InputError(
                f"SynDiff translates between two contrasts, got {len(self.contrasts)} ({', '.join(self.contrasts)}); "
                "name two with --contrasts"
            )
        if config.steps % config.step_size or config.steps < config.step_size:
            raise InputError(f"SynDiff: {config.steps} steps are not a multiple of the step size {config.step_size}")
        self.needs = Needs(
            unit="slice", paired=config.supervised, size_multiple=max(2 ** (len(config.multipliers) - 1), 4)
        )
        self.schedule = Schedule.variance_preserving(config.steps, config.beta_min, config.beta_max)
        self.nets = nn.ModuleDict()
        for contrast in self.contrasts:
            self.nets[f"generator_{contrast}"] = DiffusiveGenerator(config)
            self.nets[f"discriminator_{contrast}"] = Discriminator(
                2, config.discriminator_channels, config.discriminator_blocks, config.time_width
            )
            if not config.supervised:
                self.nets[f"translator_{contrast}"] = ResNetTranslator(channels=config.translator_channels)
                self.nets[f"translator_discriminator_{contrast}"] = Discriminator(
                    1, config.discriminator_channels, config.discriminator_blocks
                )
        # Paper: no averages are stated. Here: moving averages of all generators, because with them a late,
        # noisy step of the adversarial game does not decide what a run synthesises.
        self.averaged = self.players["G"]

    @property
    def targets(self) -> tuple[str, ...]:
        """Both contrasts."""
        return self.contrasts

    @property
    def players(self) -> Mapping[str, tuple[str, ...]]:
        """D: all discriminators. G: all generators."""
        return {
            "D": tuple(name for name in self.nets if "discriminator" in name),
            "G": tuple(name for name in self.nets if "discriminator" not in name),
        }

    @property
    def sampling_steps(self) -> int:
        """T/k."""
        return self.config.steps // self.config.step_size

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam, β = (0.5, 0.9) (section IV-C)."""
        return {
            player: Adam(
                [parameter for name in names for parameter in self.nets[name].parameters()],
                lr=self.config.learning_rate,
                betas=(0.5, 0.9),
                fused=True,
            )
            for player, names in self.players.items()
        }

    def estimate_x0(self, target: str, x_t: Tensor, y: Tensor, t: Tensor, z: Tensor) -> Tensor:
        """x̂0 of `target`, (B, 1, H, W) (Eq. 19)."""
        return self.nets[f"generator_{target}"](x_t, y, t, z)

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """All discriminators, then all generators (Eqs. 23, 24).

        What the generators make is computed once and serves both updates: cut off for the discriminators', with
        its graph for the generators' own.
        """
        config = self.config
        x0 = {contrast: batch["images"][:, [index]] for index, contrast in enumerate(self.contrasts)}
        real: dict[str, Tensor] = {}  # x_s of the forward process, by target
        fake: dict[str, Tensor] = {}  # x̂_s, by target
        x_t: dict[str, Tensor] = {}
        time: dict[str, Tensor] = {}
        estimate: dict[str, Tensor] = {}  # ỹ: a contrast estimated from the other by G_φ
        cycle: dict[str, Tensor] = {}  # terms of Eq. 22, or the pixel loss

        if not config.supervised:
            for contrast in self.contrasts:  # Eq. 16
                estimate[contrast] = self.nets[f"translator_{contrast}"](x0[self.other(contrast)])

        for target in self.contrasts:
            source = self.other(target)
            y = x0[source] if config.supervised else estimate[source]
            shape = x0[target].shape[1:]
            t = config.step_size * noise.integers(f"t {target}", 1, self.sampling_steps + 1)
            s = t - config.step_size
            real[target] = q_sample(self.schedule, x0[target], s, noise.normal(f"x_s {target}", shape))
            x_t[target] = q_step(self.schedule, real[target], s, t, noise.normal(f"x_t {target}", shape))
            z = noise.normal(f"z {target}", (config.latent_width,))
            x0_hat = self.estimate_x0(target, x_t[target], y, t, z)
            mean, variance = q_posterior(self.schedule, x0_hat, x_t[target], t, s)  # Eqs. 14, 15, 20
            fake[target] = mean + variance.sqrt() * noise.normal(f"posterior {target}", shape)
            time[target] = t
            # Eq. 22; where supervised the same term, between the truth and its estimate from the acquired source.
            cycle[f"diffusive {target}"] = config.cycle_weight_diffusive * (x0_hat - x0[target]).abs().mean()
            if not config.supervised:  # Eqs. 21, 22
                back = self.nets[f"translator_{target}"](estimate[source])
                cycle[f"translator {target}"] = config.cycle_weight_translator * (back - x0[target]).abs().mean()

        losses: dict[str, Tensor] = {}
        for target in self.contrasts:  # Eqs. 12, 18, 24
            judge = self.judge(target, x_t[target], time[target])
            x_s = real[target].detach().requires_grad_()
            logit = judge(x_s)
            losses[f"diffusive {target}"] = config.adversarial_weight_diffusive * discriminator_loss(
                logit, judge(fake[target].detach())
            )
            penalty = config.gradient_penalty * r1_penalty(logit, x_s)
            losses[f"penalty {target}"] = config.adversarial_weight_diffusive * penalty
            if not config.supervised:
                judge_estimate = self.nets[f"translator_discriminator_{target}"]
                losses[f"translator {target}"] = config.adversarial_weight_translator * discriminator_loss(
                    judge_estimate(x0[target]), judge_estimate(estimate[target].detach())
                )
        update("D", losses)

        losses = {f"cycle {name}": loss for name, loss in cycle.items()}
        for target in self.contrasts:  # Eqs. 11, 17, 23
            judge = self.judge(target, x_t[target], time[target])
            losses[f"diffusive {target}"] = config.adversarial_weight_diffusive * generator_loss(judge(fake[target]))
            if not config.supervised:
                judge_estimate = self.nets[f"translator_discriminator_{target}"]
                losses[f"translator {target}"] = config.adversarial_weight_translator * generator_loss(
                    judge_estimate(estimate[target])
                )
        update("G", losses)

    def judge(self, target: str, x_t: Tensor, t: Tensor) -> Callable[[Tensor], Tensor]:
        """D_θ(·, x_t, t) of a target: a function of x_s (B, 1, H, W) that gives logits (B,)."""
        return lambda x_s: self.nets[f"discriminator_{target}"](torch.cat([x_s, x_t], dim=1), t)

    def other(self, contrast: str) -> str:
        """The run's other contrast."""
        return self.contrasts[1 - self.contrasts.index(contrast)]

    def translate(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Tensor:
        """T/k reverse steps from noise, guided by the acquired source (section III-B.3, last paragraph).

        Noise and latents are drawn for the whole volume, then cut into slices.
        """
        config = self.config
        index = self.contrasts.index(self.other(target))
        if not batch["available"][:, index].all():
            raise InputError(f"SynDiff makes {target} from {self.other(target)}, which is not given")
        y = batch["images"][:, [index]]

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            z = noise.normal(f"z t={int(t[0])}", (config.latent_width, 1, 1, y.shape[-1]))
            return windows.map(
                lambda x_t, y, z: self.estimate_x0(target, x_t, y, t.expand(len(y)), z.flatten(1)), x_t, y, z
            )

        times = samplers.times(config.steps, self.sampling_steps)
        x_T = noise.normal("x_T", y.shape[1:])
        return samplers.ancestral(self.schedule, denoise, x_T, times, noise)
