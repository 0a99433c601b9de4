"""Finding one's way: lists of methods and recipes, quick help, names that are nearly right."""

import json
import subprocess
import sys

import pytest

from scansynth.cli import VERBS, main
from scansynth.errors import InputError
from scansynth.methods import METHODS
from scansynth.recipes import RECIPES, find_recipe, recipes_of

HEAVY = ("torch", "lightning", "matplotlib")


def loaded_after(*commands):
    """Which of the slow libraries a fresh process has loaded once it ran the commands; what they print."""
    code = (
        "import sys\n"
        "from scansynth.cli import main\n"
        f"for command in {[list(command) for command in commands]!r}:\n"
        "    try:\n"
        "        assert main(command) == 0, command\n"
        "    except SystemExit as stopped:\n"
        "        assert stopped.code in (0, None), command\n"
        f"    print(command, [name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line.rpartition("] ")[2] for line in done.stderr.splitlines()], done.stdout


def test_methods_are_listed_in_three_lines_each_without_torch():
    (heavy,), printed = loaded_after(["methods"])
    assert heavy == "[]"
    lines = printed.splitlines()
    for name, entry in METHODS.items():
        (place,) = (number for number, line in enumerate(lines) if line.split()[:1] == [name])
        assert entry.description in lines[place]
        assert lines[place + 1].split(maxsplit=1) == ["needs", entry.needs]
        assert lines[place + 2].split(maxsplit=1) == ["when", entry.when]
    assert "scansynth methods --recipes METHOD" in printed
    assert "syndiff_small" not in printed


def test_no_help_loads_torch_lightning_or_matplotlib():
    heavy, printed = loaded_after(*([verb, wish] for verb in VERBS for wish in ("--help", "--help-all")))
    assert heavy == ["[]"] * 2 * len(VERBS)
    assert printed.count("usage: ") == 2 * len(VERBS)


@pytest.mark.parametrize("name", METHODS)
def test_each_method_has_all_texts_and_recipes(name):
    entry = METHODS[name]
    for text in (entry.description, entry.needs, entry.when, entry.citation):
        assert text.strip()
        assert len(text) <= 200
        assert "\n" not in text
    found = recipes_of(name)
    assert found
    assert all(recipe().method == name for recipe in found.values())
    assert any("small" in recipe for recipe in found)


def test_each_recipe_belongs_to_one_method_and_says_what_it_is():
    listed = [recipe for name in METHODS for recipe in recipes_of(name)]
    assert sorted(listed) == sorted(RECIPES)
    assert all((recipe.__doc__ or "").strip() for recipe in RECIPES.values())


def test_recipes_of_a_method_are_listed_with_what_they_are(capsys):
    assert main(["methods", "--recipes", "ddpm"]) == 0
    printed = capsys.readouterr().out
    for name, recipe in recipes_of("ddpm").items():
        assert any(line.split()[:1] == [name] and recipe.__doc__ in line for line in printed.splitlines())
    assert "syndiff_small" not in printed
    assert "Nichol" in printed
    assert main(["methods", "--recipes", "cg-ddpm"]) == 0
    assert "cg_ddpm_small_kappa" in capsys.readouterr().out


def test_an_unknown_method_is_one_line(capsys):
    assert main(["methods", "--recipes", "sindiff"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: method 'sindiff' is unknown: did you mean syndiff")
    assert printed.err.count("\n") == 1


def test_all_of_it_as_json(capsys):
    assert main(["methods", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == list(METHODS)
    assert set(told["cdpm"]) == {"description", "needs", "when", "citation", "recipes"}
    assert told["ldm"]["recipes"]["ldm_small"] == RECIPES["ldm_small"].__doc__
    assert sum(len(entry["recipes"]) for entry in told.values()) == len(RECIPES)
    assert main(["methods", "--json", "--recipes", "ldm"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["ldm"]


def test_train_without_a_recipe_tells_the_way_and_no_wall_of_names(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    for word in ("usage: scansynth train RECIPE|FILE.yaml", "--cohort", "--run", "--first-stage", "--devices"):
        assert word in printed
    assert "scansynth methods --recipes METHOD" in " ".join(printed.replace("│", " ").split())
    assert not any(name in printed for name in RECIPES if "_" in name and name not in METHODS)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--cohort", "cohort"])
    assert stopped.value.code == 2
    told = capsys.readouterr().err
    assert "scansynth methods --recipes METHOD" in told
    assert len(told.splitlines()) <= 3


def test_train_with_a_recipe_shows_its_settings(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "syndiff_small", "--help-all"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert {"--training.steps", "--settings.channels", "--cohort"} <= set(printed.split())


def test_an_unknown_recipe_names_those_that_are_close_and_how_to_list_them(capsys):
    assert main(["train", "sindiff-small", "--cohort", "c", "--run", "r"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: recipe 'sindiff-small' is unknown: did you mean syndiff_small")
    assert printed.count("\n") == 1
    assert "scansynth methods --recipes METHOD" in printed
    assert len([name for name in RECIPES if name in printed.replace(",", " ").replace("?", " ").split()]) <= 4
    with pytest.raises(InputError, match=r"^recipe 'nonsense' is unknown: `scansynth methods --recipes METHOD` lists"):
        find_recipe("nonsense")


def test_flags_that_verbs_share_have_one_name(capsys):
    flags = {}
    for verb in (*VERBS, "train regression_small"):
        with pytest.raises(SystemExit):
            main([*verb.split(), "--help-all"])
        flags[verb] = {word.rstrip(",") for word in capsys.readouterr().out.split() if word.startswith("-")}
    for verb in ("train", "translate", "generate", "evaluate", "compare"):
        assert {"--run", "--device"} <= flags[verb]
    for verb in ("evaluate", "compare"):
        assert "--split" in flags[verb]
        assert "--on" not in flags[verb]
    looking = {"methods", "runs", "inspect", "completion", "app"}  # write nothing, or where the page says
    for verb in set(VERBS) - looking - {"train", "distill", "calibrate"}:  # which write into the run
        assert "-o" in flags[verb], verb
    for verb in ("prepare", "translate"):
        assert {"-i", "--overwrite"} <= flags[verb]
    for verb in ("train regression_small", *(set(VERBS) - looking - {"train", "export"})):
        assert "--seed" in flags[verb], verb
    assert {"--overwrite"} <= flags["train"] & flags["generate"]
