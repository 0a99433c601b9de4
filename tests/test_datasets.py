"""Training samples: order, pairing, range, and what they must not depend on."""

import math

import nibabel as nib
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from scansynth.data.augmentation import Augmentation
from scansynth.data.build_cohort import build_cohort
from scansynth.data.datasets import (
    SliceDataset,
    as_acquired,
    chosen_slices,
    from_network,
    read_image,
    to_network,
    whole_subject,
)
from scansynth.data.layouts import Listing, Subject
from scansynth.data.patches import PatchDataset
from scansynth.data.prepare import Preparation
from scansynth.errors import InputError
from scansynth.physics.kspace import undersample

K = ("T1w", "T2w")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("scans")


def make_cohort(folder, name, contrasts_of, size=(16, 16, None), shift=(), depth=9):
    """Subjects of random blobs; foreground in slices 1 to 7."""
    root = folder / name
    root.mkdir()
    subjects = []
    for number, contrasts in enumerate(contrasts_of):
        scans = {}
        for contrast in contrasts:
            rng = np.random.default_rng([number, len(contrast) + ord(contrast[1])])
            array = np.zeros((14 + (number if size[0] is None else 0), 16, depth), np.float32)
            array[3:11, 4:12, 1:-1] = rng.uniform(100, 300, (8, 8, depth - 2))
            affine = np.eye(4)
            affine[0, 3] = 5 * ((number, contrast) in shift)
            scans[contrast] = root / f"{number}_{contrast}.nii.gz"
            nib.save(nib.Nifti1Image(array, affine), scans[contrast])
        subjects.append(
            Subject(
                name=f"s{number}",
                scans=scans,
                masks={},
                split="train" if number < len(contrasts_of) - 1 else "test",
                sidecars={},
            )
        )
    found = tuple(c for c in K if any(c in contrasts for contrasts in contrasts_of))
    return build_cohort(Listing("table", root, tuple(subjects), found), root / "out", Preparation(size=size))


@pytest.fixture(scope="module")
def cohort(folder):
    """Six training subjects (one has T1w only, one T2w only) and a test subject."""
    return make_cohort(folder, "mixed", [K, K, K, K, ("T1w",), ("T2w",), K])


def test_range_is_undone():
    image = torch.linspace(0, 1.3, 7)
    torch.testing.assert_close(from_network(to_network(image)), image)
    assert to_network(np.array([0.0, 1.0])).tolist() == [-1, 1]


def test_sample_is_the_slice(cohort):
    data = SliceDataset(cohort, K, "train", paired=True, seed=0)
    for i in (0, 5, 1000):
        sample, places = data[i], data.places(i)
        subject, z = places["T1w"]
        assert places["T2w"] == (subject, z)
        assert sample["images"].shape == (2, 16, 16)
        assert sample["images"].dtype == torch.float32
        assert sample["available"].tolist() == [True, True]
        for k, contrast in enumerate(K):
            expected = 2 * cohort.read(subject, contrast, z) - 1
            np.testing.assert_array_equal(sample["images"][k].numpy(), expected)


@pytest.mark.parametrize("paired", [True, False])
def test_an_epoch_shows_every_slice_once(cohort, paired):
    data = SliceDataset(cohort, K, "train", paired=paired, seed=3, min_foreground=0.1)
    slices = {"T1w": 4 if paired else 5, "T2w": 4 if paired else 5}
    for epoch in range(3):
        for contrast in K:
            shown = [data.places(i)[contrast] for i in range(epoch * len(data), (epoch + 1) * len(data))]
            assert len(set(shown)) == len(shown) == slices[contrast] * 7
            assert all(1 <= z <= 7 for _, z in shown)
            assert all(cohort.split_of(subject) == "train" for subject, _ in shown)


def test_order_changes_with_epoch_and_seed_only(cohort):
    data = SliceDataset(cohort, K, "train", paired=True, seed=3)
    n = len(data)
    first, second = ([data.places(e * n + i)["T1w"] for i in range(n)] for e in (0, 1))
    other = SliceDataset(cohort, K, "train", paired=True, seed=4)
    assert first != second
    assert first != [other.places(i)["T1w"] for i in range(n)]
    assert sorted(first) == sorted(second)


