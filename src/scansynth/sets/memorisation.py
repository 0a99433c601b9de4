"""Memorised training volumes: is a generated volume a copy or a blend of training volumes, or closer than people are?

A query (a generated or a held-out volume) is held against the training volumes that two searches on coarse images
bring up. Each is brought onto the query (`registration`), and both are compared in their local detail, which does not
change with what a copy may have undergone:

- monotone changes of intensity: voxels are ranked (`standardised`);
- bias fields, shading: local means are subtracted, local deviations divided out (`Detail`);
- noise and blur: what is finer than a voxel or two does not count;
- shifts, turns, sizes, mirror images: registration.

The distance is the share of the query's detail that a training volume leaves *unexplained*, 1 − r² for the correlation
r of details; of two training volumes, 1 − R² of the regression on both, with weights above 0. Three things are said, in
this order:

1. *copy*, *blend*: by the distance alone, whatever the number of held-out volumes. Next to nothing is unexplained
   (`COPY`), and at most half (`CLEAR`) of what is in any held-out person; with fewer than five of them, also of what
   other training volumes leave in this query, a nearest-neighbour ratio as in Carlini et al., "Extracting Training Data
   from Diffusion Models", USENIX Security 2023. The second part keeps images in which all people are alike from being
   called copies. (A person who stands in training many times hides copies from that ratio, not from held-out people.)
2. *near*: closer than held-out people are, by a threshold with a stated rate of false alarms. Too few held-out people
   tell nothing, and that is said.
3. *none*: nothing was found.

Cost, for G queries (generated and held-out), N training volumes, K candidates: N times six correlations of all queries
on a grid of 24 voxels (1 ms a query and training volume on one core), then for each query K to 2K registrations and
comparisons on a grid of at most 96 voxels (0.7 s each on one core at 86×86×64). Training volumes are read once for
their histogram, once for the search, and candidates again for each query. In memory stand a few volumes, and of every
query what `Search` and the features keep (60 kB with the untrained features) and 2K poses. A copy is missed if it is
among the K best of neither search, a blend if one of its two is.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import ndimage

from scansynth.errors import InputError
from scansynth.sets.features import DERIVATIVE_PYRAMID, FeatureExtractor, volume_features
from scansynth.sets.registration import (
    COARSE,
    Map,
    Pose,
    Search,
    landmarks,
    placed,
    standardised,
    tissue,
    warped,
)
from scansynth.sets.thresholds import CONFIDENCE, FEWEST, RATE, Threshold, threshold_of
from scansynth.sets.volume_sets import VolumeSet, check_comparable, shrunk

CANDIDATES = 4
"""Training volumes that are compared in their detail, by each of the two searches."""
PAIRED = 6
"""Of these, the nearest, whose pairs are tried."""
LONGEST = 96
"""Longest side of the grid on which details are compared, voxels."""
FINEST = 1.2
"""Standard deviation of what is smoothed away as noise, voxels."""
NEIGHBOURHOOD = 9
"""Side of the cube in which mean and deviation are local, voxels."""
FLOOR = 0.1
"""Of the mean local deviation, which is added to each: flat places have no detail to be blown up."""
COPY = 0.2
"""Unexplained share up to which a volume may be a copy or a blend."""
CLEAR = 0.5
"""Of what people leave unexplained: the most that a copy or a blend leaves."""
MIXED = 0.01
"""Unexplained share by the nearest alone from which a second volume may be part of a query: below it is rounding."""

Grade = Literal["copy", "blend", "near", "none", "unknown"]
MEANING: dict[Grade, str] = {
    "copy": "copy of a training volume",
    "blend": "blend of two training volumes",
    "near": "closer than held-out people are",
    "none": "nothing found",
    "unknown": "no copy; too few held-out people to tell more",
}
ALARMING: tuple[Grade, ...] = ("copy", "blend", "near")


@dataclass(frozen=True)
class Match:
    """A training volume beside a query, after it was brought onto it."""

    name: str
    """Of the training volume."""
    mirrored: bool
    map: Map
    """From the query to the (mirrored) training volume."""
    unexplained: float
    """Share of the query's detail, 0 to 1."""

    @property
    def called(self) -> str:
        """The volume's name, and whether it was mirrored."""
        return f"{self.name}, mirrored" if self.mirrored else self.name


