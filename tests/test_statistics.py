"""Paired statistics by subject: figures of scipy, Holm's by hand, and what is refused."""

import logging
import math

import numpy as np
import pytest
from scipy import stats

from scansynth.errors import InputError
from scansynth.metrics.statistics import Difference, corrected, difference, holm, warn_of

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
