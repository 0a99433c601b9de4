"""Inception-v3 up to its last pooling, with weights that the user names: none come with this package or are fetched.

Szegedy, Vanhoucke, Ioffe, Shlens & Wojna, "Rethinking the Inception Architecture for Computer Vision", CVPR 2016 (Table
1, Figs. 5 to 7 and 10). The weights are one safetensors file with the keys of torchvision's `inception_v3`:

    <layer>.conv.weight                                        (out, in, height, width)
    <layer>.bn.weight, .bias, .running_mean, .running_var      (out,)

`AuxLogits.…`, `fc.…` and `….num_batches_tracked` may be there and are not used. `CONVERT` makes such a file.

Published FIDs mostly come from other weights of this network (those of the TensorFlow release, whose average pooling
leaves the padding out of its means). Here averages count the padding, as torchvision's do, which its weights need.
Where this was written no weights were at hand: shapes, sizes and the published number of weights were checked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from scansynth.errors import InputError
from scansynth.networks.users_weights import read_weights

NAME = "inception-v3"
FEATURES = 2048
SIDE = 299
"""Of the square images that the network was trained on."""
EPSILON = 1e-3
"""Of batch normalisation."""
UNUSED = ("AuxLogits.", "fc.")
CONVERT = (
    "python -c \"import torch, safetensors.torch as s; s.save_file(torch.load('inception_v3.pth'), "
    "'inception_v3.safetensors')\""
)
"""Makes the file of torchvision's, where that is trusted."""


@dataclass(frozen=True)
class Layer:
    """A convolution without bias, batch normalisation, ReLU."""

    inward: int
    outward: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)


