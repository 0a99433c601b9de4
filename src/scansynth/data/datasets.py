"""Training samples and whole subjects from a prepared cohort, in the range [−1, 1] that networks see."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scansynth.data.acquisitions import Acquisitions
from scansynth.data.augmentation import Augmentation
from scansynth.data.cohort import Cohort
from scansynth.data.crops import Crop
from scansynth.data.foreground import foreground_threshold
from scansynth.data.made import MadeStore
from scansynth.data.samples import Samples
from scansynth.errors import InputError
from scansynth.given import offsets
from scansynth.physics.kspace import undersample
from scansynth.physics.tissue import WEIGHTS

Values = TypeVar("Values", Tensor, np.ndarray)
Place = tuple[str, int]
"""Subject and axial slice."""
PatchOfSlice = tuple[slice, slice]
"""Where a patch lies in its slice."""
Acceleration = Sequence[tuple[str, int]]
"""Accelerated contrasts, each with its fold in both in-plane dimensions (`DataSettings.acceleration`)."""


def to_network(image: Values) -> Values:
    """Prepared [0, 1] → [−1, 1]. Only this function and its inverse know the networks' range."""
    return 2 * image - 1


def from_network(x: Values) -> Values:
    """[−1, 1] → prepared [0, 1]."""
    return (x + 1) / 2


def as_acquired(image: Tensor, contrast: str, acceleration: Acceleration) -> Tensor:
    """A prepared scan as a run sees it: an accelerated contrast is known at its low resolution only.

    Everything that a run reads comes through here once, on its way to training, validation, evaluation (as source,
    copied source and truth) or translation. An accelerated contrast is accelerated as target too: the fully sampled
    image does not exist for the run.

    Args:
        image: prepared, in [0, 1], (X, Y) or (X, Y, Z).
        contrast: what it shows.
        acceleration: of the run.

    Returns:
        The same shape, 0 and up where accelerated; else the image itself.
    """
    fold = dict(acceleration).get(contrast, 1)
    if fold == 1:
        return image
    return undersample(image.movedim((0, 1), (-2, -1)), fold).movedim((-2, -1), (0, 1))


def whole_slice(size: Sequence[int]) -> list[PatchOfSlice]:
    """A slice (H, W) as the only patch of itself."""
    return [(slice(0, size[0]), slice(0, size[1]))]


def read_image(
    cohort: Cohort,
    subject: str,
    contrast: str,
    *,
    acceleration: Acceleration = (),
    z: int | slice | None = None,
    axis: int = 2,
    crop: Crop | None = None,
) -> Tensor:
    """A subject's prepared scan as a run sees it, (X, Y, Z), its slice z, (X, Y), or some slices; in [0, 1].

    Slices lie along an axis, 2 of axial ones. Of a test subject on a crop (`Cohort.crop`).
    """
    if axis != 2 and z is not None and dict(acceleration).get(contrast, 1) != 1:  # in the axial plane, which is whole
        whole = read_image(cohort, subject, contrast, acceleration=acceleration, crop=crop)
        return whole[(slice(None),) * axis + (z,)]
    return as_acquired(
        torch.from_numpy(cohort.read(subject, contrast, z, axis=axis, crop=crop)), contrast, acceleration
    )


