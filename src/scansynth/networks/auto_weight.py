"""Auto-weight adaptation of conditions (CoLa-Diff, section 2.3): channels scaled by what they hold beside others."""

from typing import Literal

import torch
from torch import Tensor, nn

EPSILON = 1e-5
"""ϖ: so that an empty channel has a derivative."""


class AutoWeight(nn.Module):
    """ỹ_c = y_c (1 + sigmoid(ν_c Ĝ_c + o_c)), Eqs. 7 to 10; the factor lies in (1, 2).

    Args:
        channels: S, of the conditions.
        gate: "sigmoid" (Eq. 10), or "tanh": 1 + tanh in (0, 2), which can switch a channel off.
    """

    def __init__(self, channels: int, gate: Literal["sigmoid", "tanh"] = "sigmoid"):
        super().__init__()
        self.gate = {"sigmoid": torch.sigmoid, "tanh": torch.tanh}[gate]
        self.mu = nn.Parameter(torch.ones(channels))
        """Embedding weight of each channel."""
        self.nu = nn.Parameter(torch.zeros(channels))
        self.o = nn.Parameter(torch.zeros(channels))

    def factors(self, y: Tensor) -> Tensor:
        """What each channel of y (B, S, *S') is multiplied by, (B, S)."""
        y = y.float()  # the sum of many squares
        g = self.mu * (y.square().flatten(2).sum(-1) + EPSILON).sqrt()  # Eq. 8
        g = y.shape[1] ** 0.5 * g / (g.square().sum(1, keepdim=True) + EPSILON).sqrt()  # Eq. 9
        return 1 + self.gate(self.nu * g + self.o)  # Eq. 10

    def forward(self, y: Tensor) -> Tensor:
        """(B, S, *S') → the same shape."""
        factors = self.factors(y)
        return y * factors.reshape(*factors.shape, *[1] * (y.ndim - 2)).to(y.dtype)
