"""Recipes of pix2pix (Isola et al. 2017): the paper's, with noise in synthesis too, and a small one; and of pGAN.

pGAN: Dar et al., IEEE Transactions on Medical Imaging 38(10), 2019. Number of training steps: 200 epochs (pGAN: 100)
with a batch of one. Of a cohort as large as SynDiff's (100 slices of each of 25 subjects) that is 500,000 (250,000).
For another one give --training.steps.
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


def cgan_paired() -> Recipe:
    """cGAN's networks and loss on pairs: a ResNet, least squares and L1, 256×256 slices."""
    settings = Pix2PixConfig(generator="resnet", adversarial="least_squares")
    return RunConfig("pix2pix", settings, data=MIRRORED, training=Training(steps=250_000, batch_size=1))


def pgan() -> Recipe:
    """pGAN: cgan_paired in 2.5D, with a perceptual loss where --settings.perceptual-weights names VGG16's weights."""
    base = cgan_paired()
    return replace(base, settings=replace(base.settings, neighbours=1, perceptual_weight=100.0))


def pgan_small() -> Recipe:
    """pgan for 64–96 pixel slices and two cores."""
    base = pgan()
    # Paper: 2e-4. Here: 5e-4, as in `pix2pix_small`.
    small = {"channels": 16, "residual_blocks": 4, "discriminator_channels": 16, "learning_rate": 5e-4}
    return replace(base, settings=replace(base.settings, **small), training=Training(steps=12_000, batch_size=1))


RECIPES = {
    recipe.__name__: recipe for recipe in (pix2pix, pix2pix_stochastic, pix2pix_small, cgan_paired, pgan, pgan_small)
}
