"""The mean given the sources in place of a draw: exact where the denoiser is, as files, in evaluation, and refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import scansynth
from scansynth import Sampling
from scansynth.cli import main
from scansynth.diffusion.windows import SliceWindows
from scansynth.errors import InputError
from scansynth.evaluation.evaluate import evaluate
from scansynth.evaluation.write import write_evaluation
from scansynth.methods.ddpm import Ddpm, DdpmConfig
from scansynth.noise import Noise
from scansynth.training.train import train

CPU = torch.device("cpu")
VELOCITY = replace(DdpmConfig.tiny(), patch=None, output="velocity", variance="fixed", window_levels=())


@pytest.fixture(scope="module")
def runs(cohort, tiny, tmp_path_factory):
    """Loaded runs: one gives the mean by a call, one by draws alone, one draws nothing."""
    folder = tmp_path_factory.mktemp("runs")
    for name, method, settings in (
        ("velocity", "ddpm", VELOCITY), ("syndiff", "syndiff", None), ("regression", "regression", None),
    ):  # fmt: skip
        train(tiny(method, settings, steps=4), cohort, folder / name, device=CPU)
    return {name: scansynth.load(folder / name, "cpu") for name in ("velocity", "syndiff", "regression")}


@pytest.fixture
def source(phantoms):
    subject = next(subject for subject in phantoms.subjects if subject.split == "test")
    return subject.scans["T1w"]


def test_of_an_exact_denoiser_it_is_the_mean(monkeypatch):
    """x_0 = y/2 + N(0, 0.1²): the network knows E[x_0 | x_t, y], and a draw differs from voxel to voxel."""
    method = Ddpm(replace(VELOCITY, steps=1000, sampling_steps=25, sampler="dpm-solver", spacing="log-snr"), ("a", "b"))

    def predict(x_t, y, planes, t):
        a = method.schedule.at(t, x_t)
        mean = y.sum(1, keepdim=True) / 2
        x0 = mean + a.sqrt() * 0.01 / (a * 0.01 + 1 - a) * (x_t - a.sqrt() * mean)
        return (x_t - a.sqrt() * x0) / (1 - a).sqrt(), None

    monkeypatch.setattr(method, "predict", predict)
    images = torch.zeros(1, 2, 16, 16, 8)
    images[:, 0] = torch.rand(16, 16, 8, generator=torch.Generator().manual_seed(0)) - 0.5
    batch = {"images": images, "available": torch.tensor([[True, False]])}
    mean, draw = (
        made(batch, "b", SliceWindows(4), Noise([(0, "subject", 0)])).image for made in (method.mean, method.translate)
    )
    exact = images[:, :1] / 2
    assert (mean - exact).abs().max() < 5e-3
    assert (draw - exact).std().item() == pytest.approx(0.1, rel=0.05)


def test_a_file_says_that_it_is_the_mean(runs, source, tmp_path):
    run = runs["velocity"]
    made = run.translate({"T1w": source}, sampling=Sampling(mean=True))
    draw = run.translate({"T1w": source})
    assert made.deviation is None
    assert not np.array_equal(made.array, draw.array)
    made.write(tmp_path / "t2.nii.gz")
    draw.write(tmp_path / "draw.nii.gz")
    sidecar, other = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("t2", "draw"))
    assert (sidecar["mean"], sidecar["image"]) == (True, "mean given the sources, by one call")
    assert (sidecar["sampling_steps"], other["sampling_steps"]) == (1, VELOCITY.sampling_steps)
    assert (other["mean"], other["image"]) == (None, "sample")
    assert sidecar["synthetic"] is True


def test_where_only_draws_tell_it_is_theirs(runs, source, tmp_path):
    run = runs["syndiff"]
    made = run.translate({"T1w": source}, sampling=Sampling(mean=True, samples=3))
    several = run.translate({"T1w": source}, sampling=Sampling(samples=3))
    np.testing.assert_array_equal(made.array, several.array)
    assert made.samples == ()
    paths = made.write(tmp_path / "t2.nii.gz")
    assert sorted(paths) == sorted(tmp_path / name for name in ("t2.nii.gz", "t2.json", "t2_std.nii.gz", "t2_std.json"))
    with pytest.raises(InputError, match="several draws: say how many, --samples 8"):
        run.translate({"T1w": source}, sampling=Sampling(mean=True))


def test_what_does_not_go_together_is_refused(runs, source):
    with pytest.raises(InputError, match="in one call: leave out --samples"):
        runs["velocity"].translate({"T1w": source}, sampling=Sampling(mean=True, samples=2))
    with pytest.raises(InputError, match="maps are those of a draw"):
        runs["velocity"].translate({"T1w": source}, sampling=Sampling(mean=True, maps=True))
    regression = runs["regression"]
    np.testing.assert_array_equal(
        regression.translate({"T1w": source}, sampling=Sampling(mean=True)).array,
        regression.translate({"T1w": source}).array,
    )


def test_a_folder_is_refused_before_anything_is_made(runs, phantoms, tmp_path, capsys):
    command = ["translate", "--run", str(runs["syndiff"].folder), "-i", str(phantoms.root / "table.csv")]
    assert main([*command, "-o", str(tmp_path / "out"), "--target", "T2w", "--mean"]) == 1
    assert "several draws" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_evaluation_measures_means_and_says_so(runs, cohort, tmp_path):
    both = [runs["velocity"], runs["regression"]]
    told = []
    means = evaluate(both, cohort, target="T2w", pictures=0, mean=True, kept=tmp_path / "kept", report=told.append)
    draws = evaluate(both, cohort, target="T2w", pictures=0, kept=tmp_path / "kept")
    assert told[-1].done == told[-1].total
    assert means.syntheses == "the mean given the sources, in one call"
    figures = {
        (kind, one.label): one.measurement.mean("psnr_db")
        for kind, found in (("mean", means), ("draw", draws))
        for one in found.results
    }
    assert figures["mean", "velocity"] != figures["draw", "velocity"]
    assert figures["mean", "regression"] == figures["draw", "regression"]
    again = evaluate(both, cohort, target="T2w", pictures=0, mean=True, kept=tmp_path / "kept")
    assert [one.measurement.mean("psnr_db") for one in again.results] == [
        one.measurement.mean("psnr_db") for one in means.results
    ]
    write_evaluation(means, tmp_path / "out")
    assert "Syntheses: the mean given the sources, in one call." in (tmp_path / "out" / "table.md").read_text()
    with pytest.raises(InputError, match="the mean of syndiff is that of several draws"):
        evaluate([runs["syndiff"]], cohort, target="T2w", mean=True)
