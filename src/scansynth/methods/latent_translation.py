"""Translation in the latents of a trained first stage: what latent diffusion and CoLa-Diff have in common.

Rombach, Blattmann, Lorenz, Esser & Ommer, "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022.

Symbol | meaning
------ | -------
κ_0    | the target's latent E(x), of mean 0 and variance 1 where tissue is, (B, c, h, w); κ_t at time t
y      | the sources' latents, (B, K, c, h, w): 0 where a contrast is the target, unavailable or left out; with n
       | neighbours on each side of each, (B, K (1 + 2n), c, h, w)
ε, ε_θ | noise, and the network's estimate of it

# Paper: the error of the noise. Here: that of the velocity, where the network gives one (`output_error` says why).
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from scansynth.diffusion.gaussian import q_sample
from scansynth.diffusion.parameterisation import eps_from_output, output_error, x0_from_eps
from scansynth.diffusion.samplers import SAMPLERS, SamplerName, Spacing, times
from scansynth.diffusion.schedule import make_schedule
from scansynth.diffusion.windows import Windows
from scansynth.errors import InputError
from scansynth.given import offsets
from scansynth.method import Batch, Made, Progress, Update
from scansynth.methods.any_to_any import AnyToAny, as_factors, draw_task, task_planes, with_neighbours
from scansynth.needs import Needs
from scansynth.noise import Noise
from scansynth.ranges import Count, Natural, Weight
from scansynth.units import Latents


@dataclass(frozen=True, kw_only=True)
class LatentConfig:
    """Settings of translation in latents; the defaults are those that CoLa-Diff's paper states."""

    latent_channels: Count = 3
    """c: channels of a latent, as the first stage gives them."""
    factor: Count = 4
    """How many times smaller than an image a latent is, as the first stage makes it."""
    channels: Count = 128
    """Base width of the U-Net."""
    multipliers: tuple[Count, ...] = (1, 2, 3, 4)
    """Width of each level over the base width."""
    blocks: Count = 2
    """Residual blocks a level."""
    attention_levels: tuple[Natural, ...] = (1, 2, 3)
    """Levels with self-attention."""
    output: Literal["noise", "velocity"] = "noise"
    """What the network gives: ε_θ itself, or the velocity that it follows from, which learns in far fewer steps; L_E is
    then the velocity's error."""
    steps: Count = 1000
    """T, the steps of the forward process."""
    sampler: SamplerName = "ddim"
    """Implicit with η = 0, ancestral, or DPM-Solver++(2M), which keeps most of the texture in few steps."""
    sampling_steps: Count = 50
    """Steps of sampling."""
    spacing: Spacing = "even"
    """How the times of sampling lie: evenly, more of them where little noise is left, or evenly in log-SNR."""
    targets: tuple[str, ...] = ()
    """Contrasts to make; empty for every contrast of the run in turn."""
    neighbours: Natural = 0
    """Slices on each side of each source that are given with it, as further channels (2.5D)."""
    learning_rate: Weight = 9.6e-5
    """Adam's learning rate."""

    @classmethod
    def tiny(cls) -> "LatentConfig":
        """A network that trains in seconds, for tests; the latents are those of the tiny autoencoder."""
        return cls(
            factor=2, channels=8, multipliers=(1, 2), blocks=1, attention_levels=(1,), steps=40, sampling_steps=4,
            learning_rate=1e-3,
        )  # fmt: skip


