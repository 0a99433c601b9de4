"""`methods`: what there is to train, and when to take it."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scansynth.commands.console import out
from scansynth.methods import METHODS, Entry, find_entry


@dataclass(frozen=True)
class Methods:
    """List the methods: what each is, what it needs, when to take it; with --recipes METHOD, its recipes."""

    recipes: str | None = None
    """List the recipes of this method."""
    json: bool = False
    """Print all of it, recipes included, as JSON; with --recipes of that method alone."""

    def run(self) -> None:
        """Print the lists."""
        named = None if self.recipes is None else find_entry(self.recipes)
        entries = METHODS if named is None else dict([named])
        if self.json:
            out.out(
                json.dumps({name: told(name, entry) for name, entry in entries.items()}, indent=1, ensure_ascii=False)
            )
        elif named is None:
            self.methods(entries)
        else:
            self.recipes_of(*named)

    def methods(self, entries: Mapping[str, Entry]) -> None:
        """Three lines a method; torch is not loaded for them."""
        width = max(map(len, entries))
        for name, entry in entries.items():
            out.print(f"{name:{width}}  {entry.description}", markup=False)
            out.print(f"{'':{width}}  needs {entry.needs}", markup=False)
            out.print(f"{'':{width}}  when  {entry.when}", markup=False)
        out.print("\nNext, for the recipes of a method: scansynth methods --recipes METHOD")

    def recipes_of(self, name: str, entry: Entry) -> None:
        """A line a recipe."""
        found = told(name, entry)["recipes"]
        width = max(map(len, found))
        out.print(f"{name}: {entry.description}\n{entry.citation}\n", markup=False)
        for recipe, description in found.items():
            out.print(f"{recipe:{width}}  {description}", markup=False)
        out.print("\nNext: scansynth train RECIPE --cohort COHORT --run RUN (of scansynth prepare -i DATA -o COHORT)")


def told(name: str, entry: Entry) -> dict[str, Any]:
    """What is told of a method, with its recipes."""
    from scansynth.recipes import recipes_of

    texts = {key: text for key, text in asdict(entry).items() if key != "location"}
    recipes = {recipe: (make.__doc__ or "").splitlines()[0] for recipe, make in recipes_of(name).items()}
    return {**texts, "recipes": recipes}
