"""Intervals: quantiles against closed forms, coverage on new subjects, and what too few subjects allow."""

import numpy as np
import pytest
from scipy import stats

from scansynth.errors import InputError
from scansynth.metrics.conformal import (
    FLOOR,
    REGIONS,
    Held,
    calibrate,
    coverage,
    half_width,
    head,
    levels_for,
    regions,
    weighted_quantile,
)

SHAPE = (40, 40, 12)
X, Y, _ = np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE), indexing="ij")
HEAD = X**2 + Y**2 < 0.8**2


def subject(seed, spread, *, deviation=True, person=0.0):
    """A head brighter to the right, whose error is normal with a deviation that differs from place to place.

    `person`: by how much the errors of a whole person are larger or smaller, as a deviation of the logarithm.
    """
    rng = np.random.default_rng(seed)
    image = np.where(HEAD, 0.5 + 0.3 * X, 0.0)
    own = np.where(HEAD, spread * (1 + 0.8 * Y), 0.0)
    error = own * np.exp(person * rng.normal()) * rng.normal(size=SHAPE)
    return Held(image, image + error, own if deviation else None)


def test_a_quantile_of_parts_gives_each_part_the_same_weight():
    many, few = np.arange(1000.0), np.array([5000.0])
    assert weighted_quantile([many, few], 0.5) == 999
    assert weighted_quantile([many, few], 0.51) == 5000
    assert weighted_quantile([many, np.empty(0)], 0.25) == 249
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 4000))
    assert weighted_quantile(list(values), 0.9) == pytest.approx(np.quantile(values, 0.9), abs=0.02)


def test_levels_need_subjects():
    assert [levels_for(count) for count in (1, 3, 4, 9, 19)] == [
        (0.5,), (0.5,), (0.5, 0.8), (0.5, 0.8, 0.9), (0.5, 0.8, 0.9, 0.95),
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"3 validation subjects: intervals need at least 4 \(80 %\), 9 for 90 %"):
        calibrate([subject(seed, 0.05) for seed in range(3)])


def test_regions_share_the_head_and_need_no_truth():
    image = subject(0, 0.05).image
    found = regions(image, (0.4, 0.6))
    assert tuple(found) == REGIONS
    together = np.stack(list(found.values())).sum(0)
    np.testing.assert_array_equal(together, head(image))
    assert all(mask.any() for mask in found.values())
    assert image[found["dark"]].max() < 0.4 <= image[found["middle"]].min()


def test_factors_are_the_normal_distributions_quantiles():
    """Where the deviation is the error's own, half a width of 90 % is 1.645 deviations, in every region."""
    found = calibrate([subject(seed, 0.2) for seed in range(19)])
    assert found.levels == (0.5, 0.8, 0.9, 0.95)
    for name in REGIONS:
        assert found.factors[name] == pytest.approx(stats.norm.ppf((1 + np.array(found.levels)) / 2), rel=0.06)
    one = subject(50, 0.2)
    widths = half_width(one.image, one.deviation, found, 0.9)
    assert not widths[~head(one.image)].any()
    inside = regions(one.image, found.limits)["middle"]
    np.testing.assert_allclose(
        widths[inside], found.factors["middle"][2] * np.hypot(one.deviation[inside], FLOOR), rtol=1e-12
    )


@pytest.mark.parametrize("deviation", [True, False])
def test_new_people_are_covered_as_often_as_stated(deviation):
    """Errors of some people are twice those of others; with a deviation or without (a regression)."""
    settings = {"spread": 0.05, "deviation": deviation, "person": 0.3}
    found = calibrate([subject(seed, **settings) for seed in range(24)])
    for level in found.levels:
        shares = [coverage(subject(seed, **settings), found, level) for seed in range(100, 124)]
        for name in ("head", *REGIONS):
            assert np.mean([one[name] for one in shares]) == pytest.approx(level, abs=0.03)


def test_a_method_that_is_too_sure_gets_wider_intervals():
    """Deviations of a tenth of the error: nominal 90 % by them would cover 13 %."""
    sure = [Held(one.image, one.truth, 0.1 * one.deviation) for one in (subject(seed, 0.2) for seed in range(48))]
    found = calibrate(sure[:24])
    assert min(found.factors["middle"]) > 3
    shares = [coverage(one, found, 0.9)["head"] for one in sure[24:]]
    assert np.mean(shares) == pytest.approx(0.9, abs=0.03)


def test_a_region_that_a_subject_lacks_has_no_coverage():
    found = calibrate([subject(seed, 0.05) for seed in range(9)])
    flat = Held(np.where(HEAD, 0.9, 0.0), np.where(HEAD, 0.9, 0.0), np.zeros(SHAPE))
    shares = coverage(flat, found, 0.8)
    assert np.isnan(shares["dark"])
    assert shares["bright"] == shares["head"] == 1
    with pytest.raises(InputError, match="show no head"):
        calibrate([Held(np.zeros(SHAPE), np.zeros(SHAPE), None)] * 5)
