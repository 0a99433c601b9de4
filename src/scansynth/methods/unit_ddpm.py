"""UNIT-DDPM: unpaired translation by two diffusion models, each conditioned on the other's noisy image.

Source: Sasaki, Willcocks & Breckon, "UNIT-DDPM: UNpaired Image Translation with Denoising Diffusion Probabilistic
Models", arXiv 2104.05358, 2021. Its settings beside SynDiff: Özbey et al., IEEE Transactions on Medical Imaging 42(12),
2023, section IV-B.2, point 8.

Symbol       | meaning                                                          | here
------------ | ---------------------------------------------------------------- | ----
A, B         | the two contrasts; whatever is said of A holds of B, too         | `contrasts`
x^A          | image of A, (B, 1, H, W) in [-1, 1], drawn apart from those of B | `x0[contrast]`
g_AB, g_BA   | translators, A to B and B to A; in training alone                | nets `translator_*`, by what they make
x̃^A          | g_BA(x^B)                                                        | `made[contrast]`
ε_A(x, c, t) | noise of an image x of A beside one of B, c, both of time t      | nets `denoiser_*`, `predict_noise`
t_r          | release time                                                     | `config.release_time`
λ            | weight of the cycle losses                                       | `config.cycle_weight`

What                                                                                | where
----------------------------------------------------------------------------------- | -----
q(x_t | x_0)                                                                        | `gaussian.q_sample`
1. denoisers: ‖ε^A − ε_A(x_t^A, x̃_t^B, t)‖², x̃ held fixed                           | `training_step`
2. translators: the same, ‖ε^A − ε_A(x̃_t^A, x_t^B, t)‖², λ‖g_BA(g_AB(x^A)) − x^A‖₁  | `training_step`
synthesis: the source noised afresh to t above t_r, denoised with the target below  | `translate`

(x^A, x̃^B) has one t, (x^B, x̃^A) another; the noise ε^A is that of x^A and of x̃^A.

What the chain samples. Above t_r every step sees the source through a noise of its own, so the information of all of
them adds up. For Gaussian images whose contrasts follow from each other, and exact denoisers, steps that grow ever
shorter end at the true map; for contrasts that do not follow from each other they keep less of the source than
p(x^B | x^A) does (`tests/test_unit_ddpm.py` has the closed forms). Few steps lose more of it, above all the long last
one between even times: of a source's deviation of 0.4, 1000 steps pass 99 % on, 20 even ones 79 %, 20 evenly in log-SNR
95 %. At t = T nothing of the source is left either: one call gives no mean given the source.

# The paper's own text was not at hand: losses, order of updates and synthesis are as others describe them, its settings
# those of SynDiff's comparison (λ, times, schedule, rate, epochs, release time).
# Not known: moving averages, and the variance of a step. Here: averages of the denoisers, as of all generators in
# `syndiff.py`, and β̃, the variance of q(x_s | x_t, x̂_0), with x̂_0 clipped to [-1, 1] as in `ddpm.py`.
# Not stated by SynDiff: networks and batch. Here: a U-Net of the size of SynDiff's own, its translators, batches of 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from scansynth.diffusion.gaussian import q_sample
from scansynth.diffusion.parameterisation import eps_from_output, x0_from_eps
from scansynth.diffusion.samplers import Spacing, ancestral, times
from scansynth.diffusion.schedule import Schedule
from scansynth.diffusion.windows import Windows
from scansynth.method import Batch, Made, Progress, Update
from scansynth.methods.two_contrasts import TwoContrasts
from scansynth.needs import Needs
from scansynth.networks.resnet import ResNetTranslator
from scansynth.networks.unet import UNet
from scansynth.noise import Noise
from scansynth.ranges import Count, Natural, Weight
from scansynth.units import Slices


@dataclass(frozen=True, kw_only=True)
class UnitDdpmConfig:
    """Settings of UNIT-DDPM; the defaults are those that SynDiff's paper compares with (section IV-B.2)."""

    steps: Count = 1000
    """T, forward steps of the diffusion; the schedule is the cosine."""
    sampling_steps: Count = 1000
    """Steps of sampling."""
    spacing: Spacing = "even"
    """How the times of sampling lie: evenly, more of them where little noise is left, or evenly in log-SNR."""
    release_time: Count = 1
    """t_r: above it the source is known, and noised afresh at each step; from it on both images are denoised."""
    output: Literal["noise", "velocity"] = "noise"
    """What the denoisers give: ε itself, or the velocity that it follows from, which learns in far fewer steps."""
    channels: Count = 64
    """Base width of the denoisers."""
    multipliers: tuple[Count, ...] = (1, 1, 2, 2, 4, 4)
    """Width of each of their levels over the base width."""
    blocks: Count = 2
    """Their residual blocks a level."""
    attention_levels: tuple[Natural, ...] = (4,)
    """Their levels with self-attention, beside the bottleneck."""
    translator_channels: Count = 64
    """Base width of the translators."""
    cycle_weight: Weight = 1.0
    """λ, of the cycle losses."""
    learning_rate: Weight = 1e-4
    """Adam's learning rate, of all networks."""

    @classmethod
    def tiny(cls) -> "UnitDdpmConfig":
        """Networks that train in seconds, and a release time that both chains see, for tests."""
        return cls(
            steps=30, sampling_steps=3, release_time=20, channels=8, multipliers=(1, 2), blocks=1, attention_levels=(),
            translator_channels=8, learning_rate=1e-3,
        )  # fmt: skip


