"""Being asked to stop: Ctrl-C, a kill, or the warning that a queue sends before the time is up.

Inside `asked_to_stop` the first such signal is noted, and the work ends at its next step; a second one ends the process
at once.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name))
"""USR1 is what SLURM's `--signal=USR1@120` sends, two minutes before the end; there is none on Windows."""


@dataclass
class Request:
    """Whether somebody asked to stop."""

    by: int | None = None
    """Number of the signal; None: nobody did."""

    def __bool__(self) -> bool:
        return self.by is not None


@contextmanager
def asked_to_stop() -> Iterator[Request]:
    """Inside, a signal to stop is noted in the request and not acted on.

    Signals reach the main thread alone: elsewhere nothing is noted, and they do what they did.
    """
    request = Request()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, _: FrameType | None) -> None:
        request.by = number
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
