"""cDPM: whole 3D brain MRIs from a 2D diffusion model on sets of slices; also as a translator.

Peng et al., "Generating Realistic Brain MRIs via a Conditional Diffusion Probabilistic
Model", MICCAI 2023.

Symbol   | meaning
-------- | -------
C, P     | index sets of the condition slices and of the target slices, together at most τ_max
X^C      | condition slices, clean at every step
X^P_t    | target slices at time t
X̃_t     | both: one set of slices, (B, n, 1, H, W)
c        | labels of the subject (age, sex), 0 where unknown; a part of the time embedding
y        | translator: sources of the same slices, 0 where a contrast is the target, unavailable or left out
ε, ε_θ   | noise, and the network's estimate of it

Equation                                      | here
--------------------------------------------- | ----
1, 2: q(X^P_t given X^P_0)                    | `gaussian.q_sample`
4, 5: p_θ(X^P_{t−1} given X̃_t)               | `Cdpm.sample`
6: loss over the target slices                | `Cdpm.training_step`, `target_mean`
section 2.2: drawing C and P                  | `draw_index_sets`, `draw_training_sets`
section 2.3: network                          | `networks/slice_unet.py`
section 3.2: stages                           | `diffusion/stages.py`

# Paper: C and P are "arbitrary". Here: groups of slices with random spacing, as in Harvey et al., "Flexible Diffusion
# Modeling of Long Videos", because the paper wants short- and long-range dependence and names no distribution.
# That resembles a stage of the plan once in a thousand times. A setting draws a share of the sets from the plan itself,
# and another weights the times by Min-SNR-γ (small recipes).
# Paper: schedule, width and depth are not stated. Here: T = 1000, linear, and a U-Net that one GPU trains.
# Paper: no average of the weights is mentioned. Here: synthesis uses one, as all diffusion models of this package do.
# Paper: volumes of no particular subject. Here: a setting gives the generator labels c, dropped at random in training,
# so that it makes volumes of a given age or class and of none.
# Paper: an attention network, nothing of its levels. Here: as DDPM has it, at coarse ones; a setting lets slices attend
# to each other at finer ones, too, so that neighbours fit each other after far fewer steps (small recipes).
# Paper: a U-Net on the slice's pixels. Here: a setting makes squares of pixels channels first, so that two cores train
# on more than twice as many slices in the same time (small recipes).
# Paper: the error of the noise. Here: that of the velocity, where the network gives it (`output_error` says why).
# Paper: generates only. Here: a setting makes it a translator, because MRDiff's paper compares with it as one.

What depends on the condition slices alone could be computed once a stage. That is the first convolution of X^C (and of
y): a thousandth of the work. From the first residual block on their features depend on the time t, and from the first
attention level on the noisy targets too, so all else is computed anew at every step.

In the contract of a method a window of cDPM is a set of slices. `translate` and `generate` make a volume by the plan of
stages over the slices that they are given; `SetWindows` passes each set on whole, since its slices cannot be parted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from scansynth.data.samples import LABEL_WIDTH
from scansynth.diffusion.gaussian import q_sample
from scansynth.diffusion.parameterisation import (
    Weighting,
    eps_from_output,
    min_snr_weight,
    output_error,
    x0_from_eps,
)
from scansynth.diffusion.samplers import SAMPLERS, SamplerName, Spacing, times
from scansynth.diffusion.schedule import make_schedule
from scansynth.diffusion.stages import Stage, autoregressive_plan, check_plan, hierarchical_plan, in_stages
from scansynth.diffusion.windows import Windows, WindowsOfVolume
from scansynth.errors import InputError
from scansynth.method import Batch, Made, Progress, Update
from scansynth.methods.any_to_any import AnyToAny, as_factors, draw_task, task_planes
from scansynth.needs import Needs
from scansynth.networks.slice_unet import SliceUNet
from scansynth.noise import Noise
from scansynth.ranges import Count, Natural, Share, Weight
from scansynth.units import SliceSets

EMPTY = 0.1
"""Least share of training samples without a condition slice: what the first stage of a plan needs."""

DROPPED = 0.1
"""Share of training samples without any label, as classifier-free guidance has it (Ho & Salimans 2022); of the others,
each label is left out as often by itself. So the labels of a volume may be given in part, or not at all."""


@dataclass(frozen=True, kw_only=True)
class CdpmConfig:
    """Settings of cDPM; the defaults are the paper's, or settled where it is silent."""

    channels: Count = 64
    """Base width of the U-Net."""
    multipliers: tuple[Count, ...] = (1, 2, 3, 4)
    """Width of each level over the base width."""
    blocks: Count = 2
    """Residual blocks a level."""
    attention_levels: tuple[Natural, ...] = (2, 3)
    """Levels with attention across the slices of a set, and inside each; the bottleneck has it, too."""
    across_levels: tuple[Natural, ...] = ()
    """Levels with attention across the slices alone: finer ones, where neighbours learn sooner to fit each other."""
    space_to_depth: Count = 1
    """Squares of so many pixels a side are channels of the network: no level computes at the slice's full size."""
    absolute: bool = True
    """Whether slices know their position in the volume; otherwise only the differences of their indices are known."""
    largest: Count = 20
    """τ_max: slices of a set."""
    translator: bool = False
    """Make a contrast from any subset of the others (translate), and not volumes without a source (generate)."""
    targets: tuple[str, ...] = ()
    """Translator: contrasts to make; empty for every contrast of the run in turn."""
    labels: tuple[str, ...] = ()
    """Generator: labels of subjects that volumes are made by (columns of participants.tsv, as age and sex)."""
    steps: Count = 1000
    """T, the steps of the forward process; β from 10⁻⁴ to 0.02, scaled by 1000/T."""
    output: Literal["noise", "velocity"] = "noise"
    """What the network gives: ε_θ, or the velocity that it follows from, which learns in far fewer steps; Eq. 6 is then
    the velocity's error."""
    weighting: Weighting = "uniform"
    """How much each time counts in Eq. 6: all the same, or by Min-SNR-γ with γ = 5."""
    plan_share: Share = 0.0
    """Share of the training sets that are stages of the plan, each as likely, not sets of any slices; in [0, 1]."""
    plan: Literal["autoregressive", "hierarchical"] = "autoregressive"
    """Stages from the first slice up, or slices all over the volume first and then those between."""
    stage: Count = 10
    """Slices that a stage makes."""
    sampler: SamplerName = "ancestral"
    """Ancestral, or implicit with η = 0."""
    sampling_steps: Count = 1000
    """Steps of sampling, in each stage."""
    spacing: Spacing = "even"
    """How the times of sampling lie: evenly, more of them where little noise is left, or evenly in log-SNR."""
    learning_rate: Weight = 1e-4
    """AdamW's learning rate."""

    def __post_init__(self):
        if not 4 <= 2 * self.stage <= self.largest:
            raise InputError(
                f"stages of {self.stage} slices, given as many, with sets of {self.largest}: stage must be at least 2 "
                "and at most half of largest"
            )
        if not 0 <= self.plan_share <= 1:
            raise InputError(f"plan_share {self.plan_share}: a share of the training sets, in [0, 1]")
        if self.labels and self.translator:
            raise InputError("labels are for generating, and a translator has sources: leave one of the two out")
        if len(set(self.labels)) < len(self.labels):
            raise InputError(f"labels {', '.join(self.labels)}: name each one once")

    @classmethod
    def tiny(cls) -> "CdpmConfig":
        """A network that trains in seconds, for tests: a translator, as the contract tests want one."""
        return cls(
            channels=8, multipliers=(1, 2), blocks=1, attention_levels=(1,), largest=6, stage=3, translator=True,
            steps=40, sampling_steps=3, learning_rate=1e-3,
        )  # fmt: skip


