"""Planted copies of training volumes are found however they were changed, and new volumes are not called copies."""

import csv
import json

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import stats

from scansynth.data.phantom import make_phantom
from scansynth.errors import InputError
from scansynth.sets.features import DERIVATIVE_PYRAMID
from scansynth.sets.memorisation import aligned, centred, find_memorised, threshold_of
from scansynth.sets.memorisation_tables import (
    closest,
    embedding_vectors,
    plot_embedding,
    plot_pairs,
    write_memorisation,
)
from scansynth.sets.registration import (
    Map,
    Search,
    landmarks,
    refined,
    standardised,
    tissue,
    warped,
)
from scansynth.sets.volume_sets import VolumeSet

SHAPE = (30, 36, 28)
TRAINING, HELD_OUT, FRESH = range(6), range(20, 28), range(40, 43)


def brain(seed):
    image = make_phantom(seed, SHAPE, 6.0).contrast("T1w")
    return np.clip(image / np.percentile(image, 99.9), 0, 1).astype(np.float32)


def resized(volume, size):
    return np.clip(warped(volume, Map(np.eye(3) / size), volume.shape, order=3), 0, 1)


def moved(volume, *by):
    return np.roll(volume, by, (0, 1, 2))


COPIES = {
    "as it is": lambda v: v,
    "shifted": lambda v: moved(v, 2, -3, 1),
    "mirrored": lambda v: v[::-1],
    "gain": lambda v: 0.6 * v,
    "gamma": lambda v: v**1.4,
    "offset": lambda v: 0.1 + 0.8 * v,
    "smaller": lambda v: resized(v, 0.96),
    "larger": lambda v: resized(v, 1.05),
    "all at once": lambda v: 0.05 + 0.8 * moved(resized(v[::-1], 0.97), -2, 2, 1) ** 0.8,
}


@pytest.fixture(scope="module")
def brains():
    return {seed: brain(seed) for seed in (*TRAINING, *HELD_OUT, *FRESH)}


@pytest.fixture(scope="module")
def sets(brains):
    planted = {name: np.ascontiguousarray(change(brains[3])) for name, change in COPIES.items()}
    fresh = {f"fresh {seed}": brains[seed] for seed in FRESH}
    return (
        VolumeSet.of("planted", planted | fresh),
        VolumeSet.of("training", {f"train {seed}": brains[seed] for seed in TRAINING}),
        VolumeSet.of("held out", {f"held {seed}": brains[seed] for seed in HELD_OUT}),
    )


@pytest.fixture(scope="module")
def found(sets):
    return find_memorised(*sets, candidates=2)


def test_planted_copies_are_found_and_new_volumes_are_not(found):
    assert {one.name for one in found.near_by_similarity} == set(COPIES)
    for one in found.generated:
        if one.name in COPIES:
            assert one.by_similarity.name == one.by_features.name == "train 3", one.name
            assert one.by_similarity.mirrored == (one.name in ("mirrored", "all at once")), one.name
    assert (
        set(COPIES)
        >= {one.name for one in found.near_by_features}
        >= set(COPIES) - {"smaller", "larger", "all at once"}
    )


def test_the_verdict_says_how_many_and_how_sure(found):
    verdict = found.verdict()
    assert "9 of 12 synthetic volumes are nearer to a training volume than 99 % of real ones are expected" in verdict
    assert "more than chance explains" in verdict
    assert "derivative-pyramid-1" in verdict


def test_an_aligned_copy_lies_on_its_query(found, sets):
    generated, training, _ = sets
    (one,) = (one for one in found.generated if one.name == "shifted")
    image = standardised(generated.read(generated.names.index("shifted")), found.target)
    inner = (slice(5, -5),) * 3
    laid = aligned(training, one.by_similarity, found.target)
    assert np.abs(laid - image)[inner].mean() < 0.02 < np.abs(moved(laid, 2, 0, 0) - image)[inner].mean()


