"""Where a scan of a head lies beside another of the same head: rigid registration by mutual information.

Mattes' mutual information (Mattes et al., IEEE Transactions on Medical Imaging 22, 2003), coarse to fine. The surface
that it climbs has many hills: several starts are climbed on the coarse level, the best two on the middle one, and
how far apart these end is a figure of trust.

register     two volumes                              mm of the fixed world → mm of the moving world, (4, 4)
moved        a volume, its matrix, a grid             the volume on that grid, interpolated once
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from scansynth.data.raw.itk_images import RAS_TO_LPS, itk, to_itk
from scansynth.data.volume import Volume

LEVELS = (8.0, 4.0, 2.0)
"""Voxels of the coarse to the fine level, mm; no axis is made finer than it was acquired."""
BINS = 32
TURNS = (0.0, -0.35, 0.35)
"""Nods and turns of the head that are tried at the start, rad."""
CLIMBED = 2
"""Starts that go on to the middle level."""
ITERATIONS = 150
SAMPLED = 0.3
"""Share of the voxels of the finest level that are looked at."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Registration:
    """How a moving scan lies beside a fixed one."""

    matrix: np.ndarray
    """(4, 4), mm of the fixed scan's world → mm of the moving one's, RAS."""
    information: float
    """Mutual information on the finest level, nats."""
    before: float
    """The same where the headers put the two."""
    shift: float
    """Root mean square distance over the fixed head that the motion moves it, mm."""
    apart: float
    """Root mean square distance over the fixed head between where the two best starts end on the middle level, mm."""
    centre: tuple[float, float, float]
    """Of the fixed head, mm."""

    @property
    def degrees(self) -> float:
        """Angle of the turn."""
        return float(np.degrees(np.arccos(np.clip((np.trace(self.matrix[:3, :3]) - 1) / 2, -1, 1))))

    @property
    def millimetres(self) -> float:
        """How far the head's centre moves."""
        centre = np.array([*self.centre, 1.0])
        return float(np.linalg.norm((self.matrix @ centre - centre)[:3]))


def register(fixed: Volume, moving: Volume, *, contrasts: tuple[str, str] = ("T1w", "T1w")) -> Registration:
    """Find the rigid motion between two scans of one head.

    Args:
        fixed: the scan that stays.
        moving: the scan that is to be brought onto it.
        contrasts: of the two: what of them is head.

    Returns:
        The motion; the same two scans give the same bits.
    """
    pyramids = [level(fixed, mm) for mm in LEVELS], [level(moving, mm) for mm in LEVELS]
    heads = [head_points(volume, contrast) for volume, contrast in zip((fixed, moving), contrasts, strict=True)]
    centre = heads[0].mean(0)
    found = []
    for start in _starts(heads[0].mean(0), heads[1].mean(0)):
        found.append(_climb(pyramids[0][0], pyramids[1][0], start, LEVELS[0]))
    found.sort(key=lambda one: one[1])
    ends = [_settle(pyramids[0][1], pyramids[1][1], transform, LEVELS[1]) for transform, _ in found[:CLIMBED]]
    ends.sort(key=lambda one: one[1])
    apart = distance(matrix_of(ends[0][0]), matrix_of(ends[-1][0]), heads[0])
    end, _ = _settle(pyramids[0][2], pyramids[1][2], ends[0][0], LEVELS[2])
    before, after = (_information(pyramids[0][2], pyramids[1][2], one) for one in (itk().Euler3DTransform(), end))
    best = matrix_of(end) if after > before else np.eye(4)  # scanners know better than a climb that went astray
    x, y, z = centre.tolist()
    return Registration(
        matrix=best,
        information=max(before, after),
        before=before,
        shift=distance(best, np.eye(4), heads[0]),
        apart=apart,
        centre=(x, y, z),
    )


def distance(one: np.ndarray, other: np.ndarray, points: np.ndarray) -> float:
    """Root mean square distance between where two (4, 4) matrices put points (n, 3), mm."""
    gap = (one - other)[:3]
    return float(np.sqrt(np.mean(np.sum((points @ gap[:, :3].T + gap[:, 3]) ** 2, axis=1))))


def moved(volume: Volume, matrix: np.ndarray, like: Volume, fill: float, *, order: int = 3) -> np.ndarray:
    """A scan on the grid of another, interpolated once, by cubic splines that overshoot no voxel's neighbours.

    Against aliasing its point spread is widened to that of larger voxels, as `prepare._resample` does: the variance of
    a box as wide as the new voxel, along each of the old axes.

    Args:
        volume: the scan.
        matrix: (4, 4), mm of `like`'s world → mm of the scan's.
        like: whose grid is wanted.
        fill: what stands where the scan does not reach.
        order: 0 for labels, 3 for images.

    Returns:
        (X, Y, Z) float32 on `like`'s grid.
    """
    to_voxel = np.linalg.inv(volume.affine) @ matrix @ like.affine
    array = volume.array
    if order:
        variance = (to_voxel[:3, :3] ** 2).sum(1)
        sigma = np.sqrt(np.maximum(variance - 1, 0) / 12)
        array = ndimage.gaussian_filter(array, sigma, mode="nearest") if sigma.any() else array
    result = _read(array, to_voxel, like.array.shape, order)
    if order > 1:
        low, high = ndimage.minimum_filter(array, 3), ndimage.maximum_filter(array, 3)
        result = np.clip(result, *(_read(edge, to_voxel, like.array.shape, 0) for edge in (low, high)))
    result[~reached(volume, matrix, like)] = fill
    return result.astype(np.float32, copy=False)


