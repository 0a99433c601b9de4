"""All kinds: `KINDS`, name → kind."""

from . import (
    computed_tomography,
    content,
    damaged,
    geometry,
    healthy,
    intensities,
    labels,
    names,
    orientation,
    tables,
    verbs,
)
from .registry import KINDS, Expect, Kind, Named, Refused, Right, missing_words

__all__ = ["KINDS", "SUBJECTS", "Expect", "Kind", "Named", "Refused", "Right", "missing_words"]

SUBJECTS = (
    healthy, intensities, content, computed_tomography, geometry, orientation, labels, names, tables, damaged, verbs,
)  # fmt: skip
"""The modules that registered them, in the order of reading."""
