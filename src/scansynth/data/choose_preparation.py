"""How a folder of scans is prepared where nobody says: a box that holds the heads, at a spacing that is affordable."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scansynth.data.foreground import bounding_box
from scansynth.data.layouts import Listing
from scansynth.data.prepare import Preparation
from scansynth.data.readers import reading
from scansynth.data.volume import Volume, same_grid
from scansynth.errors import InputError
from scansynth.progress import Event, Report

LOOKED_AT = 12
"""Subjects whose voxels are read, spread over the list."""
MARGIN = 1.05
"""Of the box over the largest head seen: there may be larger ones."""
COARSER = (1.0, 1.5, 2.0, 2.5, 3.0)
"""Spacings in mm that are tried after the acquired one, from fine to coarse."""
MULTIPLE = 16
"""Sides are multiples of it, so that a U-Net can halve them four times."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """What some subjects' voxels say."""

    spacing: tuple[float, float, float]
    """mm, median of the scans."""
    equal: bool
    """Whether all scans have this spacing in the plane."""
    extent: tuple[float, float, float]
    """mm, of the box that holds the largest head in each direction."""
    slices: float
    """Axial slices of a scan that show the head, median."""
    paired: float
    """Share of the subjects with several contrasts whose scans lie on one grid."""
    apart: bool
    """Whether of most of those the scans lie on several grids, as scanners give them."""
    unreadable: tuple[str, ...]
    """What could not be read, and why."""


def look(listing: Listing, contrasts: Sequence[str], report: Report | None = None) -> Look:
    """Read the scans of some subjects.

    Raises:
        InputError: if none of them can be read.
    """
    having = [subject for subject in listing.subjects if set(contrasts) & subject.scans.keys()]
    chosen = [having[i] for i in np.unique(np.linspace(0, len(having) - 1, LOOKED_AT).round().astype(int))]
    spacings, extents, slices, grids, unreadable = [], [], [], [], []
    for done, subject in enumerate(chosen, 1):
        volumes = []
        for name in contrasts:
            if name not in subject.scans:
                continue
            try:
                with reading(subject.scans[name]):
                    volume = Volume.read(subject.scans[name])
                    head = volume.array > volume.threshold(name)
            except InputError as error:
                unreadable.append(str(error))
                continue
            box = bounding_box(head)
            extents.append([(part.stop - part.start) * mm for part, mm in zip(box, volume.spacing, strict=True)])
            spacings.append(volume.spacing)
            slices.append(int((head.mean(axis=(0, 1)) > 0.1 * head.mean(axis=(0, 1)).max()).sum()))
            volumes.append(volume)
        if len(volumes) > 1:
            grids.append(all(same_grid(volumes[0].space, other.space) for other in volumes[1:]))
        if report:
            report(Event(done, len(chosen)))
    if not spacings:
        raise InputError(f"{listing.root}: none of {len(unreadable)} scans can be read; the first: {unreadable[0]}")
    x, y, z = (float(mm) for mm in np.median(spacings, axis=0))
    wide, high, deep = (float(mm) for mm in np.max(extents, axis=0))
    plane = np.asarray(spacings)[:, :2]
    return Look(
        spacing=(x, y, z),
        equal=bool(np.allclose(plane, [x, y], rtol=1e-3)),
        extent=(wide, high, deep),
        slices=float(np.median(slices)),
        paired=float(np.mean(grids)) if grids else 0.0,
        apart=bool(grids) and float(np.mean(grids)) < 0.5,
        unreadable=tuple(unreadable),
    )


def choose_preparation(seen: Look, largest: float, *, one_grid: bool) -> tuple[Preparation, str]:
    """The finest preparation whose slices have at most `largest` voxels.

    Args:
        seen: of the scans.
        largest: voxels of a slice that the time affords.
        one_grid: whether all volumes must have one grid (a generator's).

    Returns:
        The preparation, and why it is so.
    """
    acquired, height, width = max(seen.spacing[:2]), 0, 0
    spacing = acquired
    for spacing in (acquired, *(mm for mm in COARSER if mm > acquired * 1.05)):
        height, width = (_side(MARGIN * mm / spacing, MULTIPLE) for mm in seen.extent[:2])
        if height * width <= largest:
            break
    kept = spacing == acquired and seen.equal and math.isclose(*seen.spacing[:2], rel_tol=1e-3)
    plane = None if kept else round(spacing, 4)
    why = f"slices of {height}×{width} hold the largest of the heads looked at, with {MARGIN - 1:.0%} to spare"
    if spacing == acquired:
        why += f"; as acquired, {acquired:.2g} mm, is affordable in the time"
    else:
        why += f"; {acquired:.2g} mm as acquired would leave too few training steps in the time"
    if not one_grid:
        return Preparation((plane, plane, None), (height, width, None), "robust"), why
    plane = round(spacing, 4)
    through = max(seen.spacing[2], spacing)
    deep = _side(MARGIN * seen.extent[2] / through, 2)
    return Preparation((plane, plane, round(through, 4)), (height, width, deep), "percentile"), why


def _side(voxels: float, multiple: int) -> int:
    return max(multiple, math.ceil(voxels / multiple) * multiple)
