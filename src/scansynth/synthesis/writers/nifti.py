"""Synthetic images as NIfTI files, each with its mark in the header and a JSON sidecar beside it.

The mark stands twice in the header, in `descrip`, which people see and many programs write anew, and in an extension
that holds JSON text, which they hand on.
"""

import contextlib
import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scansynth.data.nifti_header import comments_in
from scansynth.data.subject import sidecar_of, stem_of
from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.files import place_beside, sha256_of, write_text
from scansynth.synthesis.writers import Part, writing
from scansynth.users_files import open_file, parse_json

_ENDING = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_START = 1 << 18  # bytes of a file that hold its header with the extensions, compressed or not
_NOTED = ("synthetic", "hypothetical", "notice", "image", "target", "method", "weights", "seed")
"""What of a sidecar stands in the header's extension, too."""
_BIDS = re.compile(r"(.+)_desc-synthetic_([^\W_]+)")


def check_name(image: Path) -> None:
    """Check that an image's name is that of a NIfTI file.

    Raises:
        InputError: if it is not.
    """
    if not _ENDING.search(image.name):
        raise InputError(f"cannot write {image}: give a file name that ends in .nii or .nii.gz")


def write(parts: Mapping[Path, Part], like: Volume, *, provenance: Mapping[str, Any]) -> list[Path]:
    """Write images and their sidecars; what stands in their place is replaced, once all of them are on the disk.

    Args:
        parts: file → what goes there. The last one is the image itself, whose sidecar names the others.
        like: the volume whose grid they are on.
        provenance: what all sidecars say.

    Returns:
        The files written, sidecars included, each after its image, so that it says that the image is whole.

    Raises:
        WriteError: if a file cannot be written; what stood there is untouched.
    """
    itself = list(parts)[-1]
    staged: dict[Path, Path] = {}
    try:
        with writing(itself):
            for file, part in parts.items():
                sidecar = sidecar_of(file)
                staged |= {one: place_beside(one) for one in (file, sidecar)}
                content = {**provenance, **part.content}
                note = {"mark": part.mark, **{name: content[name] for name in _NOTED if name in content}}
                try:
                    like.write_array(staged[file], part.array, part.mark, note=json.dumps(note))
                except InputError as error:
                    raise error.__cause__ if isinstance(error.__cause__, OSError) else error from None
                content |= {"bytes": staged[file].stat().st_size, "sha256": sha256_of(staged[file])}
                if file == itself:
                    content["parts"] = [other.name for other in parts if other != itself]
                write_text(staged[sidecar], json.dumps(content, indent=1))
            sidecar_of(itself).unlink(missing_ok=True)  # what it says of the parts is about to be untrue
            for place, temporary in staged.items():
                os.replace(temporary, place)
    finally:
        for temporary in staged.values():
            with contextlib.suppress(OSError):
                temporary.unlink()
    return list(staged)


def part_path(path: Path, kind: str) -> Path:
    """Where a part of an image goes; the image itself has no kind.

    `t2.nii.gz`, `std` → `t2_std.nii.gz`. An image that is named by BIDS has parts that are, too, with the entities
    before the suffix: `sub-01_desc-synthetic_T2w.nii.gz`, `std` → `sub-01_desc-syntheticStd_T2w.nii.gz`; `T1map` →
    `sub-01_desc-hypotheticalOfT2w_T1map.nii.gz`.
    """
    if not kind:
        return path
    found = _ENDING.search(path.name)
    ending = found[0] if found else path.suffix
    stem = path.name.removesuffix(ending)
    bids = _BIDS.fullmatch(stem)
    if not bids:
        return path.with_name(f"{stem}_{kind}{ending}")
    entities, suffix = bids.groups()
    if kind.endswith("map"):
        return path.with_name(f"{entities}_desc-hypotheticalOf{suffix}_{kind}{ending}")
    word = "".join(filter(str.isalnum, kind)).capitalize()
    return path.with_name(f"{entities}_desc-synthetic{word}_{suffix}{ending}")


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
    for asked, kind in ((maps, re.compile(r"_([^\W_]+map)$")), (intervals, re.compile(r"(interval-?[\d.]+)", re.I))):
        for file in there if asked else ():
            found = _ENDING.search(file.name) and kind.search(stem_of(file.name))
            if found and stem_of(file.name).lower() == stem_of(part_path(path, found[1]).name).lower():
                images.append(file)
    if samples > 1:
        kept = 0 if moments_only else samples
        images += [part_path(path, f"sample-{number}") for number in range(kept, 0, -1)]
        images.append(part_path(path, "std"))
    return [*images, path]


def marks_of(image: Path) -> list[bytes] | None:
    """What a NIfTI file's header says of it: `descrip`, and the mark in an extension.

    Returns:
        Nothing for a file of another format, None for one that is shorter than a header.
    """
    try:
        with open_file(image) as file:
            start = file.read(_START)
        if start.startswith(b"\x1f\x8b"):
            start = zlib.decompressobj(wbits=31).decompress(start, _START)
    except (OSError, InputError, zlib.error):
        return []
    found = comments_in(start)
    return found and [found[0], *(mark for text in found[1:] if (mark := _mark_in(text)))]


def _mark_in(text: bytes) -> bytes:
    """The mark in the text of an extension; empty where it is another program's."""
    try:
        note = parse_json(text.rstrip(b"\0"))
    except ValueError:
        return b""
    mark = note.get("mark") if isinstance(note, dict) else None
    return mark.encode() if isinstance(mark, str) else b""