@pytest.mark.parametrize("paired", [True, False])
def test_a_sample_depends_on_seed_and_number_alone(cohort, paired):
    """Read backwards, by another instance, by worker processes: the same numbers."""

    def make():
        return SliceDataset(
            cohort,
            K,
            "train",
            paired=paired,
            seed=7,
            min_foreground=0.1,
            augmentation=Augmentation(flip=0.5, rotation_degrees=10, scale=0.1, shift=0.1, gain=0.1, gamma=0.1),
        )

    numbers = [90, 3, 61, 4, 5, 36, 0, 130]
    forward = {i: make()[i]["images"] for i in numbers}
    data = make()
    for i in reversed(numbers):
        torch.testing.assert_close(data[i]["images"], forward[i], rtol=0, atol=0)
    for batch, i in zip(DataLoader(make(), batch_size=2, sampler=numbers, num_workers=2), numbers[::2], strict=True):
        torch.testing.assert_close(batch["images"][0], forward[i], rtol=0, atol=0)


def test_unpaired_slices_tell_nothing_about_each_other(folder):
    """Over many epochs, which T2w slice meets a T1w slice is uniform: chi-square of the joint table."""
    cohort = make_cohort(folder, "pairs", [K, K, K, K], depth=6)
    data = SliceDataset(cohort, K, "train", paired=False, seed=0, min_foreground=0.1)
    n, epochs = len(data), 400
    assert n == 12
    places = sorted({data.places(i)["T1w"] for i in range(n)})
    table, matches = np.zeros((n, n)), 0
    for i in range(n * epochs):
        drawn = data.places(i)
        table[places.index(drawn["T1w"]), places.index(drawn["T2w"])] += 1
        matches += drawn["T1w"] == drawn["T2w"]
    expected = epochs / n
    chi_square, freedom = ((table - expected) ** 2 / expected).sum(), (n - 1) ** 2
    # Sums of permutations: (n - 1)² degrees of freedom; 5 standard deviations either way.
    assert abs(chi_square - freedom * n / (n - 1)) < 5 * np.sqrt(2 * freedom)
    assert abs(matches / (n * epochs) - 1 / n) < 5 * np.sqrt(1 / n / (n * epochs))
    paired = SliceDataset(cohort, K, "train", paired=True, seed=0, min_foreground=0.1)
    assert all(len(set(paired.places(i).values())) == 1 for i in range(3 * n))


def test_who_serves_unpaired_and_paired_training(cohort):
    unpaired = SliceDataset(cohort, K, "train", paired=False, seed=0)
    shown = {contrast: {unpaired.places(i)[contrast][0] for i in range(len(unpaired))} for contrast in K}
    assert "s4" in shown["T1w"]
    assert "s5" in shown["T2w"]
    paired = SliceDataset(cohort, K, "train", paired=True, seed=0)
    assert {paired.places(i)["T1w"][0] for i in range(len(paired))} == {"s0", "s1", "s2", "s3"}
    alone = SliceDataset(cohort, ("T1w",), "train", paired=True, seed=0)
    assert len(alone) == 5 * 9


def test_shorter_lists_come_round_sooner(folder):
    cohort = make_cohort(folder, "uneven", [K, ("T1w",), ("T1w",), K])
    data = SliceDataset(cohort, K, "train", paired=False, seed=0)
    assert len(data) == 27
    for turn in range(3):
        assert {data.places(turn * 9 + i)["T2w"] for i in range(9)} == {("s0", z) for z in range(9)}


def test_unavailable_contrasts_are_zero(folder):
    three = ("T1w", "T2w", "FLAIR")
    root = folder / "three"
    root.mkdir()
    subjects = []
    for number, contrasts in enumerate((three, three[:2])):
        scans = {}
        for contrast in contrasts:
            scans[contrast] = root / f"{number}_{contrast}.nii.gz"
            rng = np.random.default_rng([number, len(contrast), ord(contrast[1])])
            nib.save(nib.Nifti1Image(rng.uniform(1, 2, (8, 8, 4)).astype(np.float32), np.eye(4)), scans[contrast])
        subjects.append(Subject(name=f"s{number}", scans=scans, masks={}, split="train", sidecars={}))
    cohort = build_cohort(Listing("table", root, tuple(subjects), three), root / "out", Preparation(size=(8, 8, None)))
    data = SliceDataset(cohort, three, "train", paired=True, seed=0, augmentation=Augmentation(gain=0.2))
    samples = [(data.places(i)["T1w"][0], data[i]) for i in range(8)]
    for subject, sample in samples:
        has = subject == "s0"
        assert sample["available"].tolist() == [True, True, has]
        assert sample["images"][2].any().item() == has
    batch = whole_subject(cohort, "s1", three)
    assert batch["images"].shape == (1, 3, 8, 8, 4)
    assert batch["available"].tolist() == [[True, True, False]]
    assert not batch["images"][0, 2].any()
    np.testing.assert_array_equal(batch["images"][0, 1].numpy(), to_network(cohort.read("s1", "T2w")))


