"""Blocks of the U-Nets: residual block with time and latent, resampling, self-attention. One class for 2D and 3D."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from scansynth.networks import cpu
from scansynth.networks.levels import Resample

Kernel = Literal["box", "fir"]
Modulate = Literal["second", "both"]


def convolution(dims: int, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1) -> nn.Module:
    """A convolution in `dims` (2 or 3) dimensions that keeps the size (at stride 1, odd kernel)."""
    conv = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
    if (dims, kernel, stride) == (2, 3, 1):
        conv = cpu.Convolution2d
    return conv(channels_in, channels_out, kernel, stride, padding=kernel // 2)


def shortcut(dims: int, channels_in: int, channels_out: int, *, project: bool = False) -> nn.Module:
    """What a residual block adds to: nothing changed, or a 1×1 convolution of unit gain.

    Args:
        dims: 2 or 3.
        channels_in: channels of the input.
        channels_out: channels of the output.
        project: whether there is a convolution also where the channels do not change.
    """
    if channels_in == channels_out and not project:
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


def group_norm(channels: int, *, affine: bool = True) -> nn.GroupNorm:
    """Group norm with at most 32 groups of at least 4 channels (fewer than 4 channels: one group).

    Args:
        channels: channels of the input.
        affine: whether it has a scale and a shift of its own; not where a latent gives both.
    """
    groups = max(1, min(32, channels // 4))
    while channels % groups:
        groups -= 1
    # The 1/√2 of the blocks lets deep features become small before training: NCSN++'s eps, not PyTorch's 1e-5.
    return cpu.GroupNorm(groups, channels, eps=1e-6, affine=affine)


def downsample(x: Tensor) -> Tensor:
    """Halve every side by averaging: (B, C, *S) → (B, C, *S/2)."""
    return functional.avg_pool2d(x, 2) if x.ndim == 4 else functional.avg_pool3d(x, 2)


def upsample(x: Tensor) -> Tensor:
    """Double every side by repeating: (B, C, *S) → (B, C, *2S)."""
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


class _Fir(torch.autograd.Function):
    """Convolution of every channel with the kernel [1, 3, 3, 1]/8 along each axis, or its transpose.

    Both are linear: the gradient of one is the other, to any order, so that a second gradient (R1) costs no more than
    the filter itself. PyTorch's own second gradient of a depthwise convolution goes through the channels one by one.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, stride: int, padding: int, size: tuple[int, ...] | None) -> Tensor:
        """Convolve, or, where the size of the result is given, convolve with the transpose.

        Args:
            ctx: what the gradient needs.
            x: features, (B, C, *S).
            stride: stride on the finer side.
            padding: zeros around the finer side.
            size: sides of the result of the transpose; None: no transpose.

        Returns:
            (B, C, *S').
        """
        ctx.stride, ctx.padding, ctx.size, ctx.is_transpose = stride, padding, tuple(x.shape[2:]), size is not None
        channels, dims = x.shape[1], x.ndim - 2
        compute = cpu.depthwise_type(x)
        kernel = torch.full((channels, 1, *[4] * dims), 8.0**-dims, dtype=compute, device=x.device)
        for axis in range(2, 2 + dims):
            kernel.narrow(axis, 1, 2).mul_(3)  # [1, 3, 3, 1]
        lacks = [0] * dims  # rows at the end that the strides of the convolution did not reach
        if size is not None:
            lacks = [
                side - (stride * (coarse - 1) + 4 - 2 * padding) for side, coarse in zip(size, x.shape[2:], strict=True)
            ]
        with torch.autocast("cpu", enabled=False):
            y = torch.convolution(
                x.to(compute),
                kernel,
                None,
                stride=[stride] * dims,
                padding=[padding] * dims,
                dilation=[1] * dims,
                transposed=size is not None,
                output_padding=lacks,
                groups=channels,
            )
        return y.to(x.dtype) if compute != x.dtype else y

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        """The transpose of what was applied."""
        (grad,) = grad_outputs
        return _Fir.apply(grad, ctx.stride, ctx.padding, None if ctx.is_transpose else ctx.size), None, None, None


def fir_downsample(x: Tensor) -> Tensor:
    """Low-pass filter [1, 3, 3, 1] of gain 1, every second value kept: (B, C, *S) → (B, C, *S/2).

    Outside the image are zeros (StyleGAN2, Karras et al. 2020; NCSN++, Song et al. 2021, appendix H). Half of an odd
    side is rounded down; a side has at least 2 values.
    """
    return _Fir.apply(x, 2, 1, None)


def fir_upsample(x: Tensor) -> Tensor:
    """Zeros between the values, then the low-pass filter [1, 3, 3, 1] of gain 2 a side: (B, C, *S) → (B, C, *2S).

    Outside the image are zeros (StyleGAN2, Karras et al. 2020; NCSN++, Song et al. 2021, appendix H).
    """
    # The gain goes to the smaller array.
    return _Fir.apply(x * 2 ** (x.ndim - 2), 2, 1, tuple(2 * side for side in x.shape[2:]))


