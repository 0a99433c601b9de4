"""Consistency models: their levels of noise, the boundary, what a training draws by, and the distance.

Song, Dhariwal, Chen & Sutskever, "Consistency Models", ICML 2023 (CM), and Song & Dhariwal, "Improved Techniques for
Training Consistency Models", ICLR 2024 (iCT). Noise is added, not mixed in: x_σ = x + σ ε. Levels fall here, from
σ_max = 80 at i = 0 to σ_min = 0.002, as times do elsewhere; CM counts the other way.

Equation                                                          | here
----------------------------------------------------------------- | ----
σ_i = (σ_max^{1/ρ} + i/(N − 1) (σ_min^{1/ρ} − σ_max^{1/ρ}))^ρ     | `sigmas`
CM 5 and appendix C: c_skip, c_out, c_in                          | `boundary`
CM, appendix C: N(k), μ(k)                                        | `levels_2023`, `decay_2023`
iCT 3.4: N(k) doubles                                             | `levels_improved`
iCT 3.5: p(σ_i), ln σ normal                                      | `level_weights`
iCT 3.3: d, pseudo-Huber                                          | `pseudo_huber`
"""

import math

import torch
from torch import Tensor

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0
FEWEST_2023, MOST_2023, DECAY_2023 = 2, 150, 0.95
"""s_0, s_1 and μ_0 of CM."""
FEWEST, MOST = 10, 1280
"""s_0 and s_1 of iCT."""
LOG_MEAN, LOG_DEVIATION = -1.1, 2.0
"""Of ln σ, as iCT draws it."""
HUBER = 0.00054
"""c over √dim (iCT, section 3.3)."""


def sigmas(count: int) -> Tensor:
    """σ_0 = σ_max … σ_{N−1} = σ_min, (N,) float64 (Karras et al. 2022, Eq. 5).

    Args:
        count: N, at least 2.
    """
    share = torch.arange(count, dtype=torch.float64) / (count - 1)
    first, last = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    found = (first + share * (last - first)) ** RHO
    found[0], found[-1] = SIGMA_MAX, SIGMA_MIN  # without rounding: f must be the identity there
    return found


def boundary(sigma: Tensor, sigma_data: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
    """c_skip, c_out and c_in, of σ's shape: 1 and 0 at σ_min, so that f is the identity there, whatever the network.

    Args:
        sigma: σ, any shape.
        sigma_data: deviation of the images.
    """
    square = sigma_data**2 + 0 * sigma  # of σ's type and shape
    total = (sigma.square() + square).sqrt()
    return square / ((sigma - SIGMA_MIN).square() + square), (sigma - SIGMA_MIN) * square.sqrt() / total, 1 / total


def levels_2023(done: float) -> int:
    """N(k) = ⌈√(k/K ((s_1 + 1)² − s_0²) + s_0²) − 1⌉ + 1: 2 at the start, 151 at the end.

    Args:
        done: k/K, the share of the training that is done, in [0, 1].
    """
    return math.ceil(math.sqrt(done * ((MOST_2023 + 1) ** 2 - FEWEST_2023**2) + FEWEST_2023**2) - 1) + 1


def decay_2023(levels: int) -> float:
    """μ(k) = exp(s_0 ln μ_0/N(k)): the fewer the levels, the closer θ⁻ stays to θ."""
    return math.exp(FEWEST_2023 * math.log(DECAY_2023) / levels)


def levels_improved(done: float, most: int = MOST) -> int:
    """N(k) = min(s_0 2^⌊k/K'⌋, s_1) + 1, K' = ⌊K/(log_2⌊s_1/s_0⌋ + 1)⌋: 11, 21, … 1281, each for an eighth.

    Args:
        done: k/K, the share of the training that is done, in [0, 1].
        most: s_1.
    """
    stages = math.log2(most // FEWEST) + 1
    return min(FEWEST * 2 ** math.floor(done * stages), most) + 1


def level_weights(sigma: Tensor) -> Tensor:
    """p(σ_i) of the pairs (σ_i, σ_{i+1}): what ln σ ~ N(−1.1, 2²) has between them, (N − 1,) float64, of sum 1."""
    below = torch.erf((sigma.log() - LOG_MEAN) / (math.sqrt(2) * LOG_DEVIATION))
    return (below[:-1] - below[1:]) / (below[0] - below[-1])


def pseudo_huber(a: Tensor, b: Tensor) -> Tensor:
    """d = √(‖a − b‖² + c²) − c, c = 0.00054 √dim: ‖·‖² is a sum over all voxels of a sample, (B,)."""
    square = (a - b).square().flatten(1)
    c = HUBER * math.sqrt(square.shape[1])
    return (square.sum(1) + c**2).sqrt() - c
