"""Planted copies of training volumes are found however they were changed, and new volumes are not called copies."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import ndimage, stats

from scansynth.data.phantom import make_phantom
from scansynth.errors import InputError
from scansynth.sets.features import DERIVATIVE_PYRAMID
from scansynth.sets.memorisation import Detail, aligned, centred, find_memorised
from scansynth.sets.memorisation_tables import (
    closest,
    embedding_vectors,
    plot_embedding,
    plot_pairs,
    write_memorisation,
)
from scansynth.sets.registration import (
    Map,
    Pose,
    Search,
    landmarks,
    placed,
    standardised,
    tissue,
    warped,
)
from scansynth.sets.thresholds import threshold_of
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


def noisy(volume, deviation):
    real, imaginary = deviation * np.random.default_rng(5).standard_normal((2, *volume.shape))
    return np.hypot(volume + real, imaginary)


def shaded(volume, depth):
    """A bias field from 1 − depth to 1 + depth."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, side) for side in volume.shape), indexing="ij")
    field = x + 0.5 * y * y - 0.7 * z
    return volume * (1 + depth * (2 * (field - field.min()) / np.ptp(field) - 1))


def turned(volume, degrees):
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return np.clip(warped(volume, Map(turn, np.array([0.05, -0.03, 0.02])), volume.shape, order=3), 0, None)


COPIES = {
    "as it is": lambda v: v,
    "shifted": lambda v: moved(v, 2, -3, 1),
    "turned": lambda v: turned(v, 3),
    "mirrored": lambda v: v[::-1],
    "gain": lambda v: 0.6 * v,
    "offset": lambda v: 0.1 + 0.8 * v,
    "gamma 0.6": lambda v: v**0.6,
    "gamma 1.6": lambda v: v**1.6,
    "bias 40 %": lambda v: shaded(v, 0.4),
    "noise 5 %": lambda v: noisy(v, 0.05),
    "noise 10 %": lambda v: noisy(v, 0.1),
    "blur": lambda v: ndimage.gaussian_filter(v, 0.7),
    "smaller": lambda v: resized(v, 0.96),
    "larger": lambda v: resized(v, 1.05),
    "all at once": lambda v: noisy(shaded(0.05 + 0.8 * moved(resized(v[::-1], 0.97), -2, 2, 1) ** 0.8, 0.2), 0.02),
}
MIRRORED = ("mirrored", "all at once")
BLENDS = {"half and half": (3, 1, 0.5), "60 to 40": (3, 5, 0.6)}


@pytest.fixture(scope="module")
def brains():
    return {seed: brain(seed) for seed in (*TRAINING, *HELD_OUT, *FRESH)}


@pytest.fixture(scope="module")
def sets(brains):
    planted = {name: np.ascontiguousarray(change(brains[3])) for name, change in COPIES.items()}
    planted |= {name: share * brains[a] + (1 - share) * brains[b] for name, (a, b, share) in BLENDS.items()}
    fresh = {f"fresh {seed}": brains[seed] for seed in FRESH}
    fresh |= {
        "fresh, blurred": ndimage.gaussian_filter(brains[40], 1.0),
        "fresh, noisy": noisy(brains[41], 0.05),
        "two fresh": (brains[40] + brains[42]) / 2,
    }
    return (
        VolumeSet.of("planted", planted | fresh),
        VolumeSet.of("training", {f"train {seed}": brains[seed] for seed in TRAINING}),
        VolumeSet.of("held out", {f"held {seed}": brains[seed] for seed in HELD_OUT}),
    )


@pytest.fixture(scope="module")
def found(sets):
    return find_memorised(*sets, candidates=4)


def names(found, *grades):
    return {one.name for one in found.generated if found.grade(one) in grades}


def without(found, held_out):
    """The verdict with so many held-out people."""
    return replace(found, held_out=found.held_out[:held_out], near=None, near_two=None)


def test_planted_copies_and_blends_are_found_and_new_volumes_are_not(found):
    assert names(found, "copy") == set(COPIES)
    assert names(found, "blend") == set(BLENDS)
    assert not names(found, "near", "unknown")
    for one in found.generated:
        if one.name in COPIES:
            assert one.match.name == "train 3", one.name
            assert one.match.mirrored == (one.name in MIRRORED), one.name
        elif one.name in BLENDS:
            assert {match.name for match in one.blend.matches} == {f"train {k}" for k in BLENDS[one.name][:2]}


