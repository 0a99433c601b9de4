"""Samples that are kept: a stopped evaluation goes on, and what is another's is refused. What methods observe."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import scansynth
from scansynth.cli import main
from scansynth.errors import InputError
from scansynth.evaluation.evaluate import evaluate
from scansynth.evaluation.observed import means
from scansynth.evaluation.samples import draw
from scansynth.evaluation.tasks import choose_work
from scansynth.evaluation.write import write_evaluation
from scansynth.training.train import train


@pytest.fixture(scope="module")
def trained(tiny, cohort, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "cg"
    train(tiny("cg_ddpm", steps=2, validate_every=10), cohort, run, device=torch.device("cpu"))
    return scansynth.load(run, "cpu")


def test_a_stopped_evaluation_goes_on(trained, cohort, tmp_path, monkeypatch):
    whole = evaluate([trained], cohort, protocol="cg-ddpm", samples=2, pictures=0)
    write_evaluation(whole, tmp_path / "whole")
    kept = tmp_path / "kept"
    translate, calls = trained.method.translate, []

    def killed(*arguments):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(arguments)
        return translate(*arguments)

    monkeypatch.setattr(trained.method, "translate", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate([trained], cohort, protocol="cg-ddpm", samples=2, pictures=0, kept=kept)
    assert len(list(kept.rglob("*.npz"))) == 3
    monkeypatch.setattr(trained.method, "translate", translate)
    drawn = []
    monkeypatch.setattr(trained.method, "translate", lambda *some: drawn.append(some) or translate(*some))
    found = evaluate([trained], cohort, protocol="cg-ddpm", samples=2, pictures=0, kept=kept)
    write_evaluation(found, tmp_path / "out")
    assert len(drawn) == 1  # one subject, two targets, two samples
    for name in ("table.csv", "consistency.csv", "observed.csv"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert found.costs["cg"].parameters == whole.costs["cg"].parameters


def test_samples_of_another_run_or_seed_or_none_at_all_are_refused(trained, cohort, tmp_path):
    task = next(task for task in choose_work([trained], cohort, "test", protocol="cg-ddpm", target="T2w"))
    first = draw(trained, task, 0, sample=0, kept=tmp_path)
    again = draw(trained, task, 0, sample=0, kept=tmp_path)
    np.testing.assert_array_equal(first.image, again.image)
    assert (first.sources, first.observed, first.cost) == (again.sources, again.observed, again.cost)
    with pytest.raises(InputError, match="other seed"):
        draw(trained, task, 1, sample=0, kept=tmp_path)
    other = replace(trained, weights={**trained.weights, "sha256": "0"})
    with pytest.raises(InputError, match="other weights"):
        draw(other, task, 0, sample=0, kept=tmp_path)
    (path,) = tmp_path.rglob("*.npz")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="not readable as a sample"):
        draw(trained, task, 0, sample=0, kept=tmp_path)


def test_consistency_and_steps_are_in_the_report(trained, cohort, tmp_path, capsys):
    arguments = ["evaluate", "--run", str(trained.folder), "--cohort", str(cohort.folder), "-o", str(tmp_path / "out")]
    options = ["--samples", "2", "--protocol", "cg-ddpm", "--pictures", "0", "--device", "cpu"]
    assert main([*arguments, *options, "--keep", str(tmp_path / "kept")]) == 0
    assert len(list((tmp_path / "kept").rglob("*.npz"))) == 4
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<section id="consistency"' in page
    assert "MC-2 MS-SSIM" in page
    assert '<section id="observed"' in page
    with (tmp_path / "out" / "observed.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["figure"] for row in rows} == {"standard deviation of z"}
    assert len(rows) == 2 * 2 * len(trained.method.path)
    assert Image.open(tmp_path / "out" / "observed.png").size[0] > 500


def test_what_was_observed_is_averaged_over_subjects_and_samples():
    found = {
        ("a", "T1w→T2w", "one"): [{"z": {9: 1.0, 1: 2.0}}, {"z": {9: 3.0, 1: 4.0}}],
        ("a", "T1w→T2w", "two"): [{"z": {9: 5.0, 1: 6.0}}, {"z": {9: 7.0, 1: 8.0}}],
        ("b", "T1w→T2w", "one"): [{"z": {4: 1.5}}],
    }
    assert means(found) == {"z": {("a", "T1w→T2w"): {1: 5.0, 9: 4.0}, ("b", "T1w→T2w"): {4: 1.5}}}