def test_unregistered_subjects_cannot_be_paired(folder):
    cohort = make_cohort(folder, "moved", [K, K, K], shift={(1, "T2w")})
    SliceDataset(cohort, K, "train", paired=False, seed=0)
    with pytest.raises(InputError, match=r"s1 lie on different grids: register"):
        SliceDataset(cohort, K, "train", paired=True, seed=0)
    with pytest.raises(InputError, match="s1"):
        whole_subject(cohort, "s1", K)


def test_slices_of_several_sizes_are_refused(folder):
    cohort = make_cohort(folder, "sizes", [K, K, K], size=(None, None, None))
    with pytest.raises(InputError, match=r"14×16, 15×16.*`size`"):
        SliceDataset(cohort, K, "train", paired=False, seed=0)


@pytest.mark.parametrize("paired", [True, False])
def test_a_contrast_without_slices_is_refused(cohort, paired):
    with pytest.raises(InputError, match="no train slices of T1w"):
        SliceDataset(cohort, K, "train", paired=paired, seed=0, min_foreground=0.9)


@pytest.mark.parametrize("paired", [True, False])
def test_accelerated_contrasts_are_seen_at_low_resolution_only(cohort, paired):
    data = SliceDataset(cohort, K, "train", paired=paired, seed=0, acceleration=(("T2w", 2),))
    plain = SliceDataset(cohort, K, "train", paired=paired, seed=0)
    for i in (0, 5, 40):
        sample, full, places = data[i], plain[i], data.places(i)
        assert places == plain.places(i)
        assert torch.equal(sample["images"][0], full["images"][0])
        expected = undersample(torch.from_numpy(cohort.read(places["T2w"][0], "T2w", places["T2w"][1])), 2)
        torch.testing.assert_close(sample["images"][1], to_network(expected))
    assert not torch.allclose(data[0]["images"][1], plain[0]["images"][1], atol=0.01)


def test_whole_subjects_are_accelerated_slice_by_slice(cohort):
    acceleration = (("T1w", 4), ("T2w", 1))
    batch = whole_subject(cohort, "s0", K, acceleration=acceleration)
    for z in range(9):
        expected = undersample(torch.from_numpy(cohort.read("s0", "T1w", z)), 4)
        torch.testing.assert_close(read_image(cohort, "s0", "T1w", acceleration=acceleration, z=z), expected)
        torch.testing.assert_close(batch["images"][0, 0, ..., z], to_network(expected))
    torch.testing.assert_close(batch["images"][0, 1], to_network(read_image(cohort, "s0", "T2w")))
    assert not from_network(batch["images"])[0, 0, ..., [0, 8]].any(), "empty slices stay exactly empty"


def test_as_acquired_takes_the_in_plane_axes():
    """The first two of (X, Y, Z), of unlike sizes; what is not accelerated is not touched."""
    volume = torch.rand(12, 9, 5)
    made = as_acquired(volume, "T1w", (("T1w", 3),))
    assert made.shape == volume.shape
    for z in range(5):
        torch.testing.assert_close(made[..., z], undersample(volume[..., z], 3))
        torch.testing.assert_close(as_acquired(volume[..., z], "T1w", (("T1w", 3),)), made[..., z])
    assert as_acquired(volume, "T2w", (("T1w", 3),)) is volume
    assert as_acquired(volume, "T1w", (("T1w", 1),)) is volume


def test_acceleration_comes_before_augmentation(cohort):
    places = {"acceleration": (("T1w", 2),), "augmentation": Augmentation(flip=1, gain=0.2)}
    sample = SliceDataset(cohort, ("T1w",), "train", paired=False, seed=0, **places)
    augmented = SliceDataset(cohort, ("T1w",), "train", paired=False, seed=0, augmentation=places["augmentation"])
    subject, z = sample.places(3)["T1w"]
    low = undersample(torch.from_numpy(cohort.read(subject, "T1w", z)), 2).flip(0)
    factor = (from_network(augmented[3]["images"]).sum() / cohort.read(subject, "T1w", z).sum()).item()
    torch.testing.assert_close(from_network(sample[3]["images"])[0], factor * low, rtol=1e-4, atol=1e-6)


def test_acceleration_of_a_foreign_contrast_is_refused(cohort):
    with pytest.raises(InputError, match=r"acceleration 'FLAIR': not among the run's contrasts T1w, T2w"):
        SliceDataset(cohort, K, "train", paired=True, seed=0, acceleration=(("FLAIR", 2),))


