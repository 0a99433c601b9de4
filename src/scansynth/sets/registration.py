"""Volumes brought onto each other, so that a copy is known as one: shifted, mirrored, resized, of other intensities.

Intensities are first brought to one histogram (`standardised`), which undoes every increasing change of them: gain,
offset, gamma. Then a coarse grid is searched for the translation, the mirror image and the size that correlate best (by
Fourier transforms, all translations at once), and an affine map is refined from there (Baker & Matthews, "Lucas–Kanade
20 Years On: A Unifying Framework", International Journal of Computer Vision 56, 2004: inverse compositional, section
3.2).

Positions are in units in which a volume spans −1 to 1 along each axis, so that a map is the same on every grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import fft, linalg, ndimage, stats

from scansynth.errors import InputError
from scansynth.metrics.cases import foreground
from scansynth.sets.volume_sets import shrunk

COARSE = 24
"""Longest side of the grid of the search, voxels."""
FINE = 48
"""Longest side of the grid on which maps are refined."""
SIZES = (0.94, 1.0, 1.06)
"""Sizes that the search tries; the refinement finds what lies between and a little beyond."""
REACH = 1 / 4
"""Largest translation that the search looks at, as a share of a side."""
QUIET = 1 / 48
"""Standard deviation of the smoothing before the background is told from the head, as a share of the longest side."""
LANDMARKS = np.linspace(0, 1, 501)
"""Quantiles that are brought onto each other."""
DETAIL = 3.0
"""Standard deviation, coarse voxels, of what is taken out before the search: all heads look alike when blurred."""
STEPS = 15
LARGEST = 0.3
"""Of a map's departure from the identity (any entry): beyond it the refinement has lost its way."""


@dataclass(frozen=True)
class Map:
    """Where to look in one volume for what is at u in another: `matrix` · u + `shift`."""

    matrix: np.ndarray = field(default_factory=lambda: np.eye(3))
    shift: np.ndarray = field(default_factory=lambda: np.zeros(3))

    @property
    def moves(self) -> bool:
        """Whether it is not the identity."""
        return bool(np.any(self.matrix != np.eye(3)) or np.any(self.shift))

    @property
    def sane(self) -> bool:
        """Whether it is near enough the identity (translations within reach) to be believed."""
        near = np.abs(self.matrix - np.eye(3)).max() < LARGEST
        return bool(near and np.abs(self.shift).max() < 2 * REACH + LARGEST)


@dataclass(frozen=True)
class Pose:
    """What the search found."""

    correlation: float
    """Of the details, −1 to 1."""
    mirrored: bool
    """Left to right."""
    map: Map
    """From the query to the (mirrored) other volume."""


def tissue(volume: np.ndarray) -> np.ndarray:
    """The foreground above the volume's own background, (X, Y, Z) bool.

    The background is the median of the outermost voxels: an offset moves it along, and a lowest value or percentile
    would be what interpolation leaves beside bright edges. The volume is smoothed first, so that noise is not taken
    for a head.
    """
    smooth = np.asarray(ndimage.gaussian_filter(volume, QUIET * max(volume.shape)))
    inner = np.zeros(volume.shape, bool)
    inner[1:-1, 1:-1, 1:-1] = True
    return foreground(smooth - np.median(smooth[~inner]))


def landmarks(volume: np.ndarray) -> np.ndarray:
    """Quantiles of a whole volume, background included, (501,).

    Raises:
        InputError: if the volume is flat.
    """
    if not np.ptp(volume):
        raise InputError("a volume is flat: it holds no head")
    return np.quantile(volume, LANDMARKS)


