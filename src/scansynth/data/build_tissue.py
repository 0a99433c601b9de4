"""Tissue densities of a prepared cohort, one file a scan (`Cohort.read_tissue` reads them).

They are no part of the preparation's settings and of the cohort's fingerprint: a cohort can be given densities later,
and nothing changes for runs that use none. Each file names what it was made from, and is kept where that still holds.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np

from scansynth.data.arrays import write_array
from scansynth.data.tissue import LOOKS, OWN_MASK, VERSION, segment
from scansynth.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TissueSettings:
    """How tissue densities are made."""

    expert_tumour: bool = False
    """The mask `seg` in place of the tumour that is segmented. Experts drew it with all contrasts in sight, the
    target's too: figures of a run that was given it are too good."""


def with_tissue(contrasts: Sequence[str]) -> list[str]:
    """Those of a cohort's contrasts that get densities; the others (CT) are left without.

    Raises:
        InputError: if there is none.
    """
    found = [contrast for contrast in contrasts if contrast in LOOKS]
    if not found:
        raise InputError(f"no tissue can be segmented in {', '.join(contrasts)}: it can in {', '.join(LOOKS)}")
    if left := [contrast for contrast in contrasts if contrast not in LOOKS]:
        logger.warning("no tissue is segmented in %s, which do not show it", ", ".join(left))
    return found


def write_tissue(folder: Path, contrast: str, record: Mapping[str, Any], settings: TissueSettings, index: Path) -> None:
    """Segment one prepared scan, unless that is done.

    Args:
        folder: of the subject in the cohort.
        contrast: one of `with_tissue`.
        record: of the prepared scan.
        settings: how to.
        index: the cohort's index, which goes before anything is written.

    Raises:
        InputError: if the scan cannot be segmented.
    """
    if OWN_MASK in record["masks"]:
        return
    path = folder / f"tissue_{contrast}.b2nd"
    expert = settings.expert_tumour and "seg" in record["masks"]
    key = f"{VERSION} {'expert' if expert else 'segmented'} {record['key']}"
    if _key_of(path) == key:
        return
    image: Any = blosc2.open(str(folder / f"{contrast}.b2nd"), mode="r")
    tumour: Any = blosc2.open(str(folder / "mask_seg.b2nd"), mode="r") if expert else None
    voxel = np.linalg.norm(np.asarray(record["affine"])[:3, :3], axis=0).tolist()
    try:
        densities = segment(image[:], contrast, voxel, tumour=None if tumour is None else tumour[:] > 0)
    except InputError as error:
        raise InputError(f"{record['source']}: {error}") from error
    index.unlink(missing_ok=True)
    # Rounded down, so that a voxel's densities never sum to more than 1.
    write_array(np.floor(densities * 255 + 1e-3).astype(np.uint8), path, key)


def _key_of(path: Path) -> str | None:
    """What a file was made from; None where it is not there or not readable."""
    if not path.is_file():
        return None
    try:
        stored: Any = blosc2.open(str(path), mode="r")
        return stored.schunk.vlmeta["key"]
    except (RuntimeError, KeyError, ValueError):
        return None
