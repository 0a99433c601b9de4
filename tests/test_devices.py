"""Several processes: they make the run that one makes, end together, and share the subjects of a folder.

Real processes on the CPU: Gloo, started by Fabric. This file is also the program that some of them run.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import scansynth
from conftest import CASES, find_case, first_stage_if, toy_settings
from scansynth.cli import main
from scansynth.config import RunConfig, Training, to_yaml
from scansynth.data.cohort import Cohort
from scansynth.data.subject import sidecar_of
from scansynth.devices import Processes, find_device, start_processes
from scansynth.errors import InputError, ToldElsewhereError
from scansynth.method import Progress
from scansynth.synthesis.sampling import Sampling
from scansynth.training import checkpoint
from scansynth.training.engine import Engine
from scansynth.training.loop import step
from scansynth.training.parts import find_first_stage, make_method, make_parts
from scansynth.training.train import train

CPU = torch.device("cpu")
COMMAND = [sys.executable, "-m", "scansynth.cli"]
BATCH, STEPS = 4, 3


def environment(**more):
    """Of a command: one thread a process, and no trace of a launcher that started the tests."""
    foreign = ("SLURM", "TORCHELASTIC", "LOCAL_RANK", "RANK", "WORLD_SIZE", "MASTER", "NODE_RANK", "SCANSYNTH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"} | more


def run(*command, cwd=None, **more):
    command = [str(part) for part in command]
    return subprocess.run(
        command, cwd=cwd, env=environment(**more), capture_output=True, text=True, timeout=300, check=False
    )


# What the processes run, and the tests run as one process.


def watched_steps(name, cohort, processes, folder, first_stage):
    """Steps of a case: losses, the gradients that each player steps with, and all that is trained.

    One process saves the training after each step. Several go on from what one has saved, so that each step is
    compared from an equal start: what rounding grows to in the course of an adversarial training is not measured.
    """
    method_name, settings = find_case(name)
    config = RunConfig(method_name, settings, ("T1w", "T2w"), training=Training(batch_size=BATCH))
    stage = find_first_stage(
        config,
        cohort,
        folder / "none",
        given=first_stage_if(method_name, first_stage),
        overwrite=False,
        processes=processes,
    )
    method, dataset = make_parts(config, cohort, processes, first_stage=stage)
    engine = Engine(method, processes.device, "float32", gradient_clip=0.1, processes=processes)
    seen = {}

    def watch(player):
        def hook(*_):
            for number, parameter in enumerate(engine.parameters_of(player)):
                if parameter.grad is not None:  # maps too small for a filter's last levels leave these unused
                    seen[f"step {engine.progress.step} gradient {player}/{number}"] = parameter.grad.clone()

        engine.optimizers[player].register_step_pre_hook(hook)

    for player in engine.optimizers:
        watch(player)
    for number in range(STEPS):
        if number and processes.count > 1:
            engine.load(checkpoint.current(folder / f"{name}-{number}"))
        seen |= {f"step {number} before/{key}": value.clone() for key, value in trained(engine).items()}
        items = [dataset[number * BATCH + place] for place in processes.share(BATCH)]
        batch = {key: torch.stack([item[key] for item in items]) for key in items[0]}
        step(engine, batch, config, number, Progress(number, 10, 0.0))
        seen |= {f"step {number} loss/{key}": torch.tensor(value) for key, value in engine.mean_losses().items()}
        seen |= {f"step {number} after/{key}": value.clone() for key, value in trained(engine).items()}
        if processes.count == 1:
            engine.save(folder / f"{name}-{number + 1}", number + 1, {})
    return seen


def trained(engine):
    nets = checkpoint.flatten(dict(engine.method.nets.items()))
    return nets | {f"average of {key}": value for key, value in checkpoint.flatten(engine.averages).items()}


def facts(processes, cohort):
    """What a process learns of the others' faults, and of gradients that not all have."""
    seen = {"rank": processes.rank, "first": processes.first, "share": list(processes.share(6))}
    seen["from first"] = processes.from_first(lambda: processes.rank)
    seen["gathered"] = processes.gather(processes.rank)
    rows, own = processes.joined(torch.arange(2)[:, None] + 10 * processes.rank)
    seen["joined"] = [rows.flatten().tolist(), own.start, own.stop]

    def told(function):
        try:
            function()
        except InputError as error:
            return f"{type(error).__name__}: {error}"

    def fail_in(rank):
        with processes.agreeing():
            if processes.rank == rank:
                raise InputError(f"the fault of {rank}")

    def fail():
        raise InputError("the first one's fault")

    seen["agreed"] = told(lambda: fail_in(1))
    seen["failed first"] = told(lambda: processes.from_first(fail))
    engine = Engine(make_method(RunConfig("regression", toy_settings("regression"), ("T1w", "T2w"))), CPU, "float32")
    engine.processes = processes
    used, partly, unused = engine.parameters_of("G")[:3]
    before = [parameter.detach().clone() for parameter in (used, partly, unused)]
    nan = float("nan") if processes.rank == 1 else 1.0
    seen["not finite"] = told(lambda: engine.update("G", {"loss": (used.sum() + partly.sum()) * nan}))
    seen["moved by it"] = [bool((a != b).any()) for a, b in zip(before, (used, partly, unused), strict=True)]
    gradients = []
    engine.optimizers["G"].register_step_pre_hook(lambda *_: gradients.extend([used.grad, partly.grad, unused.grad]))
    losses = {"loss": used.sum() * (1 + processes.rank)}
    if processes.rank == 1:
        losses["more"] = partly.sum()
    engine.update("G", {"loss": torch.stack(list(losses.values())).sum()})
    seen["gradients"] = [None if gradient is None else gradient.flatten()[0].item() for gradient in gradients]
    with torch.no_grad():
        nn.init.constant_(used, processes.rank)
    engine.start_equal()
    seen["started with"] = used.flatten()[0].item()
    return seen


