"""Pictures of volumes of sets, in three views."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy import ndimage

from scansynth.metrics.montage import slice_grid, write_png
from scansynth.sets.features import central_slices
from scansynth.sets.volume_sets import VolumeSet


def views(volume: np.ndarray, spacing: tuple[float, float, float] | None = None) -> dict[str, np.ndarray]:
    """Central slices by view, each in the middle of a black square; pixels as wide as the finest voxel.

    Args:
        volume: (X, Y, Z).
        spacing: of the voxels, mm; None: voxels are taken as cubes.
    """
    cubes = np.ones(3) if spacing is None else np.array(spacing) / min(spacing)
    side = int(np.ceil((np.array(volume.shape) * cubes).max()))
    found = {}
    for (view, image), axes in zip(central_slices(volume).items(), ((0, 1), (0, 2), (1, 2)), strict=True):
        factors = [float(cubes[axis]) for axis in axes]
        scaled = image if factors == [1.0, 1.0] else np.asarray(ndimage.zoom(image, factors, order=1))
        margins = [(side - length) // 2 for length in scaled.shape]
        pads = [(low, side - length - low) for low, length in zip(margins, scaled.shape, strict=True)]
        found[view] = np.pad(scaled, pads)
    return found


def plot_volumes(generated: VolumeSet, real: VolumeSet, folder: Path, *, count: int = 10) -> Path:
    """Write `volumes_<label>.png`: volumes of a set in three views, and as many real ones below.

    Args:
        generated: the set.
        real: of the same grid.
        folder: where to.
        count: volumes to show of each, the first ones.
    """
    rows: dict[str, list[np.ndarray]] = {}
    shown = min(count, len(generated), len(real))
    for name, one in ((f"SYNTHETIC {generated.label}", generated), (real.label, real)):
        for index in range(shown):
            for view, image in views(one.read(index), one.spacing).items():
                rows.setdefault(f"{name}, {view}", []).append(image)
    path = folder / picture_name(generated.label)
    folder.mkdir(parents=True, exist_ok=True)
    write_png(path, slice_grid(rows), f"{generated.label}: volumes beside real ones")
    return path


def picture_name(label: str) -> str:
    """File of a set's picture."""
    return f"volumes_{label}.png"


def pair_rows(pairs: Mapping[str, np.ndarray], spacing: tuple[float, float, float] | None) -> np.ndarray:
    """One row a volume, its three views beside each other: RGB, (height, width, 3) uint8, with the banner."""
    return slice_grid({name: list(views(volume, spacing).values()) for name, volume in pairs.items()})
