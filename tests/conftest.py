"""A small cohort of phantoms and the methods at toy size, for the tests that need a whole training.

What only these tests need is imported where it is used: a file of mathematics starts without the methods, the data and
the training loop.
"""

from dataclasses import replace
from functools import cache

import pytest
import torch

from scansynth.methods import METHODS

# Toy networks gain nothing from more, and on a busy machine threads that wait for each other take minutes.
torch.set_num_threads(1)

VARIANTS = {
    "syndiff unpaired": ("syndiff", {"variant": "unpaired"}),
    "regression on volumes": ("regression", {"patch": (16, 16, 8), "wavelets": 1}),
    "ddpm on volumes": ("ddpm", {"wavelets": 1, "multipliers": (1, 2), "window_levels": (), "output": "velocity"}),
    "flow on volumes": ("flow", {"patch": (16, 16, 8), "wavelets": 1}),
    "ddpm on slices": ("ddpm", {"patch": None, "output": "x0", "variance": "fixed", "sampler": "ddim"}),
}
CASES = (*METHODS, *VARIANTS)
"""Names: each method at toy size, some in two variants."""


FEWER = {"cg_ddpm": {"sampling_steps": 2}, "ddpm": {"sampling_steps": 2}, "consistency": {"learning_rate": 0.1}}
"""What is other than in `Config.tiny()`: the 27 patches of each volume would take most of the tests' time; the first
five steps of RAdam are rate times gradient, and are to be seen beside rounding."""


@cache
def toy_settings(method):
    """A method's settings at toy size."""
    return replace(METHODS[method].load().Config.tiny(), **FEWER.get(method, {}))


@cache
def find_case(name):
    """Method and settings of a case."""
    method, changes = VARIANTS.get(name, (name, {}))
    return method, replace(toy_settings(method), **changes)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """Six subjects with T1w and T2w as NIfTI files: four train, one validates, one tests."""
    from scansynth.data.layouts import find_subjects
    from scansynth.data.phantom import write_phantom_cohort

    folder = tmp_path_factory.mktemp("phantoms")
    write_phantom_cohort(folder, 6, ("T1w", "T2w"), layout="table", shape=(32, 32, 16), spacing=6.0)
    return find_subjects(folder / "table.csv")


@pytest.fixture(scope="session")
def cohort(phantoms, tmp_path_factory):
    """The phantoms prepared, with tissue densities."""
    from scansynth.data.build_cohort import build_cohort
    from scansynth.data.build_tissue import TissueSettings
    from scansynth.data.prepare import Preparation

    settings = Preparation(size=(32, 32, None))
    return build_cohort(phantoms, tmp_path_factory.mktemp("cohort"), settings, tissue=TissueSettings())


@pytest.fixture(scope="session")
def gridded(phantoms, tmp_path_factory):
    """The phantoms prepared on one grid, as generators want it."""
    from scansynth.data.build_cohort import build_cohort
    from scansynth.data.prepare import Preparation

    settings = Preparation(spacing=(6.0, 6.0, 6.0), size=(32, 32, 16))
    return build_cohort(phantoms, tmp_path_factory.mktemp("gridded"), settings)


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """Each method at toy size, some in two variants: name of the method and its settings."""
    return find_case(request.param)


@pytest.fixture(scope="session")
def tiny():
    """A run of few steps: `tiny(method, settings, **fields of Training)`."""
    from scansynth.config import RunConfig, Training

    def make(method="regression", settings=None, **training):
        training = {
            "steps": 10, "batch_size": 2, "log_every": 2, "validation_slices": 3, "precision": "float32",
        } | training  # fmt: skip
        return RunConfig(method, settings or toy_settings(method), ("T1w", "T2w"), training=Training(**training))

    return make


@pytest.fixture(scope="session")
def first_stage(cohort, tiny, tmp_path_factory):
    """Run folder of the autoencoder that latent methods work on."""
    from scansynth.training.train import train

    run = tmp_path_factory.mktemp("first") / "stage"
    train(tiny("autoencoder", steps=60, batch_size=4, validate_every=60), cohort, run, device=torch.device("cpu"))
    return run


def first_stage_if(method, run):
    """The run, for a method that needs one."""
    return run if METHODS[method].load().needs_of(toy_settings(method), ("T1w", "T2w")).first_stage else None
