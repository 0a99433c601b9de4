"""U-Net on the Haar bands of volumes: full resolution in, full resolution out, at the cost of half of it."""

from typing import Any

import torch
from torch import Tensor, nn

from scansynth.networks.unet import UNet
from scansynth.physics.wavelet import dwt, iwt


class WaveletUNet(UNet):
    """A 3D U-Net whose input and output are bands of volumes, which it splits and joins itself.

    A Haar transform is orthonormal and loses nothing: eight bands of half the size hold a volume, so that a whole one
    goes through at once (Friedrich et al., "WDM: 3D Wavelet Diffusion Models", DGM4MICCAI 2024, section 2.2; Phung et
    al., "Wavelet Diffusion Models", CVPR 2023). White noise has white bands. There is no attention over all places:
    what it learns on boxes holds for volumes of any size.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        planes: how many of the last input channels are constant over the volume, and are given as they are.
        wavelets: levels; each halves all sides.
        **settings: of `UNet`.
    """

    def __init__(self, in_channels: int, out_channels: int, *, planes: int, wavelets: int, **settings: Any):
        bands = 8**wavelets
        super().__init__(
            3, bands * (in_channels - planes) + planes, bands * out_channels, bottleneck_attention=False, **settings
        )
        self.planes, self.wavelets = planes, wavelets
        self.size_multiple *= 2**wavelets

    def forward(self, x: Tensor, t: Tensor | None = None, w: Tensor | None = None) -> Tensor:
        """Apply the network: as `UNet.forward`."""
        self.check_size(x)
        images, planes = x.split([x.shape[1] - self.planes, self.planes], dim=1)
        for _ in range(self.wavelets):
            images, planes = dwt(images), planes[..., ::2, ::2, ::2]
        h = self.features(torch.cat([images, planes], dim=1), t, w)
        for _ in range(self.wavelets):
            h = iwt(h)
        return h

    def start(self, channel: int, value: float) -> None:
        """By the bias of its low-pass band alone: a constant's other bands are 0."""
        bands = 8**self.wavelets
        bias = self.get_parameter("last.bias")
        nn.init.zeros_(bias[bands * channel : bands * (channel + 1)])
        nn.init.constant_(bias[bands * channel : bands * channel + 1], value * 8 ** (self.wavelets / 2))
