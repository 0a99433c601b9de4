"""Volumes that a trained run made of a cohort's training subjects, on disk: what the run that builds on it trains with.

made/<key>/<subject>/<contrast>.b2nd   float32 (X, Y, Z) in [0, 1], made from the subject's other contrasts alone
made/<key>/<subject>/<contrast>.json   its size and hash; written last

They lie in the cohort's folder; the key is a hash of the run's weights and settings, of the runs that it builds on, and
of what it was shown.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import numpy as np

from scansynth.data.arrays import Sum, is_whole, read_array, write_array
from scansynth.errors import InputError
from scansynth.files import write_text
from scansynth.records import read_json

CURE = "delete the folder `made` of the cohort and train again"


class _State(TypedDict):
    file: Sum


@dataclass(frozen=True)
class MadeStore:
    """Volumes made by one run."""

    folder: Path
    _known: dict[tuple[str, str], Sum] = field(default_factory=dict, repr=False, compare=False)
    """Subject and contrast → size and hash of the volume."""

    def has(self, subject: str, contrast: str) -> bool:
        """Whether a contrast of a subject was made and is whole."""
        path = self._path(subject, contrast)
        if not path.with_suffix(".json").is_file():
            return False
        try:
            return is_whole(path, self._sum(subject, contrast))
        except InputError:  # made again
            return False

    def write(self, subject: str, contrast: str, image: np.ndarray) -> None:
        """Keep what was made, (X, Y, Z) float32 in [0, 1]."""
        path = self._path(subject, contrast)
        self._known[subject, contrast] = write_array(image, path)
        write_text(path.with_suffix(".json"), json.dumps({"file": self._known[subject, contrast]}))

    def read(self, subject: str, contrast: str, z: int | None = None, *, axis: int = 2) -> np.ndarray:
        """What was made, (X, Y, Z) float32 in [0, 1], or its slice z along an axis.

        Raises:
            InputError: if it is missing or damaged.
        """
        known = self._sum(subject, contrast)
        return read_array(self._path(subject, contrast), z, CURE, axis=axis, known=known)

    def _sum(self, subject: str, contrast: str) -> Sum:
        if (subject, contrast) not in self._known:
            path = self._path(subject, contrast).with_suffix(".json")
            self._known[subject, contrast] = read_json(path, _State, CURE)["file"]
        return self._known[subject, contrast]

    def _path(self, subject: str, contrast: str) -> Path:
        return self.folder / subject / f"{contrast}.b2nd"
