"""Commands as a user types them: what they write, what they print, and how they fail."""

import inspect
import json
import re
import shlex
from dataclasses import fields, is_dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import tyro

import scansynth
from pages import run_page
from scansynth import demo
from scansynth.cli import VERBS, main
from scansynth.commands.evaluate import Conventions
from scansynth.commands.next_step import after_generating
from scansynth.commands.train import parse_train
from scansynth.config import RunConfig
from scansynth.data.phantom import write_phantom_cohort
from scansynth.methods import METHODS

PAGES = (
    "README.md", "docs/howto/own-data.md", "docs/howto/missing.md", "docs/howto/comparing.md", "docs/methods.md",
    "docs/howto/generation.md", "docs/howto/leaderboard.md",
)  # fmt: skip
FEW_STEPS = ["--training.steps", "2", "--training.validate-every", "2", "--training.checkpoint-every", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the pages' tour is typed in: scans in DATA, and a BIDS folder that lacks one T2w."""
    folder = tmp_path_factory.mktemp("tour")
    small = {"shape": (32, 32, 16), "spacing": 6.0}
    write_phantom_cohort(folder / "DATA", 5, ("T1w", "T2w"), layout="IXI", **small)
    write_phantom_cohort(folder / "BIDS", 2, ("T1w", "T2w"), layout="BIDS", missing={"sub-002": ("T2w",)}, **small)
    (folder / "sub-01_T1w.nii.gz").write_bytes((folder / "BIDS/sub-001/anat/sub-001_T1w.nii.gz").read_bytes())
    (folder / "t1.nii.gz").write_bytes((folder / "sub-01_T1w.nii.gz").read_bytes())
    return folder


def shortened(arguments):
    """What stands in for the pages' sizes and numbers: the later of two flags counts."""
    if arguments[0] == "prepare" and "cdpm" in arguments:
        return ["--size", "32", "32", "16", "--spacing", "6", "6", "6", "--fractions", "0.4", "0.2", "0.4"]
    if arguments[0] in ("run", "plan"):
        return ["--hours", "0.001"]
    if arguments[0] == "prepare":
        return ["--size", "32", "32", "None", "--spacing", "6", "6", "None"]
    if arguments[:2] == ["train", "cdpm_small"]:
        return [*FEW_STEPS, "--settings.sampling-steps", "3"]
    if arguments[0] == "benchmark":
        return ["--methods", "regression_small", "cdpm_small"]
    return {"train": FEW_STEPS, "generate": ["-n", "2"], "measure": ["--no-memorisation"]}.get(arguments[0], [])


@pytest.fixture(scope="module")
def tour(folder):
    """The commands and the Python of README and of the pages that it leads to, run once and in order."""
    printed = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for page in PAGES:
            run_page(page, printed, shortened)
    return printed


def test_the_pages_show_every_verb_but_the_demo(tour):
    shown = {shlex.split(command)[1] for command in tour}
    assert {
        "methods",
        "run",
        "prepare",
        "plan",
        "train",
        "translate",
        "evaluate",
        "compare",
        "benchmark",
        "generate",
        "measure",
    } <= shown


def test_every_verb_ends_with_a_next_command_that_there_is(tour, folder, monkeypatch):
    monkeypatch.chdir(folder)
    following = {}
    for command, printed in tour.items():
        lines = printed.splitlines()
        (place,) = (number for number, line in enumerate(lines) if line.startswith("Next"))
        assert place >= len(lines) - 2, command
        following[command] = lines[place]
        for words in re.findall(r"scansynth ([^(\n]*)", "\n".join(lines[place:]).replace("(`scansynth", "(")):
            verb, *rest = shlex.split(words.replace("RECIPE", "regression_small").replace("METHOD", "ldm"))
            if verb == "train":
                parse_train(rest)
            else:
                tyro.cli(VERBS[verb], args=rest)
    text = {command.split()[1]: following[command] for command in tour}
    assert text["prepare"] == "Next: scansynth plan heads"
    assert "Next: scansynth evaluate --run runs/syndiff --cohort cohort -o evaluation/syndiff" in following.values()
    assert "Next: scansynth generate --run runs/cdpm -n 10 -o generated/cdpm" in following.values()
    assert "Next: scansynth measure --set generated/cdpm --cohort COHORT -o measured/cdpm" in following.values()
    assert "--first-stage runs/autoencoder" in " ".join(following.values())
    best = re.fullmatch(r"Next: scansynth translate --run runs/(\w+) -i DATA -o translated --missing", text["compare"])
    assert best
    assert best[1] in ("syndiff", "regression")


def test_paths_in_next_commands_are_quoted():
    assert after_generating(Path("my volumes")) == (
        "Next: scansynth measure --set 'my volumes' --cohort COHORT -o 'measured/my volumes'"
    )


def test_the_pages_commands_write_what_they_say(tour, folder):
    assert json.loads((folder / "out.json").read_text())["synthetic"] is True
    assert (folder / "t2.nii.gz").exists()
    assert (folder / "OUT/sub-002/anat/sub-002_desc-synthetic_T2w.nii.gz").exists()
    assert not (folder / "OUT/sub-001").exists()
    assert "copied source" in (folder / "evaluation/table.md").read_text()
    assert list((folder / "evaluation").glob("montage_syndiff_*.png"))
    assert len(list((folder / "generated/cdpm").glob("*.nii.gz"))) == 2
    assert "SYNTHETIC" in (folder / "sets/report.html").read_text()


def test_dry_run_writes_nothing(folder, tmp_path, capsys):
    assert main(["prepare", "-i", str(folder / "DATA"), "-o", str(tmp_path / "cohort"), "--dry-run"]) == 0
    assert "IXI001-Guys-0001" in capsys.readouterr().out
    assert not (tmp_path / "cohort").exists()


def test_a_preparation_recipe_and_what_is_given_beside_it(folder, tmp_path, capsys):
    command = ["prepare", "-i", str(folder / "DATA"), "-o", str(tmp_path / "cohort"), "--dry-run"]
    assert main([*command, "--recipe", "cg-ddpm"]) == 0
    assert "becomes 256×256×32 at 1×1×6 mm" in capsys.readouterr().out
    smaller = [*command, "--recipe", "cg-ddpm", "--size", "64", "48", "None"]
    assert main(smaller) == 1  # it cuts the heads off
    assert "[cut-off]" in capsys.readouterr().out
    assert main([*smaller, "--accept", "cut-off"]) == 0
    shown = capsys.readouterr().out
    assert "becomes 64×48×" in shown
    assert "at 1×1×6 mm" in shown


def test_a_settings_file_is_a_recipe(tour, folder, tmp_path):
    settings = folder / "runs/syndiff/config.yaml"
    command = ["train", str(settings), "--cohort", str(folder / "cohort"), "--run", str(tmp_path / "again")]
    assert main(command) == 0
    assert (tmp_path / "again/config.yaml").read_text() == settings.read_text()


def test_bad_input_is_one_line_and_exit_code_1(tour, folder, tmp_path, capfd):
    image = nib.load(folder / "t1.nii.gz")
    array = image.get_fdata(dtype=np.float32)
    nib.save(nib.Nifti1Image(np.stack([array, array], 3), image.affine), tmp_path / "4d.nii.gz")
    (tmp_path / "cut.nii.gz").write_bytes((folder / "t1.nii.gz").read_bytes()[:500])
    (tmp_path / "empty").mkdir()
    run, cohort = str(folder / "runs/syndiff"), str(folder / "cohort")
    (tmp_path / "typo.yaml").write_text((folder / "runs/syndiff/config.yaml").read_text() + "sede: 1\n")
    out = tmp_path / "out.nii.gz"
    translate = ["translate", "--run", run, "-o", str(out)]
    cases = [
        ([*translate, "--t1w", str(tmp_path / "4d.nii.gz")], "4d.nii.gz"),
        ([*translate, "--t1w", str(tmp_path / "cut.nii.gz")], "cut.nii.gz"),
        ([*translate, "--t1w", str(tmp_path / "none.nii.gz")], "none.nii.gz"),
        ([*translate, "--flair", str(folder / "t1.nii.gz")], "FLAIR"),
        ([*translate, "--t1w", str(folder / "t1.nii.gz"), "--target", "T3"], "T3"),
        ([*translate, "--source", "T1w"], "NAME=FILE"),
        (translate, "--t1w FILE"),
        (["prepare", "-i", str(tmp_path / "empty"), "-o", str(tmp_path / "c")], "empty"),
        (["prepare", "-i", str(folder / "DATA"), "-o", str(tmp_path / "c"), "--recipe", "cg"], "syndiff, cg-ddpm"),
        (["train", "regression_small", "--cohort", cohort, "--run", run], "holds a run of 'syndiff'"),
        (["train", "unknown", "--cohort", cohort, "--run", run], "unknown"),
        (["train", str(tmp_path / "typo.yaml"), "--cohort", cohort, "--run", run], "typo.yaml: unknown key 'sede'"),
        (["evaluate", "--run", str(tmp_path), "--cohort", cohort, "-o", str(tmp_path / "e")], "not a run folder"),
        (["evaluate", "--run", run, "--cohort", cohort, "-o", str(tmp_path / "e"), "--split", "holdout"], "holdout"),
        (["translate", "--run", run, "--t1w", "x.nii.gz", "-o", "x.nii.gz", "--device", "abacus"], "abacus"),
    ]
    for arguments, message in cases:
        assert main(arguments) == 1, arguments
        printed = capfd.readouterr().err
        assert message in printed
        assert printed.startswith("error: ")
        assert printed.count("\n") == 1, printed
    assert not out.exists()
    assert not (tmp_path / "c").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_on_a_machine_without_it_is_one_line_and_exit_code_1(tour, folder, tmp_path, capfd):
    run, cohort, out = str(folder / "runs/syndiff"), str(folder / "cohort"), tmp_path / "out.nii.gz"
    for command in (
        ["translate", "--run", run, "--t1w", str(folder / "t1.nii.gz"), "-o", str(out)],
        ["translate", "--run", run, "-i", str(folder / "BIDS"), "-o", str(tmp_path / "OUT")],
        ["train", "regression_small", "--cohort", cohort, "--run", str(tmp_path / "run")],
        ["generate", "--run", str(folder / "runs/cdpm"), "-n", "1", "-o", str(tmp_path / "generated")],
        ["evaluate", "--run", run, "--cohort", cohort, "-o", str(tmp_path / "evaluation")],
    ):
        assert main([*command, "--device", "cuda"]) == 1, command
        printed = capfd.readouterr().err
        assert printed.startswith("error: device 'cuda' is not available here"), command
        assert "use --device cpu or auto" in printed
        assert printed.count("\n") == 1, printed
    assert not list(tmp_path.iterdir())


def test_wrong_arguments_are_exit_code_2(capfd):
    assert main([]) == 2
    assert main(["transmogrify"]) == 2
    for arguments in (["train"], ["prepare"], ["evaluate", "--nonsense"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2


def test_existing_output_is_kept(tour, folder, capfd):
    before = (folder / "out.nii.gz").read_bytes()
    command = ["translate", "--run", str(folder / "runs/syndiff"), "--t1w", str(folder / "t1.nii.gz")]
    assert main([*command, "-o", str(folder / "out.nii.gz"), "--seed", "5"]) == 1
    assert (folder / "out.nii.gz").read_bytes() == before
    assert main([*command, "-o", str(folder / "out.nii.gz"), "--seed", "5", "--overwrite"]) == 0
    assert (folder / "out.nii.gz").read_bytes() != before


@pytest.mark.slow
def test_demo_on_own_data_makes_everything_and_resumes(folder, tmp_path, capfd):
    # A few steps only: whether a run beats the copied source is for the whole demo to show.
    command = ["demo", "-o", str(tmp_path / "demo"), "--minutes", "0.02", "--data", str(folder / "DATA")]
    code = main(command)
    assert code in (0, 1)
    printed = capfd.readouterr()
    assert ("better than its copied source" in printed.err) == (code == 1)
    assert (tmp_path / "demo/evaluation/table.md").read_text() in printed.out
    assert list((tmp_path / "demo/evaluation").glob("montage_*.png"))
    assert str(tmp_path / "demo/evaluation/report.html") in printed.out
    assert (tmp_path / "demo/evaluation/report.html").read_text(encoding="utf-8").endswith("</html>")
    assert len(list((tmp_path / "demo/translated").rglob("*_synthetic.nii.gz"))) == 2
    config = (tmp_path / "demo/runs/syndiff_small_supervised/config.yaml").read_text()
    assert main(command) == code
    assert (tmp_path / "demo/runs/syndiff_small_supervised/config.yaml").read_text() == config


@pytest.mark.slow
def test_the_demo_beats_the_copied_source(tmp_path, monkeypatch):
    """With two fifths of its steps already, so that all of them leave room to doubt nothing."""
    monkeypatch.setattr(demo, "STEPS", {name: steps * 2 // 5 for name, steps in demo.STEPS.items()})
    assert main(["demo", "-o", str(tmp_path / "demo")]) == 0


def test_every_training_option_that_a_message_names_is_there(capsys):
    sources = Path(scansynth.__file__).parent
    named = {
        option
        for path in sources.rglob("*.py")
        for option in re.findall(r"--(?:config|settings|training|data)\.[a-z.-]*[a-z]", path.read_text())
    }
    assert {"--settings.patch", "--training.batch-size"} <= named
    for recipe in (
        "iddpm_small",
        "cola_diff_small",
        "mrdiff_small",
        "flow_small",
        "pgan_small",
        "provogan_small",
        "resvit_small",
    ):  # the methods whose own settings are named
        with pytest.raises(SystemExit):
            main(["train", recipe, "--help-all"])
    options = set(re.findall(r"--[a-z.-]*[a-z]", capsys.readouterr().out))
    assert named <= options


def test_the_number_of_windows_at_once_is_a_flag_of_its_own():
    given = ["--run", "run", "-o", "out", "--windows", "3"]
    assert tyro.cli(VERBS["translate"], args=given).sampling.at_once == 3
    assert tyro.cli(VERBS["generate"], args=[*given, "-n", "1"]).at_once == 3


def settings_and_commands():
    """All dataclasses whose fields are options: the verbs, and the settings of a run of each method."""
    waiting = [*VERBS.values(), Conventions, RunConfig, *(entry.load().Config for entry in METHODS.values())]
    found = set()
    while waiting:
        kind = waiting.pop()
        if kind not in found:
            found.add(kind)
            waiting += [one for one in kind.__mro__[1:] if is_dataclass(one)]
            for one in fields(kind):
                waiting += [one.default_factory] if is_dataclass(one.default_factory) else []
                waiting += [type(one.default)] if is_dataclass(one.default) else []
    return found


def test_the_help_of_an_option_stands_alone():
    """It is read beside the option's name, not as what follows it: `--seed INT  Seed of the noise.`"""
    told = {
        f"{kind.__name__}.{name}": text
        for kind in settings_and_commands()
        for name, text in re.findall(r'^    (\w+): .*\n    """(.*)', inspect.getsource(kind), re.M)
    }
    assert {"Training.threads", "SynDiffConfig.learning_rate", "Demo.seed"} <= set(told)
    assert not {name: text for name, text in told.items() if text.startswith(("Of ", "That of "))}
