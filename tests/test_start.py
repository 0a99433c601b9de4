"""How quickly the command line answers. A time is not tested, for a busy machine has none: what is imported is."""

import subprocess
import sys

import pytest

import scansynth

SLOW = {
    "PIL", "blosc2", "dipy", "filelock", "jinja2", "lightning", "matplotlib", "nibabel", "numpy", "pandas", "pydantic",
    "pytorch_lightning", "safetensors", "scipy", "skimage", "sklearn", "tensorboard", "torch", "torchmetrics", "yaml",
}  # fmt: skip
"""Packages that a list or a help needs nothing of. torch alone takes seconds."""


def started(*arguments):
    """What a fresh `python -m scansynth` prints, and the modules that it imports."""
    command = [sys.executable, "-X", "importtime", "-m", "scansynth", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = (line for line in done.stderr.splitlines() if line.startswith("import time:"))
    return done.stdout, {line.rpartition("|")[2].strip() for line in lines}


def test_the_package_is_a_command():
    printed, _ = started("--version")
    assert printed.strip() == scansynth.__version__
    wrong = subprocess.run([sys.executable, "-m", "scansynth", "transmogrify"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "no verb 'transmogrify'" in wrong.stderr


@pytest.mark.parametrize(("argument", "most"), [("--help", 320), ("methods", 460)])
def test_help_and_methods_import_little(argument, most):
    """Measured when this was written (benchmarks/start.py): 245 modules in 0.3 s, 360 in 0.4 s.

    The budget is 0.5 s for the help and 1 s for the methods.
    """
    printed, modules = started(argument)
    assert "syndiff" in printed or "translate" in printed
    assert "scansynth.cli" in modules  # so that the list is one
    assert {name.split(".")[0] for name in modules} & SLOW == set()
    assert len(modules) <= most


def test_what_is_slow_is_seen():
    """The list above would be of no use if a package's name in it were not that of its import."""
    code = "import scansynth.data.volume"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=True)
    names = {line.rpartition("|")[2].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert {"numpy", "nibabel"} <= names & SLOW
