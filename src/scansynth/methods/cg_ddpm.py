"""CG-DDPM: paired translation by two diffusion models that exchange their latent codes, in 3D.

Source: "Cycle-guided Denoising Diffusion Probability Model for 3D Cross-modality MRI Synthesis". Equations printed 20,
31, 42, 53, 64 and 75 are numbered 10 to 15 here; there is no 6.

Symbol       | meaning
------------ | -------
X, Y         | the two contrasts, (B, 1, *S); each is target and source in turn
n            | time, 1 … N (t elsewhere)
f_X, f_Y     | networks: `nets["X"](X_n, Y_0, n)` and `nets["Y"](Y_n, X_0, n)` → ε_f, v
z            | latent code of a step: (Y_{n−1} − μ_f^Y)/√Σ_f^Y
κ_n          | β_n/√(α_n (1 − ᾱ_n)), what a step's mean multiplies the noise with

Equation                                      | here
--------------------------------------------- | ----
1: X_n from X_0                               | `gaussian.q_sample`
3: MAE(ε, ε_f) + γ L_VLB                      | `training_step`
4: Σ_f between β̃_n and β_n                   | `variational.learned_log_variance`
5: μ_f (corrected, see below)                 | `parameterisation.mean_from_eps`
9: latent code; 10: the other contrast by it  | `code`, `exchanged`
11: L_cyc                                     | `training_step`
12: L_X + L_Y + λ L_cyc                       | `training_step`
13–15: sampling (section 2.4)                 | `translate`

# Paper: Eq. 5 divides β_n by √(1 − α_n). Here: by √(1 − ᾱ_n), because only that is the mean of the posterior at x̂_0.
# Paper: Eqs. 7 to 10 multiply codes with Σ. Here: with √Σ, because Σ is a variance in Eqs. 2 and 4.
# Paper: says nothing of the forward noises of X and Y. Here: they are shared in the joint phase, because a code read
# from Y can rebuild X_{n−1} only if both were disturbed alike, and sampling starts from X_N = Y_N. Independent is a
# setting.
# Paper: networks give ε_f. Here: or, as a setting, the velocity that ε_f follows from, because an error of ε_f comes
# into x̂_0 up to 150 times, and a short training leaves it (`parameterisation.eps_from_velocity`).
# Paper: the schedule is not named. Here: linear; cosine is a setting, whose last steps hold most of L_cyc's weight.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from scansynth.diffusion.gaussian import q_posterior, q_sample
from scansynth.diffusion.parameterisation import eps_from_output, mean_from_eps, x0_from_eps
from scansynth.diffusion.samplers import Spacing, times
from scansynth.diffusion.schedule import Schedule, make_schedule
from scansynth.diffusion.variational import learned_bound, learned_log_variance
from scansynth.diffusion.windows import Windows, by_step_or_by_window
from scansynth.errors import InputError
from scansynth.method import Batch, Made, Method, Progress, Update
from scansynth.needs import Needs
from scansynth.networks.unet import window_unet
from scansynth.noise import Noise
from scansynth.ranges import Count, Natural, Share, Weight
from scansynth.units import slices_or_patches

LEAST_LOG_VARIANCE = -20.0
"""Of Σ_f where codes are exchanged: both are clamped by it, so that their ratio stays finite."""


@dataclass(frozen=True, kw_only=True)
class CgDdpmConfig:
    """Settings of CG-DDPM; the defaults are the paper's, or settled where it is silent."""

    patch: tuple[Count, Count, Count] | None = (64, 64, 16)
    """Voxels of a 3D patch (right, anterior, superior); None: axial slices."""
    channels: Count = 32
    """Base width of the U-Nets."""
    multipliers: tuple[Count, ...] = (1, 2, 4, 4)
    """Width of each level over the base width."""
    blocks: Count = 2
    """Residual blocks a level."""
    window_levels: tuple[Natural, ...] = (2, 3)
    """Levels with shifted-window attention."""
    output: Literal["noise", "velocity"] = "noise"
    """What a network gives: ε_f itself, or the velocity that ε_f follows from, which learns in far fewer steps."""
    steps: Count = 4000
    """N, the steps of the forward process."""
    noise: Literal["linear", "cosine"] = "linear"
    """Schedule, as `ddpm` has it."""
    bound_weight: Weight = 0.05
    """γ of L_VLB."""
    cycle_weight: Weight = 1.0
    """λ of L_cyc."""
    cycle_scale: Literal["printed", "kappa"] = "printed"
    """L_cyc as printed, or each sample's share divided by κ_n, which makes it as large at every n."""
    joint_from: Share = 0.5
    """Share of the training after which the networks train jointly, with L_cyc (paper: 500 of 1000 epochs)."""
    shared_noise: bool = True
    """In the joint phase X and Y are disturbed by the same noise."""
    sampling_steps: Count = 50
    """Steps of sampling."""
    spacing: Spacing = "even"
    """How the times of sampling lie: evenly, more of them where little noise is left, or evenly in log-SNR."""
    last_code: bool = True
    """Whether the last step, too, takes its code from Y: it carries what Y's network left over into X."""
    blend: Literal["step", "window"] = "step"
    """3D: windows are blended at every step, or each is sampled by itself and blended at the end (the paper)."""
    learning_rate: Weight = 4e-5
    """AdamW's learning rate."""

    @classmethod
    def tiny(cls) -> "CgDdpmConfig":
        """Networks that train in seconds, for tests."""
        return cls(
            patch=(16, 16, 8), channels=8, multipliers=(1, 2), blocks=1, window_levels=(1,), steps=40, sampling_steps=4,
            joint_from=0.1, learning_rate=1e-3,
        )  # fmt: skip


