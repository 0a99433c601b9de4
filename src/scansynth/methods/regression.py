"""Regression: a U-Net trained with L1 on any subset of sources, the plain reference of every comparison.

Source: Ronneberger, Fischer & Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015,
with the residual blocks of `networks/unet.py`. It is no paper's method: it is what a diffusion model has to beat.

Symbol | meaning
------ | -------
x      | target image, (B, 1, *S)
y      | sources, (B, K, *S): 0 where a contrast is the target, unavailable or left out; with n neighbours on each side
       | of each, (B, K (1 + 2n), *S)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from scansynth.diffusion.windows import Windows
from scansynth.method import Batch, Made, Progress, Update
from scansynth.methods.any_to_any import AnyToAny, as_factors, draw_task, sources_of, task_planes
from scansynth.needs import Needs
from scansynth.networks.unet import UNet
from scansynth.networks.wavelet_unet import WaveletUNet
from scansynth.noise import Noise
from scansynth.ranges import Count, Natural, Weight
from scansynth.units import slices_or_patches

FIRST = "unet/first.weight"
"""The one parameter whose shape goes by the contrasts, (channels, 3 K, *kernel)."""


@dataclass(frozen=True, kw_only=True)
class RegressionConfig:
    """Settings of the regression U-Net."""

    channels: Count = 32
    """Base width of the U-Net."""
    multipliers: tuple[Count, ...] = (1, 2, 2, 4)
    """Width of each level over the base width."""
    blocks: Count = 1
    """Residual blocks a level."""
    patch: tuple[Count, Count, Count] | None = None
    """Voxels of a 3D patch (right, anterior, superior); None: axial slices."""
    wavelets: Natural = 0
    """Levels of Haar wavelets whose bands the network sees in place of voxels: whole volumes are made at once, trained
    on patches."""
    recompute: bool = False
    """Keep less for the gradients and compute it again, for larger patches in the same memory."""
    neighbours: Natural = 0
    """Slices on each side of each source that are given with it, as further channels (2.5D); without a patch."""
    targets: tuple[str, ...] = ()
    """Contrasts to make; empty for every contrast of the run in turn."""
    learning_rate: Weight = 5e-4
    """AdamW's learning rate at the start; it falls to zero along a cosine."""

    @classmethod
    def tiny(cls) -> "RegressionConfig":
        """A network that trains in seconds, for tests."""
        return cls(channels=8, multipliers=(1, 2), learning_rate=2e-3)


class Regression(AnyToAny):
    """x̂ = f(y, which sources, which target), trained with ‖x − x̂‖₁."""

    Config = RegressionConfig
    name = "regression"
    averaged = ("unet",)

    def __init__(self, config: RegressionConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        # Sources and their neighbours, planes that say which are given, planes that say which is asked for.
        channels, planes = (3 + 2 * config.neighbours) * len(self.contrasts), 2 * len(self.contrasts)
        size: dict[str, Any] = {
            "channels": config.channels,
            "multipliers": config.multipliers,
            "blocks": config.blocks,
            "attention_levels": (),
            "recompute": config.recompute,
        }
        if config.wavelets:
            unet = WaveletUNet(channels, 1, planes=planes, wavelets=config.wavelets, **size)
        else:
            unet = UNet(2 if config.patch is None else 3, channels, 1, **size)
        self.nets = nn.ModuleDict({"unet": unet})

    @classmethod
    def needs_of(cls, config: RegressionConfig, contrasts: Sequence[str]) -> Needs:
        """Paired slices, patches or volumes."""
        return slices_or_patches(
            config.patch,
            size_multiple=2 ** (len(config.multipliers) - 1),
            neighbours=config.neighbours,
            wavelets=config.wavelets,
            sources=True,
        )

    @property
    def stochastic(self) -> bool:
        """The same sources give the same target."""
        return False

    def adopted(self, tensors: Mapping[str, Tensor], contrasts: Sequence[str]) -> Mapping[str, Tensor] | None:
        """Of slices and patches: the first convolution without what it gives for the other contrasts."""
        if self.config.wavelets or self.config.neighbours:
            return None
        places = [contrasts.index(name) for name in self.contrasts]
        kept = [group * len(contrasts) + place for group in range(3) for place in places]  # given, which, asked for
        return {**tensors, FIRST: tensors[FIRST][:, kept].contiguous()}

    def optimizers(self) -> dict[str, Optimizer]:
        """AdamW."""
        return {"G": AdamW(self.nets.parameters(), lr=self.config.learning_rate, weight_decay=1e-4, fused=True)}

    def lr_factor(self, player: str, progress: Progress) -> float:
        """A cosine from one to zero."""
        return 0.5 * (1 + torch.cos(torch.tensor(torch.pi * progress.fraction)).item())

    def predict(self, y: Tensor, is_source: Tensor, is_target: Tensor) -> Tensor:
        """The estimate x̂ in [-1, 1].

        Args:
            y: sources, with their neighbours where there are some, 0 where not given.
            is_source: (B, K) bool.
            is_target: (B, K) bool, one true a row.

        Returns:
            (B, 1, *S).
        """
        planes = task_planes(is_source, is_target, y).expand(-1, -1, *y.shape[2:])
        return torch.tanh(self.nets["unet"](torch.cat([y, planes], dim=1)))

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """Draw a target and a subset of sources for each sample, then one L1 update."""
        images, available = batch["images"], batch["available"]
        is_source, is_target = draw_task(available, self.targets, self.contrasts, noise)
        x = (images * as_factors(is_target, images)).sum(1, keepdim=True)
        y = sources_of(batch, is_source)
        x_hat = self.predict(y, is_source, is_target)
        update("G", {"l1": (x_hat - x).abs().mean()})

    def translate(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """One forward pass for each window; nothing is drawn."""
        is_source, is_target = self.task(batch["available"], target)
        y = sources_of(batch, is_source)
        return Made(
            windows.map(lambda y: self.predict(y, is_source.expand(len(y), -1), is_target.expand(len(y), -1)), y)
        )
