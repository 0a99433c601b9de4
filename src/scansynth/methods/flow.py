"""Flow: from a first estimate of the target, step by step, to a sample of it; any subset of sources to any target.

A bridge from a start s to the target x (BBDM: Li et al., CVPR 2023; I²SB: Liu et al., ICML 2023), written with the
direction of a rectified flow (Liu, Gong & Liu, "Flow Straight and Fast", ICLR 2023): the network gives x − s. Where s
is a regression's image the way from it to a sample is that of "Posterior-Mean Rectified Flow" (Ohayon, Michaeli & Elad,
ICLR 2025), but that noise enters on the way and not at its start. On wavelets of whole volumes it is a wavelet flow
matching. It is no paper's method as it stands here: at t = 0 there is no noise, so that one step **is** the
regression of the residual, and what further steps add can be told from what the regression gives.

Symbol | meaning
------ | -------
x      | target image, (B, 1, *S)
y      | sources, (B, K, *S): 0 where a contrast is the target, unavailable or left out; of slices with n neighbours on
       | each side of each, (B, K (1 + 2n), *S)
s      | start, (B, 1, *S): the mean of the sources that are given, or a trained regression's image of them, or noise
x_t    | between them, t in [0, 1]
v      | the network's x − s, from x_t, y, t, which sources are given, which target is asked for, and a regression's s

Equation                                    | here
------------------------------------------- | ----
x_t = (1 − t) s + t x + σ √(t(1 − t)) ε     | `bridge.Bridge.at`
L = E ‖v(x_t, t) − (x − s)‖²                | `training_step`
x̂ = s + v; from noise x_t + (1 − t) v       | `bridge.Bridge.x_from_direction`
x̂ at t = 0: the mean of x given the sources | `mean`
Euler, Heun, 2M                             | `bridge.solve`
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from scansynth.diffusion.bridge import Bridge, SolverName, bridge_times, calls, solve
from scansynth.diffusion.windows import Windows
from scansynth.errors import InputError
from scansynth.method import Batch, Made, Progress, Update
from scansynth.methods.any_to_any import AnyToAny, as_factors, draw_task, sources_of, task_planes
from scansynth.needs import Needs
from scansynth.networks.unet import UNet
from scansynth.networks.wavelet_unet import WaveletUNet
from scansynth.noise import Noise
from scansynth.ranges import Count, Natural, Share, Weight
from scansynth.units import slices_or_patches

TIMES = 1000
"""What the network is told of t is 1000 t: its encoding of time is made for steps."""


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Settings of the flow."""

    start: Literal["sources", "regression", "noise"] = "sources"
    """Where a path starts: the mean of the sources that are given, the image of a trained regression (train
    --first-stage), or noise."""
    sigma: Weight = 0.1
    """σ, the noise of a bridge, in half the range of the intensities; 0: none, and every path ends at the mean. Of no
    account where the start is noise."""
    at_start: Share = 0.25
    """Share of the training at t = 0, where one step makes the mean; the rest has uniform times."""
    patch: tuple[Count, Count, Count] | None = None
    """Voxels of a 3D patch (right, anterior, superior); None: axial slices."""
    wavelets: Natural = 0
    """Levels of Haar wavelets whose bands the network sees in place of voxels: whole volumes are made at once, trained
    on patches."""
    recompute: bool = False
    """Keep less for the gradients and compute it again, for larger patches in the same memory."""
    channels: Count = 64
    """Base width of the U-Net."""
    multipliers: tuple[Count, ...] = (1, 2, 4, 8)
    """Width of each level over the base width."""
    blocks: Count = 1
    """Residual blocks a level."""
    neighbours: Natural = 0
    """Slices on each side of each source that are given with it, as further channels (2.5D); without a patch."""
    targets: tuple[str, ...] = ()
    """Contrasts to make; empty for every contrast of the run in turn."""
    solver: SolverName = "dpm-solver"
    """Euler, Heun (two calls a step), or 2M, which keeps most of the texture in few calls."""
    sampling_steps: Count = 6
    """Steps of sampling; one makes the mean."""
    learning_rate: Weight = 5e-4
    """AdamW's learning rate at the start; it falls to zero along a cosine."""

    def __post_init__(self):
        if not 0 <= self.at_start <= 1:
            raise InputError(f"at_start {self.at_start}: a share of the training lies in [0, 1]")
        if self.start != "noise" and self.sigma == 0 and self.solver == "dpm-solver":
            raise InputError("sigma 0 leaves dpm-solver no noise to go by: take --settings.solver euler or heun")

    @classmethod
    def tiny(cls) -> "FlowConfig":
        """A network that trains in seconds, for tests."""
        return cls(channels=8, multipliers=(1, 2), sampling_steps=3, learning_rate=2e-3)