def program(cohort, folder, first_stage):
    """What two processes do for the tests below."""
    with start_processes("cpu", devices=2) as processes:
        for name in CASES:
            seen = watched_steps(name, Cohort.open(cohort), processes, folder, first_stage)
            save_file(seen, folder / f"{name}-process-{processes.rank}.safetensors")
        (folder / f"facts-{processes.rank}.json").write_text(json.dumps(facts(processes, cohort)))


if __name__ == "__main__":
    program(*map(Path, sys.argv[1:]))


@pytest.fixture(scope="module")
def one(cohort, first_stage, tmp_path_factory):
    """What one process sees in each case, and the folder of its checkpoints."""
    folder = tmp_path_factory.mktemp("steps")
    return {name: watched_steps(name, cohort, Processes(CPU), folder, first_stage) for name in CASES}, folder


@pytest.fixture(scope="module")
def two(one, cohort, first_stage):
    """The folder in which two processes have written what they saw."""
    done = run(sys.executable, __file__, cohort.folder, one[1], first_stage)
    assert done.returncode == 0, done.stderr
    return one[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(one, two, name):
    alone = one[0][name]
    first, second = (load_file(two / f"{name}-process-{rank}.safetensors") for rank in range(2))
    assert alone.keys() == first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first), "the processes differ"
    # The translators' rectifiers: where rounding moves one across its kink, a gradient jumps by a pixel's share.
    gradient_tolerance, weight_tolerance = (2e-2, 2e-2) if name == "syndiff unpaired" else (1e-5, 1e-4)
    for number in range(STEPS):
        losses = [key for key in alone if key.startswith(f"step {number} loss/")]
        assert losses
        for key in losses:
            assert first[key].item() == pytest.approx(alone[key].item(), rel=1e-4), key
        for player in make_method(RunConfig(*find_case(name), ("T1w", "T2w"))).players:
            own, shared = (joined(seen, f"step {number} gradient {player}/") for seen in (alone, first))
            assert (own - shared).norm() <= gradient_tolerance * own.norm(), f"gradient of {player}, step {number}"
        before, own, shared = (
            joined(alone, f"step {number} before/"),
            joined(alone, f"step {number} after/"),
            joined(first, f"step {number} after/"),
        )
        assert (own - before).norm() > 1e-3
        assert (own - shared).norm() <= weight_tolerance * (own - before).norm(), f"weights, step {number}"


def joined(seen, prefix):
    return torch.cat([seen[key].flatten().double() for key in sorted(seen) if key.startswith(prefix)])


