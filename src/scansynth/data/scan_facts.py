"""What one scan is like, in figures: a line of the census.

Percentiles and shares are of every n-th voxel of large scans (`foreground.thinned`); minimum, maximum, foreground and
hash are of all.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.nifti1 import Nifti1Header
from nibabel.orientations import ornt2axcodes
from scipy import ndimage

from scansynth.data.appearance import packed, seen_from_afar, unpacked
from scansynth.data.foreground import at_share, faces, thinned
from scansynth.data.volume import Space, Volume, largest_shift

VERSION = 2
"""Goes up when a figure is computed otherwise."""
SIDE = 72
"""Of a thumbnail, pixels."""
REACH = 3
"""Voxels along each axis that two contrasts of a subject are tried against each other."""
GAIN = 1.06
"""Times the information that another place must give before a scan counts as shifted."""


@dataclass(frozen=True, kw_only=True)
class ScanFacts:
    """One scan."""

    subject: str
    contrast: str
    path: str
    shape: tuple[int, int, int]
    """Along the right, anterior and superior axes."""
    spacing: tuple[float, float, float]
    """mm."""
    stored: str
    """Axes of the file's array, as `LPS`."""
    forms: str
    """Codes of qform and sform, `1/1`."""
    forms_mm: float
    """Largest distance between the corners that the two give, mm; 0 where only one is set."""
    forms_mirrored: bool
    """Whether one of the two is a mirror image."""
    forms_spacing: float
    """Largest ratio of the header's voxel sizes to those of the affine that is used, or its inverse; 1 where equal."""
    shear: float
    """Degrees by which the grid's axes are off a right angle."""
    minimum: float
    low: float
    """0.1st percentile."""
    median: float
    high: float
    """99.9th percentile."""
    maximum: float
    below_zero: float
    """Share of the voxels."""
    background: float
    below_background: float
    """Voxels clearly below the background, as a share of those clearly off it."""
    foreground: float
    """Share of the voxels."""
    quartiles: tuple[float, float, float]
    """Of the foreground."""
    top: float
    """99.9th percentile of the foreground."""
    saturated: float
    """Share of the foreground that has the maximum's value."""
    head_ml: float
    """Volume of the foreground with its holes filled."""
    holes_ml: float
    """Of the largest piece of exact background inside the foreground."""
    shift: tuple[int, int, int]
    """Voxels by which it fits the subject's first contrast better, where both lie on one grid."""
    shared: float
    """Mutual information with the subject's first contrast where it lies, nats; 0 where it is not known."""
    digest: str
    """Of the voxels in RAS+."""
    affine: tuple[tuple[float, ...], ...]
    """(4, 4), voxel of the RAS+ array → mm."""
    profiles: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    """Foreground voxels in each plane across each axis: what of it a box cuts off is read from them."""
    afar: str
    """The head in blocks, packed (`appearance.py`)."""
    picture: str
    """Thumbnail, axial and coronal plane side by side, (`SIDE`, 2 `SIDE`) uint8 in base64."""

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "ScanFacts":
        """From JSON values.

        Raises:
            KeyError, TypeError, ValueError: if they are none of a scan's.
        """
        content = dict(values)
        unpacked(content["afar"])
        for name in ("shape", "spacing", "quartiles", "shift"):
            content[name] = tuple(content[name])
        for name in ("profiles", "affine"):
            content[name] = tuple(tuple(one) for one in content[name])
        return cls(**content)

    @property
    def space(self) -> Space:
        """Shape and affine."""
        return self.shape, np.asarray(self.affine)

    @property
    def box(self) -> list[tuple[int, int]]:
        """First and last plane of the foreground across each axis; all where there is none."""
        found = [np.flatnonzero(profile) for profile in self.profiles]
        return [
            (int(hits[0]), int(hits[-1])) if hits.size else (0, side - 1)
            for hits, side in zip(found, self.shape, strict=True)
        ]

    @property
    def filling(self) -> float:
        """Share of the box around the foreground that it fills."""
        voxels = float(np.prod([high - low + 1 for low, high in self.box]))
        return sum(self.profiles[0]) / voxels

    def cut(self, start: Sequence[float], step: Sequence[float], shape: Sequence[int]) -> float:
        """Share of the foreground that a prepared grid (as `prepare.Grid`) leaves out.

        The axes count as independent: what two planes cut off in one corner is known of each alone.
        """
        kept = 1.0
        for profile, first, mm, voxels in zip(self.profiles, start, step, shape, strict=True):
            places = np.arange(len(profile))
            inside = (places >= first - mm / 2) & (places <= first + mm * (voxels - 1) + mm / 2)
            total = sum(profile)
            kept *= float(np.asarray(profile)[inside].sum()) / total if total else 1.0
        return 1.0 - kept


