"""From a scan to the image that networks see, and the way back (`Undo`).

A prepared grid has the axes of the scan's own RAS+ grid: `prepared voxel i` lies at `source voxel start + step · i`
along each axis. Where no axis is resampled, start is whole and step is 1, so that preparing is cropping and
zero-padding and its undoing is exact; cropped voxels come back as background.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from scansynth.data.foreground import bounding_box
from scansynth.data.intensity import NORMALISATIONS, ContrastStatistics
from scansynth.data.readers import read_labels
from scansynth.data.volume import Space, Volume, check_same_grid, same_grid
from scansynth.errors import InputError


@dataclass(frozen=True)
class Preparation:
    """How scans are prepared."""

    spacing: tuple[float | None, float | None, float | None] = (None, None, None)
    """Voxel size in mm along the RAS axes; None keeps an axis as acquired."""
    size: tuple[int | None, int | None, int | None] = (256, 256, None)
    """Voxels after resampling, centred on the foreground, cropped or padded with background; None keeps an axis."""
    intensity: str = "syndiff"
    """How intensities are brought to [0, 1]: robust, syndiff, percentile, z-score or hu-window (CT only)."""

    def __post_init__(self):
        if len(self.spacing) != 3 or any(mm is not None and not 0 < mm < math.inf for mm in self.spacing):
            raise InputError(f"spacing {self.spacing}: give three positive numbers in mm, or None to keep an axis")
        if len(self.size) != 3 or any(voxels is not None and voxels < 1 for voxels in self.size):
            raise InputError(f"size {self.size}: give three positive numbers of voxels, or None to keep an axis")
        if self.intensity not in NORMALISATIONS:
            raise InputError(f"intensity {self.intensity!r} is not known: choose one of {', '.join(NORMALISATIONS)}")


RECIPES = {
    "syndiff": Preparation(),
    "cg-ddpm": Preparation((1.0, 1.0, 6.0), (256, 256, 32), "percentile"),
    "cdpm": Preparation((1.375, 1.375, 1.0), (128, 128, 128), "percentile"),
}
"""How papers prepare: SynDiff (section IV-A), CG-DDPM (section 3.1), cDPM (section 3.1).

# Paper: cDPM normalises "between 0 and 1". Here: by percentiles, because single bright voxels then decide nothing.
"""


def find_preparation(recipe: str) -> Preparation:
    """The preparation of a paper.

    Raises:
        InputError: if there is none of that name.
    """
    if recipe not in RECIPES:
        raise InputError(f"preparation recipe {recipe!r} is not known: choose one of {', '.join(RECIPES)}")
    return RECIPES[recipe]


@dataclass(frozen=True)
class Grid:
    """A prepared grid, RAS+, inside the grid of the scans that it was made for."""

    source_affine: np.ndarray
    """(4, 4) affine of the scans, mm."""
    source_shape: tuple[int, int, int]
    start: tuple[float, float, float]
    """Source voxel of prepared voxel 0."""
    step: tuple[float, float, float]
    """Source voxels per prepared voxel."""
    shape: tuple[int, int, int]

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) affine of the prepared grid, mm."""
        inner = np.diag([*self.step, 1.0])
        inner[:3, 3] = self.start
        return self.source_affine @ inner


def generated_grid(settings: Preparation) -> tuple[tuple[int, int, int], np.ndarray]:
    """The grid of volumes that are made without a source: the prepared one, its middle at the world's origin.

    Returns:
        Shape (X, Y, Z) and (4, 4) affine, RAS+, mm.

    Raises:
        InputError: if the preparation keeps an axis as acquired, so that no single grid is known.
    """
    known = [(side, mm) for side, mm in zip(settings.size, settings.spacing, strict=True) if side and mm]
    if len(known) < 3:
        raise InputError(
            f"volumes without a source need one grid, but the cohort was prepared with size {settings.size} and "
            f"spacing {settings.spacing}: prepare it with --size X Y Z and --spacing X Y Z, three numbers each"
        )
    x, y, z = (side for side, _ in known)
    affine = np.diag([*(mm for _, mm in known), 1.0])
    affine[:3, 3] = [-(side - 1) / 2 * mm for side, mm in known]
    return (x, y, z), affine


