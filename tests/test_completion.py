"""Completion as a shell does it: what is offered after which words."""

import os
import shutil
import subprocess

import pytest

from scansynth.cli import VERBS, main
from scansynth.commands.completion import SHELLS, commands_of
from scansynth.commands.completion_scripts import FILE, Command, Option, bash, fish, zsh
from scansynth.commands.help import actions_of, flags_of
from scansynth.methods import METHODS
from scansynth.recipes import RECIPES

NAMES = ("runs", "run two", "r*[x].yaml", "t1.nii.gz")
"""What lies in the folder that Tab is pressed in."""


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """The script of each shell, in a file."""
    folder = tmp_path_factory.mktemp("completion")
    commands = commands_of(VERBS)
    for shell, script in SHELLS.items():
        (folder / shell).write_text(script(commands))
    return folder


@pytest.fixture
def here(tmp_path):
    (tmp_path / "runs").mkdir()
    for name in NAMES[1:]:
        (tmp_path / name).touch()
    return tmp_path


@pytest.fixture
def offered(scripts, here):
    """A function: words, of which the last is being typed → what bash offers."""
    if not (program := shutil.which("bash")):
        pytest.skip("there is no bash here")
    code = (
        'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); complete -p scansynth >/dev/null || exit 9; '
        '_scansynth; if (( ${#COMPREPLY[@]} )); then printf "%s\\n" "${COMPREPLY[@]}"; fi'
    )

    def offers(*words):
        command = [program, "--norc", "-c", code, "bash", scripts / "bash", "scansynth", *words]
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return set(done.stdout.splitlines())

    return offers


def test_verbs(offered):
    assert offered("") == {*VERBS, "--help", "--version"}
    assert offered("tr") == {"train", "translate"}
    assert offered("nothing") == offered("nothing", "x") == set()


@pytest.mark.parametrize("verb", sorted(set(VERBS) - {"train"}))
def test_every_flag_of_a_verb(offered, verb):
    flags = {flag for action in actions_of(VERBS[verb]).values() for flag in flags_of(action)}
    assert offered(verb, "-") == {*flags, "-h", "--help", "--help-all"}
    assert offered(verb, "--help") == {"--help", "--help-all"}


def test_files_after_a_flag_that_takes_one(offered):
    assert offered("translate", "--run", "") == set(NAMES)
    assert offered("translate", "--run", "run") == {"runs", "run two"}
    assert offered("translate", "--run", "runs", "--t1w", "t") == {"t1.nii.gz"}
    assert offered("translate", "-o", "r*") == {"r*[x].yaml"}
    assert offered("translate", "--run", "=", "t") == {"t1.nii.gz"}
    assert offered("translate", "--run", "=") == set(NAMES)


def test_several_values_after_one_flag(offered):
    assert offered("compare", "--run", "runs", "t") == {"t1.nii.gz"}
    assert "--cohort" in offered("compare", "--run", "runs", "--c")
    assert offered("demo", "--contrasts", "T1w", "") == set()
    assert "--data" in offered("demo", "--contrasts", "T1w", "T2w", "")


def test_values_that_are_known(offered):
    assert offered("translate", "--weights", "") == {"auto", "last", "best"}
    assert offered("translate", "--weights", "la") == {"last"}
    assert offered("methods", "--recipes", "") == set(METHODS)
    assert offered("completion", "") == set(SHELLS)
    assert "syndiff-table2" in offered("reproduce", "syn")
    assert {"flow_small", "flow_small_25d"} <= offered("benchmark", "--methods", "regression_small", "flow")
    assert offered("translate", "--samples", "") == set()


def test_after_a_switch_come_flags_or_arguments(offered):
    assert "--run" in offered("translate", "--mean", "")
    assert offered("runs", "--json", "run") == {"runs", "run two"}
    assert offered("plan", "") == set(NAMES)
    assert {"--memorisation", "--no-memorisation"} <= offered("measure", "-")


def test_recipes_and_their_own_settings(offered):
    assert offered("train", "") == {*RECIPES, *NAMES}
    assert offered("train", "r*") == {"r*[x].yaml"}
    assert {"--cohort", "--training.steps", "--data.acceleration"} <= offered("train", "--")
    assert not any(flag.startswith("--settings.") for flag in offered("train", "--"))
    assert "--settings.variant" in offered("train", "syndiff_small", "--settings.")
    assert "--settings.variant" not in offered("train", "regression", "--settings.")
    assert "supervised" in offered("train", "syndiff", "--settings.variant", "")
    assert offered("train", "syndiff", "--cohort", "run") == {"runs", "run two"}
    assert "--cohort" in offered("train", "syndiff", "")
    assert "syndiff" not in offered("train", "syndiff", "")


def test_every_recipe_has_its_settings():
    further = commands_of(VERBS)["train"].further
    assert sorted(name for names in further for name in names) == sorted(RECIPES)
    assert all(options for options in further.values())


@pytest.mark.parametrize("shell", SHELLS)
def test_the_verb_prints_the_script_and_nothing_else(scripts, shell, capsys):
    assert main(["completion", shell]) == 0
    assert capsys.readouterr().out == (scripts / shell).read_text()
    top = (scripts / shell).read_text().splitlines()[:3]
    assert any(line.startswith(f"# Completion of scansynth in {shell}. Keep it as ") for line in top)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_takes_the_script(scripts, shell):
    if not (program := shutil.which(shell)):
        pytest.skip(f"there is no {shell} here")
    done = subprocess.run([program, "-n", scripts / shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_fish_offers_the_same(scripts, here):
    if not (program := shutil.which("fish")):
        pytest.skip("there is no fish here")

    def offers(line):
        code = f"source {scripts / 'fish'}; complete -C {line!r}"
        environment = {**os.environ, "HOME": str(here), "TERM": "dumb"}
        done = subprocess.run([program, "-c", code], cwd=here, env=environment, capture_output=True, text=True)
        return {line.split("\t")[0] for line in done.stdout.splitlines()}

    assert offers("scansynth tr") == {"train", "translate"}
    assert {"--run", "--output", "--help-all"} <= offers("scansynth translate --")
    assert {"runs/", "t1.nii.gz"} <= offers("scansynth translate --run ")
    assert {"runs/", "t1.nii.gz"} <= offers("scansynth compare --run runs ")
    assert offers("scansynth translate --weights ") == {"auto", "last", "best"}
    assert {"syndiff_small", "t1.nii.gz"} <= offers("scansynth train ")
    assert "--settings.variant" in offers("scansynth train syndiff --settings.")
    assert "--settings.variant" not in offers("scansynth train regression --settings.")
    assert "--settings.variant" not in offers("scansynth translate --run train --settings.")


def test_texts_are_quoted_for_each_shell():
    """What a help may hold: quotes, brackets, colons, dollars."""
    text = 'It\'s [x]: $HOME `id` \\ "y".'
    commands = {"go": Command(text, (Option(("-a", "--all"), text, ("it", FILE), 1),))}
    for shell, script in (("bash", bash), ("zsh", zsh), ("fish", fish)):
        if program := shutil.which(shell):
            done = subprocess.run([program, "-n"], input=script(commands), capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, ""), shell
    assert """[It'"'"'s \\[x\\]: $HOME""" in zsh(commands)
    assert r"""'It\'s [x]: $HOME `id` \\ "y".'""" in fish(commands)
