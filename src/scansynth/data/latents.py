"""Latents of a prepared cohort on disk, and the training samples that are made of them.

latents/<key>/<subject>/<contrast>.b2nd   float32 (c, X/f, Y/f, Z), as the first stage gives them, one block a slice
latents/<key>/<subject>/<contrast>.json   sums over the places that show foreground; written last

They lie in the cohort's folder; the key is a hash of the first stage's weights and of what it was shown.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from scansynth.data.arrays import Sum, is_whole, read_array, write_array
from scansynth.data.cohort import Cohort
from scansynth.data.datasets import SliceDataset, read_tissue
from scansynth.errors import InputError
from scansynth.files import write_text
from scansynth.given import offsets
from scansynth.ranges import Finite, Natural
from scansynth.records import read_json

SUMS_OF = "foreground"
"""What a scan's sums are over. Those without this word are of before, over whole slices: they are computed anew."""

CURE = "delete the folder `latents` of the cohort and train again"


class _Sums(TypedDict):
    of: NotRequired[str]
    file: NotRequired[Sum]
    """Size and hash of the latents."""
    count: Natural
    sum: list[Finite]
    sum_of_squares: list[Finite]


@dataclass(frozen=True)
class LatentStore:
    """Latents of one first stage."""

    folder: Path
    _known: dict[tuple[str, str], Sum | None] = field(default_factory=dict, repr=False, compare=False)
    """Subject and contrast → size and hash of the latents; None where an older version wrote none."""

    def has(self, subject: str, contrast: str) -> bool:
        """Whether a scan's latents are there, with sums over its foreground."""
        path = self._path(subject, contrast)
        if not path.with_suffix(".json").is_file():
            return False
        try:
            sums = self._sums(subject, contrast)
        except InputError:  # encoded again
            return False
        return sums.get("of") == SUMS_OF and ("file" not in sums or is_whole(path, sums["file"]))

    def write(self, subject: str, contrast: str, latents: np.ndarray, shown: np.ndarray) -> None:
        """Keep a scan's latents.

        Args:
            subject: name of the subject.
            contrast: of the scan.
            latents: (c, X/f, Y/f, Z) float32.
            shown: which of its places show foreground, (X/f, Y/f, Z) bool; statistics are theirs.
        """
        values = latents[:, shown].astype(np.float64)
        sums = {
            "of": SUMS_OF,
            "file": write_array(latents, self._path(subject, contrast)),
            "count": values.shape[1],
            "sum": values.sum(1).tolist(),
            "sum_of_squares": np.square(values).sum(1).tolist(),
        }
        write_text(self._path(subject, contrast).with_suffix(".json"), json.dumps(sums))

    def read(self, subject: str, contrast: str, z: int | slice) -> np.ndarray:
        """One slice's latent, (c, X/f, Y/f) float32, or those of some, (c, X/f, Y/f, n)."""
        path = self._path(subject, contrast)
        if (subject, contrast) not in self._known:
            self._known[subject, contrast] = self._sums(subject, contrast).get("file")
        return read_array(path, z, CURE, known=self._known[subject, contrast])

    def _sums(self, subject: str, contrast: str) -> "_Sums":
        return read_json(self._path(subject, contrast).with_suffix(".json"), _Sums, CURE)

    def statistics(self, scans: Sequence[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel over the foreground of scans (subject and contrast), (c,) each.

        Raises:
            InputError: if no scan shows anything.
        """
        found = [self._sums(*scan) for scan in scans]
        assert all(one.get("of") == SUMS_OF for one in found), "sums over whole slices are computed anew first"
        count = sum(one["count"] for one in found)
        if not count:
            raise InputError(f"{self.folder}: no training scan shows any foreground: prepare the cohort again")
        mean, square = (np.sum([one[name] for one in found], axis=0) / count for name in ("sum", "sum_of_squares"))
        return mean, np.sqrt(square - mean**2)

    def _path(self, subject: str, contrast: str) -> Path:
        return self.folder / subject / f"{contrast}.b2nd"


class LatentDataset(SliceDataset):
    """Slices of a split as latents, in the order that `SliceDataset` has.

    Args:
        cohort: the prepared cohort.
        contrasts: the run's K contrasts, in the order of the channels.
        seed: of the order.
        min_foreground: as there.
        slices_per_subject: as there.
        store: latents of all of the split's scans.
        mean: that is taken from them, (c,).
        deviation: that they are divided by, (c,).
        tissue: whether samples have tissue maps.
        neighbours: slices on each side of a slice whose latents are given with it.
        background: from the size of a slice (H, W), the latent of one that shows nothing, which lies beyond a scan,
            (c, h, w); of samples with neighbours.

    Raises:
        InputError: as there, or if there are no tissue maps.
    """

    def __init__(
        self,
        cohort: Cohort,
        contrasts: Sequence[str],
        seed: int,
        *,
        min_foreground: float,
        slices_per_subject: int | None,
        store: LatentStore,
        mean: Tensor,
        deviation: Tensor,
        tissue: bool,
        neighbours: int = 0,
        background: Callable[[Sequence[int]], Tensor] | None = None,
    ):
        super().__init__(
            cohort,
            contrasts,
            "train",
            paired=True,
            seed=seed,
            min_foreground=min_foreground,
            slices_per_subject=slices_per_subject,
            neighbours=neighbours,
        )
        self.background = background(self.size) if neighbours and background else None
        self.store, self.tissue = store, tissue
        self.mean, self.deviation = mean[:, None, None], deviation[:, None, None]
        if tissue:  # said before anything is trained
            for subject in cohort.subjects("train"):
                read_tissue(cohort, subject, self.contrasts, self.size, z=0)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        """Sample i: `latents` (K, c, h, w), normalised, 0 where unavailable, and `available` (K,) bool.

        With neighbours also `neighbours` (K, 2n, c, h, w), those below first, the latent of background beyond the scan
        and 0 where unavailable; with `tissue` also `tissue` (K, 4, H, W): densities by each contrast, 0 where
        unavailable.
        """
        places = self.places(i)
        available = torch.tensor([contrast in places for contrast in self.contrasts])
        latents = [
            self._latents(contrast, *places[contrast]) if contrast in places else None for contrast in self.contrasts
        ]
        like = torch.zeros_like(next(latent for latent in latents if latent is not None))
        every = torch.stack([like if latent is None else latent for latent in latents])
        sample = {"latents": every[:, 0], "available": available}
        if self.neighbours:
            sample["neighbours"] = every[:, 1:]
        if self.tissue:
            subject, z = next(iter(places.values()))
            sample["tissue"] = read_tissue(self.cohort, subject, self.contrasts, self.size, z=z)
        return sample

    def _latents(self, contrast: str, subject: str, place: int) -> Tensor:
        """Of a slice and its neighbours, (1 + 2n, c, h, w)."""
        first = max(0, place - self.neighbours)
        some = slice(first, min(self.cohort.shape(subject, contrast)[2], place + self.neighbours + 1))
        stored = torch.from_numpy(self.store.read(subject, contrast, some))
        latents = []
        for away in (0, *offsets(self.neighbours)):
            if some.start <= place + away < some.stop:
                latents.append((stored[..., place + away - first] - self.mean) / self.deviation)
            else:
                assert self.background is not None, "samples with neighbours know what lies beyond a scan"
                latents.append(self.background)
        return torch.stack(latents)
