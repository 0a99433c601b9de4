"""`inspect`: a run that somebody sent, before it is used."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional

from scansynth.commands.console import out
from scansynth.errors import InputError


@dataclass(frozen=True)
class Inspect:
    """Say what a run is, what it wants, what it was trained on, and whether anything is off.

    Nothing but the run's own folder is read, no code in it is run, and no network is built before the hashes of its
    weights are right.
    """

    run_folder: Annotated[Positional[Path], "RUN"]
    """A run, as somebody sent it."""
    json: bool = False
    """Print all of it as JSON."""

    def run(self) -> None:
        """Print it; a run of which anything is off ends with exit code 1."""
        from scansynth.synthesis.inspection import as_json, inspect

        found = inspect(self.run_folder)
        if self.json:
            out.out(as_json(found))
        else:
            for name, value in found.told.items():
                out.print(f"{name}: {plain(value)}", markup=False)
            for line in found.off:
                out.print(f"off: {line}", markup=False)
        if found.off:
            raise InputError(f"{self.run_folder}: something is off, see above: ask whoever sent the run for it anew")
        if not self.json:
            out.print("Nothing is off.")


def plain(value: Any, depth: int = 1) -> str:
    """A value as people read it; what is in it stands under it, further in."""
    if isinstance(value, dict):
        return "".join(f"\n{'  ' * depth}{name}: {plain(one, depth + 1)}" for name, one in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)
