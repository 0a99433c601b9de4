"""Keeps one command: `python -m scansynth.app.keeper FOLDER`, in a session of its own, so that no page ends it.

FOLDER/job.json   what to run (`jobs.py`)
       alive      locked for as long as it runs
       pid        of this process
       log        what the command prints
       ended      its exit code; none where the machine or somebody killed both
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from filelock import FileLock


def main() -> None:
    """Run the command of a folder to its end."""
    folder = Path(sys.argv[1])
    lock = FileLock(folder / "alive")
    lock.acquire()
    (folder / "ended").unlink(missing_ok=True)
    (folder / "pid").write_text(str(os.getpid()))
    words = json.loads((folder / "job.json").read_text("utf-8"))["words"]
    with (folder / "log").open("ab") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "scansynth", *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: child.send_signal(number))
        print("kept", flush=True)
        sys.stdout.close()
        code = child.wait()
    ended = folder / ".ended"
    ended.write_text(str(code))
    ended.rename(folder / "ended")
    lock.release()


if __name__ == "__main__":
    main()
