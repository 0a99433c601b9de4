"""Recipes of MM-GAN (Sharma & Hamarneh 2020): the paper's, and a small one.

Number of training steps: 60 epochs with a batch of 4. Of a cohort as large as CoLa-Diff's BRATS (190 subjects, 100
slices of each) that is 285,000; for another one give --training.steps.
"""

from scansynth.config import RunConfig, Training
from scansynth.methods.mm_gan import MmGanConfig

Recipe = RunConfig[MmGanConfig]


def mm_gan() -> Recipe:
    """The paper's settings, 256×256 slices."""
    return RunConfig("mm_gan", MmGanConfig(), training=Training(steps=285_000, batch_size=4))


def mm_gan_small() -> Recipe:
    """For 64–96 pixel slices and two cores, with as many samples as pix2pix_small."""
    # Paper: 2e-4, over 60 epochs. Here: 5e-4, because minutes are too short for 2e-4 (as in `pix2pix_small`).
    # Up to some 700 steps D only learns how often a contrast is real; shorter trainings are led by the L1 loss alone.
    settings = MmGanConfig(channels=32, halvings=5, discriminator_channels=32, learning_rate=5e-4)
    return RunConfig("mm_gan", settings, training=Training(steps=6000, batch_size=4))


RECIPES = {recipe.__name__: recipe for recipe in (mm_gan, mm_gan_small)}
