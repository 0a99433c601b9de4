"""What is printed stands there as it is: names with brackets are no markup."""

import ast
from pathlib import Path

import pytest

import scansynth
from scansynth.cli import main
from scansynth.commands import console

NAMES = ["a[/b]", "[x]", "[red]r[/red]", "[/]", ":smile:", "\\[b]", "[link=x]y"]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_printed_as_they_are(capsys, name):
    console.out.print(name)
    console.err.print(name)
    printed = capsys.readouterr()
    assert printed.out == printed.err == f"{name}\n"


@pytest.mark.parametrize("name", NAMES)
def test_a_bar_shows_a_name_as_it_is(name):
    screen = console.Console(record=True)
    with console.Progress(console.TextColumn("{task.description}", markup=False), console=screen) as bar:
        bar.add_task(name)
    assert name in screen.export_text()


def test_no_console_and_no_bar_takes_markup():
    """Of all that prints: `Console(…)` and `TextColumn(…)` say that there is none, and no call asks for it."""
    made = 0
    for path in Path(scansynth.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                told = {word.arg: ast.unparse(word.value) for word in node.keywords}
                if name in ("Console", "TextColumn"):
                    made += 1
                    assert told.get("markup") == "False", f"{path.name}:{node.lineno}"
                assert told.get("markup", "False") == "False", f"{path.name}:{node.lineno}"
    assert made == 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare", "-i", "NAME", "-o", "out"],
        ["train", "regression_small", "--cohort", "NAME", "--run", "run"],
        ["evaluate", "--run", "r", "--cohort", "NAME", "-o", "o"],
        ["translate", "--run", "NAME", "--t1w", "x.nii.gz", "-o", "o.nii.gz"],
        ["plan", "NAME"],
    ],
)
def test_a_refusal_names_what_was_typed(capsys, tmp_path, monkeypatch, name, arguments):
    monkeypatch.chdir(tmp_path)
    assert main([name if word == "NAME" else word for word in arguments]) == 1
    assert name in capsys.readouterr().err
