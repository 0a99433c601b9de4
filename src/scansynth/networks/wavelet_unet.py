"""U-Net on the Haar bands of volumes: full resolution in, full resolution out, at little more than the cost of half."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from scansynth.networks.blocks import ResidualBlock, convolution, group_norm
from scansynth.networks.unet import UNet
from scansynth.physics.wavelet import dwt, iwt

FEATURES = 8
"""Channels at full resolution."""


class WaveletUNet(UNet):
    """A 3D U-Net on bands of volumes, which it splits and joins itself.

    A Haar transform is orthonormal and loses nothing: eight bands of half the size hold a volume, so that a whole one
    goes through at once (Friedrich et al., "WDM: 3D Wavelet Diffusion Models", DGM4MICCAI 2024, section 2.2; Phung et
    al., "Wavelet Diffusion Models", CVPR 2023). There is no attention over all places, so that what it learns on boxes
    holds for volumes of any size; group norms alone see how much air there is.

    Settled: the bands are those of a few features that a convolution makes at full resolution, and what comes back is
    joined with these features by a residual block. What one contrast's voxel says of another's is simple in voxels, and
    hard in bands: on bands of the images themselves a quarter more error was left after as many steps, each of which
    took a seventh less time (`benchmarks/wavelet_features.py`, one seed).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        planes: how many of the last input channels are constant over the volume; the bands' network sees them, too.
        wavelets: levels; each halves all sides.
        time_width: width of the time embedding; 0: the network sees no time.
        **settings: of `UNet`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, planes: int, wavelets: int, time_width: int = 0, **settings: Any
    ):
        bands = FEATURES * 8**wavelets
        super().__init__(3, bands + planes, bands, bottleneck_attention=False, time_width=time_width, **settings)
        self.planes, self.wavelets = planes, wavelets
        self.size_multiple *= 2**wavelets
        self.stem = convolution(3, in_channels, FEATURES, kernel=3)
        self.joint = ResidualBlock(3, 2 * FEATURES, 2 * FEATURES, time_width=time_width)
        self.joint_norm = group_norm(2 * FEATURES)
        self.out = convolution(3, 2 * FEATURES, out_channels, kernel=3)

    def forward(self, x: Tensor, t: Tensor | None = None, w: Tensor | None = None) -> Tensor:
        """Apply the network: as `UNet.forward`."""
        self.check_size(x)
        planes = x[:, x.shape[1] - self.planes :]
        stem = bands = self.stem(x)
        for _ in range(self.wavelets):
            bands, planes = dwt(bands), planes[..., ::2, ::2, ::2]
        bands = self.features(torch.cat([bands, planes], dim=1), t, w)
        for _ in range(self.wavelets):
            bands = iwt(bands)
        time = None if self.time is None or t is None else self.time(t)
        h = self.layer(self.joint, torch.cat([bands, stem], dim=1), time, None)
        return self.out(functional.silu(self.joint_norm(h)))

    def start(self, channel: int, value: float) -> None:
        """Let a channel of the output start at about a value: the bias of the last convolution."""
        nn.init.constant_(self.get_parameter("out.bias")[channel : channel + 1], value)
