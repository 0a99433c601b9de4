"""Recipes of M2DN (Meng et al. 2024): its settings, its paper's two ablations, and all of them small.

Number of training steps and batch size: those of MRDiff's paper, which compares with it and does not tell its settings.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from scansynth.config import RunConfig, Training
from scansynth.methods.m2dn import M2DNConfig
from scansynth.recipes.mrdiff import FEW_CALLS

Recipe = RunConfig[M2DNConfig]


def m2dn() -> Recipe:
    """All contrasts of 256×256 slices at once, any of them missing."""
    return RunConfig("m2dn", M2DNConfig(), training=Training(steps=350_000, batch_size=8))


def m2dn_small() -> Recipe:
    """For slices of 48 to 96 pixels and minutes on two cores."""
    settings = M2DNConfig(channels=32, multipliers=(1, 2, 4), blocks=1, learning_rate=5e-4, **FEW_CALLS)
    return RunConfig("m2dn", settings, training=Training(steps=3000, batch_size=4, decay="cooldown"))


ABLATIONS: dict[str, dict[str, Any]] = {
    "without_v": {"knows_missing": False},
    "without_joint_loss": {"joint_loss": False},
}
"""Of the paper: the network is not told which contrasts are missing; the loss is of those alone."""


def _without(base: Callable[[], Recipe], name: str) -> Callable[[], Recipe]:
    def recipe() -> Recipe:
        config = base()
        return replace(config, settings=replace(config.settings, **ABLATIONS[name]))

    recipe.__doc__ = f"{base.__name__}, the paper's ablation {name.replace('_', ' ')}."
    return recipe


RECIPES = {recipe.__name__: recipe for recipe in (m2dn, m2dn_small)} | {
    f"{base.__name__}_{name}": _without(base, name) for base in (m2dn, m2dn_small) for name in ABLATIONS
}
