"""Names of a package that are imported when they are asked for, so that the package itself costs nothing."""

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def names_of(package: str, modules: Mapping[str, tuple[str, ...]]) -> tuple[Callable[[str], Any], Callable[[], list]]:
    """The `__getattr__` and `__dir__` of a package (PEP 562).

    Args:
        package: its `__name__`.
        modules: of the package, as `data.volume`, each with the names that it lends.
    """
    places = {name: f"{package}.{module}" for module, names in modules.items() for name in names}
    itself = sys.modules[package]

    def get(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(places[name]), name)
        setattr(itself, name, value)  # the next time it is there
        return value

    return get, lambda: sorted({*vars(itself), *places})
