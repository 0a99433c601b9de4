"""Synthetic images as files: each with a sidecar that says what it is, and that it is no scan."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.files import write_text

NOTICE = "Synthetic image, made by a generative model. For research. Not a scan, not for diagnosis."
HYPOTHETICAL = "Hypothetical map: what a network's features stand for. Not measured, not checked, not for diagnosis."


@dataclass(frozen=True)
class Synthesis:
    """A contrast that was not acquired, on the grid of its source."""

    array: np.ndarray
    """(X, Y, Z) float32, RAS+, in `provenance["unit"]`. With several samples, their mean."""
    deviation: np.ndarray | None
    """Voxel-wise standard deviation over the samples, the same shape and unit; None for one sample."""
    samples: tuple[np.ndarray, ...]
    """The single samples, where they are kept; empty for one."""
    provenance: Mapping[str, Any]
    """What the sidecar says."""
    like: Volume
    """The source whose grid this is on."""
    maps: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Hypothetical maps by name and unit (`T1 (s)`), (X, Y, Z) float32, of the first sample, where asked for."""

    def write(self, path: str | Path) -> list[Path]:
        """Write the image and its JSON sidecar; with several samples also `_std` and `_sample-N` files.

        Hypothetical maps become `_T1map`, `_T2map`, … files.

        Args:
            path: `.nii` or `.nii.gz`.

        Returns:
            The files written, sidecars included. Images first, so that a sidecar says that its image is whole.

        Raises:
            InputError: if the path is of another kind or cannot be written.
        """
        path = Path(path)
        written: list[Path] = []
        for name, array in self.maps.items():
            written += self._write_map(path, name, array)
        images = {"": self.array}
        if self.deviation is not None:
            images["_std"] = self.deviation
        images |= {f"_sample-{number}": sample for number, sample in enumerate(self.samples, 1)}
        for suffix, array in reversed(images.items()):
            file = with_suffix(path, suffix)
            meaning = {"": "sample" if self.deviation is None else "mean of the samples", "_std": "standard deviation"}
            self.like.write_array(file, array, f"SYNTHETIC {self.provenance['target']} by scansynth. Not a scan.")
            content = {**self.provenance, "image": meaning.get(suffix, "sample")}
            write_text(sidecar_of(file), json.dumps(content, indent=1))
            written += [file, sidecar_of(file)]
        return written

    def _write_map(self, path: Path, name: str, array: np.ndarray) -> list[Path]:
        what, _, unit = name.partition(" ")
        file = with_suffix(path, f"_{what}map")
        self.like.write_array(file, array, f"HYPOTHETICAL {what} by scansynth. Not measured, not a scan.")
        content = {
            **self.provenance, "notice": HYPOTHETICAL, "image": f"hypothetical map of {what}", "hypothetical": True,
            "unit": unit.strip("()"),
        }  # fmt: skip
        write_text(sidecar_of(file), json.dumps(content, indent=1))
        return [file, sidecar_of(file)]


def with_suffix(path: Path, suffix: str) -> Path:
    """`t2.nii.gz`, `_std` → `t2_std.nii.gz`."""
    ending = ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
    return path.with_name(path.name.removesuffix(ending) + suffix + ending)


def sidecar_of(path: Path) -> Path:
    """`t2.nii.gz` → `t2.json`."""
    return path.with_name(path.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def is_made(path: Path, wanted: Mapping[str, Any], what: str) -> bool:
    """Whether an image is there, whole, and its sidecar says that it was made as wanted.

    Args:
        path: of the image.
        wanted: entries of its sidecar.
        what: is wrong with another one, for the message.

    Raises:
        InputError: if there is another one.
    """
    try:
        found = json.loads(sidecar_of(path).read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # the sidecar comes last: without it the image may be half done
        return False
    if any(found.get(key) != value for key, value in wanted.items()):
        raise InputError(f"{path} is there {what}: choose another -o, or --overwrite")
    return True
