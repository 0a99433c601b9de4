"""Recipes of BlochGAN (Kim et al. 2021): one with MRDiff's sizes, and a small one. No setting is the paper's.

Number of training steps: MRDiff's on ADNI, with which its paper compares it.
"""

from scansynth.config import RunConfig, Training
from scansynth.methods.bloch_gan import BlochGanConfig

Recipe = RunConfig[BlochGanConfig]


def bloch_gan() -> Recipe:
    """All settled here, for 256×256 slices; TR and TE from the scans' sidecars."""
    return RunConfig("bloch_gan", BlochGanConfig(), training=Training(steps=350_000, batch_size=8))


def bloch_gan_small() -> Recipe:
    """For slices of 48 to 96 pixels and minutes on one core."""
    # 5e-4 as in pix2pix_small: minutes are too short for 2e-4.
    settings = BlochGanConfig(
        channels=16,
        multipliers=(1, 2, 2),
        blocks=1,
        attention_levels=(),
        features=8,
        discriminator_channels=16,
        learning_rate=5e-4,
    )
    return RunConfig("bloch_gan", settings, training=Training(steps=3000, batch_size=4))


RECIPES = {recipe.__name__: recipe for recipe in (bloch_gan, bloch_gan_small)}
