"""Paired statistics of two methods by subject: tests, effect sizes, confidence intervals.

The unit is the subject. Slices of one subject resemble each other; a test over slices takes them for independent and
finds differences where there are none. They are tested only when asked for, with a warning.

A test over subjects is about the weights at hand: the same recipe with another seed may turn the difference round. What
is said of recipes must hold over trainings as well as subjects (`over_trainings`).
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from scipy import stats

from scansynth.errors import InputError

log = logging.getLogger(__name__)

FEWEST = 6
"""Subjects below which no p-value is given: the smallest that a two-sided Wilcoxon test can give of 5 is 0.06."""
TRAININGS = 3
"""Trainings of each method below which nothing is said of methods."""
RESAMPLES = 10_000
CONFIDENCE = 0.95
BATCH = 10_000_000
"""Numbers that the bootstrap draws at once: of a thousand slices all resamples, of more a part after the other."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A method against another one, on the same subjects."""

    n: int
    """Subjects (or what the unit is)."""
    mean: float
    """Mean of method − other over subjects."""
    interval: tuple[float, float]
    """Bootstrap confidence interval of the mean (95 %, bias-corrected and accelerated); NaN for fewer than 2."""
    effect_size: float
    """Cohen's d of paired differences, their mean over their standard deviation; NaN where it is not defined."""
    wilcoxon: float | None
    """Two-sided p-value of the Wilcoxon signed-rank test; None below 6 subjects."""
    t_test: float | None
    """Two-sided p-value of the paired t-test; None below 6 subjects."""
    over_trainings: float | None = None
    """p-value over subjects and trainings (`over_trainings`); None where a method has fewer than three trainings."""
    unit: str = "subject"


def difference(
    method: Mapping[str, float], other: Mapping[str, float], unit: str = "subject", *, seed: int = 0
) -> Difference:
    """Compare two methods' figures of the same subjects.

    Args:
        method: subject to figure.
        other: subject to figure, of the same subjects.
        unit: what the keys are; anything but `subject` is warned of.
        seed: of the bootstrap.

    Raises:
        InputError: if the subjects differ, or a figure is not finite.
    """
    if method.keys() != other.keys():
        apart = sorted(method.keys() ^ other.keys())
        raise InputError(
            f"the two methods were measured on different {unit}s ({', '.join(apart[:5])}"
            f"{', …' if len(apart) > 5 else ''}): measure both on the same"
        )
    if not method:
        raise InputError(f"no {unit} to compare")
    if unit != "subject":
        warn_of(unit)
    names = sorted(method)
    values = np.array([method[name] - other[name] for name in names], dtype=np.float64)
    if not np.isfinite(values).all():
        bad = [name for name, value in zip(names, values, strict=True) if not math.isfinite(value)]
        raise InputError(
            f"figures of {', '.join(bad[:5])} are not finite (equal images?): leave them out of statistics"
        )
    n, deviation = len(values), float(values.std(ddof=1)) if len(values) > 1 else math.nan
    wilcoxon = t_test = None
    if n >= FEWEST:
        same = not values.any()
        wilcoxon = 1.0 if same else _p(stats.wilcoxon(values))
        t_test = 1.0 if same else _p(stats.ttest_1samp(values, 0.0)) if deviation else 0.0
    return Difference(
        n=n,
        mean=float(values.mean()),
        interval=_interval(values, seed),
        effect_size=float(values.mean()) / deviation if deviation > 0 else math.nan,
        wilcoxon=wilcoxon,
        t_test=t_test,
        unit=unit,
    )


def over_trainings(method: np.ndarray, other: np.ndarray, trained: tuple[bool, bool] = (True, True)) -> float | None:
    """p-value of a difference that shall hold for other subjects and for other trainings: min F′.

    Subjects and trainings are both a sample of those that there might be, crossed within a method. Clark ("The
    language-as-fixed-effect fallacy", Journal of Verbal Learning and Verbal Behavior 12, 1973) divides the squared
    difference by the sum of the variances that each of the two gives it, F₁F₂/(F₁ + F₂), which is never above the
    quasi-F ratio of both: the test is conservative. Degrees of freedom are Satterthwaite's.

    Args:
        method: figures, (trainings, subjects), the same subjects in the same order.
        other: of the other method, (trainings, subjects); trainings of two methods are not paired.
        trained: whether each is trained at all; one that is not (a copied source) has one row and no variance of it.

    Returns:
        The p-value; None below six subjects, or below three trainings of one that is trained.
    """
    if method.shape[1] < FEWEST:
        return None
    if any(one and len(figures) < TRAININGS for one, figures in zip(trained, (method, other), strict=True)):
        return None
    paired = method.mean(0) - other.mean(0)
    parts = [(float(paired.var(ddof=1)) / len(paired), len(paired) - 1)]
    for one, figures in zip(trained, (method, other), strict=True):
        if one:
            parts.append((float(figures.mean(1).var(ddof=1)) / len(figures), len(figures) - 1))
    mean, variance = float(paired.mean()), sum(part for part, _ in parts)
    if variance == 0:
        return 0.0 if mean else 1.0
    freedom = variance**2 / sum(part**2 / own for part, own in parts)
    return float(2 * stats.t.sf(abs(mean) / math.sqrt(variance), freedom))


@cache
def warn_of(unit: str) -> None:
    """Say once that a unit of tests is not independent: a table has many tests."""
    log.warning("statistics by %s: %ss of one subject are not independent, p-values come out too small", unit, unit)


def _p(result: Any) -> float:
    return float(result.pvalue)


def _interval(values: np.ndarray, seed: int) -> tuple[float, float]:
    if len(values) < 2:
        return math.nan, math.nan
    if not np.ptp(values):
        return float(values[0]), float(values[0])
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, BATCH // len(values)),
        confidence_level=CONFIDENCE,
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction (Scandinavian Journal of Statistics 6, 1979) for a family of tests.

    Args:
        p_values: of the tests; None where there was none, which stays so and does not count.

    Returns:
        Adjusted p-values, at most 1, in the order given.
    """
    given = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, place) in enumerate(given):
        largest = max(largest, min(1.0, (len(given) - rank) * p))
        adjusted[place] = largest
    return adjusted


def corrected(family: Sequence[Difference]) -> list[Difference]:
    """The differences of one family with Holm's p-values in place of their own, each test by itself."""
    tests = [holm([getattr(one, name) for one in family]) for name in ("wilcoxon", "t_test", "over_trainings")]
    return [replace(one, wilcoxon=w, t_test=t, over_trainings=o) for one, w, t, o in zip(family, *tests, strict=True)]
