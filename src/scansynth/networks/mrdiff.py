"""The parts of MRDiff around its encoder: quantitative maps, MR physics, decoder and generator (section 2.3).

And of BlochGAN, from which they come; it has no wavelets.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from scansynth.networks.blocks import convolution
from scansynth.physics.scans import T1_TYPICAL, T2_TYPICAL
from scansynth.physics.wavelet import dwt, iwt

T1_START, T2_START = T1_TYPICAL, T2_TYPICAL
"""Seconds that relaxation times start near."""
T1_LEAST, T2_LEAST = 0.05, 0.005
"""Seconds below which they do not fall."""


def softplus_inverse(value: float) -> float:
    """The x whose softplus is `value` > 0."""
    return math.log(math.expm1(value))


class QuantitativeMaps(nn.Module):
    """I_σ: features to T1, T2 and S0 (Eq. 5), Conv(IWT(e_t)).

    Args:
        channels: c; features have 4c, the sub-bands of c channels.
        maps: channels of each map; None: c.
        wavelets: whether features are sub-bands; else they are c channels at full size.
    """

    def __init__(self, channels: int, maps: int | None = None, *, wavelets: bool = True):
        super().__init__()
        self.wavelets = wavelets
        self.conv = convolution(2, channels, 3 * (maps or channels), kernel=3)
        with torch.no_grad():
            starts = (T1_START - T1_LEAST, T2_START - T2_LEAST, 1.0)
            for third, start in zip(self.conv.get_parameter("bias").chunk(3), starts, strict=True):
                third.fill_(softplus_inverse(start))

    def forward(self, e: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 4c, H/2, W/2) → T1 and T2 in seconds, bounded away from 0, and S0 > 0; each (B, maps, H, W)."""
        features = iwt(e) if self.wavelets else e
        t1, t2, s0 = (functional.softplus(part.float()) for part in self.conv(features).chunk(3, dim=1))
        return t1 + T1_LEAST, t2 + T2_LEAST, s0


class Modulation(nn.Module):
    """The convolution and the decomposition of M_σ (Eq. 7), and the learned scale of each contrast.

    The convolution is the same for all contrasts: what tells them apart is the physics, and their scale.

    Args:
        contrasts: K.
        channels: c.
        wavelets: whether they are decomposed; else they keep their size and channels.
    """

    def __init__(self, contrasts: int, channels: int, *, wavelets: bool = True):
        super().__init__()
        self.wavelets = wavelets
        self.log_scale = nn.Parameter(torch.zeros(contrasts))
        self.conv = convolution(2, channels, channels, kernel=3)

    def forward(self, signals: Tensor, given: Tensor) -> Tensor:
        """Signals to what the decoder reads.

        Args:
            signals: of the P sources of a batch, in the order of `given.nonzero()`, (P, c, H, W).
            given: which contrasts are sources, (B, K) bool; the others leave zeros.

        Returns:
            (B, K·4c, H/2, W/2), or (B, K·c, H, W).
        """
        scale = self.log_scale.exp()[given.nonzero()[:, 1]]
        bands = self.conv(signals * scale[:, None, None, None])
        if self.wavelets:
            bands = dwt(bands)
        whole = bands.new_zeros(*given.shape, *bands.shape[1:])
        return whole.index_put((given,), bands).flatten(1, 2)


SEAM_CHANNELS = 8
"""Features at full size that the residual convolution after the inverse transform reads."""


class FromBands(nn.Module):
    """Decoder or generator: two convolutions, and the inverse wavelet transform (section 2.2).

    The transform makes squares of 2 × 2 voxels that know nothing of each other, and their borders are left in images as
    a grid of two voxels. A residual 3 × 3 convolution of further features, at full size, reaches across the borders; it
    starts as none.

    Args:
        channels_in: channels of the features at half the size.
        channels: of the layer between.
        images: how many images come out.
        smooth_grid: whether the residual convolution follows.
    """

    def __init__(self, channels_in: int, channels: int, images: int, *, smooth_grid: bool = False):
        super().__init__()
        self.images = images
        self.first = convolution(2, channels_in, channels, kernel=3)
        self.last = convolution(2, channels, 4 * (images + SEAM_CHANNELS * smooth_grid), kernel=3)
        self.across = None
        if smooth_grid:
            self.across = convolution(2, SEAM_CHANNELS, images, kernel=3)
            nn.init.zeros_(self.across.get_parameter("weight"))
            nn.init.zeros_(self.across.get_parameter("bias"))

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels_in, H/2, W/2) → (B, images, H, W)."""
        whole = iwt(self.last(functional.silu(self.first(features))))
        if self.across is None:
            return whole
        return whole[:, : self.images] + self.across(functional.silu(whole[:, self.images :]))
