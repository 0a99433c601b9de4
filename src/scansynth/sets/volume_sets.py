"""Sets of volumes that are read one at a time: generated ones in a folder, real ones in a prepared cohort.

A set of 500 volumes of 128×128×128 takes 4 GB, so no measure holds one in memory. What is kept of a volume is small:
its features, or the volume on a coarse grid (`shrunk`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from scansynth.data.cohort import Cohort
from scansynth.data.volume import Volume
from scansynth.errors import InputError

LOWEST, HIGHEST = -0.01, 2.0
"""What counts as prepared intensities. Those of training subjects lie in [0, 1]; other subjects may go beyond 1."""


@dataclass(frozen=True)
class VolumeSet:
    """Volumes of one shape, in prepared intensities, [0, 1]."""

    label: str
    """As tables name the set."""
    names: tuple[str, ...]
    """Of the volumes, each once."""
    shape: tuple[int, int, int]
    """(X, Y, Z) of each volume, RAS+."""
    load: Callable[[int], np.ndarray]
    """Number of a volume → (X, Y, Z); measures call `read`, which checks."""
    spacing: tuple[float, float, float] | None = None
    """Of the voxels, mm; None: not known."""

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> np.ndarray:
        """One volume, (X, Y, Z) float32.

        Raises:
            InputError: if it has another shape, voxels that are not finite, or no prepared intensities.
        """
        volume = np.asarray(self.load(index), dtype=np.float32)
        where = f"{self.label}, {self.names[index]}"
        if volume.shape != self.shape:
            raise InputError(f"{where}: {volume.shape} voxels, the set has {self.shape}: bring its volumes to one grid")
        low, high = float(volume.min()), float(volume.max())
        if not (low >= LOWEST and high <= HIGHEST):  # NaN is caught too
            raise InputError(
                f"{where}: intensities from {low:.4g} to {high:.4g}; sets are measured in prepared intensities, "
                "0 to 1: give volumes as the network made them, or prepare them like the real ones"
            )
        return volume

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self.read(index) for index in range(len(self)))

    def draw(self, count: int, seed: int = 0) -> "VolumeSet":
        """So many volumes at random, in the set's order; the set itself where it has no more."""
        if count >= len(self):
            return self
        kept = np.sort(np.random.default_rng(seed).choice(len(self), count, replace=False)).tolist()
        return replace(self, names=tuple(self.names[i] for i in kept), load=lambda index: self.load(kept[index]))

    @classmethod
    def of(cls, label: str, volumes: dict[str, np.ndarray]) -> "VolumeSet":
        """A set that is in memory already: name → (X, Y, Z).

        Raises:
            InputError: if there is no volume.
        """
        if not volumes:
            raise InputError(f"{label}: the set has no volume")
        arrays = list(volumes.values())
        x, y, z = arrays[0].shape
        return cls(label, tuple(volumes), (x, y, z), lambda index: arrays[index])

    @classmethod
    def from_cohort(cls, cohort: Cohort, contrast: str, *splits: str, label: str | None = None) -> "VolumeSet":
        """The subjects of one split or several that have a contrast.

        Raises:
            InputError: if there is none, or their grids differ in shape.
        """
        if contrast not in cohort.contrasts:
            raise InputError(f"{cohort.folder}: no contrast {contrast}; it has {', '.join(cohort.contrasts)}")
        inside = [name for split in splits for name in cohort.subjects(split)]
        names = tuple(name for name in inside if contrast in cohort.available(name))
        called = " and ".join(splits)
        if not names:
            raise InputError(f"{cohort.folder}: no subject of the split {called} has {contrast}")
        shapes = {name: cohort.shape(name, contrast) for name in names}
        first = shapes[names[0]]
        if apart := [name for name in names if shapes[name] != first]:
            raise InputError(
                f"{cohort.folder}: {contrast} of {apart[0]} has {shapes[apart[0]]} voxels, that of {names[0]} {first}; "
                "sets need one grid: prepare the cohort again with --size for all three axes"
            )
        x, y, z = (float(step) for step in np.linalg.norm(cohort.affine(names[0], contrast)[:3, :3], axis=0))
        return cls(
            label or f"real, {called}", names, first, lambda index: cohort.read(names[index], contrast), (x, y, z)
        )

    @classmethod
    def from_folder(cls, folder: Path | str, label: str | None = None) -> "VolumeSet":
        """The NIfTI files of a folder, sorted by name; subfolders are not searched, and hidden files left out.

        Raises:
            InputError: if there is none, two have one name, or, when one is read, its grid is not that of the first.
        """
        folder = Path(folder)
        paths = sorted(path for path in folder.glob("[!.]*") if path.name.lower().endswith((".nii", ".nii.gz")))
        if not paths:
            raise InputError(f"{folder}: no NIfTI file (.nii, .nii.gz); give the folder that holds the volumes")
        names = tuple(path.name.lower().removesuffix(".gz").removesuffix(".nii") for path in paths)
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"{folder}: {twice[0]} stands there compressed and not: delete one of the two")
        first = Volume.read(paths[0])
        grid, shape, spacing = first.grid, first.array.shape, first.spacing

        def load(index: int) -> np.ndarray:
            volume = Volume.read(paths[index])
            if volume.array.shape != shape or not np.allclose(volume.spacing, spacing, rtol=1e-3):
                raise InputError(
                    f"{paths[index]} ({volume.grid}) and {paths[0]} ({grid}) lie on different grids: bring them to one"
                )
            return volume.array

        return cls(label or folder.name, names, (shape[0], shape[1], shape[2]), load, spacing)


def check_comparable(first: VolumeSet, other: VolumeSet) -> None:
    """Raise InputError if two sets differ in their grids."""
    known = first.spacing is not None and other.spacing is not None
    apart = known and not np.allclose(np.array(first.spacing), np.array(other.spacing), rtol=1e-2)
    if first.shape != other.shape or apart:
        grids = [f"{one.label} ({'×'.join(map(str, one.shape))}, {_spacing(one)})" for one in (first, other)]
        raise InputError(f"{grids[0]} and {grids[1]} lie on different grids: bring both to one")


def _spacing(volumes: VolumeSet) -> str:
    return "spacing unknown" if volumes.spacing is None else f"{'×'.join(f'{s:.3g}' for s in volumes.spacing)} mm"


def shrunk(volume: np.ndarray, longest: int) -> np.ndarray:
    """A volume (X, Y, Z) averaged down to a longest side of `longest` voxels, float32; a smaller one stays as it is."""
    if max(volume.shape) <= longest:
        return volume.astype(np.float32)
    x, y, z = (max(1, round(side * longest / max(volume.shape))) for side in volume.shape)
    image = torch.from_numpy(np.array(volume, np.float32))
    return functional.adaptive_avg_pool3d(image[None, None], (x, y, z))[0, 0].numpy()
