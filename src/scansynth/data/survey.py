"""A cohort looked at before it is prepared: the census, the box that holds its heads, and what the rules say."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw

from scansynth.data.census import Census, screen, table
from scansynth.data.census_checks import Others
from scansynth.data.census_rules import Finding, judge, refuse, told
from scansynth.data.prepare import Preparation, prepared_axis
from scansynth.data.scan_facts import SIDE, ScanFacts
from scansynth.data.usual import Usual
from scansynth.data.volume import same_grid
from scansynth.errors import InputError
from scansynth.files import write_text

MARGIN = 1.05
"""Of the box over the largest head: there may be larger ones among those that are translated later."""
MULTIPLE = 16
"""Sides are multiples of it, so that a U-Net can halve them four times."""
COLUMNS = 6
"""Of the picture sheet."""


@dataclass(frozen=True)
class Survey:
    """What was found."""

    census: Census
    settings: Preparation
    cuts: Mapping[tuple[str, str], float]
    """Share of each scan's foreground that the prepared box leaves out."""
    findings: Sequence[Finding]

    def odd(self) -> dict[tuple[str, str], str]:
        """Subject and contrast → names of the rules that the scan breaks."""
        found: dict[tuple[str, str], list[str]] = {}
        for one in self.findings:
            found.setdefault((one.subject, one.contrast), []).append(one.rule.name)
        return {key: " ".join(names) for key, names in found.items()}

    def lines(self, accept: Sequence[str] = ()) -> list[str]:
        """For people: what was read, and a line for each rule that is broken."""
        head = f"census: {len(self.census.scans)} scans read, {len(self.odd())} odd in some way"
        return [head, *told(self.findings, accept)]

    def screen(self) -> list[str]:
        """For people: a line a scan."""
        return screen(self.census, self.odd())

    def refuse(self, accept: Sequence[str]) -> None:
        """Raise InputError if something cannot be right and is not accepted."""
        refuse(self.findings, accept)

    def write(self, folder: Path) -> None:
        """Write `census.tsv`, and `census.png`, a sheet of all scans, odd ones framed."""
        odd = self.odd()
        write_text(folder / "census.tsv", table(self.census, odd, self.cuts))
        impossible = {(one.subject, one.contrast) for one in self.findings if one.rule.severity == "impossible"}
        if self.census.scans:
            sheet(self.census.scans, odd, impossible).save(folder / "census.png", optimize=False)


def survey(
    census: Census,
    settings: Preparation,
    splits: Mapping[str, str],
    *,
    fit: bool = False,
    tissue: bool = False,
    usual: Mapping[str, Usual] = MappingProxyType({}),
) -> Survey:
    """Hold a census against the rules.

    Args:
        census: what was read.
        settings: how the scans are to be prepared.
        splits: subject → train, val or test.
        fit: whether the size is chosen so that the box holds all heads; else it is the settings'.
        tissue: whether tissue is segmented.
        usual: what the training scans of a run are like, by contrast, if they are prepared to test it.
    """
    groups = one_grid(census.scans)
    if fit:
        settings = replace(settings, size=size_for(groups, settings))
    cuts = {}
    for group in groups:
        axes = axes_of(group, settings)
        for scan in group:
            cuts[scan.subject, scan.contrast] = scan.cut(*zip(*axes, strict=True))
    others = Others(
        scans=census.scans, splits=splits, cuts=cuts, tissue=tissue, usual=usual, worked=settings.spacing
    )  # fmt: skip
    findings = judge(others) if census.scans else []
    return Survey(census, settings, cuts, findings)


def one_grid(scans: Sequence[ScanFacts]) -> list[list[ScanFacts]]:
    """Scans of each subject that share a grid, and so a prepared box."""
    by_subject: dict[str, list[list[ScanFacts]]] = {}
    for scan in scans:
        groups = by_subject.setdefault(scan.subject, [])
        group = next((one for one in groups if same_grid(one[0].space, scan.space)), None)
        if group is None:
            groups.append([scan])
        else:
            group.append(scan)
    return [group for groups in by_subject.values() for group in groups]


def axes_of(group: Sequence[ScanFacts], settings: Preparation) -> list[tuple[float, float, int]]:
    """Start, step and voxels along each axis of the prepared grid of scans on one grid, as `prepare.grid_for`."""
    first = group[0]
    boxes = np.array([scan.box for scan in group])
    lows, highs = boxes[:, :, 0].min(0), boxes[:, :, 1].max(0)
    return [
        prepared_axis(side, mm, spacing, size, (low + high) / 2)
        for side, mm, spacing, size, low, high in zip(
            first.shape, first.spacing, settings.spacing, settings.size, lows.tolist(), highs.tolist(), strict=True
        )
    ]


def size_for(groups: Sequence[Sequence[ScanFacts]], settings: Preparation) -> tuple[int, int, None]:
    """Voxels in the plane that hold the largest head with some to spare; slices are kept.

    Raises:
        InputError: if no scan was read.
    """
    if not groups:
        raise InputError("no scan can be read: there is nothing that a box could be fitted to")
    sides = []
    for axis in (0, 1):
        largest = 0.0
        for group in groups:
            boxes = [scan.box[axis] for scan in group]
            wide = max(high for _, high in boxes) - min(low for low, _ in boxes) + 1
            step = (settings.spacing[axis] or group[0].spacing[axis]) / group[0].spacing[axis]
            largest = max(largest, wide / step)
        sides.append(max(MULTIPLE, math.ceil(MARGIN * largest / MULTIPLE) * MULTIPLE))
    return sides[0], sides[1], None


def sheet(
    scans: Sequence[ScanFacts], odd: Mapping[tuple[str, str], str], impossible: set[tuple[str, str]]
) -> Image.Image:
    """Thumbnails of all scans; odd ones in an orange frame, impossible ones in a red one, with the rules' names."""
    wide, high, text = 2 * SIDE + 8, SIDE + 34, 11
    columns = min(COLUMNS, len(scans))
    page = Image.new("RGB", (columns * wide, math.ceil(len(scans) / columns) * high), "white")
    draw = ImageDraw.Draw(page)
    for place, scan in enumerate(scans):
        x, y = place % columns * wide, place // columns * high
        pixels = np.frombuffer(base64.b64decode(scan.picture), np.uint8).reshape(SIDE, 2 * SIDE)
        page.paste(Image.fromarray(pixels), (x + 4, y + 4))
        key = scan.subject, scan.contrast
        if key in odd:
            colour = "red" if key in impossible else "orange"
            draw.rectangle((x + 1, y + 1, x + wide - 2, y + high - 2), outline=colour, width=3)
        draw.text((x + 5, y + SIDE + 4), f"{scan.subject[-18:]} {scan.contrast}", fill="black", font_size=text)
        draw.text((x + 5, y + SIDE + 17), odd.get(key, "")[:28], fill="black", font_size=text)
    return page