def reached(volume: Volume, matrix: np.ndarray, like: Volume) -> np.ndarray:
    """Which voxels of `like` lie inside the outer faces of a moved scan, (X, Y, Z) bool."""
    to_voxel = np.linalg.inv(volume.affine) @ matrix @ like.affine
    inside = np.ones(like.array.shape, bool)
    x, y, z = np.ogrid[tuple(slice(side) for side in like.array.shape)]
    for row, side in zip(to_voxel[:3], volume.array.shape, strict=True):
        place = row[0] * x + row[1] * y + row[2] * z + row[3]
        inside &= (place >= -0.5) & (place <= side - 0.5)
    return inside


def _read(array: np.ndarray, to_voxel: np.ndarray, shape: Sequence[int], order: int) -> np.ndarray:
    offset: Any = to_voxel[:3, 3]  # scipy's types know a scalar only
    return ndimage.affine_transform(array, to_voxel[:3, :3], offset, tuple(shape), order=order, mode="nearest")


def level(volume: Volume, mm: float) -> Any:
    """A volume, smoothed and thinned to voxels of about so many mm."""
    steps = [max(1.0, mm / own) for own in volume.spacing]
    array = ndimage.gaussian_filter(volume.array, [math.sqrt((s * s - 1) / 12) for s in steps], mode="nearest")
    shape = [max(1, round(side / step)) for side, step in zip(array.shape, steps, strict=True)]
    start = [(side - 1 - step * (count - 1)) / 2 for side, step, count in zip(array.shape, steps, shape, strict=True)]
    inner = np.diag([*steps, 1.0])
    inner[:3, 3] = start
    return to_itk(_read(array, inner, shape, 1), volume.affine @ inner)


def head_points(volume: Volume, contrast: str) -> np.ndarray:
    """Points of the head, (n, 3), mm."""
    step = max(1, round(max(volume.array.shape) / 48))
    thin = tuple(slice(None, None, step) for _ in range(3))
    mask = ndimage.gaussian_filter(volume.array, 1)[thin] > volume.threshold(contrast)  # noise is no head
    places = np.argwhere(mask if mask.any() else np.ones_like(mask)) * step
    return places @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def _starts(fixed: np.ndarray, moving: np.ndarray) -> list[Any]:
    """Where the headers put the scans, and centre on centre, each with the head nodded and turned a little."""
    starts = []
    for shift in (np.zeros(3), moving - fixed):
        for nod in TURNS:
            for turn in TURNS if nod == 0 else (0.0,):
                start = itk().Euler3DTransform()
                start.SetCenter((RAS_TO_LPS[:3, :3] @ fixed).tolist())
                start.SetRotation(nod, 0.0, turn)
                start.SetTranslation((RAS_TO_LPS[:3, :3] @ shift).tolist())
                starts.append(start)
    return starts


def metric(start: Any) -> Any:
    """A registration by mutual information that begins at, and changes, a transform."""
    method = itk().ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetInterpolator(itk().sitkLinear)
    method.SetInitialTransform(start, True)
    return method


def _climb(fixed: Any, moving: Any, start: Any, mm: float) -> tuple[Any, float]:
    """Go up from a start, quickly; the transform, and its value: minus the mutual information."""
    transform = itk().Euler3DTransform(start)
    method = metric(transform)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=mm / 2, minStep=mm / 200, numberOfIterations=ITERATIONS, relaxationFactor=0.6,
        gradientMagnitudeTolerance=1e-8,
    )  # fmt: skip
    method.SetOptimizerScalesFromPhysicalShift()
    return transform, run(method, fixed, moving)


def _settle(fixed: Any, moving: Any, start: Any, mm: float) -> tuple[Any, float]:
    """Find the top from nearby, by Powell's method: gradients of a surface that interpolation roughens stop too early.

    On the finest level at every so many-th voxel.
    """
    transform = itk().Euler3DTransform(start)
    method = metric(transform)
    if mm == LEVELS[-1]:
        method.SetMetricSamplingStrategy(method.REGULAR)
        method.SetMetricSamplingPercentage(SAMPLED, 1)
    method.SetOptimizerAsPowell(
        numberOfIterations=10, maximumLineIterations=40, stepLength=mm / 2, stepTolerance=1e-3, valueTolerance=1e-4
    )
    method.SetOptimizerScalesFromPhysicalShift()
    return transform, run(method, fixed, moving)


def run(method: Any, fixed: Any, moving: Any) -> float:
    """Register, in place; minus the mutual information at the end, infinite where the two do not meet."""
    try:
        method.Execute(fixed, moving)
    except RuntimeError:
        return math.inf
    return float(method.GetMetricValue())


def _information(fixed: Any, moving: Any, transform: Any) -> float:
    """Mutual information of two images, nats; 0 where they do not meet."""
    try:
        return -float(metric(transform).MetricEvaluate(fixed, moving))
    except RuntimeError:
        return 0.0


def matrix_of(transform: Any) -> np.ndarray:
    """(4, 4), RAS mm."""
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    lps[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    return RAS_TO_LPS @ lps @ RAS_TO_LPS
