"""U-Net of residual blocks with time, latent and attention by level, after NCSN++ and DDPM."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from scansynth.errors import InputError
from scansynth.networks.blocks import (
    FirConvolution,
    Kernel,
    Modulate,
    ResidualBlock,
    SelfAttention,
    convolution,
    group_norm,
)
from scansynth.networks.embedding import TimeEmbedding
from scansynth.networks.levels import Layer, check_attention, plan_levels, walk
from scansynth.networks.window_attention import WindowAttention


class _Layer(nn.Module):
    """A residual block, and self-attention after it where there is any."""

    def __init__(self, residual: ResidualBlock, attention: nn.Module):
        super().__init__()
        self.residual = residual
        self.attention = attention

    def forward(self, h: Tensor, time: Tensor | None, w: Tensor | None) -> Tensor:
        return self.attention(self.residual(h, time, w))


FIRST_VARIANCE = -4.0
"""Of which v of a learned variance is the sigmoid at the start: 0.018."""


class UNet(nn.Module):
    """U-Net in the form of NCSN++ (Song et al. 2021, appendix H) and DDPM (Ho et al. 2020, appendix B).

    Every level has `blocks` residual blocks on the way down and one more on the way up, which read the outputs of the
    way down by concatenation. Residual blocks resample. The last convolution is plain: a method bounds its output.

    The defaults are what SynDiff's paper states. NCSN++ itself has `resample="fir"`, `input_pyramid`,
    `project_resampled` and a time encoding of the base width; `modulate="both"` is DDGAN's (Xiao et al. 2022).

    Args:
        dims: 2 or 3.
        in_channels: channels of the input.
        out_channels: channels of the output.
        channels: base width.
        multipliers: width of each level over the base width; level 0 is the full resolution, level n is 2^n smaller.
        blocks: residual blocks a level.
        attention_levels: levels with self-attention. SynDiff: the level that is 16 when the input is 256, so 4.
        bottleneck_attention: whether the bottleneck has self-attention.
        window_levels: levels with attention inside windows, shifted in every second block.
        window: side of these windows.
        head_width: channels of an attention head there.
        recompute: whether training keeps no features of a layer but computes them again for its gradient: less memory,
            a third more time.
        time_width: width of the time embedding; 0: the network sees no time.
        latent_width: width of the latent w (the output of a `MappingNetwork`); 0: none.
        time_encoding: features of the sinusoidal encoding that the time embedding is made from.
        resample: "box" averages and repeats; "fir" is the low-pass filter [1, 3, 3, 1].
        input_pyramid: whether the input, made smaller along with the features and convolved to their width, is added
            to them after every downsampling (the residual pyramid of NCSN++).
        modulate: the norms of a residual block that the latent modulates.
        project_resampled: whether resampling blocks have a 1×1 convolution in their shortcut.

    Raises:
        InputError: if there is no such attention level, or a width is not positive.
    """

    def __init__(
        self,
        dims: int,
        in_channels: int,
        out_channels: int,
        *,
        channels: int = 64,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4, 4),
        blocks: int = 2,
        attention_levels: Sequence[int] = (4,),
        bottleneck_attention: bool = True,
        time_width: int = 0,
        latent_width: int = 0,
        time_encoding: int = 32,
        resample: Kernel = "box",
        input_pyramid: bool = False,
        modulate: Modulate = "second",
        project_resampled: bool = False,
        window_levels: Sequence[int] = (),
        window: int = 4,
        head_width: int = 32,
        recompute: bool = False,
    ):
        super().__init__()
        self.recompute = recompute
        levels = len(multipliers)
        check_attention((*attention_levels, *window_levels), levels)
        if levels < 1 or min(channels, blocks, *multipliers) < 1:
            raise InputError(f"U-Net: channels {channels}, blocks {blocks}, multipliers {tuple(multipliers)}: all > 0")
        self.size_multiple = 2 ** (levels - 1)
        self.time = TimeEmbedding(time_width, time_encoding) if time_width else None
        self.latent_width = latent_width
        self.levels = plan_levels(channels, [channels * multiplier for multiplier in multipliers], blocks)
        shifted = itertools.cycle((False, True))

        def layer(planned: Layer, *, attend: bool) -> _Layer:
            residual = ResidualBlock(
                dims,
                planned.reads,
                planned.gives,
                time_width=time_width,
                latent_width=latent_width,
                resample=planned.resample,
                kernel=resample,
                modulate=modulate,
                project_resampled=project_resampled,
            )
            attend = attend and planned.resample is None
            attention: nn.Module = SelfAttention(dims, planned.gives) if attend else nn.Identity()
            if planned.level in window_levels and planned.resample is None:
                attention = WindowAttention(
                    dims, planned.gives, window, shifted=next(shifted), heads=max(1, planned.gives // head_width)
                )
            return _Layer(residual, attention)

        self.first = convolution(dims, in_channels, channels, kernel=3)
        self.down = nn.ModuleList()
        self.pyramid = nn.ModuleList()  # one for each of those that downsample, or none at all
        pyramid_width = in_channels
        for planned in self.levels.down:
            self.down.append(layer(planned, attend=planned.level in attention_levels))
            if planned.resample and input_pyramid:
                self.pyramid.append(FirConvolution(dims, pyramid_width, planned.gives))
                pyramid_width = planned.gives
        before, after = self.levels.bottleneck
        self.bottleneck = nn.ModuleList([layer(before, attend=bottleneck_attention), layer(after, attend=False)])
        # As in NCSN++, one attention a level on the way up, after the level's last block.
        self.up = nn.ModuleList(
            layer(planned, attend=planned.level in attention_levels and planned.block == blocks)
            for planned in self.levels.up
        )
        self.norm = group_norm(self.levels.gives)
        self.last = convolution(dims, self.levels.gives, out_channels, kernel=3)

    def forward(self, x: Tensor, t: Tensor | None = None, w: Tensor | None = None) -> Tensor:
        """Apply the network.

        Args:
            x: images, (B, in_channels, *S); every side is a multiple of `size_multiple`.
            t: time steps, (B,), where `time_width` > 0.
            w: latents, (B, latent_width), where `latent_width` > 0.

        Returns:
            (B, out_channels, *S).

        Raises:
            InputError: if a side is not a multiple of `size_multiple`.
        """
        self.check_size(x)
        return self.features(x, t, w)

    def check_size(self, x: Tensor) -> None:
        """Raise InputError if a side of images (B, C, *S) is not a multiple of `size_multiple`."""
        if any(side % self.size_multiple for side in x.shape[2:]):
            raise InputError(
                f"U-Net: image size {tuple(x.shape[2:])}: pad every side to a multiple of {self.size_multiple}"
            )

    def features(self, x: Tensor, t: Tensor | None, w: Tensor | None) -> Tensor:
        """What the layers make of their input; arguments as of `forward`."""
        assert (t is None) == (self.time is None), "t goes with time_width > 0"
        assert (w is None) == (self.latent_width == 0), "w goes with latent_width > 0"
        time = None if self.time is None or t is None else self.time(t)

        layers = itertools.chain(self.down, self.bottleneck, self.up)
        pyramid, shrink = x, iter(self.pyramid)

        def apply(planned: Layer, h: Tensor) -> Tensor:
            nonlocal pyramid
            h = self.layer(next(layers), h, time, w)
            if planned.resample == "down" and self.pyramid:
                h = pyramid = (next(shrink)(pyramid) + h) / math.sqrt(2)
            return h

        h = walk(self.first(x), self.levels, apply)
        return self.last(functional.silu(self.norm(h)))

    def layer(self, layer: nn.Module, h: Tensor, time: Tensor | None, w: Tensor | None) -> Tensor:
        """What a layer gives; with `recompute` training keeps nothing of it."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(layer, h, time, w, use_reentrant=False, preserve_rng_state=False)
        return layer(h, time, w)

    def start(self, channel: int, value: float) -> None:
        """Let a channel of the output start at about a value: the bias of the last convolution."""
        nn.init.constant_(self.get_parameter("last.bias")[channel : channel + 1], value)


def window_unet(
    dims: int,
    in_channels: int,
    *,
    learned_variance: bool,
    channels: int,
    multipliers: Sequence[int],
    blocks: int,
    window_levels: Sequence[int],
) -> UNet:
    """The time-conditional U-Net of convolutions and shifted-window attention (CG-DDPM, section 2.5).

    It gives the noise or the velocity and, where the variance is learned, a second channel, of which v is the sigmoid.
    That starts near 0, the variance β̃ that is right for a certain x̂_0: at most times v gets no gradient that would take
    it there (`variational.learned_log_variance`).
    """
    unet = UNet(
        dims,
        in_channels,
        1 + learned_variance,
        channels=channels,
        multipliers=multipliers,
        blocks=blocks,
        attention_levels=(),
        bottleneck_attention=False,
        time_width=4 * channels,
        window_levels=window_levels,
    )
    if learned_variance:
        start_variance(unet)
    return unet


def start_variance(unet: UNet) -> None:
    """Let the second channel that a network gives, of which v of a learned variance is the sigmoid, start near 0.

    0 is β̃, the variance that is right for a certain x̂_0: at most times v gets no gradient that would take it there
    (`variational.learned_log_variance`).
    """
    unet.start(1, FIRST_VARIANCE)
