"""M2DN: one diffusion over all contrasts of a subject, of which only the missing ones are noisy.

Source: Meng et al., "Multi-modal Modality-masked Diffusion Network for Brain MRI Synthesis with Random Modality
Missing", IEEE Transactions on Medical Imaging 43(7), 2024.

Symbol   | meaning
-------- | -------
M        | all K contrasts of a slice as one image, (B, K, H, W): 0 where the subject lacks one
M_t      | M at time t: given contrasts are clean at every time, missing ones noisy
v        | which contrasts are missing, (B, K): 1 missing, 0 given
M̂        | f(M_t, t, v): what the network takes all K contrasts to be, given ones included
x_t      | the missing contrasts of M_t alone, which a sampler changes

Equation                                                      | here
------------------------------------------------------------- | ----
M_t: noise on the missing contrasts alone                     | `training_step`, `inpaint`, `gaussian.q_sample`
v: all 2^K − 2 of them alike likely                           | `any_to_any.draw_missing`
L = ‖M − f(M_t, t, v)‖², over all K                           | `training_step`, `any_to_any.channel_mean`
f                                                             | `networks.m2dn.M2DNNetwork`
synthesis: the given contrasts enter each step as they are    | `sample`, `inpaint`

# Not verified, as the paper's text is not at hand: schedule, sampler, optimiser. Here: T = 1000, β from 1e-4 to 0.02,
# DDIM with η = 0 in 50 steps, Adam with 1e-4, a moving average of 0.9999.
# Paper: every subject has every contrast. Here: one that a subject lacks counts as missing, its state is noise on an
# image of zeros, and no loss asks about it; so training takes subjects whatever they lack.
# Paper: every contrast may be made. Here: `targets` may name some, and then every set drawn lacks one of them at least,
# so that the training is about what will be asked for, from any sources.
# Paper: the loss as one figure. Here: its parts are named apart, because that of the given contrasts, a reconstruction,
# says nothing of what is synthesised.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from scansynth.diffusion.gaussian import q_sample
from scansynth.diffusion.samplers import SAMPLERS, SamplerName, Spacing, times
from scansynth.diffusion.schedule import make_schedule
from scansynth.diffusion.windows import Windows
from scansynth.method import Batch, Made, Progress, Update
from scansynth.methods.any_to_any import AnyToAny, as_factors, channel_mean, draw_missing, sources_of
from scansynth.needs import Needs
from scansynth.networks.m2dn import M2DNNetwork
from scansynth.noise import Noise
from scansynth.ranges import Count, Weight
from scansynth.units import Slices


@dataclass(frozen=True, kw_only=True)
class M2DNConfig:
    """Settings of M2DN; the defaults are the paper's where it is known, and what stands at the head of this file."""

    channels: Count = 32
    """Width of each contrast's first level, at half the image's size."""
    multipliers: tuple[Count, ...] = (1, 2, 4, 4)
    """Width of each level over that; the first two are each contrast's own, the others are shared."""
    blocks: Count = 2
    """Residual blocks a level."""
    knows_missing: bool = True
    """Whether the network is told v in its bottleneck, which contrasts are missing; else their noise tells it."""
    joint_loss: bool = True
    """Whether the loss is of all contrasts, given ones included, or of the missing ones alone."""
    steps: Count = 1000
    """T, the steps of the forward process."""
    sampler: SamplerName = "ddim"
    """Ancestral, implicit with η = 0, or DPM-Solver++(2M), which keeps most of the texture in few steps."""
    sampling_steps: Count = 50
    """Steps of sampling."""
    spacing: Spacing = "even"
    """How the times of sampling lie: evenly, more of them where little noise is left, or evenly in log-SNR."""
    targets: tuple[str, ...] = ()
    """Contrasts to make; empty for every contrast of the run."""
    learning_rate: Weight = 1e-4
    """Adam's learning rate."""

    @classmethod
    def tiny(cls) -> "M2DNConfig":
        """A network that trains in seconds, for tests."""
        return cls(channels=8, multipliers=(1, 1, 2), blocks=1, steps=40, sampling_steps=3, learning_rate=1e-3)


