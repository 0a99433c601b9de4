"""Noise in the sources: what is added, and what is measured with it."""

import base64
import csv
import math

import pytest
import torch
from PIL import Image

import scansynth
from scansynth.cli import main
from scansynth.errors import InputError
from scansynth.evaluation.evaluate import evaluate
from scansynth.evaluation.robustness import markdown, measure_robustness
from scansynth.noise import Noise
from scansynth.physics.noise import noisy
from scansynth.training.train import train


@pytest.fixture(scope="module")
def run(tiny, cohort, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "regression"
    train(tiny("regression"), cohort, folder, device=torch.device("cpu"))
    return scansynth.load(folder, "cpu")


def test_noise_is_that_of_a_magnitude_with_gaussian_noise_in_both_channels():
    images = torch.zeros(1, 2, 64, 64, 64)
    images[:, 0, :, :, :32], images[:, 1] = 0.8, 0.5
    found = noisy(images, 0.1, Noise([(0, "a")]))
    empty, bright = found[0, 0, :, :, 32:], found[0, 0, :, :, :32]
    deviation = 0.1 * 0.4  # of the scan's mean, empty half included
    # Without signal the magnitude is Rayleigh distributed; with a strong one nearly normal.
    assert empty.mean().item() == pytest.approx(deviation * math.sqrt(math.pi / 2), rel=0.01)
    assert empty.square().mean().item() == pytest.approx(2 * deviation**2, rel=0.01)
    assert bright.std().item() == pytest.approx(deviation, rel=0.01)
    # 131,072 voxels: the mean is known to 0.0001.
    assert bright.mean().item() == pytest.approx(0.8 + deviation**2 / 1.6, abs=5e-4)
    assert found[0, 1].std().item() == pytest.approx(0.05, rel=0.01)
    torch.testing.assert_close(noisy(images, 0.0, Noise([(0, "a")])), images, rtol=0, atol=0)
    assert not torch.equal(found, noisy(images, 0.1, Noise([(0, "b")])))


def test_each_level_is_measured_and_without_noise_the_figures_are_those_of_evaluate(run, cohort):
    found = measure_robustness([run], cohort, (0.5, 0.05), protocol="mrdiff", target="T2w")
    assert list(found.results) == [0.0, 0.05, 0.5]
    plain = evaluate([run], cohort, protocol="mrdiff", target="T2w", pictures=0)
    own = {one.subject: one.measurement.mean("psnr_db") for one in plain.results if one.label == "regression"}
    assert {one.subject: one.measurement.mean("psnr_db") for one in found.results[0.0]} == pytest.approx(own)
    means = [rows[0].subjects["psnr_db"].mean for rows in found.summaries().values()]
    assert means[2] != pytest.approx(means[1], abs=1e-3)
    assert means[1] != pytest.approx(means[0], abs=1e-6)


def test_evaluate_writes_tables_and_a_figure_of_noise(run, cohort, tmp_path, capsys):
    arguments = ["--run", str(run.folder), "--cohort", str(cohort.folder), "-o", str(tmp_path), "--target", "T2w"]
    assert main(["evaluate", *arguments, "--pictures", "0", "--noise", "0.03", "0.21"]) == 0
    assert "Noise in the sources" in capsys.readouterr().out
    with (tmp_path / "noise.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["noise"] for row in rows} == {"0.0", "0.03", "0.21"}
    assert len(rows) == 3 * len(cohort.subjects("test"))
    assert {row["protocol"] for row in rows} == {"default"}
    text = (tmp_path / "noise.md").read_text()
    assert "| regression | T1w→T2w | 0.21 |" in text
    assert "protocol `default`, version 2" in text
    assert Image.open(tmp_path / "noise.png").size[0] > 500
    page = (tmp_path / "report.html").read_text()
    picture = base64.b64encode((tmp_path / "noise.png").read_bytes()).decode()
    assert picture in page[page.index('<section id="noise"') :]
    assert 'id="downstream"' not in page


def test_samples_from_noisy_sources_are_kept_apart_and_used_again(run, cohort, tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    evaluate([run], cohort, protocol="mrdiff", target="T2w", pictures=0, kept=kept)
    drawn, translate = [], run.method.translate
    monkeypatch.setattr(run.method, "translate", lambda *some: drawn.append(some) or translate(*some))
    first = measure_robustness([run], cohort, (0.05, 0.5), protocol="mrdiff", target="T2w", kept=kept)
    assert len(drawn) == 2 * len(cohort.subjects("test"))  # without noise, evaluate's are taken
    again = measure_robustness([run], cohort, (0.05, 0.5), protocol="mrdiff", target="T2w", kept=kept)
    assert len(drawn) == 2 * len(cohort.subjects("test"))
    assert markdown(first) == markdown(again)
    assert markdown(first) == markdown(measure_robustness([run], cohort, (0.05, 0.5), protocol="mrdiff", target="T2w"))


@pytest.mark.parametrize(
    ("level", "must"), [("0", "must be above 0"), ("-0.1", "must be above 0"), ("nan", "must be a finite number")]
)
def test_a_level_that_is_none_is_refused_before_anything_is_made(level, must, run, cohort, tmp_path, capsys):
    arguments = ["--run", str(run.folder), "--cohort", str(cohort.folder), "-o", str(tmp_path / "out")]
    assert main(["evaluate", *arguments, "--noise", level]) == 1
    assert f"--noise {level}: {must}" in capsys.readouterr().err.replace("0.0:", "0:")
    assert not (tmp_path / "out").exists()


def test_no_level_is_refused(run, cohort):
    with pytest.raises(InputError, match="levels above 0"):
        measure_robustness([run], cohort, ())
