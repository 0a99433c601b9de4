"""Recipes of latent diffusion: the first stage, CoLa-Diff with its seven tasks and ablations, and LDM; each small, too.

Iterations and the first stage are not stated in the paper.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from scansynth.config import RunConfig, Training
from scansynth.methods.autoencoder import AutoencoderConfig
from scansynth.methods.cola_diff import ColaDiffConfig
from scansynth.methods.latent_diffusion import LatentDiffusionConfig

STEPS = 300_000
"""Of both stages; settled, since the paper gives none."""
BRATS = ("T1w", "T1ce", "T2w", "FLAIR")
IXI = ("T1w", "T2w", "PDw")
SMALL = Training(steps=3000, batch_size=4, decay="cooldown")
_SMALL: dict[str, Any] = {
    "latent_channels": 4,
    "factor": 2,
    "channels": 16,
    "multipliers": (1, 2, 4, 4),
    "blocks": 1,
    "attention_levels": (2, 3),
    "output": "velocity",
    "learning_rate": 5e-4,
    "sampler": "dpm-solver",
    "spacing": "log-snr",
    "sampling_steps": 12,
}


def autoencoder() -> RunConfig[AutoencoderConfig]:
    """First stage for all contrasts, latents of 3 channels 4 times smaller than a slice."""
    return RunConfig("autoencoder", AutoencoderConfig(), training=Training(steps=STEPS, batch_size=8))


def autoencoder_vq() -> RunConfig[AutoencoderConfig]:
    """autoencoder with a codebook of 8,192 vectors."""
    config = autoencoder()
    return replace(config, settings=replace(config.settings, kind="vq"))


def autoencoder_3d() -> RunConfig[AutoencoderConfig]:
    """autoencoder of 3D patches."""
    config = autoencoder()
    settings = replace(config.settings, patch=(64, 64, 32), channels=32, discriminator_channels=32)
    return replace(config, settings=settings, training=replace(config.training, batch_size=2))


def autoencoder_small() -> RunConfig[AutoencoderConfig]:
    """First stage for slices of 64 to 128 pixels and minutes on two cores; latents of 4 channels, half as large."""
    settings = AutoencoderConfig(
        channels=16, multipliers=(1, 2), blocks=1, latent_channels=4, discriminator_channels=16, learning_rate=1e-3
    )
    return RunConfig("autoencoder", settings, training=Training(steps=4000, batch_size=4))


def cola_diff() -> RunConfig[ColaDiffConfig]:
    """The paper's settings, any contrasts, each the target in turn."""
    return RunConfig("cola_diff", ColaDiffConfig(), training=Training(steps=STEPS, batch_size=8))


def ldm() -> RunConfig[LatentDiffusionConfig]:
    """Latent diffusion at the size of cola_diff."""
    return RunConfig("ldm", LatentDiffusionConfig(), training=Training(steps=STEPS, batch_size=8))


def cola_diff_small() -> RunConfig[ColaDiffConfig]:
    """cola_diff on the latents of autoencoder_small, for minutes on two cores."""
    return RunConfig("cola_diff", ColaDiffConfig(**_SMALL), training=SMALL)


def ldm_small() -> RunConfig[LatentDiffusionConfig]:
    """ldm on the latents of autoencoder_small, for minutes on two cores."""
    return RunConfig("ldm", LatentDiffusionConfig(**_SMALL), training=SMALL)


@dataclass(frozen=True)
class OneFromOthers:
    """A training of the paper (Table 1): one contrast of a data set from the others."""

    data: str
    contrasts: tuple[str, ...]
    target: str

    @property
    def name(self) -> str:
        """`brats_t2w`."""
        return f"{self.data}_{self.target.lower()}"

    def of(self, base: RunConfig[Any]) -> RunConfig[Any]:
        """A recipe for this task."""
        return replace(base, contrasts=self.contrasts, settings=replace(base.settings, targets=(self.target,)))


TASKS = {
    task.name: task
    for data, contrasts in (("brats", BRATS), ("ixi", IXI))
    for task in (OneFromOthers(data, contrasts, target) for target in contrasts)
}
ABLATIONS: dict[str, dict[str, Any]] = {
    "no_network": {"modified_network": False},
    "no_structure": {"structural_guidance": False},
    "no_weighting": {"auto_weight": "none"},
    "no_filter": {"cooperative_filter": False},
}
"""Table 2, top: each without one component."""


def without(base: Callable[[], RunConfig[Any]], name: str) -> Callable[[], RunConfig[Any]]:
    """A recipe without a component."""

    def recipe() -> RunConfig[Any]:
        config = base()
        return replace(config, settings=replace(config.settings, **ABLATIONS[name]))

    recipe.__doc__ = f"{base.__name__} with {name.replace('_', ' ')} (Table 2)."
    recipe.__name__ = f"{base.__name__}_{name}"
    return recipe


def on(base: Callable[[], RunConfig[Any]], task: OneFromOthers) -> Callable[[], RunConfig[Any]]:
    """A recipe on a task."""

    def recipe() -> RunConfig[Any]:
        return task.of(base())

    recipe.__name__ = f"{base.__name__}_{task.name}"
    recipe.__doc__ = f"{base.__name__}, {task.target} from {'+'.join(c for c in task.contrasts if c != task.target)}."
    return recipe


RECIPES: dict[str, Callable[[], RunConfig[Any]]] = {
    **{
        recipe.__name__: recipe
        for recipe in (
            autoencoder, autoencoder_vq, autoencoder_3d, autoencoder_small, cola_diff, ldm, cola_diff_small, ldm_small
        )
    },
    **{f"{base.__name__}_{task.name}": on(base, task) for base in (cola_diff, ldm) for task in TASKS.values()},
    **{
        f"{base.__name__}_{name}": without(base, name)
        for base in (on(cola_diff, TASKS["brats_t2w"]), cola_diff_small)
        for name in ABLATIONS
    },
}  # fmt: skip
