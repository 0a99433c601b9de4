"""Recipes of the regression U-Net, the reference of every comparison."""

from scansynth.config import RunConfig, Training
from scansynth.methods.regression import RegressionConfig


def regression() -> RunConfig[RegressionConfig]:
    """A U-Net of common size, 256×256 slices, for a GPU."""
    return RunConfig(
        method="regression",
        settings=RegressionConfig(channels=64, multipliers=(1, 2, 4, 8), blocks=1),
        training=Training(steps=100_000, batch_size=8, gradient_clip=1.0),
    )


def regression_small() -> RunConfig[RegressionConfig]:
    """A U-Net for 64–96 pixel slices that learns within minutes on two cores."""
    return RunConfig(
        method="regression",
        settings=RegressionConfig(channels=32, multipliers=(1, 1, 2, 2), blocks=1, learning_rate=1e-3),
        training=Training(steps=4000, batch_size=4, gradient_clip=1.0),
    )
