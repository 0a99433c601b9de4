"""Synthetic images as NIfTI files: each with its mark in the header's `descrip` and a JSON sidecar beside it."""

import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from scansynth.data.subject import sidecar_of
from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.files import write_text
from scansynth.synthesis.writers import Part
from scansynth.users_files import open_file

_ENDING = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_START = 4096  # bytes of a file that hold its header, compressed or not


def check_name(image: Path) -> None:
    """Check that an image's name is that of a NIfTI file.

    Raises:
        InputError: if it is not.
    """
    if not _ENDING.search(image.name):
        raise InputError(f"cannot write {image}: give a file name that ends in .nii or .nii.gz")


def write(parts: Mapping[Path, Part], like: Volume, *, provenance: Mapping[str, Any]) -> list[Path]:
    """Write images and their sidecars; what stands in their place is replaced.

    Args:
        parts: file → what goes there. The last one is the image itself, whose sidecar names the others.
        like: the volume whose grid they are on.
        provenance: what all sidecars say.

    Returns:
        The files written, sidecars included, each after its image, so that it says that the image is whole.

    Raises:
        InputError: if a file cannot be written.
    """
    itself = list(parts)[-1]
    sidecar_of(itself).unlink(missing_ok=True)  # what it says of the parts is about to be untrue
    written: list[Path] = []
    for file, part in parts.items():
        sidecar = sidecar_of(file)
        sidecar.unlink(missing_ok=True)
        like.write_array(file, part.array, part.mark)
        content = {**provenance, **part.content, "bytes": file.stat().st_size}
        if file == itself:
            content["parts"] = [other.name for other in parts if other != itself]
        write_text(sidecar, json.dumps(content, indent=1))
        written += [file, sidecar]
    return written


def with_suffix(path: Path, suffix: str) -> Path:
    """`t2.nii.gz`, `_std` → `t2_std.nii.gz`."""
    found = _ENDING.search(path.name)
    ending = found[0] if found else path.suffix
    return path.with_name(path.name.removesuffix(ending) + suffix + ending)


def images_of(
    path: Path, *, samples: int = 1, moments_only: bool = False, maps: bool = False, intervals: bool = False
) -> list[Path]:
    """The images that a translation will write, before it is made; each has a sidecar.

    Args:
        path: of the image itself, which comes last.
        samples: as in `Run.translate`.
        moments_only: as in `Run.translate`.
        maps: as in `Run.translate`. Which ones there are is the method's to say: files stand for them that are there
            and named so.
        intervals: as in `Run.translate`; likewise.
    """
    images = []
    there = sorted(path.parent.iterdir()) if (maps or intervals) and path.parent.is_dir() else []
    for asked, kind in ((maps, r"[^\W_]+map"), (intervals, r"interval-\d+")):
        name = re.compile(re.escape(_ENDING.sub("", path.name)) + rf"_{kind}\.nii(\.gz)?", re.IGNORECASE)
        images += [file for file in there if asked and name.fullmatch(file.name)]
    if samples > 1:
        kept = 0 if moments_only else samples
        images += [with_suffix(path, f"_sample-{number}") for number in range(kept, 0, -1)]
        images.append(with_suffix(path, "_std"))
    return [*images, path]


def description_of(image: Path) -> bytes | None:
    """The `descrip` of a NIfTI file's header, empty for another file; None for one that is shorter than a header."""
    try:
        with open_file(image) as file:
            start = file.read(_START)
        if start.startswith(b"\x1f\x8b"):
            start = zlib.decompressobj(wbits=31).decompress(start, _START)
    except (OSError, InputError, zlib.error):
        return b""
    if len(start) < Nifti1Header.sizeof_hdr:
        return None
    for header in (Nifti1Header, Nifti2Header):
        if header.may_contain_header(start):
            return header(start[: header.sizeof_hdr], check=False)["descrip"].tobytes()
    return b""
