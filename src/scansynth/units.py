"""Units of samples, one class each: slices, patches, sets of slices, latents, whole volumes.

Datasets are imported where they are made: a method names its unit and knows no data.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from scansynth.data.samples import Samples
from scansynth.data.settings import DataSettings
from scansynth.diffusion.windows import PatchWindows, SetWindows, SliceWindows, Tick, VolumeWindows
from scansynth.errors import InputError
from scansynth.needs import Chosen, Needs

Plane = Literal["axial", "coronal", "sagittal"]
"""How slices lie in a head."""
AXES: dict[Plane, int] = {"axial": 2, "coronal": 1, "sagittal": 0}
"""Which axis they lie along."""


class _OfSlices(Needs):
    """What units of slices share."""

    def image_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """A slice."""
        return size

    def check_volume(self, shape: Sequence[int]) -> None:
        """Its slices must be multiples."""
        if any(side % self.size_multiple for side in shape[:2]):
            raise InputError(f"prepared slices are {shape[0]}×{shape[1]}, not multiples of {self.size_multiple}")


@dataclass(frozen=True, kw_only=True)
class Slices(_OfSlices):
    """Slices of a volume: S = (H, W)."""

    axis: int = 2
    """Which axis the slices lie along: 2 axial (H along X, W along Y), 1 coronal (X, Z), 0 sagittal (Y, Z)."""
    patch: tuple[int, int] | None = None
    """Pixels (h, w) of overlapping patches of a slice: a sample shows one, a synthesis is made of all of them, each
    pixel the mean over those that hold it. A slice's shorter side is taken whole. None: whole slices."""
    anisotropy: float | None = None
    """How many times as long as another one a voxel's side may be, of a method that makes slices along several axes;
    None: any."""

    takes = ("sources", "neighbours", "complete", "previous", "sequences")

    def __post_init__(self):
        super().__post_init__()
        if self.neighbours < 0:
            raise InputError(f"neighbours {self.neighbours}: at least 0, slices on each side")
        plain = self.paired and not self.neighbours
        assert self.axis == 2 or plain, "other axes: paired, without neighbours"
        assert self.patch is None or plain, "patches of slices: paired, without neighbours"
        if self.patch and any(side < 1 or side % self.size_multiple for side in self.patch):
            raise InputError(
                f"patch {'×'.join(map(str, self.patch))}: the networks need multiples of {self.size_multiple}"
            )
        assert self.paired or not self.previous, "what is made of a subject is no sample of another"

    def dataset(self, chosen: Chosen) -> Samples:
        """Slices of a split, in an endless order of epochs."""
        from scansynth.data.acquisitions import Acquisitions
        from scansynth.data.datasets import SliceDataset

        _check_recoloured(self, chosen.data)
        cohort = chosen.cohort
        for subject in cohort.subjects(chosen.split):
            for contrast in set(chosen.contrasts) & set(cohort.available(subject)):
                self.check_voxels(cohort.spacing(subject, contrast), f"{cohort.folder}: {subject}")
        assert chosen.made is not None or not self.previous, "what the run below made is on disk"
        dataset = SliceDataset(
            chosen.cohort,
            chosen.contrasts,
            chosen.split,
            paired=self.paired,
            seed=chosen.seed,
            min_foreground=chosen.data.min_foreground,
            augmentation=chosen.data.augmentation,
            slices_per_subject=chosen.data.slices_per_subject,
            acceleration=chosen.data.acceleration,
            acquisitions=None if self.sequences is None else Acquisitions(self.sequences, chosen.data.defaults),
            neighbours=self.neighbours,
            axis=self.axis,
            complete=self.complete,
            patches=self.windows().patches,
            previous=chosen.made if self.previous else None,
        )
        self.check_slices(dataset.size)
        return dataset

    @property
    def whole(self) -> bool:
        """Whether a method must be given all axial slices: it, or the run that it builds on, sees others."""
        return self.axis != 2 or self.previous

    def windows(self, at_once: int | None = None, tick: Tick | None = None) -> SliceWindows:
        """Some slices at a time."""
        return SliceWindows(16 if at_once is None else at_once, tick, axis=self.axis, patch=self.patch)

    def image_shape(self, size: tuple[int, int]) -> tuple[int, int]:
        """A slice, or a patch of it."""
        if self.patch is None:
            return size
        return min(size[0], self.patch[0]), min(size[1], self.patch[1])

    def check_slices(self, size: Sequence[int]) -> None:
        """Sides of what the networks see must be multiples."""
        super().check_slices(self.image_shape((size[0], size[1])))

    def random_batch(self, contrasts: int, count: int, size: tuple[int, int], seed: int) -> dict[str, Tensor]:
        """Random slices, with neighbours, and what the run below made, where they are wanted."""
        batch = super().random_batch(contrasts, count, size, seed)
        if self.previous:
            generator = torch.Generator().manual_seed(seed + 2)
            batch["previous"] = torch.rand(batch["images"].shape, generator=generator) * 2 - 1
        if self.neighbours:
            generator = torch.Generator().manual_seed(seed + 1)
            batch["neighbours"] = (
                torch.rand((count, contrasts, 2 * self.neighbours, *size), generator=generator) * 2 - 1
            )
        return batch

    def validated(self, tissue: np.ndarray, depth: int, count: int) -> np.ndarray:
        """Some axial slices; all, where the networks see others."""
        return np.arange(depth) if self.whole else super().validated(tissue, depth, count)

    def slab(self, start: int, stop: int, depth: int) -> slice:
        """The axial slices with tissue; all, where the networks see others."""
        return slice(0, depth) if self.whole else super().slab(start, stop, depth)

    def check_volume(self, shape: Sequence[int]) -> None:
        """Its slices must be multiples."""
        height, width = (side for axis, side in enumerate(shape) if axis != self.axis)
        super().check_volume(self.image_shape((height, width)))

    def check_voxels(self, spacing: Sequence[float], of: object) -> None:
        """Their sides may differ by `anisotropy`."""
        longest = max(spacing) / min(spacing)
        if self.anisotropy is not None and longest > self.anisotropy * (1 + 1e-3):  # headers round
            sides = " × ".join(f"{mm:.3g}" for mm in spacing)
            raise InputError(
                f"{of}: voxels of {sides} mm, one side {longest:.3g} times another: this method makes slices along "
                f"several axes, which are alike up to {self.anisotropy:g} times; prepare with voxels of equal sides "
                f"(--spacing {' '.join([f'{min(spacing):.3g}'] * 3)}), or take a method of axial slices (pix2pix)"
            )


