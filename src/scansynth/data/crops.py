"""Where a test subject is cropped: by its sources alone, as in translation.

A prepared subject is cropped on the box around all its scans (`prepare.grid_for`). Files that are translated have no
target that could have a say in that. So of a test subject more is stored than that crop: all that the crop of any set
of its scans shows. Each scan's record keeps how far the scan reaches, and the crop of a set follows from its members.

box_of        a scan              how far it reaches
room_for      all scans           what is stored around the crop on all of them
crop_of       scans of a set      their crop
inside        a crop              the voxels of the stored array that it shows
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from scansynth.data.foreground import bounding_box
from scansynth.data.prepare import Grid, Preparation, axis_start, to_grid
from scansynth.data.volume import Volume

Three = tuple[int, int, int]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Crop:
    """Where a test subject is cropped for some of its scans as sources; as large as the crop on all of them."""

    shift: Three
    """From the crop on all scans, prepared voxels along each axis."""

    def __str__(self) -> str:
        return "crop" + "".join(f"{voxels:+d}" for voxels in self.shift)


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How far a test subject's scan reaches, and which voxels of it are stored."""

    box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    """First and last voxel of its foreground along each axis, source voxels; of a scan without any, of the scan."""
    start: tuple[float, float, float]
    """Source voxel of the first voxel of the crop on all scans."""
    step: tuple[float, float, float]
    """Source voxels per prepared voxel."""
    before: Three
    """Prepared voxels that are stored before the crop on all scans, along each axis."""

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "Extent":
        """From JSON values."""
        (ax, bx), (ay, by), (az, bz) = values["box"]
        (sx, sy, sz), (dx, dy, dz), (x, y, z) = values["start"], values["step"], values["before"]
        return cls(box=((ax, bx), (ay, by), (az, bz)), start=(sx, sy, sz), step=(dx, dy, dz), before=(x, y, z))


def crop_of(scans: Sequence[Extent], settings: Preparation) -> Crop:
    """The crop that `grid_for` chooses for some scans alone, in whole prepared voxels from that for all scans.

    Exact along an axis that is not resampled. Else it lies up to half a prepared voxel away: the stored voxels are
    those of the subject's own grid.

    Args:
        scans: of one subject, on one grid; at least one.
        settings: of the cohort. An axis whose `size` is None is never cropped.
    """
    shift = [0, 0, 0]
    for axis, size in enumerate(settings.size):
        if size is not None:
            ends = [scan.box[axis] for scan in scans]
            centre = (min(first for first, _ in ends) + max(last for _, last in ends)) / 2
            start, step = scans[0].start[axis], scans[0].step[axis]
            shift[axis] = round((axis_start(centre, step, size) - start) / step)
    return Crop((shift[0], shift[1], shift[2]))


def crops_with(contrast: str, scans: Mapping[str, Extent], settings: Preparation) -> list[Crop]:
    """The crops, each once, of all sets of a subject's scans that one contrast is in."""
    rest = [scan for name, scan in scans.items() if name != contrast]
    sets = (some for count in range(len(rest) + 1) for some in combinations(rest, count))
    return list(dict.fromkeys(crop_of([scans[contrast], *some], settings) for some in sets))


@dataclass(frozen=True)
class Room:
    """What is stored of a subject around the crop on all its scans: prepared voxels along each axis."""

    before: Three = (0, 0, 0)
    after: Three = (0, 0, 0)

    def to_grid(self, array: np.ndarray, grid: Grid, fill: float, *, order: int = 1) -> np.ndarray:
        """`prepare.to_grid` with this room around it; bit by bit the same inside."""
        if self == Room():
            return to_grid(array, grid, fill, order=order)
        start = tuple(a - b * n for a, b, n in zip(grid.start, grid.step, self.before, strict=True))
        shape = tuple(n + a + b for n, a, b in zip(grid.shape, self.before, self.after, strict=True))
        wide = to_grid(array, replace(grid, start=start, shape=shape), fill, order=order)
        # Resampled voxels of two grids differ in the last bits.
        wide[self.inside(grid.shape)] = to_grid(array, grid, fill, order=order)
        return wide

    def inside(self, shape: Three) -> Box:
        """The voxels of a stored array that are the crop on all scans, of that shape."""
        return _box(self.before, shape)


def room_for(volumes: Mapping[str, Volume], grid: Grid, settings: Preparation) -> tuple[Room, dict[str, Extent]]:
    """The room that the crops of all sets of a test subject's scans take, and the extent of each scan.

    Args:
        volumes: scans by contrast, all on one grid.
        grid: from `grid_for`, for all of them.
        settings: how they are prepared.
    """
    alone = [
        Extent(box=box_of(volume, contrast), start=grid.start, step=grid.step, before=(0, 0, 0))
        for contrast, volume in volumes.items()
    ]
    # A set's box begins where one scan's does and ends where another's does: its middle lies between theirs, and so
    # single scans reach as far as all sets do.
    shifts = np.array([crop_of([one], settings).shift for one in alone])
    low, high = np.minimum(shifts.min(0), 0).tolist(), np.maximum(shifts.max(0), 0).tolist()
    room = Room((-low[0], -low[1], -low[2]), (high[0], high[1], high[2]))
    return room, {name: replace(one, before=room.before) for name, one in zip(volumes, alone, strict=True)}


def box_of(volume: Volume, contrast: str) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """First and last voxel of a scan's foreground along each axis."""
    x, y, z = bounding_box(volume.array > volume.threshold(contrast))
    return (x.start, x.stop - 1), (y.start, y.stop - 1), (z.start, z.stop - 1)


def inside(scan: Extent, shape: Three, crop: Crop | None = None) -> Box:
    """The voxels of a scan's stored array that a crop shows.

    Args:
        scan: how far it reaches.
        shape: of the crop, (X, Y, Z).
        crop: None for the crop on all scans.
    """
    x, y, z = scan.before
    dx, dy, dz = crop.shift if crop else (0, 0, 0)
    return _box((x + dx, y + dy, z + dz), shape)


def moved(array: np.ndarray, crop: Crop) -> np.ndarray:
    """An array (…, X, Y, Z) on the crop on all scans, as another crop shows it; 0 where only that one reaches."""
    result = np.zeros_like(array)
    to, of = (
        tuple(
            slice(max(0, sign * n), max(0, side + min(0, sign * n)))
            for n, side in zip(crop.shift, array.shape[-3:], strict=True)
        )
        for sign in (-1, 1)
    )
    result[(..., *to)] = array[(..., *of)]
    return result


def _box(start: Three, shape: Three) -> Box:
    x, y, z = (slice(first, first + side) for first, side in zip(start, shape, strict=True))
    return x, y, z
