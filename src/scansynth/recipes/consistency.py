"""Recipes of consistency models (Song et al. 2023; Song & Dhariwal 2024): at full size, as in 2023, and small ones.

MRDiff's paper, which compares with one, states no setting. Here: a network as wide as MRDiff's own, and its batch and
number of steps.
"""

from dataclasses import replace

from scansynth.config import RunConfig, Training
from scansynth.methods.consistency import ConsistencyConfig

Recipe = RunConfig[ConsistencyConfig]


def consistency() -> Recipe:
    """Improved training, 256×256 slices, for a GPU."""
    return RunConfig("consistency", ConsistencyConfig(), training=Training(steps=350_000, batch_size=8))


def consistency_2023() -> Recipe:
    """The first form: targets by a moving average, squared error, uniform levels."""
    base = consistency()
    return replace(base, settings=replace(base.settings, form="2023"))


def consistency_small() -> Recipe:
    """For 64–96 pixel slices and minutes on two cores."""
    settings = ConsistencyConfig(
        channels=32, multipliers=(1, 2, 2), blocks=1, attention_levels=(),
        # Paper: 1280, over 400,000 steps. Here: 20, because what f knows is carried from level to level: of a few
        # hundred steps on toy images 20 left two thirds of the error that 160 left.
        most_pairs=20,
        # Paper: 1e-4 at this size. Here: as ddpm_x0_small, because minutes are too short for 1e-4.
        learning_rate=5e-4,
    )  # fmt: skip
    return RunConfig("consistency", settings, training=Training(steps=3000, batch_size=4, decay="cooldown"))


RECIPES = {recipe.__name__: recipe for recipe in (consistency, consistency_2023, consistency_small)}