@pytest.mark.parametrize(
    ("n", "chosen"),
    [
        (None, [1, 2, 3, 4, 6, 7]),
        (1, [3]),
        (2, [3, 4]),
        (3, [2, 3, 4]),
        (4, [1, 2, 3, 4]),
        (6, [2, 3, 4, 6, 7]),  # slice 5 is in the block, and too empty
        (9, [1, 2, 3, 4, 6, 7]),
        (100, [1, 2, 3, 4, 6, 7]),
    ],
)
def test_the_block_with_the_most_foreground_is_chosen(n, chosen):
    share = np.array([0.0, 0.3, 0.5, 0.9, 0.8, 0.05, 0.6, 0.7, 0.02])
    assert chosen_slices(share, 0.1, n) == chosen


def test_of_equal_blocks_the_lowest():
    """Sums of the same shares in another order differ in their last bits, which must decide nothing."""
    share = np.array([0.3, 0.2, 0.1, 0.3, 0.2, 0.1])
    assert chosen_slices(share, 0.0, 3) == [0, 1, 2]


def test_slices_per_subject_by_contrast_and_by_pair(folder):
    """Unpaired, a contrast's own foreground decides; paired, the larger of all contrasts'."""
    root = folder / "blocks"
    root.mkdir()
    scans = {}
    for contrast, tissue in (("T1w", slice(1, 4)), ("T2w", slice(2, 7))):
        array = np.zeros((8, 8, 9), np.float32)
        array[2:6, 2:6, tissue] = np.random.default_rng(0).uniform(1, 2, array[2:6, 2:6, tissue].shape)
        scans[contrast] = root / f"{contrast}.nii.gz"
        nib.save(nib.Nifti1Image(array, np.eye(4)), scans[contrast])
    listing = Listing("table", root, (Subject(name="s0", scans=scans, masks={}, split="train", sidecars={}),), K)
    cohort = build_cohort(listing, root / "out", Preparation(size=(8, 8, None)))

    def shown(contrast, **settings):
        data = SliceDataset(cohort, K, "train", seed=0, min_foreground=0.1, **settings)
        return sorted({data.places(i)[contrast][1] for i in range(20)})

    assert shown("T1w", paired=False, slices_per_subject=5) == [1, 2, 3]
    assert shown("T2w", paired=False, slices_per_subject=5) == [2, 3, 4, 5, 6]
    assert shown("T1w", paired=True, slices_per_subject=5) == [1, 2, 3, 4, 5]
    assert shown("T2w", paired=True) == [1, 2, 3, 4, 5, 6]
    assert shown("T2w", paired=True, slices_per_subject=90) == [1, 2, 3, 4, 5, 6]


def generator(seed=0):
    return np.random.default_rng(seed)


def test_augmentation_is_off_by_default():
    images = torch.rand(2, 9, 7)
    torch.testing.assert_close(Augmentation().apply(images, generator()), images, rtol=0, atol=0)


def test_flip_is_left_right():
    images = torch.rand(2, 9, 7)
    assert torch.equal(Augmentation(flip=1).apply(images, generator()), images.flip(1))


def test_one_spatial_transform_for_all_contrasts_of_a_pair():
    image = torch.rand(1, 16, 16)
    changed = Augmentation(flip=0.5, rotation_degrees=20, scale=0.2, shift=0.1).apply(
        image.expand(3, 16, 16), generator()
    )
    assert not torch.allclose(changed[0], image[0])
    assert torch.equal(changed[0], changed[1])
    assert torch.equal(changed[0], changed[2])


def test_rotation_keeps_distances_in_oblong_images():
    """A disc stays a disc of its size whatever the angle, and the middle stays in place."""
    h, w = torch.meshgrid(torch.arange(48) - 23.5, torch.arange(24) - 11.5, indexing="ij")
    disc = torch.exp(-((h - 5) ** 2 + w**2) / 18)[None]
    for seed in range(6):
        turned = Augmentation(rotation_degrees=60).apply(disc, generator(seed))[0]
        total = turned.sum()
        ch, cw = (turned * h).sum() / total, (turned * w).sum() / total
        assert torch.hypot(ch, cw).item() == pytest.approx(5, abs=0.1)
        spread = [((turned * (a - c) ** 2).sum() / total).item() for a, c in ((h, ch), (w, cw))]
        assert spread == pytest.approx([9, 9], rel=0.1)


