"""A distance below which a volume is nearer to training volumes than people are, from held-out people's distances."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from scansynth.errors import InputError

RATE = 0.01
"""False alarms aimed at: the share of new volumes that are called too near."""
CONFIDENCE = 0.95
FEWEST = 5
"""Held-out volumes below which no threshold can be had."""


@dataclass(frozen=True)
class Threshold:
    """A distance below which a volume is called too near, and how often a new volume is."""

    value: float
    rank: int
    """The threshold is at most the held-out distance of this rank, 1 the smallest."""
    held_out: int
    by_rank: bool
    """Whether it is that distance; else a prediction bound for logarithms of distances, as of a normal distribution."""
    aimed: float
    """Rate of false alarms aimed at."""

    @property
    def expected_rate(self) -> float:
        """Share of new volumes below it, at most, whatever the distribution: rank / (held-out volumes + 1)."""
        return self.rank / (self.held_out + 1)

    @property
    def bounded_rate(self) -> float:
        """That share's upper bound with 95 % confidence: it has a beta distribution over draws of held-out volumes."""
        return float(stats.beta.ppf(CONFIDENCE, self.rank, self.held_out + 1 - self.rank))

    def chance(self, flagged: int, volumes: int) -> float:
        """Probability, at most, of so many or more of `volumes` new ones below it (beta-binomial)."""
        return float(stats.betabinom.sf(flagged - 1, volumes, self.rank, self.held_out + 1 - self.rank))

    def text(self) -> str:
        """What the threshold is, in words."""
        if self.by_rank:
            who = "any" if self.rank == 1 else f"all but {self.rank - 1}"
            return f"than {who} of {self.held_out} held-out real ones"
        return (
            f"than {100 * (1 - self.aimed):g} % of real ones are expected to be (prediction bound from {self.held_out} "
            "held-out ones, all of which are farther)"
        )


def threshold_of(distances: Sequence[float] | np.ndarray, rate: float = RATE) -> Threshold:
    """The threshold from held-out distances.

    With m held-out volumes, a new one's distance is below the k-th smallest with a probability of k / (m + 1),
    whatever the distribution. The largest k with k / (m + 1) ≤ rate is taken. With fewer than 1 / rate − 1 held-out
    volumes there is none: then the threshold is the lower prediction bound of a normal distribution of log distances,
    and no more than the smallest distance. Its rate is the one aimed at as far as distances are log-normal; in any
    case 1 / (m + 1) on average is not exceeded.

    Raises:
        InputError: for fewer than 5 distances, or a rate out of (0, 0.5].
    """
    m = len(distances)
    if m < FEWEST or not 0 < rate <= 0.5:
        raise InputError(
            f"{m} held-out real volumes, false-alarm rate {rate:g}: give {FEWEST} volumes or more (a validation and a "
            "test split, for example) and a rate above 0, at most 0.5"
        )
    ordered = np.sort(np.asarray(distances, dtype=np.float64))
    rank = int(rate * (m + 1) + 1e-9)
    if rank:
        return Threshold(float(ordered[rank - 1]), rank, m, True, rate)
    logs = np.log(np.maximum(ordered, 1e-9))
    bound = logs.mean() - stats.t.ppf(1 - rate, m - 1) * logs.std(ddof=1) * np.sqrt(1 + 1 / m)
    return Threshold(float(min(np.exp(bound), ordered[0])), 1, m, False, rate)
