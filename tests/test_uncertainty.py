"""Uncertainty of samples against the error of their mean: cases whose answer is known."""

import numpy as np
import pytest

from scansynth.errors import InputError
from scansynth.evaluation.uncertainty import UncertaintyFigures
from scansynth.metrics.uncertainty import LEVELS, sparsification, uncertainty

SHAPE = (20, 20, 20)
EVERYWHERE = np.ones(SHAPE, dtype=bool)


def drawn(deviation, count, seed=0):
    """A truth and samples that are draws of one distribution, of a deviation that differs from voxel to voxel."""
    rng = np.random.default_rng(seed)
    truth = deviation * rng.standard_normal(SHAPE)
    return deviation * rng.standard_normal((count, *SHAPE)), truth


def test_samples_of_the_truths_distribution_cover_it_as_often_as_they_say():
    samples, truth = drawn(np.linspace(0.1, 2, SHAPE[0])[:, None, None], 8)
    found = uncertainty(samples, truth, EVERYWHERE)
    np.testing.assert_allclose(found.coverage, LEVELS, atol=0.015)
    assert (found.samples, found.voxels) == (8, 8000)


def test_a_spread_that_knows_the_error_sorts_it_and_one_that_does_not_does_not():
    samples, truth = drawn(np.linspace(0.1, 2, SHAPE[0])[:, None, None], 8)
    found = uncertainty(samples, truth, EVERYWHERE)
    shuffled = uncertainty(samples, np.random.default_rng(1).permutation(truth.ravel()).reshape(SHAPE), EVERYWHERE)
    assert found.correlation > 0.4
    assert found.area < shuffled.area
    assert found.by_uncertainty[10] < 0.7
    assert abs(uncertainty(samples, np.ones(SHAPE), EVERYWHERE).by_error[0] - 1) < 1e-9


def test_sparsification_by_hand():
    error = np.array([4.0, 1.0, 3.0, 2.0])
    fractions = np.array([0.0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(sparsification(error, error, fractions), np.array([2.5, 2.0, 1.5, 1.0]) / 2.5)
    np.testing.assert_allclose(sparsification(error, -error, fractions), np.array([2.5, 3.0, 3.5, 4.0]) / 2.5)
    np.testing.assert_allclose(sparsification(0 * error, error, fractions), 1)


def test_an_uncertainty_that_is_the_error_has_no_area():
    error = np.random.default_rng(0).random(SHAPE)
    samples = np.stack([error - 0.5 * error, error + 0.5 * error]) + 1
    found = uncertainty(samples, np.ones(SHAPE), EVERYWHERE)
    assert found.area == pytest.approx(0, abs=1e-9)
    assert found.correlation == pytest.approx(1)


def test_only_the_mask_counts():
    samples, truth = drawn(np.ones((20, 1, 1)), 4)
    half = np.zeros(SHAPE, dtype=bool)
    half[:10] = True
    spoilt = truth.copy()
    spoilt[10:] = 1e6
    np.testing.assert_allclose(
        uncertainty(samples, spoilt, half).by_uncertainty, uncertainty(samples, truth, half).by_uncertainty
    )


def test_what_cannot_be_measured_is_refused():
    samples, truth = drawn(np.ones((20, 1, 1)), 2)
    with pytest.raises(InputError, match="at least two samples"):
        uncertainty(samples[:1], truth, EVERYWHERE)
    with pytest.raises(InputError, match="different grids"):
        uncertainty(samples, truth[1:], EVERYWHERE)
    with pytest.raises(InputError, match="no voxel"):
        uncertainty(samples, truth, ~EVERYWHERE)
    samples[0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        uncertainty(samples, truth, EVERYWHERE)


def test_a_subject_without_a_correlation_is_left_out_of_its_mean_and_named():
    rng = np.random.default_rng(0)
    figures = UncertaintyFigures()
    truth, mask = rng.uniform(size=(6, 6, 6)), np.ones((6, 6, 6), bool)
    spread = truth + 0.1 * rng.normal(size=(3, 6, 6, 6))
    figures.found["run", "T1w→T2w", "one"] = uncertainty(spread, truth, mask)
    figures.found["run", "T1w→T2w", "flat"] = uncertainty(np.stack([truth, truth]), truth, mask)
    table = figures.section().table
    assert table.lines[0].cells[2].text == f"{figures.found['run', 'T1w→T2w', 'one'].correlation:.3f} (n = 1)"
    assert "left out of its mean: flat" in table.notes[0]
