"""Batch norm of a whole batch, of which each of several processes may have a part (Ioffe & Szegedy, ICML 2015)."""

from typing import Protocol

import torch
from torch import Tensor, nn


class Parts(Protocol):
    """The processes that share a batch."""

    @property
    def count(self) -> int:
        """How many there are."""
        ...

    def mean(self, x: Tensor) -> Tensor:
        """The mean of a tensor over all of them, with its gradient."""
        ...


class BatchNorm(nn.BatchNorm2d):
    """Features over their mean and deviation in the batch, then scaled and shifted; over running ones in synthesis.

    A batch of one is normalised by itself in training and by others in synthesis, which is another network: a method
    with this norm asks for more (`Needs.least_batch`). So that several processes are as one, their statistics are those
    of the whole batch; PyTorch's own for that (`SyncBatchNorm`) is for GPUs alone.

    Args:
        channels: C.
    """

    def __init__(self, channels: int):
        super().__init__(channels)
        self.parts: Parts | None = None
        """The processes that train together, each with as many samples; the engine puts them there. None: one alone."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        if not self.training or self.parts is None or self.parts.count == 1:
            return super().forward(input)
        x = input.float()  # statistics in float32, as PyTorch has them
        mean = self.parts.mean(x.mean((0, 2, 3)))
        centred = x - mean[:, None, None]
        variance = self.parts.mean(centred.square().mean((0, 2, 3)))
        with torch.no_grad():
            assert self.running_mean is not None and self.running_var is not None and self.momentum is not None  # noqa: PT018
            assert self.num_batches_tracked is not None
            values = self.parts.count * x.numel() // len(mean)
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (values / (values - 1)), self.momentum)  # unbiased
        y = centred * (self.weight * (variance + self.eps).rsqrt())[:, None, None] + self.bias[:, None, None]
        return y.to(input.dtype)
