"""Commands that the page has started: each has a folder, and lives on without the page.

What is known of one lies on the disk alone, so that a page that is opened later, or a second one, sees the same.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypedDict

from filelock import FileLock, Timeout

from scansynth.errors import InputError
from scansynth.files import write_text
from scansynth.ranges import Natural
from scansynth.records import read_json

FOLDER = ".scansynth-app"
"""In the folder that the page was opened for; hidden, so that no layout reads it as data."""
JOBS, UPLOADS = "jobs", "uploads"
LAST = 30_000
"""Bytes of a log's end that are shown."""
State = Literal["running", "done", "failed", "stopped", "killed"]


class _Stored(TypedDict):
    words: list[str]
    title: str
    output: str
    begun: Natural
    sources: dict[str, str]
    truth: str


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command."""

    folder: Path
    words: tuple[str, ...]
    """Verb and arguments."""
    title: str
    output: Path
    """What it writes: a folder or a file."""
    begun: int
    """Seconds since 1970."""
    sources: dict[str, str] = field(default_factory=dict)
    """Of a translation of single files: contrast → file."""
    truth: str = ""
    """The acquired image of the target, where it was given to compare with."""

    @property
    def name(self) -> str:
        """In addresses."""
        return self.folder.name

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        lock = FileLock(self.folder / "alive")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return True
        lock.release()
        return False

    @property
    def code(self) -> int | None:
        """Its exit code; None before its end, or where it was killed."""
        try:
            return int((self.folder / "ended").read_text())
        except (FileNotFoundError, ValueError):
            return None

    @property
    def state(self) -> State:
        """How it stands."""
        if self.running:
            return "running"
        if (code := self.code) is None:
            return "killed"
        return "done" if code == 0 else "stopped" if code in (130, 143, -2, -15) else "failed"

    @property
    def log(self) -> str:
        """The end of what it has printed."""
        try:
            with (self.folder / "log").open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - LAST))
                return file.read().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def stop(self) -> None:
        """Ask it to stop: a training saves where it is."""
        if self.running:
            os.kill(int((self.folder / "pid").read_text()), signal.SIGTERM)

    def again(self) -> None:
        """Start the same command once more: what was stopped goes on.

        Raises:
            InputError: if it runs.
        """
        if self.running:
            raise InputError(f"{self.title}: it runs already")
        _keep(self.folder)


def start(
    root: Path,
    words: Sequence[str],
    *,
    title: str,
    output: Path,
    sources: dict[str, str] | None = None,
    truth: str = "",
) -> Job:
    """Start a command; it lives on without this process.

    Args:
        root: the page's folder.
        words: verb and arguments.
        title: for people.
        output: what it writes.
        sources: files of a translation, by contrast.
        truth: file to compare it with.

    Raises:
        InputError: if a command that runs writes there.
    """
    if busy := [job for job in jobs(root) if job.output == output and job.running]:
        raise InputError(f"{output}: {busy[0].title} is at work there: wait for it, or stop it")
    folder = root / FOLDER / JOBS / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
    stored: _Stored = {
        "words": list(words), "title": title, "output": str(output), "begun": int(time.time()),
        "sources": sources or {}, "truth": truth,
    }  # fmt: skip
    write_text(folder / "job.json", json.dumps(stored, indent=1))
    _keep(folder)
    return read(root, folder.name)


def jobs(root: Path) -> list[Job]:
    """All that were started, the newest first; one whose record is damaged is left out."""
    found = []
    for folder in sorted((root / FOLDER / JOBS).glob("[0-9]*"), reverse=True):
        try:
            found.append(read(root, folder.name))
        except InputError:
            continue
    return found


def read(root: Path, name: str) -> Job:
    """A job by its name.

    Raises:
        InputError: if there is none of that name.
    """
    folder = root / FOLDER / JOBS / name
    if "/" in name or "\\" in name or name.startswith(".") or not folder.is_dir():
        raise InputError(f"no such work: {name}")
    told: _Stored = read_json(folder / "job.json", _Stored, "start it anew")
    return Job(
        folder=folder, words=tuple(told["words"]), title=told["title"], output=Path(told["output"]),
        begun=told["begun"], sources=told["sources"], truth=told["truth"],
    )  # fmt: skip


def _keep(folder: Path) -> None:
    """Start the keeper of a job, and wait until it has begun."""
    command = [sys.executable, "-m", "scansynth.app.keeper", str(folder)]
    keeper = subprocess.Popen(
        command, start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )  # fmt: skip
    assert keeper.stdout is not None
    begun = keeper.stdout.readline()
    keeper.stdout.close()
    if not begun:
        raise InputError(f"{folder}: the command could not be started")
    _KEPT.append(keeper)  # polled now and then, so that ended ones leave no zombies
    _KEPT[:] = [one for one in _KEPT if one.poll() is None]


_KEPT: list[subprocess.Popen[bytes]] = []