def standardised(volume: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The volume with its quantiles (501) brought to those of `target`; float32.

    Voxels are ranked, equal ones alike, and each gets the target's value at its rank: what increasing changes of the
    intensities do is undone exactly, and no threshold decides what is head.
    """
    ranks = stats.rankdata(volume, axis=None) - 0.5
    return np.interp(ranks / volume.size, LANDMARKS, target).reshape(volume.shape).astype(np.float32)


def warped(volume: np.ndarray, map_: Map, shape: Sequence[int], *, order: int = 1) -> np.ndarray:
    """A volume (X, Y, Z) as the map sees it, on a grid of that shape; 0 where it has nothing."""
    outward, inward = np.asarray(shape, float), np.asarray(volume.shape, float)
    # Voxel p of n lies at (2p + 1) / n − 1.
    matrix = (inward[:, None] / 2) * map_.matrix * (2 / outward[None, :])
    offset = inward / 2 * (map_.matrix @ (1 / outward - 1) + map_.shift + 1) - 0.5
    both = np.column_stack([matrix, offset])
    return np.asarray(ndimage.affine_transform(volume, both, output_shape=tuple(shape), order=order, mode="constant"))


def detail(volume: np.ndarray) -> np.ndarray:
    """What blurring takes away, with mean 0 and length 1; zeros for a flat volume."""
    found = volume - np.asarray(ndimage.gaussian_filter(volume, DETAIL, mode="constant"))
    found = found - found.mean()
    length = float(np.linalg.norm(found))
    return (found / length if length else found).astype(np.float32)


def _transform(volume: np.ndarray) -> np.ndarray:
    return np.asarray(fft.rfftn(detail(volume)), dtype=np.complex64)


class Search:
    """Queries on the coarse grid, against which one volume after the other is searched.

    In memory stand the queries' transforms, 60 kB each, and while a volume is searched one correlation a query.
    """

    def __init__(self, queries: Sequence[np.ndarray]) -> None:
        """Queries: standardised volumes on the coarse grid, of one shape."""
        self.shape = queries[0].shape
        self._transforms = np.stack([_transform(query) for query in queries])
        reach = [max(1, int(side * REACH)) for side in self.shape]
        self._offsets = [np.arange(-far, far + 1) for far in reach]

    def poses(self, volume: np.ndarray) -> list[tuple[Pose, Pose]]:
        """The best pose of the volume as it is, and mirrored, for each query; standardised and on the coarse grid."""
        sides = [self._side(volume[::-1] if mirrored else volume, mirrored=mirrored) for mirrored in (False, True)]
        return list(zip(*sides, strict=True))

    def _side(self, image: np.ndarray, *, mirrored: bool) -> list[Pose]:
        x, y, z = np.ix_(*self._offsets)
        best: list[Pose | None] = [None] * len(self._transforms)
        for size in SIZES:
            resized = warped(image, Map(np.eye(3) / size), self.shape) if size != 1 else image
            product = self._transforms * np.conj(_transform(resized))
            maps = np.asarray(fft.irfftn(product, self.shape, axes=(1, 2, 3)))
            window = maps[:, x, y, z]
            flat = window.reshape(len(window), -1)
            for query, place in enumerate(flat.argmax(1)):
                correlation, other = float(flat[query, place]), best[query]
                if other is None or correlation > other.correlation:
                    indices = np.unravel_index(place, window.shape[1:])
                    moved = [
                        2 * offsets[i] / side
                        for offsets, i, side in zip(self._offsets, indices, self.shape, strict=True)
                    ]
                    # query(u) = resized(u − moved), and resized(u) = image(u / size).
                    best[query] = Pose(correlation, mirrored, Map(np.eye(3) / size, -np.array(moved) / size))
        assert all(best), "no size was tried"
        return [pose for pose in best if pose is not None]


def placed(query: np.ndarray, other: np.ndarray, poses: Sequence[Pose]) -> Pose:
    """The pose of the other volume under which it is most like the query (least squares): an affine map near one given.

    Heads are nearly symmetric, so that the search alone does not tell a turned one from a mirrored one: both are
    refined on the coarse grid, and the better goes on.

    Args:
        query: standardised, (X, Y, Z) at full size.
        other: the same, not mirrored.
        poses: of the search, one or more.

    Returns:
        The pose; one of those given where nothing better was found.
    """
    sides = [other[::-1] if pose.mirrored else other for pose in poses]
    found = [_refined(query, side, pose.map, COARSE) for side, pose in zip(sides, poses, strict=True)]
    best = min(range(len(poses)), key=lambda i: found[i][1])
    map_, _ = _refined(query, sides[best], found[best][0], FINE)
    return replace(poses[best], map=map_)


def _refined(query: np.ndarray, other: np.ndarray, start: Map, longest: int) -> tuple[Map, float]:
    """The map on a grid of that longest side, and the squares that are left there."""
    x, y = (
        np.asarray(ndimage.gaussian_filter(shrunk(image, min(longest, max(query.shape))), 1.0, mode="constant"))
        for image in (query, other)
    )
    return _descent(x, y, start)


def _descent(query: np.ndarray, other: np.ndarray, start: Map) -> tuple[Map, float]:
    """Gauss–Newton steps on one grid, and the squares that are left; a step that makes them more ends it."""
    axes = [(2 * np.arange(side) + 1) / side - 1 for side in query.shape]
    places = np.stack([np.broadcast_to(u, query.shape).ravel() for u in np.meshgrid(*axes, indexing="ij", sparse=True)])
    slopes = [slope.ravel() * side / 2 for slope, side in zip(np.gradient(query), query.shape, strict=True)]
    # Column 4i + j: how the query changes as row i of the map changes in the factor of u_j, or (j = 3) in its shift.
    columns = np.stack([slope * u for slope in slopes for u in (*places, 1.0)]).astype(np.float64)
    normal = columns @ columns.T
    best, residual = start, warped(other, start, query.shape) - query
    least = float(np.vdot(residual, residual))
    try:
        factor = linalg.cho_factor(normal + 1e-6 * np.trace(normal) / 12 * np.eye(12))
    except linalg.LinAlgError:  # a query without slopes
        return best, least
    for _ in range(STEPS):
        step = np.asarray(linalg.cho_solve(factor, columns @ residual.ravel())).reshape(3, 4)
        inverse = np.linalg.inv(np.eye(3) + step[:, :3])
        matrix = best.matrix @ inverse
        trial = Map(matrix, best.shift - matrix @ step[:, 3])
        if not trial.sane:
            break
        residual = warped(other, trial, query.shape) - query
        now = float(np.vdot(residual, residual))
        if now >= least:
            break
        stop = now > (1 - 1e-4) * least
        best, least = trial, now
        if stop:
            break
    return best, least
