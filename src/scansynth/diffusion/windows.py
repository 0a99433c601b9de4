"""Windows: how a volume is cut up for the networks and put together again.

A window is what a network sees at once: an axial slice, or a patch of one (`SliceWindows`), or a box (`PatchWindows`).
`map` applies a function to all windows and blends what it returns. A sampler around `map` blends at every step, a
sampler inside of it works window by window; `Cut` gives the second the same noise as the first.
"""

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from scansynth.errors import InputError, out_of_memory
from scansynth.noise import Noise

log = logging.getLogger(__name__)

Tick = Callable[[], None]
"""Called each time that some windows have gone through the networks."""


class Windows(Protocol):
    """How a volume is cut up for the networks and put together again."""

    def map(self, function: Callable[..., Tensor], *volumes: Tensor) -> Tensor:
        """Apply `function` to the windows of the volumes, (1, C, *S) each, and blend what it returns.

        A volume whose side is 1 along a cut axis is given whole to every window.
        """
        ...


class WindowsOfVolume(Windows, Protocol):
    """Windows that know how often they tell of themselves."""

    def ticks(self, shape: Sequence[int]) -> int:
        """How often `tick` is called in one `map` of a volume (X, Y, Z)."""
        ...


LEAST_OVERLAP = 0.5
"""Share of a patch's side that lies in its neighbour, too, at least."""


def along(side: int, width: int, overlap: float = LEAST_OVERLAP) -> list[slice]:
    """Where windows lie along an axis: as few as overlap so; the last ends with the axis.

    Args:
        side: of the volume.
        width: of a window; a shorter side is taken whole.
        overlap: least share of a window that lies in its neighbour, too.
    """
    step = max(1, math.floor(width * (1 - overlap)))
    last = max(0, side - width)
    return [slice(start, min(start + width, side)) for start in (*range(0, last, step), last)]


class Fitting:
    """How many windows go through the networks at once where memory does not do for all that were asked for."""

    def __init__(self) -> None:
        self.most: int | None = None

    def apply(self, function: Callable[[slice], Tensor], count: int) -> Tensor:
        """What a function makes of `count` windows, (count, …); of half as many at once, where memory is out.

        Args:
            function: from which of the windows to what it makes of them; it must treat each on its own.
            count: how many there are.

        Raises:
            RuntimeError: as PyTorch does, if memory does not do for one.
        """
        results, start = list[Tensor](), 0
        while start < count:
            stop = min(start + (self.most or count), count)
            try:
                results.append(function(slice(start, stop)))
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error) or stop - start == 1:
                    raise
                self.most = (stop - start) // 2
                log.warning("memory is out with %d windows at once: going on with %d", stop - start, self.most)
                continue  # what the failed pass held is given back as the error is left
            start = stop
        return results[0] if len(results) == 1 else torch.cat(results)


@dataclass(frozen=True)
class SliceWindows:
    """Slices of a volume, several at a time, each whole or through overlapping patches of it.

    Slices do not overlap: between them nothing is blended. A pixel that several patches hold is their mean.

    Raises:
        InputError: if `batch` is below 1.
    """

    batch: int = 16
    """Slices that go through the networks at once. It changes memory and speed, not the result."""
    tick: Tick | None = None
    """Called each time that some have gone through."""
    axis: int = 2
    """Which axis the slices lie along; axial ones lie along the last, 2."""
    patch: tuple[int, int] | None = None
    """Pixels of the patches that a slice is seen through, (h, w), of which two neighbours share half at least; a
    slice's shorter side is taken whole. None: the slice itself."""
    fitting: Fitting = field(default_factory=Fitting, repr=False, compare=False, kw_only=True)
    """How many of those memory holds."""

    def __post_init__(self):
        if self.batch < 1:
            raise InputError(f"slices at once {self.batch}: must be at least 1")

    def patches(self, size: Sequence[int]) -> list[tuple[slice, slice]]:
        """Where the patches of a slice (H, W) lie: of 160×180 pixels with 128×128 four, one a corner."""
        rows, columns = (along(side, width) for side, width in zip(size, self.patch or size, strict=True))
        return list(itertools.product(rows, columns))

    def ticks(self, shape: Sequence[int]) -> int:
        """How often `tick` is called in one `map` of a volume (X, Y, Z)."""
        return math.ceil(shape[self.axis] / self.batch)

    def map(self, function: Callable[..., Tensor], *volumes: Tensor) -> Tensor:
        """Apply `function` to the slices of volumes.

        Args:
            function: takes one (N, C, H, W) tensor a volume, N ≤ `batch` slices, and returns (N, C', H', W'). It must
                treat each slice on its own. Axial slices are (X, Y), coronal ones (X, Z), sagittal ones (Y, Z). Through
                patches (N, C, h, w), all of N/P slices, and what it returns is as large.
            *volumes: (1, C, X, Y, Z) each. One whose side along the axis is 1 is given to every slice; the other sides
                may differ (1×1 stays so).

        Returns:
            (1, C', X', Y', Z).
        """
        assert all(volume.ndim == 5 and len(volume) == 1 for volume in volumes), "volumes are (1, C, X, Y, Z)"
        axis = 2 + self.axis
        depth = max(volume.shape[axis] for volume in volumes)
        assert all(volume.shape[axis] in (1, depth) for volume in volumes), "volumes differ in depth"
        stacks = [volume[0].movedim(axis - 1, 0).expand(depth, -1, -1, -1) for volume in volumes]  # (Z, C, X, Y)
        results = []
        for start in range(0, depth, self.batch):
            slices = [stack[start : start + self.batch].contiguous() for stack in stacks]
            one = function if self.patch is None else partial(self._through_patches, function)
            result = self.fitting.apply(partial(_on_part, one, slices), len(slices[0]))
            assert len(result) == len(slices[0]), f"{len(slices[0])} slices in, {len(result)} out"
            results.append(result)
            if self.tick:
                self.tick()
        return torch.cat(results).movedim(0, axis - 1)[None].contiguous()

    def _through_patches(self, function: Callable[..., Tensor], *slices: Tensor) -> Tensor:
        """The function of all patches of some slices, (N, C, H, W) a volume, put together: (N, C', H, W)."""
        size = max((one.shape[2:] for one in slices), key=math.prod)
        places = self.patches(size)

        def cut(one: Tensor) -> Tensor:
            if one.shape[2:] == (1, 1):
                return one.repeat(len(places), 1, 1, 1)
            assert one.shape[2:] == size, "slices seen through patches differ in size"
            return torch.cat([one[:, :, rows, columns] for rows, columns in places])

        made = function(*map(cut, slices)).chunk(len(places))
        total, count = made[0].new_zeros(*made[0].shape[:2], *size), made[0].new_zeros(size)
        for (rows, columns), part in zip(places, made, strict=True):
            total[:, :, rows, columns] += part
            count[rows, columns] += 1
        return total / count


