"""What the page shows of a folder: what it holds, its subjects and contrasts, and small pictures of scans."""

import io
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from PIL import Image

from scansynth.data.layouts import Listing, find_subjects
from scansynth.data.planes import grey, middle_of, planes
from scansynth.data.readers import ending_of
from scansynth.data.subject import sidecar_of
from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.synthesis.image import content_of, is_whole

Kind = Literal["data", "made", "cohort", "run", "pipeline", "folder"]
HEIGHT = 88
"""Of a small picture, pixels."""
PAGES = 400
"""Pages of reports that are listed."""
NO_IMAGES = ("run", "cohort")
"""Folders of a pipeline in which no synthetic images lie."""
_AT_ONCE = threading.Semaphore(1)
"""Scans that are read at a time: each may take some hundred MB."""


@dataclass(frozen=True)
class Entry:
    """A folder in a folder, or a page of a report."""

    path: Path
    kind: Kind
    holds: str
    """In words."""


KINDS: dict[Kind, str] = {
    "run": "a run", "cohort": "a prepared cohort", "pipeline": "what `run` has made", "data": "scans",
    "made": "synthetic images", "folder": "",
}  # fmt: skip


def entries(folder: Path) -> list[Entry]:
    """The folders in a folder, by name; hidden ones are left out.

    Raises:
        InputError: if it may not be read.
    """
    try:
        inside = [Path(one.path) for one in os.scandir(folder) if one.is_dir() and not one.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder} cannot be read ({error.strerror})") from error
    return [Entry(path, kind, KINDS[kind]) for path in sorted(inside) for kind in (kind_of(path),)]


def kind_of(folder: Path) -> Kind:
    """What a folder is, by the names in it and just below."""
    try:
        names = set(os.listdir(folder))
    except OSError:
        return "folder"
    if {"config.yaml", "preparation.json"} <= names:
        return "run"
    if "cohort.json" in names:
        return "cohort"
    if "request.json" in names and "cohort" in names:
        return "pipeline"
    first = next(_images(folder), None)
    return "folder" if first is None else "made" if _is_made(first) else "data"


def _is_made(image: Path) -> bool:
    """Whether a file's sidecar says that it is synthetic."""
    return content_of(sidecar_of(image)).get("synthetic") is True


def _images(folder: Path) -> Iterator[Path]:
    """Image files at most three levels down, as layouts have them, of the first few folders."""
    for place, folders, files in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith("."))[:5] if depth < 3 else []
        yield from (Path(place, name) for name in files if ending_of(name))


def listing_of(folder: Path) -> Listing:
    """Subjects and contrasts, as `prepare` finds them.

    Raises:
        InputError: as `find_subjects`.
    """
    return find_subjects(folder)


def reports(root: Path) -> list[Path]:
    """Pages below a folder, the newest first."""
    found = []
    for place, folders, files in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in files if name.endswith(".html")]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[:PAGES]


def images_made(folder: Path) -> list[Path]:
    """Whole synthetic images below a folder, or the one file; the parts beside them are left out."""
    files = [folder]
    if folder.is_dir():
        files = []
        for place, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in NO_IMAGES)
            files += [Path(place, name) for name in sorted(names) if ending_of(name)]
    found = []
    for path in files:
        if _is_made(path) and "parts" in content_of(sidecar_of(path)) and is_whole(path, hashed=False):
            found.append(path)
    return found


def small_picture(path: Path) -> bytes:
    """Three planes through the middle of a scan, PNG.

    Raises:
        InputError: if it cannot be read.
    """
    state = path.stat()
    return _small(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=2000)
def _small(path: Path, _changed: int, _size: int) -> bytes:
    with _AT_ONCE:
        volume = Volume.read(path)
    head = volume.array > volume.threshold("")
    row = planes(grey(volume.array), middle_of(head), volume.spacing)
    share = HEIGHT / max(one.height for one in row)  # one scale for all planes
    small = [one.resize((max(1, round(share * one.width)), max(1, round(share * one.height)))) for one in row]
    page, left = Image.new("RGB", (sum(one.width for one in small), HEIGHT)), 0
    for one in small:
        page.paste(one, (left, (HEIGHT - one.height) // 2))
        left += one.width
    stream = io.BytesIO()
    page.save(stream, "PNG")
    return stream.getvalue()