class FirConvolution(nn.Module):
    """Low-pass filter [1, 3, 3, 1], then a 3×3 convolution with stride 2 (StyleGAN2's downsampling convolution).

    The convolution sees the filtered image at full resolution. It reads every value: none is computed in vain.

    Args:
        dims: 2 or 3.
        channels_in: channels of the input.
        channels_out: channels of the output.
    """

    def __init__(self, dims: int, channels_in: int, channels_out: int):
        super().__init__()
        self.convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dims](channels_in, channels_out, kernel_size=3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, *S), even sides → (B, channels_out, *S/2)."""
        return self.convolution(_Fir.apply(x, 1, 2, None))  # sides of S + 1 in between


RESAMPLE = {
    ("box", "down"): downsample,
    ("box", "up"): upsample,
    ("fir", "down"): fir_downsample,
    ("fir", "up"): fir_upsample,
}


def channel_bias(values: Tensor, like: Tensor) -> Tensor:
    """(B, C) → (B, C, 1, …), to be added to `like` (B, C, *S)."""
    return values.reshape(*values.shape, *[1] * (like.ndim - 2))


def modulated(h: Tensor, latent: nn.Linear | None, w: Tensor | None) -> Tensor:
    """Normalised features `h` (B, C, *S), scaled and shifted as a layer `latent` reads it from w; none: as they are."""
    if latent is None:
        return h
    assert w is not None, "this block needs a latent"
    scale, shift = channel_bias(latent(w), h).chunk(2, dim=1)
    return h * (1 + scale) + shift


class ResidualBlock(nn.Module):
    """Residual block of NCSN++ with time as a bias and the latent as adaptive group norm (SynDiff, section IV-B.1).

    Group norm, SiLU, convolution, plus time bias, (adaptive) group norm, SiLU, convolution; the sum with the shortcut
    is divided by √2. Resampling is BigGAN's: in both branches, before the first convolution.

    Settings that depart from the defaults are those of NCSN++ (Song et al. 2021, appendix H: "fir", projection) and
    of DDGAN (Xiao et al. 2022: the latent modulates both norms).

    Args:
        dims: 2 or 3.
        channels_in: channels of the input.
        channels_out: channels of the output.
        time_width: width of the time embedding; 0: none.
        latent_width: width of the latent w; 0: none.
        resample: "down" halves every side, "up" doubles it.
        kernel: of the resampling: "box" averages and repeats, "fir" is the low-pass filter [1, 3, 3, 1].
        modulate: the norm that the latent modulates: the second one, in addition to its own scale and shift, or both,
            in place of their own.
        project_resampled: whether the shortcut has a 1×1 convolution wherever the block resamples, not only where
            channels change.
    """

    def __init__(
        self,
        dims: int,
        channels_in: int,
        channels_out: int,
        *,
        time_width: int = 0,
        latent_width: int = 0,
        resample: Resample | None = None,
        kernel: Kernel = "box",
        modulate: Modulate = "second",
        project_resampled: bool = False,
    ):
        super().__init__()
        self.resample = None if resample is None else RESAMPLE[kernel, resample]
        both = {"second": False, "both": latent_width > 0}[modulate]
        self.norm1 = group_norm(channels_in, affine=not both)
        self.latent1 = nn.Linear(latent_width, 2 * channels_in) if both else None
        self.conv1 = convolution(dims, channels_in, channels_out, kernel=3)
        self.time = nn.Linear(time_width, channels_out) if time_width else None
        self.norm2 = group_norm(channels_out, affine=not both)
        self.latent = nn.Linear(latent_width, 2 * channels_out) if latent_width else None
        self.conv2 = near_zero(convolution(dims, channels_out, channels_out, kernel=3))
        self.shortcut = shortcut(dims, channels_in, channels_out, project=project_resampled and resample is not None)

    def forward(self, x: Tensor, time: Tensor | None = None, w: Tensor | None = None) -> Tensor:
        """Apply the block.

        Args:
            x: features, (B, channels_in, *S).
            time: time embedding, (B, time_width).
            w: latent, (B, latent_width).

        Returns:
            (B, channels_out, *S), resampled.
        """
        h = functional.silu(modulated(self.norm1(x), self.latent1, w))
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h)
        if self.time is not None:
            assert time is not None, "this block needs a time embedding"
            h = h + channel_bias(self.time(functional.silu(time)), h)
        h = self.conv2(functional.silu(modulated(self.norm2(h), self.latent, w)))
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
        q, k, v = cpu.attention_layout(qkv.transpose(3, 4)).unbind(1)  # each (B, heads, places, C/heads)
        h = functional.scaled_dot_product_attention(q, k, v)
        return (x + self.out(h.transpose(2, 3).reshape(batch, channels, *shape))) / math.sqrt(2)