Place = tuple[slice, slice, slice]
"""Where a window lies in its volume."""
SIGMA = 1 / 8
"""Width of the Gaussian weights over the window's side."""


@dataclass(frozen=True)
class PatchWindows:
    """Overlapping patches of a volume, blended with Gaussian weights that fall towards a patch's borders.

    Raises:
        InputError: if a side or `batch` is below 1, or the overlap is not in [0, 1).
    """

    size: tuple[int, int, int]
    """Voxels of a patch, (X, Y, Z); a volume's shorter side is taken whole."""
    overlap: float = LEAST_OVERLAP
    """Least share of a patch's side that lies in its neighbour, too."""
    batch: int = 4
    """Patches that go through the networks at once. It changes memory and speed, not the result."""
    tick: Tick | None = None
    """Called each time that some have gone through."""
    fitting: Fitting = field(default_factory=Fitting, repr=False, compare=False, kw_only=True)
    """How many of those memory holds."""

    def __post_init__(self):
        if min(*self.size, self.batch) < 1 or not 0 <= self.overlap < 1:
            raise InputError(
                f"windows of {self.size}, overlap {self.overlap}, {self.batch} at once: sides and number are at least "
                "1, the overlap is in [0, 1)"
            )

    def ticks(self, shape: Sequence[int]) -> int:
        """How often `tick` is called in one `map` of a volume (X, Y, Z)."""
        return math.ceil(len(self.places(shape)) / self.batch)

    def places(self, shape: Sequence[int]) -> list[Place]:
        """All windows of a volume (X, Y, Z); the last of each axis ends with it."""
        x, y, z = (along(side, width, self.overlap) for side, width in zip(shape, self.size, strict=True))
        return list(itertools.product(x, y, z))

    @cached_property
    def _axes(self) -> list[Tensor]:
        """Weights along each axis of a whole window, float64."""
        places = [torch.arange(side, dtype=torch.float64) - (side - 1) / 2 for side in self.size]
        return [torch.exp(-0.5 * (x / (SIGMA * side)).square()) for x, side in zip(places, self.size, strict=True)]

    def weights(self, shape: Sequence[int]) -> Tensor:
        """What a window of this shape (its own, or shorter where the volume is) counts, (X, Y, Z) float32, above 0."""
        axes = []
        for axis, side in zip(self._axes, shape, strict=True):
            skip = (len(axis) - side) // 2  # a shorter one has the middle
            axes.append(axis[skip : skip + side])
        return torch.einsum("i,j,k->ijk", *axes).float()

    def map(self, function: Callable[..., Tensor], *volumes: Tensor) -> Tensor:
        """Apply `function` to the windows of volumes, and blend.

        Args:
            function: takes one (N, C, *size) tensor a volume, N ≤ `batch` windows, and returns (N, C', *size). It must
                treat each window on its own.
            *volumes: (1, C, X, Y, Z) each. One of 1×1×1 is given to every window.

        Returns:
            (1, C', X, Y, Z): of each voxel the weighted mean over the windows that hold it.
        """
        return self.map_places(lambda places, *windows: function(*windows), *volumes)

    def map_places(self, function: Callable[..., Tensor], *volumes: Tensor) -> Tensor:
        """`map`, with the list of the windows' places as the function's first argument."""
        assert all(volume.ndim == 5 and len(volume) == 1 for volume in volumes), "volumes are (1, C, X, Y, Z)"
        shape = max((tuple(volume.shape[2:]) for volume in volumes), key=math.prod)
        total: Tensor | None = None
        count = torch.zeros(shape, device=volumes[0].device)
        for places in _batches(self.places(shape), self.batch):
            windows = [_cut(volume, places) for volume in volumes]
            results = self.fitting.apply(partial(_on_part, function, [places, *windows]), len(places))
            assert len(results) == len(places), f"{len(places)} windows in, {len(results)} out"
            weights = self.weights(results.shape[2:]).to(results)
            if total is None:
                total = results.new_zeros(1, results.shape[1], *shape)
            for place, result in zip(places, results, strict=True):
                total[0][(slice(None), *place)] += weights * result
                count[place] += weights.to(count)
            if self.tick:
                self.tick()
        assert total is not None
        return total / count


