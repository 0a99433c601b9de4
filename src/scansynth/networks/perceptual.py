"""The networks of LPIPS, with weights that the user names: none come with this package, and none are fetched.

Zhang, Isola, Efros, Shechtman & Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR
2018 (LPIPS version 0.1). Both images go through a network that was trained on photographs; at five depths its features
are divided by their length at each place, and the squared differences are weighted by channel (section 3.1, equation
1), averaged over the places and added up. The distance is a metric (`metrics/perceptual_similarity.py`) and a loss.

The weights are one safetensors file with exactly these keys, those of torchvision's and of the authors' own files:

    features.<n>.weight, features.<n>.bias   torchvision's AlexNet (n = 0, 3, 6, 8, 10) or VGG16 (0, 2, 5, 7, 10, 12,
                                             14, 17, 19, 21, 24, 26, 28): (out, in, side, side) and (out,)
    lin<k>.model.1.weight                    k = 0 to 4, the weights of the channels at each depth: (1, channels, 1, 1)

Which network it is, the keys tell. `CONVERT` makes such a file from the two that are published. Where this was written
no weights were at hand, so that its figures could not be held against published ones; its arithmetic was held against a
second one, written apart, on random weights.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from scansynth.errors import InputError
from scansynth.networks.users_weights import read_weights

MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the photographs that the networks were trained on (red, green, blue in [0, 1])."""
EPSILON = 1e-10
"""Keeps a place without any feature from a division by zero."""
CONVERT = (
    "python -c \"import torch, safetensors.torch as s; f, l = map(torch.load, ('alexnet.pth', 'lpips_alex.pth')); "
    "s.save_file({k: v for k, v in {**f, **l}.items() if k.startswith(('features', 'lin'))}, 'lpips.safetensors')\""
)
"""Makes the file of torchvision's network and of the authors' `lin` layers, where both are trusted."""


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """A convolution with its ReLU."""

    place: int
    """In torchvision's `features`."""
    inward: int
    outward: int
    """Channels."""
    side: int
    stride: int = 1
    padding: int = 1
    pooled: bool = False
    """Whether maximum pooling comes before it."""
    compared: bool = False
    """Whether its features are compared."""


@dataclass(frozen=True)
class Architecture:
    """A network up to the last features that are compared."""

    name: str
    convolutions: tuple[Convolution, ...]
    window: int
    """Side of the maximum pooling, with stride 2."""
    least: int
    """Shortest side of an image that leaves something at the last depth."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Keys of the weights file, with their shapes."""
        shapes: dict[str, tuple[int, ...]] = {}
        for one in self.convolutions:
            shapes[f"features.{one.place}.weight"] = (one.outward, one.inward, one.side, one.side)
            shapes[f"features.{one.place}.bias"] = (one.outward,)
        compared = [one for one in self.convolutions if one.compared]
        return shapes | {f"lin{k}.model.1.weight": (1, one.outward, 1, 1) for k, one in enumerate(compared)}


ALEXNET = Architecture(
    "AlexNet",
    (
        Convolution(place=0, inward=3, outward=64, side=11, stride=4, padding=2, compared=True),
        Convolution(place=3, inward=64, outward=192, side=5, padding=2, pooled=True, compared=True),
        Convolution(place=6, inward=192, outward=384, side=3, pooled=True, compared=True),
        Convolution(place=8, inward=384, outward=256, side=3, compared=True),
        Convolution(place=10, inward=256, outward=256, side=3, compared=True),
    ),
    window=3,
    least=31,
)
VGG16 = Architecture(
    "VGG16",
    (
        Convolution(place=0, inward=3, outward=64, side=3),
        Convolution(place=2, inward=64, outward=64, side=3, compared=True),
        Convolution(place=5, inward=64, outward=128, side=3, pooled=True),
        Convolution(place=7, inward=128, outward=128, side=3, compared=True),
        Convolution(place=10, inward=128, outward=256, side=3, pooled=True),
        Convolution(place=12, inward=256, outward=256, side=3),
        Convolution(place=14, inward=256, outward=256, side=3, compared=True),
        Convolution(place=17, inward=256, outward=512, side=3, pooled=True),
        Convolution(place=19, inward=512, outward=512, side=3),
        Convolution(place=21, inward=512, outward=512, side=3, compared=True),
        Convolution(place=24, inward=512, outward=512, side=3, pooled=True),
        Convolution(place=26, inward=512, outward=512, side=3),
        Convolution(place=28, inward=512, outward=512, side=3, compared=True),
    ),
    window=2,
    least=16,
)


