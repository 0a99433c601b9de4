"""A census: what each scan of a cohort is like, in figures, read before anything is prepared.

`take` reads a cohort's scans; `ScanFacts` is a line of `census.tsv`, and `census_rules.py` says what of it is odd and
what cannot be right.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from scansynth.data.ahead import in_order
from scansynth.data.kept_values import file_key, place_in
from scansynth.data.layouts import Listing, Subject
from scansynth.data.readers import reading
from scansynth.data.scan_facts import VERSION, ScanFacts, facts_of
from scansynth.data.volume import Volume, same_grid
from scansynth.errors import InputError
from scansynth.files import write_text
from scansynth.progress import Event, Report
from scansynth.records import build, read_json

log = logging.getLogger(__name__)

KEPT_GB = 1.0
"""Memory for scans that are kept between the census and the preparation, so that they are read once."""
MOST_LINES = 80
"""Scans that a screen shows."""
MOST_MB = 2000
"""Size of the file that the lines are kept in: about 15 kB a scan."""

HIDDEN = ("path", "affine", "profiles", "picture")
"""What `census.tsv` does not show, or not in its place."""


@dataclass(frozen=True)
class Census:
    """What was read of a cohort."""

    scans: tuple[ScanFacts, ...]
    unreadable: tuple[tuple[str, str, str], ...]
    """Subject, contrast and why."""
    volumes: dict[tuple[str, str], Volume]
    """Those that are kept for the preparation: it takes them out."""
    keys: dict[str, list[Any]]
    """Subject and contrast → what tells whether its line still holds."""

    def write(self, known: Path) -> None:
        """Keep the lines for the next census of these files."""
        lines = {f"{one.subject} {one.contrast}": asdict(one) for one in self.scans}
        write_text(
            known, json.dumps({label: {"key": self.keys[label], "facts": line} for label, line in lines.items()})
        )


def take(
    listing: Listing,
    contrasts: Sequence[str],
    *,
    known: Path | None = None,
    keep: bool = False,
    report: Report | None = None,
) -> Census:
    """Read the scans of a cohort.

    Args:
        listing: the subjects.
        contrasts: which of their contrasts.
        known: what an earlier census wrote (`Census.write`); scans whose files are as they were are not read again.
        keep: whether volumes are kept, as far as `KEPT_GB` reach.
        report: told of each scan ("subject contrast").
    """
    before = _read(known) if known else {}
    scans: list[ScanFacts] = []
    unreadable: list[tuple[str, str, str]] = []
    volumes: dict[tuple[str, str], Volume] = {}
    keys: dict[str, list[Any]] = {}
    room = KEPT_GB * 2**30 if keep else 0.0
    subjects = [one for one in listing.subjects if any(name in one.scans for name in contrasts)]
    total, done = sum(name in one.scans for one in subjects for name in contrasts), 0
    for subject, found in in_order(lambda one: _looked_at(one, contrasts, before), subjects):
        for contrast, (facts, volume, key, why) in found.items():
            label = f"{subject.name} {contrast}"
            if facts is None:
                file = str(subject.scans[contrast])
                unreadable.append((subject.name, contrast, why.replace(file, place_in(file, listing.root))))
            else:
                scans.append(replace(facts, path=place_in(facts.path, listing.root)))
                keys[label] = key
            if volume is not None and (room := room - volume.array.nbytes) > 0:
                volumes[subject.name, contrast] = volume
            done += 1
            if report:
                report(Event(done, total, label))
    return Census(tuple(scans), tuple(unreadable), volumes, keys)


_Looked = tuple[ScanFacts | None, Volume | None, list[Any], str]
"""A scan's line, the scan where it was read, what tells whether the line still holds, and why there is none."""


