"""Consistency models, conditional: any subset of sources to any target on slices, in one or two network calls.

Sources: Song, Dhariwal, Chen & Sutskever, "Consistency Models", ICML 2023 (CM); Song & Dhariwal, "Improved Techniques
for Training Consistency Models", ICLR 2024 (iCT), which is the default. This is consistency training, without a
teacher; distillation of a trained diffusion model is `scansynth distill` (`diffusion/distillation.py`).

Symbol   | meaning
-------- | -------
x        | target image, (B, 1, H, W)
y        | sources, (B, K, H, W): 0 where a contrast is the target, unavailable or left out; with n neighbours on each
         | side of each, (B, K (1 + 2n), H, W)
σ, x_σ   | level of noise, and x + σ ε
f        | consistency function: from any x_σ of a path of the probability flow to its end at σ_min
F        | the network
σ_data   | root mean square of the images
N, θ⁻    | number of levels; weights that make the targets

Equation                                        | here
----------------------------------------------- | ----
CM 5: f = c_skip x_σ + c_out F(c_in x_σ, σ, y)  | `predict`, `consistency.boundary`
CM 10: L = E λ d(f_θ(x_σ), f_θ⁻(x_σ')), one ε   | `training_step`
CM, appendix C: N(k), μ(k); iCT: N(k), p(σ), d  | `diffusion/consistency.py`
CM, algorithm 1: sampling                       | `translate`

# Paper: no conditions but classes. Here: sources are further channels of F, neither noised nor scaled by c_in, and
# planes say which are given and which contrast is asked for.
# Paper: σ_data 0.5. Here: measured on the first batch of the training (its first part, where it comes in parts), and
# kept with the weights, because a background of −1 makes it larger; it is that about 0, as c_skip and c_in suppose
# images of mean 0.
# iCT: dropout with the same mask in both calls. Here: none, as nowhere in this U-Net.
# CM: LPIPS. Here: squared error in the form of 2023, because LPIPS wants weights of other images; pseudo-Huber by
# default, as in iCT.
# iCT: the second level of two-step sampling is tuned to FID. Here: levels lie evenly in σ^{1/7}, untuned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer, RAdam

from scansynth.diffusion import consistency
from scansynth.diffusion.schedule import expand
from scansynth.diffusion.windows import Windows
from scansynth.errors import InputError
from scansynth.method import Batch, Made, Progress, Update
from scansynth.methods.any_to_any import AnyToAny, as_factors, draw_task, sources_of, task_planes
from scansynth.needs import Needs
from scansynth.networks.lagging import Lagging
from scansynth.networks.unet import UNet
from scansynth.noise import Noise
from scansynth.ranges import Count, Natural, Weight
from scansynth.units import Slices

UNMEASURED = 0.5
"""σ_data before there is a batch: CM's."""


@dataclass(frozen=True, kw_only=True)
class ConsistencyConfig:
    """Settings of a consistency model; the defaults are iCT's, or settled where it does not say."""

    form: Literal["improved", "2023"] = "improved"
    """Improved training (iCT): targets by the same weights, pseudo-Huber, levels that double; or that of 2023: targets
    by a moving average, squared error, uniform levels."""
    most_pairs: Count = consistency.MOST
    """s_1 of the improved form: pairs of levels at the end, which double from 10."""
    channels: Count = 128
    """Base width of the U-Net."""
    multipliers: tuple[Count, ...] = (1, 1, 2, 3, 4)
    """Width of each level over the base width."""
    blocks: Count = 2
    """Residual blocks a level."""
    attention_levels: tuple[Natural, ...] = (3, 4)
    """Levels with self-attention."""
    sampling_steps: Count = 2
    """Network calls of a draw."""
    neighbours: Natural = 0
    """Slices on each side of each source that are given with it, as further channels (2.5D)."""
    targets: tuple[str, ...] = ()
    """Contrasts to make; empty for every contrast of the run in turn."""
    learning_rate: Weight = 5e-5
    """RAdam's learning rate."""

    def __post_init__(self):
        if self.most_pairs < consistency.FEWEST:
            raise InputError(f"most_pairs {self.most_pairs}: at least the {consistency.FEWEST} of the start")

    @classmethod
    def tiny(cls) -> "ConsistencyConfig":
        """A network that trains in seconds, for tests."""
        return cls(
            form="2023", channels=8, multipliers=(1, 2), blocks=1, attention_levels=(), learning_rate=1e-3,
        )  # fmt: skip


