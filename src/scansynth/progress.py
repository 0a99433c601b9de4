"""Progress of work that has parts, each of which tells of its own network calls."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[int, int], None]
"""Called with (network calls done, network calls in all)."""
ReportPart = Callable[[int, int, str], None]
"""Called with (network calls done, network calls in all, name of the part that is at work)."""


class Parts:
    """Tells of the network calls of all parts together.

    Args:
        report: is told; None for nobody.
        total: calls of all parts.
    """

    def __init__(self, report: ReportPart | None, total: int):
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

        def told(done: int, of: int) -> None:
            report(before + calls * done // of, self.total, name)

        try:
            yield told
        finally:
            self.done = before + calls
            report(self.done, self.total, name)


def report_part(report: Report, part: int, parts: int, done: int, total: int) -> None:
    """Tell of the network calls of one of several equal parts."""
    report(part * total + done, parts * total)