@dataclass(frozen=True)
class Blend:
    """Two training volumes that together explain a query best."""

    matches: tuple[Match, Match]
    unexplained: float
    """Share of the query's detail, by both, 0 to 1."""

    @property
    def called(self) -> str:
        """Both names."""
        return " + ".join(one.called for one in self.matches)


@dataclass(frozen=True)
class Nearest:
    """What is nearest to one volume."""

    name: str
    match: Match
    others: float
    """Unexplained share by other training volumes: the median of the other candidates; 1 without any."""
    blend: Blend | None
    """None where no two training volumes explain more than one."""
    other_pairs: float
    """Unexplained share by the best pair without the two of the blend; 1 without any."""

    @property
    def is_copy(self) -> bool:
        """Whether next to nothing is unexplained, and much less than by other training volumes."""
        return self.match.unexplained <= min(COPY, CLEAR * self.others)

    @property
    def by_two(self) -> float:
        """Unexplained share by the blend, or by the nearest alone."""
        return self.blend.unexplained if self.blend else self.match.unexplained


@dataclass(frozen=True, kw_only=True)
class Memorisation:
    """What was found of a generated set."""

    label: str
    training: str
    training_volumes: int
    generated: tuple[Nearest, ...]
    held_out: tuple[Nearest, ...]
    twins: tuple[Nearest, ...] = ()
    """Held-out volumes that are copies themselves (the same person stands in both): they count nowhere."""
    near: Threshold | None
    """Of `Match.unexplained`; None with too few held-out volumes."""
    near_two: Threshold | None
    """Of `Nearest.by_two`."""
    extractor: str
    """Of the second search."""
    target: np.ndarray
    """Quantiles to which intensities were brought: the training volumes' mean."""

    @property
    def least(self) -> float:
        """What held-out people leave unexplained at least, by one training volume; 1 without any."""
        return min((one.match.unexplained for one in self.held_out), default=1.0)

    @property
    def least_by_two(self) -> float:
        """The same, by two."""
        return min((one.by_two for one in self.held_out), default=1.0)

    def grade(self, one: Nearest) -> Grade:
        """What is to be said of a generated volume."""
        enough = len(self.held_out) >= FEWEST
        people, pairs = self.least, self.least_by_two
        if not enough:  # the query's own other training volumes stand in
            people, pairs = min(people, one.others), min(pairs, one.other_pairs)
        mixed = one.blend and one.match.unexplained >= MIXED
        if mixed and one.by_two <= min(COPY, CLEAR * one.match.unexplained, CLEAR * pairs):
            return "blend"
        if one.match.unexplained <= min(COPY, CLEAR * people):
            return "copy"
        if self.near is None or self.near_two is None:
            return "unknown"
        closer = one.match.unexplained < self.near.value or one.by_two < self.near_two.value
        return "near" if closer else "none"

    def graded(self, grade: Grade) -> tuple[Nearest, ...]:
        """Generated volumes of a grade, nearest first."""
        found = [one for one in self.generated if self.grade(one) == grade]
        return tuple(sorted(found, key=lambda one: one.match.unexplained))

    @property
    def alarming(self) -> bool:
        """Whether any volume is a copy, a blend or too near."""
        return any(self.grade(one) in ALARMING for one in self.generated)

    def verdict(self) -> str:
        """In words, with counts."""
        n, parts = len(self.generated), []
        whose: dict[Grade, str] = {"copy": "a copy of a training volume", "blend": "a blend of two training volumes"}
        for grade, what in whose.items():
            if found := self.graded(grade):
                verb = "is" if len(found) == 1 else "are, each,"
                of = [
                    f"{one.name} ({one.blend.called if grade == 'blend' and one.blend else one.match.called})"
                    for one in found[:5]
                ]
                most = max(one.by_two if grade == "blend" else one.match.unexplained for one in found)
                parts.append(
                    f"{len(found)} of {n} synthetic volumes {verb} {what}: {_listed(of, len(found))}. At most "
                    f"{100 * most:.2g} % of their detail is not the training volume's; {self._people(grade)}."
                )
        if not parts:
            parts.append(f"None of {n} synthetic volumes is a copy or a blend of training volumes.")
        if self.twins:
            of = [f"{one.name} ({one.match.called})" for one in self.twins[:5]]
            parts.append(
                f"Held-out volumes that are copies of training volumes themselves: {_listed(of, len(self.twins))}; "
                "they were left out. If one person stands in several splits, prepare the cohort again by person."
            )
        rest = [one for one in self.generated if self.grade(one) not in ("copy", "blend")]
        return " ".join([*parts, *([self._of_the_rest(rest)] if rest else [])])

    def _people(self, grade: Grade) -> str:
        if not self.held_out:
            return "other training volumes leave at least twice as much unexplained"
        least = self.least_by_two if grade == "blend" else self.least
        return f"of a held-out person's at least {100 * least:.2g} %"

    def _of_the_rest(self, rest: Sequence[Nearest]) -> str:
        n, held = len(rest), len(self.held_out)
        who = f"the {n} that {'is' if n == 1 else 'are'} no copy" if n < len(self.generated) else "them"
        if self.near is None or self.near_two is None:
            return (
                f"Whether any of {who} is closer to a training volume than a new person's would be cannot be told: "
                f"{held} held-out volumes, of which {FEWEST} or more are needed."
            )
        near = self.graded("near")
        told = (
            f"{len(near)} of {who} {'is' if len(near) == 1 else 'are'} closer {self.near.text()}; by chance at most "
            f"{2 * n * self.near.expected_rate:.2g} would be, by one volume or by two"
        )
        if not near:
            return f"{told}."
        by_one = sum(one.match.unexplained < self.near.value for one in rest)
        by_two = sum(one.by_two < self.near_two.value for one in rest)
        p = min(1.0, 2 * min(self.near.chance(by_one, n), self.near_two.chance(by_two, n)))  # Bonferroni's, of two
        judged = "more than chance explains" if p < 1 - CONFIDENCE else "as many as chance may bring"
        names = _listed([f"{one.name} ({one.match.called})" for one in near[:5]], len(near))
        return f"{told}: {names}. That is {judged} (p ≤ {max(p, 1e-4):.2g}); look at the pairs."


