"""What packages lend by name: all of it is there, and importing them loads nothing."""

import importlib
import subprocess
import sys

import pytest

import scansynth

PACKAGES = ("scansynth", "scansynth.diffusion", "scansynth.metrics", "scansynth.networks")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_is_there_and_is_listed(package):
    module = importlib.import_module(package)
    assert list(module.__all__) == sorted(
        module.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name)
    )
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = module.nothing


def test_names_are_those_of_their_modules():
    from scansynth.evaluation.pair import measure
    from scansynth.methods import METHODS

    assert scansynth.METHODS is METHODS
    assert scansynth.measure is measure
    assert importlib.import_module("scansynth.planning.plan").plan is not scansynth.plan


def test_importing_packages_loads_neither_torch_nor_numpy():
    code = f"import {', '.join(PACKAGES)}, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "numpy", "nibabel", "scipy", "yaml"}


def test_a_plan_is_made_of_a_cohort(cohort):
    planned = scansynth.plan(cohort.folder, ["t2"], hours=0.01, device="cpu")
    assert planned.config.settings.targets == ("T2w",)
    assert planned.lines()
