"""What networks do otherwise on a CPU, because PyTorch 2.13 is slow there at what they would do.

Results differ by rounding alone. Each of these names the script in `benchmarks/` that times it; `docs/performance.md`
has the figures. Elsewhere than on a CPU all are PyTorch's own.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.memory_format import convert_conv2d_weight_memory_format, convert_conv3d_weight_memory_format

SMALL_MAP = 64
"""Places of all maps of a batch up to which a wide convolution is a matrix product."""
WIDE = 2**16
"""Weights of one tap from which a convolution counts as wide."""
SMALL_NORM = 1024
"""Places of a map up to which group norm of bfloat16 is slow where channels lie last."""
MANY_WEIGHTS = 2**22
"""Weights of an attention above which a training step is faster without holding them all."""


class Convolution2d(nn.Conv2d):
    """A 3×3 convolution that keeps the size, as a matrix product where maps are small and weights many.

    The deepest levels of a network have few places and most of its weights. There a CPU's convolution spends its time
    on laying the weights out anew, up to ten times that of the product (its gradients above all). Synthesis needs no
    gradients, and has weights that are laid out already (`lay_weights_out`).

    Timed by `benchmarks/speed.py` (`results/speed-64-32.json`, training at 64×64).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve (B, C, H, W)."""
        batch, _, height, width = input.shape
        places = batch * height * width
        few, wide = places <= SMALL_MAP, self.in_channels * self.out_channels >= WIDE
        if input.device.type != "cpu" or not (few and wide and torch.is_grad_enabled()):
            return super().forward(input)
        columns = functional.unfold(input, 3, padding=1)  # (B, 9 C, H W)
        y = self.weight.flatten(1) @ columns.transpose(0, 1).flatten(1)  # (C', B H W)
        y = y if self.bias is None else y + self.bias[:, None].to(y.dtype)
        return y.unflatten(1, (batch, height, width)).transpose(0, 1)


class GroupNorm(nn.GroupNorm):
    """Group norm that lays small bfloat16 maps out anew: less time than the slow kernel, copies included.

    Timed with all else of a volume by `benchmarks/cdpm.py --work volume`.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, *S); the memory layout stays."""
        small = input.device.type == "cpu" and input.dtype == torch.bfloat16 and input.shape[2:].numel() <= SMALL_NORM
        if not small or input.ndim != 4 or input.is_contiguous():
            return super().forward(input)
        return super().forward(input.contiguous()).contiguous(memory_format=torch.channels_last)


def attention_layout(qkv: Tensor) -> Tensor:
    """Queries, keys and values as the kernel wants them that is the faster one.

    The kernels that never hold all weights take contiguous numbers only. They are slower where there are few weights
    and gradients are wanted.

    Timed by `benchmarks/cdpm.py --work training` (`results/cdpm-training.json`).

    Args:
        qkv: (B, 3, heads, places, C/heads).
    """
    batch, _, heads, places, _ = qkv.shape
    weights = batch * heads * places**2
    on_cpu = qkv.device.type == "cpu"
    return qkv if on_cpu and torch.is_grad_enabled() and weights <= MANY_WEIGHTS else qkv.contiguous()


def depthwise_type(x: Tensor) -> torch.dtype:
    """What a depthwise convolution of `x`, or its transpose, computes in: float32 in place of bfloat16.

    In bfloat16 the transpose takes about ten times as long as casts and float32.

    Timed by `benchmarks/speed.py syndiff_public_code` in bfloat16 (`results/speed-64-32.json`).
    """
    return torch.float32 if x.device.type == "cpu" and x.dtype == torch.bfloat16 else x.dtype


def lay_weights_out(network: nn.Module, device: torch.device) -> None:
    """Lay the weights of convolutions out channels last, for synthesis.

    What convolutions return is then channels last, too, and they need not lay images out anew. Training does not gain
    by it (some gradients are slower).

    Timed by `benchmarks/speed.py --work slice volume` (`results/speed-64-32-slice.json`, `speed-64-32-volume.json`).
    """
    if device.type == "cpu":
        convert_conv2d_weight_memory_format(network, torch.channels_last)
        convert_conv3d_weight_memory_format(network, torch.channels_last_3d)
