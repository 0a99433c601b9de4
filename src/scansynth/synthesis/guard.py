"""What is asked of the sources of a translation, before any network is."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scansynth.data.appearance import LEAST
from scansynth.data.census_checks import Others
from scansynth.data.census_rules import Finding, check_accepted, judge, refuse
from scansynth.data.prepare import Grid
from scansynth.data.record import PreparationRecord
from scansynth.data.scan_facts import ScanFacts, facts_of
from scansynth.data.usual import has_skull
from scansynth.data.volume import Volume

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Guarded:
    """Sources that may be translated."""

    findings: tuple[Finding, ...]
    accepted: tuple[str, ...]
    """Rules that are broken and accepted."""
    skull: bool
    """Whether they show more than a brain."""

    @property
    def told(self) -> dict[str, Any]:
        """What a sidecar says of it; nothing where all is usual."""
        odd = [told_of(one) for one in self.findings]
        return {**({"accepted": list(self.accepted)} if self.accepted else {}), **({"odd": odd} if odd else {})}


def told_of(finding: Finding) -> str:
    """A finding as sidecars say it."""
    return f"{finding.contrast}: {finding.text} [{finding.rule.name}]"


def guard(
    record: PreparationRecord,
    volumes: Mapping[str, Volume],
    grid: Grid,
    *,
    accept: Sequence[str],
    tissue: bool,
    of: Path,
) -> Guarded:
    """Hold the sources of a translation against the rules of the census, and against the training's census.

    Args:
        record: what the run keeps of its cohort.
        volumes: sources by contrast, on one grid.
        grid: that they are prepared on.
        accept: names of rules that they may break.
        tissue: whether tissue is segmented in them.
        of: the run's folder, for messages.

    Raises:
        InputError: if a source cannot be right, or the run does not know the like of it.
    """
    accept = check_accepted(accept)
    if not record.usual:
        log.warning(
            "%s keeps nothing of what its training scans were like (an older version trained it, or phantoms did): "
            "whether these sources are like them (skull, spacing, contrast) is not checked", of,
        )  # fmt: skip
    elif any(one.pattern is None and one.scans >= LEAST for one in record.usual.values()):
        log.warning(
            "%s is of an older version, which kept nothing of how its training scans look: whether these sources "
            "lie as they do and have the contrast that is said is not checked", of,
        )  # fmt: skip
    facts, findings = found_in(record, volumes, grid, tissue=tissue)
    refuse(findings, accept)
    for one in findings:
        log.warning("%s: %s [%s]", volumes[one.contrast].name, one.text, one.rule.name)
    broken = tuple(dict.fromkeys(one.rule.name for one in findings if one.rule.name in accept))
    return Guarded(tuple(findings), broken, any(map(has_skull, facts)))


def found_in(
    record: PreparationRecord, volumes: Mapping[str, Volume], grid: Grid, *, tissue: bool = False
) -> tuple[list[ScanFacts], list[Finding]]:
    """What the sources of a translation are like, and the rules that they break; arguments as of `guard`."""
    first = next(iter(volumes.values()))
    facts = [
        facts_of(volume, "source", contrast, first=None if volume is first else first)
        for contrast, volume in volumes.items()
    ]
    cuts = {(one.subject, one.contrast): one.cut(grid.start, grid.step, grid.shape) for one in facts}
    others = Others(
        scans=facts, splits={}, cuts=cuts, tissue=tissue, usual=record.usual, worked=record.settings.spacing
    )  # fmt: skip
    return facts, [one for one in judge(others) if one.rule.name != "few-slices"]  # nothing is measured here
