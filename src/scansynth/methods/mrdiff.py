"""MRDiff: several contrasts to one by diffusion, whose features must explain the sources by MR physics.

Source: Shin et al., "Physics-driven Signal Regularization in Diffusion Models for Multi-contrast MR Image Synthesis".

Symbol       | meaning
------------ | -------
x_0, x_t     | target image, clean and at time t, (B, 1, H, W)
y            | sources, (B, K, H, W): 0 where a contrast is the target, unavailable or left out; E sees their n
             | neighbours on each side, too, which D need not rebuild
E, D, G      | encoder, decoder, generator
I, M         | quantitative maps of features, and the signals that follow from them
e_t          | E(x_t, y, t), (B, 4c, H/2, W/2): sub-bands of c channels
h_t          | T1, T2 and S0, c channels each, (B, c, H, W)
N            | noisy versions of one x_0

Equation                     | here
---------------------------- | ----
2: x_t from x_0              | `gaussian.q_sample`
3: L_G; 8: L_D; 10: L_CCT    | `training_step`
4: L_D without M             | `decoder="plain"`
5: h_t = Conv(IWT(e_t))      | `networks.mrdiff.QuantitativeMaps`
6: the signal                | `signals`, `physics/scans.py`, `physics/signal.py`
7: M                         | `networks.mrdiff.Modulation`
9: mean of N features        | `training_step`
11: the total                | `training_step`
Consistency distillation     | `diffusion.distillation`, where `distilled`

# Paper: ᾱ_t is printed as a product up to T. Here: up to t, because only that is the forward process.
# Paper: gives no shapes. Here: E gives 4c channels at half the size; D and G are shallow, D sees M alone and G e_t
# alone, because what leaks past the physics leaves L_D nothing to constrain.
# Paper: two fixed sources. Here: any subset, of which D rebuilds those that are given; planes tell E which they are.
# Paper: schedule and sampler are not named. Here: β from 1e-4 to 0.02, and DDIM with η = 0.
# Paper: Eq. 6 as it stands. Here: over the signal of typical tissue under the same TR and TE, because images are scaled
# to [−1, 1] one by one and the TR of an MP-RAGE alone makes the spin-echo signal a hundred times smaller.
# Paper: D rebuilds the sources by convolutions around the signals of c channels. Two sources determine no three maps,
# and the convolutions can explain anything. Here: so by default; a setting (`rebuilds`) rebuilds the target as well, in
# training, by nothing but the signal of one T1, T2 and S0 a voxel and a gain a slice.
# Paper: nothing of the grid that the inverse transform leaves. Here: so, too; a setting lets a convolution reach across
# it (`smooth_grid`), which did not weaken it in short trainings.
# Paper: the spin-echo equation for all, MP-RAGE and fat saturation included. Here: that is the default; the equation of
# a contrast can be named (`equations`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from scansynth.diffusion.distillation import consistency, few_times
from scansynth.diffusion.gaussian import q_sample
from scansynth.diffusion.samplers import SAMPLERS, Denoise, SamplerName, Spacing, times
from scansynth.diffusion.schedule import make_schedule
from scansynth.diffusion.windows import Windows
from scansynth.errors import InputError
from scansynth.method import Batch, Made, Progress, Update
from scansynth.methods.any_to_any import as_factors, draw_task, task_planes, with_neighbours
from scansynth.methods.distillable import Distillable
from scansynth.needs import Needs
from scansynth.networks.lagging import Lagging
from scansynth.networks.mrdiff import T1_START, T2_START, FromBands, Modulation, QuantitativeMaps
from scansynth.networks.unet import UNet
from scansynth.noise import Noise
from scansynth.physics.acquisition import SequenceName
from scansynth.physics.scans import check_once, equations_of, relative_signals
from scansynth.physics.wavelet import dwt
from scansynth.ranges import Count, Natural, Weight
from scansynth.units import Slices

LEAST_CONTRASTS = 3
"""That determine T1, T2 and S0 of a voxel."""
FOREGROUND = 1 / 8
"""Of a slice's mean brightness over its contrasts, above which a voxel shows tissue."""
LEVEL_WEIGHT = 0.01
"""Of the loss that keeps the level of T1 and T2 at typical tissue's, which gains leave open (`explained`)."""


