"""Healthy cohorts: whoever warns here gives a false alarm."""

from pathlib import Path

from .checks import all_have, every, everyone_follows, follows, has_tumour, in_hounsfield, labels_stand, splits_stand
from .heads import bids, brats, case, head
from .registry import kind, right


@kind("healthy-bids", right(every(everyone_follows("T1w", "T2w"), splits_stand, labels_stand), quiet=True))
def healthy_bids(folder: Path) -> None:
    """Stripped T1w and T2w, a stated split, labels: nothing to be said."""
    bids(folder)


@kind(
    "healthy-brats",
    right(every(all_have("T1w", "T2w", brats=True), has_tumour(2), follows(2, subject=case(2))), quiet=True),
)
def healthy_brats(folder: Path) -> None:
    """T1, T2 and tumour masks with splits in a file: nothing to be said."""
    brats(folder)


@kind("healthy-heads", right(follows(2, truth=head(2, "T1w", True)), quiet=True))
def healthy_heads(folder: Path) -> None:
    """Heads with scalp, bone and noisy air around them: nothing to be said."""
    bids(folder, skull=True)


@kind(
    "healthy-ct",
    right(every(in_hounsfield(2), in_hounsfield(5)), quiet=True),
    options={"intensity": "hu-window"},
)
def healthy_ct(folder: Path) -> None:
    """CT in HU: nothing to be said."""
    bids(folder, ("CT",))
