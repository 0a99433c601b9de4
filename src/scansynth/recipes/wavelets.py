"""Recipes on the wavelets of whole volumes: regression, DDPM and flow, each for a GPU and for two cores."""

from dataclasses import replace
from typing import Any

from scansynth.config import RunConfig, Training
from scansynth.methods.ddpm import DdpmConfig
from scansynth.methods.flow import FlowConfig
from scansynth.methods.regression import RegressionConfig

_LARGE: dict[str, Any] = {
    "patch": (160, 192, 160), "wavelets": 1, "channels": 64, "multipliers": (1, 2, 4, 4), "recompute": True,
}  # fmt: skip
_SMALL: dict[str, Any] = {"patch": (32, 32, 32), "wavelets": 1, "channels": 32, "multipliers": (1, 2, 2)}
_DDPM: dict[str, Any] = {
    "window_levels": (), "output": "x0", "steps": 1000, "variance": "fixed", "loss": "l2", "blocks": 1,
    "sampler": "dpm-solver", "spacing": "log-snr", "sampling_steps": 12,
}  # fmt: skip
GPU = Training(steps=50_000, batch_size=2, gradient_clip=1.0, decay="cosine")
CPU = Training(steps=4000, batch_size=4, gradient_clip=1.0, decay="cosine", validate_every=1000)
"""Of several small boxes, as a step on one large one of one subject learns less than its time is worth."""


def regression_wavelet() -> RunConfig[RegressionConfig]:
    """Whole volumes of 1 mm at full resolution, trained on boxes of a head, for a GPU."""
    return RunConfig("regression", RegressionConfig(**_LARGE), training=GPU)


def regression_wavelet_small() -> RunConfig[RegressionConfig]:
    """The same for 2 mm and an hour on two cores, trained on smaller boxes."""
    return RunConfig("regression", RegressionConfig(**_SMALL, learning_rate=1e-3), training=CPU)


def regression_wavelet_large() -> RunConfig[RegressionConfig]:
    """regression_wavelet with a second level of wavelets, for volumes of 0.7 mm and less."""
    config = regression_wavelet()
    return replace(config, settings=replace(config.settings, wavelets=2, multipliers=(1, 2, 4)))


def ddpm_wavelet() -> RunConfig[DdpmConfig]:
    """DDPM that gives x̂_0 on the wavelets of whole volumes, for a GPU."""
    return RunConfig("ddpm", DdpmConfig(**_LARGE, **_DDPM, learning_rate=2e-4), training=GPU)


def ddpm_wavelet_small() -> RunConfig[DdpmConfig]:
    """The same for 2 mm, and an hour on two cores."""
    return RunConfig("ddpm", DdpmConfig(**_SMALL, **_DDPM, learning_rate=5e-4), training=CPU)


def flow_wavelet() -> RunConfig[FlowConfig]:
    """The flow on the wavelets of whole volumes, for a GPU."""
    return RunConfig("flow", FlowConfig(**_LARGE), training=GPU)


def flow_wavelet_small() -> RunConfig[FlowConfig]:
    """The same for 2 mm, and an hour on two cores."""
    return RunConfig("flow", FlowConfig(**_SMALL, learning_rate=1e-3), training=CPU)


RECIPES = {
    recipe.__name__: recipe
    for recipe in (
        regression_wavelet, regression_wavelet_small, regression_wavelet_large, ddpm_wavelet, ddpm_wavelet_small,
        flow_wavelet, flow_wavelet_small,
    )
}  # fmt: skip