class Flow(AnyToAny):
    """x_t from s to x, the network's direction, and its solvers."""

    Config = FlowConfig
    name = "flow"
    not_distilled = (
        "it draws in few calls as it is, and its noise enters on the way, so that no path leads from noise to an image"
    )
    averaged = ("unet",)

    def __init__(self, config: FlowConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        self.bridge = Bridge(None if config.start == "noise" else config.sigma)
        self.times = bridge_times(config.sampling_steps)
        # x_t, a regression's s, sources and their neighbours, planes of which are given and which is asked for.
        planes = 2 * len(self.contrasts)
        channels = 1 + (config.start == "regression") + (1 + 2 * config.neighbours) * len(self.contrasts) + planes
        size: dict[str, Any] = {
            "channels": config.channels,
            "multipliers": config.multipliers,
            "blocks": config.blocks,
            "attention_levels": (),
            "time_width": 4 * config.channels,
            "recompute": config.recompute,
        }
        if config.wavelets:
            unet = WaveletUNet(channels, 1, planes=planes, wavelets=config.wavelets, **size)
        else:
            unet = UNet(2 if config.patch is None else 3, channels, 1, **size)
        self.nets = nn.ModuleDict({"unet": unet})

    @classmethod
    def needs_of(cls, config: FlowConfig, contrasts: Sequence[str]) -> Needs:
        """Paired slices, patches or volumes."""
        return slices_or_patches(
            config.patch,
            size_multiple=2 ** (len(config.multipliers) - 1),
            neighbours=config.neighbours,
            wavelets=config.wavelets,
            sources=True,
        )

    @classmethod
    def builds_on(cls, config: FlowConfig) -> str | None:
        """A regression, where the path starts from its image."""
        return "regression" if config.start == "regression" else None

    @classmethod
    def check_first_stage(cls, config: FlowConfig, method: str, settings: Any, name: str) -> None:
        """A regression that sees what the flow sees."""
        super().check_first_stage(config, method, settings, name)
        if (settings.patch is None, settings.neighbours) != (config.patch is None, config.neighbours):
            raise InputError(
                f"--first-stage {name}: it sees {_seen(settings)}, the flow {_seen(config)}: give it the same patch "
                "and neighbours"
            )

    @property
    def stochastic(self) -> bool:
        """Whether there is noise on the way."""
        return self.bridge.sigma != 0

    @property
    def sampling_steps(self) -> int:
        """Network calls that make one image."""
        return calls(len(self.times), self.config.solver)

    @property
    def gives_mean(self) -> bool:
        """At t = 0."""
        return True

    def optimizers(self) -> dict[str, Optimizer]:
        """AdamW."""
        return {"G": AdamW(self.nets.parameters(), lr=self.config.learning_rate, weight_decay=1e-4, fused=True)}

    def lr_factor(self, player: str, progress: Progress) -> float:
        """A cosine from one to zero."""
        return 0.5 * (1 + torch.cos(torch.tensor(torch.pi * progress.fraction)).item())

    def start(self, images: Tensor, is_source: Tensor) -> Tensor:
        """The mean of the sources that are given.

        Args:
            images: (B, K, *S).
            is_source: (B, K) bool, at least one true a row.

        Returns:
            (B, 1, *S).
        """
        shares = as_factors(is_source, images) / as_factors(is_source.sum(1, keepdim=True), images)
        return (images * shares).sum(1, keepdim=True)

    def predict(self, x_t: Tensor, t: Tensor, *, s: Tensor, y: Tensor, planes: Tensor) -> Tensor:
        """v.

        Args:
            x_t: (B, 1, *S).
            t: (B,) in [0, 1].
            s: start, (B, 1, *S); the network sees a regression's alone, as the sources tell of their mean.
            y: sources, with their neighbours where there are some, 0 where not given.
            planes: which contrasts are given and which is asked for, (B, 2K, 1, …) of 0 and 1; also those of a volume.

        Returns:
            (B, 1, *S).
        """
        planes = planes.to(y.dtype).reshape(*planes.shape[:2], *[1] * (y.ndim - 2)).expand(-1, -1, *y.shape[2:])
        seen = (x_t, s) if self.config.start == "regression" else (x_t,)
        return self.nets["unet"](torch.cat([*seen, y, planes], dim=1), TIMES * t)

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """Draw a target, a subset of sources, a time and noise for each sample, then one update."""
        images, available = batch["images"], batch["available"]
        is_source, is_target = draw_task(available, self.targets, self.contrasts, noise)
        x = (images * as_factors(is_target, images)).sum(1, keepdim=True)
        y = sources_of(batch, is_source)
        if self.config.start == "regression":
            with torch.no_grad():
                s = self.trained.predict(y, is_source, is_target)
        else:
            s = self.start(batch.get("sources", images), is_source)
        t = noise.uniform("t") * (noise.uniform("at start") >= self.config.at_start)
        eps = noise.normal("eps", x.shape[1:])
        x_t = self.bridge.at(t, s=s, x=x, eps=eps)
        v = self.predict(x_t, t, s=s, y=y, planes=task_planes(is_source, is_target, images))
        update("G", {"direction": (v - self.bridge.direction(s=s, x=x, eps=eps)).square().mean()})

    @property
    def trained(self) -> Any:
        """The regression that the paths start from."""
        assert self.first_stage is not None, "the engine gives the method its first stage"
        return self.first_stage.method

    def mean(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """x̂ at t = 0: the regression of the residual."""
        return self.translate(batch, target, windows, noise, times=(0.0,))

    def translate(
        self, batch: Batch, target: str, windows: Windows, noise: Noise, *, times: Sequence[float] | None = None
    ) -> Made:
        """From s to x by the times, or as it is set."""
        images, available = batch["images"], batch["available"]
        is_source, is_target = self.task(available, target)
        y = sources_of(batch, is_source)
        planes = task_planes(is_source, is_target, images)
        s = self.start(images, is_source)
        if self.config.start == "regression":
            s = self.trained.translate(batch, target, self.trained.needs.windows(), noise).image

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            """x̂ of the volume."""

            def window(x_t: Tensor, s: Tensor, y: Tensor) -> Tensor:
                count = len(x_t)
                return self.predict(x_t, t.expand(count), s=s, y=y, planes=planes.expand(count, *planes.shape[1:]))

            return self.bridge.x_from_direction(windows.map(window, x_t, s, y), x_t, t, s=s).clamp(-1, 1)

        eps = noise.normal("eps", s.shape[1:])
        return Made(solve(self.bridge, denoise, s, eps, times or self.times, solver=self.config.solver))


def _seen(settings: Any) -> str:
    """What networks see, in words."""
    if settings.patch is not None:
        return "patches"
    return f"slices with {settings.neighbours} neighbours on each side" if settings.neighbours else "slices"
