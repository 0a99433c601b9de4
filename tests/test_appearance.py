"""Scans from afar: blocks, poses, patterns of a training, and what they give away."""

import numpy as np
import pytest

from scansynth.data.appearance import (
    LEAST,
    SIDE,
    Pattern,
    alike,
    best_pose,
    mean_of,
    other_poses,
    packed,
    patterns_of,
    posed,
    seen_from_afar,
    unpacked,
)
from scansynth.data.phantom import make_phantom
from scansynth.data.volume import Volume
from scansynth.errors import InputError

CONTRASTS = ("T1w", "T2w")


def afar(seed, contrast, shape=(48, 56, 44), spacing=4.0):
    head = make_phantom(seed, shape, spacing)
    volume = Volume.of(head.contrast(contrast), head.affine)
    return seen_from_afar(volume.array, volume.array > volume.threshold(contrast), volume.background(contrast))


@pytest.fixture(scope="module")
def heads():
    return {contrast: [afar(seed, contrast) for seed in range(6)] for contrast in CONTRASTS}


@pytest.fixture(scope="module")
def patterns(heads):
    return patterns_of({contrast: own[:4] for contrast, own in heads.items()})


def test_blocks_are_means_of_the_box_around_the_head():
    array = np.zeros((40, 20, 10), np.float32)
    array[4:36, 3:19, 1:9] = np.arange(16, dtype=np.float32)[None, :, None] + 1
    array[0, 0, 0] = 50  # a speck is no head
    blocks = seen_from_afar(array, array > 0, 0.0)
    assert blocks.shape == (SIDE, SIDE, SIDE)
    assert np.allclose(blocks[0, :, 0] / 255, (np.arange(16) + 1) / 16, atol=0.005)
    assert (blocks == blocks[:1, :, :1]).all()
    assert np.array_equal(unpacked(packed(blocks)), blocks)
    with pytest.raises(ValueError, match="reshape"):
        unpacked("abcd")
    assert not seen_from_afar(np.zeros((5, 5, 5), np.float32), np.zeros((5, 5, 5), bool), 0.0).any()


def test_a_coarser_or_finer_grid_looks_the_same_from_afar():
    assert alike(afar(3, "T1w"), afar(3, "T1w", (96, 112, 88), 2.0)) > 0.98


def test_poses_are_all_but_the_right_one_and_its_mirror_image():
    poses = other_poses()
    assert len(set(poses)) == len(poses) == 46
    blocks = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, SIDE)).astype(np.uint8)
    for pose in poses:
        assert not np.array_equal(posed(blocks, pose), blocks)
    assert ((0, 1, 2), (True, False, False)) not in poses


@pytest.mark.parametrize("contrast", CONTRASTS)
def test_a_new_head_fits_upright_and_its_own_contrast(heads, patterns, contrast):
    pattern = patterns[contrast]
    (other,) = set(CONTRASTS) - {contrast}
    assert pattern.upright > 0.05
    assert pattern.apart[other] > 0.3
    for new in heads[contrast][4:]:
        own = alike(new, pattern.blocks())
        assert own > pattern.whole - 0.03
        assert own - best_pose(new, pattern.blocks())[0] > 0.05
        inner = [alike(new, one.blocks(), inner=True) for one in (pattern, patterns[other])]
        assert inner[0] > inner[1] + 0.3
        turned = posed(new, ((0, 1, 2), (False, False, True)))
        there, pose = best_pose(turned, pattern.blocks())
        assert pose == ((0, 1, 2), (pose[1][0], False, True))
        assert there == pytest.approx(max(own, alike(posed(new, ((0, 1, 2), (True, False, False))), pattern.blocks())))


def test_few_scans_have_no_pattern(heads):
    assert patterns_of({"T1w": heads["T1w"][: LEAST - 1]}) == {}
    alone = patterns_of({"T1w": heads["T1w"][:LEAST], "T2w": heads["T2w"][:1]})
    assert set(alone) == {"T1w"}
    assert alone["T1w"].apart == {}


def test_the_least_of_a_training_leaves_each_scan_out_of_the_mean(heads):
    own = heads["T1w"][:3]
    pattern = patterns_of({"T1w": own})["T1w"]
    left_out = [alike(one, mean_of([other for other in own if other is not one])) for one in own]
    assert pattern.whole == pytest.approx(min(left_out), abs=1e-4)
    assert Pattern.read({**vars(pattern)}) == pattern
    for damaged in (pattern.mean[:-8], "?" + pattern.mean[1:]):
        with pytest.raises(InputError, match="no picture"):
            Pattern.read({**vars(pattern), "mean": damaged})


def test_what_is_flat_is_like_nothing():
    flat = np.full((SIDE, SIDE, SIDE), 7, np.uint8)
    assert alike(flat, flat) == 0.0
