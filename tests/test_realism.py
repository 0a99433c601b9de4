"""The knob between the mean and a sample: on the straight line between them, in files, evaluation and refusals."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import scansynth
from scansynth import Sampling
from scansynth.errors import InputError
from scansynth.evaluation.evaluate import evaluate
from scansynth.evaluation.samples import draw, made_so
from scansynth.evaluation.tasks import choose_work
from scansynth.methods.ddpm import DdpmConfig
from scansynth.synthesis.realism import between, check_realism
from scansynth.training.train import train

CPU = torch.device("cpu")
VELOCITY = replace(DdpmConfig.tiny(), patch=None, output="velocity", variance="fixed", window_levels=())


@pytest.fixture(scope="module")
def runs(cohort, tiny, tmp_path_factory):
    """Loaded runs: two have mean and sample, one no mean in one call, one no sample."""
    folder = tmp_path_factory.mktemp("runs")
    for name, method, settings in (
        ("velocity", "ddpm", VELOCITY), ("flow", "flow", None), ("syndiff", "syndiff", None),
        ("regression", "regression", None),
    ):  # fmt: skip
        train(tiny(method, settings, steps=4), cohort, folder / name, device=CPU)
    return {path.name: scansynth.load(path, "cpu") for path in folder.glob("[!.]*")}


@pytest.fixture
def source(phantoms):
    subject = next(subject for subject in phantoms.subjects if subject.split == "test")
    return subject.scans["T1w"]


def test_the_error_of_an_exact_method_grows_with_the_square():
    """x ~ N(m, 1) and a sample of it: E|m + r(x̂ − m) − x|² = 1 + r²."""
    x, sample = np.random.default_rng(0).normal(size=(2, 200_000)).astype(np.float32)
    for realism in (0.0, 0.25, 0.5, 1.0):
        error = between(np.zeros_like(x), sample, realism) - x
        assert np.mean(error**2) == pytest.approx(1 + realism**2, rel=0.02)


@pytest.mark.parametrize("name", ["velocity", "flow"])
def test_an_image_lies_between_the_mean_and_a_sample(runs, name, source):
    run, told = runs[name], []

    def at(**sampling):
        return run.translate({"T1w": source}, sampling=Sampling(**sampling), report=told.append).array

    mean, sample, quarter = at(mean=True), at(), at(realism=0.25)
    ends = {0: mean, 1: sample}
    for realism, end in ends.items():
        assert np.array_equal(at(realism=realism), end)
    assert not np.allclose(mean, sample)
    steps = run.method.sampling_steps
    made = run.translate({"T1w": source}, sampling=Sampling(realism=0.25))
    assert (made.provenance["realism"], made.provenance["sampling_steps"]) == (0.25, steps + 1)
    # Intensities are put back by a straight line.
    np.testing.assert_allclose(quarter, mean + 0.25 * (sample - mean), atol=1e-3 * np.abs(sample).max())


def test_progress_counts_the_call_of_the_mean(runs, source):
    events = []
    run = runs["velocity"]
    run.translate({"T1w": source}, sampling=Sampling(realism=0.5), report=events.append)
    assert events[-1].done == events[-1].total == run.method.sampling_steps + 1


def test_a_sidecar_says_where_it_stood(runs, source, tmp_path):
    run = runs["flow"]
    said = {}
    for realism in (0.0, 0.5, 1.0):
        path = tmp_path / f"{realism:g}.nii.gz"
        run.translate({"T1w": source}, sampling=Sampling(realism=realism)).write(path)
        said[realism] = json.loads((tmp_path / f"{realism:g}.json").read_text())
    assert [said[realism]["image"] for realism in said] == [
        "mean given the sources, by one call",
        "between the mean given the sources and a sample, realism 0.5",
        "sample",
    ]
    assert [said[realism]["realism"] for realism in said] == [0.0, 0.5, None]
    assert all(content["synthetic"] is True for content in said.values())


def test_another_realism_is_another_image():
    """What is there at one realism is not taken for what is asked for at another; older sidecars say nothing of it."""
    told = [Sampling(realism=realism).told for realism in (0.0, 0.5, 1.0)]
    assert [one["realism"] for one in told] == [0.0, 0.5, None]


def test_evaluation_measures_the_same_image(runs, cohort, tmp_path):
    run = runs["flow"]
    work = choose_work([run], cohort, "test", protocol="default", target="T2w")
    mean, sample = (draw(run, work[0], 0, sample=number).image for number in (None, 0))
    half = made_so(run, work[0], 0, realism=0.5)
    np.testing.assert_allclose(half.image, (mean + sample) / 2, atol=1e-6)
    found = evaluate([run, runs["regression"]], cohort, target="T2w", realism=0.5, pictures=0, kept=tmp_path)
    assert found.syntheses == "realism 0.5 between the mean given the sources (0) and a draw (1)"
    assert sorted(path.name.split("_")[-1] for path in (tmp_path / "flow").iterdir()) == ["mean.npz", "sample-1.npz"]
    (measured,) = (one for one in found.results if one.label == "flow")
    expected = work[0].measuring()(half.image)
    assert measured.measurement.mean("psnr_db") == pytest.approx(expected.mean("psnr_db"))
    lowest = {
        realism: evaluate([run], cohort, target="T2w", realism=realism, pictures=0, kept=tmp_path).results[-1]
        for realism in (0.0, 1.0)
    }
    for realism, image in ((0.0, mean), (1.0, sample)):
        psnr = work[0].measuring()(image).mean("psnr_db")
        assert lowest[realism].measurement.mean("psnr_db") == pytest.approx(psnr)


@pytest.mark.parametrize(
    ("name", "sampling", "words"),
    [
        ("regression", {"realism": 0.5}, "draws nothing"),
        ("syndiff", {"realism": 0.5}, "no mean in one call"),
        ("flow", {"realism": 0.5, "samples": 4}, "of one image"),
        ("flow", {"realism": 0.5, "mean": True}, "of one image"),
        ("flow", {"realism": 0.5, "intervals": True}, "leave out --realism"),
        ("flow", {"realism": 1.5}, "must lie in 0 to 1"),
    ],
)
def test_what_has_no_place_on_the_line_is_refused(runs, source, name, sampling, words):
    with pytest.raises(InputError, match=words):
        runs[name].translate({"T1w": source}, "T2w", sampling=Sampling(**sampling))


def test_a_sample_may_always_be_asked_for(runs):
    check_realism(runs["syndiff"].method, "syndiff", 1.0, samples=8, mean=True)


def test_evaluation_refuses_what_has_no_mean(runs, cohort):
    with pytest.raises(InputError, match="syndiff with these settings gives no mean"):
        evaluate([runs["syndiff"]], cohort, realism=0.5)