def prepared_axis(
    side: int, acquired: float, spacing: float | None, size: int | None, centre: float
) -> tuple[float, float, int]:
    """Start, step and voxels of one axis of a prepared grid.

    Args:
        side: voxels of the scan.
        acquired: voxel size of the scan, mm.
        spacing: wanted voxel size, mm, or None.
        size: wanted voxels, or None.
        centre: source voxel that the prepared axis is centred on, if `size` is given.
    """
    # A difference that adds up to less than a tenth of a voxel over the whole axis is the header's rounding.
    kept = spacing is None or abs(spacing / acquired - 1) * side < 0.1
    step = 1.0 if kept or spacing is None else spacing / acquired
    if size is None:
        size, centre = max(1, round(side / step)), (side - 1) / 2
    return axis_start(centre, step, size), step, size


def axis_start(centre: float, step: float, size: int) -> float:
    """Source voxel of the first of `size` prepared voxels around a centre; a whole one where nothing is resampled."""
    start = centre - step * (size - 1) / 2
    return float(math.floor(start)) if step == 1 else start


def grid_for(volumes: Mapping[str, Volume], settings: Preparation) -> Grid:
    """The prepared grid of one subject's scans, centred on the box around the union of their foregrounds.

    Args:
        volumes: scans by standard contrast name, all on one grid.
        settings: how to prepare.

    Raises:
        InputError: if the scans lie on different grids.
    """
    check_same_grid(volumes)
    first = next(iter(volumes.values()))
    union = np.zeros(first.array.shape, dtype=bool)
    for contrast, volume in volumes.items():
        union |= volume.array > volume.threshold(contrast)
    axes = [
        prepared_axis(side, acquired, spacing, size, (box.start + box.stop - 1) / 2)
        for side, acquired, spacing, size, box in zip(
            first.array.shape, first.spacing, settings.spacing, settings.size, bounding_box(union), strict=True
        )
    ]
    (x, y, z) = axes
    return Grid(
        source_affine=np.asarray(first.affine, dtype=np.float64),
        source_shape=(first.array.shape[0], first.array.shape[1], first.array.shape[2]),
        start=(x[0], y[0], z[0]),
        step=(x[1], y[1], z[1]),
        shape=(x[2], y[2], z[2]),
    )


def to_grid(array: np.ndarray, grid: Grid, fill: float, *, order: int = 1) -> np.ndarray:
    """Source array → prepared grid. `fill` stands outside the scan; `order` 1 for images, 0 for masks."""
    assert array.shape == grid.source_shape, (array.shape, grid.source_shape)
    return _resample(array, grid.start, grid.step, shape=grid.shape, fill=fill, order=order)


def labels_on(path: Path, grids: Sequence[tuple[Space, Grid]], read: Callable[..., np.ndarray] = to_grid) -> np.ndarray:
    """Read a label image onto the prepared grid of the scan that it belongs to.

    Args:
        path: of a NIfTI file.
        grids: scans as acquired, each with its prepared grid.
        read: array, grid, fill and order → what of the array is wanted.

    Returns:
        (X, Y, Z) uint8; 0 outside the scan.

    Raises:
        InputError: if it is no label image, or lies on no scan's grid.
    """
    labels, index = check_labels(path, [space for space, _ in grids])
    return read(labels, grids[index][1], 0, order=0)