@pytest.mark.slow
def test_processes_know_of_each_other(two):
    seen = [json.loads((two / f"facts-{rank}.json").read_text()) for rank in range(2)]
    assert [(part["rank"], part["first"], part["share"]) for part in seen] == [
        (0, True, [0, 1, 2]),
        (1, False, [3, 4, 5]),
    ]
    for part, error in zip(seen, ("InputError", "ToldElsewhereError"), strict=True):
        assert part["from first"] == 0
        assert part["gathered"] == [0, 1]
        assert part["joined"] == [[0, 1, 10, 11], 2 * part["rank"], 2 * part["rank"] + 2]
        assert part["agreed"] == f"{error}: the fault of 1"
        assert part["failed first"] == f"{error}: the first one's fault"
        assert part["not finite"].startswith(f"{error}: step 0: the loss of player 'G' is not finite (loss nan)")
        assert part["moved by it"] == [False, False, False]
        assert part["gradients"] == [1.5, 0.5, None]
        assert part["started with"] == 0.0


# The commands.


def write_settings(folder):
    """Settings files of toy runs, by method."""
    # Of float32, as what two processes share differs by rounding: a processor with bfloat16 would round a hundred times
    # as coarsely.
    training = Training(
        steps=3, batch_size=BATCH, log_every=1, validate_every=3, validation_slices=2, precision="float32"
    )
    for name in ("syndiff", "regression"):
        config = RunConfig(*find_case(name), ("T1w", "T2w"), training=training)
        (folder / f"{name}.yaml").write_text(to_yaml(config))
    return folder


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return write_settings(tmp_path_factory.mktemp("settings"))


@pytest.fixture(scope="module")
def finished(settings, cohort, tmp_path_factory):
    """A run of SynDiff by two processes, and what the command printed."""
    folder = tmp_path_factory.mktemp("run") / "run"
    options = ["--cohort", cohort.folder, "--run", folder, "--device", "cpu", "--devices", 2]
    done = run(*COMMAND, "train", settings / "syndiff.yaml", *options)
    assert done.returncode == 0, done.stderr
    return folder, done


def losses(folder):
    """Losses of each step, from metrics.jsonl."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [part for line in lines if (part := {key: value for key, value in line.items() if key[:2] in ("D/", "G/")})]


def test_train_by_two_processes(finished, cohort, tmp_path):
    folder, done = finished
    assert done.stdout.count("trained.") == 1
    assert [line.startswith("Next: ") for line in done.stdout.splitlines()] == [False, True]
    assert done.stderr.count("networks compute in") == 1
    assert [line for line in done.stderr.splitlines() if "training" in line] == ["training run (3)"]
    assert json.loads((folder / "environment.json").read_text())["processes"] == "2"
    assert [path.name for path in (folder / "validation").iterdir() if "T2w" in path.name] == ["step-00000003_T2w.png"]
    config = scansynth.load(folder).config
    longer = replace(config, training=replace(config.training, steps=5))
    train(config, cohort, tmp_path / "one", device=CPU)
    assert_close_losses(losses(folder), losses(tmp_path / "one"))
    # Two more steps by one process; the run does not know who made the first three.
    train(longer, cohort, folder, device=CPU)
    train(longer, cohort, tmp_path / "one", device=CPU)
    assert len(losses(folder)) == 5
    assert_close_losses(losses(folder), losses(tmp_path / "one"))


def assert_close_losses(some, others):
    assert len(some) == len(others)
    for a, b in zip(some, others, strict=True):
        assert a == pytest.approx(b, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["regression.yaml"], "holds a run of 'syndiff', not 'regression'"),
        pytest.param(
            ["syndiff.yaml", "--training.batch-size", 3], "give --training.batch-size 2 or a multiple of it",
            marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_bad_input_ends_all_with_one_message(finished, settings, cohort, arguments, message):
    before = (finished[0] / "config.yaml").read_text()
    options = ["--cohort", cohort.folder, "--run", finished[0], "--device", "cpu", "--devices", 2]
    done = run(*COMMAND, "train", settings / arguments[0], *arguments[1:], *options)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert (finished[0] / "config.yaml").read_text() == before


def translating(run_folder, phantoms, out):
    """The command that translates the phantoms' folder by two processes."""
    command = [*COMMAND, "translate", "--run", run_folder, "-i", phantoms.root / "table.csv", "-o", out]
    return [str(part) for part in [*command, "--device", "cpu", "--samples", 2, "--devices", 2]]