class Consistency(AnyToAny):
    """f(x_σ, σ, y), trained so that it is the same along each path, and x_σ itself at σ_min."""

    Config = ConsistencyConfig
    name = "consistency"
    averaged = ("unet",)
    not_distilled = "it draws in one or two calls as it is"

    def __init__(self, config: ConsistencyConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        # x_σ, sources and their neighbours, planes of which are given and which is asked for.
        unet = UNet(
            2,
            1 + (3 + 2 * config.neighbours) * len(self.contrasts),
            1,
            channels=config.channels,
            multipliers=config.multipliers,
            blocks=config.blocks,
            attention_levels=config.attention_levels,
            bottleneck_attention=bool(config.attention_levels),
            time_width=4 * config.channels,
        )
        unet.register_buffer("sigma_data", torch.zeros(()))  # with the weights, which are of no use without it
        self.nets = nn.ModuleDict({"unet": unet})
        self.lagging = Lagging(self.nets)

    @classmethod
    def needs_of(cls, config: ConsistencyConfig, contrasts: Sequence[str]) -> Needs:
        """Paired slices."""
        return Slices(size_multiple=2 ** (len(config.multipliers) - 1), neighbours=config.neighbours, sources=True)

    @property
    def sampling_steps(self) -> int:
        """Network calls that make one image."""
        return self.config.sampling_steps

    @property
    def sigma_data(self) -> Tensor:
        """σ_data, () float32; 0.5 before it is measured."""
        measured = self.nets["unet"].get_buffer("sigma_data")
        return torch.where(measured > 0, measured, UNMEASURED)

    def optimizers(self) -> dict[str, Optimizer]:
        """Rectified Adam."""
        return {"G": RAdam(self.nets.parameters(), lr=self.config.learning_rate)}

    def memory(self) -> Mapping[str, Tensor]:
        """θ⁻, of the form of 2023."""
        return self.lagging.weights

    def remember(self, memory: Mapping[str, Tensor]) -> None:
        """Put θ⁻ back."""
        self.lagging.remember(memory) if self.config.form == "2023" else super().remember(memory)

    def predict(self, x: Tensor, y: Tensor, planes: Tensor, sigma: Tensor) -> Tensor:
        """f.

        Args:
            x: x_σ, (B, 1, *S).
            y: sources, with their neighbours where there are some, 0 where not given.
            planes: which contrasts are given and which is asked for, (B, 2K, 1, …) of 0 and 1; also those of a volume.
            sigma: (B,) float64.

        Returns:
            (B, 1, *S); x itself at σ_min.
        """
        planes = planes.to(y.dtype).reshape(*planes.shape[:2], *[1] * (y.ndim - 2)).expand(-1, -1, *y.shape[2:])
        skip, out, scale = (expand(one, x) for one in consistency.boundary(sigma, self.sigma_data))
        made = self.nets["unet"](torch.cat([scale * x, y, planes], dim=1), (250 * sigma.log()).to(x.dtype))
        return skip * x + out * made

    def levels(self, done: float) -> int:
        """N(k) where a share `done` of the training is done."""
        if self.config.form == "2023":
            return consistency.levels_2023(done)
        return consistency.levels_improved(done, self.config.most_pairs)

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """Draw a target, a subset of sources, a pair of levels and one noise for both, then one update."""
        images, available = batch["images"], batch["available"]
        is_source, is_target = draw_task(available, self.targets, self.contrasts, noise)
        x = (images * as_factors(is_target, images)).sum(1, keepdim=True)
        y, planes = sources_of(batch, is_source), task_planes(is_source, is_target, images)
        measured = self.nets["unet"].get_buffer("sigma_data")
        if progress.step == 0 and not measured:
            measured.copy_(self.joined(x)[0].square().mean().sqrt())
        old = self.config.form == "2023"
        sigma = consistency.sigmas(self.levels(progress.fraction))
        if old:
            self.lagging.follow(consistency.decay_2023(len(sigma)), progress.step)
            i = noise.integers("level", 0, len(sigma) - 1).cpu()
        else:
            reached = consistency.level_weights(sigma).cumsum(0)
            i = torch.searchsorted(reached, noise.uniform("level").cpu().double()).clamp(max=len(sigma) - 2)
        high, low = (sigma[place].to(x.device) for place in (i, i + 1))
        eps = noise.normal("eps", x.shape[1:]).to(x)
        with self.lagging.in_place():
            aim = self.predict(x + expand(low, x) * eps, y, planes, low)
        made = self.predict(x + expand(high, x) * eps, y, planes, high)
        if old:
            loss = (made - aim).square().mean()
        else:
            loss = (consistency.pseudo_huber(made, aim) / (high - low).to(x)).mean()
        update("G", {"consistency": loss})

    def translate(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """f of noise; at each further level noise is added to what came, and f once more."""
        images = batch["images"]
        is_source, is_target = self.task(batch["available"], target)
        y, planes = sources_of(batch, is_source), task_planes(is_source, is_target, images)

        def f(x: Tensor, sigma: Tensor) -> Tensor:
            def window(x: Tensor, y: Tensor) -> Tensor:
                count = len(x)
                return self.predict(x, y, planes.expand(count, *planes.shape[1:]), sigma.expand(count))

            return windows.map(window, x, y).clamp(-1, 1)

        made = torch.zeros_like(images[:, :1])
        for number, sigma in enumerate(consistency.sigmas(self.config.sampling_steps + 1)[:-1]):
            added = (sigma.square() - consistency.SIGMA_MIN**2).sqrt() if number else sigma
            eps = noise.normal(f"eps {number}", made.shape[1:]).to(images)
            made = f(made + float(added) * eps, sigma[None].to(images.device))
        return Made(made)
