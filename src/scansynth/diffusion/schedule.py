"""How much of the clean image is left at each time."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scansynth.errors import InputError


@dataclass(frozen=True, eq=False)
class Schedule:
    """Noise schedule: x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε for t = 0 … T.

    Raises:
        InputError: if `alpha_bar` does not start at 1 and fall strictly, staying above 0.
    """

    alpha_bar: Tensor
    """ᾱ_t for t = 0 … T, (T+1,) float64; `alpha_bar[0]` is 1, the clean image. Never changed in place."""

    def __post_init__(self):
        alpha_bar = self.alpha_bar
        assert alpha_bar.dtype == torch.float64, f"alpha_bar is {alpha_bar.dtype}, not float64"
        assert alpha_bar.ndim == 1, f"alpha_bar has shape {tuple(alpha_bar.shape)}, not (T+1,)"
        falls = bool((alpha_bar.diff() < 0).all())
        if len(alpha_bar) < 2 or alpha_bar[0] != 1 or not falls or not alpha_bar[-1] > 0:
            raise InputError("noise schedule: alpha_bar must start at 1 and fall with every step, staying above 0")

    @classmethod
    def linear(cls, steps: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> "Schedule":
        """β_t rises linearly from `beta_start` at t = 1 to `beta_end` at t = T (DDPM, section 4).

        Args:
            steps: T.
            beta_start: β_1.
            beta_end: β_T.

        Raises:
            InputError: if there is no step, or a β is not in (0, 1).
        """
        if steps < 1 or not 0 < beta_start < 1 or not 0 < beta_end < 1:
            raise InputError(
                f"linear noise schedule: steps {steps} must be at least 1, beta {beta_start} to {beta_end} in (0, 1)"
            )
        beta = torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)
        return cls(torch.cat([torch.ones(1, dtype=torch.float64), (1 - beta).cumprod(0)]))

    @classmethod
    def cosine(cls, steps: int, offset: float = 0.008, largest: float = 0.999) -> "Schedule":
        """ᾱ_t = f(t)/f(0), f(t) = cos²((t/T + offset)/(1 + offset) · π/2), β at most `largest` (IDDPM, Eq. 17).

        Args:
            steps: T.
            offset: keeps the first β from being tiny.
            largest: of β, at the end.

        Raises:
            InputError: if there is no step.
        """
        if steps < 1:
            raise InputError(f"cosine noise schedule: steps {steps} must be at least 1")
        tau = torch.arange(steps + 1, dtype=torch.float64) / steps
        f = torch.cos((tau + offset) / (1 + offset) * torch.pi / 2).square()
        beta = (1 - f[1:] / f[:-1]).clamp(max=largest)
        return cls(torch.cat([torch.ones(1, dtype=torch.float64), (1 - beta).cumprod(0)]))

    @classmethod
    def variance_preserving(
        cls, steps: int, beta_min: float = 0.1, beta_max: float = 20.0, *, first_time: float = 0.0
    ) -> "Schedule":
        """ᾱ_t = exp(−β_min τ − (β_max − β_min) τ²/2), τ = t/T (SynDiff, Eq. 10; Song et al. 2021, Eq. 33).

        The variance of SynDiff's step from t − k to t is γ_t = 1 − ᾱ_t/ᾱ_{t−k}.

        With a `first_time` τ_0 above 0, τ = τ_0 + (1 − τ_0) t/T and everything is divided by its value at τ_0, so that
        ᾱ_0 stays 1: the grid of SynDiff's public release (τ_0 = 0.001).

        Args:
            steps: T.
            beta_min: rate at t = 0, over the whole process.
            beta_max: rate at t = T.
            first_time: τ_0, where the clean image lies, in [0, 1).

        Raises:
            InputError: if there is no step, or the rates are not 0 < beta_min, 0 < beta_max.
        """
        if steps < 1 or not beta_min > 0 or not beta_max > 0:
            raise InputError(
                f"variance-preserving noise schedule: steps {steps} must be at least 1, beta_min {beta_min} and "
                f"beta_max {beta_max} above 0"
            )
        tau = first_time + (1 - first_time) * torch.arange(steps + 1, dtype=torch.float64) / steps
        exponent = -beta_min * tau - (beta_max - beta_min) * tau.square() / 2
        return cls(torch.exp(exponent - exponent[0]))

    @property
    def steps(self) -> int:
        """T, the last time."""
        return len(self.alpha_bar) - 1

    def lookup(self, t: Tensor) -> Tensor:
        """ᾱ at integer times `t` (B,), as (B,) float64: what coefficients are computed from."""
        assert not t.is_floating_point(), f"times are {t.dtype}, not integers"
        if t.device.type == "mps":  # it has no float64
            t = t.cpu()
        if t.device.type == "cpu":  # elsewhere the check would wait for the device
            assert ((t >= 0) & (t <= self.steps)).all(), f"times {t.tolist()} are not all in 0 … {self.steps}"
        return self.alpha_bar.to(t.device)[t]

    def at(self, t: Tensor, like: Tensor) -> Tensor:
        """ᾱ at integer times `t` (B,), as (B, 1, …) with rank, type and device of `like` (B, C, *S)."""
        return expand(self.lookup(t), like)


def make_schedule(noise: Literal["linear", "cosine"], steps: int) -> Schedule:
    """The schedule of that name with so many steps.

    Args:
        noise: "linear": β from 10⁻⁴ to 0.02 for 1000 steps (DDPM, section 4), scaled by 1000/T for others, so that as
            little of the image is left at T; "cosine": ᾱ a squared cosine (IDDPM, Eq. 17).
        steps: T.
    """
    if noise == "cosine":
        return Schedule.cosine(steps)
    return Schedule.linear(steps, 1e-4 * 1000 / steps, 0.02 * 1000 / steps)


def expand(values: Tensor, like: Tensor) -> Tensor:
    """Coefficients (B,) → (B, 1, …) with rank, type and device of `like` (B, C, *S), to be multiplied with it."""
    assert len(values) == len(like), f"{len(values)} times for {len(like)} images"
    return values.to(like.dtype).to(like.device).reshape(-1, *[1] * (like.ndim - 1))
