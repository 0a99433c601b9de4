"""A small cohort of coarse phantoms, for the demo and for tables that are tried without data."""

from collections.abc import Sequence
from pathlib import Path

from scansynth.data.layouts import Listing, find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.progress import Event, Report

SUBJECTS = 12
SPACING = 2.5
"""mm: coarse, so that minutes are enough."""
SIZE = (64, 80, None)
"""That they are prepared to."""


def coarse_phantoms(folder: Path, contrasts: Sequence[str], *, seed: int, report: Report) -> Listing:
    """Make the cohort, where it is not there already.

    Args:
        folder: of the cohort; phantoms are files of a table of paths.
        contrasts: that each subject has.
        seed: of the cohort.
        report: told when they are begun and when they are there.

    Returns:
        Its subjects, with the table's split.
    """
    if not (folder / "table.csv").exists():
        report(Event(0, 1, "making phantom scans"))
        write_phantom_cohort(
            folder, SUBJECTS, contrasts, layout="table", seed=seed, shape=(64, 80, 60), spacing=SPACING
        )
        report(Event(1, 1, "making phantom scans"))
    return find_subjects(folder / "table.csv")