def check_labels(path: Path, spaces: Sequence[Space]) -> tuple[np.ndarray, int]:
    """A label image as stored, (X, Y, Z) uint8, and the index of the first scan on whose grid it lies.

    Raises:
        InputError: if it is no label image, or lies on no scan's grid.
    """
    labels, affine = read_labels(path)
    for index, space in enumerate(spaces):
        if same_grid((labels.shape, affine), space):
            return labels, index
    raise InputError(f"{path}: the mask lies on no scan's grid: resample it to its scan")


def to_source(array: np.ndarray, grid: Grid, fill: float, *, order: int = 1) -> np.ndarray:
    """Prepared array → source grid. `fill` stands where the prepared grid does not reach."""
    assert array.shape == grid.shape, (array.shape, grid.shape)
    start = tuple(-a / b for a, b in zip(grid.start, grid.step, strict=True))
    return _resample(array, start, tuple(1 / b for b in grid.step), shape=grid.source_shape, fill=fill, order=order)


def _resample(array, start, step, *, shape, fill: float, order: int) -> np.ndarray:
    """Voxel i of the result is read at `start + step · i`; `fill` beyond the outer faces of the array."""
    inside = []
    for a, b, new, old in zip(start, step, shape, array.shape, strict=True):
        positions = a + b * np.arange(new)
        hits = np.flatnonzero((positions >= -0.5) & (positions <= old - 0.5))
        inside.append(slice(int(hits[0]), int(hits[-1]) + 1) if hits.size else slice(0, 0))
    result = np.full(shape, fill, dtype=array.dtype)
    if any(box.start == box.stop for box in inside):
        return result
    if all(b == 1 and a == round(a) for a, b in zip(start, step, strict=True)):
        read = tuple(slice(box.start + int(a), box.stop + int(a)) for box, a in zip(inside, start, strict=True))
        result[tuple(inside)] = array[read]
        return result
    # Against aliasing, the point spread is widened to that of the larger voxels, as in Cardoso, Modat, Vercauteren,
    # Ourselin: Scale factor point spread function matching (MICCAI 2015). They equal the widths at half maximum; we
    # equal the variances of boxes as wide as the voxels, step²/12 and 1/12, which comes closest to the mean of the
    # voxels that are joined.
    if order and any(b > 1 for b in step):
        sigma = [math.sqrt(max(b * b - 1, 0) / 12) for b in step]
        array = ndimage.gaussian_filter(array, sigma, mode="nearest")
    # scipy's types know a scalar offset only.
    offset: Any = [a + b * box.start for a, b, box in zip(start, step, inside, strict=True)]
    counts = tuple(box.stop - box.start for box in inside)
    result[tuple(inside)] = ndimage.affine_transform(array, step, offset, counts, order=order, mode="nearest")
    return result


@dataclass(frozen=True)
class Undo:
    """The way back: space from the source scan's grid, intensity from the target contrast's training statistics."""

    grid: Grid

    def __call__(self, image: np.ndarray, statistics: ContrastStatistics) -> np.ndarray:
        """Prepared image in [0, 1], (X', Y', Z') → the source's RAS+ grid in `statistics.unit`, (X, Y, Z) float32."""
        return to_source(statistics.to_units(image).astype(np.float32), self.grid, statistics.background)


def prepare(
    volume: Volume, grid: Grid, contrast: str, intensity: str, statistics: ContrastStatistics
) -> tuple[np.ndarray, Undo]:
    """A scan as networks are trained on it, but for the map to [−1, 1].

    Args:
        volume: the scan, on the grid that `grid` was made for.
        grid: from `grid_for`.
        contrast: standard name of the contrast.
        intensity: name of the normalisation.
        statistics: the contrast's training statistics.

    Returns:
        Image in [0, 1], (X', Y', Z') float32, and its undoing.

    Raises:
        InputError: if the intensities cannot be normalised.
    """
    normalisation = NORMALISATIONS[intensity]
    own = normalisation.own(volume, contrast)
    n = normalisation.apply_own(to_grid(volume.array, grid, volume.background(contrast)), own)
    return statistics.to_image(n), Undo(grid)