def facts_of(
    volume: Volume, subject: str, contrast: str, *, first: Volume | None = None, path: str | None = None
) -> ScanFacts:
    """A scan's line.

    Args:
        volume: as read.
        subject: name of the subject.
        contrast: standard name.
        first: the subject's first contrast, where this is another one.
        path: of the file, where the volume does not say it.
    """
    array, spacing = volume.array, volume.spacing
    background, threshold = volume.background(contrast), volume.threshold(contrast)
    head = array > threshold
    values = np.sort(thinned(array))
    inside = values[np.searchsorted(values, threshold, side="right") :]
    if not inside.size:
        inside = np.full(1, background)
    low, median, high = (at_share(values, share) for share in (0.001, 0.5, 0.999))
    margin = 0.05 * max(high - background, 0.0)
    off = float((np.abs(values - background) > margin).mean())
    filled, holes = _volumes(head, array == np.float32(background), spacing)
    mirrored, apart, ratio = _forms(volume.header, volume.native_affine)
    shift, shared = _beside(first, volume, contrast) if first else ((0, 0, 0), 0.0)
    maximum = float(array.max())
    by_column = head.sum(axis=2, dtype=np.int32)
    profiles = _three([
        tuple(counts.tolist()) for counts in (by_column.sum(1), by_column.sum(0), head.sum(axis=(0, 1), dtype=np.int32))
    ])  # fmt: skip
    return ScanFacts(
        subject=subject, contrast=contrast, path=path or volume.name,
        shape=_three(array.shape), spacing=spacing, stored="".join(map(str, ornt2axcodes(volume.native_orientation))),
        forms=f"{int(volume.header['qform_code'])}/{int(volume.header['sform_code'])}",
        forms_mm=apart, forms_mirrored=mirrored, forms_spacing=ratio, shear=_shear(volume.affine),
        minimum=float(array.min()), low=low, median=median, high=high, maximum=maximum,
        below_zero=float((values < 0).mean()), background=background,
        below_background=float((values < background - margin).mean()) / off if off else 0.0,
        foreground=float(head.mean()), quartiles=_three([at_share(inside, share) for share in (0.25, 0.5, 0.75)]),
        top=at_share(inside, 0.999), saturated=float((inside >= maximum).mean()),
        head_ml=filled, holes_ml=holes, shift=shift, shared=shared,
        digest=hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=12).hexdigest(),
        affine=tuple(tuple(row) for row in volume.affine.tolist()), profiles=profiles,
        afar=packed(seen_from_afar(array, head, background)),
        picture=_picture(array, profiles, spacing, background, at_share(inside, 0.99)),
    )  # fmt: skip


