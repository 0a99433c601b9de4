"""What the synthetic head is drawn of: random numbers and fields, signed distances, and a voxel's share of a shape.

Lengths are in millimetres; signed distances are negative inside.
"""

import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

Array = np.ndarray

BOX = 160.0
"""Half side, mm, of the cube that carries random fields: the same numbers are drawn for every grid."""


def stream(seed: int, name: str) -> np.random.Generator:
    """Random numbers of one purpose: adding a purpose does not change the others."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def grid_axes(shape: Sequence[int], spacing: float) -> tuple[Array, Array, Array]:
    """Millimetres along each axis of a grid whose middle is the middle of the head, (n,) float32 each."""
    middle = (0.0, -18.0, 8.0)
    x, y, z = (
        ((np.arange(n) - (n - 1) / 2) * spacing + centre).astype(np.float32)
        for n, centre in zip(shape, middle, strict=True)
    )
    return x, y, z


def smooth_field(rng: np.random.Generator, axes: Sequence[Array], scale: float) -> Array:
    """A smooth random field of about unit variance: a cubic B-spline with normal coefficients.

    Args:
        rng: source of the coefficients.
        axes: millimetres along each axis of the grid.
        scale: distance of the spline's knots, mm.

    Returns:
        (X, Y, Z) float32.
    """
    knots = int(np.ceil(2 * BOX / scale)) + 4
    field = rng.standard_normal((knots, knots, knots)).astype(np.float32)
    for axis in axes:
        place = np.clip((axis + BOX) / scale, 0, knots - 4.001)
        first = place.astype(int)
        t = place - first
        weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
        basis = np.zeros((len(axis), knots), np.float32)
        for tap in range(4):
            basis[np.arange(len(axis)), first + tap] = weights[tap]
        field = np.tensordot(field, basis, axes=(0, 1))  # the axis done goes last, so that the next one is first
    return field / np.float32((151 / 315) ** 1.5)  # the mean of the summed squared weights, cubed, rooted


def coverage(distance: Array, width: float) -> Array:
    """Share of a voxel that lies inside a surface at a signed distance (mm), (X, Y, Z) in [0, 1]."""
    return np.clip(0.5 - distance / width, 0, 1)


def slab_coverage(distance: Array, half: Array | float, width: float) -> Array:
    """Share of a voxel inside a slab |distance| < half: right also for slabs thinner than a voxel."""
    return np.clip((np.minimum(half, distance + width / 2) - np.maximum(-half, distance - width / 2)) / width, 0, 1)


def smooth_min(a: Array, b: Array, blend: float) -> Array:
    """The smaller of two distances, rounded off where they differ by less than `blend` mm."""
    h = np.clip(0.5 + 0.5 * (b - a) / blend, 0, 1)
    return b + (a - b) * h - blend * h * (1 - h)


def ellipsoid(
    point: Sequence[Array], centre: Sequence[float], radii: Sequence[float] | Array, *, turn: float = 0.0
) -> Array:
    """Signed distance to an ellipsoid, mm, to first order; `turn` in degrees rotates it in the axial plane."""
    x, y, z = (p - np.float32(c) for p, c in zip(point, centre, strict=True))
    if turn:
        c, s = np.cos(np.radians(turn)), np.sin(np.radians(turn))
        x, y = np.float32(c) * x + np.float32(s) * y, np.float32(c) * y - np.float32(s) * x
    x, y, z = (p / np.float32(r) for p, r in zip((x, y, z), radii, strict=True))
    k0 = np.sqrt(x * x + y * y + z * z)
    k1 = np.sqrt((x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2)
    return (k0 * (k0 - 1) / np.maximum(k1, 1e-4)).astype(np.float32)


def tube(point: Sequence[Array], *stations: tuple[float, float, float, float]) -> Array:
    """Signed distance to a tube through stations (x, y, z, radius), mm."""
    result: Array | None = None
    for (*a, r_a), (*b, r_b) in pairwise(stations):
        along = [q - p for p, q in zip(a, b, strict=True)]
        relative = [p - np.float32(c) for p, c in zip(point, a, strict=True)]
        length = sum(d * d for d in along)
        t = np.clip(sum(p * np.float32(d / length) for p, d in zip(relative, along, strict=True)), 0, 1)
        squared = sum((p - t * np.float32(d)) ** 2 for p, d in zip(relative, along, strict=True))
        distance = np.sqrt(squared) - (r_a + t * np.float32(r_b - r_a))
        result = distance if result is None else np.minimum(result, distance)
    assert result is not None, "a tube has two stations or more"
    return result.astype(np.float32)
