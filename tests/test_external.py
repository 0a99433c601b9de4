"""A run tested on people of another cohort, prepared like its own: what holds, what is said, what is refused."""

import json
import logging
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

from scansynth.cli import main
from scansynth.data.build_cohort import build_cohort
from scansynth.data.cohort import Cohort
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.data.record import PreparationRecord
from scansynth.errors import InputError
from scansynth.evaluation.evaluate import evaluate, sites_of
from scansynth.synthesis.run import Run
from scansynth.training.train import train


@pytest.fixture(scope="module")
def run(cohort, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "regression"
    train(tiny("regression", steps=2), cohort, folder, device=torch.device("cpu"))
    return folder


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Four other people of two sites, in a BIDS folder that states splits of its own."""
    folder = tmp_path_factory.mktemp("others")
    write_phantom_cohort(folder, 4, ("T1w", "T2w"), layout="BIDS", seed=77, shape=(32, 32, 16), spacing=6.0)
    rows = [f"sub-00{number}\ttrain\t{site}" for number, site in enumerate("abab", 1)]
    (folder / "participants.tsv").write_text("\n".join(["participant_id\tsplit\tsite", *rows]) + "\n")
    return folder


@pytest.fixture(scope="module")
def external(run, others, tmp_path_factory):
    folder = tmp_path_factory.mktemp("external") / "cohort"
    assert main(["prepare", "-i", str(others), "-o", str(folder), "--like", str(run)]) == 0
    return Cohort.open(folder)


def test_the_runs_settings_and_statistics_hold_and_all_test(cohort, external, run):
    record = PreparationRecord.read(run)
    assert external.settings == cohort.settings
    assert external.statistics == {name: cohort.statistics[name] for name in ("T1w", "T2w")}
    assert len(external.subjects("test")) == len(external.subjects()) == 4
    assert external.like == record.fingerprint != external.fingerprint


def test_images_are_those_that_translation_sees(external, run, others):
    loaded = Run.load(run, "cpu")
    source = others / "sub-002" / "anat" / "sub-002_T1w.nii.gz"
    made = loaded.translate({"T1w": source}, "T2w", subject="sub-002")
    found = evaluate([loaded], external, target="T2w", pictures=4)
    shown = next(one for one in found.shown if one.subject == "sub-002")
    image = loaded.record.statistics["T2w"].to_units(shown.syntheses["regression"])
    apart = (np.linalg.inv(made.like.affine) @ shown.affine)[:3, 3].round().astype(int)  # of a crop, nothing resampled
    here = tuple(slice(max(0, step), side + min(0, step)) for step, side in zip(apart, image.shape, strict=True))
    there = tuple(slice(max(0, -step), side - max(0, step)) for step, side in zip(apart, image.shape, strict=True))
    assert np.allclose(image[there], made.array[here], atol=1e-4 * float(made.array.max()))


def test_every_table_says_that_it_is_external(external, run, tmp_path):
    out = tmp_path / "evaluation"
    assert main(["evaluate", "--run", str(run), "--cohort", str(external.folder), "-o", str(out)]) == 0
    sentence = "External test: 4 subjects of another cohort than the runs were trained on"
    assert sentence in (out / "table.md").read_text()
    assert any(sentence in note for note in json.loads((out / "table.json").read_text())["notes"])
    assert sentence in (out / "report.html").read_text()
    lines = (out / "sites.md").read_text().splitlines()
    assert sum(line.startswith("| a | regression | T1w→T2w | 2 |") for line in lines) == 1
    assert sum(line.startswith("| b | regression | T2w→T1w | 2 |") for line in lines) == 1
    other = tmp_path / "run" / "again"
    shutil.copytree(run, other)
    out = tmp_path / "comparison"
    words = ["compare", "--run", str(run), str(other), "--cohort", str(external.folder), "-o", str(out)]
    assert main(words) == 0
    assert sentence in (out / "comparison.md").read_text()
    assert sentence in (out / "report.html").read_text()


def test_a_table_of_the_runs_own_cohort_says_nothing_of_the_kind(cohort, run):
    found = evaluate([Run.load(run, "cpu")], cohort, target="T2w", pictures=0)
    assert not found.external
    assert found.notes == []
    assert found.sites == {}


def test_nothing_is_trained_or_resumed_on_it(external, run, tiny, tmp_path):
    with pytest.raises(InputError, match="no train scans"):
        train(tiny("regression", steps=2), external, tmp_path / "new", device=torch.device("cpu"))
    with pytest.raises(InputError, match="no train scans"):
        train(tiny("regression", steps=4), external, run, device=torch.device("cpu"))
    with pytest.raises(InputError, match="not the cohort"):
        PreparationRecord.read(run).check_same(external, run)


def test_another_runs_cohort_is_refused_and_the_way_on_named(external, cohort, tiny, phantoms, tmp_path):
    elsewhere = build_cohort(phantoms, tmp_path / "c", Preparation(size=(32, 32, None), intensity="percentile"))
    other = tmp_path / "other"
    train(tiny("regression", steps=2), elsewhere, other, device=torch.device("cpu"))
    with pytest.raises(InputError, match="prepared like another run"):
        evaluate([Run.load(other, "cpu")], external)
    with pytest.raises(InputError, match=f"--like {other}"):
        evaluate([Run.load(other, "cpu")], cohort)


def test_scans_that_trained_the_run_are_no_external_test_under_any_name(run, phantoms, tmp_path, caplog):
    folder = tmp_path / "data"
    copied = next(one for one in phantoms.subjects if one.split == "train")
    for name in ("T1w", "T2w"):
        path = folder / "sub-new" / "anat" / f"sub-new_{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.load(copied.scans[name])
        nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine), path)  # another file, equal voxels
    words = ["prepare", "-i", str(folder), "-o", str(tmp_path / "c"), "--like", str(run)]
    assert main(words) == 1
    record = PreparationRecord.read(run)
    with pytest.raises(InputError, match="sub-new T1w"):
        build_cohort(find_subjects(folder), tmp_path / "c", record.settings, like=record)
    path = folder / "sub-new" / "anat" / "sub-new_T1w.nii.gz"
    image = nib.load(path)
    nib.save(nib.Nifti1Image(image.get_fdata(dtype=np.float32) * 1.1, image.affine), path)
    (folder / "sub-new" / "anat" / "sub-new_T2w.nii.gz").unlink()
    (folder / "sub-new").rename(folder / "sub-old")
    path = folder / "sub-old" / "anat" / "sub-new_T1w.nii.gz"
    path.rename(path.with_name("sub-old_T1w.nii.gz"))
    named = PreparationRecord(**{**vars(record), "splits": {"sub-old": "train"}})
    with caplog.at_level(logging.WARNING):
        build_cohort(find_subjects(folder), tmp_path / "d", named.settings, like=named)
    assert "people of that name trained" in caplog.text


def test_scans_unlike_the_training_are_refused(run, others, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(others, folder)
    for path in folder.glob("*/anat/*_T1w.nii.gz"):
        image = nib.load(path)
        array = image.get_fdata(dtype=np.float32)
        inside = array > array.mean() / 8
        nib.save(
            nib.Nifti1Image(np.where(inside, (array - array[inside].mean()) / array[inside].std(), 0), image.affine),
            path,
        )
    assert main(["prepare", "-i", str(folder), "-o", str(tmp_path / "c"), "--like", str(run)]) == 1
    assert not (tmp_path / "c" / "cohort.json").exists()


def test_settings_that_would_be_passed_over_are_refused(run, others, tmp_path):
    words = ["prepare", "-i", str(others), "-o", str(tmp_path / "c"), "--like", str(run)]
    for more in (["--spacing", "2", "2", "2"], ["--recipe", "syndiff"], ["--fractions", "1", "0", "0"]):
        assert main([*words, *more]) == 1
    assert main([*words, "--contrasts", "FLAIR"]) == 1
    assert main([*words, "--dry-run"]) == 0
    assert not (tmp_path / "c").exists()


def test_sites_are_given_where_there_are_two(cohort, external):
    assert sites_of(external, external.subjects()) == dict(zip(external.subjects(), "abab", strict=True))
    assert sites_of(external, ["sub-001", "sub-003"]) == {}
    assert sites_of(cohort, cohort.subjects()) == {}
