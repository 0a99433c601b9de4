"""Self-attention of SAGAN (Zhang, Goodfellow, Metaxas & Odena, ICML 2019, section 3)."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class SaganAttention(nn.Module):
    """x + γ·o, where o gathers at each place what all others hold; γ starts at 0.

    With 1×1 convolutions f, g (C/8 channels), h (C/2) and v (back to C), as in SAGAN's Eqs. 1 to 3:
    β_ji = softmax over i of f(x_i)ᵀ g(x_j), o_j = v(Σ_i β_ji h(x_i)).

    # Paper: spectral norm in all layers. Here: none, as in the networks around it (`resnet.py`).

    Args:
        channels: C, a multiple of 8.
    """

    def __init__(self, channels: int):
        super().__init__()
        assert channels % 8 == 0, f"{channels} channels are no multiple of 8"
        self.f, self.g = (nn.Conv2d(channels, channels // 8, kernel_size=1, bias=False) for _ in range(2))
        self.h = nn.Conv2d(channels, channels // 2, kernel_size=1, bias=False)
        self.v = nn.Conv2d(channels // 2, channels, kernel_size=1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Let every place of `x` (B, C, H, W) attend to every other; the shape stays."""
        return x + self.gamma * self.gathered(x)

    def gathered(self, x: Tensor) -> Tensor:
        """o, (B, C, H, W)."""
        f, g, h = (layer(x).flatten(2).transpose(1, 2)[:, None] for layer in (self.f, self.g, self.h))  # (B, 1, HW, c)
        # Zeros beside f and g change no product, but kernels that never hold all (HW)² weights want one width.
        f, g = (functional.pad(part, (0, h.shape[-1] - part.shape[-1])) for part in (f, g))
        o = functional.scaled_dot_product_attention(g.contiguous(), f.contiguous(), h.contiguous(), scale=1.0)
        return self.v(o[:, 0].transpose(1, 2).unflatten(2, x.shape[2:]))
