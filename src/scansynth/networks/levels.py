"""Levels of a U-Net: what each layer reads and gives, and the walk through them that keeps features for the way up.

On the way down every level has some blocks, and a layer before the next level halves the map. The way up has blocks
that read, beside what comes from below, a map that was kept on the way down, the last one first; a layer before the
next level doubles the map (Ronneberger et al. 2015; DDPM, appendix B).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scansynth.errors import InputError

Resample = Literal["down", "up"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A block, or what changes the size of the map."""

    level: int
    """Level n is 2^n smaller than the input; the bottleneck has the number after the last."""
    block: int = 0
    """Number among the blocks of its level, on its way."""
    reads: int
    """Channels of its input."""
    gives: int
    """Channels of its output."""
    skip: int = 0
    """How many of those that it reads were kept on the way down."""
    kept: bool = False
    """Whether the way up reads its output."""
    resample: Resample | None = None
    """None: it is a block."""


@dataclass(frozen=True)
class Levels:
    """The layers of a U-Net in their order."""

    down: tuple[Layer, ...]
    bottleneck: tuple[Layer, Layer]
    up: tuple[Layer, ...]
    keeps_input: bool
    """Whether the way up reads also what the first layer reads."""

    @property
    def gives(self) -> int:
        """Channels that come out."""
        return self.up[-1].gives


def plan_levels(first: int, widths: Sequence[int], blocks: int, *, keeps: Literal["all", "blocks"] = "all") -> Levels:
    """The layers of a U-Net.

    Args:
        first: channels of the features that the first layer reads.
        widths: of the levels.
        blocks: blocks a level.
        keeps: what the way up reads: "all" layers of the way down and what the first one reads, with one block more a
            level than the way down has (DDPM, NCSN++), or "blocks" alone, with as many.
    """
    keeps_all = keeps == "all"
    width, down, kept = first, [], [first] if keeps_all else []
    for level, wide in enumerate(widths):
        if level:
            down.append(Layer(level=level - 1, reads=width, gives=width, kept=keeps_all, resample="down"))
        for block in range(blocks):
            down.append(Layer(level=level, block=block, reads=width, gives=wide, kept=True))
            width = wide
    kept += [layer.gives for layer in down if layer.kept]
    bottleneck = Layer(level=len(widths), reads=width, gives=width)
    up = []
    for level in reversed(range(len(widths))):
        for block in range(blocks + keeps_all):
            skip = kept.pop()
            up.append(Layer(level=level, block=block, reads=width + skip, gives=widths[level], skip=skip))
            width = widths[level]
        if level:
            up.append(Layer(level=level, reads=width, gives=width, resample="up"))
    assert not kept
    return Levels(tuple(down), (bottleneck, bottleneck), tuple(up), keeps_all)


def walk(
    h: Tensor, levels: Levels, apply: Callable[[Layer, Tensor], Tensor], keep: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Features through all layers.

    Args:
        h: what the first layer reads, (B, first, *S).
        levels: the layers.
        apply: a layer and what it reads, (B, reads, *S) → (B, gives, *S'). It is called in the order of the layers: way
            down, bottleneck, way up.
        keep: what is kept of a layer's output; None: the output itself.

    Returns:
        (B, gives, *S).
    """
    kept = [h] if levels.keeps_input else []
    for layer in (*levels.down, *levels.bottleneck, *levels.up):
        if layer.skip:
            h = torch.cat([h, kept.pop()], dim=1)
        h = apply(layer, h)
        if layer.kept:
            kept.append(h if keep is None else keep(h))
    return h


def check_attention(asked: Sequence[int], levels: int) -> None:
    """Of levels that shall have attention.

    Raises:
        InputError: if one of them is not there.
    """
    if missing := [level for level in asked if not 0 <= level < levels]:
        raise InputError(f"U-Net: no attention level {missing[0]}: {levels} multipliers give levels 0 to {levels - 1}")
