"""Acquired files in the way of a translation; the folder is a healthy one, the flaw is what is asked for."""

from pathlib import Path

from .heads import bids, bids_path
from .registry import kind, refused

_SCAN, _TARGET = "sub-05/anat/sub-05_T1w.nii.gz", "sub-05/anat/sub-05_T2w.nii.gz"


@kind(
    "onto-the-source",
    refused("sub-05_T1w", "acquired|source|input"),
    verb="translate",
    options={"input": _SCAN, "output": _SCAN, "overwrite": True},
)
def onto_the_source(folder: Path) -> None:
    """The output is the source itself: nothing acquired is ever overwritten, with any flag."""
    bids(folder)


@kind(
    "onto-the-target",
    refused("sub-05_T2w", "acquired|synthetic"),
    verb="translate",
    options={"input": _SCAN, "output": _TARGET, "overwrite": True},
)
def onto_the_target(folder: Path) -> None:
    """The output is the acquired scan of the target contrast, with its sidecar."""
    bids(folder)
    bids_path(folder, 5, name="T2w.json").write_text('{"EchoTime": 0.1}', encoding="utf-8")


@kind(
    "sidecar-for-the-image",
    refused("sub-05_T1w.json", "image|nifti|sidecar"),
    verb="translate",
    options={"input": "sub-05/anat/sub-05_T1w.json", "output": "made.nii.gz"},
)
def sidecar_for_the_image(folder: Path) -> None:
    """The source that is given is the scan's sidecar."""
    bids(folder)
    bids_path(folder, 5, name="T1w.json").write_text('{"EchoTime": 0.003}', encoding="utf-8")
