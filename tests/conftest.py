"""A small cohort of phantoms and the methods at toy size, for the tests that need a whole training."""

from dataclasses import replace

import pytest
import torch

from scansynth.config import RunConfig, Training
from scansynth.data.build_cohort import build_cohort
from scansynth.data.build_tissue import TissueSettings
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.methods import METHODS
from scansynth.methods.ddpm import DdpmConfig
from scansynth.methods.syndiff import SynDiffConfig
from scansynth.train import train

# Toy networks gain nothing from more, and on a busy machine threads that wait for each other take minutes.
torch.set_num_threads(1)

SETTINGS = {name: entry.load().Config.tiny() for name, entry in METHODS.items()}
CASES = {
    **{name: (name, settings) for name, settings in SETTINGS.items()},
    "syndiff unpaired": ("syndiff", replace(SynDiffConfig.tiny(), variant="unpaired")),
    "ddpm on slices": ("ddpm", replace(DdpmConfig.tiny(), patch=None, output="x0", variance="fixed", sampler="ddim")),
}
"""Name of the case → method and settings."""


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """Six subjects with T1w and T2w as NIfTI files: four train, one validates, one tests."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantom_cohort(folder, 6, ("T1w", "T2w"), layout="table", shape=(32, 32, 16), spacing=6.0)
    return find_subjects(folder / "table.csv")


@pytest.fixture(scope="session")
def cohort(phantoms, tmp_path_factory):
    """The phantoms prepared, with tissue densities."""
    settings = Preparation(size=(32, 32, None))
    return build_cohort(phantoms, tmp_path_factory.mktemp("cohort"), settings, tissue=TissueSettings())


@pytest.fixture(scope="session")
def gridded(phantoms, tmp_path_factory):
    """The phantoms prepared on one grid, as generators want it."""
    settings = Preparation(spacing=(6.0, 6.0, 6.0), size=(32, 32, 16))
    return build_cohort(phantoms, tmp_path_factory.mktemp("gridded"), settings)


@pytest.fixture(scope="session", params=CASES)
def case(request):
    """Each method at toy size, some in two variants: name of the method and its settings."""
    return CASES[request.param]


@pytest.fixture(scope="session")
def tiny():
    """A run of few steps: `tiny(method, settings, **fields of Training)`."""

    def make(method="regression", settings=None, **training):
        training = {
            "steps": 10, "batch_size": 2, "log_every": 2, "validation_slices": 3, "precision": "float32",
        } | training  # fmt: skip
        return RunConfig(method, settings or SETTINGS[method], ("T1w", "T2w"), training=Training(**training))

    return make


@pytest.fixture(scope="session")
def first_stage(cohort, tiny, tmp_path_factory):
    """Run folder of the autoencoder that latent methods work on."""
    run = tmp_path_factory.mktemp("first") / "stage"
    train(tiny("autoencoder", steps=60, batch_size=4, validate_every=60), cohort, run, torch.device("cpu"))
    return run


def first_stage_if(method, run):
    """The run, for a method that needs one."""
    settings = SETTINGS[method]
    return run if METHODS[method].load()(settings, ("T1w", "T2w")).needs.latent else None
