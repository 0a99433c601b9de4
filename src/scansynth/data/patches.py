"""Training patches: random boxes of registered scans."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scansynth.data.augmentation import Augmentation
from scansynth.data.cohort import Cohort
from scansynth.data.datasets import (
    Acceleration,
    augmented,
    keyed_generator,
    paired_places,
    read_image,
    to_network,
)
from scansynth.data.samples import Samples
from scansynth.errors import InputError


class PatchDataset(Samples):
    """Random patches of a split's subjects, in an endless order of epochs; an epoch shows each subject some times over.

    Sample i depends on `seed` and i alone, as in `SliceDataset`. A sample shows one patch of one subject in all
    contrasts that the subject has; its corner is uniform over the places where the patch lies inside the scan
    (CG-DDPM, section 3.2: two patches a scan).

    Args:
        cohort: the prepared cohort.
        contrasts: the run's K contrasts, in the order of the channels.
        split: train, val or test.
        seed: of order and corners.
        size: voxels of a patch, (X, Y, Z).
        per_subject: patches of a subject in an epoch.
        acceleration: accelerated contrasts, with their folds.
        augmentation: random changes, or None.

    Raises:
        InputError: if no subject has two of the contrasts, scans are not registered, or smaller than a patch.
    """

    def __init__(
        self,
        cohort: Cohort,
        contrasts: Sequence[str],
        split: str,
        *,
        seed: int,
        size: tuple[int, int, int],
        per_subject: int = 2,
        acceleration: Acceleration = (),
        augmentation: Augmentation | None = None,
    ):
        self.cohort, self.contrasts, self.size, self.seed = cohort, tuple(contrasts), size, seed
        self.acceleration, self.augmentation = acceleration, augmentation
        subjects = dict.fromkeys(subject for subject, _ in paired_places(cohort, contrasts, split, 0.0))
        if not subjects:
            raise InputError(f"{cohort.folder}: no {split} subject has two of {', '.join(contrasts)}")
        self.subjects = [subject for subject in subjects for _ in range(per_subject)]
        for subject in subjects:
            shape = self._shape(subject)
            if any(side < width for side, width in zip(shape, size, strict=True)):
                raise InputError(
                    f"{cohort.folder}: {subject} has {'×'.join(map(str, shape))} voxels, less than a patch of "
                    f"{'×'.join(map(str, size))}: choose a smaller --settings.patch, or prepare another --size"
                )

    def _shape(self, subject: str) -> tuple[int, int, int]:
        return self.cohort.shape(subject, self._shown(subject)[0])

    def _shown(self, subject: str) -> list[str]:
        return [contrast for contrast in self.contrasts if contrast in self.cohort.available(subject)]

    def __len__(self) -> int:
        """Samples in an epoch."""
        return len(self.subjects)

    def place(self, i: int) -> tuple[str, tuple[int, int, int]]:
        """Which subject sample i shows, and the corner of its patch."""
        turn, number = divmod(i, len(self.subjects))
        order = keyed_generator(self.seed, "order", "patches", turn).permutation(len(self.subjects))
        subject = self.subjects[order[number]]
        free = [side - width + 1 for side, width in zip(self._shape(subject), self.size, strict=True)]
        x, y, z = keyed_generator(self.seed, "corner", i).integers(free)
        return subject, (int(x), int(y), int(z))

    def shows(self, i: int) -> list[str]:
        """The subject whose patch sample i is."""
        return [self.place(i)[0]]

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Sample i: `images` (K, X, Y, Z) in [−1, 1], 0 where unavailable, and `available` (K,) bool.

        With intensities that change also `sources` (K, X, Y, Z), the images with changed ones.
        """
        subject, (x, y, z) = self.place(i)
        width, height, depth = self.size
        images = torch.zeros(len(self.contrasts), *self.size)
        available = torch.zeros(len(self.contrasts), dtype=torch.bool)
        for contrast in self._shown(subject):
            k = self.contrasts.index(contrast)
            slab = read_image(self.cohort, subject, contrast, acceleration=self.acceleration, z=slice(z, z + depth))
            images[k] = slab[x : x + width, y : y + height]
            available[k] = True
        sample = {"images": images, "available": available}
        if self.augmentation is not None:
            generator = keyed_generator(self.seed, "augmentation", i)
            shown = augmented(images, available, self.augmentation, generator, dims=3)
            if self.augmentation.recolours:
                shown[available] = to_network(shown[available])
                sample["sources"] = shown
        images[available] = to_network(images[available])
        return sample
