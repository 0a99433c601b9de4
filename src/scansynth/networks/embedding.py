"""What tells a network the time step and the latent draw."""

import math

import torch
from torch import Tensor, nn

MAX_PERIOD = 10_000
"""The slowest feature turns once in 2π times this many steps."""


def sinusoidal(t: Tensor, width: int) -> Tensor:
    """Sinusoidal position encoding of the time step (Vaswani et al. 2017, section 3.5; DDPM, appendix B).

    Args:
        t: time steps, (B,), integer or float. They are used as they are: 0 to T, not scaled to [0, 1].
        width: even number of features.

    Returns:
        (B, width) float32: the cosines, then the sines, of t at width/2 frequencies.
    """
    assert width % 2 == 0, f"width {width} is not even"
    half = width // 2
    frequencies = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, device=t.device, dtype=torch.float32) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class TimeEmbedding(nn.Module):
    """Sinusoidal encoding through a two-layer perceptron (SynDiff, section IV-B.1).

    Args:
        width_out: features given to the blocks.
        width_in: features of the sinusoidal encoding.
        activation: between the layers; None: SiLU.
    """

    def __init__(self, width_out: int, width_in: int = 32, activation: nn.Module | None = None):
        super().__init__()
        self.width_in = width_in
        self.layers = nn.Sequential(
            nn.Linear(width_in, width_out), activation or nn.SiLU(), nn.Linear(width_out, width_out)
        )

    def forward(self, t: Tensor) -> Tensor:
        """Embed time steps `t` (B,) as (B, width_out)."""
        # Made in float32: times up to 1000 are exact there, not in bfloat16.
        encoding = sinusoidal(t, self.width_in)
        return self.layers(encoding.to(next(self.parameters()).dtype))


class MappingNetwork(nn.Module):
    """Gaussian latent z → style w: pixel norm and a perceptron (StyleGAN; SynDiff, section IV-B.1).

    Args:
        latent: width of z.
        width: width of the layers and of w.
        layers: number of layers.
    """

    def __init__(self, latent: int = 256, width: int = 256, layers: int = 3):
        super().__init__()
        modules: list[nn.Module] = []
        for layer in range(layers):
            linear = nn.Linear(width if layer else latent, width)
            # Keeps the variance through the layers: with PyTorch's default w would hardly depend on z at the start.
            nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
            nn.init.zeros_(linear.bias)
            modules += [linear, nn.SiLU()]
        self.layers = nn.Sequential(*modules)

    def forward(self, z: Tensor) -> Tensor:
        """Map latents `z` (B, latent) to w (B, width)."""
        z = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
        return self.layers(z)
