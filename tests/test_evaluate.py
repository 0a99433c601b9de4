"""Runs on a split: several samples and their uncertainty, comparisons with their files, guards."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import scansynth
from scansynth.cli import main
from scansynth.data.build_cohort import build_cohort
from scansynth.errors import InputError
from scansynth.evaluation.evaluate import evaluate
from scansynth.evaluation.tasks import synthesise
from scansynth.metrics.cases import Case, brain
from scansynth.training.train import train


@pytest.fixture(scope="module")
def runs(tiny, cohort, tmp_path_factory):
    """Run folders by method."""
    folder = tmp_path_factory.mktemp("runs")
    for method in ("regression", "syndiff"):
        train(tiny(method), cohort, folder / method, device=torch.device("cpu"))
    return {method: folder / method for method in ("regression", "syndiff")}


@pytest.fixture(scope="module")
def trained(runs):
    return scansynth.load(runs["syndiff"], "cpu")


def test_several_samples_are_averaged_and_their_spread_is_held_against_the_error(trained, cohort, tmp_path):
    found = evaluate([trained], cohort, tmp_path, samples=3, target="T2w", pictures=0)
    subject = cohort.subjects("test")[0]
    samples, sources = synthesise(trained, cohort, subject, target="T2w", seed=0, samples=range(3))
    images = np.stack([one.image for one in samples])
    assert sources == ("T1w",)
    assert images.shape[0] == 3
    assert np.abs(images[0] - images[1]).max() > 0
    (again,), _ = synthesise(trained, cohort, subject, target="T2w", seed=0)
    np.testing.assert_array_equal(images[0], again.image)
    label = trained.folder.name
    shown = found.uncertainty[label, "T1w→T2w", subject]
    truth = cohort.read(subject, "T2w")
    own = next(one for one in found.results if one.label == label)
    mask = brain(Case(images.mean(0), truth))
    error = np.abs(images.mean(0) - truth)[mask].mean()
    assert shown.samples == 3
    assert shown.voxels == own.measurement.voxels
    assert own.measurement.mean("mae") == pytest.approx(error, rel=1e-5)
    with (tmp_path / "uncertainty.csv").open(newline="") as stream:
        (row,) = [row for row in csv.DictReader(stream) if row["subject"] == subject]
    assert float(row["correlation"]) == pytest.approx(shown.correlation)
    assert Image.open(tmp_path / "sparsification.png").size[0] > 500


def test_costs_are_measured(trained, cohort, tmp_path):
    found = evaluate([trained], cohort, tmp_path, target="T2w", pictures=0)
    cost = found.costs[trained.folder.name]
    assert cost.seconds > 0
    assert cost.parameters == sum(parameter.numel() for parameter in trained.method.parameters())
    assert cost.memory_gb > 0.05


def test_compare_writes_tables_and_plots(runs, cohort, tmp_path, capsys):
    folders = [str(runs[name]) for name in ("regression", "syndiff")]
    arguments = ["compare", "--run", *folders, "--cohort", str(cohort.folder), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--device", "cpu", "--pictures", "0", "--protocol", "syndiff"]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"comparison.md", "comparison.tex", "comparison.csv", "comparison.json", "table.md"} <= names
    assert {"subjects_T1w.png", "subjects_T2w.png", "report.html"} <= names
    shown = capsys.readouterr().out
    assert str(tmp_path / "out" / "report.html") in shown
    assert "copied source" in shown
    assert "memory (GB)" in shown
    assert "No p-values" in shown  # fewer than six test subjects


def test_two_files_under_the_conventions(cohort, tmp_path, capsys):
    source = cohort.source(cohort.subjects("test")[0], "T2w")
    assert main(["evaluate", "--spread", str(source), str(source)]) == 0
    assert "inside the brain" in capsys.readouterr().out
    other = cohort.source(cohort.subjects("test")[0], "T1w")
    assert main(["evaluate", "--spread", str(other), str(tmp_path / "missing.nii.gz")]) == 1


def test_another_split_and_another_preparation_are_refused_in_words(trained, cohort, phantoms, tmp_path):
    settings = replace(cohort.settings, intensity="percentile")
    other = build_cohort(phantoms, tmp_path / "other", settings, contrasts=cohort.contrasts)
    with pytest.raises(InputError, match=r"intensity \(percentile here, syndiff there"):
        evaluate([trained], other, tmp_path / "out")
    swapped = [
        replace(one, split={"val": "test", "test": "val"}.get(one.split, one.split)) for one in phantoms.subjects
    ]
    listing = replace(phantoms, subjects=tuple(swapped))
    moved = build_cohort(listing, tmp_path / "moved", cohort.settings, contrasts=cohort.contrasts)
    with pytest.raises(InputError, match=r"splits \(phantom"):
        evaluate([trained], moved, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_number_of_samples_below_one_is_refused(trained, cohort, tmp_path):
    with pytest.raises(InputError, match="at least one"):
        evaluate([trained], cohort, tmp_path, samples=0)


def test_a_protocol_of_sets_is_refused_before_anything_is_read_or_synthesised(trained, cohort, tmp_path, capsys):
    told = []
    with pytest.raises(InputError, match="set of generated volumes"):
        evaluate([trained], cohort, tmp_path / "out", protocol="cdpm", report=told.append)
    assert not told
    nowhere = str(tmp_path / "nowhere")
    for verb in ("evaluate", "compare"):
        assert main([verb, "--run", nowhere, "--cohort", nowhere, "-o", nowhere, "--protocol", "cdpm"]) == 1
        assert "set of generated volumes" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