def denoiser(config: UnitDdpmConfig) -> nn.Module:
    """ε_A: noisy images of both contrasts and t to what the noise of the first follows from."""
    return UNet(
        2,
        2,
        1,
        channels=config.channels,
        multipliers=config.multipliers,
        blocks=config.blocks,
        attention_levels=config.attention_levels,
        time_width=4 * config.channels,
    )


def translator(config: UnitDdpmConfig) -> nn.Module:
    """g: an image of one contrast to one of the other."""
    return ResNetTranslator(channels=config.translator_channels)


class UnitDdpm(TwoContrasts):
    """A denoiser and a translator of each contrast."""

    Config = UnitDdpmConfig
    name = "unit_ddpm"

    def __init__(self, config: UnitDdpmConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        self.schedule = Schedule.cosine(config.steps)
        self.path = times(self.schedule, config.sampling_steps, spacing=config.spacing)
        self.nets = nn.ModuleDict()
        for contrast in self.contrasts:
            self.nets[f"denoiser_{contrast}"] = denoiser(config)
            self.nets[f"translator_{contrast}"] = translator(config)
        self.averaged = self.players["denoisers"]

    @classmethod
    def needs_of(cls, config: UnitDdpmConfig, contrasts: Sequence[str]) -> Needs:
        """Unpaired slices; the translators halve them twice."""
        return Slices(paired=False, size_multiple=max(2 ** (len(config.multipliers) - 1), 4))

    @property
    def players(self) -> Mapping[str, tuple[str, ...]]:
        """The denoisers, and the translators."""
        return {
            f"{kind}s": tuple(f"{kind}_{contrast}" for contrast in self.contrasts)
            for kind in ("denoiser", "translator")
        }

    @property
    def sampling_steps(self) -> int:
        """One for each time, and one more for each from t_r on but the last, which has no use for the source's."""
        return len(self.path) + sum(t <= self.config.release_time for t in self.path[:-1])

    @property
    def passes(self) -> int:
        """Both images go through a window together."""
        return len(self.path)

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam, β = (0.5, 0.9) (SynDiff, section IV-C)."""
        return {
            player: Adam(
                [parameter for name in names for parameter in self.nets[name].parameters()],
                lr=self.config.learning_rate,
                betas=(0.5, 0.9),
                fused=True,
            )
            for player, names in self.players.items()
        }

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """One update of the denoisers, then one of the translators through them."""
        x0 = self.by_contrast(batch)
        shape = batch["images"][:, :1].shape[1:]
        eps = {contrast: noise.normal(f"eps {contrast}", shape) for contrast in self.contrasts}
        # By the contrast whose image is real in the pair.
        t = {contrast: noise.integers(f"t {contrast}", 1, self.config.steps + 1) for contrast in self.contrasts}
        made = {contrast: self.nets[f"translator_{contrast}"](x0[self.other(contrast)]) for contrast in self.contrasts}

        losses: dict[str, Tensor] = {}
        for target in self.contrasts:
            source = self.other(target)
            x_t = q_sample(self.schedule, x0[target], t[target], eps[target])
            c_t = q_sample(self.schedule, made[source].detach(), t[target], eps[source])
            losses[f"noise {target}"] = (self.predict_noise(target, x_t, c_t, t[target]) - eps[target]).square().mean()
        update("denoisers", losses)

        losses = {}
        for target in self.contrasts:
            source = self.other(target)
            # (x^A, x̃^B) and (x̃^A, x^B), in one call.
            both = torch.cat([t[target], t[source]])
            x_t = q_sample(self.schedule, torch.cat([x0[target], made[target]]), both, torch.cat([eps[target]] * 2))
            c_t = q_sample(self.schedule, torch.cat([made[source], x0[source]]), both, torch.cat([eps[source]] * 2))
            real, mirror = self.predict_noise(target, x_t, c_t, both).chunk(2)
            losses[f"noise {target}"] = (real - eps[target]).square().mean()
            losses[f"noise of made {target}"] = (mirror - eps[target]).square().mean()
            back = self.nets[f"translator_{target}"](made[source])
            losses[f"cycle {target}"] = self.config.cycle_weight * (back - x0[target]).abs().mean()
        update("translators", losses)

    def predict_noise(self, target: str, x_t: Tensor, c_t: Tensor, t: Tensor) -> Tensor:
        """ε of a noisy image of the target, (B, 1, H, W).

        Args:
            target: a contrast.
            x_t: its noisy image, (B, 1, H, W).
            c_t: the other contrast's, of the same time, (B, 1, H, W).
            t: (B,).
        """
        given = self.nets[f"denoiser_{target}"](torch.cat([x_t, c_t], dim=1), t)
        return eps_from_output(self.schedule, given, x_t, t, output=self.config.output)

    def translate(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """Denoise target and source, of which the source is known down to the release time.

        One chain has both, target first. While the source is known, its x̂_0 is the source itself: what the chain holds
        of it at t_r is a draw of q(x_t | x_0), and what the target's denoiser sees at each step before is another.
        """
        source, y = self.other(target), self.source(batch, target)

        def estimate(contrasts: tuple[str, ...], x: Tensor, t: Tensor) -> Tensor:
            """x̂_0 of the target and, where it is asked for, of the source, from x_t of both (1, 2, X, Y, Z)."""

            def window(x: Tensor) -> Tensor:
                x0 = []
                for contrast in contrasts:
                    own, other = x.chunk(2, dim=1) if contrast == target else x.flip(1).chunk(2, dim=1)
                    eps = self.predict_noise(contrast, own, other, t.expand(len(x)))
                    x0.append(x0_from_eps(self.schedule, own, eps, t.expand(len(x))))
                return torch.cat(x0, dim=1).clamp(-1, 1)

            return windows.map(window, x)

        def denoise(x: Tensor, t: Tensor) -> Tensor:
            time = int(t[0])
            if time <= self.config.release_time and time > self.path[-1]:
                return estimate((target, source), x, t)
            if time > self.config.release_time:
                y_t = q_sample(self.schedule, y, t, noise.normal(f"source t={time}", y.shape[1:]))
                x = torch.cat([x[:, :1], y_t], dim=1)
            return torch.cat([estimate((target,), x, t), y], dim=1)

        T = torch.full((1,), self.path[0], device=y.device)
        x_T = noise.normal("x_T", y.shape[1:])
        y_T = q_sample(self.schedule, y, T, noise.normal("y_T", y.shape[1:]))
        made = ancestral(self.schedule, denoise, torch.cat([x_T, y_T], dim=1), self.path, noise)
        return Made(made[:, :1])
