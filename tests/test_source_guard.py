"""What `translate` asks of a source: rules of the census, and the training's census beside it."""

import json
import logging

import nibabel as nib
import numpy as np
import pytest
import torch

import scansynth
from scansynth.cli import main
from scansynth.data.census_rules import RULES
from scansynth.data.record import PreparationRecord
from scansynth.errors import InputError
from scansynth.training.train import train


@pytest.fixture(scope="module")
def run(cohort, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "regression"
    train(tiny("regression", steps=2), cohort, folder, device=torch.device("cpu"))
    return folder


@pytest.fixture
def source(phantoms):
    return next(one for one in phantoms.subjects if one.split == "test").scans["T1w"]


def changed(source, path, how, affine=None):
    image = nib.load(source)
    array = how(image.get_fdata(dtype=np.float32))
    nib.save(nib.Nifti1Image(array.astype(np.float32), image.affine if affine is None else affine), path)
    return path


def z_scored(array):
    inside = array > array.mean() / 8
    return np.where(inside, (array - array[inside].mean()) / array[inside].std(), 0)


def alone(array):
    array[...] = 0
    array[10, 10, 8] = 500
    return array


@pytest.mark.parametrize(
    ("how", "rule"),
    [
        (z_scored, "background-inside"),
        (alone, "almost-empty"),
        (lambda array: np.where(array > array.mean() / 8, 4000 * array / array.max() - 1000, -1000), "looks-like-ct"),
    ],
)
def test_a_source_that_cannot_be_right_is_refused_by_name_and_may_be_accepted(run, source, tmp_path, how, rule):
    path = changed(source, tmp_path / "odd.nii.gz", how)
    loaded = scansynth.load(run, "cpu")
    with pytest.raises(InputError, match=rule):
        loaded.translate({"T1w": path}, "T2w")
    if rule != "almost-empty":  # which no intensities can be made of
        made = loaded.translate({"T1w": path}, "T2w", accept=[rule])
        assert rule in made.provenance["accepted"]
    with pytest.raises(InputError, match="no rule of that name"):
        loaded.translate({"T1w": source}, "T2w", accept=["everything"])


def test_a_usual_source_is_taken_without_a_word(run, source, caplog):
    caplog.set_level(logging.WARNING)
    made = scansynth.load(run, "cpu").translate({"T1w": source}, "T2w")
    assert "accepted" not in made.provenance
    odd = [record.message for record in caplog.records if "[" in record.message]
    assert all("[out-of-view]" in line for line in odd)  # as the training scans, whose tops are cut off


def test_voxels_that_training_did_not_have_are_named(run, source, tmp_path, caplog):
    affine = nib.load(source).affine.copy()
    affine[:3, :3] /= 3
    path = changed(source, tmp_path / "small.nii.gz", lambda array: array, affine)
    scansynth.load(run, "cpu").translate({"T1w": path}, "T2w", accept=["skull-unlike-training"])
    assert "spacing-unlike-training" in caplog.text


@pytest.mark.parametrize(
    ("how", "rule", "said"),
    [
        (lambda array: array[:, :, ::-1], "lies-unlike-training", "upside down"),
        (lambda array: array[:, ::-1], "lies-unlike-training", "nose and back of the head exchanged"),
        (lambda array: array.transpose(1, 0, 2), "lies-unlike-training", "its axes 2, 1, 3"),
    ],
)
def test_a_head_that_lies_otherwise_than_its_header_says_is_refused(run, source, tmp_path, how, rule, said):
    path = changed(source, tmp_path / "turned.nii.gz", how)
    loaded = scansynth.load(run, "cpu")
    with pytest.raises(InputError, match=f"{said}.*{rule}"):
        loaded.translate({"T1w": path}, "T2w")
    everything = [rule, "contrast-unlike-training", "skull-unlike-training"]
    made = loaded.translate({"T1w": path}, "T2w", accept=everything)
    assert rule in made.provenance["accepted"]
    assert any(rule in line for line in made.provenance["odd"])


def test_a_contrast_under_anothers_name_is_refused(run, phantoms):
    given = next(one for one in phantoms.subjects if one.split == "test").scans["T2w"]
    with pytest.raises(InputError, match=r"it looks like T2w .*contrast-unlike-training"):
        scansynth.load(run, "cpu").translate({"T1w": given}, "T2w")


def test_slices_that_are_far_thicker_are_refused(run, source, tmp_path):
    affine = nib.load(source).affine.copy()
    affine[:3, :3] = affine[:3, :3] @ np.diag([1, 1, 4])
    path = changed(source, tmp_path / "thick.nii.gz", lambda array: array[:, :, ::4], affine)
    with pytest.raises(InputError, match=r"voxels of 6×6×24 mm.*slices-unlike-training") as told:
        scansynth.load(run, "cpu").translate({"T1w": path}, "T2w")
    assert "[spacing-unlike-training]" not in str(told.value)


def test_what_looks_like_no_head_is_told(run, source, tmp_path, caplog):
    def ball(array):
        grid = np.ogrid[tuple(slice(-1, 1, complex(0, side)) for side in array.shape)]
        noise = np.random.default_rng(0).normal(1, 0.05, array.shape)
        return 500 * noise * (sum(axis**2 for axis in grid) < 0.7)

    path = changed(source, tmp_path / "ball.nii.gz", ball)
    every = [rule.name for rule in RULES if rule.severity == "impossible"]
    scansynth.load(run, "cpu").translate({"T1w": path}, "T2w", accept=every)
    assert "looks-unlike-training" in caplog.text


def test_heads_are_refused_by_a_run_of_brains(run, source, tmp_path, caplog):
    """What the training scans are like travels with the run."""
    record = PreparationRecord.read(run)
    usual = record.usual["T1w"]
    assert usual.scans == 4
    assert usual.figures["volume of the head"][0] > 1000
    affine = nib.load(source).affine.copy()
    affine[:3, :3] *= 2  # eight times the volume
    path = changed(source, tmp_path / "large.nii.gz", lambda array: array, affine)
    expected = "skull-unlike-training" if usual.with_skull <= 0.05 else None
    if expected:
        with pytest.raises(InputError, match=expected):
            scansynth.load(run, "cpu").translate({"T1w": path}, "T2w")
    values = json.loads((run / "preparation.json").read_text())
    del values["record_sha256"]  # as it was before there were hashes
    values["usual"]["T1w"]["with_skull"] = 1.0
    values["usual"]["T1w"]["figures"]["volume of the head"] = [6000.0, 300.0]
    (run / "preparation.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"stripped of the skull.*skull-unlike-training"):
        scansynth.load(run, "cpu").translate({"T1w": source}, "T2w")
    for usual in values["usual"].values():  # a run of an older version
        usual.pop("pattern")
    (run / "preparation.json").write_text(json.dumps(values))
    scansynth.load(run, "cpu").translate({"T1w": source}, "T2w", accept=["skull-unlike-training"])
    assert "how its training scans look" in caplog.text
    del values["usual"]  # and of one before it
    (run / "preparation.json").write_text(json.dumps(values))
    scansynth.load(run, "cpu").translate({"T1w": source}, "T2w")
    assert "of an older version" in caplog.text
    assert "is not checked" in caplog.text


def test_the_command_refuses_before_it_loads_networks_forever(run, source, tmp_path, capsys):
    path = changed(source, tmp_path / "odd.nii.gz", alone)
    assert main(["translate", "--run", str(run), "--t1w", str(path), "-o", str(tmp_path / "t2.nii.gz")]) == 1
    assert "[almost-empty]" in capsys.readouterr().err
    assert not (tmp_path / "t2.nii.gz").exists()