@pytest.mark.parametrize("held_out", [4, 1, 0])
def test_copies_are_named_by_distance_however_few_are_held_out(found, held_out):
    few = without(found, held_out)
    assert names(few, "copy") == set(COPIES)
    assert names(few, "blend") == set(BLENDS)
    assert names(few, "unknown") == names(found, "none")
    assert f"cannot be told: {held_out} held-out volumes, of which 5 or more are needed" in few.verdict()


def test_no_held_out_set_is_needed_to_name_a_copy(brains):
    training = VolumeSet.of("training", {f"train {seed}": brains[seed] for seed in TRAINING})
    found = find_memorised(VolumeSet.of("set", {"a": brains[2], "b": brains[41]}), training, None)
    assert [found.grade(one) for one in found.generated] == ["copy", "unknown"]
    assert found.alarming


def test_the_verdict_says_how_many_and_how_sure(found):
    verdict = found.verdict()
    assert "15 of 23 synthetic volumes are, each, a copy of a training volume: " in verdict
    assert "2 of 23 synthetic volumes are, each, a blend of two training volumes: " in verdict
    assert "0 of the 6 that are no copy are closer than 99.5 % of real ones are expected to be" in verdict
    assert "chance may explain" not in verdict


def test_people_who_are_all_alike_are_not_called_copies(found):
    """Where held-out people, or without them other training volumes, are nearly as near, nearness says nothing."""
    (one,) = (one for one in found.generated if one.name == "as it is")
    close = replace(one, match=replace(one.match, unexplained=0.1), others=0.3, blend=None)
    alike = replace(close, match=replace(close.match, unexplained=0.19))
    apart = replace(close, match=replace(close.match, unexplained=0.4))
    none = without(found, 0)
    assert none.grade(close) == "copy"
    assert none.grade(replace(close, others=0.15)) == "unknown"
    assert none.grade(replace(close, match=replace(close.match, unexplained=0.21), others=1.0)) == "unknown"
    assert replace(none, held_out=(apart,)).grade(close) == "copy"
    assert replace(none, held_out=(apart, alike)).grade(close) == "unknown"
    # Five held-out people say more than other training volumes, which may be the same person again.
    assert replace(none, held_out=(apart,) * 5).grade(replace(close, others=0.15)) == "copy"


def test_closer_than_people_is_said_with_its_chance(found):
    """A volume below the threshold that is no copy: said, and with the probability that chance brings it."""
    (one,) = (one for one in found.generated if one.name == "fresh 40")
    closer = replace(one, match=replace(one.match, unexplained=0.8 * found.least), blend=None)
    wide = replace(found, near=replace(found.near, value=0.9 * found.least))
    alone = replace(wide, generated=(closer,))
    assert alone.grade(closer) == "near"
    assert "1 of them is closer" in alone.verdict()
    p = 2 * found.near.chance(1, 1)
    assert f"as many as chance may bring (p ≤ {p:.2g})" in alone.verdict()
    assert "more than chance explains" in replace(wide, generated=(closer,) * 8).verdict()


def test_a_held_out_volume_that_stands_in_training_too_hides_no_copy(brains):
    training = VolumeSet.of("training", {f"train {seed}": brains[seed] for seed in TRAINING})
    again = {f"held {seed}": brains[seed] for seed in (20, 21)} | {"rescanned": noisy(brains[3], 0.02)}
    found = find_memorised(VolumeSet.of("set", {"a": brains[3]}), training, VolumeSet.of("held out", again))
    assert [one.name for one in found.twins] == ["rescanned"]
    assert len(found.held_out) == 2
    assert found.grade(found.generated[0]) == "copy"
    assert "copies of training volumes themselves: rescanned (train 3)" in found.verdict()


def test_an_aligned_copy_lies_on_its_query(found, sets):
    generated, training, _ = sets
    (one,) = (one for one in found.generated if one.name == "shifted")
    image = standardised(generated.read(generated.names.index("shifted")), found.target)
    inner = (slice(5, -5),) * 3
    laid = aligned(training, one.match, found.target)
    assert np.abs(laid - image)[inner].mean() < 0.02 < np.abs(moved(laid, 2, 0, 0) - image)[inner].mean()