class SourceLatents:
    """Latents of a volume's sources and their neighbours, window by window; each slice is encoded once.

    Slices that lie beside each other share their neighbours, also those of two windows.

    Args:
        encode: images (N, 1, H, W) → latents (N, c, h, w).
        is_source: (1, K) bool; the others are not read.
        neighbours: n, on each side.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], is_source: Tensor, neighbours: int):
        self.encode, self.is_source, self.around = encode, is_source, (0, *offsets(neighbours))
        self.known: dict[tuple[int, int], Tensor] = {}  # by contrast and number of the slice

    def of(self, slices: Tensor, index: Tensor) -> Tensor:
        """The latents of a window.

        Args:
            slices: of each contrast a slice, then its neighbours, (N, K (1 + 2n), H, W).
            index: the slices' numbers in the volume, (N, 1, 1, 1).

        Returns:
            (N, K (1 + 2n), c, h, w), as `with_neighbours` puts them.
        """
        by_contrast = slices.unflatten(1, (-1, len(self.around)))
        wanted = [int(z) + away for z in index.flatten().tolist() for away in self.around]
        found: dict[int, Tensor] = {}
        for k in self.is_source[0].nonzero()[:, 0].tolist():
            new = {z: place for place, z in enumerate(wanted) if (k, z) not in self.known}
            if new:
                latents = self.encode(by_contrast[:, k].flatten(0, 1)[list(new.values())][:, None])
                self.known |= {(k, z): latent for z, latent in zip(new, latents, strict=True)}
            found[k] = torch.stack([self.known[k, z] for z in wanted]).unflatten(0, (len(slices), -1))
        nothing = torch.zeros_like(next(iter(found.values())))
        every = torch.stack([found.get(k, nothing) for k in range(by_contrast.shape[1])], dim=1)
        return with_neighbours(every[:, :, 0], every[:, :, 1:], self.is_source.expand(len(slices), -1))


class LatentTranslator(AnyToAny):
    """p(κ_s | κ_t, y) by ε_θ(κ_t, t, y), sampled as it is set.

    A method says which networks it has, what they are told of the conditions, and how they are asked.
    """

    average_decay = 0.9999
    not_distilled = "it builds on an autoencoder, and a run builds on no more than one other"

    def __init__(self, config: LatentConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        self.schedule = make_schedule("linear", config.steps)
        self.path = times(self.schedule, config.sampling_steps, spacing=config.spacing)
        self.nets = self.networks()
        self.averaged = tuple(self.nets)

    @classmethod
    def needs_of(cls, config: Any, contrasts: Sequence[str]) -> Needs:
        """Paired latents of slices."""
        multiple = config.factor * 2 ** (len(config.multipliers) - 1)
        return Latents(config.latent_channels, config.factor, size_multiple=multiple, neighbours=config.neighbours)

    @classmethod
    def builds_on(cls, config: Any) -> str | None:
        """An autoencoder, whose latents it works on."""
        return "autoencoder"

    @classmethod
    def check_first_stage(cls, config: Any, method: str, settings: Any, name: str) -> None:
        """An autoencoder of slices."""
        super().check_first_stage(config, method, settings, name)
        if settings.patch is not None:
            raise InputError(f"--first-stage {name}: an autoencoder of 3D patches; one of slices is needed")

    @abstractmethod
    def networks(self) -> nn.ModuleDict:
        """All that is trained."""

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

    @abstractmethod
    def condition(self, y: Tensor, planes: Tensor, tissue: Tensor | None) -> Any:
        """What the network is told at every step, computed once.

        Args:
            y: the sources' latents, with their neighbours' where there are some, (B, K (1 + 2n), c, h, w), 0 where not
                given.
            planes: which contrasts are given and which is asked for, (B, 2K, 1, 1) of 0 and 1.
            tissue: by the sources alone, (B, 4, H, W), where the method needs it.
        """

    @abstractmethod
    def network(self, kappa_t: Tensor, condition: Any, t: Tensor) -> Tensor:
        """What the network gives for κ_t (B, c, h, w) at t (B,), of the same shape."""

    def predict(self, kappa_t: Tensor, condition: Any, t: Tensor) -> Tensor:
        """ε_θ, (B, c, h, w)."""
        out = self.network(kappa_t, condition, t)
        return eps_from_output(self.schedule, out, kappa_t, t, output=self.config.output)

    def losses(self, eps_theta: Tensor, eps: Tensor, t: Tensor) -> Mapping[str, Tensor]:
        """L_E."""
        return {"noise": self.noise_loss(eps_theta, eps, t)}

    def noise_loss(self, eps_theta: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The mean of ‖ε − ε_θ‖²; where the network gives the velocity, of the velocity's own squared error."""
        return output_error(self.schedule, eps_theta, eps, t, output=self.config.output).mean()

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """Draw a target, a subset of sources, a time and noise for each sample, then one update."""
        latents, available = batch["latents"], batch["available"]
        is_source, is_target = draw_task(available, self.targets, self.contrasts, noise)
        kappa_0 = (latents * as_factors(is_target, latents)).sum(1)
        t = noise.integers("t", 1, self.config.steps + 1)
        eps = noise.normal("eps", kappa_0.shape[1:])
        kappa_t = q_sample(self.schedule, kappa_0, t, eps)
        tissue = self.tissue_of_sources(batch, is_source)
        planes = task_planes(is_source, is_target, kappa_0)
        y = with_neighbours(latents, batch.get("neighbours"), is_source)
        condition = self.condition(y, planes, tissue)
        update("G", self.losses(self.predict(kappa_t, condition, t), eps, t))

    def tissue_of_sources(self, batch: Batch, is_source: Tensor) -> Tensor | None:
        """Tissue maps by the sources alone, (B, 4, *S), where they are wanted."""
        return None

    @property
    def gives_mean(self) -> bool:
        """By the velocity: of the latent, which is decoded."""
        return self.config.output != "noise"

    def mean(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """What κ̂_0 at t = T decodes to."""
        return self.translate(batch, target, windows, noise, path=self.path[:1])

    def translate(
        self, batch: Batch, target: str, windows: Windows, noise: Noise, *, path: Sequence[int] | None = None
    ) -> Made:
        """Encode what is given, sample the target's latent slice by slice (by a path's times, or as set), decode it."""
        assert self.first_stage is not None, "the engine gives a latent method its first stage"
        first_stage, config = self.first_stage, self.config
        images = batch["images"]
        is_source, is_target = self.task(batch["available"], target)
        sources = SourceLatents(first_stage.encode, is_source, config.neighbours)
        slices, index = images, torch.arange(images.shape[4], device=images.device)
        if config.neighbours:  # of a validation's slices, here and there, numbers tell which lie together
            slices = torch.cat([images[:, :, None], batch["neighbours"]], dim=2).flatten(1, 2)
            index = batch["index"][0]
        planes = task_planes(is_source, is_target, images)[..., 0]

        def window(x_T: Tensor, slices: Tensor, index: Tensor, tissue: Tensor) -> Tensor:
            count = len(x_T)
            y = sources.of(slices, index)
            wanted = tissue if self.needs.tissue else None
            condition = self.condition(y, planes.expand(count, -1, -1, -1), wanted)

            def denoise(kappa_t: Tensor, t: Tensor) -> Tensor:
                eps_theta = self.predict(kappa_t, condition, t[:1].expand(count))
                return x0_from_eps(self.schedule, kappa_t, eps_theta, t)

            sampler = SAMPLERS[config.sampler]
            return first_stage.decode(sampler(self.schedule, denoise, x_T, path or self.path, noise))

        shape = (config.latent_channels, *(side // config.factor for side in images.shape[2:4]), images.shape[4])
        x_T = noise.normal("x_T", shape).to(images)
        tissue = self.tissue_of_sources(batch, is_source)
        tissue = images.new_zeros(1, 1, 1, 1, 1) if tissue is None else tissue
        numbers = index.to(images).reshape(1, 1, 1, 1, -1)
        return Made(windows.map(window, x_T, slices, numbers, tissue).clamp(-1, 1))
