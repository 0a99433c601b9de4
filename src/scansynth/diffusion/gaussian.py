"""The Gaussian forward process and its posterior, between any two times.

Every function names both times; nothing derives "the previous time". So SynDiff's large steps, respaced sampling and
the single steps of DDPM are the same formulas. Coefficients are computed in float64 and then cast to the images' type.
"""

from torch import Tensor

from scansynth.diffusion.schedule import Schedule, expand


def q_sample(schedule: Schedule, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """Draw x_t from q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I) (DDPM, Eq. 4).

    Args:
        schedule: ᾱ.
        x0: clean images, (B, C, *S).
        t: times, (B,) integers in 0 … T; at 0 the result is x0.
        eps: standard normal noise, (B, C, *S).

    Returns:
        (B, C, *S).
    """
    alpha_bar = schedule.lookup(t)
    return expand(alpha_bar.sqrt(), x0) * x0 + expand((1 - alpha_bar).sqrt(), x0) * eps


def q_step(schedule: Schedule, x_s: Tensor, s: Tensor, t: Tensor, eps: Tensor) -> Tensor:
    """Draw x_t from q(x_t | x_s) = N(√(1 − γ) x_s, γ I), γ = 1 − ᾱ_t/ᾱ_s (SynDiff, Eqs. 8 and 9 with s = t − k).

    Args:
        schedule: ᾱ.
        x_s: images at time s, (B, C, *S).
        s: times, (B,) integers.
        t: later times, (B,) integers, s < t.
        eps: standard normal noise, (B, C, *S), independent of `x_s`.

    Returns:
        (B, C, *S).
    """
    _assert_earlier(s, t)
    kept = schedule.lookup(t) / schedule.lookup(s)  # 1 − γ
    return expand(kept.sqrt(), x_s) * x_s + expand((1 - kept).sqrt(), x_s) * eps


def q_posterior(schedule: Schedule, x0: Tensor, x_t: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of q(x_s | x_t, x_0) (SynDiff, Eq. 14 with s = t − k; DDPM, Eq. 7 with s = t − 1).

    Args:
        schedule: ᾱ.
        x0: clean images, (B, C, *S).
        x_t: images at time t, (B, C, *S).
        t: times, (B,) integers.
        s: earlier times, (B,) integers, 0 ≤ s < t. At s = 0 the mean is x0 and the variance 0.

    Returns:
        Mean (B, C, *S) and variance (B, 1, …).
    """
    _assert_earlier(s, t)
    alpha_bar_t, alpha_bar_s = schedule.lookup(t), schedule.lookup(s)
    gamma = 1 - alpha_bar_t / alpha_bar_s
    of_x0 = alpha_bar_s.sqrt() * gamma / (1 - alpha_bar_t)
    of_x_t = (1 - gamma).sqrt() * (1 - alpha_bar_s) / (1 - alpha_bar_t)
    variance = gamma * (1 - alpha_bar_s) / (1 - alpha_bar_t)
    return expand(of_x0, x0) * x0 + expand(of_x_t, x0) * x_t, expand(variance, x0)


def _assert_earlier(s: Tensor, t: Tensor) -> None:
    if s.device.type == "cpu":  # elsewhere the check would wait for the device
        assert (s < t).all(), f"times s {s.tolist()} are not all before t {t.tolist()}"