class Cdpm(AnyToAny):
    """p_θ(X^P_s given X^P_t, X^C, C, P, t), and, as a translator, y."""

    Config = CdpmConfig
    name = "cdpm"
    not_distilled = "it makes a volume of sets of slices, by a plan of stages"
    averaged = ("unet",)
    plans = ("autoregressive", "hierarchical")

    def __init__(self, config: CdpmConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        self.schedule = make_schedule("linear", config.steps)
        self.path = times(self.schedule, config.sampling_steps, spacing=config.spacing)
        unet = SliceUNet(
            2 + 3 * len(self.contrasts) * config.translator,  # image, mask; sources, and which are given and asked for
            1,
            channels=config.channels,
            multipliers=config.multipliers,
            blocks=config.blocks,
            attention_levels=config.attention_levels,
            absolute=config.absolute,
            labels=LABEL_WIDTH * len(config.labels),
            across_levels=config.across_levels,
            space_to_depth=config.space_to_depth,
        )
        self.nets = nn.ModuleDict({"unet": unet})

    @classmethod
    def needs_of(cls, config: CdpmConfig, contrasts: Sequence[str]) -> Needs:
        """Sets of slices."""
        return SliceSets(
            config.largest,
            partial(draw_training_sets, config=config),
            lambda depth: len(stages_of(config, depth)),
            size_multiple=config.space_to_depth * 2 ** (len(config.multipliers) - 1),
            generates=not config.translator,
            labels=config.labels,
        )

    @property
    def sampling_steps(self) -> int:
        """Network calls that make the slices of one stage."""
        return len(self.path)

    def optimizers(self) -> dict[str, Optimizer]:
        """AdamW."""
        return {"G": AdamW(self.nets.parameters(), lr=self.config.learning_rate, fused=True)}

    def plan(self, depth: int, name: str | None = None) -> list[Stage]:
        """The stages of a volume of so many slices, by the plan of that name or the configured one."""
        return stages_of(self.config, depth, name)

    def stages(self, depth: int, plan: str | None = None) -> tuple[int, ...]:
        """Which stage makes each slice."""
        made_by = {z: number for number, stage in enumerate(self.plan(depth, plan)) for z in stage.target}
        return tuple(made_by[z] for z in range(depth))

    def predict(
        self,
        x: Tensor,
        is_target: Tensor,
        y: Tensor,
        *,
        t: Tensor,
        index: Tensor,
        depth: Tensor,
        valid: Tensor,
        labels: Tensor | None,
    ) -> Tensor:
        """What the network gives.

        Args:
            x: X̃_t, (B, 1, n, H, W).
            is_target: which slices are noisy, (B, n) bool.
            y: sources and the planes that say which are given and asked for, (B, 3K, n, H, W); no channel without.
            t: (B,).
            index: of the slices, (B, n).
            depth: of the volumes, (B,).
            valid: which slices are no padding, (B, n) bool.
            labels: c, (B, D); None without.

        Returns:
            (B, 1, n, H, W).
        """
        mask = is_target[:, None, :, None, None].to(x.dtype).expand_as(x)
        slices = torch.cat([x, mask, y], dim=1).transpose(1, 2)
        return self.nets["unet"](slices, t, index, depth, valid=valid, labels=labels).transpose(1, 2)

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """Draw a time, noise and, as a translator, target and sources for each set, then one update on Eq. 6."""
        images, available = batch["slices"].transpose(1, 2), batch["available"]  # (B, K, n, H, W)
        is_target = batch["is_target"]
        x0, y = images, images[:, :0]
        if self.config.translator:
            is_source, is_asked = draw_task(available, self.targets, self.contrasts, noise)
            x0 = (images * as_factors(is_asked, images)).sum(1, keepdim=True)
            y = with_planes(images * as_factors(is_source, images), task_planes(is_source, is_asked, images))
        t = noise.integers("t", 1, self.config.steps + 1)
        eps = noise.normal("eps", x0.shape[1:])
        x_t = q_sample(self.schedule, x0, t, eps)
        x = torch.where(is_target[:, None, :, None, None], x_t, x0)
        labels = drop_labels(batch["labels"], noise) if self.config.labels else None
        out = self.predict(
            x, is_target, y, t=t, index=batch["index"], depth=batch["depth"], valid=batch["valid"], labels=labels
        )
        eps_theta = eps_from_output(self.schedule, out, x_t, t, output=self.config.output)
        square = output_error(self.schedule, eps_theta, eps, t, output=self.config.output)
        if self.config.weighting == "min-snr":
            square = square * min_snr_weight(self.schedule, square, t, output=self.config.output)
        update("G", {"noise": target_mean(square, is_target)})

    def sample(
        self,
        y: Tensor,
        planes: Tensor,
        index: Tensor,
        *,
        depth: Tensor,
        plan: Sequence[Stage],
        windows: Windows,
        noise: Noise,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Eq. 5, stage by stage; memory is that of one stage beside the volumes.

        Args:
            y: sources, (1, K, X, Y, Z); no channel without.
            planes: which are given and asked for, (1, 2K, 1, 1, 1).
            index: which slices of the whole volume these are, (1, Z).
            depth: of the whole volume, (1,).
            plan: stages, whose numbers are places among these slices.
            windows: tell of the network calls.
            noise: of the volume.
            labels: c, (1, D); None without, or if nothing is known.

        Returns:
            (1, 1, X, Y, Z).
        """
        check_plan(plan, y.shape[4], self.config.largest)
        sampler = SAMPLERS[self.config.sampler]

        def stage_slices(x_T: Tensor, known: Tensor, stage: Stage, noise: Noise) -> Tensor:
            order = [*stage.condition, *stage.target]
            given = len(stage.condition)
            is_target = (torch.arange(len(order), device=y.device) >= given)[None]
            y_set = with_planes(y[..., order].movedim(4, 2), planes)

            def denoise(x_t: Tensor, t: Tensor) -> Tensor:
                """X̂^P_0, clipped."""

                def network(x: Tensor) -> Tensor:
                    valid = torch.ones_like(is_target)
                    out = self.predict(
                        x.movedim(4, 2),
                        is_target,
                        y_set,
                        t=t,
                        index=index[:, order],
                        depth=depth,
                        valid=valid,
                        labels=labels,
                    )
                    return out.movedim(2, 4)

                out = windows.map(network, torch.cat([known, x_t], dim=4))[..., given:]
                eps_theta = eps_from_output(self.schedule, out, x_t, t, output=self.config.output)
                return x0_from_eps(self.schedule, x_t, eps_theta, t).clamp(-1, 1)

            return sampler(self.schedule, denoise, x_T, self.path, noise)

        return in_stages(plan, y.shape[2:], stage_slices, noise).clamp(-1, 1)

    def translate(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """Make the slices of the target stage by stage, each set with the sources of its slices."""
        if not self.config.translator:
            raise InputError("cdpm was trained without sources: generate with it, or train a recipe that translates")
        images, available = batch["images"], batch["available"]
        is_source, is_asked = self.task(available, target)
        count, device = images.shape[4], images.device
        index = batch.get("index", torch.arange(count, device=device)[None])
        depth = batch.get("depth", torch.tensor([count], device=device))
        y, planes = images * as_factors(is_source, images), task_planes(is_source, is_asked, images)
        return Made(self.sample(y, planes, index, depth=depth, plan=self.plan(count), windows=windows, noise=noise))

    def calls(self, shape: tuple[int, int, int], windows: WindowsOfVolume, plan: str | None = None) -> int:
        """All steps for each stage of the plan."""
        return self.sampling_steps * len(self.plan(shape[2], plan))

    def generate(
        self,
        shape: tuple[int, int, int],
        windows: Windows,
        noise: Noise,
        *,
        plan: str | Sequence[Stage] | None = None,
        labels: Tensor | None = None,
    ) -> Tensor:
        """Make a volume without a source, by the configured plan, the one of that name, or these stages."""
        if self.config.translator:
            raise InputError("cdpm was trained with sources: translate with it, or train a recipe that generates")
        if labels is not None and labels.shape != (1, LABEL_WIDTH * len(self.config.labels)):
            known = ", ".join(self.config.labels) or "none"
            raise InputError(
                f"labels of shape {tuple(labels.shape)}: encode those that cdpm was trained with ({known})"
            )
        c = labels.to(noise.device) if labels is not None and self.config.labels else None
        nothing = torch.zeros(1, 0, *shape, device=noise.device)
        index = torch.arange(shape[2], device=noise.device)[None]
        depth = torch.tensor([shape[2]], device=noise.device)
        plan = self.plan(shape[2], plan) if plan is None or isinstance(plan, str) else plan
        return self.sample(
            nothing, nothing[:, :, :1, :1, :1], index, depth=depth, plan=plan, windows=windows, noise=noise, labels=c
        )


def stages_of(config: CdpmConfig, depth: int, name: str | None = None) -> list[Stage]:
    """The stages of a volume of so many slices, by the plan of that name or the configured one."""
    if (name or config.plan) == "hierarchical":
        return hierarchical_plan(depth, config.stage, config.largest)
    return autoregressive_plan(depth, config.stage)


def with_planes(y: Tensor, planes: Tensor) -> Tensor:
    """Sources (B, K, n, H, W) and planes (B, 2K, 1, 1, 1) as channels, (B, 3K, n, H, W)."""
    return torch.cat([y, planes.to(y.dtype).expand(-1, -1, *y.shape[2:])], dim=1)


def drop_labels(labels: Tensor, noise: Noise) -> Tensor:
    """Labels (B, D) with those at 0, as if unknown, that `DROPPED` takes away."""
    each = labels.unflatten(1, (-1, LABEL_WIDTH))
    kept = noise.uniform("labels", (1 + each.shape[1],)) >= DROPPED  # of the sample, then of each label
    return (each * (kept[:, :1] & kept[:, 1:])[..., None]).flatten(1)


def target_mean(values: Tensor, is_target: Tensor) -> Tensor:
    """Mean over each set's target slices (B, n) of values (B, 1, n, H, W), then over the sets."""
    by_slice = values.mean((1, 3, 4)) * is_target
    return (by_slice.sum(1) / is_target.sum(1)).mean()


def draw_training_sets(depth: int, generator: torch.Generator, config: CdpmConfig) -> tuple[Tensor, Tensor]:
    """Index sets C and P of a training sample: with the chance `plan_share` those of a stage, else any (section 2.2).

    Stages are those of a whole volume. A translator's begin where its sources show something, at other slices, with the
    same distances between them.

    Args:
        depth: slices of the volume.
        generator: random numbers.
        config: settings of the plan and of the sets.

    Returns:
        As `draw_index_sets`.
    """
    # Where no set is drawn from the plan no number is drawn for it: the sets are then those of before, bit for bit.
    if not config.plan_share or torch.rand((), generator=generator, dtype=torch.float64).item() >= config.plan_share:
        return draw_index_sets(depth, generator, config.largest)
    stages = stages_of(config, depth)
    stage = stages[int(torch.randint(len(stages), (), generator=generator))]
    index = sorted((*stage.condition, *stage.target))
    return torch.tensor(index), torch.tensor([z in stage.target for z in index])


def draw_index_sets(depth: int, generator: torch.Generator, largest: int) -> tuple[Tensor, Tensor]:
    """Index sets C and P (section 2.2).

    Their size is uniform in 1 … `largest` (at most the volume's slices). Groups of slices fill it: of a group the size
    is uniform, the spacing log-uniform from neighbours to the whole volume, the place uniform; a slice that is in the
    set already is left out. The first group is target; each other one is condition or target with even chances, in a
    share `EMPTY` of the sets always target.

    Args:
        depth: slices of the volume.
        generator: random numbers.
        largest: τ_max.

    Returns:
        Indices in rising order, (n,) int64, and which of them are in P, (n,) bool.
    """

    def uniform() -> float:
        return torch.rand((), generator=generator, dtype=torch.float64).item()

    size = 1 + int(uniform() * min(largest, depth))
    unconditional = uniform() < EMPTY
    drawn: dict[int, bool] = {}
    while len(drawn) < size:
        is_target = uniform() < 0.5 or unconditional or not drawn
        count = 1 + int(uniform() * (size - len(drawn)))
        spacing = ((depth - 1) / (count - 1)) ** uniform() if count > 1 else 0.0
        start = int(uniform() * (depth - round((count - 1) * spacing)))
        for number in range(count):
            drawn.setdefault(start + round(number * spacing), is_target)
    index = sorted(drawn)
    return torch.tensor(index), torch.tensor([drawn[z] for z in index])
