"""Which room may import which: what is below knows nothing of what is above."""

import ast
from pathlib import Path

import pytest

import scansynth

ROOT = Path(scansynth.__file__).parent
GROUND = {
    "claims", "errors", "files", "noise", "users_files", "given", "lazy", "progress", "precision", "ranges", "records",
    "settings_file",
}  # fmt: skip
MATHEMATICS = {"diffusion", "losses", "networks", "physics"}
MAY = {
    **{key: {"errors"} for key in GROUND},
    "claims": {"files"},
    "records": {"errors", "ranges", "users_files"},
    "settings_file": {"errors", "records", "users_files"},
    **{key: {*GROUND, "physics"} for key in MATHEMATICS},
    "data": {*GROUND, "physics"},
    "needs": {*GROUND, *MATHEMATICS, "data"},
    "units": {*GROUND, *MATHEMATICS, "data", "needs"},
    "method": {*GROUND, *MATHEMATICS, "needs"},
    "methods": {*GROUND, *MATHEMATICS, "data", "needs", "units", "method"},
    "config": {*GROUND, "data", "methods"},
    "recipes": {*GROUND, "data", "methods", "config"},
    "metrics": {*GROUND, *MATHEMATICS, "data"},
    "devices": GROUND,
    "network_precision": {*GROUND, *MATHEMATICS, "method"},
}
TRAINING = {*MAY, "training"} - {"recipes"}
MAY |= {
    "training": TRAINING,
    "synthesis": {*TRAINING, "synthesis"},
    "evaluation": {*TRAINING, "synthesis"},
    "sets": {*TRAINING, "synthesis", "evaluation"},
    "sharing": {*TRAINING, "synthesis", "evaluation"},
    "report": {*TRAINING, "synthesis", "evaluation", "sets", "planning"},
    "planning": {*TRAINING, "recipes", "synthesis", "evaluation", "report"},
    "reproduction": {*TRAINING, "recipes", "synthesis", "evaluation", "sets", "report"},
    "leaderboard": {*TRAINING, "recipes", "synthesis", "evaluation", "report"},
}
"""Room → rooms that its modules may import. `report` names a plan's type, and no more of it."""
ABOVE = {"__init__", "__main__", "app", "cli", "commands", "demo"}
LIGHT = {"data": {"augmentation", "contrasts", "labels", "samples", "settings"}}
"""What methods and recipes may know of data: settings, and the width of a label."""


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path):
    """Modules of the package that a file imports, as parts of their dotted names."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "scansynth":
            parts = node.module.split(".")[1:]
            yield from [parts] if parts else [[alias.name] for alias in node.names]


def test_every_room_has_its_rule():
    assert {room_of(path) for path in ROOT.rglob("*.py")} == {*MAY, *ABOVE}


@pytest.mark.parametrize("room", MAY)
def test_a_room_imports_what_is_below_it(room):
    for path in ROOT.rglob("*.py"):
        if room_of(path) == room:
            above = {parts[0] for parts in imported(path)} - MAY[room] - {room, "__version__"}
            assert not above, f"{path.relative_to(ROOT)} imports {above}"


@pytest.mark.parametrize("room", ["methods", "recipes"])
def test_methods_and_recipes_know_no_data(room):
    for path in (ROOT / room).glob("*.py"):
        known = {parts[1] for parts in imported(path) if parts[0] == "data"}
        assert known <= LIGHT["data"], path.name


def test_no_method_imports_another():
    bases = {"any_to_any", "distillable", "latent_translation", "two_contrasts", "shared_latent"}
    for path in (ROOT / "methods").glob("*.py"):
        if path.stem != "__init__":
            own = f"{path.stem}_parts"  # of one method, which a single file would be too long for
            assert {parts[1] for parts in imported(path) if parts[0] == "methods"} <= {*bases, own}, path.name
