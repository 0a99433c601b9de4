"""Recipes: complete named runs. A recipe is a function that returns settings; one file a paper."""

from collections.abc import Callable
from typing import Any

from scansynth.config import RunConfig
from scansynth.errors import InputError
from scansynth.recipes import regression, syndiff

RECIPES: dict[str, Callable[[], RunConfig[Any]]] = {
    "regression": regression.regression,
    "regression_small": regression.regression_small,
    "syndiff": syndiff.syndiff,
    "syndiff_supervised": syndiff.syndiff_supervised,
    "syndiff_small": syndiff.syndiff_small,
    "syndiff_small_supervised": syndiff.syndiff_small_supervised,
}


def find_recipe(name: str) -> RunConfig[Any]:
    """The settings of a recipe; hyphens may stand for underscores.

    Raises:
        InputError: if there is none of that name.
    """
    recipe = RECIPES.get(name.replace("-", "_"))
    if recipe is None:
        raise InputError(f"recipe {name!r} is unknown: choose from {', '.join(RECIPES)}")
    return recipe()
