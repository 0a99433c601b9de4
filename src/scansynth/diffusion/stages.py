"""Stages: how a volume is made a few slices at a time, each stage given slices that earlier ones made.

A plan is data: a list of stages, each the slices that it is given and those that it makes. It says which dependence of
slices is modelled; the noise is that of the volume, so that two plans start from one noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from scansynth.errors import InputError
from scansynth.noise import Noise


@dataclass(frozen=True)
class Stage:
    """One run of a model on a set of slices."""

    condition: tuple[int, ...]
    """C: slices that are given; earlier stages made them."""
    target: tuple[int, ...]
    """P: slices that are made."""


def autoregressive_plan(depth: int, size: int = 10) -> list[Stage]:
    """`size` slices a stage from the first slice up, each stage given the ones of the stage before it.

    cDPM, section 3.2: 13 stages for 128 slices; the last makes 8.

    Args:
        depth: slices of the volume.
        size: slices that a stage makes.
    """
    stages = []
    for start in range(0, depth, size):
        condition = tuple(range(max(0, start - size), start))
        stages.append(Stage(condition, tuple(range(start, min(start + size, depth)))))
    return stages


def hierarchical_plan(depth: int, size: int = 10, largest: int = 20) -> list[Stage]:
    """`size` slices spread over the whole volume first, then the middles of the gaps, given the slices on both sides.

    Long-range structure is decided in one stage, where the autoregressive plan hands it on through all of them. It
    is one of the schemes that Harvey et al. ("Flexible Diffusion Modeling of Long Videos") compare.

    Args:
        depth: slices of the volume.
        size: slices that a stage makes at most, 2 or more.
        largest: slices that a stage makes and is given at most, 3 or more.
    """
    assert size >= 2, "the first pass makes the first and the last slice"
    assert largest >= 3, "a middle and its two neighbours are three slices"
    first = tuple(sorted({round(z) for z in torch.linspace(0, depth - 1, min(size, depth)).tolist()}))
    stages, known = [Stage((), first)], set(first)
    while len(known) < depth:
        borders = sorted(known)
        gaps = [(low, high) for low, high in pairwise(borders) if high > low + 1]
        condition: set[int] = set()
        target: list[int] = []
        for low, high in gaps:
            wanted = condition | {low, high}
            if target and (len(target) == size or len(target) + 1 + len(wanted) > largest):
                stages.append(Stage(tuple(sorted(condition)), tuple(target)))
                condition, target, wanted = set(), [], {low, high}
            condition = wanted
            target.append((low + high) // 2)
            known.add(target[-1])
        stages.append(Stage(tuple(sorted(condition)), tuple(target)))
    return stages


def check_plan(plan: Sequence[Stage], depth: int, largest: int) -> None:
    """Raise InputError unless every slice is made once, from slices that are known by then.

    Args:
        plan: the stages.
        depth: slices of the volume.
        largest: slices that a stage may make and be given.
    """
    known: set[int] = set()
    for number, stage in enumerate(plan, 1):
        if not stage.target:
            raise InputError(f"stage {number} of the plan makes no slice: leave it out")
        count = len(stage.condition) + len(stage.target)
        if count > largest:
            raise InputError(f"stage {number} of the plan has {count} slices, the networks take {largest}: split it")
        if unknown := set(stage.condition) - known:
            raise InputError(
                f"stage {number} of the plan is given slice {min(unknown)}, which no earlier stage makes: put its "
                "stage first"
            )
        if len(set(stage.condition)) < len(stage.condition):
            raise InputError(f"stage {number} of the plan is given a slice twice: name it once")
        for z in stage.target:
            if z in known:
                raise InputError(f"stage {number} of the plan makes slice {z} again: make every slice once")
            known.add(z)
    if known != set(range(depth)):
        wrong = min(known ^ set(range(depth)))
        fault = "lacks" if wrong in range(depth) else "makes"
        raise InputError(f"the plan {fault} slice {wrong}: it must make the slices 0 to {depth - 1}")


class StageNoise(Noise):
    """The noise of a whole volume, of which a stage gets that of its own slices.

    Args:
        noise: of the volume; one key.
        shape: of the volume, (X, Y, Z).
        slices: of the stage.
    """

    def __init__(self, noise: Noise, shape: Sequence[int], slices: Sequence[int]):
        super().__init__(noise.keys, noise.device)
        assert len(noise.keys) == 1, "stages are those of one volume"
        self.noise, self.shape, self.slices = noise, tuple(shape), list(slices)

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, (1, C, X, Y, n), `shape` being (C, X, Y, n)."""
        return self.noise.normal(name, (shape[0], *self.shape))[..., self.slices]


Sample = Callable[[Tensor, Tensor, Stage, Noise], Tensor]
"""From x_T (1, 1, X, Y, p) and the given slices (1, 1, X, Y, c) of a stage, with its noise, to x_0 (1, 1, X, Y, p)."""


def in_stages(plan: Sequence[Stage], shape: Sequence[int], sample: Sample, noise: Noise) -> Tensor:
    """Make a volume stage by stage.

    Only the slices of one stage go through `sample` at once; a slice that was made is not changed again.

    Args:
        plan: the stages (`check_plan`).
        shape: of the volume, (X, Y, Z).
        sample: makes the slices of a stage.
        noise: of the volume.

    Returns:
        (1, 1, X, Y, Z).
    """
    x_T = noise.normal("x_T", (1, *shape))
    volume = torch.zeros_like(x_T)
    for stage in plan:
        condition, target = list(stage.condition), list(stage.target)
        own = StageNoise(noise, shape, target)
        volume[..., target] = sample(x_T[..., target], volume[..., condition], stage, own)
    return volume
