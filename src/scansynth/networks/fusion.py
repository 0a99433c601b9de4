"""Attention over channels: to fuse two maps (Dai, Gieseke, Oehmcke, Wu & Barnard, "Attentional Feature Fusion", WACV
2021), and to weigh the channels of one (Hu, Shen & Sun, "Squeeze-and-Excitation Networks", CVPR 2018).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from scansynth.networks.blocks import convolution, group_norm


class _Context(nn.Module):
    """A bottleneck of two 1×1 convolutions: the channel context of every place, or of the whole map."""

    def __init__(self, channels: int, reduced: int, *, normalise: bool):
        super().__init__()
        self.squeeze = convolution(2, channels, reduced, kernel=1)
        # A single place has nothing to be normalised by.
        self.norm = group_norm(reduced) if normalise else nn.Identity()
        self.expand = convolution(2, reduced, channels, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(functional.relu(self.norm(self.squeeze(x))))


class AttentionalFusion(nn.Module):
    """Two maps to one: w ⊙ a + (1 − w) ⊙ b, w a sigmoid of the local and the global channel context of a + b.

    Args:
        channels: of each map.
        reduction: of the bottlenecks.
    """

    def __init__(self, channels: int, reduction: int = 4):
        super().__init__()
        reduced = max(1, channels // reduction)
        self.local = _Context(channels, reduced, normalise=True)
        self.overall = _Context(channels, reduced, normalise=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """(B, C, H, W) twice → (B, C, H, W)."""
        both = a + b
        weight = torch.sigmoid(self.local(both) + self.overall(both.mean((2, 3), keepdim=True)))
        return weight * a + (1 - weight) * b


class ChannelAttention(nn.Module):
    """Squeeze and excitation: each channel times a number in (0, 1) that all channels' means over the map decide.

    Args:
        channels: of the map.
        reduction: of the bottleneck.
    """

    def __init__(self, channels: int, reduction: int = 4):
        super().__init__()
        self.overall = _Context(channels, max(1, channels // reduction), normalise=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → the same shape."""
        return x * torch.sigmoid(self.overall(x.mean((2, 3), keepdim=True)))
