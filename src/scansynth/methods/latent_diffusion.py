"""Latent diffusion, conditional: any subset of sources to any target, in the latents of an autoencoder.

Source: Rombach, Blattmann, Lorenz, Esser & Ommer, "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR
2022. The sources' latents are channels beside the noisy latent (section 3.3, concatenation). It is the LDM that
CoLa-Diff compares with, and CoLa-Diff is built on it.

Symbol | meaning
------ | -------
E, D   | the first stage: encoder and decoder (`first_stage.py`)
κ_0    | the target's latent E(x), of unit variance, (B, c, h, w); κ_t at time t
y      | the sources' latents, (B, K, c, h, w): 0 where a contrast is the target, unavailable or left out
ε, ε_θ | noise, and the network's estimate of it

Equation                             | here
------------------------------------ | ----
LDM 2, conditional: ‖ε − ε_θ‖²       | `noise_loss`
DDIM 12, η = 0                       | `translate`

# Paper: an encoder of the condition's own. Here: every source goes through the first stage's, each alone, because any
# subset of them may be given.
# Paper: the error of the noise. Here: that of the velocity, where the network gives one (`velocity_weighted` says why).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from scansynth.conditioning import AnyToAny, draw_task, spread, task_planes
from scansynth.diffusion.gaussian import q_sample
from scansynth.diffusion.samplers import ddim, times
from scansynth.diffusion.schedule import Schedule
from scansynth.diffusion.variational import eps_from_velocity, velocity_weighted, x0_from_eps
from scansynth.method import Batch, Needs, Noise, Progress, Update, Windows
from scansynth.networks.unet import UNet


@dataclass(frozen=True, kw_only=True)
class LatentDiffusionConfig:
    """Settings of latent diffusion; the defaults are those that CoLa-Diff's paper states."""

    latent_channels: int = 3
    """c: channels of a latent, as the first stage gives them."""
    factor: int = 4
    """How many times smaller than an image a latent is, as the first stage makes it."""
    channels: int = 128
    """Base width of the U-Net."""
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    """Width of each level over the base width."""
    blocks: int = 2
    """Residual blocks a level."""
    attention_levels: tuple[int, ...] = (1, 2, 3)
    """Levels with self-attention."""
    output: Literal["noise", "velocity"] = "noise"
    """What the network gives: ε_θ itself, or the velocity that it follows from, which learns in far fewer steps; L_E is
    then the velocity's error."""
    steps: int = 1000
    """T, the steps of the forward process."""
    sampling_steps: int = 50
    """Steps of sampling."""
    targets: tuple[str, ...] = ()
    """Contrasts to make; empty for every contrast of the run in turn."""
    learning_rate: float = 9.6e-5
    """Adam's learning rate."""

    @classmethod
    def tiny(cls) -> "LatentDiffusionConfig":
        """A network that trains in seconds, for tests; the latents are those of the tiny autoencoder."""
        return cls(
            factor=2, channels=8, multipliers=(1, 2), blocks=1, attention_levels=(1,), steps=40, sampling_steps=4,
            learning_rate=1e-3,
        )  # fmt: skip


