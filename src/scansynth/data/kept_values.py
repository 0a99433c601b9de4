"""What of files that people fill in may be kept: values of known form alone, and names of files without their folders.

Any text may name a patient, in whichever field it stands; so may the folders above the data.
"""

import hashlib
import logging
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

_MAKERS = frozenset((
    "agilent", "bruker", "canon", "corporation", "electric", "electronics", "esaote", "fonar", "fujifilm", "ge",
    "general", "gmbh", "healthcare", "healthineers", "hitachi", "hyperfine", "imaging", "inc", "marconi", "medical",
    "mindray", "neusoft", "of", "philips", "picker", "samsung", "siemens", "systems", "technologies", "toshiba", "uih",
    "united", "varian",
))  # fmt: skip
"""Words of which makers' names consist."""
_CODES = {
    "ScanningSequence": frozenset(("SE", "IR", "GR", "EP", "RM")),
    "SequenceVariant": frozenset(("SK", "MTC", "SS", "TRSS", "SP", "MP", "OSP", "TOF", "NONE")),
    "ScanOptions": frozenset(("PER", "RG", "CG", "PPG", "FC", "PFF", "PFP", "SP", "FS", "CT")),
}
"""Defined terms of DICOM PS3.3, C.8.3.1."""


def known_values(fields: Mapping[str, Any], of: str) -> dict[str, Any]:
    """Acquisition parameters of a sidecar whose values have the form that BIDS or DICOM gives them.

    Args:
        fields: BIDS name → value; of text only maker, sequence, variant and options are known, all else is a number.
        of: whose they are, for the warning about those that are left out, which does not repeat them.
    """
    kept = {name: value for name, value in fields.items() if _is_known(name, value)}
    if left := sorted(fields.keys() - kept.keys()):
        logger.warning("%s: of its sidecar %s is not kept: no number or term that is known", of, ", ".join(left))
    return kept


def _is_known(name: str, value: Any) -> bool:
    if name == "Manufacturer":
        return isinstance(value, str) and set(re.findall(r"[^\s,.]+", value.lower())) <= _MAKERS
    if name in _CODES:
        terms = (
            value if isinstance(value, list) else re.split(r"[\\/_,\s]+", value) if isinstance(value, str) else [None]
        )
        return all(isinstance(term, str) and term in _CODES[name] for term in terms)
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def place_in(file: Path | str, root: Path) -> str:
    """A file by its place in the data, one from elsewhere (a table may list such) by its name; a place as it is."""
    if not os.path.isabs(file):
        return Path(file).as_posix()
    place = Path(os.path.abspath(file))
    return place.relative_to(root).as_posix() if place.is_relative_to(root) else place.name


def file_key(path: Path) -> list[str | int]:
    """What tells whether a file is still the same one, and names no folder; of a missing one its path alone."""
    try:
        status = path.stat()
    except OSError:
        return [_hash(path)]
    return [_hash(path.resolve()), status.st_size, status.st_mtime_ns]


def _hash(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
