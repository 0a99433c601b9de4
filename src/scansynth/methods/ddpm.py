"""DDPM, IDDPM and their implicit samplers, conditional: any subset of sources to any target, on slices, 3D patches
or whole volumes.

DDPM: Ho, Jain & Abbeel, "Denoising Diffusion Probabilistic Models", NeurIPS 2020. IDDPM: Nichol & Dhariwal, "Improved
Denoising Diffusion Probabilistic Models", ICML 2021. DDIM, and IDDIM on a network of IDDPM: Song, Meng & Ermon,
"Denoising Diffusion Implicit Models", ICLR 2021. The sources are channels beside the noisy target, as in CG-DDPM's
paper, whose baselines these are.

Symbol       | meaning
------------ | -------
x_0, x_t     | target image, clean and at time t, (B, 1, *S)
y            | sources, (B, K, *S): 0 where a contrast is the target, unavailable or left out; of slices with n
             | neighbours on each side of each, (B, K (1 + 2n), *S)
ε, ε_f       | noise, and the network's estimate of it
v            | the network's place between log β̃ (0) and log β (1), (B, 1, *S)

Equation                                  | here
----------------------------------------- | ----
DDPM 4: q(x_t given x_0)                  | `gaussian.q_sample`
DDPM 14: L_simple                         | `training_step`
IDDPM 15: Σ between β̃ and β              | `variational.learned_log_variance`
IDDPM 16: L_hybrid = L_simple + γ L_VLB   | `training_step`
DDPM, algorithm 2; DDIM 12                | `translate`
Consistency distillation                  | `diffusion.distillation`, where `distilled`
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from scansynth.diffusion.distillation import consistency, few_times
from scansynth.diffusion.gaussian import q_sample
from scansynth.diffusion.parameterisation import Output, eps_from_output, x0_from_eps
from scansynth.diffusion.samplers import SAMPLERS, Denoise, SamplerName, Spacing, ancestral_learned, times
from scansynth.diffusion.schedule import make_schedule
from scansynth.diffusion.variational import learned_bound, learned_log_variance
from scansynth.diffusion.windows import Windows, WindowsOfVolume, by_step_or_by_window
from scansynth.errors import InputError
from scansynth.method import Batch, Made, Progress, Update
from scansynth.methods.any_to_any import as_factors, draw_task, sources_of, task_planes
from scansynth.methods.distillable import Distillable
from scansynth.needs import Needs
from scansynth.networks.lagging import Lagging
from scansynth.networks.unet import start_variance, window_unet
from scansynth.networks.wavelet_unet import WaveletUNet
from scansynth.noise import Noise
from scansynth.ranges import Count, Natural, Weight
from scansynth.units import slices_or_patches


@dataclass(frozen=True, kw_only=True)
class DdpmConfig:
    """Settings of the conditional DDPM family; the defaults are IDDPM's as CG-DDPM's paper compares with it."""

    patch: tuple[Count, Count, Count] | None = (64, 64, 16)
    """Voxels of a 3D patch (right, anterior, superior); None: axial slices."""
    wavelets: Natural = 0
    """Levels of Haar wavelets whose bands the network sees in place of voxels: whole volumes are made at once, trained
    on patches."""
    recompute: bool = False
    """With wavelets: keep less for the gradients and compute it again, for larger patches in the same memory."""
    channels: Count = 32
    """Base width of the U-Net."""
    multipliers: tuple[Count, ...] = (1, 2, 4, 4)
    """Width of each level over the base width."""
    blocks: Count = 2
    """Residual blocks a level."""
    window_levels: tuple[Natural, ...] = (2, 3)
    """Levels with shifted-window attention."""
    output: Output = "noise"
    """What the network gives: ε_f itself, or the velocity or x̂_0 that ε_f follows from, which learn in far fewer steps.
    Where it gives x̂_0, that is what the loss is of."""
    steps: Count = 4000
    """T, the steps of the forward process."""
    noise: Literal["linear", "cosine"] = "linear"
    """Schedule: β from 10⁻⁴ to 0.02, scaled by 1000/T; or ᾱ a squared cosine (IDDPM, Eq. 17)."""
    variance: Literal["learned", "fixed"] = "learned"
    """Learned between β̃ and β (IDDPM), or β̃ (DDPM)."""
    loss: Literal["l1", "l2"] = "l1"
    """Loss of the noise: mean absolute error (CG-DDPM's paper), or mean squared error (DDPM's and IDDPM's)."""
    bound_weight: Weight = 0.05
    """γ of L_VLB, where the variance is learned."""
    sampler: SamplerName = "ancestral"
    """Ancestral, implicit with η = 0, or DPM-Solver++(2M), which keeps most of the texture in few steps."""
    sampling_steps: Count = 256
    """Steps of sampling."""
    spacing: Spacing = "even"
    """How the times of sampling lie: evenly, more of them where little noise is left, or evenly in log-SNR."""
    blend: Literal["step", "window"] = "step"
    """3D: windows are blended at every step, or each is sampled by itself and blended at the end."""
    unconditional: bool = False
    """Make volumes without a source (generate): with patches of whole volumes the 3D-DPM of cDPM's paper."""
    targets: tuple[str, ...] = ()
    """Contrasts to make; empty for every contrast of the run in turn."""
    neighbours: Natural = 0
    """Slices on each side of each source that are given with it, as further channels (2.5D); without a patch."""
    learning_rate: Weight = 4e-5
    """AdamW's learning rate."""
    distilled: Natural = 0
    """Network calls of a draw, of a run that is distilled from a trained one (scansynth distill), whatever sampler and
    steps say; 0: it is not."""

    @classmethod
    def tiny(cls) -> "DdpmConfig":
        """A network that trains in seconds, for tests."""
        return cls(
            patch=(16, 16, 8), channels=8, multipliers=(1, 2), blocks=1, window_levels=(1,), steps=40, sampling_steps=4,
            learning_rate=1e-3,
        )  # fmt: skip


class Ddpm(Distillable):
    """p(x_s | x_t, y) = N(μ_f, Σ_f), trained with L_simple and, where Σ is learned, L_VLB."""

    Config = DdpmConfig
    name = "ddpm"
    averaged = ("unet",)
    plans = ()

    def __init__(self, config: DdpmConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        self.learned = config.variance == "learned"
        self.schedule = make_schedule(config.noise, config.steps)
        self.path = times(self.schedule, config.sampling_steps, spacing=config.spacing)
        if config.distilled:
            self.path = few_times(self.schedule, config.distilled)
        planes = 2 * len(self.contrasts) * (not config.unconditional)
        channels = 1 + planes + (1 + 2 * config.neighbours) * planes // 2
        size: dict[str, Any] = {
            "channels": config.channels,
            "multipliers": config.multipliers,
            "blocks": config.blocks,
            "window_levels": config.window_levels,
        }
        if config.wavelets:
            unet = WaveletUNet(
                channels,
                1 + self.learned,
                planes=planes,
                wavelets=config.wavelets,
                time_width=4 * config.channels,
                recompute=config.recompute,
                attention_levels=(),
                **size,
            )
            if self.learned:
                start_variance(unet)
        else:
            unet = window_unet(2 if config.patch is None else 3, channels, learned_variance=self.learned, **size)
        self.nets = nn.ModuleDict({"unet": unet})
        self.lagging = Lagging(self.nets)

    @classmethod
    def needs_of(cls, config: DdpmConfig, contrasts: Sequence[str]) -> Needs:
        """Paired patches, or slices; without sources, patches alone."""
        if config.unconditional and config.patch is None:
            raise InputError("ddpm makes volumes of patches, not of slices: set patch to the prepared volume's size")
        multiple = 2 ** (len(config.multipliers) - 1)
        return slices_or_patches(
            config.patch,
            size_multiple=multiple,
            generates=config.unconditional,
            neighbours=config.neighbours,
            wavelets=config.wavelets,
            sources=not config.unconditional,
        )

    @classmethod
    def distilled_settings(cls, config: DdpmConfig, calls: int) -> DdpmConfig:
        """The same, in so many calls."""
        if config.unconditional:
            raise InputError("it makes volumes without a source: distil a run that translates")
        return super().distilled_settings(config, calls)

    @property
    def sampling_steps(self) -> int:
        """Network calls that make one image."""
        return len(self.path)

    @property
    def passes(self) -> int:
        """One, where each window goes through all steps before the next one does."""
        return 1 if self.config.blend == "window" and self.config.patch else self.sampling_steps

    def optimizers(self) -> dict[str, Optimizer]:
        """AdamW, weight decay 10⁻³ (CG-DDPM's paper)."""
        return {"G": AdamW(self.nets.parameters(), lr=self.config.learning_rate, weight_decay=1e-3, fused=True)}

    def predict(self, x_t: Tensor, y: Tensor, planes: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """ε_f and v.

        Args:
            x_t: (B, 1, *S).
            y: sources, with their neighbours where there are some, 0 where not given.
            planes: which contrasts are given and which is asked for, (B, 2K, 1, …) of 0 and 1; also those of a volume.
            t: (B,).

        Returns:
            ε_f (B, 1, *S), and v in [0, 1] where it is learned.
        """
        planes = planes.to(y.dtype).reshape(*planes.shape[:2], *[1] * (y.ndim - 2)).expand(-1, -1, *y.shape[2:])
        out = self.nets["unet"](torch.cat([x_t, y, planes], dim=1), t)
        eps_f = eps_from_output(self.schedule, out[:, :1], x_t, t, output=self.config.output)
        return eps_f, out[:, 1:].sigmoid() if self.learned else None

    def denoise(self, x_t: Tensor, y: Tensor, planes: Tensor, t: Tensor) -> Tensor:
        """x̂_0, (B, 1, *S); arguments as of `predict`."""
        return x0_from_eps(self.schedule, x_t, self.predict(x_t, y, planes, t)[0], t)

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """Draw a target, a subset of sources, a time and noise for each sample, then one update."""
        images, available = batch["images"], batch["available"]
        x0, y = images, images[:, :0]
        planes = y
        if not self.config.unconditional:
            is_source, is_target = draw_task(available, self.targets, self.contrasts, noise)
            x0 = (images * as_factors(is_target, images)).sum(1, keepdim=True)
            y = sources_of(batch, is_source)
            planes = task_planes(is_source, is_target, images)
        if self.config.distilled:

            def of(method: Ddpm) -> Denoise:
                return lambda x_t, t: method.denoise(x_t, y, planes, t)

            teacher = of(self.teacher)
            update("G", self.distillation(of(self), teacher=teacher, x0=x0, noise=noise, progress=progress))
            return
        t = noise.integers("t", 1, self.config.steps + 1)
        eps = noise.normal("eps", x0.shape[1:])
        x_t = q_sample(self.schedule, x0, t, eps)
        eps_f, v = self.predict(x_t, y, planes, t)
        if self.config.output == "x0":
            losses = {"x0": noise_loss(self.config.loss, x0_from_eps(self.schedule, x_t, eps_f, t), x0)}
        else:
            losses = {"noise": noise_loss(self.config.loss, eps_f, eps)}
        if v is not None:
            losses["bound"] = self.config.bound_weight * learned_bound(self.schedule, x0, x_t, eps_f=eps_f, v=v, t=t)
        update("G", losses)

    @property
    def gives_mean(self) -> bool:
        """By x̂_0 or the velocity, whose one call makes a draw where it is distilled."""
        return self.config.output != "noise" and not self.config.distilled

    def mean(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """x̂_0 at t = T."""
        return self.translate(batch, target, windows, noise, path=self.path[:1])

    def translate(
        self, batch: Batch, target: str, windows: Windows, noise: Noise, *, path: Sequence[int] | None = None
    ) -> Made:
        """Sample x_0 by the times of a path, or as it is set; see `DdpmConfig.sampler` and `blend`."""
        if self.config.unconditional:
            raise InputError("ddpm was trained without sources: generate with it, or train a recipe that translates")
        images, available = batch["images"], batch["available"]
        is_source, is_target = self.task(available, target)
        y = sources_of(batch, is_source)
        return Made(self.sample(y, task_planes(is_source, is_target, images), windows, noise, path=path))

    def stages(self, depth: int, plan: str | None = None) -> tuple[int, ...]:
        """One stage."""
        return (0,) * depth

    def calls(self, shape: tuple[int, int, int], windows: WindowsOfVolume, plan: str | None = None) -> int:
        """All steps for each of the windows."""
        return self.sampling_steps * windows.ticks(shape)

    def generate(
        self,
        shape: tuple[int, int, int],
        windows: Windows,
        noise: Noise,
        *,
        plan: str | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Sample x_0 of the whole volume, without a source."""
        if not self.config.unconditional:
            raise InputError("ddpm was trained with sources: translate with it, or train a recipe that generates")
        if labels is not None and labels.shape[1]:
            raise InputError("ddpm generates by no labels: leave them out, or train cdpm with labels")
        nothing = torch.zeros(1, 0, *shape, device=noise.device)
        return self.sample(nothing, nothing[..., :1, :1, :1], windows, noise)

    def sample(
        self, y: Tensor, planes: Tensor, windows: Windows, noise: Noise, *, path: Sequence[int] | None = None
    ) -> Tensor:
        """x_0 of a volume.

        Args:
            y: sources, with their neighbours where there are some, (1, K (1 + 2n), X, Y, Z); no channel without.
            planes: which contrasts are given and which is asked for, (1, 2K, 1, 1, 1).
            windows: cut the volume for the network.
            noise: of the volume.
            path: times of sampling; None: as it is set.

        Returns:
            (1, 1, X, Y, Z).
        """
        path = path or self.path

        def sample(y: Tensor, windows: Windows, noise: Noise) -> Tensor:
            def estimate(x: Tensor, t: Tensor) -> Tensor:
                """x̂_0 (clipped) and, where it is learned, v."""

                def window(x: Tensor, y: Tensor) -> Tensor:
                    count, times = len(x), t[:1].expand(len(x))
                    eps_f, v = self.predict(x, y, planes.expand(count, *planes.shape[1:]), times)
                    return eps_f if v is None else torch.cat([eps_f, v], dim=1)

                out = windows.map(window, x, y)
                x0 = x0_from_eps(self.schedule, x, out[:, :1], t).clamp(-1, 1)
                return torch.cat([x0, out[:, 1:]], dim=1)

            x_T = noise.normal("x_T", (1, *y.shape[2:]))
            if self.config.distilled or self.config.sampler != "ancestral" or not self.learned:
                sampler = consistency if self.config.distilled else SAMPLERS[self.config.sampler]
                return sampler(self.schedule, lambda x, t: estimate(x, t)[:, :1], x_T, path, noise)

            def learned(x: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
                x0, v = estimate(x, t).chunk(2, dim=1)
                return x0, learned_log_variance(self.schedule, v, t, s)

            return ancestral_learned(self.schedule, learned, x_T, path, noise)

        return by_step_or_by_window(self.config.blend, sample, y, windows, noise).clamp(-1, 1)


def noise_loss(kind: str, eps_f: Tensor, eps: Tensor) -> Tensor:
    """Mean absolute or squared error of the noise."""
    return (eps_f - eps).abs().mean() if kind == "l1" else (eps_f - eps).square().mean()
