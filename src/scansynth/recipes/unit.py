"""Recipes of UNIT (Liu et al. 2017) and MUNIT (Huang et al. 2018) as SynDiff (Özbey et al. 2023) compares with them.

Number of training steps: 100 epochs with a batch of one. Of SynDiff's cohort, 100 slices of each of 25 subjects, that
is 250,000; for another one give --training.steps. SynDiff states no batch.
"""

from dataclasses import replace
from typing import Any

from scansynth.config import RunConfig, Training
from scansynth.methods.munit import MunitConfig
from scansynth.methods.unit import UnitConfig

Recipe = RunConfig[Any]


def unit() -> Recipe:
    """UNIT as SynDiff compares with it, 256×256 slices."""
    # SynDiff: Adam's β2 of 0.9 for all networks.
    return RunConfig("unit", UnitConfig(beta2=0.9), training=Training(steps=250_000, batch_size=1))


def unit_tied() -> Recipe:
    """unit with the layers next to the latent shared by both contrasts, as in UNIT's paper."""
    return _with(unit(), tied=True)


def munit() -> Recipe:
    """MUNIT as SynDiff compares with it, 256×256 slices."""
    return RunConfig("munit", MunitConfig(beta2=0.9), training=Training(steps=250_000, batch_size=1))


def unit_small() -> Recipe:
    """unit for 48–96 pixel slices and two cores."""
    return _small(unit())


def munit_small() -> Recipe:
    """munit for 48–96 pixel slices and two cores."""
    return _small(munit())


def _with(base: Recipe, **settings: object) -> Recipe:
    return replace(base, settings=replace(base.settings, **settings))


def _small(base: Recipe) -> Recipe:
    """A recipe with narrower networks, and as many scales as small slices have."""
    small = _with(
        base,
        channels=16,
        residual_blocks=2,
        discriminator_channels=16,
        scales=2,
        # Paper: 1e-4, halved after two fifths and four fifths of the training. Here: 5e-4, because minutes are too
        # short for 1e-4, halved at the same shares.
        learning_rate=5e-4,
        halve_every=2400,
    )
    return replace(small, training=Training(steps=6000, batch_size=1))


RECIPES = {recipe.__name__: recipe for recipe in (unit, unit_tied, munit, unit_small, munit_small)}
