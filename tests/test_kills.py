"""`scansynth train`, killed from outside and started again, ends in the same run to the last bit.

The harness is that of `benchmarks/kills.py`, which does the same at length.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import scansynth
from scansynth.training import checkpoint, stopping
from scansynth.training.train import train

if os.name != "posix":
    pytest.skip("needs SIGKILL and process groups", allow_module_level=True)

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.append(str(BENCHMARKS))  # scripts, no package: nothing that is installed

import kills  # noqa: E402
from kills_digest import differences, digest, figures, left_over  # noqa: E402
from kills_random import ASKS, PHASES, Command, Plan  # noqa: E402
from kills_sweep import SCENARIOS  # noqa: E402

CONFIG = kills.settings("regression_small", steps=30, checkpoint_every=3, validate_every=10)


@pytest.fixture(scope="module")
def finished(cohort, tmp_path_factory):
    """A run that this process made."""
    run = tmp_path_factory.mktemp("kills") / "run"
    train(CONFIG, cohort, run, device=torch.device("cpu"))
    return run


@pytest.fixture(scope="module")
def runs(cohort, tmp_path_factory):
    """A run that was left in peace, one that was killed three times, and what the kills hit."""
    folder = tmp_path_factory.mktemp("kills")
    whole, killed = (Command(CONFIG, cohort.folder, folder / name) for name in ("whole", "killed"))
    process = whole.start()  # beside the others: most of the time goes into imports
    hit = [
        killed.kill(Plan("folder is made")),
        killed.kill(Plan("checkpoint in writing", count=2)),
        killed.kill(Plan("line of metrics.jsonl", count=3)),
    ]
    killed.finish(killed.start())
    whole.finish(process)
    return whole.run, killed.run, hit


@pytest.mark.slow
def test_a_killed_run_ends_as_if_it_had_not_been_killed(runs):
    whole, killed, hit = runs
    assert all(hit), "a process came to its end before it was killed"
    making, writing, training = hit
    assert making.checkpoint is None
    assert any(name.startswith("last/step-") and name.endswith(".tmp") for name in writing.left)
    assert (training.checkpoint or 0) >= (writing.checkpoint or 0)
    assert training.line
    assert training.line < 30
    assert training.where, "the process did not say what it was doing"
    assert [line["step"] for line in figures(whole)][-1] == 30
    assert differences(digest(whole), digest(killed)) == []
    assert not [name for name in left_over(killed) if name.endswith(".tmp")]


def test_asking_for_the_stack_is_not_asking_to_stop():
    assert ASKS not in stopping.SIGNALS


@pytest.mark.parametrize("place", [place for place in PHASES if place != "import"])
def test_what_a_kill_hit_is_named_by_functions_that_exist(place):
    file, function = place.split(".")
    text = (Path(scansynth.__file__).parent / "training" / f"{file}.py").read_text()
    assert re.search(rf"^ *def {function}\(", text, re.MULTILINE)


def one_bit(run):
    path = checkpoint.current(run / "last") / "optimizers.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("exp_avg"))
    tensors[name].view(-1).view(torch.int32)[0] ^= 1
    save_file(tensors, path)


def edit(name, change):
    def apply(run):
        path = run / name
        path.write_text(change(path.read_text()))

    return apply


def swap_lines(text):
    first, second, *rest = text.splitlines(keepends=True)
    return "".join([second, first, *rest])


def slower(text):
    lines = [json.loads(line) for line in text.splitlines()]
    return "".join(json.dumps({**line, "seconds_per_step": 9.0}) + "\n" for line in lines)


def another_best(run):
    path = checkpoint.current(run / "best") / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "validation_psnr": 99.0}))


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (one_bit, ["last/optimizers"]),
        (another_best, ["best/state.json"]),
        (edit("metrics.jsonl", swap_lines), ["metrics.jsonl"]),
        (edit("metrics.jsonl", lambda text: text + '{"step": 30}\n'), ["metrics.jsonl"]),
        (edit("metrics.jsonl", slower), []),
        (edit("config.yaml", lambda text: text.replace("seed: 0", "seed: 1")), ["config.yaml"]),
        (lambda run: next((run / "validation").iterdir()).unlink(), ["validation"]),
    ],
)
def test_the_comparison_sees_one_bit_and_no_clock(finished, tmp_path, change, parts):
    shutil.copytree(finished, tmp_path / "run")
    change(tmp_path / "run")
    assert differences(digest(finished), digest(tmp_path / "run")) == parts


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_kill_before_any_file_operation_changes_nothing(scenario):
    """In a process of its own, as it forks, and this one may have threads."""
    command = [sys.executable, str(BENCHMARKS / "kills.py"), "sweep", "--cases", "regression_small"]
    done = subprocess.run([*command, "--scenarios", scenario, "--only", "8"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