def responses(
    convolutions: Sequence[Convolution], window: int, weights: Mapping[str, Tensor], images: Tensor
) -> Iterator[Tensor]:
    """What a network's convolutions give, one after another: of those that are compared.

    Args:
        convolutions: with their ReLU.
        window: side of the maximum pooling.
        weights: by the keys of the file.
        images: (N, 3, H, W), photographs' mean and deviation taken out.
    """
    for one in convolutions:
        if one.pooled:
            images = functional.max_pool2d(images, window, 2)
        weight, bias = (weights[f"features.{one.place}.{part}"].to(images) for part in ("weight", "bias"))
        images = functional.conv2d(images, weight, bias, one.stride, one.padding).relu()
        if one.compared:
            yield images


@dataclass(frozen=True)
class PerceptualNetwork:
    """A network with weights."""

    architecture: Architecture
    weights: Mapping[str, Tensor]
    """By the keys of the file, float32."""
    sha256: str
    """First 12 digits of the file's hash: figures name it."""

    @classmethod
    def read(cls, path: Path) -> "PerceptualNetwork":
        """Read a weights file.

        Raises:
            InputError: if there is none, it is no safetensors file, or its keys or shapes are not those of a network.
        """
        weights, digits = read_weights(path, "LPIPS", CONVERT)
        architecture = VGG16 if "features.28.weight" in weights else ALEXNET
        _check(path, architecture, {key: tuple(tensor.shape) for key, tensor in weights.items()})
        return cls(architecture, {key: tensor.float() for key, tensor in weights.items()}, digits)

    def features(self, images: Tensor) -> list[Tensor]:
        """Features at each compared depth, of unit length at each place.

        Args:
            images: (N, 3, H, W), photographs' mean and deviation taken out.

        Returns:
            (N, C, h, w) each.
        """
        found = []
        for features in responses(self.architecture.convolutions, self.architecture.window, self.weights, images):
            # The least keeps the gradient of the root finite where nothing is found.
            length = features.square().sum(1, keepdim=True).clamp_min(EPSILON**2).sqrt()
            found.append(features / (length + EPSILON))
        return found

    def distance(self, synthesis: Tensor, reference: Tensor, data_range: float) -> Tensor:
        """LPIPS of slices.

        Args:
            synthesis: (N, H, W), 0 is black. Values beyond black and white stay as they are.
            reference: (N, H, W).
            data_range: full range of intensities, from black to white.

        Returns:
            (N,), 0 for equal slices.
        """
        mean, deviation = (torch.tensor(values).reshape(1, 3, 1, 1).to(reference) for values in (MEAN, DEVIATION))
        # The paper's networks take [−1, 1]; the shift and scale that follow there come to the photographs' mean and
        # deviation in [0, 1]. Grey is the same red, green and blue.
        x, y = (self.features((image[:, None] / data_range - mean) / deviation) for image in (synthesis, reference))
        total = reference.new_zeros(len(reference))
        for k, (features_x, features_y) in enumerate(zip(x, y, strict=True)):
            weight = self.weights[f"lin{k}.model.1.weight"].to(reference)
            total = total + functional.conv2d((features_x - features_y).square(), weight).mean((1, 2, 3))
        return total


def _check(path: Path, architecture: Architecture, found: Mapping[str, tuple[int, ...]]) -> None:
    expected = architecture.shapes
    both = expected.keys() & found.keys()
    faults = {
        "missing": [key for key in expected if key not in found],
        "unexpected": sorted(key for key in found if key not in expected),
        "of another shape": [
            f"{key} {found[key]} in place of {expected[key]}"
            for key in expected
            if key in both and found[key] != expected[key]
        ],
    }
    if any(faults.values()):
        told = "; ".join(
            f"{what}: {', '.join(keys[:6])}{f' and {len(keys) - 6} more' if len(keys) > 6 else ''}"
            for what, keys in faults.items()
            if keys
        )
        raise InputError(
            f"{path}: no LPIPS weights of {architecture.name} ({told}); expected are torchvision's "
            "`features.<n>.weight` and `.bias` and the authors' `lin<k>.model.1.weight`, and nothing else"
        )
