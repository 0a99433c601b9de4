"""Paired statistics by subject: figures of scipy, Holm's by hand, and what is refused."""

import logging
import math

import numpy as np
import pytest
from scipy import stats

from scansynth.errors import InputError
from scansynth.metrics.statistics import Difference, corrected, difference, holm, over_trainings, warn_of

OTHER = {f"s{k}": value for k, value in enumerate((20.1, 22.4, 19.8, 25.0, 23.3, 21.7, 24.2, 20.9))}
METHOD = {
    name: value + gain for (name, value), gain in zip(OTHER.items(), (1, 2, -0.5, 1.5, 0.7, 3, 0.2, 1.1), strict=True)
}


def test_figures_are_those_of_scipy_on_the_pairs():
    found = difference(METHOD, dict(reversed(OTHER.items())))
    a, b = (np.array(list(values.values())) for values in (METHOD, OTHER))
    assert found.n == 8
    assert found.mean == pytest.approx((a - b).mean())
    assert found.effect_size == pytest.approx((a - b).mean() / (a - b).std(ddof=1))
    assert found.wilcoxon == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert found.t_test == pytest.approx(stats.ttest_rel(a, b).pvalue)


def test_the_interval_holds_the_mean_and_is_repeatable():
    found = difference(METHOD, OTHER)
    low, high = found.interval
    assert low < found.mean < high
    assert difference(METHOD, OTHER).interval == found.interval
    standard_error = np.std([METHOD[name] - OTHER[name] for name in OTHER], ddof=1) / math.sqrt(8)
    assert high - low == pytest.approx(2 * 1.96 * standard_error, rel=0.25)


def test_below_six_subjects_there_is_no_p_value():
    five = list(OTHER)[:5]
    found = difference({name: METHOD[name] for name in five}, {name: OTHER[name] for name in five})
    assert found.wilcoxon is None
    assert found.t_test is None
    assert math.isfinite(found.effect_size)


def test_equal_methods_do_not_differ():
    found = difference(OTHER, OTHER)
    assert (found.mean, found.interval, found.wilcoxon, found.t_test) == (0, (0, 0), 1, 1)


def test_other_subjects_are_refused_by_name():
    with pytest.raises(InputError, match=r"different subjects.*s9"):
        difference({**METHOD, "s9": 1.0}, OTHER)


def test_a_figure_that_is_not_finite_is_refused_by_name():
    with pytest.raises(InputError, match="s3"):
        difference({**METHOD, "s3": math.inf}, OTHER)


def test_slices_are_warned_of(caplog):
    warn_of.cache_clear()  # a test before may have been the one that is told
    with caplog.at_level(logging.WARNING):
        assert difference(METHOD, OTHER, unit="slice").unit == "slice"
    assert "not independent" in caplog.text


def test_holm_by_hand():
    # 0.01·4 = 0.04; 0.02·3 = 0.06; 0.03·2 = 0.06; 0.4·1
    assert holm([0.03, 0.01, None, 0.4, 0.02]) == pytest.approx([0.06, 0.04, None, 0.4, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_each_test_is_corrected_in_its_own_family():
    family = [
        Difference(n=8, mean=0.0, interval=(0.0, 0.0), effect_size=0.0, wilcoxon=p, t_test=q)
        for p, q in ((0.01, 0.5), (0.04, 0.02))
    ]
    assert [(one.wilcoxon, one.t_test) for one in corrected(family)] == [(0.02, 0.5), (0.04, 0.04)]


def test_min_f_by_hand():
    """Clark (1973): F₁F₂/(F₁ + F₂), by subjects and by trainings, with his degrees of freedom."""
    rng = np.random.default_rng(0)
    method, other = 20 + rng.normal(size=(4, 9)), 19 + rng.normal(size=(5, 9))
    subjects = stats.ttest_rel(method.mean(0), other.mean(0)).statistic ** 2
    trainings = stats.ttest_ind(method.mean(1), other.mean(1), equal_var=False)
    f1, f2 = subjects, trainings.statistic**2
    freedom = (f1 + f2) ** 2 / (f1**2 / trainings.df + f2**2 / 8)
    expected = stats.f.sf(f1 * f2 / (f1 + f2), 1, freedom)
    assert over_trainings(method, other) == pytest.approx(expected)


def test_min_f_needs_three_trainings_and_six_subjects():
    figures = 20 + np.random.default_rng(0).normal(size=(3, 6))
    assert over_trainings(figures, figures + 1) is not None
    assert over_trainings(figures[:2], figures + 1) is None
    assert over_trainings(figures[:, :5], figures[:, :5] + 1) is None
    assert over_trainings(figures, figures[:1] + 1) is None
    assert over_trainings(figures, figures[:1] + 1, (True, False)) is not None
    assert over_trainings(np.ones((3, 6)), np.ones((3, 6))) == 1
    assert over_trainings(np.ones((3, 6)), np.zeros((3, 6))) == 0


def test_seeds_alone_rarely_make_a_star():
    """One recipe against itself, trainings 0.5 dB apart: over subjects alone most pairs differ, over both one in 20."""
    rng = np.random.default_rng(0)
    alone, both = [], []
    for _ in range(400):
        subjects = rng.normal(22, 2, 24)
        arms = [subjects + rng.normal(0, 0.5, (3, 1)) + rng.normal(0, 0.2, (3, 24)) for _ in range(2)]
        alone.append(stats.wilcoxon(arms[0][0] - arms[1][0]).pvalue < 0.05)
        both.append((over_trainings(*arms) or 0) < 0.05)
    assert np.mean(alone) > 0.7
    assert np.mean(both) < 0.07
    # And a difference that is there is found: 2 dB.
    arms = [arms[0], arms[1] + 2]
    assert (over_trainings(*arms) or 1) < 0.05
