"""How scans as they come are brought together."""

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

from scansynth.data.contrasts import standard_name
from scansynth.errors import InputError

KEEP, ROUGH, OWN, PROGRAM = "keep", "rough", "own", "program"
"""Ways to find a brain; the last stands in records for a program of the user's, which is never taken from them."""


@dataclass(frozen=True, kw_only=True)
class Raw:
    """How scans as they come are brought together."""

    reference: str | None = None
    """The contrast whose grid a subject's others are brought onto, and their syntheses lie on; where none is named or
    the subject has none, the scan of the thinnest slices."""
    bias: Literal["n4", "none"] = "n4"
    """Bias fields: divided out by N4, or left."""
    brain: str = KEEP
    """keep whole heads, or cut out the brain: by a rough mask without weights (rough; look at it), by each subject's
    own mask (own: _desc-brain_mask in BIDS, _brain elsewhere), or by a program of yours, 'COMMAND {input} {output}',
    as 'mri_synthstrip -i {input} -m {output}'."""

    def __post_init__(self):
        if self.reference:
            object.__setattr__(self, "reference", standard_name(self.reference))

    def check(self) -> None:
        """Raise InputError for a brain that cannot be found so."""
        if self.brain == PROGRAM:
            raise InputError(
                "the run was trained on brains that a program cut out: name yours, --brain 'COMMAND {input} {output}'"
            )
        if self.brain not in (KEEP, ROUGH, OWN) and not ("{input}" in self.brain and "{output}" in self.brain):
            raise InputError(
                f"--brain {self.brain}: write keep, rough, own, or a command that reads {{input}} and writes a mask to "
                "{output}, as 'mri_synthstrip -i {input} -m {output}'"
            )

    @property
    def told(self) -> "Raw":
        """What records say: a program is a program there. Its command names folders, and would be a stranger's."""
        return self if self.brain in (KEEP, ROUGH, OWN) else replace(self, brain=PROGRAM)

    @property
    def key(self) -> str:
        """What tells one way from another."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]
