"""Help that fits a screen, and that it hides nothing: what is told first exists, and `--help-all` tells the rest."""

import re
import shlex

import pytest
import tyro
from rich.cells import cell_len

from scansynth.cli import VERBS, bids_app, main
from scansynth.commands.bids_app import BidsApp
from scansynth.commands.evaluate import Conventions
from scansynth.commands.help import COLUMNS, FIRST, LAST, LINES, actions_of, cut, flags_of, short_help
from scansynth.commands.train import TrainAny, parse_train, recipe_options

RECIPE, RECIPE_DEFAULT = recipe_options("syndiff_small")
COMMANDS = {
    **{verb: (kind, {}) for verb, kind in VERBS.items()},
    "train": (TrainAny, {}),
    "train syndiff_small": (RECIPE, {"default": RECIPE_DEFAULT}),
    "evaluate --spread": (Conventions, {}),
    "scansynth-bids": (BidsApp, {}),
}
"""What is typed → its dataclass, and what else its parser is given."""


def key_of(words):
    return "train RECIPE" if words.startswith("train ") else words


def printed(words, wish, capsys):
    """Lines of a help."""
    with pytest.raises(SystemExit) as stopped:
        bids_app([wish]) if words == "scansynth-bids" else main([*words.split(), wish])
    assert stopped.value.code in (0, None)
    return capsys.readouterr().out.splitlines()


def test_every_command_has_its_first_options():
    assert {key_of(words) for words in COMMANDS} == set(FIRST)


@pytest.mark.parametrize("words", COMMANDS)
def test_short_help_fits_a_screen(words, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    kind, given = COMMANDS[words]
    lines = printed(words, "--help", capsys)
    assert len(lines) <= LINES == 24
    assert max(map(cell_len, lines)) <= COLUMNS == 100
    (sentence, *_) = (kind.__doc__ or RECIPE_DEFAULT.__doc__).splitlines()
    assert " ".join(lines).startswith(sentence)
    assert sum(line.startswith("usage: scansynth") for line in lines) == 1
    assert sum(line.startswith("example: scansynth") for line in lines) == 1
    assert lines[-1] == LAST == "--help-all tells every option."
    assert printed(words, "-h", capsys) == lines
    actions = actions_of(kind, **given)
    told = [line for line in lines if line.startswith("  ") and "[OPTIONS]" not in line]
    for name, line in zip(FIRST[key_of(words)].options, told, strict=True):
        assert line.split("  ")[1].startswith(", ".join(flags_of(actions[name])))
        assert line.endswith("(required)") == bool(actions[name].required)


@pytest.mark.parametrize("words", COMMANDS)
def test_what_is_required_stands_first(words):
    kind, given = COMMANDS[words]
    actions = actions_of(kind, **given)
    options = FIRST[key_of(words)].options
    assert set(options) <= set(actions)
    required = {name for name, action in actions.items() if action.required}
    assert set(options[: len(required)]) == required
    assert len(set(options)) == len(options)


@pytest.mark.parametrize("words", COMMANDS)
def test_the_example_is_a_command_that_there_is(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    example = next(line for line in printed(words, "--help", capsys) if line.startswith("example: "))
    program, *arguments = shlex.split(example.removeprefix("example: ").split(" > ")[0])
    assert example.endswith(FIRST[key_of(words)].example)
    if program == "scansynth-bids":
        tyro.cli(BidsApp, args=arguments)
    elif arguments[0] == "train":
        parse_train(arguments[1:])
    elif arguments[:2] == ["evaluate", "--spread"]:
        tyro.cli(Conventions, args=arguments[2:])
    else:
        tyro.cli(VERBS[arguments[0]], args=arguments[1:])


@pytest.mark.parametrize("words", COMMANDS)
def test_all_of_the_help_names_every_flag(words, capsys):
    kind, given = COMMANDS[words]
    shown = set(re.findall(r"--?[a-z0-9][a-z0-9.-]*", "\n".join(printed(words, "--help-all", capsys))))
    missing = {flag for action in actions_of(kind, **given).values() for flag in action.option_strings} - shown
    assert not missing


def test_help_fits_a_narrow_terminal(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "72")
    assert max(map(cell_len, printed("translate", "--help", capsys))) <= 72
    assert all(cell_len(line) <= 60 for line in short_help(FIRST["prepare"], VERBS["prepare"], "scansynth prepare", 60))


def test_what_is_cut_says_so():
    assert cut("one two, three", 14) == "one two, three"
    assert cut("one two, three", 13) == "one two …"
    assert cut("図 図 図", 7) == "図 図 …"


def test_wrong_arguments_still_name_the_help(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["translate", "--runs", "x"])
    assert stopped.value.code == 2
    assert "scansynth translate --help" in capsys.readouterr().err
