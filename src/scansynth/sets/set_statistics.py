"""Distances between two samples of vectors: maximum mean discrepancy and Fréchet distance.

MMD: Gretton, Borgwardt, Rasch, Schölkopf & Smola, "A Kernel Two-Sample Test", Journal of Machine Learning Research 13,
2012. Fréchet distance of Gaussians: Dowson & Landau, Journal of Multivariate Analysis 12, 1982; as a measure of
generated images: Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", NeurIPS 2017.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy import linalg
from scipy.spatial import distance

from scansynth.errors import InputError

Kernel = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(N, D), (M, D) → (N, M)."""


@dataclass(frozen=True)
class Discrepancy:
    """Squared MMD of two samples by both estimators."""

    unbiased: float
    """Gretton et al., equation 3: without pairs of a volume with itself. Negative by chance where sets are alike."""
    biased: float
    """Gretton et al., equation 5: with them. Never negative, and above 0 for two samples of one distribution."""


def linear_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """⟨x, y⟩: MMD² is then the squared distance of the means."""
    return x @ y.T


def gaussian_kernel(bandwidth: float) -> Kernel:
    """exp(−|x − y|² / (2·bandwidth²))."""
    return lambda x, y: np.exp(-distance.cdist(x, y, "sqeuclidean") / (2 * bandwidth**2))


def median_distance(x: np.ndarray) -> float:
    """Median of the distances between the vectors of a sample (N, D): the usual bandwidth of a Gaussian kernel.

    Raises:
        InputError: for fewer than two vectors, or if most are equal.
    """
    median = float(np.median(distance.pdist(x))) if len(x) > 1 else 0.0
    if median <= 0:
        raise InputError("the real volumes are fewer than two, or mostly equal: there is no bandwidth for a kernel")
    return median


def mmd_squared(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> Discrepancy:
    """Squared MMD of samples x (N, D) and y (M, D), float64.

    Raises:
        InputError: if a sample has fewer than two vectors.
    """
    _check(len(x), len(y))
    x, y = x.astype(np.float64), y.astype(np.float64)
    k_xx, k_yy, k_xy = kernel(x, x), kernel(y, y), float(kernel(x, y).mean())
    return _discrepancy(
        (float(k_xx.sum()), float(np.trace(k_xx)), len(x)), (float(k_yy.sum()), float(np.trace(k_yy)), len(y)), k_xy
    )


def _discrepancy(of_x: tuple[float, float, int], of_y: tuple[float, float, int], across: float) -> Discrepancy:
    """From the sum, the trace and the size of each sample's kernel matrix, and the mean of that between them."""
    unbiased = sum((total - trace) / (n * (n - 1)) for total, trace, n in (of_x, of_y)) - 2 * across
    biased = sum(total / n**2 for total, _, n in (of_x, of_y)) - 2 * across
    return Discrepancy(unbiased, biased)


@dataclass
class VoxelSums:
    """What the linear kernel needs of a set at full size: one volume in memory, however many there are."""

    count: int = 0
    total: np.ndarray | float = 0.0
    """Sum of the volumes, (X, Y, Z) float64."""
    squares: float = 0.0
    """Sum of all squared voxels of all volumes."""

    def add(self, volume: np.ndarray) -> None:
        """Take in one more volume (X, Y, Z)."""
        values = volume.astype(np.float64)
        self.count += 1
        self.total = self.total + values
        self.squares += float(np.vdot(values, values))

    @classmethod
    def of(cls, volumes: Iterable[np.ndarray]) -> "VoxelSums":
        """Of all volumes."""
        sums = cls()
        for volume in volumes:
            sums.add(volume)
        return sums


def linear_mmd_squared(x: VoxelSums, y: VoxelSums) -> Discrepancy:
    """Squared MMD of two sets of volumes by the linear kernel on their voxels.

    Raises:
        InputError: if a set has fewer than two volumes.
    """
    _check(x.count, y.count)
    (sum_x, sum_y) = np.ravel(x.total), np.ravel(y.total)
    return _discrepancy(
        (float(sum_x @ sum_x), x.squares, x.count),
        (float(sum_y @ sum_y), y.squares, y.count),
        float(sum_x @ sum_y) / (x.count * y.count),
    )


def _check(n: int, m: int) -> None:
    if min(n, m) < 2:
        raise InputError(f"sets of {n} and {m} volumes: two of each are the least that can be compared")


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Squared Fréchet distance of the Gaussians with the means and covariances of two samples.

        |m_x − m_y|² + tr(C_x + C_y − 2·(C_x·C_y)^½)

    The root is not taken. With C_x = AᵀA and C_y = BᵀB, the eigenvalues of C_x·C_y other than 0 are those of
    (A·Bᵀ)·(A·Bᵀ)ᵀ, so that the root's trace is the sum of the singular values of A·Bᵀ. This holds for covariances of
    any rank, where a root of the matrix C_x·C_y fails or comes out complex.

    Args:
        x: features, (N, F), float64.
        y: features, (M, F), float64.

    Raises:
        InputError: if a sample has fewer than two vectors.
    """
    _check(len(x), len(y))
    difference = x.mean(0) - y.mean(0)
    a, b = _root(x), _root(y)
    shared = float(np.asarray(linalg.svdvals(a @ b.T)).sum())
    spread = float(np.vdot(a, a) + np.vdot(b, b))
    return max(0.0, float(difference @ difference) + spread - 2 * shared)


def _root(x: np.ndarray) -> np.ndarray:
    """A matrix A (min(N, F), F) with AᵀA the covariance (N − 1 below) of x (N, F)."""
    centred = (x - x.mean(0)) / np.sqrt(len(x) - 1)
    return np.asarray(linalg.qr(centred, mode="r")[0])[: x.shape[1]] if len(x) > x.shape[1] else centred