def _layer(inward: int, outward: int, *, height: int = 1, width: int = 0, stride: int = 1, same: bool = True) -> Layer:
    kernel = (height, width or height)
    return Layer(inward, outward, kernel, stride, (kernel[0] // 2, kernel[1] // 2) if same else (0, 0))


def _block_a(name: str, inward: int, pooled: int) -> dict[str, Layer]:
    """35×35, Fig. 5: two 3×3 in place of a 5×5."""
    return {
        f"{name}.branch1x1": _layer(inward, 64),
        f"{name}.branch5x5_1": _layer(inward, 48),
        f"{name}.branch5x5_2": _layer(48, 64, height=5),
        f"{name}.branch3x3dbl_1": _layer(inward, 64),
        f"{name}.branch3x3dbl_2": _layer(64, 96, height=3),
        f"{name}.branch3x3dbl_3": _layer(96, 96, height=3),
        f"{name}.branch_pool": _layer(inward, pooled),
    }


def _block_c(name: str, inner: int) -> dict[str, Layer]:
    """17×17, Fig. 6: 7×7 as 1×7 and 7×1."""
    return {
        f"{name}.branch1x1": _layer(768, 192),
        f"{name}.branch7x7_1": _layer(768, inner),
        f"{name}.branch7x7_2": _layer(inner, inner, height=1, width=7),
        f"{name}.branch7x7_3": _layer(inner, 192, height=7, width=1),
        f"{name}.branch7x7dbl_1": _layer(768, inner),
        f"{name}.branch7x7dbl_2": _layer(inner, inner, height=7, width=1),
        f"{name}.branch7x7dbl_3": _layer(inner, inner, height=1, width=7),
        f"{name}.branch7x7dbl_4": _layer(inner, inner, height=7, width=1),
        f"{name}.branch7x7dbl_5": _layer(inner, 192, height=1, width=7),
        f"{name}.branch_pool": _layer(768, 192),
    }


def _block_e(name: str, inward: int) -> dict[str, Layer]:
    """8×8, Fig. 7: branches that widen."""
    return {
        f"{name}.branch1x1": _layer(inward, 320),
        f"{name}.branch3x3_1": _layer(inward, 384),
        f"{name}.branch3x3_2a": _layer(384, 384, height=1, width=3),
        f"{name}.branch3x3_2b": _layer(384, 384, height=3, width=1),
        f"{name}.branch3x3dbl_1": _layer(inward, 448),
        f"{name}.branch3x3dbl_2": _layer(448, 384, height=3),
        f"{name}.branch3x3dbl_3a": _layer(384, 384, height=1, width=3),
        f"{name}.branch3x3dbl_3b": _layer(384, 384, height=3, width=1),
        f"{name}.branch_pool": _layer(inward, 192),
    }


LAYERS: dict[str, Layer] = {
    "Conv2d_1a_3x3": _layer(3, 32, height=3, stride=2, same=False),
    "Conv2d_2a_3x3": _layer(32, 32, height=3, same=False),
    "Conv2d_2b_3x3": _layer(32, 64, height=3),
    "Conv2d_3b_1x1": _layer(64, 80),
    "Conv2d_4a_3x3": _layer(80, 192, height=3, same=False),
    **_block_a("Mixed_5b", 192, 32),
    **_block_a("Mixed_5c", 256, 64),
    **_block_a("Mixed_5d", 288, 64),
    "Mixed_6a.branch3x3": _layer(288, 384, height=3, stride=2, same=False),
    "Mixed_6a.branch3x3dbl_1": _layer(288, 64),
    "Mixed_6a.branch3x3dbl_2": _layer(64, 96, height=3),
    "Mixed_6a.branch3x3dbl_3": _layer(96, 96, height=3, stride=2, same=False),
    **_block_c("Mixed_6b", 128),
    **_block_c("Mixed_6c", 160),
    **_block_c("Mixed_6d", 160),
    **_block_c("Mixed_6e", 192),
    "Mixed_7a.branch3x3_1": _layer(768, 192),
    "Mixed_7a.branch3x3_2": _layer(192, 320, height=3, stride=2, same=False),
    "Mixed_7a.branch7x7x3_1": _layer(768, 192),
    "Mixed_7a.branch7x7x3_2": _layer(192, 192, height=1, width=7),
    "Mixed_7a.branch7x7x3_3": _layer(192, 192, height=7, width=1),
    "Mixed_7a.branch7x7x3_4": _layer(192, 192, height=3, stride=2, same=False),
    **_block_e("Mixed_7b", 1280),
    **_block_e("Mixed_7c", 2048),
}


def shapes() -> dict[str, tuple[int, ...]]:
    """Keys that the weights file must have, with their shapes."""
    found: dict[str, tuple[int, ...]] = {}
    for name, layer in LAYERS.items():
        found[f"{name}.conv.weight"] = (layer.outward, layer.inward, *layer.kernel)
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{name}.bn.{part}"] = (layer.outward,)
    return found


@dataclass(frozen=True)
class InceptionNetwork:
    """The network with weights."""

    weights: Mapping[str, Tensor]
    """By the keys of the file, float32."""
    sha256: str
    """First 12 digits of the file's hash."""

    @classmethod
    def read(cls, path: Path) -> "InceptionNetwork":
        """Read a weights file.

        Raises:
            InputError: if there is none, it is no safetensors file, or its keys or shapes are not the network's.
        """
        weights, digits = read_weights(path, "Inception-v3", CONVERT)
        found = {
            key: tuple(tensor.shape)
            for key, tensor in weights.items()
            if not key.startswith(UNUSED) and not key.endswith("num_batches_tracked")
        }
        expected = shapes()
        faults = {
            "missing": sorted(expected.keys() - found.keys()),
            "unexpected": sorted(found.keys() - expected.keys()),
            "of another shape": sorted(key for key in expected.keys() & found if expected[key] != found[key]),
        }
        if any(faults.values()):
            told = "; ".join(f"{what}: {len(keys)} ({', '.join(keys[:3])})" for what, keys in faults.items() if keys)
            raise InputError(f"{path}: no Inception-v3 weights with torchvision's keys ({told})")
        return cls({key: weights[key].float() for key in expected}, digits)

    def of_slices(self, slices: Tensor) -> Tensor:
        """Features (N, 2048) of slices (N, H, W), 0 black to 1 white."""
        size = (SIDE, SIDE)
        images = functional.interpolate(slices[:, None].float(), size, mode="bilinear", align_corners=False)
        return self.features(2 * images.expand(-1, 3, -1, -1) - 1).mean((2, 3))

    def features(self, x: Tensor) -> Tensor:
        """The last maps, (N, 2048, h, w), of images (N, 3, H, W) in [−1, 1]; 8×8 of 299×299."""
        for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"):
            x = self._layer(name, x)
        x = functional.max_pool2d(x, 3, 2)
        x = self._chain("Conv2d_3b_1x1", "Conv2d_4a_3x3", x=x)
        x = functional.max_pool2d(x, 3, 2)
        for block in ("5b", "5c", "5d"):
            x = self._branches(f"Mixed_{block}", x, ("1x1",), ("5x5_1", "5x5_2"), ("3x3dbl_1", "3x3dbl_2", "3x3dbl_3"))
        x = self._reduced("Mixed_6a", x, ("3x3",), ("3x3dbl_1", "3x3dbl_2", "3x3dbl_3"))
        for block in ("6b", "6c", "6d", "6e"):
            long = tuple(f"7x7dbl_{k}" for k in range(1, 6))
            x = self._branches(f"Mixed_{block}", x, ("1x1",), ("7x7_1", "7x7_2", "7x7_3"), long)
        x = self._reduced("Mixed_7a", x, ("3x3_1", "3x3_2"), tuple(f"7x7x3_{k}" for k in range(1, 5)))
        for block in ("7b", "7c"):
            x = self._widening(f"Mixed_{block}", x)
        return x

    def _layer(self, name: str, x: Tensor) -> Tensor:
        layer, w = LAYERS[name], self.weights
        x = functional.conv2d(x, w[f"{name}.conv.weight"], None, layer.stride, layer.padding)
        mean, var, gain, shift = (w[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return functional.batch_norm(x, mean, var, gain, shift, eps=EPSILON).relu()

    def _chain(self, *names: str, x: Tensor) -> Tensor:
        for name in names:
            x = self._layer(name, x)
        return x

    def _branch(self, block: str, x: Tensor, parts: tuple[str, ...]) -> Tensor:
        return self._chain(*(f"{block}.branch{part}" for part in parts), x=x)

    def _pooled(self, block: str, x: Tensor) -> Tensor:
        return self._layer(f"{block}.branch_pool", functional.avg_pool2d(x, 3, 1, 1))

    def _branches(self, block: str, x: Tensor, *branches: tuple[str, ...]) -> Tensor:
        return torch.cat([*(self._branch(block, x, parts) for parts in branches), self._pooled(block, x)], 1)

    def _reduced(self, block: str, x: Tensor, *branches: tuple[str, ...]) -> Tensor:
        """Fig. 10: half the side."""
        return torch.cat([*(self._branch(block, x, parts) for parts in branches), functional.max_pool2d(x, 3, 2)], 1)

    def _widening(self, block: str, x: Tensor) -> Tensor:
        found = [self._branch(block, x, ("1x1",))]
        for parts, ends in ((("3x3_1",), "3x3_2"), (("3x3dbl_1", "3x3dbl_2"), "3x3dbl_3")):
            inner = self._branch(block, x, parts)
            found += [self._branch(block, inner, (f"{ends}{half}",)) for half in "ab"]
        return torch.cat([*found, self._pooled(block, x)], 1)
