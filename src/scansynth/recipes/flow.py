"""Recipes of the flow between contrasts, on slices."""

from dataclasses import replace

from scansynth.config import RunConfig, Training
from scansynth.methods.flow import FlowConfig


def flow() -> RunConfig[FlowConfig]:
    """From the mean of the sources to a sample, 256×256 slices, for a GPU; by Heun, as its steps may be many there."""
    settings = FlowConfig(solver="heun", sampling_steps=13)
    return RunConfig("flow", settings, training=Training(steps=100_000, batch_size=8, gradient_clip=1.0))


def flow_small() -> RunConfig[FlowConfig]:
    """The same for 64–96 pixel slices and minutes on two cores, in six calls."""
    settings = FlowConfig(channels=32, multipliers=(1, 1, 2, 2), learning_rate=1e-3)
    return RunConfig("flow", settings, training=Training(steps=4000, batch_size=4, gradient_clip=1.0))


def flow_small_from_regression() -> RunConfig[FlowConfig]:
    """flow_small from the image of a trained regression_small (--first-stage)."""
    return _changed(start="regression")


def flow_small_from_noise() -> RunConfig[FlowConfig]:
    """flow_small from noise: a rectified flow, conditioned on the sources."""
    return _changed(start="noise")


def flow_small_certain() -> RunConfig[FlowConfig]:
    """flow_small without noise, by Euler: all of its paths end at the mean, however many their steps."""
    return _changed(sigma=0.0, solver="euler")


def _changed(**settings: object) -> RunConfig[FlowConfig]:
    config = flow_small()
    return replace(config, settings=replace(config.settings, **settings))


RECIPES = {
    recipe.__name__: recipe
    for recipe in (flow, flow_small, flow_small_from_regression, flow_small_from_noise, flow_small_certain)
}
