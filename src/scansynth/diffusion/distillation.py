"""Consistency distillation of a trained diffusion model: one call for what its teacher makes in many.

Source: Song, Dhariwal, Chen & Sutskever, "Consistency Models", ICML 2023 (CM), section 4 and algorithm 2, written in
the teacher's own variance-preserving parameterisation, whose networks then need no change. With

    σ_t = √(1 − ᾱ_t)/√ᾱ_t,   x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε = √ᾱ_t (x_0 + σ_t ε) = √ᾱ_t x_σ,

x_σ is CM's noisy image, and a denoiser x̂_0(x_t, t) is one of x_σ. Its probability flow (CM, Eq. 3) is

    dx_σ/dσ = (x_σ − x̂_0)/σ,

of which DDIM (η = 0) is Euler's step. A consistency function takes any point of a path of it to the path's end at
t = 1, the least noise that the teacher knows (σ_1 is 0.01 where T is 1000). The student's is the DDIM step of its own
denoiser to there,

    f(x_t, t) = (σ_1/σ_t) x_σ + (1 − σ_1/σ_t) x̂_0(x_t, t),

which is the identity at t = 1 whatever the network, and CM's c_skip x + c_out F with the denoiser written out (its F is
(x̂_0 − c x_σ)/c', c and c' those of Karras et al. 2022). So a student with its teacher's weights is its teacher, drawn
with one step.

# CM: σ_i by ρ = 7. Here: times even in log-SNR, because they are whole numbers of a schedule, of which samplers take
# the same (`samplers.times`).
# CM: squared error or LPIPS. Here: the pseudo-Huber distance of the improved training, because it wants no weights of
# other images, and large errors of late times do not decide alone.

Equation                                     | here
-------------------------------------------- | ----
f                                            | `consistent`
Heun's step of the teacher (CM, Eq. 6)       | `heun`
L = E d(f_θ(x_t, t), f_θ⁻(x_s, s)) (CM 7)    | `distillation_loss`
θ⁻, μ = 0.95 (CM 8)                          | `networks.lagging.Lagging`, `DECAY`
Sampling in several steps (CM, algorithm 1)  | `consistency`
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from scansynth.diffusion.consistency import pseudo_huber
from scansynth.diffusion.gaussian import q_sample
from scansynth.diffusion.samplers import Denoise, times
from scansynth.diffusion.schedule import Schedule, expand
from scansynth.noise import Noise

LEVELS = 40
"""N: times of a path at most, from T to 1."""
DECAY = 0.95
"""μ of θ⁻."""


def distillation_times(schedule: Schedule) -> list[int]:
    """The times between which the student is taught, from T to 1."""
    return times(schedule, min(LEVELS, schedule.steps), spacing="log-snr")


def few_times(schedule: Schedule, calls: int) -> list[int]:
    """Times of sampling in so many calls, the first is T: even shares of `distillation_times`, without its end."""
    path = distillation_times(schedule)
    return [path[i * len(path) // calls] for i in range(calls)]


def sigma(schedule: Schedule, t: Tensor) -> Tensor:
    """σ_t = √(1 − ᾱ_t)/√ᾱ_t, (B,) float64."""
    alpha_bar = schedule.lookup(t)
    return ((1 - alpha_bar) / alpha_bar).sqrt()


def _scaled(schedule: Schedule, x_t: Tensor, t: Tensor) -> Tensor:
    """x_σ of x_t."""
    return x_t * expand(schedule.lookup(t).rsqrt(), x_t)


def consistent(schedule: Schedule, denoise: Denoise, x_t: Tensor, t: Tensor) -> Tensor:
    """f(x_t, t): where the path through x_t ends, x_σ at t = 1.

    Args:
        schedule: ᾱ.
        denoise: (x_t, t) → x̂_0.
        x_t: (B, C, *S).
        t: (B,) integers, t > 0.

    Returns:
        (B, C, *S); x_σ itself at t = 1.
    """
    kept = expand(sigma(schedule, torch.ones_like(t)) / sigma(schedule, t), x_t)
    x0 = denoise(x_t, t)
    return x0 + kept * (_scaled(schedule, x_t, t) - x0)


def heun(schedule: Schedule, denoise: Denoise, x_t: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """x_s on the path through x_t, by Heun's step: the mean of the directions at both ends.

    Args:
        schedule: ᾱ.
        denoise: the teacher's, (x_t, t) → x̂_0.
        x_t: (B, C, *S).
        t: (B,) integers.
        s: earlier times, (B,) integers, 0 < s < t.

    Returns:
        (B, C, *S).
    """
    sigma_t, sigma_s = sigma(schedule, t), sigma(schedule, s)
    step, root = expand(sigma_s - sigma_t, x_t), expand(schedule.lookup(s).sqrt(), x_t)
    x = _scaled(schedule, x_t, t)
    first = (x - denoise(x_t, t)) / expand(sigma_t, x)
    guess = x + step * first
    second = (guess - denoise(root * guess, s)) / expand(sigma_s, x)
    return root * (x + step * (first + second) / 2)


def distillation_loss(
    schedule: Schedule,
    student: Denoise,
    *,
    teacher: Denoise,
    lagging: Callable[[], AbstractContextManager[None]],
    x0: Tensor,
    noise: Noise,
) -> Tensor:
    """Mean of d(f_θ(x_t, t), f_θ⁻(x_s, s)), x_s where the teacher's path through x_t is at the next time.

    Args:
        schedule: ᾱ.
        student: x̂_0 of the networks that are trained.
        teacher: x̂_0 of those that were.
        lagging: inside of it, the student computes with θ⁻.
        x0: clean images, (B, C, *S).
        noise: of the batch.

    Returns:
        ().
    """
    path = torch.tensor(distillation_times(schedule), device=x0.device)
    i = noise.integers("pair", 0, len(path) - 1)
    t, s = path[i], path[i + 1]
    x_t = q_sample(schedule, x0, t, noise.normal("eps", x0.shape[1:]).to(x0))
    with torch.no_grad():
        x_s = heun(schedule, teacher, x_t, t, s)
    with lagging():
        aim = consistent(schedule, student, x_s, s).detach()
    return pseudo_huber(consistent(schedule, student, x_t, t), aim).mean()


def consistency(schedule: Schedule, denoise: Denoise, x_T: Tensor, times: Sequence[int], noise: Noise) -> Tensor:
    """Sample by a student: f at the first time; at each further one noise is added to what came, and f once more.

    Args:
        schedule: ᾱ.
        denoise: the student's, (x_t, t) → x̂_0.
        x_T: standard normal noise, (B, C, *S).
        times: falling, the last above 0.
        noise: its draws are named by the time that they lead to, `t=750`.

    Returns:
        (B, C, *S), with the noise of t = 1.
    """
    least = float(sigma(schedule, torch.ones(1, dtype=torch.int64)))
    x, made = x_T, x_T
    for number, t in enumerate(times):
        batch = torch.full((len(x_T),), t, device=x_T.device)
        if number:
            # Noise of √(σ² − σ_1²) on what has σ_1 already: x_σ = f + …, and x_t = √ᾱ_t x_σ.
            added = float((sigma(schedule, batch[:1].cpu())[0] ** 2 - least**2).sqrt())
            drawn = noise.normal(f"t={t}", x_T.shape[1:]).to(x_T)
            x = float(schedule.alpha_bar[t].sqrt()) * (made + added * drawn)
        made = consistent(schedule, denoise, x, batch)
    return made
