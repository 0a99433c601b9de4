"""What a network of a diffusion model may give, and how one follows from another: x_0, the noise ε, the velocity v.

x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε (DDPM, Eq. 4), v = √ᾱ_t ε − √(1 − ᾱ_t) x_0 (Salimans & Ho, "Progressive Distillation for
Fast Sampling of Diffusion Models", ICLR 2022, section 4).

From  | to             | by                  | here
----- | -------------- | ------------------- | ----
ε     | x_0            | DDPM, below Eq. 10  | `x0_from_eps`
x_0   | ε              | DDPM, Eq. 4         | `eps_from_x0`
v     | ε              | Salimans & Ho       | `eps_from_velocity`
ε     | mean of a step | DDPM, Eq. 11        | `mean_from_eps`

`min_snr_weight` says how much each time counts in a loss.

`x0_from_eps` and `mean_from_eps` compute their coefficients in float64, the other two in the images' type.
"""

from typing import Literal

from torch import Tensor

from scansynth.diffusion.schedule import Schedule, expand

Output = Literal["noise", "velocity", "x0"]
"""What a network gives."""
Weighting = Literal["uniform", "min-snr"]
"""How much each time counts in a loss: all the same, or by Min-SNR-γ (`min_snr_weight`)."""


def x0_from_eps(schedule: Schedule, x_t: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x̂_0 = (x_t − √(1 − ᾱ_t) ε)/√ᾱ_t (DDPM, below Eq. 10), (B, C, *S)."""
    alpha_bar = schedule.lookup(t)
    return (x_t - expand((1 - alpha_bar).sqrt(), x_t) * eps) * expand(alpha_bar.rsqrt(), x_t)


def eps_from_x0(schedule: Schedule, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The noise of x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε, (B, C, *S); t > 0."""
    alpha_bar = schedule.at(t, x_t)
    return (x_t - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()


def eps_from_velocity(schedule: Schedule, velocity: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """ε of the velocity √ᾱ_t ε − √(1 − ᾱ_t) x_0 (Salimans & Ho, "Progressive Distillation", ICLR 2022), (B, C, *S).

    With ε_f = √ᾱ_t velocity + √(1 − ᾱ_t) x_t the error of x̂_0 is √(1 − ᾱ_t) times that of the velocity; where a
    network gives ε_f itself, its error comes into x̂_0 √((1 − ᾱ_t)/ᾱ_t) times: 150 times at the last step of the linear
    schedule.

    Args:
        schedule: of the forward process.
        velocity: (B, C, *S).
        x_t: noisy images, (B, C, *S).
        t: (B,).
    """
    alpha_bar = schedule.at(t, x_t)
    return alpha_bar.sqrt() * velocity + (1 - alpha_bar).sqrt() * x_t


def eps_from_output(schedule: Schedule, given: Tensor, x_t: Tensor, t: Tensor, *, output: Output) -> Tensor:
    """ε of what a network gives.

    Args:
        schedule: ᾱ.
        given: by the network, (B, C, *S).
        x_t: noisy images, (B, C, *S).
        t: times, (B,) integers, t > 0.
        output: what `given` is.

    Returns:
        (B, C, *S); `given` itself where it is the noise.
    """
    if output == "noise":
        return given
    return {"velocity": eps_from_velocity, "x0": eps_from_x0}[output](schedule, given, x_t, t)


def output_error(
    schedule: Schedule, predicted: Tensor, eps: Tensor, t: Tensor, *, output: Literal["noise", "velocity"]
) -> Tensor:
    """Squared error of what a network gives: that of ε, which over ᾱ_t is the velocity's own.

    The error of ε counts that of the velocity up to 25,000 times less at late times of the linear schedule, where the
    large and the smooth is made.

    Args:
        schedule: ᾱ.
        predicted: ε of the network's output, (B, C, *S).
        eps: the noise, (B, C, *S).
        t: times, (B,) integers.
        output: what the network gives.

    Returns:
        (B, C, *S).
    """
    square = (predicted - eps).square()
    return square if output == "noise" else square / schedule.at(t, square)


def min_snr_weight(schedule: Schedule, like: Tensor, t: Tensor, *, output: Output, gamma: float = 5.0) -> Tensor:
    """Min-SNR-γ: what the squared error of a network's output counts at each time, so that x̂_0's counts min(SNR, γ).

    With SNR = ᾱ_t/(1 − ᾱ_t): min(SNR, γ) for x̂_0, over SNR for ε and over SNR + 1 for the velocity (Hang et al.,
    "Efficient Diffusion Training via Min-SNR Weighting Strategy", ICCV 2023; γ = 5 is theirs). Times that leave next to
    nothing of the noise or of the image, of which the linear schedule has many, then count little for the velocity.

    Args:
        schedule: ᾱ.
        like: what is weighted, (B, C, *S).
        t: times, (B,) integers, t > 0.
        output: what the network gives, whose error it is.
        gamma: γ, where SNR is cut off.

    Returns:
        (B, 1, …), in `like`'s type; computed in float64, as SNR spans eight decades.
    """
    alpha_bar = schedule.lookup(t)
    snr = alpha_bar / (1 - alpha_bar)
    weight = snr.clamp(max=gamma) / {"noise": snr, "velocity": snr + 1, "x0": 1.0}[output]
    return expand(weight, like)


def mean_from_eps(schedule: Schedule, x_t: Tensor, eps: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """μ = (x_t − β/√(1 − ᾱ_t) ε)/√α, α = ᾱ_t/ᾱ_s, β = 1 − α (DDPM, Eq. 11, with s = t − 1; CG-DDPM, Eq. 5).

    It equals the mean of q(x_s | x_t, x̂_0) at `x0_from_eps`, and loses no digits near t = T.

    Args:
        schedule: ᾱ.
        x_t: images at time t, (B, C, *S).
        eps: predicted noise, (B, C, *S).
        t: times, (B,) integers.
        s: earlier times, (B,) integers.

    Returns:
        (B, C, *S).
    """
    alpha_bar_t = schedule.lookup(t)
    alpha = alpha_bar_t / schedule.lookup(s)
    weight = (1 - alpha) * (1 - alpha_bar_t).rsqrt()
    return (x_t - expand(weight, x_t) * eps) * expand(alpha.rsqrt(), x_t)
