"""The run that comes with the package, and trainings that start from it or another run of more contrasts."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

import scansynth
from scansynth.cli import main
from scansynth.data.build_cohort import build_cohort
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import make_phantom, write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.errors import InputError
from scansynth.recipes import find_recipe
from scansynth.synthesis.inspection import inspect
from scansynth.synthesis.places import STARTER, find_run
from scansynth.training.train import train

CPU = torch.device("cpu")


def test_it_is_whole_small_and_says_what_it_is():
    found = inspect(STARTER)
    assert found.off == ()
    assert found.told["contrasts"] == found.told["makes"] == ["T1w", "T2w", "PDw", "FLAIR", "T1ce"]
    assert "phantom" in found.told["training data"]["description"]
    assert any("never seen a scan of a person" in limit for limit in found.told["limits"])
    size = sum(path.stat().st_size for path in find_run(STARTER).rglob("*") if path.is_file())
    assert size < 10e6


def test_a_folder_of_its_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / STARTER).mkdir()
    with pytest.raises(InputError, match="not a run folder"):
        scansynth.load(STARTER, "cpu")


def test_it_makes_a_first_image_without_training(tmp_path, caplog):
    phantom = make_phantom(77, (64, 80, 32), 3.0)
    for name in ("T1w", "T2w"):
        nib.save(nib.Nifti1Image(phantom.contrast(name), phantom.affine), tmp_path / f"{name}.nii.gz")
    out = tmp_path / "out.nii.gz"
    command = ["translate", "--run", STARTER, "--t1w", str(tmp_path / "T1w.nii.gz"), "--target", "T2w", "-o", str(out)]
    assert main(command) == 0
    assert "keeps nothing of what its training scans were like" in caplog.text
    told = json.loads((tmp_path / "out.json").read_text())
    assert (told["run"], told["synthetic"]) == ("starter", True)
    made, t1, t2 = (np.asarray(nib.load(path).dataobj) for path in (out, *sorted(tmp_path.glob("T?w.nii.gz"))))
    head = t1 > 0

    def likeness(image):
        return np.corrcoef(image[head], t2[head])[0, 1]

    assert likeness(made) > 0.8
    assert likeness(t1) < 0


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A cohort of three contrasts, and one of the same subjects that lacks one."""
    folder = tmp_path_factory.mktemp("three")
    contrasts = ("T1w", "T2w", "FLAIR")
    write_phantom_cohort(folder / "data", 3, contrasts, layout="table", shape=(32, 32, 16), spacing=6.0)
    listing = find_subjects(folder / "data" / "table.csv")
    settings = Preparation(size=(32, 32, None))
    fewer = tuple(
        replace(one, scans={name: path for name, path in one.scans.items() if name != "T2w"})
        for one in listing.subjects
    )
    return (
        build_cohort(listing, folder / "three", settings),
        build_cohort(replace(listing, subjects=fewer, contrasts=("T1w", "FLAIR")), folder / "two", settings),
    )


def test_a_run_starts_from_one_of_more_contrasts_and_computes_the_same(three, tiny, tmp_path):
    cohort, fewer = three
    config = replace(tiny(steps=3), contrasts=("T1w", "T2w", "FLAIR"))
    train(config, cohort, tmp_path / "more", device=CPU)
    own = replace(config, contrasts=("FLAIR", "T1w"), training=replace(config.training, steps=1))
    frozen = replace(own, settings=replace(own.settings, learning_rate=0.0))
    train(frozen, fewer, tmp_path / "fewer", device=CPU, init=tmp_path / "more")
    more, less = (scansynth.load(tmp_path / name, "cpu").method for name in ("more", "fewer"))
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        given = torch.tensor([[True, False, False]]), torch.tensor([[False, False, True]])
        whole = more.predict(images * torch.tensor([1.0, 0, 0])[:, None, None], *given)
        swapped = torch.stack([torch.zeros(1, 32, 32), images[:, 0]], dim=1)
        part = less.predict(swapped, torch.tensor([[False, True]]), torch.tensor([[True, False]]))
    assert torch.allclose(whole, part, atol=1e-5)


@pytest.mark.parametrize("change", ["more than it has", "a method that cannot"])
def test_what_cannot_be_started_so_is_refused(three, tiny, tmp_path, change):
    cohort, fewer = three
    method = "regression" if change == "more than it has" else "syndiff"
    names = ("T1w", "T2w", "FLAIR") if method == "regression" else ("T1w", "T2w")
    train(replace(tiny(method, steps=1), contrasts=("T1w", "FLAIR")), fewer, tmp_path / "two", device=CPU)
    config = replace(tiny(method, steps=1), contrasts=names)
    with pytest.raises(InputError, match="cannot start one of"):
        train(config, cohort, tmp_path / "x", device=CPU, init=tmp_path / "two")


def test_the_starter_starts_a_training_of_its_recipe(three, tmp_path):
    cohort, _ = three
    recipe = find_recipe("regression_small")
    config = replace(recipe, contrasts=("T1w", "T2w", "FLAIR"), training=replace(recipe.training, steps=1, threads=1))
    train(config, cohort, tmp_path / "run", device=CPU, init=find_run(STARTER))
    assert scansynth.load(tmp_path / "run", "cpu").weights["training_step"] == 1
