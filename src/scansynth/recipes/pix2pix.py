"""Recipes of pix2pix (Isola et al. 2017): the paper's, with noise in synthesis too, and a small one.

Number of training steps: 200 epochs with a batch of one. Of a cohort as large as SynDiff's (100 slices of each of 25
subjects) that is 500,000; for another one give --training.steps.
"""

from dataclasses import replace

from scansynth.config import DataSettings, RunConfig, Training
from scansynth.data.augmentation import Augmentation
from scansynth.methods.pix2pix import Pix2PixConfig

Recipe = RunConfig[Pix2PixConfig]

MIRRORED = DataSettings(augmentation=Augmentation(flip=0.5))


def pix2pix() -> Recipe:
    """The paper's settings, 256×256 slices."""
    return RunConfig("pix2pix", Pix2PixConfig(), data=MIRRORED, training=Training(steps=500_000, batch_size=1))


def pix2pix_stochastic() -> Recipe:
    """pix2pix with dropout in synthesis too, as in the paper: the samples of a subject differ a little."""
    base = pix2pix()
    return replace(base, settings=replace(base.settings, dropout_in_synthesis=True))


def pix2pix_small() -> Recipe:
    """For 64–96 pixel slices and two cores, where it learns in as many minutes as regression_small."""
    settings = Pix2PixConfig(
        channels=32,
        halvings=5,
        discriminator_channels=32,
        # Paper: 2e-4, over 200 epochs. Here: 5e-4, because minutes are too short for 2e-4; at 2e-3 the discriminator
        # learns nothing, and the L1 loss trains alone.
        learning_rate=5e-4,
    )
    return RunConfig("pix2pix", settings, data=MIRRORED, training=Training(steps=24_000, batch_size=1))


RECIPES = {recipe.__name__: recipe for recipe in (pix2pix, pix2pix_stochastic, pix2pix_small)}
