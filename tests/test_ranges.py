"""Settings that cannot be right are refused, of every method and every verb, wherever they come from."""

import dataclasses
import math
import types
import typing
from dataclasses import replace
from typing import Annotated

import pytest

from scansynth.cli import VERBS, main
from scansynth.config import RunConfig, Training, read_yaml, to_yaml
from scansynth.data.augmentation import Augmentation
from scansynth.data.settings import DataSettings
from scansynth.errors import InputError
from scansynth.methods import METHODS, find_method
from scansynth.ranges import Range, check_ranges


def numbers(kind, ranged=None):
    """(Type, range or None) of each number that a type holds."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return numbers(arguments[0], next((note for note in arguments[1:] if isinstance(note, Range)), ranged))
    if origin in (typing.Union, types.UnionType, tuple):
        return [found for part in arguments for found in numbers(part, ranged)]
    return [(kind, ranged)] if kind in (int, float) else []


def fields_of(owner):
    hints = typing.get_type_hints(owner, include_extras=True)
    return [(field.name, hints[field.name]) for field in dataclasses.fields(owner)]


OWNERS = [*(find_method(name).Config for name in METHODS), DataSettings, Augmentation, Training, RunConfig]
NUMBERS = [
    pytest.param(owner, name, ranged, id=f"{owner.__name__}-{name}")
    for owner in OWNERS
    for name, kind in fields_of(owner)
    for _, ranged in numbers(kind)[:1]
    if name != "acceleration"  # whose fold has a message of its own (test_config.py)
]


def outside(owner, name, value):
    """A dataclass with one number changed, inside a tuple where it stands in one."""
    was = getattr(owner, name)
    if isinstance(was, tuple) or name == "patch" or name.endswith("_levels") or name == "multipliers":
        return (value,) * max(3 if name == "patch" else len(was or ()), 1)
    return value


@pytest.mark.parametrize(("owner", "name", "ranged"), NUMBERS)
def test_every_number_has_a_range_and_keeps_to_it(owner, name, ranged):
    assert ranged is not None, f"{owner.__name__}.{name}: state its range (ranges.py)"
    if owner is RunConfig or name == "revisions":
        return
    start = owner.tiny() if hasattr(owner, "tiny") else owner()
    kind = numbers(dict(fields_of(owner))[name])[0][0]
    bad = [ranged.least if ranged.above else ranged.least - 1]
    bad += [ranged.most + 1] if ranged.most < math.inf else []
    bad += [math.nan, math.inf] if kind is float else []
    for value in bad:
        with pytest.raises(InputError) as caught:
            check_ranges(replace(start, **{name: outside(start, name, value)}))
        assert "must" in str(caught.value) or name in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_refuses_what_its_methods_settings_cannot_be(method):
    config = find_method(method).Config
    wrong = replace(config(), learning_rate=math.nan)
    with pytest.raises(InputError, match="learning_rate nan: must be a finite number"):
        RunConfig(method, wrong)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("seed: -1", "seed -1: must lie in 0 to 9223372036854775807"),
        ("settings: {learning_rate: -1.0}", "settings: learning_rate -1.0: must be at least 0"),
        ("settings: {learning_rate: .nan}", "settings: learning_rate nan: must be a finite number"),
        ("settings: {channels: 0}", "settings: channels 0: must be at least 1"),
        ("settings: {multipliers: [1, -8]}", "settings: multipliers -8: must be at least 1"),
        ("training: {minutes: .inf}", "training: minutes inf: must be a finite number"),
        ("data: {min_foreground: 2}", "data: min_foreground 2.0: must lie in 0 to 1"),
    ],
)
def test_a_settings_file_is_held_to_the_ranges(tmp_path, line, says):
    path = tmp_path / "run.yaml"
    path.write_text(f"method: regression\n{line}\n")
    with pytest.raises(InputError, match=says):
        read_yaml(path)


def test_what_is_in_range_comes_back(tmp_path):
    config = RunConfig("regression", find_method("regression").Config(learning_rate=1e-5, channels=1), seed=2**63 - 1)
    (tmp_path / "run.yaml").write_text(to_yaml(config))
    assert read_yaml(tmp_path / "run.yaml") == config


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("methods", "train")])
def test_numbers_of_verbs_have_ranges(verb):
    # Spacing and fractions are checked with their neighbours, in messages of their own.
    for name, kind in fields_of(VERBS[verb]):
        if name not in ("spacing", "size", "fractions"):
            assert all(ranged for _, ranged in numbers(kind)), f"{verb}: {name}"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("prepare -i x -o y --seed -1", "--seed -1: must lie in"),
        ("plan x --hours nan", "--hours nan: must be a finite number"),
        ("evaluate --run a --cohort b -o c --noise 0.1 -1", "--noise -1.0: must be above 0"),
        ("train regression_small --cohort a --run b --settings.learning-rate nan", "learning_rate nan: must be"),
    ],
)
def test_the_command_line_is_held_to_the_ranges(capsys, arguments, says):
    assert main(arguments.split()) == 1
    assert says in capsys.readouterr().err