@dataclass(frozen=True, kw_only=True)
class MrDiffConfig:
    """Settings of MRDiff; the defaults are the paper's, or settled where it is silent."""

    channels: Count = 128
    """Base width of the encoder."""
    multipliers: tuple[Count, ...] = (1, 1, 2, 3, 4)
    """Width of each level over the base width; the first is at half the image's size."""
    blocks: Count = 2
    """Residual blocks a level."""
    attention_levels: tuple[Natural, ...] = (3, 4)
    """Levels with self-attention."""
    features: Count = 32
    """c: channels of each quantitative map."""
    smooth_grid: bool = False
    """G ends in a residual 3×3 convolution, across the squares of 2×2 that the inverse wavelet transform makes."""
    steps: Count = 1000
    """T, the steps of the forward process."""
    sampler: SamplerName = "ddim"
    """Implicit with η = 0, ancestral, or DPM-Solver++(2M), which keeps most of the texture in few steps."""
    sampling_steps: Count = 50
    """Steps of sampling."""
    spacing: Spacing = "even"
    """How the times of sampling lie: evenly, more of them where little noise is left, or evenly in log-SNR."""
    decoder: Literal["physics", "plain", "none"] = "physics"
    """What D reads: the signals M (Eq. 8), the features e_t (Eq. 4), or there is no D (Fig. 4)."""
    decoder_weight: Weight = 1.0
    """λ2 of L_D."""
    rebuilds: Literal["sources", "all"] = "sources"
    """What D rebuilds in training: the sources that are given, by convolutions around the signals of c channels; or all
    contrasts of a sample, the target among them, each as a gain times the signal of one T1, T2 and S0 a voxel. Three
    contrasts of different TR and TE then determine the maps; translation reads no target in either case."""
    consistency_weight: Weight = 0.01
    """λ3 of L_CCT."""
    copies: Count = 3
    """N: noisy versions of each image."""
    equations: tuple[tuple[str, SequenceName], ...] = ()
    """Contrasts whose signal follows another equation than the spin echo's."""
    targets: tuple[str, ...] = ()
    """Contrasts to make; empty for every contrast of the run in turn."""
    neighbours: Natural = 0
    """Slices on each side of each source that are given with it, as further channels (2.5D)."""
    learning_rate: Weight = 2e-4
    """Adam's learning rate."""
    distilled: Natural = 0
    """Network calls of a draw, of a run that is distilled from a trained one (scansynth distill), whatever sampler and
    steps say; E and G alone then learn. 0: it is not."""

    def __post_init__(self):
        if self.copies < 1:
            raise InputError(f"copies {self.copies}: at least 1")
        if self.rebuilds == "all" and self.decoder != "physics":
            raise InputError(
                f"rebuilds all explains every contrast by its signal, and decoder {self.decoder} has none: take the "
                "decoder physics, or rebuild the sources"
            )
        check_once(self.equations)

    @classmethod
    def tiny(cls) -> "MrDiffConfig":
        """Networks that train in seconds, for tests."""
        return cls(
            channels=8, multipliers=(1, 2), blocks=1, attention_levels=(), features=4, steps=40, sampling_steps=4,
            learning_rate=1e-3,
        )  # fmt: skip


