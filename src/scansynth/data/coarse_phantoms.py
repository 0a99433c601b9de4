"""A small cohort of coarse phantoms, for the demo and for tables that are tried without data."""

from collections.abc import Callable, Sequence
from pathlib import Path

from scansynth.data.layouts import Listing, find_subjects
from scansynth.data.phantom import write_phantom_cohort

SUBJECTS = 12
SPACING = 2.5
"""mm: coarse, so that minutes are enough."""
SIZE = (64, 80, None)
"""That they are prepared to."""


def coarse_phantoms(
    folder: Path, contrasts: Sequence[str], seed: int, report: Callable[[str, int, int], None]
) -> Listing:
    """Make the cohort, where it is not there already.

    Args:
        folder: of the cohort; phantoms are files of a table of paths.
        contrasts: that each subject has.
        seed: of the cohort.
        report: called with (what is being done, done, in all).

    Returns:
        Its subjects, with the table's split.
    """
    if not (folder / "table.csv").exists():
        report("making phantom scans", 0, 1)
        write_phantom_cohort(
            folder, SUBJECTS, contrasts, layout="table", seed=seed, shape=(64, 80, 60), spacing=SPACING
        )
        report("making phantom scans", 1, 1)
    return find_subjects(folder / "table.csv")
