"""Intervals of a run: made on validation subjects, kept with the run, measured, and written beside images."""

import csv
import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

import scansynth
from scansynth import Sampling
from scansynth.cli import main
from scansynth.data.build_cohort import build_cohort
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.errors import InputError
from scansynth.evaluation.calibrate import calibrate_run
from scansynth.evaluation.evaluate import evaluate
from scansynth.evaluation.intervals import IntervalFigures
from scansynth.evaluation.write import write_evaluation
from scansynth.metrics.conformal import half_width, head
from scansynth.synthesis.intervals import FILE, read_intervals
from scansynth.training.train import train

CPU = torch.device("cpu")
SPLITS = ["train"] * 3 + ["val"] * 5 + ["test"] * 2


@pytest.fixture(scope="module")
def listing(tmp_path_factory):
    folder = tmp_path_factory.mktemp("people")
    write_phantom_cohort(folder, len(SPLITS), ("T1w", "T2w"), layout="table", seed=4, shape=(32, 32, 16), spacing=6.0)
    found = find_subjects(folder / "table.csv")
    subjects = tuple(replace(one, split=split) for one, split in zip(found.subjects, SPLITS, strict=True))
    return replace(found, subjects=subjects)


@pytest.fixture(scope="module")
def people(listing, tmp_path_factory):
    """Phantoms of whom five validate."""
    return build_cohort(listing, tmp_path_factory.mktemp("cohort"), Preparation(size=(32, 32, None)))