class M2DN(AnyToAny):
    """p(M_s | M_t, v) over the missing contrasts, by a network that gives M̂."""

    Config = M2DNConfig
    name = "m2dn"
    averaged = ("network",)
    average_decay = 0.9999
    not_distilled = "its path is that of all missing contrasts together, which distillation does not take"

    def __init__(self, config: M2DNConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        self.schedule = make_schedule("linear", config.steps)
        self.path = times(self.schedule, config.sampling_steps, spacing=config.spacing)
        network = M2DNNetwork(
            len(self.contrasts),
            channels=config.channels,
            multipliers=config.multipliers,
            blocks=config.blocks,
            knows_missing=config.knows_missing,
        )
        self.nets = nn.ModuleDict({"network": network})

    @classmethod
    def needs_of(cls, config: M2DNConfig, contrasts: Sequence[str]) -> Needs:
        """Paired slices."""
        return Slices(size_multiple=2 ** len(config.multipliers), sources=True)

    @property
    def sampling_steps(self) -> int:
        """Network calls that make all missing contrasts."""
        return len(self.path)

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam."""
        return {"G": Adam(self.nets.parameters(), lr=self.config.learning_rate, fused=True)}

    def predict(self, M_t: Tensor, is_missing: Tensor, t: Tensor) -> Tensor:
        """M̂.

        Args:
            M_t: (B, K, H, W).
            is_missing: v, (B, K) bool.
            t: (B,).

        Returns:
            (B, K, H, W).
        """
        return self.nets["network"](M_t, t, is_missing.to(M_t.dtype))

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """Draw what is missing of each sample, a time and noise, then one update."""
        images, available = batch["images"], batch["available"]
        asked = draw_missing(available, self.targets, self.contrasts, len(self.contrasts), noise)
        is_given = available & ~asked
        # What is given may have other intensities than the truth, and is to be reconstructed as it is given.
        M = torch.where(as_factors(is_given, images).bool(), sources_of(batch, is_given), images)
        M = M * as_factors(available, images)
        t = noise.integers("t", 1, self.config.steps + 1)
        eps = noise.normal("eps", M.shape[1:])
        M_hat = self.predict(inpaint(M, q_sample(self.schedule, M, t, eps), ~is_given), ~is_given, t)
        square = (M_hat - M).square()
        if self.config.joint_loss:
            losses = {
                "missing": channel_mean(square, asked, available),
                "given": channel_mean(square, is_given, available),
            }
        else:
            losses = {"missing": channel_mean(square, asked, asked)}
        update("G", losses)

    @property
    def gives_mean(self) -> bool:
        """By M̂."""
        return True

    def mean(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """The target in M̂ at t = T."""
        return self.translate(batch, target, windows, noise, path=self.path[:1])

    def translate(
        self, batch: Batch, target: str, windows: Windows, noise: Noise, *, path: Sequence[int] | None = None
    ) -> Made:
        """Sample all that is missing, by the times of a path or as it is set; the target is one of them."""
        is_given, is_target = self.task(batch["available"], target)
        made = self.sample(sources_of(batch, is_given), ~is_given, windows, noise, path=path or self.path)
        return Made(made[:, is_target[~is_given]])

    def sample(self, y: Tensor, is_missing: Tensor, windows: Windows, noise: Noise, *, path: Sequence[int]) -> Tensor:
        """x_0 of all missing contrasts of a volume.

        Args:
            y: given contrasts, (1, K, X, Y, Z), 0 where missing.
            is_missing: (1, K) bool.
            windows: cut the volume for the network.
            noise: of the volume.
            path: times of sampling.

        Returns:
            (1, missing contrasts, X, Y, Z) in [-1, 1], in their order.
        """
        places = is_missing[0]

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            """x̂_0 (clipped)."""

            def window(x_t: Tensor, y: Tensor) -> Tensor:
                M_t = y.clone()
                M_t[:, places] = x_t
                return self.predict(M_t, is_missing.expand(len(y), -1), t[:1].expand(len(y)))[:, places]

            return windows.map(window, x_t, y).clamp(-1, 1)

        # Drawn for all contrasts, so that one's noise is the same whichever others are missing.
        x_T = noise.normal("x_T", y.shape[1:])[:, places]
        return SAMPLERS[self.config.sampler](self.schedule, denoise, x_T, path, noise).clamp(-1, 1)


def inpaint(M: Tensor, noisy: Tensor, is_missing: Tensor) -> Tensor:
    """M_t: M where a contrast is given, noisy where it is missing.

    Args:
        M: (B, K, *S).
        noisy: (B, K, *S).
        is_missing: (B, K) bool.
    """
    return torch.where(as_factors(is_missing, M).bool(), noisy, M)
