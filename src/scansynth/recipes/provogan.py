"""Recipes of ProvoGAN (Yurt et al. 2022): a stage each, in the order of its release's example, and small ones.

Another order is the same recipes with other axes (`--settings.axis`): docs/howto/orders.md. Number of training steps:
100 epochs with a batch of one. Of a cohort as large as CoLa-Diff's BRATS (190 subjects, 100 slices of each) that is
1,900,000 a stage; for another one give --training.steps.
"""

from collections.abc import Callable

from scansynth.config import RunConfig, Training
from scansynth.methods.provogan import Plane, ProvoGANConfig

Recipe = RunConfig[ProvoGANConfig]


def stage(axis: Plane, *, follows: bool) -> Recipe:
    """A stage at the paper's size."""
    settings = ProvoGANConfig(axis=axis, follows=follows)
    return RunConfig("provogan", settings, training=Training(steps=1_900_000, batch_size=1))


def small_stage(axis: Plane, *, follows: bool) -> Recipe:
    """A stage for slices of 48 to 96 pixels and minutes on two cores."""
    settings = ProvoGANConfig(
        axis=axis,
        follows=follows,
        channels=16,
        residual_blocks=6,
        discriminator_channels=32,
        # Paper: 2e-4, over 100 epochs. Here: 5e-4, because minutes are too short for 2e-4 (as in `pix2pix_small`).
        learning_rate=5e-4,
    )
    return RunConfig("provogan", settings, training=Training(steps=8000, batch_size=1))


ORDER: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
"""Of the release's example."""


def _recipe(name: str, made: Callable[..., Recipe], place: int) -> Callable[[], Recipe]:
    axis = ORDER[place]

    def recipe() -> Recipe:
        return made(axis, follows=place > 0)

    size = "minutes on two cores" if made is small_stage else "256×256 slices"
    before = f", corrects what a run of {ORDER[place - 1]} slices makes (--first-stage)" if place else ""
    recipe.__doc__ = f"Stage {place + 1} of 3: {axis} slices{before}; {size}."
    recipe.__name__ = name
    return recipe


RECIPES = {
    name: _recipe(name, made, place)
    for base, made in (("provogan", stage), ("provogan_small", small_stage))
    for place, name in enumerate((base, f"{base}_coronal", f"{base}_sagittal"))
}
