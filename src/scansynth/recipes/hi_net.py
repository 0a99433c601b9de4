"""Recipes of Hi-Net (Zhou et al. 2020): the paper's, and a small one.

Number of training steps: 300 epochs with a batch of eight patches, as many as two of the paper's slices have. Of a
cohort as large as CoLa-Diff's BRATS (190 subjects, 100 slices of each, four patches of a slice) that is 2,850,000; for
another one give --training.steps.
"""

from scansynth.config import RunConfig, Training
from scansynth.methods.hi_net import HiNetConfig

Recipe = RunConfig[HiNetConfig]


def hi_net() -> Recipe:
    """The paper's settings, patches of 128×128 pixels."""
    return RunConfig("hi_net", HiNetConfig(), training=Training(steps=2_850_000, batch_size=8))


def hi_net_small() -> Recipe:
    """For slices of 48 to 96 pixels and minutes on one core, in patches of 32×48."""
    settings = HiNetConfig(
        channels=12,
        discriminator_channels=16,
        discriminator_halvings=3,
        patch=(32, 48),
        # Paper: 2e-4, over 300 epochs. Here: 1e-3, the public code's, because minutes are too short for 2e-4.
        learning_rate=1e-3,
    )
    return RunConfig("hi_net", settings, training=Training(steps=6000, batch_size=8))


RECIPES = {recipe.__name__: recipe for recipe in (hi_net, hi_net_small)}
