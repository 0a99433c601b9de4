"""Synthetic images as files: each says what it is, and that it is no scan; none ever takes the place of a scan.

A translation is an image (`t2.nii.gz`) and its parts: `_std`, `_sample-N`, `_interval-90` and `_T1map` files. Each has
its mark in the NIfTI header (`descrip` and an extension) and a JSON sidecar (`t2.json`, with `"synthetic": true`, size
and SHA-256 of the image). Only what is so marked is ever replaced.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from scansynth.data.readers import READERS
from scansynth.data.subject import sidecar_of, stem_of
from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.files import sha256_of
from scansynth.synthesis.writers import Part, nifti, writing
from scansynth.users_files import read_json

NOTICE = "Synthetic image, made by a generative model. For research. Not a scan, not for diagnosis."
HYPOTHETICAL = "Hypothetical map: what a network's features stand for. Not measured, not checked, not for diagnosis."

_MARK = re.compile(rb"(SYNTHETIC|HYPOTHETICAL) .*by scansynth")
_NAME = 40  # characters of a contrast's name in the header's 79 bytes, so that the whole mark has room


@dataclass(frozen=True, kw_only=True)
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
    intervals: Mapping[float, np.ndarray] = field(default_factory=dict)
    """Half the width of the interval of each nominal coverage around the image, (X, Y, Z) float32 in its unit, 0
    outside the head; where asked for."""
    given: Mapping[str, Volume] = field(default_factory=dict)
    """The sources by contrast, on its grid."""
    files: tuple[Path, ...] = ()
    """The files that it was made of; what was in memory only is none."""

    def write(self, path: str | Path, *, overwrite: bool = True) -> list[Path]:
        """Write the image and its JSON sidecar; with several samples also `_std` and `_sample-N` files.

        Hypothetical maps become `_T1map`, `_T2map`, … files. What stands there is replaced where it is marked
        synthetic, and only there; parts that the image before had and this one has not are removed. A sidecar states
        its image's size in bytes and SHA-256, that of the image itself also the names of its parts, so that `is_made`
        sees whether all are whole.

        Args:
            path: `.nii` or `.nii.gz`.
            overwrite: whether what is marked synthetic may be replaced.

        Returns:
            The files written, sidecars included. Images first, so that a sidecar says that its image is whole; the
            image itself comes after its parts.

        Raises:
            InputError: if the path is of another kind or cannot be written (`WriteError`), or if one of the files would
                take the place of a source or of a file that is not marked synthetic; nothing is written then.
        """
        path = Path(path)
        parts = {nifti.part_path(path, kind): part for kind, part in self._parts().items()}
        check_replaceable(parts, self.sources, overwrite=overwrite)
        before = _parts_named(path)
        written = nifti.write(parts, self.like, provenance=self.provenance)
        kept = set(map(_identity, self.sources))
        with writing(path):
            for part in before:
                if part not in parts and _identity(part) not in kept and _is_ours(part, part):
                    part.unlink()
                    sidecar_of(part).unlink(missing_ok=True)
        return written

    @property
    def sources(self) -> list[Path]:
        """Its files, and that of its grid."""
        return [*self.files, *([self.like.path] if self.like.path else [])]

    def _parts(self) -> dict[str, Part]:
        """Kind of part (`nifti.part_path`) → file, the image itself last."""
        parts = {}
        for name, array in self.maps.items():
            what, _, unit = name.partition(" ")
            mark = f"HYPOTHETICAL {what} by scansynth. Not measured, not a scan."
            content = {
                "notice": HYPOTHETICAL, "image": f"hypothetical map of {what}", "hypothetical": True,
                "unit": unit.strip("()"),
            }  # fmt: skip
            parts[f"{what}map"] = Part(array, mark, content)
        mark = f"SYNTHETIC {self.provenance['target'][:_NAME]} by scansynth. Not a scan."
        for level, width in self.intervals.items():
            image = f"half the width of the {100 * level:g} % interval"
            parts[f"interval-{100 * level:g}"] = Part(width, mark, {"image": image, "nominal_coverage": level})
        for number, sample in reversed(list(enumerate(self.samples, 1))):
            parts[f"sample-{number}"] = Part(sample, mark, {"image": "sample"})
        if self.deviation is not None:
            parts["std"] = Part(self.deviation, mark, {"image": "standard deviation"})
        realism = 0 if self.provenance.get("mean") else self.provenance.get("realism")
        single = "sample" if realism is None else "mean given the sources, by one call"
        if realism:
            single = f"between the mean given the sources and a sample, realism {realism:g}"
        parts[""] = Part(self.array, mark, {"image": single if self.deviation is None else "mean of the samples"})
        return parts


def check_replaceable(images: Iterable[Path], sources: Iterable[Path] = (), *, overwrite: bool = True) -> None:
    """Check that images can be written without the loss of anything acquired: before they are made, and before writing.

    A file that stands in an image's or its sidecar's place must be marked synthetic itself: the image in its NIfTI
    header, by either of the two marks, the sidecar by its `"synthetic": true`. One of the two that is emptied or cut
    down to less than a header goes by the other's mark. A scan of the same name but for the ending would get the
    sidecar for its own, so it must be marked too.

    Args:
        images: that will be written, each with its sidecar; where they are the parts of one, that comes last.
        sources: that they are made of. These and their sidecars are never replaced, whatever their marks; links to
            them, symbolic or hard, count as they do.
        overwrite: whether images that are marked may be replaced; parts of one that a stop has kept from being written
            always are.

    Raises:
        InputError: naming the first file in the way, or whose name is not that of a NIfTI file, and the way on.
    """
    kept: set[tuple[int, int]] | None = None
    images = list(images)
    for image in images:
        itself = images[-1]
        nifti.check_name(image)
        sidecar = sidecar_of(image)
        _check_folder(image.parent)
        for file in (image, sidecar):
            if not os.path.lexists(file):
                continue
            if kept is None:  # thousands of sources are looked at only if something stands there at all
                kept = {one for source in sources for one in map(_identity, (source, sidecar_of(source))) if one}
            if _identity(file) in kept:
                raise InputError(f"{file} is a source of the synthesis, or a link to one: choose another -o")
            if not _is_ours(file, image):
                raise InputError(
                    f"{file} is not marked synthetic, so it may be acquired and nothing overwrites it (--overwrite "
                    "neither): choose another -o"
                )
        for twin in _twins(image):
            if os.path.lexists(twin) and not _is_ours(twin, twin):
                raise InputError(
                    f"{twin} is not marked synthetic, and {sidecar.name} would be taken for its sidecar: choose "
                    "another -o"
                )
        if not overwrite and os.path.lexists(image) and not (image != itself and _was_stopped(image, itself)):
            raise InputError(f"{image} is there already; choose another -o, or --overwrite")


def _twins(image: Path) -> list[Path]:
    """The names that an image of the same sidecar may have, its own left out."""
    stem = stem_of(image.name)
    endings = [written for ending in READERS for written in (ending, ending.upper())]
    return [image.with_name(stem + ending) for ending in endings if stem + ending != image.name]


def content_of(sidecar: Path) -> dict[str, Any]:
    """What a JSON file says; nothing where it is not there or holds no JSON object."""
    try:
        content = read_json(sidecar)
    except InputError:
        return {}
    return content if isinstance(content, dict) else {}


def is_whole(image: Path, *, hashed: bool = True) -> bool:
    """Whether an image is there with its sidecar, with the size and, if it is `hashed`, the SHA-256 that this states.

    Sidecars of older versions state no hash, the oldest no size either: their image must not be empty.
    """
    content, size = content_of(sidecar_of(image)), _size(image)
    if not content or not size or size != content.get("bytes", size):
        return False
    return not hashed or "sha256" not in content or _digest(image, size, image.stat().st_mtime_ns) == content["sha256"]


@cache
def _digest(image: Path, size: int, changed: int) -> str | None:
    """SHA-256 of a file, read once while its size and time stay the same; None where it cannot be read."""
    try:
        return sha256_of(image)
    except OSError:
        return None


def _parts_named(path: Path) -> set[Path]:
    """The parts that an image's sidecar names."""
    names = content_of(sidecar_of(path)).get("parts")
    return {path.with_name(name) for name in names or () if isinstance(name, str) and Path(name).name == name}