class MrDiff(Distillable):
    """G(E(x_t, y, t)) estimates x_0; D rebuilds y from the signals of E's features under the sources' TR and TE."""

    Config = MrDiffConfig
    name = "mrdiff"

    def __init__(self, config: MrDiffConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        if unknown := [name for name, _ in config.equations if name not in self.contrasts]:
            raise InputError(f"mrdiff: equations name {unknown[0]!r}, which is not among {', '.join(self.contrasts)}")
        if "CT" in self.contrasts:
            raise InputError("mrdiff explains its contrasts by MR physics: leave CT out")
        count = len(self.contrasts)
        if config.rebuilds == "all" and count < LEAST_CONTRASTS:
            raise InputError(
                f"mrdiff: {' and '.join(self.contrasts)} cannot determine three maps (T1, T2 and S0): name a third "
                "contrast with --contrasts, or train with --settings.rebuilds sources"
            )
        self.schedule = make_schedule("linear", config.steps)
        self.path = times(self.schedule, config.sampling_steps, spacing=config.spacing)
        if config.distilled:
            self.path = few_times(self.schedule, config.distilled)
        encoder = UNet(
            2,
            # Sub-bands of x_t and y, with neighbours, and planes that say which are given and asked for.
            4 * (1 + count * (1 + 2 * config.neighbours)) + 2 * count,
            4 * config.features,
            channels=config.channels,
            multipliers=config.multipliers,
            blocks=config.blocks,
            attention_levels=config.attention_levels,
            bottleneck_attention=bool(config.attention_levels),
            time_width=4 * config.channels,
        )
        generator = FromBands(4 * config.features, config.channels, 1, smooth_grid=config.smooth_grid)
        nets: dict[str, nn.Module] = {"E": encoder, "G": generator}
        if config.rebuilds == "all":
            nets["I"] = QuantitativeMaps(config.features, maps=1)
        elif config.decoder == "physics":
            nets |= {"I": QuantitativeMaps(config.features), "M": Modulation(count, config.features)}
        if config.decoder != "none" and config.rebuilds == "sources":
            width = 4 * config.features * (count if config.decoder == "physics" else 1)
            nets["D"] = FromBands(width, config.channels, count)
        self.nets = nn.ModuleDict(nets)
        self.equations = equations_of(config.equations, self.contrasts)
        self.averaged = tuple(nets)
        self.lagging = Lagging(self.nets)

    @classmethod
    def needs_of(cls, config: MrDiffConfig, contrasts: Sequence[str]) -> Needs:
        """Paired slices, half as large in the U-Net (DWT), and with the physics their acquisitions."""
        return Slices(
            size_multiple=2 ** len(config.multipliers),
            sequences=equations_of(config.equations, contrasts) if config.decoder == "physics" else None,
            neighbours=config.neighbours,
        )

    @property
    def sampling_steps(self) -> int:
        """Network calls that make one image."""
        return len(self.path)

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam."""
        return {"G": Adam(self.nets.parameters(), lr=self.config.learning_rate, fused=True)}

    def encode(self, x_t: Tensor, bands: Tensor, planes: Tensor, t: Tensor) -> Tensor:
        """e_t.

        Args:
            x_t: (B, 1, H, W).
            bands: DWT of the sources and their neighbours, (B, 4K (1 + 2n), H/2, W/2).
            planes: which contrasts are given and which is asked for, (B, 2K, 1, 1) of 0 and 1.
            t: (B,).

        Returns:
            (B, 4c, H/2, W/2).
        """
        planes = planes.expand(-1, -1, *bands.shape[2:])
        return self.nets["E"](torch.cat([dwt(x_t), bands, planes], dim=1), t)

    def signals(self, maps: tuple[Tensor, Tensor, Tensor], acquisition: Tensor, given: Tensor) -> Tensor:
        """The signals of the sources (Eq. 6, or the equation named for a contrast).

        Args:
            maps: T1 and T2 in seconds, and S0, (B, c, H, W) each.
            acquisition: TR, TE, TI in ms and flip angle in degrees, (B, K, 4).
            given: which contrasts are sources, (B, K) bool.

        Returns:
            Of the P sources in the order of `given.nonzero()`, (P, c, H, W), over the signal of tissue of T1 1 s, T2
            0.1 s and S0 1 under the same acquisition.
        """
        return relative_signals(maps, acquisition, given, self.equations)

    def explained(self, e: Tensor, images: Tensor, acquisition: Tensor, available: Tensor) -> dict[str, Tensor]:
        """L_D where all contrasts are rebuilt: each image is a gain times the signal of the maps, and nothing else.

        The gain is the least-squares one over the slice's foreground, in closed form. Gains of their own leave three
        numbers of a slice open where there are three contrasts: the scale of S0, and one that is added to all 1/T2 and
        one that moves all T1. So the geometric mean of T1 and of T2 over the foreground is kept at that of typical
        tissue (1 s, 0.1 s): the maps tell tissues apart, and their level is a convention.

        Args:
            e: features, (B, 4c, H/2, W/2).
            images: all contrasts, (B, K, H, W) in [−1, 1].
            acquisition: TR, TE, TI in ms and flip angle in degrees, (B, K, 4).
            available: (B, K) bool.
        """
        t1, t2, s0 = self.nets["I"](e)
        brightness = (images + 1) * as_factors(available, images)  # background is −1
        mean = brightness.mean(1, keepdim=True)
        shown = (mean > FOREGROUND * mean.mean((2, 3), keepdim=True)).to(images.dtype)  # (B, 1, H, W)
        signals = self.signals((t1, t2, s0), acquisition, available)
        scans = brightness[available][:, None]  # (P, 1, H, W), as the signals
        gains = least_squares_gains(signals, scans, shown[available.nonzero()[:, 0]])
        error = (gains * signals - scans).square().mean()
        voxels = shown.sum((2, 3)).clamp_min(1)
        off = [((one / start).log() * shown).sum((2, 3)) / voxels for one, start in ((t1, T1_START), (t2, T2_START))]
        level = torch.stack(off).square().sum(0).mean()
        return {"decoder": self.config.decoder_weight * error, "level": LEVEL_WEIGHT * level}

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """N noisy versions of each image at one time, then one update of all networks on Eq. 11."""
        images, available = batch["images"], batch["available"]
        is_source, is_target = draw_task(available, self.targets, self.contrasts, noise)
        x0 = (images * as_factors(is_target, images)).sum(1, keepdim=True)
        shown = with_neighbours(images, batch.get("neighbours"), is_source)
        y = shown[:, : len(self.contrasts)]
        planes = task_planes(is_source, is_target, images)
        if self.config.distilled:

            def of(method: MrDiff) -> Denoise:
                return lambda x_t, t: method.nets["G"](method.encode(x_t, dwt(shown), planes, t))

            teacher = of(self.teacher)
            update("G", self.distillation(of(self), teacher=teacher, x0=x0, noise=noise, progress=progress))
            return
        copies = self.config.copies
        t = noise.integers("t", 1, self.config.steps + 1)
        x_t = torch.cat(
            [q_sample(self.schedule, x0, t, noise.normal(f"eps {number}", x0.shape[1:])) for number in range(copies)]
        )

        def repeated(one: Tensor) -> Tensor:
            return one.repeat(copies, *[1] * (one.ndim - 1))

        e = self.encode(x_t, repeated(dwt(shown)), repeated(planes), repeated(t))
        losses = {"generator": (self.nets["G"](e) - repeated(x0)).square().mean()}  # Eq. 3
        if self.config.rebuilds == "all":
            losses |= self.explained(e, repeated(images), repeated(batch["acquisition"]), repeated(available))
        elif self.config.decoder != "none":
            given = repeated(is_source)
            features = e
            if self.config.decoder == "physics":
                signals = self.signals(self.nets["I"](e), repeated(batch["acquisition"]), given)
                features = self.nets["M"](signals, given)
            # Eq. 8 (Eq. 4 without the physics), over the sources that are given.
            error = (self.nets["D"](features) - repeated(y)).square() * as_factors(given, images)
            count = as_factors(given, images).sum() * y.shape[2] * y.shape[3]
            losses["decoder"] = self.config.decoder_weight * error.sum() / count
        if self.config.consistency_weight:
            mean = e.unflatten(0, (copies, -1)).mean(0)  # Eq. 9
            losses["consistency"] = self.config.consistency_weight * (e - repeated(mean)).square().mean()  # Eq. 10
        update("G", losses)

    def sources(self, batch: Batch, target: str) -> tuple[Tensor, Tensor]:
        """What the encoder is given of a subject: DWT of its sources with their neighbours, (1, 4K (1 + 2n), X/2, Y/2,
        Z), and planes (1, 2K, 1, 1).

        Raises:
            InputError: if there is no source.
        """
        images, available = batch["images"], batch["available"]
        is_source, is_target = self.task(available, target)
        y = with_neighbours(images, batch.get("neighbours"), is_source)
        bands = dwt(y[0].movedim(3, 0)).movedim(0, 3)[None]
        return bands, task_planes(is_source, is_target, images)[..., 0]

    @property
    def gives_mean(self) -> bool:
        """By x̂_0, whose one call makes a draw where it is distilled."""
        return not self.config.distilled

    @property
    def has_maps(self) -> bool:
        """Where the decoder is physics: its features are T1, T2 and S0."""
        return self.config.decoder == "physics"

    def mean(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """x̂_0 at t = T."""
        return self.translate(batch, target, windows, noise, path=self.path[:1])

    def translate(
        self, batch: Batch, target: str, windows: Windows, noise: Noise, *, path: Sequence[int] | None = None
    ) -> Made:
        """Sample x_0 slice by slice, by E and G alone, by the times of a path, or as it is set."""
        images = batch["images"]
        bands, planes = self.sources(batch, target)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            def window(x_t: Tensor, bands: Tensor) -> Tensor:
                count = len(x_t)
                return self.nets["G"](self.encode(x_t, bands, planes.expand(count, -1, -1, -1), t[:1].expand(count)))

            return windows.map(window, x_t, bands).clamp(-1, 1)

        x_T = noise.normal("x_T", (1, *images.shape[2:]))
        sampler = consistency if self.config.distilled else SAMPLERS[self.config.sampler]
        image = sampler(self.schedule, denoise, x_T.to(images), path or self.path, noise).clamp(-1, 1)
        if not self.has_maps:
            return Made(image)
        return Made(image, maps=lambda windows: self.hypothetical_maps(image, bands, planes, windows, noise))

    def hypothetical_maps(
        self, image: Tensor, bands: Tensor, planes: Tensor, windows: Windows, noise: Noise
    ) -> Mapping[str, Tensor]:
        """T1, T2 and S0 of the features (Eq. 5) at the last time of sampling, each the mean of its c channels."""
        t = torch.tensor([self.path[-1]], device=image.device)
        x_t = q_sample(self.schedule, image, t, noise.normal("maps", image.shape[1:]).to(image))

        def window(x_t: Tensor, bands: Tensor) -> Tensor:
            count = len(x_t)
            e = self.encode(x_t, bands, planes.expand(count, -1, -1, -1), t.expand(count))
            return torch.cat([found.mean(1, keepdim=True) for found in self.nets["I"](e)], dim=1)

        t1, t2, s0 = windows.map(window, x_t, bands).chunk(3, dim=1)
        return {"T1 (s)": t1, "T2 (s)": t2, "S0 (arbitrary)": s0}


def least_squares_gains(signals: Tensor, scans: Tensor, shown: Tensor) -> Tensor:
    """The gain of each scan that brings its signal closest to it, Σ s·y / Σ s² over what is shown.

    Args:
        signals: s, (P, 1, H, W).
        scans: y, brightness above the background's, (P, 1, H, W).
        shown: voxels that count, (P, 1, H, W) of 0 and 1.

    Returns:
        (P, 1, 1, 1); 0 where nothing is shown.
    """
    products = (signals * scans * shown).sum((1, 2, 3), keepdim=True)
    squares = (signals.square() * shown).sum((1, 2, 3), keepdim=True)
    return products / squares.clamp_min(torch.finfo(squares.dtype).tiny)
