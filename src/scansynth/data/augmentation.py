"""Random changes of training images; everything is off by default, as in the papers.

What moves an image moves all contrasts of a sample alike. What changes its intensities changes each contrast for
itself, as scanners differ; of a paired sample it changes what is given alone (`sources`), since nobody can know by
which gain, curve or shading a target was changed.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scansynth.errors import InputError
from scansynth.ranges import Share, Weight, check_ranges


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training images are changed at random."""

    flip: Share = 0.0
    """Probability of a left-right mirror image."""
    rotation_degrees: Weight = 0.0
    """Rotations up to this angle, either way, in degrees; of patches about each axis."""
    scale: Share = 0.0
    """Magnifications by up to this share, larger or smaller."""
    shift: Weight = 0.0
    """Shifts up to this share of the image's sides."""
    gain: Share = 0.0
    """Intensities of what is given times a factor of up to this share above or below 1, by contrast."""
    gamma: Weight = 0.0
    """Intensities of what is given to a power of up to e to this number or its inverse, by contrast."""
    bias: Weight = 0.0
    """Smooth shading of what is given, up to e to this number or its inverse, by contrast."""

    def __post_init__(self):
        check_ranges(self)
        if self.scale == 1 or self.gain == 1:
            raise InputError("augmentation: scale and gain lie in [0, 1)")

    @property
    def recolours(self) -> bool:
        """Whether intensities change."""
        return bool(self.gain or self.gamma or self.bias)

    def draw(self, generator: np.random.Generator, contrasts: int, dims: int = 2) -> "Change":
        """The change of one sample. The same numbers are drawn whatever is switched on.

        Args:
            generator: where the randomness comes from.
            contrasts: of the sample.
            dims: 2 of slices, 3 of patches.
        """
        mirror, *rest = generator.uniform(size=5 if dims == 2 else 8)
        angles, (zoom, *shift) = rest[: 1 if dims == 2 else 3], rest[1 if dims == 2 else 3 :]
        gain, gamma = generator.uniform(-1, 1, size=(2, contrasts, 1, 1)).astype(np.float32)
        weights = generator.uniform(-1, 1, size=(contrasts, len(_products(dims))))
        return Change(
            mirrored=bool(mirror < self.flip),
            radians=tuple(math.radians(self.rotation_degrees) * (2 * angle - 1) for angle in angles),
            larger=1 + self.scale * (2 * zoom - 1),
            shift=tuple(self.shift * (2 * share - 1) for share in shift),
            moves=bool(self.rotation_degrees or self.scale or self.shift),
            gain=1 + self.gain * gain.ravel() if self.gain else None,
            power=np.exp(self.gamma * gamma.ravel()) if self.gamma else None,
            shading=self.bias * weights / np.abs(weights).sum(1, keepdims=True) if self.bias else None,
        )

    def apply(self, images: Tensor, generator: np.random.Generator) -> Tensor:
        """Change the contrasts of one slice, all by one spatial transform and each by its own intensities.

        Args:
            images: in [0, 1], (C, H, W) with H from left to right, or several slices of each contrast, (C, n, H, W).
            generator: where the randomness comes from.
        """
        change = self.draw(generator, len(images))
        return change.recolour(change.move(images))


@dataclass(frozen=True, kw_only=True)
class Change:
    """One sample's change. Images are (C, …, *S), S of as many axes as there are shifts, the first left to right."""

    mirrored: bool
    radians: Sequence[float]
    """In 2D one angle, in 3D one about each axis."""
    larger: float
    shift: Sequence[float]
    """Shares of the sides."""
    moves: bool
    gain: np.ndarray | None
    """Factors, (C,)."""
    power: np.ndarray | None
    """(C,)."""
    shading: np.ndarray | None
    """Of the products of coordinates, (C, terms)."""

    @property
    def dims(self) -> int:
        """2 or 3."""
        return len(self.shift)

    def move(self, images: Tensor) -> Tensor:
        """Mirror, rotate, magnify and shift about the middle, linearly interpolated; edges go on beyond the image."""
        if self.mirrored:
            images = images.flip(-self.dims)
        if not self.moves:
            return images
        size = images.shape[-self.dims :]
        # Sampling positions in units of half the sides, last axis first: the sides' ratio keeps the angles true.
        sides = np.array(size, dtype=np.float64)
        turn = _rotation(self.radians) / self.larger * sides[None, :] / sides[:, None]
        matrix = np.concatenate([turn, -2 * np.array(self.shift)[:, None]], axis=1)
        theta = torch.from_numpy(matrix[::-1, [*range(self.dims)[::-1], self.dims]].copy()).float()
        flat = images.reshape(1, -1, *size)
        grid = functional.affine_grid(theta[None], [1, 1, *size], align_corners=False)
        return functional.grid_sample(flat, grid, "bilinear", "border", align_corners=False).reshape(images.shape)

    def recolour(self, images: Tensor) -> Tensor:
        """Intensities of each contrast."""

        def by_contrast(values: np.ndarray) -> Tensor:
            return torch.from_numpy(values.astype(np.float32)).reshape(-1, *[1] * (images.ndim - 1))

        if self.power is not None:
            images = images.clamp(min=0) ** by_contrast(self.power)
        if self.gain is not None:
            images = images * by_contrast(self.gain)
        if self.shading is not None:
            images = images * self._field(images)
        return images

    def _field(self, images: Tensor) -> Tensor:
        """Smooth shading: e to a polynomial of degree 2 in the coordinates."""
        assert self.shading is not None
        axes = [torch.linspace(-1, 1, side) for side in images.shape[-self.dims :]]
        places = torch.meshgrid(*axes, indexing="ij")
        products = torch.stack([torch.stack([places[i] for i in which]).prod(0) for which in _products(self.dims)])
        field = torch.einsum("ct,t...->c...", torch.from_numpy(self.shading).float(), products).exp()
        return field.reshape(len(images), *[1] * (images.ndim - 1 - self.dims), *field.shape[1:])


def _products(dims: int) -> list[tuple[int, ...]]:
    """Which coordinates are multiplied in the terms of degree 1 and 2."""
    return [*((axis,) for axis in range(dims)), *itertools.combinations_with_replacement(range(dims), 2)]


def _rotation(radians: Sequence[float]) -> np.ndarray:
    """A rotation in the plane, or about the three axes in turn; (d, d)."""
    if len(radians) == 1:
        cos, sin = math.cos(radians[0]), math.sin(radians[0])
        return np.array([[cos, sin], [-sin, cos]])
    result = np.eye(3)
    for axis, angle in enumerate(radians):
        first, second = (other for other in range(3) if other != axis)
        turn = np.eye(3)
        turn[[first, second], [first, second]] = math.cos(angle)
        turn[first, second], turn[second, first] = math.sin(angle), -math.sin(angle)
        result = turn @ result
    return result
