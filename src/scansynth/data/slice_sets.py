"""Training sets of slices: some axial slices of one volume, as the method draws them."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from scansynth.data.cohort import Cohort
from scansynth.data.datasets import Acceleration, keyed_generator, paired_places, read_image, to_network
from scansynth.data.labels import fit_labels, subject_labels
from scansynth.data.samples import Samples
from scansynth.errors import InputError


class SliceSetDataset(Samples):
    """Sets of slices of a split's subjects, in an endless order of epochs; an epoch shows each subject once.

    Sample i depends on `seed` and i alone, as in `SliceDataset`. A sample shows the same slices of one subject in all
    contrasts that the subject has. Empty slices count, too: a whole volume has them. Only the slices that are shown
    are read.

    Args:
        cohort: the prepared cohort.
        contrasts: the run's K contrasts, in the order of the channels; with one alone, every subject that has it.
        split: train, val or test.
        seed: of order and sets.
        largest: slices of a set; smaller ones are padded.
        draw: from a volume's depth, which of its slices a sample shows, and which of those are targets (`SliceSets`).
        acceleration: accelerated contrasts, with their folds.
        labels: names of the labels that samples have, fitted on the training subjects.

    Raises:
        InputError: if no subject has two of the contrasts (or the only one), scans are not registered, slices differ
            in size, or a label is not there or does not fit those of training.
    """

    def __init__(
        self,
        cohort: Cohort,
        contrasts: Sequence[str],
        split: str,
        *,
        seed: int,
        largest: int,
        draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]],
        acceleration: Acceleration = (),
        labels: Sequence[str] = (),
    ):
        self.cohort, self.contrasts, self.seed = cohort, tuple(contrasts), seed
        self.largest, self.draw = largest, draw
        self.acceleration = acceleration
        self.subjects = list(dict.fromkeys(subject for subject, _ in paired_places(cohort, contrasts, split, 0.0)))
        if not self.subjects:
            wanted = f"two of {', '.join(contrasts)}" if len(self.contrasts) > 1 else contrasts[0]
            raise InputError(f"{cohort.folder}: no {split} subject has {wanted}: choose other contrasts")
        sizes = {self._shape(subject)[:2] for subject in self.subjects}
        if len(sizes) > 1:
            found = ", ".join(f"{x}×{y}" for x, y in sorted(sizes))
            raise InputError(f"{cohort.folder}: slices of different sizes ({found}): prepare with a `size` in plane")
        self.size = sizes.pop()
        fitted = fit_labels(cohort, labels, contrasts)
        self.labels = {subject: subject_labels(cohort, subject, fitted) for subject in self.subjects} if fitted else {}

    def _shown(self, subject: str) -> list[str]:
        return [contrast for contrast in self.contrasts if contrast in self.cohort.available(subject)]

    def _shape(self, subject: str) -> tuple[int, int, int]:
        return self.cohort.shape(subject, self._shown(subject)[0])

    def __len__(self) -> int:
        """Samples in an epoch."""
        return len(self.subjects)

    def place(self, i: int) -> tuple[str, Tensor, Tensor]:
        """Which subject sample i shows, the indices of its slices (n,), and which of them are targets (n,)."""
        turn, number = divmod(i, len(self.subjects))
        order = keyed_generator(self.seed, "order", "slice sets", turn).permutation(len(self.subjects))
        subject = self.subjects[order[number]]
        generator = torch.Generator().manual_seed(int(keyed_generator(self.seed, "slice set", i).integers(2**63)))
        index, is_target = self.draw(self._shape(subject)[2], generator)
        return subject, index, is_target

    def shows(self, i: int) -> list[str]:
        """The subject whose slices sample i is."""
        return [self.place(i)[0]]

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Sample i, padded to n = `largest` slices.

        Returns:
            `slices` (n, K, H, W) in [−1, 1], 0 where unavailable or padded; `index` (n,) int64, `is_target` (n,) and
            `valid` (n,) bool, 0 or false where padded; `available` (K,) bool; `depth` () int64; with labels, `labels`
            (D,), 0 where unknown.
        """
        subject, index, is_target = self.place(i)
        n, count = self.largest, len(index)
        slices = torch.zeros(n, len(self.contrasts), *self.size)
        available = torch.zeros(len(self.contrasts), dtype=torch.bool)
        for contrast in self._shown(subject):
            k = self.contrasts.index(contrast)
            for number, z in enumerate(index.tolist()):
                slices[number, k] = to_network(
                    read_image(self.cohort, subject, contrast, acceleration=self.acceleration, z=z)
                )
            available[k] = True
        rest = (0, n - count)
        return {
            "slices": slices,
            "index": torch.nn.functional.pad(index, rest),
            "is_target": torch.nn.functional.pad(is_target, rest),
            "valid": torch.arange(n) < count,
            "available": available,
            "depth": torch.tensor(self._shape(subject)[2]),
            **({"labels": self.labels[subject]} if self.labels else {}),
        }
