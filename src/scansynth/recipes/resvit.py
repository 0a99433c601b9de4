"""Recipes of ResViT (Dalmaz et al. 2022): the paper's, its unified form, and a small one.

Number of training steps: 100 epochs without transformers and 50 with them, with a batch of one. Of a cohort as large as
SynDiff's (100 slices of each of 25 subjects) that is 375,000; for another one give --training.steps.
"""

from dataclasses import replace

from scansynth.config import RunConfig, Training
from scansynth.methods.resvit import ResVitConfig
from scansynth.recipes.pix2pix import MIRRORED

Recipe = RunConfig[ResVitConfig]


def resvit() -> Recipe:
    """The paper's settings, 256×256 slices; --settings.transformer-weights names what the transformer starts from."""
    return RunConfig("resvit", ResVitConfig(), data=MIRRORED, training=Training(steps=375_000, batch_size=1))


def resvit_unified() -> Recipe:
    """The paper's unified form: from any subset of the contrasts all others in one call."""
    base = resvit()
    return replace(base, settings=replace(base.settings, unified=True))


def resvit_small() -> Recipe:
    """For 64–96 pixel slices and two cores."""
    settings = ResVitConfig(
        channels=16,
        width=192,
        layers=4,
        heads=3,
        discriminator_channels=16,
        # Paper: 2e-4, then 1e-3. Here: 5e-4 in both stages, because minutes are too short for 2e-4.
        learning_rate=5e-4,
        second_rate=1.0,
    )
    return RunConfig("resvit", settings, data=MIRRORED, training=Training(steps=12_000, batch_size=1))


RECIPES = {recipe.__name__: recipe for recipe in (resvit, resvit_unified, resvit_small)}