def test_shift_and_scale_by_the_stated_shares():
    h, w = torch.meshgrid(torch.arange(40) - 19.5, torch.arange(40) - 19.5, indexing="ij")
    disc = torch.exp(-(h**2 + w**2) / 18)[None]
    shifts, areas = [], []
    for seed in range(40):
        moved = Augmentation(shift=0.1).apply(disc, generator(seed))[0]
        shifts.append(((moved * h).sum() / moved.sum()).item())
        areas.append((Augmentation(scale=0.2).apply(disc, generator(seed)).sum() / disc.sum()).item())
    assert 3 < max(shifts) <= 4.05
    assert -4.05 <= min(shifts) < -3
    assert 1.3 < max(areas) <= 1.2**2 + 0.02
    assert 0.8**2 - 0.02 <= min(areas) < 0.75


def test_intensities_change_by_contrast_and_keep_zero_and_order():
    images = torch.linspace(0, 1, 16).reshape(1, 4, 4).expand(2, 4, 4)
    changed = Augmentation(gain=0.2, gamma=0.3).apply(images, generator())
    assert not torch.allclose(changed[0], changed[1])
    assert (changed[:, 0, 0] == 0).all()
    assert (changed.flatten(1).diff(dim=1) > 0).all()
    assert ((changed[:, 3, 3] >= 0.8) & (changed[:, 3, 3] <= 1.2)).all()


def test_of_a_pair_only_what_is_given_changes_its_intensities(cohort):
    how = {"paired": True, "seed": 0, "neighbours": 1}
    moved = SliceDataset(cohort, K, "train", augmentation=Augmentation(flip=1), **how)
    changed = SliceDataset(cohort, K, "train", augmentation=Augmentation(flip=1, gain=0.3, gamma=0.2, bias=0.3), **how)
    assert "sources" not in moved[3]
    torch.testing.assert_close(changed[3]["images"], moved[3]["images"])
    assert not torch.allclose(changed[3]["sources"], changed[3]["images"], atol=0.02)
    assert not torch.allclose(changed[3]["neighbours"], moved[3]["neighbours"], atol=0.02)
    air = moved[3]["images"] == -1
    assert (changed[3]["sources"][air] == -1).all()
    unpaired = SliceDataset(cohort, K, "train", paired=False, seed=0, augmentation=Augmentation(gain=0.3))
    assert "sources" not in unpaired[3]


def test_shading_is_smooth_and_stays_within_its_limits():
    ones = torch.ones(3, 2, 40, 30)
    for seed in range(5):
        field = Augmentation(bias=0.3).apply(ones, generator(seed))
        assert field.log().abs().max() <= 0.3 + 1e-6
        assert field.log().abs().max() > 0.05
        assert torch.equal(field[:, 0], field[:, 1])  # slices of one contrast
        assert not torch.allclose(field[0], field[1], atol=0.01)
        assert field.diff(dim=-1).abs().max() < 0.06


def test_patches_turn_about_all_axes_and_keep_distances():
    places = torch.meshgrid(*[torch.arange(side) - (side - 1) / 2 for side in (32, 24, 28)], indexing="ij")
    ball = torch.exp(-((places[0] - 4) ** 2 + places[1] ** 2 + places[2] ** 2) / 12)[None]
    moved = set()
    for seed in range(4):
        change = Augmentation(rotation_degrees=40).draw(generator(seed), 1, dims=3)
        turned = change.move(ball)[0]
        centre = [((turned * place).sum() / turned.sum()).item() for place in places]
        assert math.dist(centre, (0, 0, 0)) == pytest.approx(4, abs=0.15)
        moved.add(tuple(abs(value) > 0.3 for value in centre))
    assert (True, True, True) in moved
    flipped = Augmentation(flip=1).draw(generator(), 1, dims=3).move(ball)
    assert torch.equal(flipped, ball.flip(1))


def test_patches_are_augmented_with_the_target_s_intensities_kept(cohort):
    def patch(**changes):
        return PatchDataset(cohort, K, "train", seed=0, size=(16, 16, 8), augmentation=Augmentation(**changes))[3]

    plain, mirrored, changed = patch(), patch(flip=1), patch(flip=1, gain=0.3, bias=0.2)
    assert torch.equal(mirrored["images"], plain["images"].flip(1))
    assert torch.equal(changed["images"], mirrored["images"])
    assert not torch.allclose(changed["sources"], changed["images"], atol=0.02)
    assert torch.equal(changed["sources"], patch(flip=1, gain=0.3, bias=0.2)["sources"])
