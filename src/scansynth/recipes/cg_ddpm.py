"""Recipes of CG-DDPM's paper: its four tasks (two runs), its baselines IDDPM and IDDIM, and DDPM; each small, too.

Number of training steps: the paper draws two patches of each of 178 scans in an epoch, in batches of four: 89 steps.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from scansynth.config import RunConfig, Training
from scansynth.methods.cg_ddpm import CgDdpmConfig
from scansynth.methods.ddpm import DdpmConfig

STEPS_PER_EPOCH = 89
PAPER = Training(steps=1000 * STEPS_PER_EPOCH, batch_size=4)
SMALL = Training(steps=2400, batch_size=2, checkpoint_every=200, validate_every=1_000_000, decay="cooldown")
"""For two cores: patches of 32×32×16, networks that give the velocity, 12 steps of sampling, one
validation at the end, since it samples volumes."""

_SIZE: dict[str, Any] = {
    "patch": (32, 32, 16),
    "channels": 16,
    "multipliers": (1, 2, 4),
    "blocks": 1,
    "window_levels": (2,),
    "output": "velocity",
    "learning_rate": 5e-4,
    "sampling_steps": 12,
}


def cg_ddpm() -> RunConfig[CgDdpmConfig]:
    """The paper's settings, both directions of T1w and T2w from one run: 1000 epochs, jointly from the 500th."""
    return RunConfig("cg_ddpm", CgDdpmConfig(), ("T1w", "T2w"), training=PAPER)


def cg_ddpm_t1_flair() -> RunConfig[CgDdpmConfig]:
    """The same for T1w and FLAIR: 850 epochs, jointly from the 500th."""
    training = replace(PAPER, steps=850 * STEPS_PER_EPOCH)
    return RunConfig("cg_ddpm", CgDdpmConfig(joint_from=500 / 850), ("T1w", "FLAIR"), training=training)


def cg_ddpm_independent() -> RunConfig[CgDdpmConfig]:
    """cg_ddpm with a noise of its own for each contrast in the joint phase."""
    return with_settings(cg_ddpm, shared_noise=False)


def iddpm() -> RunConfig[DdpmConfig]:
    """The baseline IDDPM: learned variance, 4000 steps trained, 256 sampled."""
    return RunConfig("ddpm", DdpmConfig(), ("T1w", "T2w"), training=PAPER)


def iddim() -> RunConfig[DdpmConfig]:
    """The baseline IDDIM: iddpm, sampled implicitly with η = 0."""
    return with_settings(iddpm, sampler="ddim")


def ddpm() -> RunConfig[DdpmConfig]:
    """DDPM: variance fixed, squared error, 1000 steps trained and sampled."""
    return with_settings(iddpm, variance="fixed", loss="l2", steps=1000, sampling_steps=1000)


def cg_ddpm_small() -> RunConfig[CgDdpmConfig]:
    """cg_ddpm for volumes of some 64 voxels a side and two cores."""
    return small(cg_ddpm)


def cg_ddpm_small_independent() -> RunConfig[CgDdpmConfig]:
    """cg_ddpm_small with a noise of its own for each contrast in the joint phase."""
    return small(cg_ddpm_independent)


def cg_ddpm_small_kappa() -> RunConfig[CgDdpmConfig]:
    """cg_ddpm_small with the cycle loss divided by κ_n, so that it weighs as much at every step."""
    return with_settings(cg_ddpm_small, cycle_scale="kappa")


def iddpm_small() -> RunConfig[DdpmConfig]:
    """iddpm for volumes of some 64 voxels a side and two cores: as many samples and network calls as cg_ddpm_small."""
    config = with_settings(lambda: small(iddpm), sampling_steps=24)
    return replace(config, training=replace(SMALL, batch_size=4))


def iddim_small() -> RunConfig[DdpmConfig]:
    """iddpm_small, sampled implicitly with η = 0."""
    return with_settings(iddpm_small, sampler="ddim")


def with_settings(base: Callable[[], RunConfig[Any]], **settings: Any) -> RunConfig[Any]:
    """A recipe with other settings of its method."""
    config = base()
    return replace(config, settings=replace(config.settings, **settings))


def small(base: Callable[[], RunConfig[Any]]) -> RunConfig[Any]:
    """A recipe at the size of two cores."""
    return replace(with_settings(base, **_SIZE), contrasts=(), training=SMALL)


RECIPES = {
    recipe.__name__: recipe
    for recipe in (
        cg_ddpm, cg_ddpm_t1_flair, cg_ddpm_independent, iddpm, iddim, ddpm, cg_ddpm_small, cg_ddpm_small_independent,
        cg_ddpm_small_kappa, iddpm_small, iddim_small,
    )
}  # fmt: skip