def assert_shared(done, run_folder, data, out):
    """All 12 images are there and listed, and each process made what one process alone would."""
    assert done.returncode == 0, done.stderr
    images = whole_images(out)
    assert len(images) == 12
    listed = (out / "contrasts.tsv").read_text().splitlines()
    assert [line.split() for line in done.stdout.splitlines()] == [line.split() for line in listed[1:]]
    made = sorted(path.relative_to(out).as_posix() for path in images)
    assert made == sorted(line.split("\t")[3] for line in listed if "\tsynthetic\t" in line)
    assert sum("\treal\t" in line for line in listed) == 12
    run_ = scansynth.load(run_folder, "cpu")
    for path in (images[0], images[-1]):
        sidecar = json.loads(sidecar_of(path).read_text())
        sources = {name: data / place for name, place in sidecar["sources"].items()}
        sampling = Sampling(samples=2)
        alone = run_.translate(sources, sidecar["target"], sampling=sampling, subject=sidecar["subject"])
        np.testing.assert_allclose(nib.load(path).get_fdata(dtype=np.float32), alone.array, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_folder_is_shared(finished, phantoms, tmp_path):
    done = run(*translating(finished[0], phantoms, tmp_path / "out"))
    assert_shared(done, finished[0], phantoms.root, tmp_path / "out")


@pytest.mark.slow
def test_a_folder_is_shared_killed_and_finished(finished, phantoms, tmp_path):
    out = tmp_path / "out"
    command = translating(finished[0], phantoms, out)
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        try:
            wait_for(lambda: whole_images(out), started)
            (child,) = Path(f"/proc/{started.pid}/task/{started.pid}/children").read_text().split()
            os.kill(int(child), signal.SIGKILL)
            assert started.wait(60) != 0
        finally:
            started.kill()
    kept = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in whole_images(out)}
    assert 0 < len(kept) < 12
    assert not (out / "contrasts.tsv").exists()
    done = run(*command)
    images = whole_images(out)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in images if path in kept} == kept
    assert_shared(done, finished[0], phantoms.root, out)


def whole_images(out):
    """Images whose sidecar is there, without the single samples and deviations of each."""
    images = sorted(path for path in out.rglob("*_synthetic.nii.gz") if not path.name.startswith("."))
    return [path for path in images if sidecar_of(path).exists()]


def wait_for(condition, started):
    limit = time.monotonic() + 120
    while not condition():
        assert started.poll() is None, started.stderr.read().decode()
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_wrong_numbers_are_refused(monkeypatch, tmp_path, capfd):
    for variable in ("TORCHELASTIC_RUN_ID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(variable, raising=False)

    def start(**numbers):
        with start_processes("cpu", **numbers):
            pass

    with pytest.raises(InputError, match="give at least 1"):
        start(devices=0)
    with pytest.raises(InputError, match="torchrun or srun"):
        start(nodes=2)
    monkeypatch.setattr("scansynth.devices.GRACE", 0)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    for rank, error in (("0", InputError), ("3", ToldElsewhereError)):
        monkeypatch.setenv("SLURM_PROCID", rank)
        with pytest.raises(error, match="has started 4 processes, but --devices 2 times --nodes 1 is 2") as caught:
            start(devices=2)
        assert type(caught.value) is error
    monkeypatch.setenv("SLURM_NTASKS", "4")  # and no SLURM_NTASKS_PER_NODE: Fabric wants it
    monkeypatch.setenv("SLURM_PROCID", "0")
    with pytest.raises(InputError, match="ntasks-per-node"):
        start(devices=4)
    with pytest.raises(InputError, match="device 'cpu:1'"):
        find_device("cpu:1")
    one_subject = ["translate", "--run", "r", "--t1w", "t1.nii.gz", "-o", str(tmp_path / "t2.nii.gz")]
    assert main([*one_subject, "--devices", "2"]) == 1
    assert "several --devices repeat the command line" in capfd.readouterr().err
    assert main([*one_subject, "--nodes", "2"]) == 1
    assert "go with a folder" in capfd.readouterr().err


def test_devices():
    assert find_device("cpu") == CPU
    assert find_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(InputError, match="use auto, cpu, cuda or mps"):
        find_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there():
    with pytest.raises(InputError, match="'cuda' is not available here") as caught:
        find_device("cuda")
    assert "\n" not in str(caught.value)