def _listed(names: Sequence[str], count: int) -> str:
    return "; ".join(names) + ("; …" if count > len(names) else "")


def find_memorised(
    generated: VolumeSet,
    training: VolumeSet,
    held_out: VolumeSet | None,
    *,
    extractor: FeatureExtractor = DERIVATIVE_PYRAMID,
    candidates: int = CANDIDATES,
    rate: float = RATE,
) -> Memorisation:
    """Search a generated set for memorised training volumes.

    Args:
        generated: the set.
        training: all volumes that the generator was trained on.
        held_out: real volumes of other subjects, prepared alike; the generator must not have seen them. With fewer
            than 5, or None, copies and blends are named, and of other volumes it is said that nothing can be told.
        extractor: of the slices' features, by which the second search goes.
        candidates: training volumes compared in detail, by each search.
        rate: of false alarms aimed at.

    Raises:
        InputError: if grids differ, a held-out volume is also a training volume, or a volume is flat.
    """
    for one in (training, held_out):
        if one:
            check_comparable(generated, one)
    if both := sorted(set(training.names) & set(held_out.names if held_out else ())):
        raise InputError(
            f"{', '.join(both[:5])}: held out and used in training; only subjects that the generator never saw can "
            "tell how near to a training volume a new one is"
        )
    if candidates < 1 or not len(generated):
        raise InputError(f"{len(generated)} volumes, {candidates} candidates: give one or more of both")
    threshold_of(np.ones(FEWEST), rate / 2)  # says what is wrong with the rate before hours of searching
    target = np.mean([landmarks(volume) for volume in training], axis=0)
    found, all_known = (
        _nearest(queries, training, extractor, min(candidates, len(training)), target) if queries else ()
        for queries in (generated, held_out)
    )
    known = tuple(one for one in all_known if not one.is_copy)
    # Each of the two distances may give half of the false alarms.
    near, near_two = (
        threshold_of(distances, rate / 2) if len(known) >= FEWEST else None
        for distances in ([one.match.unexplained for one in known], [one.by_two for one in known])
    )
    return Memorisation(
        label=generated.label,
        training=training.label,
        training_volumes=len(training),
        generated=found,
        held_out=known,
        twins=tuple(one for one in all_known if one.is_copy),
        near=near,
        near_two=near_two,
        extractor=extractor.name,
        target=target,
    )


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A training volume that may be among the nearest."""

    number: int
    poses: tuple[Pose, Pose]
    """As it is, and mirrored."""
    feature_distance: float
    """Before registration: both volumes centred, the smaller of two mirror images'."""

    @property
    def correlation(self) -> float:
        """Of the coarse details, the better of both sides."""
        return max(pose.correlation for pose in self.poses)


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
        for query, poses in enumerate(search.poses(shrunk(image, COARSE))):
            pool = [*kept[query], _Candidate(number, poses, float(distances[query]))]
            alike = sorted(pool, key=lambda one: -one.correlation)[:candidates]
            close = sorted(pool, key=lambda one: one.feature_distance)[:candidates]
            kept[query] = alike + [one for one in close if one not in alike]
    return tuple(
        _compared(name, queries.read(query), training, pool, target)
        for query, (name, pool) in enumerate(zip(queries.names, kept, strict=True))
    )


