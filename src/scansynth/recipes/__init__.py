"""Recipes: complete named runs. A recipe is a function that returns settings; one file a paper."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from scansynth.config import RunConfig
from scansynth.errors import InputError, did_you_mean
from scansynth.recipes import (
    bloch_gan,
    cdpm,
    cg_ddpm,
    cola_diff,
    consistency,
    cycle_gan,
    flow,
    hi_net,
    m2dn,
    mm_gan,
    mrdiff,
    pix2pix,
    provogan,
    regression,
    resvit,
    syndiff,
    unit,
    unit_ddpm,
    wavelets,
)

Recipe = Callable[[], RunConfig[Any]]


def _changed(base: Recipe, change: syndiff.Ablation | syndiff.ContrastPair) -> Recipe:
    def recipe() -> RunConfig[Any]:
        return change.of(base())

    recipe.__doc__ = f"{base.__name__}, {change.description}."
    return recipe


RECIPES: dict[str, Recipe] = {
    "regression": regression.regression,
    "regression_small": regression.regression_small,
    "syndiff": syndiff.syndiff,
    "syndiff_small": syndiff.syndiff_small,
    "syndiff_public_code": syndiff.syndiff_public_code,
    **cdpm.RECIPES,
    **cg_ddpm.RECIPES,
    **mrdiff.RECIPES,
    **cola_diff.RECIPES,
    **cycle_gan.RECIPES,
    **pix2pix.RECIPES,
    **mm_gan.RECIPES,
    **m2dn.RECIPES,
    **hi_net.RECIPES,
    **bloch_gan.RECIPES,
    **resvit.RECIPES,
    **unit.RECIPES,
    **provogan.RECIPES,
    **flow.RECIPES,
    **unit_ddpm.RECIPES,
    **consistency.RECIPES,
    **wavelets.RECIPES,
    **{
        f"{base.__name__}_{name}": _changed(base, change)
        for base, changes in (
            (syndiff.syndiff, {**syndiff.TASKS, **syndiff.ABLATIONS}),
            (syndiff.syndiff_small, syndiff.ABLATIONS),
        )
        for name, change in changes.items()
    },
    "syndiff_small_ddpm": syndiff.syndiff_small_ddpm,
}
"""Recipes by name: functions that return the settings of a run."""

BESIDE = (
    "regression_small", "pix2pix_small", "ddpm_x0_small", "mrdiff_small", "ldm_small", "cola_diff_small",
    "syndiff_small_supervised", "flow_small",
)  # fmt: skip
"""Recipes that stand in the table with neighbouring slices, too, as `…_25d`."""


def _in_25d(name: str) -> Recipe:
    base = RECIPES[name]

    def recipe() -> RunConfig[Any]:
        config = base()
        return replace(config, settings=replace(config.settings, neighbours=1))

    recipe.__doc__ = f"{name} in 2.5D: of each source the slices below and above are given, too."
    return recipe


RECIPES |= {f"{name}_25d": _in_25d(name) for name in BESIDE}


def find_recipe(name: str) -> RunConfig[Any]:
    """The settings of a recipe; hyphens may stand for underscores.

    Raises:
        InputError: if there is none of that name.
    """
    known = name.replace("-", "_")
    if known not in RECIPES:
        raise InputError(
            f"recipe {name!r} is unknown: {did_you_mean(known, RECIPES)}`scansynth methods --recipes METHOD` lists "
            "those of a method, `scansynth methods` the methods"
        )
    return RECIPES[known]()


def recipes_of(method: str) -> dict[str, Recipe]:
    """The recipes of a method, by name."""
    return {name: recipe for name, recipe in RECIPES.items() if recipe().method == method}
