"""The scripts of docs/clusters.md as they stand, but for what a toy needs: torchrun, and a stand-in for SLURM."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import scansynth
from scansynth.training.train import train
from test_devices import COMMAND, assert_close_losses, environment, losses, run, whole_images, write_settings

CPU = torch.device("cpu")

SRUN = """#!/bin/bash
# A stand-in for srun: it starts the tasks of the job on this machine, with SLURM's variables.
while [[ "$1" == --* ]]; do shift; done
tasks=$((SLURM_NNODES * SLURM_NTASKS_PER_NODE)) status=0
for ((task = 0; task < tasks; task++)); do
    export SLURM_NTASKS=$tasks SLURM_STEP_NUM_TASKS=$tasks SLURM_PROCID=$task
    export SLURM_LOCALID=$((task % SLURM_NTASKS_PER_NODE)) SLURM_NODEID=$((task / SLURM_NTASKS_PER_NODE))
    "$@" &
    started[task]=$!
done
for one in "${started[@]}"; do wait "$one" || status=1; done
exit $status
"""


@pytest.fixture
def site(cohort, phantoms, tmp_path):
    """A folder in which the scripts run: `.venv`, `cohort`, `BIDS` and a recipe of toy size, with srun in the path."""
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    (tmp_path / "cohort").symlink_to(cohort.folder)
    (tmp_path / "BIDS").symlink_to(phantoms.root)
    write_settings(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/srun").write_text(SRUN)
    (tmp_path / "bin/scansynth").write_text(f'#!/bin/bash\nexec {sys.executable} -m scansynth.cli "$@"\n')
    (tmp_path / "bin/torchrun").write_text(f'#!/bin/bash\nexec {sys.executable} -m torch.distributed.run "$@"\n')
    for program in (tmp_path / "bin").iterdir():
        program.chmod(0o755)
    text = (Path(__file__).parent.parent / "docs/clusters.md").read_text()
    scripts = re.findall(r"```sh\n(#!/bin/bash.*?)```", text, re.S)
    for name, script in zip(("torchrun", "train", "translate"), scripts, strict=True):
        for there, here in (
            ("train syndiff ", "train syndiff.yaml "),
            ("--training.batch-size 8", "--training.batch-size 4"),
            ("--device cuda --devices 4", "--device cpu --devices 1"),
            ("--device cuda", "--device cpu"),
            ("--nproc-per-node 4", "--nproc-per-node 1"),
            ("-i BIDS", "-i BIDS/table.csv"),
            (" --missing", ""),
        ):
            script = script.replace(there, here)
        (tmp_path / f"{name}.sh").write_text(script)
    return tmp_path


@pytest.mark.slow
def test_the_scripts_for_slurm(site, cohort):
    job = {"SLURM_JOB_ID": "4242", "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "127.0.0.1", "SLURM_CPUS_PER_TASK": "1"}
    job |= {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "PATH": f"{site / 'bin'}:{os.environ['PATH']}"}
    machines = {"SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "1"}
    done = run("bash", "train.sh", cwd=site, **job, **machines)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained.") == 1
    train(scansynth.load(site / "runs/syndiff").config, cohort, site / "one", device=CPU)
    assert_close_losses(losses(site / "runs/syndiff"), losses(site / "one"))
    devices = {"SLURM_NNODES": "1", "SLURM_NTASKS_PER_NODE": "2"}
    done = run("bash", "translate.sh", cwd=site, **job, **devices)
    assert done.returncode == 0, done.stderr
    assert len(whole_images(site / "OUT")) == done.stdout.count("\tsynthetic\t") == 12
    # The batch script itself is one process: without srun the command starts the others.
    options = ["--cohort", "cohort", "--run", "runs/alone", "--device", "cpu", "--devices", 2]
    done = run(*COMMAND, "train", "syndiff.yaml", *options, cwd=site, **job, **devices)
    assert done.returncode == 0, done.stderr
    assert_close_losses(losses(site / "runs/alone"), losses(site / "one"))


@pytest.mark.slow
def test_the_script_for_torchrun(site, cohort):
    variables = environment(PATH=f"{site / 'bin'}:{os.environ['PATH']}")
    command = ["bash", "torchrun.sh"]
    machines = [
        subprocess.Popen([*command, str(number), "127.0.0.1"], cwd=site, env=variables, stdout=subprocess.PIPE)
        for number in range(2)
    ]
    printed = [machine.communicate(timeout=300)[0].decode() for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0]
    assert [text.count("trained.") for text in printed] == [1, 0]
    train(scansynth.load(site / "runs/syndiff").config, cohort, site / "one", device=CPU)
    assert_close_losses(losses(site / "runs/syndiff"), losses(site / "one"))
