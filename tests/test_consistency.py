"""Consistency of samples, by hand."""

import csv
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
from PIL import Image

from scansynth.errors import InputError
from scansynth.evaluation.consistency import ConsistencyFigures, markdown
from scansynth.evaluation.figures import Synthesis
from scansynth.evaluation.tables import Result
from scansynth.metrics.consistency import Consistency, consistency
from scansynth.metrics.protocols import PROTOCOLS, Protocol, measure


def test_uncertainty_and_mc_n_are_those_of_the_definition():
    rng = np.random.default_rng(0)
    samples = rng.uniform(size=(5, 4, 5, 6))
    means = []

    def ms_ssim(image):
        means.append(image)
        return 50 + 10 * len(means) if len(means) < 4 else 70.0

    found = consistency(samples, ms_ssim)
    for count, image in enumerate(means, 1):
        np.testing.assert_allclose(image, samples[:count].mean(0))
    assert found.averaged == (60, 70, 80, 70, 70)
    assert found.uncertainty == pytest.approx(2 * np.std(samples, axis=0, ddof=1).mean())
    normalised = np.array([60, 70, 80, 70, 70]) / 80
    assert found.normalised == pytest.approx(tuple(normalised))
    assert found.inconsistency == pytest.approx(normalised.std(ddof=1))


def test_equal_samples_are_certain_and_consistent():
    found = consistency(np.full((3, 2, 2, 2), 0.3), lambda image: 90.0)
    assert found.uncertainty == pytest.approx(0, abs=1e-12)
    assert found.inconsistency == 0


def test_one_sample_is_refused_and_without_any_similarity_there_is_no_inconsistency():
    with pytest.raises(InputError, match="at least two"):
        consistency(np.zeros((1, 2, 2, 2)), lambda image: 90.0)
    assert np.isnan(consistency(np.zeros((2, 2, 2, 2)), lambda image: 0.0).inconsistency)


def test_tables_and_the_curve_are_written(tmp_path):
    found = {
        ("a", "T1w→T2w", "one"): Consistency(0.02, (90.0, 95.0)),
        ("a", "T1w→T2w", "two"): Consistency(0.04, (92.0, 93.0)),
        ("b", "T2w→T1w", "one"): Consistency(0.01, (80.0, 81.0)),
    }
    figures = ConsistencyFigures()
    figures.found = found
    figures.write(tmp_path)
    assert "| a | T1w→T2w | 2 | 0.03000 ± 0.01414 |" in markdown(found)
    assert "91.00 ± 1.41 | 94.00 ± 1.41 |" in (tmp_path / "consistency.md").read_text()
    with (tmp_path / "consistency.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["subject"] for row in rows] == ["one", "two", "one"]
    assert float(rows[2]["mc_2_ms_ssim_percent"]) == 81
    assert Image.open(tmp_path / "consistency.png").size[0] > 800


def test_a_volume_without_ms_ssim_is_left_out_and_said(tmp_path):
    """Too thin a volume costs its consistency, and not the evaluation."""
    rng = np.random.default_rng(0)
    figures = ConsistencyFigures()
    for subject, depth in (("thick", 24), ("thin", 8)):
        truth = rng.uniform(0.2, 1, size=(32, 32, depth))
        samples = np.clip(truth + 0.1 * rng.normal(size=(2, *truth.shape)), 0, 1)
        image = samples.mean(0)
        result = Result("run", ("T1w",), "T2w", subject, measure("default", image, truth))
        task = Ready(truth)
        figures.collect(Synthesis(task=task, result=result, image=image, samples=samples, truth=truth, masks={}))
    assert [subject for _, _, subject in figures.found] == ["thick"]
    figures.write(tmp_path)
    text = (tmp_path / "consistency.md").read_text()
    assert "Left out, for there is no MS-SSIM (images of 32×32×8 voxels" in text
    assert text.rstrip().endswith(": thin.")
    assert any("thin" in note for note in figures.section().table.notes)
    del figures.found["run", "T1w→T2w", "thick"]
    assert not figures.empty
    figures.write(tmp_path)
    assert (tmp_path / "consistency.md").read_text().startswith("- Left out")
    assert "thin" in figures.section().text


@dataclass
class Ready:
    """What consistency asks of a task."""

    volume: np.ndarray
    protocol: Protocol = field(default_factory=lambda: PROTOCOLS["default"])

    def measuring(self):
        return partial(measure, self.protocol, reference=self.volume)