def _picture(
    array: np.ndarray, profiles: Sequence[Sequence[int]], spacing: Sequence[float], low: float, high: float
) -> str:
    """The axial and the coronal plane through the middle of the foreground, as squares of one scale."""
    middle = [int(np.argmax(np.cumsum(profile) * 2 >= sum(profile))) for profile in profiles]
    side = max(voxels * mm for voxels, mm in zip(array.shape, spacing, strict=True))
    planes = []
    for plane, sizes in (
        (array[:, :, middle[2]], (spacing[0], spacing[1])),
        (array[:, middle[1], :], (spacing[0], spacing[2])),
    ):
        grey = np.clip((plane - low) / max(high - low, 1e-9), 0, 1)
        small = np.zeros((SIDE, SIDE), np.uint8)
        counts = [max(1, round(voxels * mm / side * SIDE)) for voxels, mm in zip(plane.shape, sizes, strict=True)]
        rows, columns = (
            np.minimum((np.arange(count) + 0.5) * voxels / count, voxels - 1).astype(int)
            for count, voxels in zip(counts, plane.shape, strict=True)
        )
        start = [(SIDE - count) // 2 for count in counts]
        small[start[0] : start[0] + counts[0], start[1] : start[1] + counts[1]] = 255 * grey[np.ix_(rows, columns)]
        planes.append(np.flipud(small.T))
    return base64.b64encode(np.concatenate(planes, axis=1).tobytes()).decode()


def _volumes(head: np.ndarray, empty: np.ndarray, spacing: Sequence[float]) -> tuple[float, float]:
    """Millilitres of the foreground with its holes filled, and of the largest piece of exact background in it."""
    steps = [max(1, round(3.0 / mm)) for mm in spacing]
    part = tuple(slice(None, None, step) for step in steps)
    ml = float(np.prod([mm * step for mm, step in zip(spacing, steps, strict=True)])) / 1000
    head, empty = head[part], empty[part]
    holes = np.bincount(_enclosed(empty).ravel())[1:] if empty.any() else np.zeros(0)
    return float(head.sum() + (_enclosed(~head) > 0).sum()) * ml, float(holes.max(initial=0)) * ml


def _enclosed(mask: np.ndarray) -> np.ndarray:
    """The pieces of a mask, (X, Y, Z) bool, that reach no face, by number; 0 elsewhere."""
    pieces: Any = ndimage.label(mask)[0]  # pyright: ignore[reportGeneralTypeIssues, reportIndexIssue]
    inner = np.ones(int(pieces.max()) + 1, bool)
    inner[0] = False
    inner[np.unique(faces(pieces))] = False
    return np.where(inner[pieces], pieces, 0)


def _forms(header: Nifti1Header, used: np.ndarray) -> tuple[bool, float, float]:
    """Whether qform and sform mirror each other, how far apart they put a corner (mm), and how voxel sizes differ."""
    sizes, stated = voxel_sizes(used), np.abs(np.asarray(header["pixdim"][1:4], dtype=np.float64))
    ratio = float(np.max(np.maximum(sizes / np.maximum(stated, 1e-9), stated / sizes)))
    if not (header["qform_code"] and header["sform_code"]):
        return False, 0.0, ratio if header["sform_code"] and stated.all() else 1.0
    try:
        quaternion = np.asarray(header.get_qform(), dtype=np.float64)
    except ValueError:  # no rotation at all, and not used, for there is an sform
        return False, float("inf"), ratio
    x, y, z = (int(side) for side in header.get_data_shape()[:3])
    apart = largest_shift(((x, y, z), quaternion), ((x, y, z), np.asarray(used)))
    mirrored = bool(np.linalg.det(quaternion[:3, :3]) * np.linalg.det(used[:3, :3]) < 0)
    return mirrored, apart, ratio


def _shear(affine: np.ndarray) -> float:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.degrees(np.arcsin(min(1.0, float(np.abs(axes.T @ axes - np.eye(3)).max())))))


def _beside(first: Volume, other: Volume, contrast: str) -> tuple[tuple[int, int, int], float]:
    """How a contrast lies on the subject's first one, and what it has in common with it.

    Mutual information (Viola & Wells, International Journal of Computer Vision 24, 1997) at places of the foreground
    that stay in it when moved, so that the edge of a mask says nothing; axis by axis.

    Returns:
        Voxels along each axis by which it fits better, and the information (nats) where it lies. 0 for scans too
        small to tell.
    """
    nothing = (0, 0, 0), 0.0
    shape = first.array.shape
    if min(shape) <= 4 * REACH:
        return nothing
    head = (first.array > first.background(contrast)) & (other.array > other.threshold(contrast))
    inner = tuple(slice(REACH, -REACH) for _ in range(3))
    places = np.flatnonzero(head[inner])
    places = places[:: max(1, places.size // 60_000)]
    at = np.stack(np.unravel_index(places, tuple(side - 2 * REACH for side in shape))) + REACH
    steps = np.eye(3, dtype=int)[:, :, None]
    for step in (*(REACH * steps), *(-REACH * steps)):
        at = at[:, head[tuple(at + step)]]
    if at.shape[1] < 2000:
        return nothing
    codes = _codes(other.array[tuple(at)])
    stay = _information(codes, _codes(first.array[tuple(at)]))
    found = []
    for step in steps:
        gains = {
            count: _information(codes, _codes(first.array[tuple(at + count * step)]))
            for count in range(-REACH, REACH + 1)
            if count
        }
        best = max(gains, key=lambda count: gains[count])
        found.append(best if gains[best] > GAIN * stay else 0)
    return (found[0], found[1], found[2]), stay


def _codes(values: np.ndarray) -> np.ndarray:
    low, high = np.percentile(values, (1, 99))
    return np.clip((values - low) / max(high - low, 1e-9) * 32, 0, 31).astype(np.int64)


def _information(one: np.ndarray, other: np.ndarray) -> float:
    joint = np.bincount(one * 32 + other, minlength=1024).reshape(32, 32) / one.size
    product = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    known = joint > 0
    return float((joint[known] * np.log(joint[known] / product[known])).sum())


def _three(values: Sequence[Any]) -> tuple[Any, Any, Any]:
    x, y, z = values
    return x, y, z
