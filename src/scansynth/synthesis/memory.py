"""How much memory a synthesis takes, before it takes it, and how many windows fit into what is allowed.

A part of the subject of one window is translated, and one of two, and every tensor that PyTorch makes on the way is
weighed as long as it lives. What one window more adds grows with their number; the rest does not.
"""

import logging
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scansynth.diffusion.windows import PatchWindows, SliceWindows, Tick, VolumeWindows
from scansynth.errors import InputError, out_of_memory, why
from scansynth.method import Method
from scansynth.noise import Noise
from scansynth.ranges import gigabytes
from scansynth.synthesis.sampling import Sampling
from scansynth.training.costs import resident_gb
from scansynth.training.memory import ALLOCATOR, LIBRARIES

log = logging.getLogger(__name__)

VOLUMES = 8
"""Whole volumes in float32 that are there beside what is weighed: the prepared image, what samplers keep of earlier
steps, the way back to the scan's own grid, and the file (`benchmarks/memory.py`)."""
MOST = 16
"""Windows at once, at most: more are no faster."""
SHARE = 4
"""A whole volume is weighed on a box of about so many times fewer voxels."""


class _SeenError(Exception):
    """The first windows have gone through the networks."""


class Weighed(TorchDispatchMode):
    """Inside, what PyTorch makes is weighed; a storage counts once, until it is given back."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._there = dict[int, weakref.ref[Any]]()

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute, and weigh what is new."""
        made = function(*args, **(kwargs or {}))
        for one in tree_leaves(made):
            if isinstance(one, Tensor):
                self._weigh(one.untyped_storage())
        return made

    def _weigh(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._there:
            return

        def gone(_: Any) -> None:
            self.now -= size
            self._there.pop(key, None)

        self._there[key] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


@dataclass(frozen=True)
class Prediction:
    """What a synthesis takes, GB."""

    fixed: float
    """Whatever the number of windows at once."""
    window: float
    """One window; 0 where a volume is not parted."""

    def peak(self, at_once: int) -> float:
        """With so many windows at once."""
        return self.fixed + at_once * self.window


def predicted(method: Method, batch: Mapping[str, Tensor], target: str, *, mean: bool = False) -> Prediction:
    """What the synthesis of a subject takes: of the process on a CPU, of the allocator on a GPU.

    Args:
        method: ready to synthesise.
        batch: as `Method.translate` takes it, on its device.
        target: the contrast to make.
        mean: the mean in one call in place of a draw.
    """
    device = batch["images"].device
    volume = 4 * prod(batch["images"].shape[2:]) / 1e9
    # On a GPU the weights themselves, on a CPU oneDNN's own copy of them, laid out as its kernels want it.
    base = VOLUMES * volume + sum(one.numel() * one.element_size() for one in method.parameters()) / 1e9
    if device.type == "cpu":
        base += resident_gb() + LIBRARIES

    translate, windows = method.mean if mean else method.translate, method.needs.windows(1)

    def weighed(small: Mapping[str, Tensor], at_once: int, tick: Tick | None = None) -> float:
        cut, noise = method.needs.windows(at_once, tick), Noise([(0, "memory", 0)], device)
        return ALLOCATOR * _weighed(translate, small, target, cut, noise)

    shape = batch["images"].shape[2:]
    if isinstance(windows, VolumeWindows):  # all passes are alike, and long
        sides = [
            min(whole, round(SHARE ** (-1 / 3) * whole / windows.multiple + 1) * windows.multiple) for whole in shape
        ]
        return Prediction(base + prod(shape) / prod(sides) * weighed(_box(batch, sides), 1, _seen), 0.0)
    if isinstance(windows, SliceWindows):
        axes, size = [windows.axis], [1 if axis == windows.axis else side for axis, side in enumerate(shape)]
    elif isinstance(windows, PatchWindows):
        size = [min(side, whole) for side, whole in zip(windows.size, shape, strict=True)]
        axes = [axis for axis in range(3) if size[axis] < shape[axis]]
    else:
        raise InputError("--memory: this method makes a volume by stages, of sizes that are its own: leave it out")
    one = weighed(_box(batch, size), 1)
    if not axes or size[axes[0]] == shape[axes[0]]:
        return Prediction(base, one)
    size[axes[0]] += 1  # two slices, or two windows that lie one voxel apart
    two = weighed(_box(batch, size), 2)
    return Prediction(base + max(2 * one - two, 0.0), two - one)


def windows_within(
    sampling: Sampling, method: Method, batch: Mapping[str, Tensor], target: str, *, mean: bool = False
) -> int | None:
    """How many windows of a subject go through the networks at once within `sampling.memory`.

    Args:
        sampling: how it is drawn, with a memory.
        method: ready to synthesise.
        batch: as `Method.translate` takes it, on its device.
        target: the contrast to make.
        mean: the mean in one call in place of a draw.

    Returns:
        As many as were asked for, or as are of use, or as fit; None where a volume is not parted.

    Raises:
        InputError: if one does not fit.
    """
    limit, prediction = gigabytes(sampling.memory or ""), predicted(method, batch, target, mean=mean)
    for number in range(sampling.at_once or MOST, 0, -1):
        if (needed := prediction.peak(number)) <= limit:
            log.info("memory: about %.2f of %.2f GB, with %d windows at once", needed, limit, number)
            return number if prediction.window else None
    raise InputError(
        f"the synthesis takes about {prediction.peak(1):.2f} GB, {limit:.2f} are allowed (--memory): give more, or a "
        "run of slices or of smaller networks"
    )


@contextmanager
def room_in_memory(run: Path) -> Iterator[None]:
    """Around a synthesis: where memory is out though windows went one by one, an `InputError` says so."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        raise InputError(
            f"{run}: memory is out, with one window at once, too ({why(error)}): end other programs, give --device cpu "
            "where that has more, or take a run of slices or of smaller networks"
        ) from error


def _seen() -> None:
    raise _SeenError


def _weighed(translate: Callable[..., Any], *arguments: Any) -> float:
    """GB that a synthesis has at most until its first windows have gone through."""
    with Weighed() as weighed, suppress(_SeenError):
        translate(*arguments)
    return weighed.peak / 1e9


def _box(batch: Mapping[str, Tensor], sides: Sequence[int]) -> dict[str, Tensor]:
    """A corner of a subject's volumes."""
    shape = batch["images"].shape[2:]
    return {
        key: value[..., : sides[0], : sides[1], : sides[2]] if value.shape[-3:] == shape else value
        for key, value in batch.items()
    }