class LatentDiffusion(AnyToAny):
    """p(κ_s | κ_t, y) by DDIM on ε_θ(κ_t, t, y)."""

    Config = LatentDiffusionConfig
    name = "ldm"
    average_decay = 0.9999

    def __init__(self, config: LatentDiffusionConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        self.schedule = Schedule.linear(config.steps, 1e-4 * 1000 / config.steps, 0.02 * 1000 / config.steps)
        self.path = times(config.steps, config.sampling_steps)
        self.nets = self.networks()
        self.averaged = tuple(self.nets)
        self.needs = Needs(
            unit="latent",
            paired=True,
            size_multiple=config.factor * 2 ** (len(config.multipliers) - 1),
            latent=(config.latent_channels, config.factor),
            tissue=self.wants_tissue,
        )

    wants_tissue = False
    """Whether its conditions have tissue maps."""

    def networks(self) -> nn.ModuleDict:
        """The U-Net."""
        config: LatentDiffusionConfig = self.config
        count = len(self.contrasts)
        unet = UNet(
            2,
            (1 + count) * config.latent_channels + 2 * count,
            config.latent_channels,
            channels=config.channels,
            multipliers=config.multipliers,
            blocks=config.blocks,
            attention_levels=config.attention_levels,
            time_width=4 * config.channels,
        )
        return nn.ModuleDict({"unet": unet})

    @property
    def sampling_steps(self) -> int:
        """Network calls that make one latent."""
        return len(self.path)

    @property
    def passes(self) -> int:
        """One: a window goes through all steps before the next one does."""
        return 1

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam."""
        return {"G": Adam(self.nets.parameters(), lr=self.config.learning_rate, fused=True)}

    def condition(self, y: Tensor, planes: Tensor, tissue: Tensor | None) -> Any:
        """What the network is told at every step, computed once.

        Args:
            y: the sources' latents, (B, K, c, h, w), 0 where not given.
            planes: which contrasts are given and which is asked for, (B, 2K, 1, 1) of 0 and 1.
            tissue: by the sources alone, (B, 4, H, W), where `wants_tissue`.
        """
        return torch.cat([y.flatten(1, 2), planes.to(y.dtype).expand(-1, -1, *y.shape[3:])], dim=1)

    def network(self, kappa_t: Tensor, condition: Any, t: Tensor) -> Tensor:
        """What the network gives for κ_t (B, c, h, w) at t (B,), of the same shape."""
        return self.nets["unet"](torch.cat([kappa_t, condition], dim=1), t)

    def predict(self, kappa_t: Tensor, condition: Any, t: Tensor) -> Tensor:
        """ε_θ, (B, c, h, w)."""
        out = self.network(kappa_t, condition, t)
        return out if self.config.output == "noise" else eps_from_velocity(self.schedule, out, kappa_t, t)

    def losses(self, eps_theta: Tensor, eps: Tensor, t: Tensor) -> Mapping[str, Tensor]:
        """L_E."""
        return {"noise": self.noise_loss(eps_theta, eps, t)}

    def noise_loss(self, eps_theta: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The mean of ‖ε − ε_θ‖²; where the network gives the velocity, of the velocity's own squared error."""
        square = (eps_theta - eps).square()
        return (square if self.config.output == "noise" else velocity_weighted(self.schedule, square, t)).mean()

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """Draw a target, a subset of sources, a time and noise for each sample, then one update."""
        latents, available = batch["latents"], batch["available"]
        is_source, is_target = draw_task(available, self.targets, self.contrasts, noise)
        kappa_0 = (latents * spread(is_target, latents)).sum(1)
        t = noise.integers("t", 1, self.config.steps + 1)
        eps = noise.normal("eps", kappa_0.shape[1:])
        kappa_t = q_sample(self.schedule, kappa_0, t, eps)
        tissue = self.tissue_of_sources(batch, is_source)
        planes = task_planes(is_source, is_target, kappa_0)
        condition = self.condition(latents * spread(is_source, latents), planes, tissue)
        update("G", self.losses(self.predict(kappa_t, condition, t), eps, t))

    def tissue_of_sources(self, batch: Batch, is_source: Tensor) -> Tensor | None:
        """Tissue maps by the sources alone, (B, 4, *S), where they are wanted."""
        return None

    def translate(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Tensor:
        """Encode the sources, sample the target's latent slice by slice, decode it."""
        assert self.first_stage is not None, "the engine gives a latent method its first stage"
        first_stage, config = self.first_stage, self.config
        images = batch["images"]
        is_source, is_target = self.task(batch["available"], target)
        given = is_source[0].nonzero()[:, 0].tolist()
        planes = task_planes(is_source, is_target, images)[..., 0]

        def window(x_T: Tensor, images: Tensor, tissue: Tensor) -> Tensor:
            count = len(x_T)
            y = x_T.new_zeros(count, len(self.contrasts), *x_T.shape[1:])
            for k in given:
                y[:, k] = first_stage.encode(images[:, k : k + 1])
            wanted = tissue if self.wants_tissue else None
            condition = self.condition(y, planes.expand(count, -1, -1, -1), wanted)

            def denoise(kappa_t: Tensor, t: Tensor) -> Tensor:
                eps_theta = self.predict(kappa_t, condition, t[:1].expand(count))
                return x0_from_eps(self.schedule, kappa_t, eps_theta, t)

            return first_stage.decode(ddim(self.schedule, denoise, x_T, times=self.path, noise=noise))

        shape = (config.latent_channels, *(side // config.factor for side in images.shape[2:4]), images.shape[4])
        x_T = noise.normal("x_T", shape).to(images)
        tissue = self.tissue_of_sources(batch, is_source)
        tissue = images.new_zeros(1, 1, 1, 1, 1) if tissue is None else tissue
        return windows.map(window, x_T, images, tissue).clamp(-1, 1)
