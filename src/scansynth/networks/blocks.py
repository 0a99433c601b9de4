"""Blocks of the U-Nets: residual block with time and latent, resampling, self-attention. One class for 2D and 3D."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Resample = Literal["down", "up"]


def convolution(dims: int, channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Module:
    """A convolution in `dims` (2 or 3) dimensions that keeps the size (at stride 1, odd kernel)."""
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
    return conv(channels_in, channels_out, kernel, stride, padding=kernel // 2)


def shortcut(dims: int, channels_in: int, channels_out: int) -> nn.Module:
    """What a residual block adds to: nothing changed, or a 1×1 convolution of unit gain where channels change."""
    if channels_in == channels_out:
        return nn.Identity()
    conv = convolution(dims, channels_in, channels_out, kernel=1)
    nn.init.normal_(conv.get_parameter("weight"), std=channels_in**-0.5)
    nn.init.zeros_(conv.get_parameter("bias"))
    return conv


def near_zero(layer: nn.Module) -> nn.Module:
    """Scale a layer's first weights down and clear its bias, so that its residual block starts close to its shortcut.

    Not to zero: at exactly zero the layers before it get no gradient in the first step.
    """
    with torch.no_grad():
        layer.get_parameter("weight").mul_(1e-2)
        layer.get_parameter("bias").zero_()
    return layer


def group_norm(channels: int) -> nn.GroupNorm:
    """Group norm with at most 32 groups of at least 4 channels (fewer than 4 channels: one group)."""
    groups = max(1, min(32, channels // 4))
    while channels % groups:
        groups -= 1
    # The 1/√2 of the blocks lets deep features become small before training: NCSN++'s eps, not PyTorch's 1e-5.
    return nn.GroupNorm(groups, channels, eps=1e-6)


def downsample(x: Tensor) -> Tensor:
    """Halve every side by averaging: (B, C, *S) → (B, C, *S/2)."""
    return functional.avg_pool2d(x, 2) if x.ndim == 4 else functional.avg_pool3d(x, 2)


def upsample(x: Tensor) -> Tensor:
    """Double every side by repeating: (B, C, *S) → (B, C, *2S)."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def channel_bias(values: Tensor, like: Tensor) -> Tensor:
    """(B, C) → (B, C, 1, …), to be added to `like` (B, C, *S)."""
    return values.reshape(*values.shape, *[1] * (like.ndim - 2))


class ResidualBlock(nn.Module):
    """Residual block of NCSN++ with time as a bias and the latent as adaptive group norm (SynDiff, section IV-B.1).

    Group norm, SiLU, convolution, plus time bias, (adaptive) group norm, SiLU, convolution; the sum with the shortcut
    is divided by √2. Resampling is BigGAN's: in both branches, before the first convolution.

    Args:
        dims: 2 or 3.
        channels_in: channels of the input.
        channels_out: channels of the output.
        time_width: width of the time embedding; 0: none.
        latent_width: width of the latent w; 0: none.
        resample: "down" halves every side, "up" doubles it.
    """

    def __init__(
        self,
        dims: int,
        channels_in: int,
        channels_out: int,
        time_width: int = 0,
        latent_width: int = 0,
        resample: Resample | None = None,
    ):
        super().__init__()
        self.resample = {None: None, "down": downsample, "up": upsample}[resample]
        self.norm1 = group_norm(channels_in)
        self.conv1 = convolution(dims, channels_in, channels_out, kernel=3)
        self.time = nn.Linear(time_width, channels_out) if time_width else None
        self.norm2 = group_norm(channels_out)
        self.latent = nn.Linear(latent_width, 2 * channels_out) if latent_width else None
        self.conv2 = near_zero(convolution(dims, channels_out, channels_out, kernel=3))
        self.shortcut = shortcut(dims, channels_in, channels_out)

    def forward(self, x: Tensor, time: Tensor | None = None, w: Tensor | None = None) -> Tensor:
        """Apply the block.

        Args:
            x: features, (B, channels_in, *S).
            time: time embedding, (B, time_width).
            w: latent, (B, latent_width).

        Returns:
            (B, channels_out, *S), resampled.
        """
        h = functional.silu(self.norm1(x))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h)
        if self.time is not None:
            assert time is not None, "this block needs a time embedding"
            h = h + channel_bias(self.time(functional.silu(time)), h)
        h = self.norm2(h)
        if self.latent is not None:
            assert w is not None, "this block needs a latent"
            scale, shift = channel_bias(self.latent(w), h).chunk(2, dim=1)
            h = h * (1 + scale) + shift
        h = self.conv2(functional.silu(h))
        return (self.shortcut(x) + h) / math.sqrt(2)


class SelfAttention(nn.Module):
    """Self-attention over all places of a feature map, as a residual block (DDPM, appendix B; NCSN++).

    Args:
        dims: 2 or 3.
        channels: channels of input and output.
        heads: attention heads; it divides `channels`.
    """

    def __init__(self, dims: int, channels: int, heads: int = 1):
        super().__init__()
        assert channels % heads == 0, f"{heads} heads do not divide {channels} channels"
        self.heads = heads
        self.norm = group_norm(channels)
        self.qkv = convolution(dims, channels, 3 * channels, kernel=1)
        self.out = near_zero(convolution(dims, channels, channels, kernel=1))

    def forward(self, x: Tensor) -> Tensor:
        """Let every place of `x` (B, C, *S) attend to every other; the shape stays."""
        batch, channels, *shape = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, 3, self.heads, channels // self.heads, -1)
        q, k, v = qkv.transpose(3, 4).unbind(1)  # each (B, heads, places, C/heads)
        h = functional.scaled_dot_product_attention(q, k, v)
        return (x + self.out(h.transpose(2, 3).reshape(batch, channels, *shape))) / math.sqrt(2)