def _looked_at(subject: Subject, contrasts: Sequence[str], before: Mapping[str, Any]) -> dict[str, _Looked]:
    """A subject's scans by contrast; what an earlier census knows is not read again."""
    wanted = [name for name in contrasts if name in subject.scans]
    key = [VERSION, *(file_key(subject.scans[name]) for name in wanted)]
    found: dict[str, _Looked] = {}
    first: Volume | None = None
    for contrast in wanted:
        kept = before.get(f"{subject.name} {contrast}", {})
        if facts := _facts(kept, key):
            found[contrast] = facts, None, key, ""
            continue
        try:
            with reading(subject.scans[contrast]):
                volume = Volume.read(subject.scans[contrast])
                like = first if first is not None and same_grid(first.space, volume.space) else None
                facts = facts_of(volume, subject.name, contrast, first=like)
        except InputError as error:
            found[contrast] = None, None, key, str(error)
            continue
        found[contrast] = facts, volume, key, ""
        first = first or volume
    return found


def table(census: Census, odd: Mapping[tuple[str, str], str], cuts: Mapping[tuple[str, str], float]) -> str:
    """`census.tsv`: a line a scan.

    Args:
        census: what was read.
        odd: subject and contrast → what is odd, in words.
        cuts: subject and contrast → share of the foreground that the prepared box leaves out.
    """
    names = [one.name for one in fields(ScanFacts) if one.name not in HIDDEN]
    lines = ["\t".join([*names, "cut", "odd", "path"])]
    for scan in census.scans:
        key = scan.subject, scan.contrast
        cells = [_cell(getattr(scan, name)) for name in names]
        cut = _cell(cuts[key]) if key in cuts else "n/a"
        lines.append("\t".join([*cells, cut, odd.get(key, ""), scan.path]))
    for subject, contrast, why in census.unreadable:
        cells = [subject, contrast, *["n/a"] * (len(names) - 1), f"unreadable: {' '.join(why.split())}", ""]
        lines.append("\t".join(cells))
    return "\n".join(lines) + "\n"


def screen(census: Census, odd: Mapping[tuple[str, str], str]) -> list[str]:
    """The census for a terminal: a line a scan, of large cohorts the odd ones alone.

    Args:
        census: what was read.
        odd: subject and contrast → what is odd, in words.
    """
    scans = list(census.scans)
    if len(scans) > MOST_LINES:
        scans = [scan for scan in scans if (scan.subject, scan.contrast) in odd][:MOST_LINES]
    heads = "scan", "voxels", "mm", "forms", "min", "0.1 %", "50 %", "99.9 %", "max", "< 0", "head", "empty", "odd"
    rows: list[tuple[str, ...]] = [heads]
    for scan in scans:
        levels = (scan.minimum, scan.low, scan.median, scan.high, scan.maximum)
        rows.append((
            f"{scan.subject} {scan.contrast}", "×".join(map(str, scan.shape)),
            "×".join(f"{mm:.3g}" for mm in scan.spacing), scan.forms, *(f"{level:.4g}" for level in levels),
            f"{scan.below_zero:.0%}", f"{scan.foreground:.0%}", f"{scan.background:.4g}",
            odd.get((scan.subject, scan.contrast), ""),
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if left := len(census.scans) - len(scans):
        lines.append(f"and {left} more, in which nothing is odd or which census.tsv names")
    return lines if scans else []


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return "×".join(_cell(one) for one in value)
    if isinstance(value, float):
        return f"{value:.5g}"
    return str(value)


def _read(known: Path) -> dict[str, Any]:
    """The lines of an earlier census; those that cannot be read are read from their scans again."""
    try:
        return read_json(known, dict[str, dict[str, Any]], "", most_mb=MOST_MB)
    except InputError:
        return {}


def _facts(kept: Mapping[str, Any], key: list[Any]) -> ScanFacts | None:
    """What an earlier census knows of a scan, where it still holds."""
    if kept.get("key") != key:
        return None
    try:
        build(ScanFacts, kept.get("facts"), "facts")
        return ScanFacts.read(kept["facts"])
    except (InputError, ValueError):
        return None
