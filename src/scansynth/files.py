"""Files that are whole or not there: whoever reads one, or kills its writer, never finds half of it.

What was written is on the disk before its name is: after a power loss, too, a name stands for a whole file.
"""

import contextlib
import hashlib
import os
import platform
import re
import shutil
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scansynth.errors import InputError

HERE = f"{zlib.crc32(platform.node().encode()):08x}"
"""This machine, or container: processes have their numbers there."""


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


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Inside, a place to write a file at; after it, the file stands at `path`, and on the disk.

    Raises:
        OSError: if it cannot be written; what stood there is untouched, and the half file gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = place_beside(path)
    try:
        with _named(path):
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def place_beside(path: Path) -> Path:
    """A hidden name next to a file or folder, to write it at before it gets its own: that of this process.

    What killed processes of this machine left at theirs is removed; others that share the disk may be writing. A hidden
    file may be written by way of another.
    """
    pattern = re.compile(rf"(?:\.(\d{{1,9}})-{HERE}-)+{re.escape(path.name)}")
    with contextlib.suppress(OSError):  # no folder yet, or none that may be listed
        for other in path.parent.iterdir():
            if (found := pattern.fullmatch(other.name)) and not lives(int(found[1])):
                shutil.rmtree(other) if other.is_dir() and not other.is_symlink() else other.unlink()
    return path.with_name(f".{os.getpid()}-{HERE}-{path.name}")


def lives(process: int) -> bool:
    """Whether a process of this number runs; taken to be so where the system cannot be asked."""
    if os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


@contextmanager
def written_folder(path: Path) -> Iterator[Path]:
    """Inside, an empty folder `<path>.tmp` for files; after it, the folder stands at `path`, and all on the disk.

    Raises:
        OSError: if it cannot be written; the half folder is gone.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.mkdir(parents=True)
    try:
        with _named(path):
            yield temporary
            for file in temporary.iterdir():
                sync(file)
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Let an error of the system say which file it is about: that of a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


LOCK = ".scansynth.lock"
PATIENCE = 15.0
"""Seconds to wait for another command to end: the workers of a killed one live on for some seconds."""


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Keep other commands off a folder: a lock in it, which the system frees when the process ends.

    One command may take it several times.

    Raises:
        InputError: if another one still has it after a while.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(folder / LOCK, is_singleton=True)
        lock.acquire(timeout=PATIENCE)
    except Timeout as error:
        raise InputError(f"{folder}: another command writes into it: let it end, or choose another -o") from error
    try:
        yield
    finally:
        lock.release()


LEADS_OUT = "a link that leads out of the run's folder: put what it names in its place"


def leading_out(folder: Path) -> Iterator[Path]:
    """Links in a folder, at any depth, to what is not in it."""
    inside = folder.resolve()
    for place, folders, files in os.walk(folder):
        for name in sorted((*folders, *files)):
            path = Path(place, name)
            if path.is_symlink() and not _leads_into(path, inside):
                yield path


def _leads_into(link: Path, folder: Path) -> bool:
    """Whether a link leads to something in a folder; one that leads in a circle leads nowhere."""
    try:
        return link.resolve().is_relative_to(folder)
    except (OSError, RuntimeError):
        return False


def check_place(folder: Path) -> None:
    """Raise InputError where a folder could not be made or written to: said before the work, not after it.

    Raises:
        InputError: if a file is in the way, or the folder or the one that it would stand in may not be written to.
    """
    for place in (folder.absolute(), *folder.absolute().parents):
        try:
            found = place.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not stat.S_ISDIR(found.st_mode):
            raise InputError(f"{folder}: {place} is a file, and in the way: move it, or choose another folder")
        if not os.access(place, os.W_OK | os.X_OK):
            raise InputError(f"{folder}: {place} may not be written to: choose another folder, or change its rights")
        return


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk; a system that cannot open folders does without."""
    if path.is_dir() and os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
