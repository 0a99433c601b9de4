"""Claims: which process is at work on what, told by files in a folder that all of them see, on several machines too.

<claims>/<job>.<n>   held by one process; touched while it lives, removed at its end

A claim is made by creating its file, which the system lets one process alone do. One whose holder has died is not
removed, which could hit a fresh one: the next number is created beside it, again by one process alone, and counts from
then on. Dead is a holder whose process is gone from this machine, or whose file nobody has touched for `LOST` seconds
by the clock of the disk that the files are on.
"""

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scansynth.files import HERE, lives

log = logging.getLogger(__name__)

BEAT = 20.0
"""Seconds between two touches of a claim that is held."""
LOST = 600.0
"""Seconds without a touch after which a holder is taken for dead: thirty missed touches."""
HOLDER = re.compile(r"(\d{1,9})-([0-9a-f]{8})")
"""Content of a claim: number of the process, and its machine."""
HELD: set[Path] = set()
"""Claims that this process holds."""
TAKING = threading.Lock()
"""One thread at a time takes: to another a claim of this process that is not held yet would be a dead one's."""


class Claims:
    """The claims in a folder, as one process sees them.

    Args:
        folder: where their files lie; it is made.
    """

    def __init__(self, folder: Path):
        self.folder = folder.absolute()

    @contextmanager
    def claimed(self, job: str) -> Iterator[bool]:
        """Inside, the job is this process's alone, if the value says so; what it was about may have been done before.

        Args:
            job: its name, of letters that a file's name may have.
        """
        with TAKING:
            path = self._take(job)
            if path is not None:
                HELD.add(path)
        if path is None:
            yield False
            return
        ended = threading.Event()
        beat = threading.Thread(target=_touch, args=(path, ended), daemon=True)
        beat.start()
        try:
            yield True
        finally:
            ended.set()
            beat.join()
            with TAKING:
                self._release(job, path)
                HELD.discard(path)

    def _take(self, job: str) -> Path | None:
        self.folder.mkdir(parents=True, exist_ok=True)
        newest = self._newest(job)
        if newest is not None:
            holder = self._holder(newest)
            if holder is not None and not self._dead(newest, holder):
                return None
            log.info("%s: whoever was at work on it is gone (%s): taken over", job, holder or "its claim is gone")
        path = self.folder / f"{job}.{0 if newest is None else _number(newest) + 1}"
        try:
            with path.open("x", encoding="ascii") as file:
                file.write(f"{os.getpid()}-{HERE}")
        except FileExistsError:  # another process was quicker
            return None
        return path

    def _release(self, job: str, path: Path) -> None:
        """Remove a claim and those of the dead before it, unless another process has taken the job over."""
        if self._newest(job) != path:
            return
        for one in sorted(self._files(job), key=_number, reverse=True):
            one.unlink(missing_ok=True)

    def _files(self, job: str) -> list[Path]:
        """All claims of a job."""
        names = re.compile(rf"{re.escape(job)}\.\d{{1,9}}")
        return [path for path in self.folder.iterdir() if names.fullmatch(path.name)]

    def _newest(self, job: str) -> Path | None:
        """The claim of a job that counts."""
        return max(self._files(job), key=_number, default=None)

    def _holder(self, path: Path) -> str | None:
        """What a claim says; None where it is gone."""
        try:
            return path.read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return None

    def _dead(self, path: Path, holder: str) -> bool:
        """Whether a claim's holder is; one that has not written its name yet goes by time alone."""
        if (found := HOLDER.fullmatch(holder)) and found[2] == HERE:
            process = int(found[1])
            if process == os.getpid():  # of an earlier process of this number
                return path not in HELD
            if not lives(process):
                return True
        return self._now() - _touched(path) > LOST

    def _now(self) -> float:
        """The time by the clock that files are stamped with, which may be another machine's."""
        probe = self.folder / f".clock-{os.getpid()}-{HERE}"
        probe.write_bytes(b"")
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)


def _number(path: Path) -> int:
    return int(path.name.rpartition(".")[2])


def _touched(path: Path) -> float:
    """When a claim was touched last; now, where it has just gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _touch(path: Path, ended: threading.Event) -> None:
    """Touch a claim until its job ends. A disk that cannot be reached for a while is no end."""
    while not ended.wait(BEAT):
        with suppress(OSError):
            os.utime(path)
