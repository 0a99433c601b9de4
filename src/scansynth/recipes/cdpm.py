"""Recipes of cDPM: the paper's generator, its other plans and encodings, a translator, its baseline 3D-DPM; small ones.

Number of training steps, batch size and learning rate: the paper's section 3.2.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from scansynth.config import RunConfig, Training
from scansynth.methods.cdpm import CdpmConfig
from scansynth.methods.ddpm import DdpmConfig

PAPER = Training(steps=200_000, batch_size=3)
SMALL = Training(steps=3000, batch_size=4, decay="cooldown")

_SIZE: dict[str, Any] = {
    "channels": 48,
    "multipliers": (1, 2, 2),
    "blocks": 1,
    "attention_levels": (2,),
    "across_levels": (0, 1),
    "space_to_depth": 2,
    "output": "velocity",
    "weighting": "min-snr",
    "plan_share": 0.5,
    "sampler": "dpm-solver",
    "spacing": "log-snr",
    "sampling_steps": 12,
    "learning_rate": 5e-4,
}


def cdpm() -> RunConfig[CdpmConfig]:
    """The paper's settings: T1w volumes of 128 slices, made from the first slice up in stages of 10."""
    return RunConfig("cdpm", CdpmConfig(), ("T1w",), training=PAPER)


def cdpm_hierarchical() -> RunConfig[CdpmConfig]:
    """cdpm that makes slices all over the volume first, then those between."""
    return with_settings(cdpm, plan="hierarchical")


def cdpm_relative() -> RunConfig[CdpmConfig]:
    """cdpm whose slices know the differences of their indices alone."""
    return with_settings(cdpm, absolute=False)


def cdpm_translator() -> RunConfig[CdpmConfig]:
    """cDPM as MRDiff's paper compares with it: any subset of the run's contrasts to any other."""
    config = with_settings(cdpm, translator=True, sampler="ddim", sampling_steps=50)
    return replace(config, contrasts=())


def cdpm_small() -> RunConfig[CdpmConfig]:
    """cdpm for slices of 64 to 96 pixels and two cores."""
    return small(cdpm)


def cdpm_hierarchical_small() -> RunConfig[CdpmConfig]:
    """cdpm_hierarchical for slices of 64 to 96 pixels and two cores."""
    return small(cdpm_hierarchical)


def cdpm_relative_small() -> RunConfig[CdpmConfig]:
    """cdpm_relative for slices of 64 to 96 pixels and two cores."""
    return small(cdpm_relative)


def cdpm_translator_small() -> RunConfig[CdpmConfig]:
    """cdpm_translator for slices of 64 to 96 pixels and two cores."""
    return small(cdpm_translator)


def ddpm_3d() -> RunConfig[DdpmConfig]:
    """The paper's baseline 3D-DPM: 32 slices at once (scans prepared with --recipe cdpm --size 128 128 32)."""
    settings = DdpmConfig(
        patch=(128, 128, 32), channels=64, multipliers=(1, 2, 3, 4), blocks=2, window_levels=(), steps=1000,
        variance="fixed", loss="l2", sampling_steps=1000, unconditional=True, learning_rate=1e-4,
    )  # fmt: skip
    return RunConfig("ddpm", settings, ("T1w",), training=PAPER)


def ddpm_3d_small() -> RunConfig[DdpmConfig]:
    """ddpm_3d for volumes of 64×80×64 voxels and two cores; sampled as cdpm_small."""
    config = ddpm_3d()
    settings = replace(
        config.settings, patch=(64, 80, 64), channels=16, multipliers=(1, 2, 4), blocks=1, output="velocity",
        sampler="dpm-solver", spacing="log-snr", sampling_steps=12, learning_rate=5e-4,
    )  # fmt: skip
    return replace(config, settings=settings, training=replace(SMALL, batch_size=1))


def cdpm_small_labelled() -> RunConfig[CdpmConfig]:
    """cdpm_small by age and sex, columns of a BIDS participants.tsv; volumes are made with both, one or none."""
    return with_settings(cdpm_small, labels=("age", "sex"))


def with_settings(base: Callable[[], RunConfig[CdpmConfig]], **settings: Any) -> RunConfig[CdpmConfig]:
    """A recipe with other settings of its method."""
    config = base()
    return replace(config, settings=replace(config.settings, **settings))


def small(base: Callable[[], RunConfig[CdpmConfig]]) -> RunConfig[CdpmConfig]:
    """A recipe at the size of two cores."""
    return replace(with_settings(base, **_SIZE), training=SMALL)


RECIPES: dict[str, Callable[[], RunConfig[Any]]] = {
    recipe.__name__: recipe
    for recipe in (
        cdpm, cdpm_hierarchical, cdpm_relative, cdpm_translator, cdpm_small, cdpm_hierarchical_small,
        cdpm_relative_small, cdpm_translator_small, cdpm_small_labelled, ddpm_3d, ddpm_3d_small,
    )
}  # fmt: skip