@dataclass(frozen=True)
class SetWindows:
    """Sets of slices: a method that makes a volume stage by stage cuts it itself (`diffusion/stages.py`)."""

    stages: Callable[[int], int]
    """From a volume's depth, the sets that it is made in."""
    tick: Tick | None = None
    """Called each time that a set has gone through."""

    def ticks(self, shape: Sequence[int]) -> int:
        """How often `tick` is called in one step of all sets of a volume (X, Y, Z)."""
        return self.stages(shape[2])

    def map(self, function: Callable[..., Tensor], *volumes: Tensor) -> Tensor:
        """The function of a set, (1, C, X, Y, n) a volume, whose slices are never parted."""
        result = function(*volumes)
        if self.tick:
            self.tick()
        return result


@dataclass(frozen=True)
class VolumeWindows:
    """The volume itself, whole; padded by reflection to what networks can halve, and cut back."""

    multiple: int = 1
    """Of which all sides are multiples then."""
    tick: Tick | None = None
    """Called each time that it has gone through."""

    def ticks(self, shape: Sequence[int]) -> int:
        """Once."""
        return 1

    def map(self, function: Callable[..., Tensor], *volumes: Tensor) -> Tensor:
        """The function of the volumes, (1, C, *S) each; one of 1×1×1 is given as it is."""
        shape = max((volume.shape[2:] for volume in volumes), key=math.prod)
        lacks = [-side % self.multiple for side in shape]
        if any(lacks):
            ends = [value for lack in reversed(lacks) for value in (0, lack)]
            volumes = tuple(
                volume if volume.shape[2:] == (1, 1, 1) else functional.pad(volume, ends, mode="reflect")
                for volume in volumes
            )
        result = function(*volumes)[..., : shape[0], : shape[1], : shape[2]]
        if self.tick:
            self.tick()
        return result


class Whole:
    """Images that are windows themselves: nothing is cut."""

    def map(self, function: Callable[..., Tensor], *volumes: Tensor) -> Tensor:
        """The function of the images."""
        return function(*volumes)


def by_step_or_by_window(
    blend: str, sample: Callable[[Tensor, Windows, Noise], Tensor], y: Tensor, windows: Windows, noise: Noise
) -> Tensor:
    """Sample a volume with windows that are blended at every step, or each by itself and blended at the end.

    Both see one noise: that of the volume, of which a window gets its own part. (Slices do not overlap: it is all one.)

    Args:
        blend: "step" or "window".
        sample: samples from the sources, (N, K, *S), with windows inside and noise of N samples.
        y: sources, (1, K, X, Y, Z).
        windows: of the volume.
        noise: of the volume.

    Returns:
        (1, C, X, Y, Z).
    """
    if blend == "step" or not isinstance(windows, PatchWindows):
        return sample(y, windows, noise)
    shape = y.shape[2:]
    return windows.map_places(lambda places, y: sample(y, Whole(), Cut(noise, shape, places)), y)


def _on_part(function: Callable[..., Tensor], windows: Sequence[Any], part: slice) -> Tensor:
    return function(*(one[part] for one in windows))


def _batches(places: list[Place], size: int) -> Iterator[list[Place]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]


def _cut(volume: Tensor, places: Sequence[Place]) -> Tensor:
    """The windows of a volume (1, C, *S), (N, C, *size); one of 1×1×1 as often as there are windows."""
    if volume.shape[2:] == (1, 1, 1):
        return volume.expand(len(places), *volume.shape[1:])
    return torch.stack([volume[0][(slice(None), *place)] for place in places])


class Cut(Noise):
    """The noise of a whole volume, cut into windows: each gets its own part of every draw.

    Args:
        noise: of the volume; one key.
        shape: of the volume, (X, Y, Z).
        places: of the windows, whose draws these are.
    """

    def __init__(self, noise: Noise, shape: Sequence[int], places: Sequence[Place]):
        super().__init__(noise.keys, noise.device)
        assert len(noise.keys) == 1, "windows are those of one volume"
        self.noise, self.shape, self.places = noise, tuple(shape), list(places)

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, (N, C, *size), `shape` being (C, *size)."""
        return _cut(self.noise.normal(name, (shape[0], *self.shape)), self.places)
