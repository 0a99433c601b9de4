"""Learned variances and the variational bound (Nichol & Dhariwal, "Improved Denoising Diffusion Probabilistic Models").

Times are any pair s < t, as everywhere (`gaussian.py`): respaced sampling needs no other formulas.
"""

import math

import torch
from torch import Tensor

from scansynth.diffusion.gaussian import q_posterior
from scansynth.diffusion.parameterisation import mean_from_eps
from scansynth.diffusion.schedule import Schedule, expand

HALF_BIN = 1 / 255
"""Half the distance of two grey values of 256 in [−1, 1]."""


def log_variance_range(schedule: Schedule, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """log β and log β̃ of the step from t to s: the largest and the least variance that its noise can have.

    β = 1 − ᾱ_t/ᾱ_s and β̃ = β (1 − ᾱ_s)/(1 − ᾱ_t). At s = 0, β̃ is 0: there it is that of the next step of the same
    length, from 2t to t, so that β̃_1 := β̃_2 (Improved DDPM, section 3.1). (A step from T to 0 has no next one: β.)

    Args:
        schedule: ᾱ.
        t: times, (B,) integers.
        s: earlier times, (B,) integers, 0 ≤ s < t.

    Returns:
        log β and log β̃, (B,) float64.
    """
    alpha_bar_t, alpha_bar_s = schedule.lookup(t), schedule.lookup(s)
    beta = 1 - alpha_bar_t / alpha_bar_s
    later = (2 * t).clamp(max=schedule.steps)
    alpha_bar_later = schedule.lookup(later)
    next_variance = (1 - alpha_bar_later / alpha_bar_t) * (1 - alpha_bar_t) / (1 - alpha_bar_later)
    least = torch.where(s == 0, next_variance, beta * (1 - alpha_bar_s) / (1 - alpha_bar_t))
    return beta.log(), torch.where(least > 0, least, beta).minimum(beta).log()


def learned_log_variance(schedule: Schedule, v: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """log Σ = v log β + (1 − v) log β̃ (Improved DDPM, Eq. 15; CG-DDPM, Eq. 4); of a longer step than one time log β̃.

    v is trained on steps of one time, where log β − log β̃ vanishes beyond the first twenty of 4,000: what it is there
    says nothing of longer steps, where the two are far apart (β = 3.5 β̃ in the last but one of 24).

    Args:
        schedule: ᾱ.
        v: coefficients in [0, 1], (B, C, *S).
        t: times, (B,) integers.
        s: earlier times, (B,) integers.

    Returns:
        (B, C, *S).
    """
    most, least = (expand(bound, v) for bound in log_variance_range(schedule, t, s))
    v = v * expand((t - s == 1).double(), v)
    return v * most + (1 - v) * least


def normal_kl(mean_q: Tensor, log_variance_q: Tensor, mean_p: Tensor, log_variance_p: Tensor) -> Tensor:
    """KL(q ‖ p) of normal distributions, voxel by voxel, in nats."""
    ratio = (log_variance_q - log_variance_p).exp()
    distance = (mean_q - mean_p).square() * (-log_variance_p).exp()
    return 0.5 * (log_variance_p - log_variance_q + ratio + distance - 1)


def discretised_log_likelihood(x0: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
    """Log of a normal's mass in the bin of width 2/255 around each value, open at −1 and 1 (DDPM, Eq. 13), in nats.

    Args:
        x0: images in [−1, 1].
        mean: of the normal, the same shape.
        log_variance: of the normal, the same shape.
    """
    scale = (-0.5 * log_variance).exp()
    upper = (x0 - mean + HALF_BIN) * scale
    lower = (x0 - mean - HALF_BIN) * scale
    log_upper, log_lower = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    # On the far right the two tails are subtracted instead: Φ(b) − Φ(a) = Φ(−a) − Φ(−b).
    mirrored = lower > 0
    high = torch.where(mirrored, torch.special.log_ndtr(-lower), log_upper)
    low = torch.where(mirrored, torch.special.log_ndtr(-upper), log_lower)
    inside = high + torch.log1p(-(low - high).exp().clamp(max=1 - 1e-7))
    at_least, at_most = x0 < -1 + HALF_BIN, x0 > 1 - HALF_BIN
    return torch.where(at_least, log_upper, torch.where(at_most, torch.special.log_ndtr(-lower), inside))


def bound_term(
    schedule: Schedule, x0: Tensor, x_t: Tensor, *, mean: Tensor, log_variance: Tensor, t: Tensor, s: Tensor
) -> Tensor:
    """One term of the variational bound (Improved DDPM, Eqs. 5 and 6): the KL of a step, at s = 0 the likelihood.

    Args:
        schedule: ᾱ.
        x0: clean images in [−1, 1], (B, C, *S).
        x_t: images at time t, (B, C, *S).
        mean: of p(x_s | x_t), (B, C, *S).
        log_variance: of p(x_s | x_t), (B, C, *S).
        t: times, (B,) integers.
        s: earlier times, (B,) integers.

    Returns:
        Bits a voxel, (B,).
    """
    true_mean, _ = q_posterior(schedule, x0, x_t, t, s)
    _, true_log_variance = log_variance_range(schedule, t, s)
    kl = normal_kl(true_mean, expand(true_log_variance, x0), mean, log_variance).flatten(1).mean(1)
    likelihood = -discretised_log_likelihood(x0, mean, log_variance).flatten(1).mean(1)
    return torch.where(s == 0, likelihood, kl) / math.log(2)


def learned_bound(schedule: Schedule, x0: Tensor, x_t: Tensor, *, eps_f: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """L_VLB, the drawn term; the mean is held fixed, so that it teaches v alone (Improved DDPM, section 3.1).

    Args:
        schedule: ᾱ.
        x0: clean images in [−1, 1], (B, C, *S).
        x_t: images at time t, (B, C, *S).
        eps_f: predicted noise, (B, C, *S).
        v: coefficients of the variance in [0, 1], (B, C, *S).
        t: times, (B,) integers; the step is the one to t − 1.

    Returns:
        Bits a voxel, the mean over the batch.
    """
    s = t - 1
    mean = mean_from_eps(schedule, x_t, eps_f.detach(), t, s)
    return bound_term(
        schedule, x0, x_t, mean=mean, log_variance=learned_log_variance(schedule, v, t, s), t=t, s=s
    ).mean()
