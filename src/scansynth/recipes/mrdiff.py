"""Recipes of MRDiff: its paper's two data sets, the arms of its Fig. 4, all of them small, and a DDPM of that size.

Two more, small: one whose maps are determined by what it rebuilds, and one that may smooth its grid of two voxels.

Number of training steps and batch size: the paper's section 3.1.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from scansynth.config import RunConfig, Training
from scansynth.methods.ddpm import DdpmConfig
from scansynth.methods.mrdiff import MrDiffConfig

SMALL = Training(steps=3000, batch_size=4, decay="cooldown")
FEW_CALLS: dict[str, Any] = {"sampler": "dpm-solver", "spacing": "log-snr", "sampling_steps": 12}
"""Draws as many calls do, texture included (`benchmarks/sampling.py`)."""


def mrdiff() -> RunConfig[MrDiffConfig]:
    """The paper's settings, any contrasts; TR and TE from the scans' sidecars."""
    return RunConfig("mrdiff", MrDiffConfig(), training=Training(steps=350_000, batch_size=8))


@dataclass(frozen=True)
class PaperTraining:
    """A training of the paper (section 3.1)."""

    name: Literal["adni", "spine"]
    contrasts: tuple[str, ...]
    target: str
    """Settled; the paper does not say."""
    steps: int

    def of(self, base: RunConfig[Any]) -> RunConfig[Any]:
        """A recipe for this training; the paper's TR and TE stand for those that are not known."""
        return replace(
            base,
            contrasts=self.contrasts,
            settings=replace(base.settings, targets=(self.target,)),
            data=replace(base.data, defaults=self.name),
            training=replace(base.training, steps=self.steps),
        )


TASKS = {
    task.name: task
    for task in (
        PaperTraining("spine", ("T1w", "T2w", "T2wFS"), "T2wFS", 300_000),
        PaperTraining("adni", ("T1w", "T2w", "PDw"), "T2w", 350_000),
    )
}


def mrdiff_adni() -> RunConfig[MrDiffConfig]:
    """ADNI: T1w and PDw to T2w, 350,000 steps; the paper's TR and TE where a scan's are not known."""
    return TASKS["adni"].of(mrdiff())


def mrdiff_spine() -> RunConfig[MrDiffConfig]:
    """Spine: T1w and T2w to fat-saturated T2w (T2wFS), 300,000 steps; the paper's TR and TE."""
    return TASKS["spine"].of(mrdiff())


def mrdiff_small() -> RunConfig[MrDiffConfig]:
    """For slices of 64 to 128 pixels and minutes on two cores."""
    settings = MrDiffConfig(
        channels=32, multipliers=(1, 2, 2), blocks=1, attention_levels=(), features=8, learning_rate=5e-4, **FEW_CALLS
    )
    return RunConfig("mrdiff", settings, training=SMALL)


def mrdiff_small_smooth() -> RunConfig[MrDiffConfig]:
    """mrdiff_small with a convolution across the grid of two voxels; after 300 steps the grid was no weaker."""
    config = mrdiff_small()
    return replace(config, settings=replace(config.settings, smooth_grid=True))


def mrdiff_small_identifiable() -> RunConfig[MrDiffConfig]:
    """mrdiff_small whose maps must explain target and sources, three contrasts or more of different TR and TE."""
    config = mrdiff_small()
    settings = replace(config.settings, rebuilds="all")
    return replace(config, contrasts=("T1w", "PDw", "T2w"), settings=settings)


def ddpm_x0_small() -> RunConfig[DdpmConfig]:
    """DDPM that gives x̂_0, on slices, sampled implicitly: the network of mrdiff_small at full size, without physics."""
    settings = DdpmConfig(
        patch=None, channels=32, multipliers=(1, 2, 2), blocks=1, window_levels=(), output="x0", steps=1000,
        variance="fixed", loss="l2", learning_rate=5e-4, **FEW_CALLS,
    )  # fmt: skip
    return RunConfig("ddpm", settings, training=SMALL)


ARMS: dict[str, dict[str, Any]] = {
    "generator_only": {"decoder": "none", "consistency_weight": 0.0},
    "plain_decoder": {"decoder": "plain", "consistency_weight": 0.0},
    "no_consistency": {"consistency_weight": 0.0},
}
"""Fig. 4: L_G; + L_D without M; + L_D. The fourth, + L_CCT, is the method itself."""


def arm(base: Callable[[], RunConfig[MrDiffConfig]], name: str) -> Callable[[], RunConfig[MrDiffConfig]]:
    """A recipe with an arm's settings."""

    def recipe() -> RunConfig[MrDiffConfig]:
        config = base()
        return replace(config, settings=replace(config.settings, **ARMS[name]))

    recipe.__doc__ = f"{base.__name__}, the arm {name.replace('_', ' ')} of Fig. 4."
    return recipe


_NAMED = (
    mrdiff, mrdiff_adni, mrdiff_spine, mrdiff_small, mrdiff_small_smooth, mrdiff_small_identifiable, ddpm_x0_small
)  # fmt: skip
RECIPES = {recipe.__name__: recipe for recipe in _NAMED} | {
    f"{base.__name__}_{name}": arm(base, name) for base in (mrdiff_adni, mrdiff_spine, mrdiff_small) for name in ARMS
}