class SliceDataset(Samples):
    """Slices of a split, in an endless order of epochs.

    Sample i of the training (i counts on over the epochs, and is not bounded by `len`) depends on `seed` and i alone,
    so that workers, processes and a resume change nothing.

    Paired: a sample shows one slice, or a patch of one, of one subject in all contrasts that the subject has. Unpaired:
    each contrast has its own list of slices and its own order, so that which slices meet tells nothing; shorter lists
    come round sooner.

    Args:
        cohort: the prepared cohort.
        contrasts: the run's K contrasts, in the order of the channels.
        split: train, val or test.
        paired: see above.
        seed: of order and augmentation.
        min_foreground: slices with a smaller share of foreground are left out (paired: if it is smaller in all of
            the subject's contrasts).
        augmentation: random changes, or None.
        slices_per_subject: only the block of so many slices of a subject with the most foreground, or None (paired:
            the largest foreground among the subject's contrasts counts).
        acceleration: accelerated contrasts, with their folds.
        acquisitions: what networks are told of the scans' acquisition, or None.
        neighbours: slices on each side of a slice that are given with it.
        axis: which axis the slices lie along; 2: axial slices. Along another one scans may be of unequal height: what
            lies beyond a lower one is background.
        complete: whether subjects are left out that lack one of the contrasts (paired).
        patches: from a slice's size (H, W), where its patches lie, each of which is a sample (paired).
        previous: what the run that this one builds on made of the split, or None.

    Raises:
        InputError: if a contrast has no slices, the slices' sizes differ, an acquisition is not known, (paired) scans
            are not registered, or a contrast of another run is accelerated.
    """

    def __init__(
        self,
        cohort: Cohort,
        contrasts: Sequence[str],
        split: str,
        *,
        paired: bool,
        seed: int,
        min_foreground: float = 0.0,
        augmentation: Augmentation | None = None,
        slices_per_subject: int | None = None,
        acceleration: Acceleration = (),
        acquisitions: Acquisitions | None = None,
        neighbours: int = 0,
        axis: int = 2,
        complete: bool = False,
        patches: Callable[[Sequence[int]], Sequence[PatchOfSlice]] = whole_slice,
        previous: MadeStore | None = None,
    ):
        self.neighbours, self.axis, self.previous = neighbours, axis, previous
        if axis == 0 and augmentation is not None:  # a head and its mirror image have the same sagittal slices
            augmentation = replace(augmentation, flip=0.0)
        self.cohort, self.contrasts, self.split = cohort, tuple(contrasts), split
        self.paired, self.seed, self.augmentation, self.acceleration = paired, seed, augmentation, acceleration
        for contrast, _ in acceleration:
            if contrast not in self.contrasts:
                raise InputError(f"acceleration {contrast!r}: not among the run's contrasts {', '.join(contrasts)}")
        self.size = _in_plane_size(cohort, self.contrasts, split, axis)
        self.patches = patches(self.size)
        assert paired or len(self.patches) == 1, "patches of unpaired slices"
        self._orders: dict[str, tuple[int, np.ndarray]] = {}
        if paired:
            places = paired_places(
                cohort,
                self.contrasts,
                split,
                min_foreground,
                slices_per_subject=slices_per_subject,
                axis=axis,
                complete=complete,
            )
            self._places = {"": places}
            shown = {contrast for subject, _ in places for contrast in cohort.available(subject)}
        else:
            self._places = {
                name: slice_places(cohort, name, split, min_foreground, slices_per_subject=slices_per_subject)
                for name in self.contrasts
            }
            shown = {name for name, places in self._places.items() if places}
        beside = f" beside {'all other contrasts' if complete else 'another contrast'}" if paired else ""
        for contrast in self.contrasts:
            if contrast not in shown:
                raise InputError(
                    f"{cohort.folder}: no {split} slices of {contrast}{beside} "
                    f"with a foreground of {min_foreground:g}: lower min_foreground or leave the contrast out"
                )
        self._made = {
            (subject, contrast)
            for subject in dict.fromkeys(subject for places in self._places.values() for subject, _ in places)
            for contrast in self.contrasts
            if previous and previous.has(subject, contrast)
        }
        self.parameters = acquisitions and {
            (subject, contrast): acquisitions.of(subject, contrast, cohort.acquisition(subject, contrast))
            for subject in dict.fromkeys(subject for places in self._places.values() for subject, _ in places)
            for contrast in self.contrasts
            if contrast in cohort.available(subject) and contrast in acquisitions.sequences
        }

    def __len__(self) -> int:
        """Samples in an epoch."""
        return len(self.patches) * max(len(places) for places in self._places.values())

    def places(self, i: int) -> dict[str, Place]:
        """Which subject and slice sample i shows in each contrast."""
        if self.paired:
            place, _ = self._draw("", i)
            available = self.cohort.available(place[0])
            return {contrast: place for contrast in self.contrasts if contrast in available}
        return {contrast: self._draw(contrast, i)[0] for contrast in self.contrasts}

    def patch(self, i: int) -> PatchOfSlice:
        """Which part of its slice sample i shows (paired)."""
        return self._draw("", i)[1]

    def shows(self, i: int) -> list[str]:
        """Subjects whose slices sample i is of."""
        return sorted({subject for subject, _ in self.places(i).values()})

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Sample i: `images` (K, H, W) in [−1, 1], of a patch (K, h, w), 0 where unavailable; `available` (K,) bool.

        With neighbours also `neighbours` (K, 2n, H, W), those below first, −1 (background) beyond the scan and 0 where
        unavailable; paired, with intensities that change, also `sources` (K, H, W), the images with changed ones, which
        neighbours have, too; with `previous` also `previous` (K, H, W), each contrast as the run below makes it from
        the others, moved as they are, 0 where it makes none; with `acquisitions` also `acquisition` (K, 4): TR, TE, TI
        in ms and flip angle in degrees, 0 likewise, and of a contrast without a
        sequence.
        """
        places = self.places(i)
        available = torch.tensor([contrast in places for contrast in self.contrasts])
        last = 1 + 2 * self.neighbours
        images = torch.zeros(len(self.contrasts), last + (self.previous is not None), *self.size)
        is_made = torch.zeros(len(self.contrasts), dtype=torch.bool)
        for k, contrast in enumerate(self.contrasts):
            if contrast in places:
                images[k, :last] = self._read(contrast, *places[contrast])
                if self.previous is not None and (places[contrast][0], contrast) in self._made:
                    subject, place = places[contrast]
                    images[k, last] = self._padded(
                        torch.from_numpy(self.previous.read(subject, contrast, place, axis=self.axis))
                    )
                    is_made[k] = True
        shown = self._augment(images, available, i)
        if len(self.patches) > 1:  # of what was moved: a patch then shows what lay beside it, not a border
            images, shown = (one[..., *self.patch(i)] for one in (images, shown))
        images[available], shown[available] = to_network(images[available]), to_network(shown[available])
        sample = {"images": images[:, 0], "available": available}
        if self.neighbours:
            sample["neighbours"] = shown[:, 1:last]
        if self.previous is not None:
            sample["previous"] = images[:, last] * is_made[:, None, None]
        if self.paired and self.augmentation is not None and self.augmentation.recolours:
            sample["sources"] = shown[:, 0]
        if self.parameters is not None:
            sample["acquisition"] = torch.zeros(len(self.contrasts), 4)
            for k, contrast in enumerate(self.contrasts):
                if contrast in places and (places[contrast][0], contrast) in self.parameters:
                    sample["acquisition"][k] = self.parameters[places[contrast][0], contrast]
        return sample

    def _read(self, contrast: str, subject: str, place: int) -> Tensor:
        """A slice and its neighbours, (1 + 2n, H, W) in [0, 1]; background beyond the scan."""
        if not self.neighbours:
            read = read_image(self.cohort, subject, contrast, acceleration=self.acceleration, z=place, axis=self.axis)
            return self._padded(read)[None]
        first = max(0, place - self.neighbours)  # all in one reading of the file, which takes most of the time
        some = slice(first, min(self.cohort.shape(subject, contrast)[2], place + self.neighbours + 1))
        found = read_image(self.cohort, subject, contrast, acceleration=self.acceleration, z=some)
        slices = torch.zeros(1 + 2 * self.neighbours, *self.size)
        for number, away in enumerate((0, *offsets(self.neighbours))):
            if some.start <= place + away < some.stop:
                slices[number] = found[..., place + away - first]
        return slices

    def _padded(self, image: Tensor) -> Tensor:
        """A slice (H, w) with background above it, (H, W)."""
        lacks = self.size[1] - image.shape[1]
        return functional.pad(image, (0, lacks)) if lacks else image

    def _augment(self, images: Tensor, available: Tensor, i: int) -> Tensor:
        """Change the images (K, 1 + 2n, H, W) in place; what is given of them, whose intensities are changed, too."""
        if self.augmentation is None:
            return images.clone()
        generator = keyed_generator(self.seed, "augmentation", i)
        if self.paired:
            return augmented(images, available, self.augmentation, generator, dims=2)
        for k in available.nonzero().flatten().tolist():
            images[k : k + 1] = self.augmentation.apply(images[k : k + 1], generator)
        return images.clone()

    def _draw(self, key: str, i: int) -> tuple[Place, PatchOfSlice]:
        """The i-th place of a list, and the patch there; the list is permuted anew each time it comes round."""
        places = self._places[key]
        count = len(places) * len(self.patches)
        turn, number = divmod(i, count)
        if key not in self._orders or self._orders[key][0] != turn:
            self._orders[key] = turn, keyed_generator(self.seed, "order", key, turn).permutation(count)
        place, patch = divmod(int(self._orders[key][1][number]), len(self.patches))
        return places[place], self.patches[patch]


def augmented(
    images: Tensor, available: Tensor, augmentation: Augmentation, generator: np.random.Generator, *, dims: int
) -> Tensor:
    """Move the images of a paired sample, (K, …, *S) in [0, 1], in place; those with changed intensities beside them.

    Args:
        images: 0 where unavailable.
        available: (K,) bool.
        augmentation: random changes.
        generator: where the randomness comes from.
        dims: axes of an image, 2 or 3.
    """
    change = augmentation.draw(generator, int(available.sum()), dims)
    images[available] = change.move(images[available])
    shown = images.clone()
    shown[available] = change.recolour(images[available])
    return shown


def paired_places(
    cohort: Cohort,
    contrasts: Sequence[str],
    split: str,
    min_foreground: float,
    *,
    slices_per_subject: int | None = None,
    axis: int = 2,
    complete: bool = False,
) -> list[Place]:
    """Slices of the subjects that have at least two of the contrasts (or the only one, if one is asked), or all.

    Raises:
        InputError: if such a subject's scans lie on different grids.
    """
    places, least = [], len(contrasts) if complete else min(2, len(contrasts))
    for subject in cohort.subjects(split):
        shown = [contrast for contrast in contrasts if contrast in cohort.available(subject)]
        if len(shown) < least:
            continue
        _check_registered(cohort, subject)
        share = np.max([_foreground(cohort, subject, contrast, axis) for contrast in shown], axis=0)
        places += [(subject, z) for z in chosen_slices(share, min_foreground, slices_per_subject)]
    return places


def _foreground(cohort: Cohort, subject: str, contrast: str, axis: int) -> np.ndarray:
    """Share of each slice along an axis that is foreground, (n,): as recorded of axial slices, else counted."""
    if axis == 2:
        return cohort.foreground(subject, contrast)
    image = cohort.read(subject, contrast)
    others = tuple(other for other in range(3) if other != axis)
    return (image > foreground_threshold(image, contrast, background=0.0)).mean(axis=others)


def slice_places(
    cohort: Cohort, contrast: str, split: str, min_foreground: float, *, slices_per_subject: int | None = None
) -> list[Place]:
    """Slices of one contrast."""
    return [
        (subject, z)
        for subject in cohort.subjects(split)
        if contrast in cohort.available(subject)
        for z in chosen_slices(cohort.foreground(subject, contrast), min_foreground, slices_per_subject)
    ]


def chosen_slices(share: np.ndarray, min_foreground: float, slices_per_subject: int | None) -> list[int]:
    """Which axial slices of a subject are trained on.

    Args:
        share: foreground by slice, (Z,) in [0, 1].
        min_foreground: slices with less are left out.
        slices_per_subject: n, if only the n contiguous slices with the most foreground are taken (of equal blocks the
            lowest); None for all. SynDiff (section IV-A) takes 100 of a head and 90 of a pelvis.
    """
    first, n = 0, len(share)
    if slices_per_subject is not None and slices_per_subject < n:
        n = slices_per_subject
        # Shares are stored to five digits: rounding finds equal sums equal.
        first = int(np.lib.stride_tricks.sliding_window_view(share, n).sum(axis=1).round(6).argmax())
    return [z for z in range(first, first + n) if share[z] >= min_foreground]


def whole_subject(
    cohort: Cohort,
    subject: str,
    contrasts: Sequence[str],
    *,
    acceleration: Acceleration = (),
    tissue: bool = False,
    crop: Crop | None = None,
) -> dict[str, Tensor]:
    """One subject's prepared scans, as a run of this acceleration sees them, as a batch of one.

    Of a test subject on a crop (`Cohort.crop`).

    Returns:
        `images` (1, K, X, Y, Z) in [−1, 1], 0 where unavailable, and `available` (1, K) bool; with `tissue` also
        `tissue` (1, K, 4, X, Y, Z), densities by each contrast, 0 where unavailable.

    Raises:
        InputError: if the subject has none of the contrasts, or has them on different grids.
    """
    shown = [contrast for contrast in contrasts if contrast in cohort.available(subject)]
    if not shown:
        raise InputError(f"{cohort.folder}: subject {subject} has none of {', '.join(contrasts)}")
    _check_registered(cohort, subject)
    images = torch.zeros(1, len(contrasts), *cohort.shape(subject, shown[0]))
    for k, contrast in enumerate(contrasts):
        if contrast in shown:
            images[0, k] = to_network(read_image(cohort, subject, contrast, acceleration=acceleration, crop=crop))
    batch = {"images": images, "available": torch.tensor([[contrast in shown for contrast in contrasts]])}
    if tissue:
        batch["tissue"] = read_tissue(cohort, subject, contrasts, images.shape[2:], crop=crop)[None]
    return batch


def read_tissue(
    cohort: Cohort,
    subject: str,
    contrasts: Sequence[str],
    shape: Sequence[int],
    *,
    z: int | None = None,
    crop: Crop | None = None,
) -> Tensor:
    """Tissue densities by each of the K contrasts, (K, 4, *shape): 0 where a scan is not there or shows none (CT).

    Args:
        cohort: the prepared cohort.
        subject: name of the subject.
        contrasts: the run's.
        shape: (X, Y, Z), or (X, Y) of one slice.
        z: that slice, None for all.
        crop: of a test subject (`Cohort.crop`), None for the one on all its scans.

    Raises:
        InputError: if a scan's densities were not made.
    """
    densities = torch.zeros(len(contrasts), 4, *shape)
    for k, contrast in enumerate(contrasts):
        if contrast in cohort.available(subject) and contrast in WEIGHTS:
            densities[k] = torch.from_numpy(cohort.read_tissue(subject, contrast, z, crop=crop))
    return densities


def _check_registered(cohort: Cohort, subject: str) -> None:
    if not cohort.registered(subject):
        raise InputError(
            f"{cohort.folder}: the scans of {subject} lie on different grids: register and resample them to one of "
            "them and prepare again, or leave the subject out"
        )


def _in_plane_size(cohort: Cohort, contrasts: Sequence[str], split: str, axis: int = 2) -> tuple[int, int]:
    """(H, W) of the split's slices; along another axis than the last W is the highest scan's."""
    first, second = (other for other in range(3) if other != axis)
    sizes = {
        (cohort.shape(subject, contrast)[first], cohort.shape(subject, contrast)[second])
        for subject in cohort.subjects(split)
        for contrast in contrasts
        if contrast in cohort.available(subject)
    }
    if axis != 2 and sizes:
        sizes = {(x, max(z for _, z in sizes)) for x, _ in sizes}
    if len(sizes) > 1:
        found = ", ".join(f"{x}×{y}" for x, y in sorted(sizes))
        raise InputError(f"{cohort.folder}: slices of different sizes ({found}): prepare with a `size` in plane")
    if not sizes:
        raise InputError(f"{cohort.folder}: no {split} scans of {', '.join(contrasts)}: change the split or contrasts")
    return sizes.pop()


def keyed_generator(*key: str | int) -> np.random.Generator:
    """Random numbers that depend on the key alone."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))
