"""Memorised training volumes: is a generated volume nearer to a training volume than a new person's would be?

For every generated volume the nearest training volumes are searched, in two ways: by MS-SSIM and in the space of slice
features. Copies that were shifted, mirrored, resized by some per cent, turned a little or changed in their intensities
are found, since volumes are brought onto each other first (`registration`). The same search for held-out real volumes
says how near a training volume a volume is that nobody copied; from that come the threshold and its false alarms.

Cost, for G queries (generated and held-out), N training volumes, K candidates: N times six correlations of all queries
on a grid of 24 voxels (1 ms a query and training volume on one core), then for each query K to 2K registrations and
MS-SSIMs at full size (1.5 s each at 128³). 500 generated, 100 held-out and 1262 training volumes take some 10 minutes
and, with K = 4, one to two hours. Training volumes are read once for their histogram, once for the search, and
candidates again for each query. In memory stand a few volumes, and of every query what `Search` and the features keep
(60 kB with the untrained features) and 2K poses. A copy is missed if it is among the K best of neither search.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from scansynth.errors import InputError
from scansynth.sets.features import DERIVATIVE_PYRAMID, FeatureExtractor, volume_features
from scansynth.sets.registration import (
    COARSE,
    Map,
    Pose,
    Search,
    landmarks,
    refined,
    standardised,
    tissue,
    warped,
)
from scansynth.sets.set_similarity import scales_for, similarity
from scansynth.sets.volume_sets import VolumeSet, check_comparable, shrunk

CANDIDATES = 4
"""Training volumes that are compared at full size, by each of the two searches."""
RATE = 0.01
"""False alarms aimed at: the share of new volumes that are called too near."""
CONFIDENCE = 0.95
FEWEST = 5
"""Held-out volumes below which no threshold can be had."""


@dataclass(frozen=True)
class Match:
    """A training volume beside a query, after it was brought onto it."""

    name: str
    """Of the training volume."""
    mirrored: bool
    map: Map
    """From the query to the (mirrored) training volume."""
    ms_ssim: float
    """Inside the query's foreground, per cent."""
    feature_distance: float
    """Euclidean, between the features of the three central slices."""

    @property
    def distance(self) -> float:
        """By MS-SSIM: 100 less it, per cent."""
        return 100 - self.ms_ssim


@dataclass(frozen=True)
class Nearest:
    """The training volumes that are nearest to one volume."""

    name: str
    by_similarity: Match
    by_features: Match


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


@dataclass(frozen=True, kw_only=True)
class Memorisation:
    """What was found of a generated set."""

    label: str
    training: str
    training_volumes: int
    generated: tuple[Nearest, ...]
    held_out: tuple[Nearest, ...]
    similarity: Threshold
    """Of `Match.distance`, per cent."""
    features: Threshold
    """Of `Match.feature_distance`."""
    extractor: str
    scales: int
    """Of MS-SSIM."""
    target: np.ndarray
    """Quantiles to which intensities were brought: the training volumes' mean."""

    @property
    def near_by_similarity(self) -> tuple[Nearest, ...]:
        """Generated volumes that are too near by MS-SSIM, nearest first."""
        near = [one for one in self.generated if one.by_similarity.distance < self.similarity.value]
        return tuple(sorted(near, key=lambda one: one.by_similarity.distance))

    @property
    def near_by_features(self) -> tuple[Nearest, ...]:
        """Generated volumes that are too near in feature space, nearest first."""
        near = [one for one in self.generated if one.by_features.feature_distance < self.features.value]
        return tuple(sorted(near, key=lambda one: one.by_features.feature_distance))

    def verdict(self) -> str:
        """In words, with counts: by MS-SSIM, then in feature space."""
        parts = (
            ("By MS-SSIM", self.near_by_similarity, self.similarity),
            (f"By features ({self.extractor})", self.near_by_features, self.features),
        )
        return " ".join(f"{how}, {self._sentence(near, threshold)}" for how, near, threshold in parts)

    def _sentence(self, near: Sequence[Nearest], threshold: Threshold) -> str:
        n, found = len(self.generated), len(near)
        verb = "is" if found == 1 else "are"
        told = (
            f"{found} of {n} synthetic volumes {verb} nearer to a training volume {threshold.text()}; by chance at "
            f"most {n * threshold.expected_rate:.2g} would be (rate at most {100 * threshold.expected_rate:.2g} % on "
            f"average, {100 * threshold.bounded_rate:.2g} % with {100 * CONFIDENCE:g} % confidence)"
        )
        if not found:
            return f"{told}. None is called a copy."
        names = ", ".join(one.name for one in near[:5]) + (", …" if found > 5 else "")
        p = threshold.chance(found, n)
        judged = "more than chance explains" if p < 1 - CONFIDENCE else "no more than chance may explain"
        return f"{told}: {names}. That is {judged} (p ≤ {max(p, 1e-4):.2g}); look at the pairs."


