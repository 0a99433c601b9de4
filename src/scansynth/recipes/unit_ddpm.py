"""Recipes of UNIT-DDPM (Sasaki et al. 2021), as SynDiff (Özbey et al. 2023) compares with it, and a small one.

Number of training steps: 50 epochs on 100 slices of each of SynDiff's 25 subjects, with a batch of one, which is not
stated.
"""

from scansynth.config import RunConfig, Training
from scansynth.methods.unit_ddpm import UnitDdpmConfig

Recipe = RunConfig[UnitDdpmConfig]


def unit_ddpm() -> Recipe:
    """Unpaired, the settings of SynDiff's comparison, 256×256 slices."""
    return RunConfig("unit_ddpm", UnitDdpmConfig(), training=Training(steps=125_000, batch_size=1))


def unit_ddpm_small() -> Recipe:
    """The same code for 64–96 pixel slices and two cores, whose denoisers give the velocity, in 20 calls."""
    # λ stays 1: with 10 the translators had lost the brain's outline after 330 steps on phantoms, with 1 they kept it
    # (one run each).
    settings = UnitDdpmConfig(
        sampling_steps=20,
        spacing="log-snr",
        output="velocity",
        channels=16,
        multipliers=(1, 1, 2, 4),
        blocks=1,
        attention_levels=(),
        translator_channels=8,
        learning_rate=5e-4,
    )
    return RunConfig("unit_ddpm", settings, training=Training(steps=8000, batch_size=1, decay="cooldown"))


RECIPES = {recipe.__name__: recipe for recipe in (unit_ddpm, unit_ddpm_small)}
