"""Sources of a translation as they come: brought onto one grid, as those of the run's training were."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scansynth.data.census_rules import Finding, check_accepted, refuse
from scansynth.data.contrasts import standard_name
from scansynth.data.prepare import grid_for
from scansynth.data.raw.settings import Raw
from scansynth.data.raw.together import Together, bring_together
from scansynth.data.readers import reading
from scansynth.data.volume import Volume
from scansynth.synthesis.guard import found_in, told_of
from scansynth.synthesis.image import Synthesis
from scansynth.synthesis.run import Run

VOXELS = ("slices-unlike-training", "spacing-unlike-training")
"""Rules that know nothing any more of a scan that lies on another's grid."""
KEY = "brought_together_key"
"""In a sidecar, what tells one way to bring sources together from another."""


def choose_raw(run: Run, asked: Raw | None) -> Raw:
    """How a run's sources are brought together: as is asked, else as the scans of its training were."""
    chosen = asked or run.record.raw or Raw()
    chosen.check()
    return chosen


@dataclass(frozen=True, eq=False, kw_only=True)
class Brought:
    """A subject's sources on one grid, and what was odd about them before."""

    together: Together
    how: Raw
    odd: tuple[Finding, ...]
    """Of their voxels, which are no longer seen once they lie on another's grid."""
    accepted: tuple[str, ...]

    def told_in(self, synthesis: Synthesis) -> Synthesis:
        """A synthesis whose sidecar says how its sources were brought together."""
        told: dict[str, Any] = {
            **synthesis.provenance, "brought_together": self.together.told(self.how), KEY: self.how.key,
        }  # fmt: skip
        if self.odd:
            told["odd"] = [*map(told_of, self.odd), *told.get("odd", ())]
        if rules := [one.rule.name for one in self.odd if one.rule.name in self.accepted]:
            told["accepted"] = list(dict.fromkeys([*rules, *told.get("accepted", ())]))
        return replace(synthesis, provenance=told)


def brought_together(
    run: Run, files: Mapping[str, Path], how: Raw, *, mask: Path | None = None, accept: Sequence[str] = ()
) -> Brought:
    """Scans in files, by contrast, on the grid of one of them.

    Args:
        run: that they are the sources of.
        files: of the scans.
        how: they are brought together.
        mask: of the brain, where `how` takes the subject's own.
        accept: as in `Run.translate`.

    Raises:
        InputError: if one cannot be read, or they cannot be brought together; if the run was trained on scans that were
            not brought together, and one has voxels that those never had.
    """
    volumes = {}
    for name, path in files.items():
        with reading(path):
            volumes[standard_name(name)] = Volume.read(path)
    odd: list[Finding] = []
    if run.record.raw is None:
        for contrast, volume in volumes.items():
            alone = {contrast: volume}
            _, found = found_in(run.record, alone, grid_for(alone, run.record.settings))
            odd += [one for one in found if one.rule.name in VOXELS]
        refuse(odd, check_accepted(accept))
    return Brought(
        together=bring_together(volumes, how, mask=mask), how=how, odd=tuple(odd), accepted=tuple(accept)
    )  # fmt: skip
