"""Features of VGG16 for a perceptual loss, with weights that the user names: none come with this package.

pGAN (Dar et al., IEEE Transactions on Medical Imaging 38(10), 2019, Eq. 4) holds images against each other by the
features of a VGG16 (Simonyan & Zisserman, ICLR 2015) that was trained on photographs, after the second convolution of
its second block and its ReLU (relu2_2).

The weights are one safetensors file with the keys of torchvision's network, `features.<n>.weight` and `.bias` for
n = 0, 2, 5, 7; others that it holds are not read, so that LPIPS' file of VGG16 (`perceptual.py`) serves, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from scansynth.errors import InputError
from scansynth.networks.perceptual import DEVIATION, MEAN, VGG16, responses
from scansynth.networks.users_weights import read_weights

LAYERS = VGG16.convolutions[:4]
"""Up to relu2_2."""
CONVERT = (
    "python -c \"import torch, safetensors.torch as s; w = torch.load('vgg16.pth', weights_only=True); "
    "s.save_file({k: v for k, v in w.items() if k.startswith('features')}, 'vgg16.safetensors')\""
)
"""Makes the file of torchvision's network, where it is trusted."""


@dataclass(frozen=True)
class VggFeatures:
    """relu2_2 of VGG16, with weights."""

    weights: Mapping[str, Tensor]
    """By the keys of the file, float32."""
    sha256: str
    """First digits of the file's hash."""

    @classmethod
    def read(cls, path: Path) -> "VggFeatures":
        """Read a weights file.

        Raises:
            InputError: if there is none, it is no safetensors file, or lacks one of these layers.
        """
        found, digits = read_weights(path, "VGG16", CONVERT)
        shapes = {}
        for one in LAYERS:
            shapes[f"features.{one.place}.weight"] = (one.outward, one.inward, one.side, one.side)
            shapes[f"features.{one.place}.bias"] = (one.outward,)
        for key, shape in shapes.items():
            if key not in found or tuple(found[key].shape) != shape:
                its = tuple(found[key].shape) if key in found else "missing"
                raise InputError(
                    f"{path}: no weights of VGG16: {key} is {its} in place of {shape}; expected are torchvision's "
                    f"`features.<n>.weight` and `.bias`: {CONVERT}"
                )
        return cls({key: found[key].float() for key in shapes}, digits)

    def of(self, images: Tensor) -> Tensor:
        """Features of grey images (B, 1, H, W) in [-1, 1], (B, 128, H/2, W/2).

        # Public code of pGAN: the network is given [-1, 1]. Here: what it was trained on, photographs' mean and
        # deviation taken out of [0, 1], because its features are those of such images.
        """
        mean, deviation = (torch.tensor(values).reshape(1, 3, 1, 1).to(images) for values in (MEAN, DEVIATION))
        *_, last = responses(LAYERS, VGG16.window, self.weights, ((images + 1) / 2 - mean) / deviation)
        return last

    def distance(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Mean absolute difference of the features of images (B, 1, H, W), of all samples."""
        return (self.of(x_hat) - self.of(x)).abs().mean()
