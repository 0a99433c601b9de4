"""Features of slices, by named extractors, for distances between sets of images.

A figure means nothing without the extractor that it was taken with: its name, with its version or the hash of its
weights, stands in every column. One needs no download and is defined here; Inception-v3 loads a file that the user
names.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scansynth.errors import InputError
from scansynth.sets import inception

VIEWS: Mapping[str, int] = {"axial": 2, "coronal": 1, "sagittal": 0}
"""View → the axis that it cuts."""
LEVELS = 4
"""Of the pyramid: structures of 1, 2, 4 and 8 voxels."""
CELLS = 2
"""Halves along each side over which the sizes of the derivatives are averaged."""
COARSE = 4
"""Squares along each side whose mean intensity is a feature."""
BATCH = 16
"""Slices that go through an extractor at once."""


@dataclass(frozen=True)
class FeatureExtractor:
    """A function from slices to vectors, with all that a figure of it must name."""

    name: str
    """With version or hash; goes into columns."""
    size: int
    """Features of a slice."""
    least: int
    """Shortest side of a slice, voxels."""
    compute: Callable[[Tensor], Tensor]
    """(N, H, W) float32, 0 black to 1 white → (N, size)."""
    note: str
    """What it is, for the reader of a table."""

    @property
    def is_inception(self) -> bool:
        """Whether a Fréchet distance of its features may be called FID."""
        return self.name.startswith(inception.NAME)

    def of(self, slices: np.ndarray) -> np.ndarray:
        """Features of slices.

        Args:
            slices: (N, H, W), 0 black to 1 white.

        Returns:
            (N, size) float64.

        Raises:
            InputError: if a side is too short.
        """
        if min(slices.shape[1:]) < self.least:
            sides = "×".join(map(str, slices.shape[1:]))
            raise InputError(f"slices of {sides} voxels: {self.name} needs sides of at least {self.least}")
        images = torch.from_numpy(np.array(slices, np.float32))
        with torch.inference_mode():
            return torch.cat([self.compute(part) for part in images.split(BATCH)]).double().numpy()


def central_slices(volume: np.ndarray) -> dict[str, np.ndarray]:
    """View → the central slice of a volume (X, Y, Z), number side // 2 along its axis."""
    return {view: volume.take(volume.shape[axis] // 2, axis) for view, axis in VIEWS.items()}


def view_features(volume: np.ndarray, extractor: FeatureExtractor) -> dict[str, np.ndarray]:
    """View → features (F,) of the central slice of a volume (X, Y, Z)."""
    return {view: extractor.of(image[None])[0] for view, image in central_slices(volume).items()}


def volume_features(volume: np.ndarray, extractor: FeatureExtractor) -> np.ndarray:
    """Features of the three central slices of a volume (X, Y, Z), one after the other, (3F,)."""
    return np.concatenate(list(view_features(volume, extractor).values()))


def _kernels() -> Tensor:
    """First and second derivatives by x and y, and the mixed one, smoothed across their direction: (5, 1, 3, 3)."""
    smooth, first, second = (torch.tensor(row) for row in ([0.25, 0.5, 0.25], [-0.5, 0.0, 0.5], [1.0, -2.0, 1.0]))
    pairs = ((first, smooth), (smooth, first), (second, smooth), (smooth, second), (first, first))
    return torch.stack([torch.outer(a, b) for a, b in pairs])[:, None]


def derivative_pyramid(slices: Tensor) -> Tensor:
    """Where the intensities are, and how strong edges and lines of each width are in each quarter of a slice.

    A binomial pyramid (filter 1, 4, 6, 4, 1; every second voxel is kept) has four levels. At each, five derivatives are
    taken by differences of neighbours; that is, in units of the level's own voxels, so that they are of one size at all
    scales (Lindeberg's normalised derivatives). The means of their magnitudes over the four quarters say how sharp, how
    noisy and how finely structured a slice is; the mean intensities of 4×4 squares say where tissue lies. Nothing is
    trained, nothing is random, and 16 + 4·5·4 = 96 features need only some hundred images for a covariance of full
    rank, where Inception's 2048 need thousands.

    Args:
        slices: (N, H, W), 0 black to 1 white.

    Returns:
        (N, 96), in per cent of the range from black to white.
    """
    image, kernels = 100 * slices[:, None], _kernels()
    binomial = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    blur = torch.outer(binomial, binomial)[None, None]
    found = [functional.adaptive_avg_pool2d(image, COARSE).flatten(1)]
    for _ in range(LEVELS):
        sizes = functional.conv2d(functional.pad(image, [1] * 4, mode="replicate"), kernels).abs()
        found.append(functional.adaptive_avg_pool2d(sizes, CELLS).flatten(1))
        image = functional.conv2d(functional.pad(image, [2] * 4, mode="replicate"), blur, stride=2)
    return torch.cat(found, 1)


DERIVATIVE_PYRAMID = FeatureExtractor(
    "derivative-pyramid-1",
    COARSE**2 + LEVELS * 5 * CELLS**2,
    16,
    derivative_pyramid,
    "derivative-pyramid-1: mean intensities of 4×4 squares and mean sizes of first and second derivatives at four "
    "scales in each quarter of a slice (96 features, per cent of the range); defined by this program, untrained",
)


def _built_in(weights: Path | None) -> FeatureExtractor:
    if weights is not None:
        raise InputError(f"{weights}: {DERIVATIVE_PYRAMID.name} takes no weights; they are for {inception.NAME}")
    return DERIVATIVE_PYRAMID


def _inception(weights: Path | None) -> FeatureExtractor:
    if weights is None:
        raise InputError(
            f"{inception.NAME} needs a weights file (safetensors), which this package does not bring; "
            f"{DERIVATIVE_PYRAMID.name} needs none"
        )
    network = inception.InceptionNetwork.read(weights)
    name = f"{inception.NAME}-{network.sha256}"
    return FeatureExtractor(
        name,
        inception.FEATURES,
        1,
        network.of_slices,
        f"{name}: the 2048 features before Inception-v3's last layer, slices resized to 299×299 (bilinear), grey in "
        "all three channels; named by the first digits of the weights file's SHA-256. Figures with other weights or "
        "another resizing, published ones too, cannot be compared with it",
    )


EXTRACTORS: Mapping[str, Callable[[Path | None], FeatureExtractor]] = {
    DERIVATIVE_PYRAMID.name: _built_in,
    inception.NAME: _inception,
}
"""Name → what makes the extractor of a weights file, or of none."""


def find_extractor(name: str = DERIVATIVE_PYRAMID.name, weights: Path | None = None) -> FeatureExtractor:
    """The extractor of that name.

    Raises:
        InputError: if there is none, it lacks its weights, or the file holds no such weights.
    """
    if name not in EXTRACTORS:
        raise InputError(f"feature extractor {name!r} is unknown: choose from {', '.join(EXTRACTORS)}")
    return EXTRACTORS[name](weights)