class Detail:
    """Local detail of volumes on one grid: what is left when local mean and deviation are taken out, inside a mask."""

    def __init__(self, mask: np.ndarray) -> None:
        """Mask: where detail counts, (X, Y, Z) bool; what lies outside does not enter the local means."""
        self.mask = mask
        self._weight = mask.astype(np.float32)
        self._share = np.maximum(self._local(self._weight), 1e-3)

    @staticmethod
    def _local(values: np.ndarray) -> np.ndarray:
        return np.asarray(ndimage.uniform_filter(values, NEIGHBOURHOOD, mode="constant"))

    def of(self, smooth: np.ndarray) -> np.ndarray:
        """Detail of a smoothed volume, (X, Y, Z) float32, 0 outside."""
        found = (smooth - self._local(smooth * self._weight) / self._share) * self._weight
        deviation = np.sqrt(np.maximum(self._local(found * found) / self._share, 0))
        inside = float(deviation[self.mask].mean()) if self.mask.any() else 0.0
        return found / (deviation + FLOOR * inside) if inside else found


@dataclass(frozen=True, eq=False)
class _Laid:
    """A training volume laid onto a query, and both in their detail inside the training volume's head."""

    match: Match
    mask: np.ndarray
    query: np.ndarray
    detail: np.ndarray


