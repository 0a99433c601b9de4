"""What of a cohort's scans is odd, and what cannot be right: rules by name, their thresholds in one table.

Odd is a warning. Impossible is a refusal: networks would learn from something else than the user means, or a figure
would be wrong. `--accept RULE` goes on with either, and is written down where it was given.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from scansynth.data import census_checks as checks
from scansynth.data import training_checks as training
from scansynth.data.census_checks import Others
from scansynth.data.scan_facts import ScanFacts
from scansynth.data.usual import LARGEST_BRAIN
from scansynth.errors import InputError

Severity = Literal["odd", "impossible"]
NAMED = 3
"""Scans that a line for people names."""
MOST = 5
"""Scans that a refusal names."""


Says = Callable[[ScanFacts, Others, float], str | None]
"""From a scan, the census and the threshold, what is wrong, in words; None where nothing is."""


@dataclass(frozen=True)
class Rule:
    """One rule."""

    name: str
    severity: Severity
    threshold: float
    says: Says
    cure: str
    """The way on."""


@dataclass(frozen=True)
class Finding:
    """A scan that breaks a rule."""

    rule: Rule
    subject: str
    contrast: str
    text: str

    @property
    def line(self) -> str:
        """For people."""
        return f"{self.subject} {self.contrast}: {self.text} [{self.rule.name}]"


RULES = (
    Rule("almost-empty", "impossible", 0.002, checks.empty, "export it again, or leave it out"),
    Rule("background-inside", "impossible", 0.1, checks.inside,
         "give the scan before normalisation, or shift it so that its background is lowest"),
    Rule("ct-offset", "impossible", -500.0, checks.ct_offset,
         "convert it to Hounsfield units (rescale slope and intercept)"),
    Rule("looks-like-ct", "impossible", -500.0, checks.like_ct,
         "name its contrast CT, or give the scan before rescaling"),
    Rule("forms-mirrored", "impossible", 0.0, checks.mirrored, "mend its header by the acquisition (DICOM)"),
    Rule("forms-sizes", "impossible", 1.01, checks.sizes, "mend its header by the acquisition (DICOM)"),
    Rule("same-voxels", "impossible", 0.0, checks.same_voxels, "remove one of them, or rename it"),
    Rule("cut-off", "impossible", 0.05, checks.cut, "give a larger --size, or none"),
    Rule("cut", "odd", 0.01, checks.cut, "give a larger --size, or none"),
    Rule("with-skull", "impossible", LARGEST_BRAIN, checks.with_skull,
         "strip the skulls first, or give a subject's own tissue mask"),
    Rule("forms-apart", "odd", 0.1, checks.apart, "see whether the sform is meant"),
    Rule("shear", "odd", 0.5, checks.sheared, "correct the tilt when converting (dcm2niix does)"),
    Rule("out-of-view", "odd", 0.25, checks.out_of_view, "see whether so little of the head is meant"),
    Rule("looks-like-another", "odd", 3.0, checks.looks_like, "see whether it is the contrast that its name says"),
    Rule("ct-padding", "odd", -1100.0, checks.ct_padding, "nothing need be done"),
    Rule("signed", "odd", 0.001, checks.signed, "see whether that is its background"),
    Rule("hot-voxel", "odd", 3.0, checks.hot, "see whether it is a spike; robust intensities clip it"),
    Rule("saturated", "odd", 0.01, checks.saturated, "see whether the export cut it off"),
    Rule("scale-from-one-scan", "odd", 1.5, checks.one_scan,
         "keep --intensity robust, which no single scan moves far, or leave the scan out"),
    Rule("holes", "odd", 2.0, checks.holes, "look at its mask"),
    Rule("bites", "odd", 3.0, checks.bites, "look at its mask"),
    Rule("shifted", "odd", 1.0, checks.shifted, "register it"),
    Rule("little-in-common", "odd", 0.25, checks.strange, "look at both"),
    Rule("few-slices", "odd", 14.0, checks.slices, "measure under a protocol of slices (syndiff, mrdiff, cola-diff)"),
    Rule("spacing-differs", "odd", 1.5, checks.spacing, "give --spacing, so that all have one"),
    Rule("unlike-others", "odd", 6.0, checks.unlike, "look at it: another contrast, sequence or preparation?"),
    Rule("skull-differs", "odd", 0.34, checks.mixed, "strip all or none"),
    Rule("skull-unlike-training", "impossible", 0.05, training.skull_unlike_training,
         "prepare the scan as the run's cohort was, or take a run that was trained on such scans"),
    Rule("lies-unlike-training", "impossible", 0.03, training.lies_otherwise,
         "mend its header or its axes by the acquisition (DICOM)"),
    Rule("contrast-unlike-training", "impossible", 0.07, training.another_contrast,
         "give it as the contrast that it is"),
    Rule("slices-unlike-training", "impossible", 3.0, training.spacing_unlike_training,
         "take a run whose training had such voxels"),
    Rule("spacing-unlike-training", "odd", 1.5, training.spacing_unlike_training,
         "take a run whose cohort was resampled to one spacing"),
    Rule("unlike-training", "odd", 6.0, training.unlike_training,
         "look at it: another contrast, sequence or preparation than the run knows?"),
    Rule("looks-unlike-training", "odd", 0.1, training.pattern_unlike_training,
         "look at it: another part of the body, field of view or preparation than the run knows?"),
)  # fmt: skip
"""In the order in which they are said."""
WORSE = {"cut": "cut-off", "spacing-unlike-training": "slices-unlike-training"}
"""Rules that say nothing where another one, of the same thing, has spoken."""

NOT_TAKEN = "not-taken"
"""Name of what is not in the table: files that no layout takes (`layouts.NotTaken`), which `--missing` may make up."""


def judge(others: Others) -> list[Finding]:
    """All that is odd or impossible about a census, by rule and then by scan."""
    findings: list[Finding] = []
    worse: set[tuple[str, str, str]] = set()
    for rule in RULES:
        for scan in others.scans:
            key = scan.subject, scan.contrast
            text = None if (WORSE.get(rule.name, ""), *key) in worse else rule.says(scan, others, rule.threshold)
            if text:
                findings.append(Finding(rule, *key, text))
                worse.add((rule.name, *key))
    return findings


def check_accepted(accept: Iterable[str]) -> tuple[str, ...]:
    """Names of rules that are accepted.

    Raises:
        InputError: for a name that is none.
    """
    names = [rule.name for rule in RULES] + [NOT_TAKEN]
    for name in accept:
        if name not in names:
            raise InputError(f"--accept {name}: no rule of that name; there are {', '.join(names)}")
    return tuple(dict.fromkeys(accept))


def refusals(findings: Sequence[Finding], accept: Sequence[str]) -> list[Finding]:
    """The impossible ones that are not accepted."""
    return [one for one in findings if one.rule.severity == "impossible" and one.rule.name not in accept]


def refuse(findings: Sequence[Finding], accept: Sequence[str]) -> None:
    """Raise InputError if something cannot be right and is not accepted."""
    found = refusals(findings, accept)
    if not found:
        return
    names = " ".join(dict.fromkeys(one.rule.name for one in found))
    cures = "; ".join(dict.fromkeys(one.rule.cure for one in found))
    scans = "; ".join(one.line for one in found[:MOST]) + (f"; and {len(found) - MOST} more" * (len(found) > MOST))
    raise InputError(f"{scans}. The way on: {cures}; or, where it is meant so, --accept {names}")


def told(findings: Sequence[Finding], accept: Sequence[str] = ()) -> list[str]:
    """A line a rule: how many scans, the first of them, the way on."""
    counts = Counter(one.rule.name for one in findings)
    lines = []
    for rule in RULES:
        mine = [one for one in findings if one.rule is rule]
        if not mine:
            continue
        accepted = ", accepted" if rule.name in accept else ""
        examples = "; ".join(f"{one.subject} {one.contrast}: {one.text}" for one in mine[:NAMED])
        more = f"; and {counts[rule.name] - NAMED} more" if counts[rule.name] > NAMED else ""
        lines.append(f"{rule.severity} [{rule.name}{accepted}] {examples}{more}. The way on: {rule.cure}")
    return lines