def test_tables_and_pictures_tell_the_same(found, sets, tmp_path):
    write_memorisation(found, tmp_path)
    content = json.loads((tmp_path / "memorisation.json").read_text(encoding="utf-8"))
    assert (content["n_copy"], content["n_blend"], content["n_near"]) == (len(COPIES), len(BLENDS), 0)
    assert content["threshold_unexplained"]["n_held_out"] == len(HELD_OUT)
    assert content["verdict"] == found.verdict()
    with (tmp_path / "memorisation.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["volume"] for row in rows if row["grade"] == "copy"} == set(COPIES)
    assert len(rows) == len(found.generated) + len(HELD_OUT)
    page = (tmp_path / "memorisation.md").read_text(encoding="utf-8")
    assert "| **copy of a training volume** | train 3, mirrored |" in page
    assert "| **blend of two training volumes** | train " in page
    write_memorisation(without(found, 2), tmp_path / "few")
    assert json.loads((tmp_path / "few" / "memorisation.json").read_text())["threshold_unexplained"] is None
    assert "2 held-out people are too few" in (tmp_path / "few" / "memorisation.md").read_text()
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


def test_copies_come_first_then_blends_then_the_nearest(found):
    ordered = closest(found, 99)
    assert len(ordered) == len(found.generated)
    assert [found.grade(one) for one in ordered] == ["copy"] * 15 + ["blend"] * 2 + ["none"] * 6
    for grade in ("copy", "blend", "none"):
        distances = [one.match.unexplained for one in ordered if found.grade(one) == grade]
        assert distances == sorted(distances)


def test_the_same_subject_held_out_and_in_training_is_refused(sets):
    generated, training, held_out = sets
    with pytest.raises(InputError, match=r"train 0.*held out and used in training"):
        find_memorised(generated, training, training)
    with pytest.raises(InputError, match="a rate above 0"):
        find_memorised(generated, training, held_out, rate=0)
    with pytest.raises(InputError, match="a volume is flat"):
        find_memorised(generated, VolumeSet.of("training", {"flat": np.zeros(SHAPE, np.float32)}), None)


def test_intensities_that_increase_alike_come_to_one_histogram(brains):
    volume = brains[3].astype(np.float64)
    target = landmarks(brains[4])
    expected = standardised(volume, target)
    for changed in (0.2 + 0.5 * volume, volume**1.6, volume**0.6, np.log1p(volume)):
        np.testing.assert_allclose(standardised(changed, target), expected, atol=1e-6)
    share = [0.6, 0.8, 0.95]
    np.testing.assert_allclose(np.quantile(expected, share), np.quantile(brains[4], share), atol=0.01)


def test_noise_is_not_taken_for_a_head(brains):
    head, noise = tissue(brains[3]), tissue(noisy(brains[3], 0.05))
    assert np.count_nonzero(head ^ noise) < 0.1 * np.count_nonzero(head)
    np.testing.assert_array_equal(tissue(noisy(brains[3], 0.05) + 0.5), noise)


def test_detail_does_not_see_gain_offset_and_smooth_fields(brains):
    mask = tissue(brains[3])
    detail = Detail(mask)
    plain, changed = (detail.of(image.astype(np.float32)) for image in (brains[3], 0.1 + 2 * shaded(brains[3], 0.3)))
    correlation = np.corrcoef(plain[mask], changed[mask])[0, 1]
    assert correlation > 0.99
    assert not plain[~mask].any()
    assert not detail.of(np.full(SHAPE, 0.5, np.float32))[mask].std() > 1e-3


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
    start = Pose(0.0, False, Map())
    got = placed(query, other, [start]).map
    assert np.abs(got.matrix - true.matrix).max() < 0.02
    assert np.abs(got.shift - true.shift).max() < 0.01


def test_the_search_finds_shift_and_mirror_image(brains):
    target = landmarks(brains[4])
    images = [standardised(one, target)[2:-2, 2:-2, :24] for one in (brains[5], brains[2])]
    queries = [moved(images[0], 3, -1, 2), moved(images[0][::-1], 0, 2, 0)]
    straight, turned = (max(poses, key=lambda one: one.correlation) for poses in Search(queries).poses(images[0]))
    assert (straight.mirrored, turned.mirrored) == (False, True)
    np.testing.assert_allclose(straight.map.shift * np.array(images[0].shape) / 2, [-3, 1, -2], atol=1e-9)
    other = [max(pose.correlation for pose in poses) for poses in Search(queries).poses(images[1])]
    assert other[0] < straight.correlation
    assert other[1] < turned.correlation


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