def _compared(
    name: str, volume: np.ndarray, training: VolumeSet, pool: Sequence[_Candidate], target: np.ndarray
) -> Nearest:
    query = shrunk(standardised(volume, target), LONGEST)
    smooth = _smoothed(query)
    moved: list[_Laid] = []
    lying: list[_Laid] = []
    for one in pool:
        other = shrunk(standardised(training.read(one.number), target), LONGEST)
        pose = placed(query, other, one.poses)
        other = other[::-1] if pose.mirrored else other
        # Registration is drawn aside where only half of the query is this volume's. Blends are mostly made of volumes
        # as they lie.
        for laid, map_ in ((moved, pose.map), (lying, Map())):
            match = Match(training.names[one.number], pose.mirrored, map_, 1.0)
            laid.append(_laid(smooth, other, match))
    singles = [min(both, key=lambda one: one.match.unexplained) for both in zip(moved, lying, strict=True)]
    singles.sort(key=lambda one: one.match.unexplained)
    others = [one.match.unexplained for one in singles[1:]]
    pairs = [pair for laid in (moved, lying) for pair in _pairs(laid)]
    blend = min(pairs, key=lambda pair: pair.unexplained, default=None)
    names = {match.name for match in blend.matches} if blend else set()
    rest = [pair.unexplained for pair in pairs if names.isdisjoint(match.name for match in pair.matches)]
    nearest = singles[0].match
    if blend and blend.unexplained >= nearest.unexplained:
        blend = None
    return Nearest(name, nearest, float(np.median(others)) if others else 1.0, blend, min(rest, default=1.0))


def _smoothed(volume: np.ndarray) -> np.ndarray:
    return np.asarray(ndimage.gaussian_filter(volume, FINEST, truncate=3.0))


def _laid(smooth: np.ndarray, other: np.ndarray, match: Match) -> _Laid:
    mask = tissue(other)
    if match.map.moves:
        mask = warped(mask.astype(np.float32), match.map, smooth.shape) > 0.5
        other = warped(other, match.map, smooth.shape, order=3)
    detail = Detail(mask)
    query, known = detail.of(smooth), detail.of(_smoothed(other))
    unexplained = max(0.0, 1 - max(0.0, _correlation(query[mask], known[mask])) ** 2)
    return _Laid(replace(match, unexplained=unexplained), mask, query, known)


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Of two sets of values (n,); 0 where one is flat."""
    x, y = x - x.mean(), y - y.mean()
    length = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(np.vdot(x, y)) / length if length else 0.0


def _pairs(laid: Sequence[_Laid]) -> list[Blend]:
    """The regressions on two of the nearest training volumes, inside both heads, with two weights above 0."""
    found = []
    nearest = sorted(laid, key=lambda one: one.match.unexplained)[:PAIRED]
    for one, other in itertools.combinations(nearest, 2):
        both = one.mask & other.mask
        if not both.any():
            continue
        query, x, y = one.query[both], one.detail[both], other.detail[both]
        a, b, between = _correlation(query, x), _correlation(query, y), _correlation(x, y)
        if min(a - between * b, b - between * a) > 0 and between < 1:  # numerators of the two weights
            explained = (a * a + b * b - 2 * between * a * b) / (1 - between * between)
            found.append(Blend((one.match, other.match), max(0.0, 1 - explained)))
    return found


def aligned(training: VolumeSet, match: Match, target: np.ndarray) -> np.ndarray:
    """A match's training volume, standardised and brought onto its query, (X, Y, Z) float32."""
    other = standardised(training.read(training.names.index(match.name)), target)
    return warped(other[::-1] if match.mirrored else other, match.map, training.shape, order=3)


def centred(volume: np.ndarray) -> np.ndarray:
    """A standardised volume moved by whole voxels so that its foreground's centre is the grid's; 0 comes in."""
    places = np.nonzero(tissue(volume))
    moved = volume
    for axis, (place, side) in enumerate(zip(places, volume.shape, strict=True)):
        by = side // 2 - round(float(place.mean()))
        into, out = slice(max(0, by), side + min(0, by)), slice(max(0, -by), side + min(0, -by))
        ahead = (slice(None),) * axis
        result = np.zeros_like(moved)
        result[(*ahead, into)] = moved[(*ahead, out)]
        moved = result
    return moved
