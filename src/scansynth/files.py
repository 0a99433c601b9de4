"""Files that are whole or not there: whoever reads one, or kills its writer, never finds half of it.

What was written is on the disk before its name is: after a power loss, too, a name stands for a whole file.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file, line ends as they are, in place of what stood there; its folder is made if need be.

    Raises:
        OSError: if it cannot be written; what stood there is untouched.
    """
    with written(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.write(text)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file in place of what stood there; its folder is made if need be (errors as of `write_text`)."""
    with written(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Inside, a place to write a file at; after it, the file stands at `path`, and on the disk.

    Raises:
        OSError: if it cannot be written; what stood there is untouched, and the half file gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def written_folder(path: Path) -> Iterator[Path]:
    """Inside, an empty folder `<path>.tmp` for files; after it, the folder stands at `path`, and all on the disk.

    Raises:
        OSError: if it cannot be written; the half folder is gone.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; a system that cannot open folders does without."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
