"""Samplers: functions of a denoiser, a list of times and noise.

`denoise(x_t, t) -> x0` takes images (B, C, *S) and times (B,) and returns an estimate of the clean images; guidance and
windows wrap it. At every step the estimate is used with both times, so a list may leave out any times. It may start at
any, too: at T from noise, before it from an image that is noisy already (`q_sample`).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from scansynth.diffusion.gaussian import q_posterior
from scansynth.diffusion.schedule import Schedule, expand
from scansynth.errors import InputError
from scansynth.noise import Noise

SamplerName = Literal["ancestral", "ddim", "dpm-solver"]
"""By q(x_s | x_t, x̂_0) (DDPM), implicitly with η = 0 (DDIM), or by DPM-Solver++(2M)."""
Spacing = Literal["even", "quadratic", "log-snr"]
"""How times lie between T and 0."""
Denoise = Callable[[Tensor, Tensor], Tensor]
Estimate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
AfterStep = Callable[[Tensor, int], None]
"""Told after each step of x_s, (B, C, *S), and its time s; the last time is 0."""


def times(schedule: Schedule, count: int, *, spacing: Spacing = "even") -> list[int]:
    """`count` times from T down, 0 not included: 1000, 750, 500, 250 of 1000, four and evenly.

    Between even times of a common schedule the last step to 0 is so long that a deterministic sampler draws what is
    fine too smooth: of a deviation of 0.1 DDIM keeps 31 % of the variance with 25 times, even in log-SNR 81 %
    (`tests/test_samplers.py`).

    Args:
        schedule: ᾱ, whose last time is T.
        count: number of times, which is the number of calls of the denoiser.
        spacing: evenly; T times squares of even shares (DDIM, appendix D.2: more of them late, where little noise is
            left); or evenly in λ = ½ log(ᾱ/(1 − ᾱ)) from T to 1 (Lu et al., "DPM-Solver", NeurIPS 2022, section 3.4),
            as near as whole times come.

    Raises:
        InputError: if `count` is not in 1 … T.
    """
    T = schedule.steps
    if not 1 <= count <= T:
        raise InputError(f"sampling steps {count}: must be 1 to {T}, the steps of the noise schedule")
    if spacing == "even":
        return [T - i * T // count for i in range(count)]
    if spacing == "quadratic":
        wanted = [round(T * ((count - i) / count) ** 2) for i in range(count)]
    else:
        half_log_snr = _half_log_snr(schedule.alpha_bar[1:])
        places = torch.linspace(half_log_snr[-1].item(), half_log_snr[0].item(), count, dtype=torch.float64)
        wanted = [1 + int((half_log_snr - place).abs().argmin()) for place in places]
    # Whole times may coincide: each is below the one before, and leaves room for those that follow.
    found: list[int] = []
    for i, t in enumerate(wanted):
        found.append(max(min(t, found[-1] - 1 if found else T), count - i))
    return found


def ancestral(
    schedule: Schedule,
    denoise: Denoise,
    x_T: Tensor,
    times: Sequence[int],
    noise: Noise,
    *,
    after_step: AfterStep | None = None,
) -> Tensor:
    """Sample x_0 by drawing each x_s from q(x_s | x_t, x̂_0) (SynDiff, Eqs. 15, 19 and 20; DDPM, Eq. 7).

    Args:
        schedule: ᾱ.
        denoise: (x_t, t) → x̂_0. Where it draws from p(x_0 | x_t), as SynDiff's does, the steps may be few.
        x_T: standard normal noise, (B, C, *S); where `times` start at t < T, x_t.
        times: falling, the first is T or less, the last above 0; time 0 follows by itself.
        noise: its draws are named by the time t that a step leaves, `t=750`.
        after_step: called with x_s and s after each step.

    Returns:
        (B, C, *S).
    """
    x = x_T
    for t, s in _steps(schedule, times):
        t_batch, s_batch = _batch(t, x), _batch(s, x)
        mean, variance = q_posterior(schedule, denoise(x, t_batch), x, t_batch, s_batch)
        # The variance of the last step is 0.
        x = mean + variance.sqrt() * _draw(noise, t, x) if s else mean
        if after_step:
            after_step(x, s)
    return x


def ancestral_learned(
    schedule: Schedule,
    estimate: Estimate,
    x_T: Tensor,
    times: Sequence[int],
    noise: Noise,
    *,
    after_step: AfterStep | None = None,
) -> Tensor:
    """Sample x_0 by drawing each x_s from N(μ, Σ), μ the mean of q(x_s | x_t, x̂_0) and Σ learned (IDDPM, section 3.1).

    Args:
        schedule: ᾱ.
        estimate: (x_t, t, s) → x̂_0 and log Σ of the step.
        x_T: standard normal noise, (B, C, *S); where `times` start at t < T, x_t.
        times: falling, the first is T or less, the last above 0; time 0 follows by itself, without noise.
        noise: its draws are named by the time t that a step leaves, `t=750`.
        after_step: called with x_s and s after each step.

    Returns:
        (B, C, *S).
    """
    x = x_T
    for t, s in _steps(schedule, times):
        t_batch, s_batch = _batch(t, x), _batch(s, x)
        x0, log_variance = estimate(x, t_batch, s_batch)
        x, _ = q_posterior(schedule, x0, x, t_batch, s_batch)
        if s:
            x = x + (0.5 * log_variance).exp() * _draw(noise, t, x)
        if after_step:
            after_step(x, s)
    return x


def ddim(
    schedule: Schedule,
    denoise: Denoise,
    x_T: Tensor,
    times: Sequence[int],
    noise: Noise,
    *,
    eta: float = 0.0,
    after_step: AfterStep | None = None,
) -> Tensor:
    """Sample x_0 by the non-Markovian process of DDIM (Song, Meng and Ermon 2021, Eqs. 12 and 16).

    Args:
        schedule: ᾱ.
        denoise: (x_t, t) → x̂_0.
        x_T: standard normal noise, (B, C, *S); where `times` start at t < T, x_t.
        times: falling, the first is T or less, the last above 0; time 0 follows by itself.
        noise: its draws are named by the time t that a step leaves, `t=750`; none is drawn at η = 0.
        eta: η in [0, 1]; 0 is deterministic, 1 has the variance of `ancestral`.
        after_step: called with x_s and s after each step.

    Returns:
        (B, C, *S).
    """
    assert 0 <= eta <= 1, f"eta {eta} is not in [0, 1]"
    x = x_T
    for t, s in _steps(schedule, times):
        t_batch, s_batch = _batch(t, x), _batch(s, x)
        x0 = denoise(x, t_batch)
        alpha_bar_t, alpha_bar_s = schedule.lookup(t_batch), schedule.lookup(s_batch)
        # Eq. 16, respaced: σ² = η² (1 − ᾱ_s)/(1 − ᾱ_t) (1 − ᾱ_t/ᾱ_s), 0 in the last step
        variance = eta**2 * (1 - alpha_bar_s) / (1 - alpha_bar_t) * (1 - alpha_bar_t / alpha_bar_s)
        # Eq. 12, its predicted noise written with x̂_0
        eps = (x - expand(alpha_bar_t.sqrt(), x) * x0) * expand((1 - alpha_bar_t).rsqrt(), x)
        x = expand(alpha_bar_s.sqrt(), x) * x0 + expand((1 - alpha_bar_s - variance).sqrt(), x) * eps
        if eta and s:
            x = x + expand(variance.sqrt(), x) * _draw(noise, t, x)
        if after_step:
            after_step(x, s)
    return x


def dpm_solver(
    schedule: Schedule,
    denoise: Denoise,
    x_T: Tensor,
    times: Sequence[int],
    noise: Noise,
    *,
    after_step: AfterStep | None = None,
) -> Tensor:
    """Sample x_0 by DPM-Solver++(2M) (Lu et al., "DPM-Solver++", 2022, algorithm 2, data prediction).

    Deterministic, of second order: x_s = (σ_s/σ_t) x_t − α_s (e^{−h} − 1) D with h = λ_s − λ_t, D of this and the last
    estimate. The first step and the last one, to 0, are of first order, as there is no estimate before and λ_0 = ∞;
    so times should fall evenly in λ (`times`, `log-snr`), which makes the last one 1.

    Args:
        schedule: ᾱ.
        denoise: (x_t, t) → x̂_0.
        x_T: standard normal noise, (B, C, *S); where `times` start at t < T, x_t.
        times: falling, the first is T or less, the last above 0; time 0 follows by itself.
        noise: none is drawn.
        after_step: called with x_s and s after each step.

    Returns:
        (B, C, *S).
    """
    x, earlier, last_h = x_T, None, 0.0
    for t, s in _steps(schedule, times):
        x0 = denoise(x, _batch(t, x))
        if s:
            alpha_bar_t, alpha_bar_s = schedule.alpha_bar[t], schedule.alpha_bar[s]
            h = float(_half_log_snr(alpha_bar_s) - _half_log_snr(alpha_bar_t))
            # D = (1 + 1/(2r)) x̂_0(t) − 1/(2r) x̂_0(before), r = h_before/h
            D = x0 if earlier is None else x0 + h / (2 * last_h) * (x0 - earlier)
            kept = float(((1 - alpha_bar_s) / (1 - alpha_bar_t)).sqrt())
            x = kept * x - float(alpha_bar_s.sqrt()) * math.expm1(-h) * D
            earlier, last_h = x0, h
        else:
            x = x0
        if after_step:
            after_step(x, s)
    return x


SAMPLERS: dict[SamplerName, Callable[..., Tensor]] = {
    "ancestral": ancestral,
    "ddim": ddim,
    "dpm-solver": dpm_solver,
}
"""What of a denoiser needs no more than (schedule, denoise, x_T, times, noise), by name."""


def _half_log_snr(alpha_bar: Tensor) -> Tensor:
    """λ = ½ log(ᾱ/(1 − ᾱ))."""
    return 0.5 * alpha_bar.logit()


def _steps(schedule: Schedule, times: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The pairs (t, s) of a list of times."""
    path = [*times, 0]
    assert path[0] <= schedule.steps, f"times start at {path[0]}, the schedule ends at {schedule.steps}"
    assert len(path) > 1, "times: there is none"
    assert all(t > s for t, s in pairwise(path)), f"times {list(times)} do not fall to a last one above 0"
    return pairwise(path)


def _batch(t: int, x: Tensor) -> Tensor:
    return torch.full((len(x),), t, device=x.device)


def _draw(noise: Noise, t: int, like: Tensor) -> Tensor:
    drawn = noise.normal(f"t={t}", like.shape[1:])
    assert drawn.shape == like.shape, f"noise for {len(drawn)} samples, images for {len(like)}"
    return drawn.to(like)
