"""Recipes of SynDiff (Özbey et al. 2023).

Number of training steps: the paper trains 50 epochs on 100 slices of each of 25 subjects and names no batch size;
with a batch of one that is 125,000 steps.
"""

from dataclasses import replace

from scansynth.config import RunConfig, Training
from scansynth.methods.syndiff import SynDiffConfig


def syndiff() -> RunConfig[SynDiffConfig]:
    """Unpaired, the paper's settings, 256×256 slices."""
    return RunConfig(
        method="syndiff",
        settings=SynDiffConfig(),
        training=Training(steps=125_000, batch_size=1),
    )


def syndiff_supervised() -> RunConfig[SynDiffConfig]:
    """Paired, the paper's settings (section VI-C), 256×256 slices."""
    return _supervised(syndiff())


def syndiff_small() -> RunConfig[SynDiffConfig]:
    """Unpaired, the same code at the size of 64–96 pixel slices and two cores."""
    return RunConfig(
        method="syndiff",
        settings=SynDiffConfig(
            channels=16,
            multipliers=(1, 1, 2, 4),
            blocks=1,
            attention_levels=(),
            latent_width=64,
            discriminator_channels=16,
            discriminator_blocks=5,
            translator_channels=8,
            # Paper: 0.5 and 0.5, over 125,000 steps. Here: 10, because within some thousand steps the adversarial
            # game otherwise drowns the source: the textures followed the noise.
            cycle_weight_translator=10.0,
            cycle_weight_diffusive=10.0,
            learning_rate=5e-4,
        ),
        training=Training(steps=8000, batch_size=1, precision="bfloat16"),
    )


def syndiff_small_supervised() -> RunConfig[SynDiffConfig]:
    """Paired, the same code at the size of 64–96 pixel slices and two cores."""
    return _supervised(syndiff_small())


def _supervised(recipe: RunConfig[SynDiffConfig]) -> RunConfig[SynDiffConfig]:
    return replace(recipe, settings=replace(recipe.settings, supervised=True))
