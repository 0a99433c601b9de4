"""One command at a time writes into a folder of synthetic images."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from scansynth.devices import Processes
from scansynth.errors import InputError
from scansynth.files import LOCK, PATIENCE
from scansynth.synthesis.writers import writing


@contextmanager
def locked(folder: Path, processes: Processes, name: str = LOCK, *, patience: float | None = None) -> Iterator[bool]:
    """Keep other commands off a folder: a lock in it, which the system frees when the process ends.

    Args:
        folder: to write into; it is made.
        processes: of this command, of which the first one takes the lock for all.
        name: of the lock.
        patience: seconds to wait for another command; by default as long as a training does.

    Yields:
        Whether another command had it meanwhile, and may have made what this one was about to.

    Raises:
        InputError: if another one has it still after a while, or the folder may not be written (`WriteError`).
    """
    lock = FileLock(folder / name)

    def take() -> bool:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                try:
                    lock.acquire(timeout=PATIENCE if patience is None else patience)
                except Timeout as error:
                    raise InputError(
                        f"{folder}: another command writes into it: let it end, or choose another -o"
                    ) from error
                return True
        return False

    waited = processes.from_first(take)
    try:
        yield waited
    finally:
        lock.release()