def is_made(path: Path, wanted: Mapping[str, Any], what: str, *, images: Iterable[Path] = ()) -> bool:
    """Whether an image and its parts are there, whole, and its sidecar says that it was made as wanted.

    Args:
        path: of the image.
        wanted: entries of its sidecar.
        what: is wrong with another one, for the message.
        images: that it should consist of (`images_of`), beside the parts that its sidecar names.

    Raises:
        InputError: if there is another one.
    """
    found = content_of(sidecar_of(path))
    if not found:  # the sidecar comes last: without it the image may be half done
        return False
    parts = {path, *_parts_named(path)}
    if any(found.get(key) != value for key, value in wanted.items()):
        if any(map(_size, parts)):
            raise InputError(f"{path} is there {what}: choose another -o, or --overwrite")
        return False
    return all(map(is_whole, {*parts, *images}))


def _was_stopped(part: Path, itself: Path) -> bool:
    """Whether a file is part of an image that is not there: that comes last, and a stop has come before."""
    told = content_of(sidecar_of(part))
    return not os.path.lexists(itself) and told.get("synthetic") is True and "parts" not in told


def _is_ours(file: Path, image: Path) -> bool:
    """Whether an image or its sidecar is marked synthetic; one that holds nothing goes by the other's mark."""
    sidecar = sidecar_of(image)
    if not file.is_file():  # a folder, a device, or a link to what is not there at the moment
        return False
    in_sidecar = content_of(sidecar).get("synthetic") is True
    if file == sidecar:
        return in_sidecar or (not _size(file) and _is_marked(nifti.marks_of(image)))
    marks = nifti.marks_of(file)
    return in_sidecar if marks is None else _is_marked(marks)


def _is_marked(marks: Iterable[bytes] | None) -> bool:
    """Whether one of the texts of a header says that the image is synthetic."""
    return any(map(_MARK.match, marks or ()))


def _check_folder(folder: Path) -> None:
    """Raise InputError if files cannot stand in a folder because it, or one above it, is a file."""
    there = next((one for one in (folder, *folder.parents) if os.path.lexists(one)), None)
    if there is not None and not there.is_dir():
        raise InputError(f"{there} is no folder: choose another -o")


def _identity(path: Path) -> tuple[int, int] | None:
    """What two names of one file have in common, as in `os.path.samefile`; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _size(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return 0
