"""Progress: what work that takes long tells of itself, and the work of several parts told as one."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Event:
    """How far some work is."""

    done: int
    """Of what the work counts: network calls, steps, scans, subjects."""
    total: int
    """All of it."""
    what: str = ""
    """What is at work: a stage, or a part of one, such as an image."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """The newest ones, by name."""


Report = Callable[[Event], None]
"""Is told of every event."""


def silent(event: Event) -> None:
    """A `Report` to nobody."""


def named(report: Report, what: str) -> Report:
    """A `Report` that tells of the same events as of one stage, whatever their parts."""
    return lambda event: report(Event(event.done, event.total, what))


def one_of(report: Report | None, part: int, parts: int) -> Report | None:
    """What one of several equal parts tells of its own work, `part` being counted from 0; None where nobody listens."""
    if report is None:
        return None
    return lambda event: report(replace(event, done=part * event.total + event.done, total=parts * event.total))


class Parts:
    """Tells of the network calls of all parts together.

    Args:
        report: is told; None for nobody.
        total: calls of all parts.
    """

    def __init__(self, report: Report | None, total: int):
        self.report, self.total, self.done = report, total, 0

    @contextmanager
    def part(self, calls: int, name: str) -> Iterator[Report | None]:
        """The next part, which is done at the end in any case.

        Args:
            calls: how many it counts in the total. It may make others: its own are scaled.
            name: what it is.

        Yields:
            What the part tells of its own calls; None where nobody listens.
        """
        report, before = self.report, self.done
        if report is None:
            yield None
            return

        def told(event: Event) -> None:
            report(Event(before + calls * event.done // event.total, self.total, name))

        try:
            yield told
        finally:
            self.done = before + calls
            report(Event(self.done, self.total, name))