def find_memorised(
    generated: VolumeSet,
    training: VolumeSet,
    held_out: VolumeSet,
    *,
    extractor: FeatureExtractor = DERIVATIVE_PYRAMID,
    candidates: int = CANDIDATES,
    rate: float = RATE,
) -> Memorisation:
    """Search a generated set for memorised training volumes.

    Args:
        generated: the set.
        training: all volumes that the generator was trained on.
        held_out: real volumes of other subjects, prepared alike; the generator must not have seen them.
        extractor: of the slices' features.
        candidates: training volumes compared at full size, by each search.
        rate: of false alarms aimed at.

    Raises:
        InputError: if grids differ, a held-out volume is also a training volume, fewer than 5 are held out, or a volume
            is flat.
    """
    for one in (training, held_out):
        check_comparable(generated, one)
    if both := sorted(set(training.names) & set(held_out.names)):
        raise InputError(
            f"{', '.join(both[:5])}: held out and used in training; only subjects that the generator never saw can "
            "tell how near to a training volume a new one is"
        )
    threshold_of(np.ones(len(held_out)), rate)  # says what is missing before hours of searching
    if candidates < 1 or not len(generated):
        raise InputError(f"{len(generated)} volumes, {candidates} candidates: give one or more of both")
    target = np.mean([landmarks(volume) for volume in training], axis=0)
    found, known = (
        _nearest(queries, training, extractor, min(candidates, len(training)), target)
        for queries in (generated, held_out)
    )
    return Memorisation(
        label=generated.label,
        training=training.label,
        training_volumes=len(training),
        generated=found,
        held_out=known,
        similarity=threshold_of([one.by_similarity.distance for one in known], rate),
        features=threshold_of([one.by_features.feature_distance for one in known], rate),
        extractor=extractor.name,
        scales=scales_for(generated.shape),
        target=target,
    )


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A training volume that may be among the nearest."""

    number: int
    pose: Pose
    feature_distance: float
    """Before registration: both volumes centred, the smaller of two mirror images'."""


def _nearest(
    queries: VolumeSet, training: VolumeSet, extractor: FeatureExtractor, candidates: int, target: np.ndarray
) -> tuple[Nearest, ...]:
    coarse, found = [], []
    for volume in queries:
        image = standardised(volume, target)
        coarse.append(shrunk(image, COARSE))
        found.append(volume_features(centred(image), extractor))
    search, features = Search(coarse), np.stack(found)
    kept: list[list[_Candidate]] = [[] for _ in queries.names]
    for number, volume in enumerate(training):
        image = standardised(volume, target)
        sides = [volume_features(centred(one), extractor) for one in (image, image[::-1])]
        distances = np.min([np.linalg.norm(features - one, axis=1) for one in sides], axis=0)
        for query, pose in enumerate(search.poses(shrunk(image, COARSE))):
            pool = [*kept[query], _Candidate(number, pose, float(distances[query]))]
            alike = sorted(pool, key=lambda one: -one.pose.correlation)[:candidates]
            close = sorted(pool, key=lambda one: one.feature_distance)[:candidates]
            kept[query] = alike + [one for one in close if one not in alike]
    nearest = []
    for query, pool in enumerate(kept):
        image = standardised(queries.read(query), target)
        matches = [_match(image, training, one, extractor, target) for one in pool]
        by_similarity = min(matches, key=lambda one: one.distance)
        by_features = min(matches, key=lambda one: one.feature_distance)
        nearest.append(Nearest(queries.names[query], by_similarity, by_features))
    return tuple(nearest)


def _match(
    query: np.ndarray, training: VolumeSet, candidate: _Candidate, extractor: FeatureExtractor, target: np.ndarray
) -> Match:
    pose, other = candidate.pose, standardised(training.read(candidate.number), target)
    other = other[::-1] if pose.mirrored else other
    found = refined(query, other, pose.map)
    laid = warped(other, found, query.shape, order=3)
    ms_ssim = similarity(query, laid, scales_for(query.shape), mask=tissue(query))
    apart = volume_features(query, extractor) - volume_features(laid, extractor)
    return Match(training.names[candidate.number], pose.mirrored, found, ms_ssim, float(np.linalg.norm(apart)))


def aligned(training: VolumeSet, match: Match, target: np.ndarray) -> np.ndarray:
    """A match's training volume, standardised and brought onto its query, (X, Y, Z) float32."""
    other = standardised(training.read(training.names.index(match.name)), target)
    return warped(other[::-1] if match.mirrored else other, match.map, training.shape, order=3)


def centred(volume: np.ndarray) -> np.ndarray:
    """A standardised volume moved by whole voxels so that its foreground's centre is the grid's; 0 comes in."""
    places = np.nonzero(volume > 0)
    moved = volume
    for axis, (place, side) in enumerate(zip(places, volume.shape, strict=True)):
        by = side // 2 - round(float(place.mean()))
        into, out = slice(max(0, by), side + min(0, by)), slice(max(0, -by), side + min(0, -by))
        ahead = (slice(None),) * axis
        result = np.zeros_like(moved)
        result[(*ahead, into)] = moved[(*ahead, out)]
        moved = result
    return moved
