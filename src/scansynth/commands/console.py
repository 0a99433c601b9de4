"""What the verbs share: where they print, progress bars, and the flags -i and -o."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tyro.conf import arg

from scansynth.progress import Event, Report

# No markup anywhere: `[x]` in a path is part of its name.
out = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)


class LineHandler(logging.Handler):
    """Puts what the library logs on the screen, above any bar: a message is a line, however long."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        err.print(self.format(record), markup=False)


Input = Annotated[Path, arg(aliases=["-i"])]
Output = Annotated[Path, arg(aliases=["-o"])]


FIRST, EVERY = 5.0, 30.0
"""Seconds after which a log file is told of a text's progress for the first time, and then again."""


class Log:
    """Progress where the output is no terminal: a line a text when it begins, and one now and then with the time left.

    Args:
        write: takes a line.
        clock: seconds.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float]):
        self.write, self.clock = write, clock
        self.begun: dict[str, tuple[float, int]] = {}
        self.due: dict[str, float] = {}

    def move(self, text: str, event: Event) -> None:
        """Tell of progress, or let it be: it is too soon, or all is done."""
        now, done, total = self.clock(), event.done, event.total
        if text not in self.begun:
            self.begun[text], self.due[text] = (now, done), now + FIRST
            self.write(f"{text} ({total})")
        elif now >= self.due[text] and done < total:
            self.due[text] = now + EVERY
            begun, before = self.begun[text]  # what was there then has taken no time
            left = f", {in_words((now - begun) / (done - before) * (total - done))} left" if done > before else ""
            self.write(f"{f'{text} {event.what}'.strip()}: {done}/{total}{left}")


def in_words(seconds: float) -> str:
    """A time that is not known to the second."""
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 1 else "1 s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def bars(*, show: bool = True, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[str, Event], None]]:
    """Progress bars: a function (text, event) that draws and moves one bar a text, beside which stands what is at work.

    Where the output is no terminal (a log file), lines are written now and then (`Log`). Of several processes only the
    first one shows them.
    """
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    log = Log(lambda line: err.print(line, markup=False), clock)
    # The rate is that of ten minutes: of half a minute, as by default, it would be that of the last subject's tables.
    with Progress(
        *columns, console=err, disable=not (show and err.is_terminal), speed_estimate_period=600, get_time=clock
    ) as progress:
        tasks: dict[str, Any] = {}

        def move(text: str, event: Event) -> None:
            if show and not err.is_terminal:
                log.move(text, event)
            if text not in tasks:
                tasks[text] = progress.add_task(text)
            description = f"{text} {event.what}".strip()
            progress.update(tasks[text], completed=event.done, total=event.total, description=description)

        yield move


@contextmanager
def stage_bars() -> Iterator[Report]:
    """Progress bars of work that has stages and names them: one bar a stage."""
    with bars() as move:
        yield lambda event: move(event.what, Event(event.done, event.total))