class CgDdpm(Method):
    """Two networks, one a contrast, each given the other contrast's clean image."""

    Config = CgDdpmConfig
    not_distilled = "its two chains exchange latent codes at every step, so that neither is a path by itself"
    averaged = ("X", "Y")

    def __init__(self, config: CgDdpmConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        if len(self.contrasts) != 2:
            raise InputError(f"cg_ddpm translates between two contrasts, got {', '.join(self.contrasts) or 'none'}")
        self.schedule = make_schedule(config.noise, config.steps)
        self.path = times(self.schedule, config.sampling_steps, spacing=config.spacing)
        unets = {
            name: window_unet(
                2 if config.patch is None else 3,
                2,
                learned_variance=True,
                channels=config.channels,
                multipliers=config.multipliers,
                blocks=config.blocks,
                window_levels=config.window_levels,
            )
            for name in ("X", "Y")
        }
        self.nets = nn.ModuleDict(unets)

    @classmethod
    def needs_of(cls, config: CgDdpmConfig, contrasts: Sequence[str]) -> Needs:
        """Paired patches, or slices."""
        return slices_or_patches(config.patch, size_multiple=2 ** (len(config.multipliers) - 1))

    @property
    def targets(self) -> tuple[str, ...]:
        """Both."""
        return self.contrasts

    @property
    def players(self) -> Mapping[str, tuple[str, ...]]:
        """One player: L_cyc reaches both networks by one pass backwards."""
        return {"G": ("X", "Y")}

    @property
    def sampling_steps(self) -> int:
        """Network calls that make one image: two a step, one in a last step without a code."""
        return 2 * len(self.path) - (not self.config.last_code)

    @property
    def passes(self) -> int:
        """One, where each window goes through all steps before the next one does."""
        return 1 if self.config.blend == "window" and self.config.patch else self.sampling_steps

    def optimizers(self) -> dict[str, Optimizer]:
        """AdamW, weight decay 10⁻³."""
        return {"G": AdamW(self.nets.parameters(), lr=self.config.learning_rate, weight_decay=1e-3, fused=True)}

    def predict(self, name: str, x_n: Tensor, y0: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
        """ε_f and v of one network, (B, 1, *S) each, from its noisy contrast and the other one's clean image."""
        given, v = self.nets[name](torch.cat([x_n, y0], dim=1), n).chunk(2, dim=1)
        return eps_from_output(self.schedule, given, x_n, n, output=self.config.output), v.sigmoid()

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """One update of both networks: each by itself (Eq. 3) at first, then with L_cyc (Eq. 12)."""
        images, available = batch["images"], batch["available"]
        assert available.all(), "cg_ddpm trains on pairs"
        joint = progress.fraction >= self.config.joint_from
        clean = {"X": images[:, :1], "Y": images[:, 1:]}
        losses: dict[str, Tensor] = {}
        n = {name: noise.integers("n" if joint else f"n {name}", 1, self.config.steps + 1) for name in clean}
        noisy: dict[str, Tensor] = {}
        predicted: dict[str, tuple[Tensor, Tensor]] = {}
        for name, x0 in clean.items():
            shared = joint and self.config.shared_noise
            eps = noise.normal("eps" if shared else f"eps {name}", x0.shape[1:])
            noisy[name] = q_sample(self.schedule, x0, n[name], eps)  # Eq. 1
            other = clean["Y" if name == "X" else "X"]
            eps_f, v = predicted[name] = self.predict(name, noisy[name], other, n[name])
            # Eq. 3
            losses[f"noise {name}"] = (eps_f - eps).abs().mean()
            losses[f"bound {name}"] = self.config.bound_weight * learned_bound(
                self.schedule, x0, noisy[name], eps_f=eps_f, v=v, t=n[name]
            )
        if joint:
            # X_{n−1} and Y_{n−1} of the path that leads to X_n and Y_n.
            earlier = {}
            for name, x0 in clean.items():
                mean, variance = q_posterior(self.schedule, x0, noisy[name], n[name], n[name] - 1)
                drawn = noise.normal("step" if self.config.shared_noise else f"step {name}", x0.shape[1:])
                earlier[name] = mean + variance.sqrt() * drawn
            losses["cycle"] = self.config.cycle_weight * self.cycle_loss(noisy, earlier, predicted, n["X"])
        update("G", losses)

    def cycle_loss(
        self,
        noisy: Mapping[str, Tensor],
        earlier: Mapping[str, Tensor],
        predicted: Mapping[str, tuple[Tensor, Tensor]],
        n: Tensor,
    ) -> Tensor:
        """L_cyc (Eq. 11): each contrast rebuilt by the code of the other, against what it was one step before.

        Args:
            noisy: X_n and Y_n, (B, 1, *S).
            earlier: X_{n−1} and Y_{n−1}, drawn jointly with them.
            predicted: ε_f and v of both networks.
            n: (B,).
        """
        means, log_variances = {}, {}
        for name, (eps_f, v) in predicted.items():
            means[name] = mean_from_eps(self.schedule, noisy[name], eps_f, n, n - 1)
            log_variances[name] = learned_log_variance(self.schedule, v, n, n - 1)
        total = torch.zeros((), device=n.device)
        for name, other in (("X", "Y"), ("Y", "X")):
            rebuilt = exchanged(means[name], log_variances[name], earlier[other], means[other], log_variances[other])
            error = (rebuilt - earlier[name]).abs().flatten(1).mean(1)
            if self.config.cycle_scale == "kappa":
                error = error / kappa(self.schedule, n).to(error)
            total = total + error.mean()
        return total

    @property
    def gives_mean(self) -> bool:
        """By the velocity."""
        return self.config.output != "noise"

    def mean(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """The target's x̂_0 at n = N, without a code."""
        return self.translate(batch, target, windows, noise, path=self.path[:1])

    def translate(
        self, batch: Batch, target: str, windows: Windows, noise: Noise, *, path: Sequence[int] | None = None
    ) -> Made:
        """Sample the target (section 2.4), X here, along one noisy path of the source, Y.

        By the times of a path, then without a code in the last step, or as it is set.
        """
        last_code = self.config.last_code and path is None
        path = path or self.path
        images, available = batch["images"], batch["available"]
        index = self.contrasts.index(target)
        codes: dict[int, Moments] = {}
        if not available[:, 1 - index].all():
            raise InputError(f"cg_ddpm makes {target} from {self.contrasts[1 - index]}, which is not given")
        x_name, y_name = ("X", "Y") if index == 0 else ("Y", "X")

        def sample(y0: Tensor, windows: Windows, noise: Noise) -> Tensor:
            def estimate(name: str, noisy: Tensor, clean: Tensor, n: Tensor) -> tuple[Tensor, Tensor]:
                def window(noisy: Tensor, clean: Tensor) -> Tensor:
                    return torch.cat(self.predict(name, noisy, clean, n[:1].expand(len(noisy))), dim=1)

                eps_f, v = windows.map(window, noisy, clean).chunk(2, dim=1)
                return eps_f, v

            def batch_of(n: int) -> Tensor:
                return torch.full((len(y0),), n, device=y0.device)

            n = batch_of(path[0])
            y_n = q_sample(self.schedule, y0, n, noise.normal("Y_N", y0.shape[1:]))
            x_n = y_n  # section 2.4: X_N = Y_N
            for late, early in zip(path, [*path[1:], 0], strict=True):
                n, s = batch_of(late), batch_of(early)
                mean, variance = q_posterior(self.schedule, y0, y_n, n, s)
                # The path of Y from its end back to Y_0; the last step's variance is 0.
                y_s = mean + variance.sqrt() * noise.normal(f"Y n={late}", y0.shape[1:]) if early else y0
                eps_x, v_x = estimate(x_name, x_n, y0, n)
                x0 = x0_from_eps(self.schedule, x_n, eps_x, n).clamp(-1, 1)  # Eq. 13
                mean_x, _ = q_posterior(self.schedule, x0, x_n, n, s)
                if early or last_code:
                    eps_y, v_y = estimate(y_name, y_n, x0, n)
                    mean_y = mean_from_eps(self.schedule, y_n, eps_y, n, s)
                    log_x, log_y = (learned_log_variance(self.schedule, v, n, s) for v in (v_x, v_y))
                    x_n = exchanged(mean_x, log_x, y_s, mean_y, log_y)  # Eqs. 14 and 15
                    codes.setdefault(late, Moments()).add(code(y_s, mean_y, log_y))
                else:
                    x_n = mean_x
                y_n = y_s
            return x_n

        y0 = images[:, 1 - index : 2 - index]
        x0 = by_step_or_by_window(self.config.blend, sample, y0, windows, noise).clamp(-1, 1)
        return Made(x0, observed={"standard deviation of z": {n: found.deviation for n, found in codes.items()}})


def exchanged(mean_x: Tensor, log_variance_x: Tensor, y_s: Tensor, mean_y: Tensor, log_variance_y: Tensor) -> Tensor:
    """X_s by the code of Y's step: μ^X + √Σ^X z, z = (Y_s − μ^Y)/√Σ^Y (Eqs. 9 and 10)."""
    return mean_x + (0.5 * log_variance_x.clamp(min=LEAST_LOG_VARIANCE)).exp() * code(y_s, mean_y, log_variance_y)


def code(y_s: Tensor, mean_y: Tensor, log_variance_y: Tensor) -> Tensor:
    """The latent code of Y's step, z = (Y_s − μ^Y)/√Σ^Y (Eq. 9)."""
    return (y_s - mean_y) * (-0.5 * log_variance_y.clamp(min=LEAST_LOG_VARIANCE)).exp()


class Moments:
    """The standard deviation of numbers that come in parts."""

    def __init__(self):
        self.count, self.sum, self.squares = 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        """Count in some more."""
        values = values.double()
        self.count += values.numel()
        self.sum += values.sum().item()
        self.squares += values.square().sum().item()

    @property
    def deviation(self) -> float:
        """Of all so far."""
        mean = self.sum / self.count
        return max(self.squares / self.count - mean**2, 0.0) ** 0.5


def kappa(schedule: Schedule, n: Tensor) -> Tensor:
    """κ_n = β_n/√(α_n (1 − ᾱ_n)), (B,) float64.

    With shared noises and equal variances, X_est − X_{n−1} = κ_n (ε_f^Y − ε_f^X).
    """
    alpha_bar = schedule.lookup(n)
    alpha = alpha_bar / schedule.lookup(n - 1)
    return (1 - alpha) / (alpha * (1 - alpha_bar)).sqrt()
