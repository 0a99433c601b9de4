"""SynDiff: unpaired (or supervised) translation by adversarial diffusion, both directions from one training.

Source: Özbey, Dalmaz, Dar, Bedel, Özturk, Güngör & Çukur, "Unsupervised Medical Image Translation With Adversarial
Diffusion Models", IEEE Transactions on Medical Imaging 42(12), 2023.

Symbol     | meaning                                                            | here
---------- | ------------------------------------------------------------------ | ----
x0         | target image of one direction, (B, 1, H, W) in [-1, 1]             | `x0`
y          | guiding source image: acquired, or estimated from x0               | `y`
T, k       | forward steps and step size: T/k network calls                     | `config.steps`, `config.step_size`
t, s       | time and the next smaller time, s = t − k                          | `t`, `s`
γ_t, ᾱ_t   | noise variance of a large step, and the product of 1 − γ           | `diffusion.Schedule`
G_θ, D_θ   | diffusive generator and discriminator of a target                  | nets `generator_*`, `discriminator_*`
G_φ        | non-diffusive generator of a contrast                              | nets `translator_*`
D_φ        | its discriminator                                                  | nets `translator_discriminator_*`

Equation         | function
---------------- | --------
(8)–(10)         | `Schedule.variance_preserving`, `q_sample`, `q_step`, in `SynDiff.reverse_step`
(11), (12)       | `SynDiff.training_step`, with `losses.adversarial`
(13)–(15), (20)  | `q_posterior`, `SynDiff.reverse_step`; in synthesis `samplers.ancestral`
(16)–(18), (21)  | `SynDiff.training_step`
(19)             | `SynDiff.estimate_x0`
(22)–(24)        | `SynDiff.training_step`

Variants, by the setting `variant`:

variant         | what guides a diffusive generator                      | source
--------------- | ------------------------------------------------------ | ------
`unpaired`      | ỹ, estimated from x0 by the non-diffusive module       | the paper's SynDiff
`supervised`    | y, acquired; a pixel loss on x̂0 for the cycle loss     | section VI-C
`unconditional` | nothing; one contrast, the same pixel loss             | Table VI
`non-diffusive` | there is none: the non-diffusive module translates     | Table VII, last row
`ddpm`          | ỹ, as unpaired; ε and Σ in place of x̂0 and a judge      | the row DDPM of Tables II to V

With `neighbours` the slices beside an acquired guide are given with it (2.5D): of the supervised variant alone.
Unpaired, a guide is estimated in training, slice by slice, and acquired in synthesis. Slices beside it would have to be
estimated, too: they would flicker as the translator's slices do, acquired ones do not, and what would be learnt of how
neighbours hang together would be wrong in synthesis. A translator could not take neighbours either: its cycle goes back
from a translated slice, which has none (Eq. 21).

An adversarial weight of 0 leaves the discriminators out: `adversarial_weight_diffusive=0` is the ℓ1 projector of
Table VI, 0 for both modules the second row of Table VII.

# Paper: DDPM with the source as condition, cycle-consistent by non-diffusive modules, architecture and losses those of
# Nichol & Dhariwal (ICML 2021); no more is said. Here: the non-diffusive module and its losses as they are, no
# diffusive discriminator, L_simple + γ L_VLB of ε and a learned variance, guided by the estimated source; the diffusive
# generators' U-Net without its latent.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from scansynth.diffusion import samplers
from scansynth.diffusion.gaussian import q_posterior, q_sample, q_step
from scansynth.diffusion.parameterisation import eps_from_output, x0_from_eps
from scansynth.diffusion.schedule import Schedule
from scansynth.diffusion.variational import learned_bound, learned_log_variance
from scansynth.diffusion.windows import Windows
from scansynth.errors import InputError
from scansynth.losses.adversarial import discriminator_loss, generator_loss, r1_penalty
from scansynth.method import Batch, Made, Method, Progress, Update
from scansynth.methods.any_to_any import with_neighbours
from scansynth.methods.syndiff_parts import (
    DiffusiveGenerator,
    SynDiffConfig,
    check,
    denoiser,
    discriminator,
    translator,
    translator_discriminator,
)
from scansynth.needs import Needs
from scansynth.networks.public_syndiff import DiffusiveDiscriminator
from scansynth.noise import Noise
from scansynth.units import Slices


@dataclass(frozen=True)
class _Reverse:
    """One large step back, of one target."""

    t: Tensor  # (B,)
    x_t: Tensor  # (B, 1, H, W), as all that follow
    x_s: Tensor  # of the forward process: real
    x0_hat: Tensor
    x_s_hat: Tensor  # drawn with x̂0: fake


class SynDiff(Method):
    """Two diffusive generators, one a direction, and their discriminators; unpaired, the same again non-diffusive."""

    Config = SynDiffConfig
    not_distilled = (
        "its networks draw x_0 anew at each of few large steps, so that no path leads from noise to an image"
    )

    def __init__(self, config: SynDiffConfig, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        check(config, self.contrasts)
        self.is_ddpm = config.variant == "ddpm"
        self.schedule = (
            Schedule.cosine(config.steps)
            if self.is_ddpm
            else Schedule.variance_preserving(
                config.steps, config.beta_min, config.beta_max, first_time=config.first_time
            )
        )
        self.is_diffusive = config.variant != "non-diffusive"
        self.has_translators = config.variant in ("unpaired", "non-diffusive", "ddpm")
        self.nets = nn.ModuleDict()
        for contrast in self.contrasts:
            if self.is_diffusive:
                self.nets[f"generator_{contrast}"] = denoiser(config) if self.is_ddpm else DiffusiveGenerator(config)
                if config.adversarial_weight_diffusive:
                    self.nets[f"discriminator_{contrast}"] = discriminator(config)
            if self.has_translators:
                self.nets[f"translator_{contrast}"] = translator(config)
                if config.adversarial_weight_translator:
                    self.nets[f"translator_discriminator_{contrast}"] = translator_discriminator(config)
        # Paper: no averages are stated. Here: moving averages of all generators, because with them a late,
        # noisy step of the adversarial game does not decide what a run synthesises.
        self.averaged = self.players["G"]

    @classmethod
    def needs_of(cls, config: SynDiffConfig, contrasts: Sequence[str]) -> Needs:
        """Slices, paired where supervised; the translators halve them twice."""
        paired = config.variant in ("supervised", "unconditional")
        if config.neighbours and config.variant != "supervised":
            raise InputError(
                f"SynDiff ({config.variant}): neighbours stand beside an acquired guide, which only the supervised "
                "variant has in training; leave neighbours out, or take a recipe …_supervised"
            )
        multiple = max(2 ** (len(config.multipliers) - 1), 4)
        return Slices(paired=paired, size_multiple=multiple, neighbours=config.neighbours)

    @property
    def targets(self) -> tuple[str, ...]:
        """Both contrasts; none where nothing guides."""
        return () if self.config.variant == "unconditional" else self.contrasts

    @property
    def players(self) -> Mapping[str, tuple[str, ...]]:
        """D: all discriminators. G: all generators."""
        discriminators = tuple(name for name in self.nets if "discriminator" in name)
        generators = tuple(name for name in self.nets if "discriminator" not in name)
        return {"D": discriminators, "G": generators} if discriminators else {"G": generators}

    @property
    def stochastic(self) -> bool:
        """The non-diffusive module draws nothing."""
        return self.is_diffusive

    @property
    def sampling_steps(self) -> int:
        """T/k."""
        return self.config.steps // self.config.step_size if self.is_diffusive else 1

    def optimizers(self) -> dict[str, Optimizer]:
        """Adam, β = (0.5, 0.9) (section IV-C)."""
        return {
            player: Adam(
                [parameter for name in names for parameter in self.nets[name].parameters()],
                lr=self.learning_rate(player),
                betas=(0.5, 0.9),
                fused=True,
            )
            for player, names in self.players.items()
        }

    def learning_rate(self, player: str) -> float:
        """A player's learning rate at the start."""
        own = self.config.discriminator_learning_rate if player == "D" else None
        return self.config.learning_rate if own is None else own

    def lr_factor(self, player: str, progress: Progress) -> float:
        """One, or a cosine from one to the final rate over the first."""
        if self.config.final_learning_rate is None:
            return 1.0
        final = self.config.final_learning_rate / self.learning_rate(player)
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress.fraction))

    def estimate_x0(self, target: str, x_t: Tensor, y: Tensor | None, t: Tensor, z: Tensor) -> Tensor:
        """x̂0 of `target`, (B, 1, H, W) (Eq. 19)."""
        return self.nets[f"generator_{target}"](x_t, y, t, z)

    def training_step(self, batch: Batch, update: Update, progress: Progress, noise: Noise) -> None:
        """All discriminators, then all generators (Eqs. 23, 24).

        What the generators make is computed once and serves both updates: cut off for the discriminators', with
        its graph for the generators' own.
        """
        config = self.config
        x0 = {contrast: batch["images"][:, [index]] for index, contrast in enumerate(self.contrasts)}
        frozen = config.translators_until is not None and progress.step >= config.translators_until
        translators_train = self.has_translators and not frozen
        diffusive_trains = self.is_diffusive and progress.step >= config.diffusive_from

        estimate: dict[str, Tensor] = {}  # ỹ: a contrast estimated from the other by G_φ
        if self.has_translators:
            with torch.set_grad_enabled(translators_train):
                for contrast in self.contrasts:  # Eq. 16
                    estimate[contrast] = self.nets[f"translator_{contrast}"](x0[self.other(contrast)])
        reverse: dict[str, _Reverse] = {}  # by target
        if diffusive_trains:
            acquired = {contrast: self.guide(batch, contrast) for contrast in self.contrasts}
            guides = {"unpaired": estimate, "supervised": acquired}.get(config.variant)
            for target in self.contrasts if not self.is_ddpm else ():
                y = guides[self.other(target)] if guides else None
                reverse[target] = self.reverse_step(target, x0[target], y, noise)

        losses: dict[str, Tensor] = {}
        for target in self.contrasts:  # Eqs. 12, 18, 24
            if diffusive_trains and config.adversarial_weight_diffusive:
                x_s, fake = reverse[target].x_s.detach(), reverse[target].x_s_hat.detach()
                if progress.step % config.penalty_every:
                    logit, logit_fake = self.judge(target, reverse[target], x_s, fake)
                else:
                    # The penalty's second gradient is then that of the real ones alone.
                    (logit,) = self.judge(target, reverse[target], x_s.requires_grad_())
                    (logit_fake,) = self.judge(target, reverse[target], fake)
                    penalty = config.penalty_every * config.gradient_penalty * r1_penalty(logit, x_s)
                    losses[f"penalty {target}"] = config.adversarial_weight_diffusive * penalty
                adversarial = discriminator_loss(logit, logit_fake)
                losses[f"diffusive {target}"] = config.adversarial_weight_diffusive * adversarial
            if translators_train and config.adversarial_weight_translator:
                judge = self.nets[f"translator_discriminator_{target}"]
                logit, logit_fake = judge(torch.cat([x0[target], estimate[target].detach()])).chunk(2)
                adversarial = discriminator_loss(logit, logit_fake)
                losses[f"translator {target}"] = config.adversarial_weight_translator * adversarial
        if losses:
            update("D", losses)

        losses = {}
        for target in self.contrasts:  # Eqs. 11, 17, 22, 23
            if diffusive_trains and self.is_ddpm:
                losses |= self.noise_losses(target, x0[target], estimate[self.other(target)], noise)
            elif diffusive_trains:
                if config.cycle_weight_diffusive:
                    # Where supervised the same term, between the truth and its estimate from the acquired source.
                    cycle = (reverse[target].x0_hat - x0[target]).abs().mean()
                    losses[f"cycle diffusive {target}"] = config.cycle_weight_diffusive * cycle
                if config.adversarial_weight_diffusive:
                    (logit,) = self.judge(target, reverse[target], reverse[target].x_s_hat)
                    losses[f"diffusive {target}"] = config.adversarial_weight_diffusive * generator_loss(logit)
            if translators_train:
                if config.cycle_weight_translator:  # Eq. 21
                    back = self.nets[f"translator_{target}"](estimate[self.other(target)])
                    cycle = (back - x0[target]).abs().mean()
                    losses[f"cycle translator {target}"] = config.cycle_weight_translator * cycle
                if config.adversarial_weight_translator:
                    logit = self.nets[f"translator_discriminator_{target}"](estimate[target])
                    losses[f"translator {target}"] = config.adversarial_weight_translator * generator_loss(logit)
        update("G", losses)

    def noise_losses(self, target: str, x0: Tensor, y: Tensor, noise: Noise) -> dict[str, Tensor]:
        """L_simple and γ L_VLB of a target, guided by y (IDDPM, Eq. 16)."""
        t = noise.integers(f"t {target}", 1, self.config.steps + 1)
        eps = noise.normal(f"eps {target}", x0.shape[1:])
        x_t = q_sample(self.schedule, x0, t, eps)
        eps_f, v = self.predict_noise(target, x_t, y, t)
        bound = learned_bound(self.schedule, x0, x_t, eps_f=eps_f, v=v, t=t)
        return {
            f"noise {target}": (eps_f - eps).square().mean(), f"bound {target}": self.config.bound_weight * bound,
        }  # fmt: skip

    def predict_noise(self, target: str, x_t: Tensor, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """ε_f and v in [0, 1] of the variant ddpm, (B, 1, H, W) each."""
        given, v = self.nets[f"generator_{target}"](torch.cat([x_t, y], dim=1), t).chunk(2, dim=1)
        return eps_from_output(self.schedule, given, x_t, t, output=self.config.output), v.sigmoid()

    def reverse_step(self, target: str, x0: Tensor, y: Tensor | None, noise: Noise) -> _Reverse:
        """Draw a time and (x_s, x_t) of the forward process, and x̂_s from x_t and the guide (Eqs. 8, 14, 15, 20)."""
        shape = x0.shape[1:]
        t = self.config.step_size * noise.integers(f"t {target}", 1, self.sampling_steps + 1)
        s = t - self.config.step_size
        x_s = q_sample(self.schedule, x0, s, noise.normal(f"x_s {target}", shape))
        x_t = q_step(self.schedule, x_s, s, t, noise.normal(f"x_t {target}", shape))
        z = noise.normal(f"z {target}", (self.config.z_width,))
        x0_hat = self.estimate_x0(target, x_t, y, t, z)
        mean, variance = q_posterior(self.schedule, x0_hat, x_t, t, s)
        x_s_hat = mean + variance.sqrt() * noise.normal(f"posterior {target}", shape)
        return _Reverse(t, x_t, x_s, x0_hat, x_s_hat)

    def judge(self, target: str, reverse: _Reverse, *x_s: Tensor) -> tuple[Tensor, ...]:
        """Logits (B,) of D_θ(x_s, x_t, t) for each of several x_s (B, 1, H, W), in one call: weights are read once."""
        net, count = self.nets[f"discriminator_{target}"], len(x_s)
        pairs = torch.cat([torch.cat([part, reverse.x_t], dim=1) for part in x_s])
        t = reverse.t.repeat(count)
        logits = net(pairs, t, count) if isinstance(net, DiffusiveDiscriminator) else net(pairs, t)
        return logits.chunk(count)

    def guide(self, batch: Batch, contrast: str) -> Tensor:
        """An acquired source, (B, 1, *S), or with its neighbours (B, 1 + 2n, *S)."""
        own = [self.contrasts.index(contrast)]
        if not self.config.neighbours:
            return batch["images"][:, own]
        return with_neighbours(batch["images"][:, own], batch["neighbours"][:, own], batch["available"][:, own])

    def other(self, contrast: str) -> str:
        """The run's other contrast."""
        return self.contrasts[1 - self.contrasts.index(contrast)]

    def translate(self, batch: Batch, target: str, windows: Windows, noise: Noise) -> Made:
        """T/k reverse steps from noise, guided by the acquired source (section III-B.3, last paragraph).

        Noise and latents are drawn for the whole volume, then cut into slices. The non-diffusive module alone
        translates in one call (Table VII).
        """
        if not self.targets:
            raise InputError("an unconditional SynDiff has no source to translate from; train another variant")
        index = self.contrasts.index(self.other(target))
        if not batch["available"][:, index].all():
            raise InputError(f"SynDiff makes {target} from {self.other(target)}, which is not given")
        y = self.guide(batch, self.other(target))
        if not self.is_diffusive:
            return Made(windows.map(self.nets[f"translator_{target}"], y))

        if self.is_ddpm:
            return Made(self.translated_by_noise(target, y, windows, noise))

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            z = noise.normal(f"z t={int(t[0])}", (self.config.z_width, 1, 1, y.shape[-1]))
            return windows.map(
                lambda x_t, y, z: self.estimate_x0(target, x_t, y, t.expand(len(y)), z.flatten(1)), x_t, y, z
            )

        x_T = noise.normal("x_T", (1, *y.shape[2:]))
        return Made(samplers.ancestral(self.schedule, denoise, x_T, self.sampling_times(), noise))

    def translated_by_noise(self, target: str, y: Tensor, windows: Windows, noise: Noise) -> Tensor:
        """Sample x_0 by ε_f and Σ of the variant ddpm, (1, 1, X, Y, Z)."""

        def estimate(x_t: Tensor, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
            def window(x_t: Tensor, y: Tensor) -> Tensor:
                return torch.cat(self.predict_noise(target, x_t, y, t.expand(len(y))), dim=1)

            eps_f, v = windows.map(window, x_t, y).chunk(2, dim=1)
            x0 = x0_from_eps(self.schedule, x_t, eps_f, t).clamp(-1, 1)
            return x0, learned_log_variance(self.schedule, v, t, s)

        x_T = noise.normal("x_T", y.shape[1:])
        return samplers.ancestral_learned(self.schedule, estimate, x_T, self.sampling_times(), noise).clamp(-1, 1)

    def generate_slices(self, size: Sequence[int], noise: Noise) -> Tensor:
        """Slices of the unconditional variant, one for each key of the noise (Table VI).

        Args:
            size: pixels (H, W).
            noise: its keys name the samples.

        Returns:
            (B, 1, H, W) in [-1, 1].
        """
        assert self.config.variant == "unconditional", "only the unconditional variant generates"
        (target,) = self.contrasts

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            z = noise.normal(f"z t={int(t[0])}", (self.config.z_width,))
            return self.estimate_x0(target, x_t, None, t, z)

        return samplers.ancestral(self.schedule, denoise, noise.normal("x_T", (1, *size)), self.sampling_times(), noise)

    def sampling_times(self) -> list[int]:
        """T, T − k, …, k; of the variant ddpm T/k times as it is set."""
        return samplers.times(self.schedule, self.sampling_steps, spacing=self.config.spacing)
