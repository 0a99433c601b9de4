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
from scansynth.evaluation.evaluate import KINDS, evaluate
from scansynth.evaluation.figures import Figures
from scansynth.evaluation.sections import Section
from scansynth.evaluation.tasks import synthesise
from scansynth.evaluation.write import write_evaluation
from scansynth.files import write_text
from scansynth.metrics.cases import Case, brain
from scansynth.metrics.coherence import jumps
from scansynth.report.report import write_report
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
    found = evaluate([trained], cohort, samples=3, target="T2w", pictures=0)
    write_evaluation(found, tmp_path)
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


def test_costs_are_measured(trained, cohort):
    found = evaluate([trained], cohort, target="T2w", pictures=0)
    cost = found.costs[trained.folder.name]
    assert cost.seconds > 0
    assert cost.parameters == sum(parameter.numel() for parameter in trained.method.parameters())
    assert cost.memory_gb > 0.05


def test_a_notebook_has_figures_and_volumes_without_a_file(trained, cohort, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    there = sorted(trained.folder.parent.rglob("*"))
    found = evaluate([trained], cohort, samples=2, target="T2w")
    subjects = cohort.subjects("test")
    assert {one.subject for one in found.results} == set(subjects)
    assert {subject for _, _, subject in found.uncertainty} == set(subjects)
    assert list(found.costs) == [trained.folder.name]
    assert found.regions == []
    assert set(found.coherence) == {(one.label, one.direction, one.subject) for one in found.results}
    assert found.shown[0].syntheses[trained.folder.name].shape == cohort.shape(subjects[0], "T2w")
    assert list(tmp_path.iterdir()) == []
    assert sorted(trained.folder.parent.rglob("*")) == there


def test_jumps_between_slices_are_those_of_single_samples(trained, cohort, tmp_path):
    found = evaluate([trained], cohort, samples=2, target="T2w", pictures=0)
    write_evaluation(found, tmp_path)
    subject = cohort.subjects("test")[0]
    truth = cohort.read(subject, "T2w")
    samples, _ = synthesise(trained, cohort, subject, target="T2w", seed=0, samples=range(2))
    mask = brain(Case(truth, truth))
    single = [jumps(one.image, truth, mask).slices for one in samples]
    own = found.coherence[trained.folder.name, "T1w→T2w", subject]
    assert own.slices == pytest.approx(np.mean(single), rel=1e-5)
    mean = jumps(np.mean([one.image for one in samples], axis=0), truth, mask).slices
    assert mean < own.slices  # an average hides what a sample shows
    page = write_report(found, [trained], tmp_path).read_text(encoding="utf-8")
    assert '<a href="#coherence">Jumps between slices</a>' in page
    assert f"{own.slices:.3f}" in page


class Brightness(Figures):
    """Mean of each synthesis over that of the truth."""

    def __init__(self):
        self.found = {}

    def collect(self, synthesis):
        self.found[synthesis.key] = float(synthesis.image.mean() / synthesis.truth.mean())

    @property
    def empty(self):
        return not self.found

    def write(self, folder, *, acceleration):
        write_text(folder / "brightness.csv", "".join(f"{','.join(key)},{one}\n" for key, one in self.found.items()))

    def section(self):
        return Section(name="brightness", heading="Brightness", text="Darker below 1 & brighter above.")


def test_a_new_kind_of_figure_is_one_class(trained, cohort, tmp_path):
    found = evaluate([trained], cohort, target="T2w", pictures=0, kinds=(*KINDS, Brightness))
    write_evaluation(found, tmp_path)
    subject = cohort.subjects("test")[0]
    copied = cohort.read(subject, "T1w").mean() / cohort.read(subject, "T2w").mean()
    assert found.of(Brightness).found["copied source", "T1w→T2w", subject] == pytest.approx(copied, rel=1e-5)
    lines = (tmp_path / "brightness.csv").read_text().splitlines()
    assert [line.split(",")[:3] for line in lines] == [[one.label, one.direction, one.subject] for one in found.results]
    page = write_report(found, [trained], tmp_path).read_text(encoding="utf-8")
    assert '<a href="#brightness">Brightness</a>' in page
    assert "Darker below 1 &amp; brighter above." in page
    assert 'id="uncertainty"' not in page  # one sample


def test_kinds_that_are_not_taken_are_empty(trained, cohort, tmp_path):
    found = evaluate([trained], cohort, samples=2, target="T2w", pictures=0, kinds=())
    write_evaluation(found, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"table.md", "table.csv", "table.json"}
    assert (found.uncertainty, found.observed, found.costs) == ({}, {}, {})


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


def test_two_files_under_the_conventions(cohort, phantoms, tmp_path, capsys):
    source = phantoms.root / cohort.source(cohort.subjects("test")[0], "T2w")
    assert main(["evaluate", "--spread", str(source), str(source)]) == 0
    assert "inside the brain" in capsys.readouterr().out
    other = phantoms.root / cohort.source(cohort.subjects("test")[0], "T1w")
    assert main(["evaluate", "--spread", str(other), str(tmp_path / "missing.nii.gz")]) == 1


def test_another_split_and_another_preparation_are_refused_in_words(trained, cohort, phantoms, tmp_path):
    settings = replace(cohort.settings, intensity="percentile")
    other = build_cohort(phantoms, tmp_path / "other", settings, contrasts=cohort.contrasts)
    with pytest.raises(InputError, match=r"intensity \(percentile here, syndiff there"):
        evaluate([trained], other)
    swapped = [
        replace(one, split={"val": "test", "test": "val"}.get(one.split, one.split)) for one in phantoms.subjects
    ]
    listing = replace(phantoms, subjects=tuple(swapped))
    moved = build_cohort(listing, tmp_path / "moved", cohort.settings, contrasts=cohort.contrasts)
    with pytest.raises(InputError, match=r"splits \(phantom"):
        evaluate([trained], moved)


def test_a_number_of_samples_below_one_is_refused(trained, cohort):
    with pytest.raises(InputError, match="at least one"):
        evaluate([trained], cohort, samples=0)


def test_a_protocol_of_sets_is_refused_before_anything_is_read_or_synthesised(trained, cohort, tmp_path, capsys):
    told = []
    with pytest.raises(InputError, match="set of generated volumes"):
        evaluate([trained], cohort, protocol="cdpm", report=told.append)
    assert not told
    nowhere = str(tmp_path / "nowhere")
    for verb in ("evaluate", "compare"):
        assert main([verb, "--run", nowhere, "--cohort", nowhere, "-o", nowhere, "--protocol", "cdpm"]) == 1
        assert "set of generated volumes" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