@pytest.fixture(scope="module")
def folders(people, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for method, steps in (("regression", 40), ("syndiff", 4)):
        train(tiny(method, steps=steps), people, folder / method, device=CPU)
    return {method: folder / method for method in ("regression", "syndiff")}


@pytest.fixture(scope="module")
def regression(folders, people):
    """A calibrated run."""
    run = scansynth.load(folders["regression"], "cpu")
    calibrate_run(run, people)
    return run


def test_they_are_kept_and_read_back(regression, people):
    again = calibrate_run(regression, people)
    assert again == read_intervals(regression, samples=1, mean=False)
    assert set(again) == {"T1w", "T2w"}
    assert again["T2w"].levels == (0.5, 0.8)
    assert again["T2w"].subjects == 5
    assert all(0 < low < high < 1 for low, high in again["T2w"].factors.values())


def test_evaluation_tells_how_often_they_hold(regression, people, tmp_path):
    found = evaluate([regression], people, target="T2w", pictures=0)
    shares = found.of(IntervalFigures).found
    assert {subject for _, _, subject in shares} == set(people.subjects("test"))
    for levels in shares.values():
        assert levels[0.5]["head"] == pytest.approx(0.5, abs=0.25)  # two persons, who differ
        assert levels[0.8]["head"] > levels[0.5]["head"]
        assert levels[0.8]["width"] > levels[0.5]["width"] > 0
    write_evaluation(found, tmp_path)
    with (tmp_path / "intervals.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * len(shares)
    section = found.of(IntervalFigures).section()
    assert len(section.table.lines) == 2
    assert not section.table.notes


def test_a_file_of_half_widths_lies_beside_the_image(regression, listing, tmp_path):
    source = next(one for one in listing.subjects if one.split == "test").scans["T1w"]
    made = regression.translate({"T1w": source}, sampling=Sampling(intervals=True))
    made.write(tmp_path / "t2.nii.gz")
    width = nib.load(tmp_path / "t2_interval-80.nii.gz")
    assert b"SYNTHETIC" in width.header["descrip"].item()
    sidecar = json.loads((tmp_path / "t2_interval-80.json").read_text())
    assert sidecar["image"] == "half the width of the 80 % interval"
    assert sidecar["nominal_coverage"] == 0.8
    assert sidecar["synthetic"] is True
    image = nib.load(tmp_path / "t2.nii.gz")
    np.testing.assert_allclose(width.affine, image.affine)
    values = np.asarray(width.dataobj)
    assert (values >= 0).all()
    assert values.max() > 0
    # In the unit of the image: one standard of [0, 1] is this much of it.
    statistics = regression.record.statistics["T2w"]
    unit = float(np.diff(statistics.to_units(np.array([0.0, 1.0])))[0])
    factors = [found[1] for found in read_intervals(regression, samples=1, mean=False)["T2w"].factors.values()]
    assert values.max() <= unit * max(factors) * 1.001
    narrow = np.asarray(nib.load(tmp_path / "t2_interval-50.nii.gz").dataobj)
    assert (narrow <= values + 1e-6).all()


def test_widths_follow_the_deviation_of_several_draws(folders, people):
    run = scansynth.load(folders["syndiff"], "cpu")
    found = calibrate_run(run, people, samples=3)["T2w"]
    image = np.zeros((32, 32, 4))
    image[8:24, 8:24] = np.linspace(0.2, 0.8, 16)[None, :, None]
    deviation = np.full_like(image, 0.1)
    deviation[16:] = 0.2
    widths = half_width(image, deviation, found, 0.8)
    assert (widths > 0).sum() == head(image).sum()
    inside = np.s_[16:21, 12, 1], np.s_[11:16, 12, 1]
    np.testing.assert_allclose(
        widths[inside[0]].mean() / widths[inside[1]].mean(), np.hypot(0.2, 0.01) / np.hypot(0.1, 0.01)
    )


def test_intervals_of_another_way_or_other_weights_are_refused(folders, regression, people, listing, tmp_path, capsys):
    run = scansynth.load(folders["syndiff"], "cpu")
    source = listing.subjects[-1].scans["T1w"]
    (run.folder / FILE).unlink(missing_ok=True)
    with pytest.raises(InputError, match="no intervals are known"):
        run.translate({"T1w": source}, sampling=Sampling(intervals=True))
    calibrate_run(run, people, samples=2)
    with pytest.raises(InputError, match=r"other ways of drawing \(mean of 2 draws\), not of: one draw"):
        run.translate({"T1w": source}, sampling=Sampling(intervals=True))
    found = evaluate([run, regression], people, target="T2w", pictures=0).of(IntervalFigures)
    assert "other ways of drawing" in found.section().table.notes[0]
    assert {label for label, _, _ in found.found} == {regression.folder.name}
    content = json.loads((run.folder / FILE).read_text())
    (run.folder / FILE).write_text(json.dumps({**content, "weights": "0" * 64}))
    command = ["translate", "--run", str(run.folder), "--t1w", str(source), "-o", str(tmp_path / "t2.nii.gz")]
    assert main([*command, "--samples", "2", "--intervals"]) == 1
    assert "intervals of other weights" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_intervals_are_of_the_sources_that_they_were_made_with(regression, listing, monkeypatch):
    """From fewer contrasts a run errs more: its intervals would be too narrow without a word."""
    source = listing.subjects[-1].scans["T1w"]
    known = read_intervals(regression, samples=1, mean=False)
    assert known["T2w"].sources == ("T1w",)
    more = {target: replace(one, sources=("T1w", "FLAIR")) for target, one in known.items()}
    monkeypatch.setattr("scansynth.synthesis.run.read_intervals", lambda run, **_: more)
    with pytest.raises(InputError, match=r"of syntheses from T1w\+FLAIR, not from T1w, which err otherwise"):
        regression.translate({"T1w": source}, sampling=Sampling(intervals=True))


def test_too_few_validation_subjects_are_said(cohort, tiny, tmp_path, capsys):
    train(tiny(steps=2), cohort, tmp_path / "run", device=CPU)
    assert main(["calibrate", "--run", str(tmp_path / "run"), "--cohort", str(cohort.folder)]) == 1
    assert "1 validation subjects: intervals need at least 4" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run" / FILE).exists()


def test_the_command_prints_widths_and_what_to_do_next(folders, people, capsys):
    command = ["calibrate", "--run", str(folders["regression"]), "--cohort", str(people.folder)]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "80 %: ± rim" in told
    assert "--intervals" in told