def test_tables_and_pictures_tell_the_same(found, sets, tmp_path):
    write_memorisation(found, tmp_path)
    content = json.loads((tmp_path / "memorisation.json").read_text(encoding="utf-8"))
    assert set(content["near_by_ms_ssim"]) == set(COPIES)
    assert content["verdict"] == found.verdict()
    with (tmp_path / "memorisation.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["volume"] for row in rows if row["near_by_ms_ssim"] == "True"} == set(COPIES)
    assert len(rows) == len(COPIES) + len(FRESH) + len(HELD_OUT)
    assert "feature_distance_derivative-pyramid-1" in rows[0]
    assert "**train 3, mirrored**" in (tmp_path / "memorisation.md").read_text(encoding="utf-8")
    picture = imread(plot_pairs(found, *sets[:2], tmp_path, count=2))
    assert picture.shape[0] > picture.shape[1]
    assert picture.std() > 0.05


def test_an_embedding_bears_volumes_that_are_the_same(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((2, 5))
    plot_embedding(vectors[[0, 0, 1]], vectors[[0, 1, 1]], tmp_path, "copies")
    with pytest.raises(InputError, match="the same features"):
        plot_embedding(vectors[[0, 0]], vectors[[0, 0]], tmp_path, "one")


def test_the_embedding_puts_a_copy_on_its_original(found, sets, tmp_path):
    pytest.importorskip("sklearn")
    synthetic, real = embedding_vectors(found, *sets[:2], DERIVATIVE_PYRAMID)
    apart = dict(zip(sets[0].names, np.linalg.norm(synthetic - real, axis=1), strict=True))
    assert apart["as it is"] < 1e-6
    assert apart["mirrored"] < 1e-6
    assert min(apart[f"fresh {seed}"] for seed in FRESH) > 5 * apart["shifted"]
    path = plot_embedding(synthetic, real, tmp_path, "phantoms")
    assert imread(path).std() > 0.02


def test_closest_pairs_come_first(found):
    distances = [one.by_similarity.distance for one in closest(found, 99)]
    assert distances == sorted(distances)
    assert len(distances) == len(found.generated)


def test_the_same_subject_held_out_and_in_training_is_refused(sets, brains):
    generated, training, _ = sets
    few = VolumeSet.of("few", {"held 20": brains[20]})
    with pytest.raises(InputError, match=r"train 0.*held out and used in training"):
        find_memorised(generated, training, training)
    with pytest.raises(InputError, match="1 held-out real volumes"):
        find_memorised(generated, training, few)


def test_intensities_that_increase_alike_come_to_one_histogram(brains):
    volume = brains[3]
    target = landmarks(brains[4])
    expected = standardised(volume, target)
    np.testing.assert_allclose(standardised(0.2 + 0.5 * volume, target), expected, atol=2e-3)
    assert np.abs(standardised(volume**1.3, target) - expected).mean() < 0.01 < np.abs(volume**1.3 - volume).mean()
    np.testing.assert_allclose(np.quantile(expected[tissue(volume)], [0.1, 0.5, 0.9]), target[[5, 25, 45]], atol=0.01)


def test_a_warp_by_whole_voxels_is_a_roll():
    volume = np.zeros((12, 10, 8), np.float32)
    volume[3:9, 3:7, 2:6] = np.random.default_rng(0).random((6, 4, 4))
    by_voxels = Map(shift=2 * np.array([1, -2, 1]) / volume.shape)
    np.testing.assert_allclose(warped(volume, by_voxels, volume.shape), moved(volume, -1, 2, -1), atol=1e-6)


def test_a_known_affine_map_is_recovered(brains):
    query = standardised(brains[5], landmarks(brains[4]))
    angle = np.deg2rad(4)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    true = Map(1.04 * turn, np.array([0.05, -0.03, 0.02]))
    # other(M u + s) = query(u): the query seen through the inverse map.
    back = np.linalg.inv(true.matrix)
    other = warped(query, Map(back, -back @ true.shift), query.shape, order=3)
    got = refined(query, other, Map())
    assert np.abs(got.matrix - true.matrix).max() < 0.02
    assert np.abs(got.shift - true.shift).max() < 0.01


def test_the_search_finds_shift_and_mirror_image(brains):
    target = landmarks(brains[4])
    images = [standardised(one, target)[2:-2, 2:-2, :24] for one in (brains[5], brains[2])]
    queries = [moved(images[0], 3, -1, 2), moved(images[0][::-1], 0, 2, 0)]
    straight, turned = Search(queries).poses(images[0])
    assert (straight.mirrored, turned.mirrored) == (False, True)
    np.testing.assert_allclose(straight.map.shift * np.array(images[0].shape) / 2, [-3, 1, -2], atol=1e-9)
    other = Search(queries).poses(images[1])
    assert other[0].correlation < straight.correlation
    assert other[1].correlation < turned.correlation


def test_centring_moves_by_whole_voxels():
    volume = np.zeros((9, 8, 7), np.float32)
    volume[0:3, 5:8, 2:5] = 1
    expected = np.zeros_like(volume)
    expected[3:6, 3:6, 2:5] = 1
    np.testing.assert_array_equal(centred(volume), expected)


def test_the_threshold_by_rank_has_the_rate_that_it_says():
    rng = np.random.default_rng(0)
    below = []
    for _ in range(2000):
        threshold = threshold_of(rng.gamma(2.0, size=199), 0.02)
        assert threshold.by_rank
        assert threshold.rank == 4
        below.append(stats.gamma.cdf(threshold.value, 2.0))
    assert threshold.expected_rate == pytest.approx(0.02)
    assert np.mean(below) == pytest.approx(0.02, abs=0.001)
    assert np.mean(np.array(below) <= threshold.bounded_rate) == pytest.approx(0.95, abs=0.015)


def test_the_threshold_of_few_has_the_rate_if_log_normal_and_never_a_higher_one_than_the_smallest():
    rng = np.random.default_rng(1)
    below, smallest = [], []
    for _ in range(4000):
        distances = np.exp(1 + 0.3 * rng.standard_normal(8))
        threshold = threshold_of(distances, 0.05)
        assert not threshold.by_rank
        assert threshold.value <= distances.min()
        below.append(stats.norm.cdf((np.log(threshold.value) - 1) / 0.3))
        smallest.append(stats.norm.cdf((np.log(distances.min()) - 1) / 0.3))
    assert 0.03 < np.mean(below) <= 0.052
    assert np.mean(smallest) == pytest.approx(threshold.expected_rate, abs=0.005)
    # All of five new ones below the smallest of eight: 1 / (13 choose 5).
    assert threshold.chance(5, 5) == pytest.approx(1 / 1287)


@pytest.mark.parametrize(("count", "rate"), [(4, 0.01), (10, 0.0), (10, 0.6)])
def test_too_few_distances_and_impossible_rates_are_refused(count, rate):
    with pytest.raises(InputError, match="give 5 volumes or more"):
        threshold_of(np.arange(1, count + 1), rate)