@dataclass(frozen=True)
class Latents(Slices):
    """Slices as the first stage encodes them; training batches have `latents` (B, K, c, h, w) in place of images.

    `neighbours` are latents there, too, (B, K, 2 neighbours, c, h, w); a synthesis is given images as of all slices.
    """

    channels: int
    """c of a latent."""
    factor: int
    """How many times smaller than an image it is."""
    takes = ("tissue", "neighbours")

    def __post_init__(self):
        super().__post_init__()
        assert self.axis == 2 and self.patch is None, "first stages encode whole axial slices"  # noqa: PT018

    @property
    def first_stage(self) -> tuple[int, int]:
        """Its own."""
        return self.channels, self.factor

    def dataset(self, chosen: Chosen) -> Samples:
        """Stored latents of the training slices."""
        from scansynth.data.latents import LatentDataset

        if replace(chosen.data, augmentation=DataSettings().augmentation) != chosen.data:
            raise InputError("the method trains on stored latents, which cannot be augmented: leave that out")
        if self.tissue and chosen.data.acceleration:
            raise InputError(
                "the cohort's tissue densities are those of fully sampled scans; leave acceleration "
                "out, or train with --settings.no-structural-guidance"
            )
        assert chosen.latents is not None and chosen.split == "train", "latents are stored of the training split"  # noqa: PT018
        dataset = LatentDataset(
            chosen.cohort,
            chosen.contrasts,
            chosen.seed,
            min_foreground=chosen.data.min_foreground,
            slices_per_subject=chosen.data.slices_per_subject,
            store=chosen.latents.store(chosen.cohort, chosen.data.acceleration),
            mean=chosen.latents.mean.cpu(),
            deviation=chosen.latents.deviation.cpu(),
            tissue=self.tissue,
            neighbours=self.neighbours,
            background=chosen.latents.background if self.neighbours else None,
        )
        self.check_slices(dataset.size)
        return dataset

    def random_batch(self, contrasts: int, count: int, size: tuple[int, int], seed: int) -> dict[str, Tensor]:
        """Random latents, and tissue and neighbours where they are wanted."""
        shape, small = (count, contrasts), tuple(side // self.factor for side in size)
        generator = torch.Generator().manual_seed(seed)
        batch = {
            "available": torch.ones(shape, dtype=torch.bool),
            "latents": torch.randn((*shape, self.channels, *small), generator=generator),
        }
        if self.tissue:
            batch["tissue"] = torch.rand((*shape, 4, *size), generator=generator) / 4
        if self.neighbours:
            beside = (*shape, 2 * self.neighbours, self.channels, *small)
            batch["neighbours"] = torch.randn(beside, generator=generator)
        return batch


@dataclass(frozen=True)
class Patches(Needs):
    """Boxes of a volume, which is made of overlapping ones.

    Raises:
        InputError: if a side is no multiple of `size_multiple`.
    """

    size: tuple[int, int, int]
    """Voxels of a patch, (X, Y, Z)."""
    takes = ("sources",)

    def __post_init__(self):
        super().__post_init__()
        if any(side % self.size_multiple for side in self.size):
            raise InputError(
                f"patch {'×'.join(map(str, self.size))}: the networks need multiples of {self.size_multiple}"
            )

    def dataset(self, chosen: Chosen) -> Samples:
        """Random patches of a split's subjects."""
        from scansynth.data.patches import PatchDataset

        _only(chosen.data, "patches", "acceleration", "augmentation")
        _check_recoloured(self, chosen.data)
        return PatchDataset(
            chosen.cohort,
            chosen.contrasts,
            chosen.split,
            seed=chosen.seed,
            size=self.trained(chosen),
            acceleration=chosen.data.acceleration,
            augmentation=chosen.data.augmentation,
        )

    def trained(self, chosen: Chosen) -> tuple[int, int, int]:
        """Voxels of the patches that are trained on."""
        return self.size

    def windows(self, at_once: int | None = None, tick: Tick | None = None) -> PatchWindows | VolumeWindows:
        """Overlapping patches, some at a time."""
        return PatchWindows(self.size, batch=4 if at_once is None else at_once, tick=tick)

    def image_shape(self, size: tuple[int, int]) -> tuple[int, ...]:
        """A patch."""
        return self.size

    @property
    def least_depth(self) -> int:
        """A patch's."""
        return self.size[2]

    def validated(self, tissue: np.ndarray, depth: int, count: int) -> np.ndarray:
        """The slices of one patch around the middle of the tissue."""
        height = min(self.size[2], depth)
        first = int(np.clip(np.median(tissue) - height // 2, 0, depth - height))
        return np.arange(first, first + height)

    def check_volume(self, shape: Sequence[int]) -> None:
        """It must hold a patch."""
        if any(side < width for side, width in zip(shape, self.size, strict=True)):
            raise InputError(
                f"the prepared volume has {'×'.join(map(str, shape))} voxels, less than the run's patches of "
                f"{'×'.join(map(str, self.size))}: it can be translated by a run of smaller patches only"
            )


@dataclass(frozen=True)
class SliceSets(_OfSlices):
    """Sets of axial slices of one volume, by which it is made, too.

    Batches hold `slices` (B, n, K, H, W) in place of images, `index`, `is_target`, `valid` (B, n) and `depth` (B,).
    """

    largest: int
    """Slices of a set; smaller ones are padded."""
    draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
    """From a volume's depth, which of its slices a training sample shows, and which of those are targets: (n,) int64
    and (n,) bool, n ≤ `largest`. The dataset calls it, so that no volume is read for a few slices."""
    stages: Callable[[int], int]
    """From a volume's depth, how many sets it is made in."""
    takes = ("labels",)

    def dataset(self, chosen: Chosen) -> Samples:
        """Sets of slices as the method draws them."""
        from scansynth.data.slice_sets import SliceSetDataset

        _only(chosen.data, "sets of slices", "acceleration")
        dataset = SliceSetDataset(
            chosen.cohort,
            chosen.contrasts,
            chosen.split,
            seed=chosen.seed,
            largest=self.largest,
            draw=self.draw,
            acceleration=chosen.data.acceleration,
            labels=self.labels,
        )
        self.check_slices(dataset.size)
        return dataset

    def windows(self, at_once: int | None = None, tick: Tick | None = None) -> SetWindows:
        """A set at a time."""
        return SetWindows(self.stages, tick)

    def random_batch(self, contrasts: int, count: int, size: tuple[int, int], seed: int) -> dict[str, Tensor]:
        """Whole sets of random slices."""
        n, generator = self.largest, torch.Generator().manual_seed(seed)
        return {
            "slices": torch.rand((count, n, contrasts, *size), generator=generator) * 2 - 1,
            "index": torch.arange(n).expand(count, -1),
            "is_target": torch.ones((count, n), dtype=torch.bool),
            "valid": torch.ones((count, n), dtype=torch.bool),
            "available": torch.ones((count, contrasts), dtype=torch.bool),
            "depth": torch.full((count,), 128),
        }


@dataclass(frozen=True)
class Volumes(Patches):
    """Whole volumes, of any size: trained on patches of them, and made in one piece, without windows or seams.

    A side of a patch that is longer than the shortest scan's is cut down to that one's. What a network gives must not
    hang on the size of what it sees: no attention over all places.
    """

    def trained(self, chosen: Chosen) -> tuple[int, int, int]:
        """Voxels of the patches that are trained on."""
        cohort = chosen.cohort
        shapes = [
            cohort.shape(subject, contrast)
            for subject in cohort.subjects(chosen.split)
            for contrast in cohort.available(subject)
            if contrast in chosen.contrasts
        ]
        shortest = [min(sides) for sides in zip(*shapes, strict=True)] or self.size
        self.check_volume(shortest)
        x, y, z = (min(own, side - side % self.size_multiple) for own, side in zip(self.size, shortest, strict=True))
        return x, y, z

    def windows(self, at_once: int | None = None, tick: Tick | None = None) -> VolumeWindows:
        """The volume itself."""
        return VolumeWindows(self.size_multiple, tick)

    @property
    def least_depth(self) -> int:
        """What it can be padded to."""
        return self.size_multiple

    def check_volume(self, shape: Sequence[int]) -> None:
        """It must be large enough to be padded by reflection."""
        if any(side < self.size_multiple for side in shape):
            raise InputError(
                f"the prepared volume has {'×'.join(map(str, shape))} voxels, the networks need at least "
                f"{self.size_multiple} along each axis: prepare with another --size, or with thinner slices"
            )


def slices_or_patches(
    patch: tuple[int, int, int] | None,
    *,
    size_multiple: int,
    paired: bool = True,
    generates: bool = False,
    neighbours: int = 0,
    wavelets: int = 0,
    sources: bool = False,
) -> Slices | Patches:
    """Patches of that size, or slices where none is given; with wavelets, whole volumes that are trained on patches.

    Args:
        patch: voxels of a patch.
        size_multiple: of the network, whose input is 2^wavelets times smaller.
        paired: as in `Needs`.
        generates: as in `Needs`.
        neighbours: as in `Needs`.
        wavelets: levels.
        sources: as in `Needs`.

    Raises:
        InputError: for neighbours of patches, or wavelets of slices.
    """
    if wavelets < 0 or (wavelets and patch is None):
        raise InputError(
            f"wavelets {wavelets}: levels of them split whole volumes, which are trained on patches: set patch to a "
            "box's voxels, such as 64 64 32, or leave wavelets out"
        )
    if patch is None:
        return Slices(
            size_multiple=size_multiple, paired=paired, generates=generates, neighbours=neighbours, sources=sources
        )
    if neighbours:
        raise InputError(
            f"neighbours {neighbours}: only slices have some, a patch of {'×'.join(map(str, patch))} holds its own; "
            "leave neighbours out, or set patch to None"
        )
    unit = Volumes if wavelets else Patches
    multiple = size_multiple * 2**wavelets
    return unit(patch, size_multiple=multiple, paired=paired, generates=generates, sources=sources)


def _only(data: DataSettings, unit: str, *counts: str) -> None:
    """Raise InputError if settings under `data` are given that count for other units only."""
    if data != DataSettings(**{name: getattr(data, name) for name in counts}):
        named = f"{' and '.join(counts)} {'counts' if len(counts) == 1 else 'count'}"
        raise InputError(f"the method trains on {unit}: of the settings under data, only {named}")


def _check_recoloured(needs: Needs, data: DataSettings) -> None:
    """Raise InputError if intensities shall change and the method cannot tell what is given from what is asked for."""
    if data.augmentation.recolours and needs.paired and not needs.sources:
        raise InputError(
            "augmentation: gain, gamma and bias change the intensities of what is given and not of what is asked for, "
            "which this method does not tell apart: leave them out"
        )
