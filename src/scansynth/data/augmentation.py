"""Random changes of training slices; everything is off by default, as in the papers."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from scansynth.errors import InputError
from scansynth.ranges import Share, Weight, check_ranges


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training slices are changed at random."""

    flip: Share = 0.0
    """Probability of a left-right mirror image."""
    rotation_degrees: Weight = 0.0
    """Rotations up to this angle, either way, in degrees."""
    scale: Share = 0.0
    """Magnifications by up to this share, larger or smaller."""
    shift: Weight = 0.0
    """Shifts up to this share of the image's sides."""
    gain: Share = 0.0
    """Intensities times a factor of up to this share above or below 1, by contrast."""
    gamma: Weight = 0.0
    """Intensities to a power of up to e to this number or its inverse, by contrast."""

    def __post_init__(self):
        check_ranges(self)
        if self.scale == 1 or self.gain == 1:
            raise InputError("augmentation: scale and gain lie in [0, 1)")

    def apply(self, images: Tensor, generator: np.random.Generator) -> Tensor:
        """Change the contrasts of one slice, all by one spatial transform and each by its own intensities.

        Args:
            images: in [0, 1], (C, H, W) with H from left to right, or several slices of each contrast, (C, n, H, W).
            generator: where the randomness comes from. The same numbers are drawn whatever is switched on.
        """
        mirror, angle, zoom, *shift = generator.uniform(size=5)
        gain, gamma = generator.uniform(-1, 1, size=(2, len(images), 1, 1)).astype(np.float32)
        if images.ndim == 4:
            gain, gamma = gain[..., None], gamma[..., None]
        if mirror < self.flip:
            images = images.flip(-2)
        if self.rotation_degrees or self.scale or self.shift:
            radians = math.radians(self.rotation_degrees) * (2 * angle - 1)
            larger = 1 + self.scale * (2 * zoom - 1)
            moved = _move(images.flatten(0, -3), radians, larger, [self.shift * (2 * share - 1) for share in shift])
            images = moved.reshape(images.shape)
        if self.gamma:
            images = images.clamp(min=0) ** torch.from_numpy(np.exp(self.gamma * gamma))
        if self.gain:
            images = images * torch.from_numpy(1 + self.gain * gain)
        return images


def _move(images: Tensor, radians: float, larger: float, shift: list[float]) -> Tensor:
    """Rotate, magnify and shift about the middle, linearly interpolated; edges go on beyond the image."""
    height, width = images.shape[1:]
    cos, sin = math.cos(radians) / larger, math.sin(radians) / larger
    # Sampling positions in units of half the sides, (w, h) order: the sides' ratio keeps the angles true.
    theta = torch.tensor(
        [[cos, -sin * height / width, -2 * shift[1]], [sin * width / height, cos, -2 * shift[0]]], dtype=torch.float32
    )
    grid = functional.affine_grid(theta[None], [1, 1, height, width], align_corners=False)
    return functional.grid_sample(images[None], grid, "bilinear", "border", align_corners=False)[0]
