"""Recipes of CycleGAN (Zhu et al. 2017), and of cGAN, AttGAN and SAGAN as SynDiff (Özbey et al. 2023) compares with.

Number of training steps: 100 epochs (CycleGAN: 200) with a batch of one. Of SynDiff's cohort, 100 slices of each of 25
subjects, that is 250,000 (500,000); for another one give --training.steps. SynDiff states no batch.
"""

from dataclasses import replace

from scansynth.config import RunConfig, Training
from scansynth.methods.cycle_gan_parts import CycleGANConfig

Recipe = RunConfig[CycleGANConfig]


def cycle_gan() -> Recipe:
    """CycleGAN: the paper's settings, identity losses included, 256×256 slices."""
    # Paper: identity losses for paintings and photographs alone (section 5.2). See cycle_gan_small before a training.
    settings = CycleGANConfig(identity_weight=0.5)
    return RunConfig("cycle_gan", settings, training=Training(steps=500_000, batch_size=1))


def cgan() -> Recipe:
    """cGAN, unpaired, as SynDiff compares with it: λ = 100, no pool, 256×256 slices."""
    # SynDiff: Adam's β2 of 0.9 for all networks.
    settings = CycleGANConfig(cycle_weight=100.0, pool=0, beta2=0.9)
    return RunConfig("cycle_gan", settings, training=Training(steps=250_000, batch_size=1))


def attgan() -> Recipe:
    """AttGAN as SynDiff compares with it: cgan with a U-Net whose skips are gated by attention."""
    return _with(cgan(), generator="attention_unet")


def sagan() -> Recipe:
    """SAGAN as SynDiff compares with it: cgan with self-attention in the last two residual blocks."""
    return _with(cgan(), generator="self_attention")


def cycle_gan_small() -> Recipe:
    """CycleGAN without identity losses, for 64–96 pixel slices and two cores."""
    # Paper: identity losses, weight 0.5, where colours shall stay as they are (section 5.2). Here: none, because
    # intensities must change between contrasts: in 800 steps on phantoms the validation PSNR fell with them, from 12.3
    # to 11.5 dB, and rose without, from 13.4 to 16.0 dB (one run each).
    return _with(_small(cycle_gan()), identity_weight=0.0)


def cgan_small() -> Recipe:
    """cgan for 64–96 pixel slices and two cores."""
    return _small(cgan())


def attgan_small() -> Recipe:
    """attgan for 64–96 pixel slices and two cores."""
    return _small(attgan())


def sagan_small() -> Recipe:
    """sagan for 64–96 pixel slices and two cores."""
    return _small(sagan())


def _with(base: Recipe, **settings: object) -> Recipe:
    return replace(base, settings=replace(base.settings, **settings))


def _small(base: Recipe) -> Recipe:
    """A recipe with narrower networks and fewer levels."""
    small = _with(
        base,
        channels=16,
        residual_blocks=4,
        levels=4,
        discriminator_channels=16,
        # Paper: 2e-4, over 100 or 200 epochs. Here: 5e-4, as in pix2pix_small, because minutes are too short for 2e-4.
        learning_rate=5e-4,
    )
    return replace(small, training=Training(steps=8000, batch_size=1))


RECIPES = {
    recipe.__name__: recipe
    for recipe in (cycle_gan, cgan, attgan, sagan, cycle_gan_small, cgan_small, attgan_small, sagan_small)
}
