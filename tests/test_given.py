"""What networks see of a subject: one batch from files, in evaluation and in validation, and nothing of the target."""

import numpy as np
import pytest
import torch

import scansynth
from conftest import first_stage_if, toy_settings
from scansynth.data.build_cohort import build_cohort
from scansynth.data.build_tissue import TissueSettings
from scansynth.data.prepare import Preparation
from scansynth.evaluation.tasks import synthesise
from scansynth.given import given, sources_for
from scansynth.training.train import train
from scansynth.training.validation import synthesise_target, validation_targets

CPU = torch.device("cpu")
METHODS = ("regression", "cola_diff", "cdpm", "mrdiff")


@pytest.fixture(scope="module")
def uncropped(phantoms, tmp_path_factory):
    """The phantoms as they are: a crop hangs on what is known of a subject, and is tested elsewhere."""
    folder = tmp_path_factory.mktemp("uncropped")
    return build_cohort(phantoms, folder, Preparation(size=(None, None, None)), tissue=TissueSettings())


@pytest.fixture(scope="module")
def stage(uncropped, tiny, tmp_path_factory):
    run = tmp_path_factory.mktemp("first") / "stage"
    train(tiny("autoencoder", steps=2), uncropped, run, device=CPU)
    return run


@pytest.fixture(scope="module", params=(*METHODS, "autoencoder"))
def run(request, uncropped, stage, tiny, tmp_path_factory):
    name = request.param
    folder = tmp_path_factory.mktemp(name) / "run"
    config = tiny(name, toy_settings(name), steps=1, validation_slices=16)
    train(config, uncropped, folder, device=CPU, first_stage=first_stage_if(name, stage))
    return scansynth.load(folder, "cpu")


@pytest.fixture
def seen(run, monkeypatch):
    """Batches that the method was given."""
    batches, translate = [], run.method.translate
    monkeypatch.setattr(run.method, "translate", lambda batch, *rest: batches.append(batch) or translate(batch, *rest))
    return batches


def of_the_slices(batch, index):
    """The part of a batch that shows these slices."""
    place = [batch["index"][0].tolist().index(z) for z in index]
    shown = {key: batch[key][..., place] for key in ("images", "tissue") if key in batch}
    return {**shown, "available": batch["available"], "depth": batch["depth"]}


def test_files_evaluation_and_validation_give_one_batch(run, seen, uncropped, phantoms):
    subject = uncropped.subjects("val")[0]
    targets_left_out = [one for one in validation_targets(uncropped, run.method, run.config) if one.subject == subject]
    for one in targets_left_out:
        synthesise_target(run.method, one, 0, CPU)
    targets = [one.target for one in targets_left_out]
    assert set(targets) == {"T1w", "T2w"}
    validated, index = dict(zip(targets, seen, strict=True)), seen[0]["index"][0].tolist()
    assert len(index) > 5
    for target in targets:
        seen.clear()
        synthesise(run, uncropped, subject, target=target, seed=0)
        if not run.method.reconstructs:
            (scans,) = (one.scans for one in phantoms.subjects if one.name == subject)
            run.translate({name: path for name, path in scans.items() if name != target}, target)
        assert len(seen) == (1 if run.method.reconstructs else 2)
        expected = of_the_slices(validated[target], index)
        for batch in seen:
            found = of_the_slices(batch, index)
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[key], expected[key]) for key in expected if key != "tissue")
            if "tissue" in expected:  # a cohort keeps densities of the scan before its cohort half, in steps of 1/255
                torch.testing.assert_close(found["tissue"], expected["tissue"], rtol=0, atol=2 / 255)


def test_no_batch_holds_anything_of_the_target(run, seen, uncropped):
    subject = uncropped.subjects("val")[0]
    one = next(one for one in validation_targets(uncropped, run.method, run.config) if one.subject == subject)
    synthesise_target(run.method, one, 0, CPU)
    synthesise(run, uncropped, subject, target=one.target, seed=0)
    hidden = [name != one.target if run.method.reconstructs else name == one.target for name in ("T1w", "T2w")]
    for batch in seen:
        assert batch["available"][0].tolist() == [not one for one in hidden]
        for key in ("images", "tissue"):
            if key in batch:
                assert not batch[key][:, hidden].any()


def test_what_may_be_read():
    contrasts = ("T1w", "T2w", "FLAIR")
    assert sources_for("T2w", contrasts).tolist() == [[True, False, True]]
    assert sources_for("T2w", contrasts, reconstructs=True).tolist() == [[False, True, False]]
    assert sources_for("T2w", contrasts, among=("FLAIR", "T2w")).tolist() == [[False, False, True]]


@pytest.mark.parametrize("z", [None, slice(2, 5), torch.tensor([4, 0])])
def test_a_contrast_that_is_left_out_is_as_if_it_had_never_been_there(z):
    images = torch.randn(1, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    tissue = images[:, :, None].repeat(1, 1, 4, 1, 1, 1)
    subject = {"images": images, "available": torch.tensor([[True, True, False]]), "tissue": tissue}
    readable = sources_for("T2w", ("T1w", "T2w", "FLAIR"))
    found = given(subject, readable, z)
    places = np.arange(6) if z is None else np.arange(6)[z]
    assert found["index"].tolist() == [places.tolist()]
    assert found["depth"].tolist() == [6]
    assert found["available"].tolist() == [[True, False, False]]
    assert torch.equal(found["images"][:, 0], images[:, 0][..., places])
    other = replace_hidden(subject)
    again = given(other, readable, z)
    assert all(torch.equal(found[key], again[key]) for key in found)
    assert not found["images"][:, 1:].any()
    assert not found["tissue"][:, 1:].any()


def replace_hidden(subject):
    """The same subject with other values, NaN too, where nothing may be read."""
    changed = {key: value.clone() for key, value in subject.items()}
    changed["images"][:, 1:], changed["tissue"][:, 1:] = torch.nan, 7.0
    return changed
