import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from scansynth.diffusion.windows import Cut, PatchWindows, SliceWindows
from scansynth.errors import InputError
from scansynth.noise import Noise


@pytest.mark.parametrize("batch", [1, 3, 7, 16])
def test_every_slice_goes_through_once_and_comes_back_to_its_place(batch):
    volume = torch.randn(1, 2, 6, 8, 7)
    sizes = []

    def function(x):
        sizes.append(len(x))
        assert x.shape[1:] == (2, 6, 8)
        return torch.stack([x[:, 0] * 2, x[:, 1], x.sum(1)], dim=1)

    result = SliceWindows(batch).map(function, volume)
    assert torch.equal(result, torch.cat([volume[:, :1] * 2, volume[:, 1:], volume.sum(1, keepdim=True)], dim=1))
    assert sum(sizes) == 7
    assert max(sizes) == min(batch, 7)


def test_a_network_gives_the_same_for_every_batch_size():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 8, 3, padding=1), torch.nn.GroupNorm(2, 8), torch.nn.Conv2d(8, 1, 3))
    volume = torch.randn(1, 2, 8, 12, 5)
    with torch.no_grad():
        one = SliceWindows(1).map(net, volume)
        slices = torch.stack([net(volume[..., z])[0] for z in range(5)], dim=-1)[None]
        torch.testing.assert_close(one, slices)
        for batch in (2, 5, 16):
            torch.testing.assert_close(SliceWindows(batch).map(net, volume), one)
    assert one.shape == (1, 1, 6, 10, 5)


@pytest.mark.parametrize(
    ("size", "patch", "starts"),
    [
        ((160, 180), (128, 128), ([0, 32], [0, 52])),  # Hi-Net's four
        ((224, 224), (128, 128), ([0, 64, 96], [0, 64, 96])),
        ((256, 128), (128, 128), ([0, 64, 128], [0])),  # half of each lies in its neighbour
        ((20, 24), (24, 16), ([0], [0, 8])),  # a shorter side is taken whole
        ((20, 24), None, ([0], [0])),
    ],
)
def test_patches_of_a_slice_cover_it_and_overlap(size, patch, starts):
    places = SliceWindows(patch=patch).patches(size)
    assert [(rows.start, columns.start) for rows, columns in places] == [(x, y) for x in starts[0] for y in starts[1]]
    held = torch.zeros(size)
    for rows, columns in places:
        held[rows, columns] += 1
        assert held[rows, columns].shape == tuple(min(pair) for pair in zip(size, patch or size, strict=True))
    assert held.min() >= 1


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_pixel_is_the_plain_mean_of_the_patches_that_hold_it(batch):
    volume, own, numbers = torch.randn(1, 2, 20, 24, 5), torch.randn(1, 1, 1, 1, 5), iter(range(100))
    windows = SliceWindows(batch, patch=(16, 24))
    unchanged = windows.map(lambda x: x, volume)
    torch.testing.assert_close(unchanged, volume)
    assert len(windows.patches((20, 24))) == 2

    def numbered(x, own):
        assert x.shape[1:] == (2, 16, 24)
        assert own.shape == (len(x), 1, 1, 1)
        patch = torch.tensor([1.0, 5.0]).repeat_interleave(len(x) // 2)  # all slices' first patches, then their second
        next(numbers)
        return patch[:, None, None, None] * own.expand(-1, -1, *x.shape[2:])

    made = windows.map(numbered, volume, own)
    assert next(numbers) == windows.ticks((20, 24, 5))
    for rows, value in ((slice(0, 4), 1.0), (slice(4, 16), 3.0), (slice(16, 20), 5.0)):
        torch.testing.assert_close(made[:, :, rows], (value * own).expand(-1, -1, rows.stop - rows.start, 24, -1))


def test_what_has_one_slice_is_given_to_every_slice():
    volume, image, latent = torch.randn(1, 1, 4, 6, 5), torch.randn(1, 3, 4, 6, 1), torch.randn(1, 2, 1, 1, 1)

    def function(x, y, w):
        assert y.shape == (len(x), 3, 4, 6)
        assert w.shape == (len(x), 2, 1, 1)
        return x * w[:, :1] + w[:, 1:] + y.sum(1, keepdim=True)

    result = SliceWindows(2).map(function, volume, image, latent)
    expected = volume * latent[:, :1] + latent[:, 1:] + image.sum(1, keepdim=True)
    torch.testing.assert_close(result, expected)


def test_a_latent_of_its_own_in_every_slice_stays_with_its_slice():
    volume, latent = torch.randn(1, 1, 4, 4, 5), torch.randn(1, 2, 1, 1, 5)
    result = SliceWindows(3).map(lambda x, w: x + w[:, 1:], volume, latent)
    torch.testing.assert_close(result, volume + latent[:, 1:])


def test_faults():
    with pytest.raises(InputError, match="at least 1"):
        SliceWindows(0)
    with pytest.raises(AssertionError, match="depth"):
        SliceWindows().map(lambda x, y: x, torch.zeros(1, 1, 2, 2, 4), torch.zeros(1, 1, 2, 2, 3))
    with pytest.raises(AssertionError, match="slices in"):
        SliceWindows().map(lambda x: x[:1], torch.zeros(1, 1, 2, 2, 4))


@pytest.fixture
def volume():
    return torch.randn(1, 2, 19, 16, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.75])
def test_patches_hold_every_voxel_and_overlap_as_asked(overlap):
    windows = PatchWindows((8, 8, 4), overlap)
    count = torch.zeros(19, 16, 7)
    for place in windows.places((19, 16, 7)):
        assert [part.stop - part.start for part in place] == [8, 8, 4]
        count[place] += 1
    assert count.min() >= 1
    starts = sorted({place[0].start for place in windows.places((19, 16, 7))})
    assert starts[0] == 0
    assert starts[-1] == 11
    assert max(b - a for a, b in pairwise(starts)) <= 8 * (1 - overlap)


@pytest.mark.parametrize("batch", [1, 5, 100])
def test_weights_sum_to_one(volume, batch):
    # A function that gives ones has ones as its weighted mean, one that changes nothing has its volume.
    windows = PatchWindows((8, 8, 4), batch=batch)
    torch.testing.assert_close(windows.map(torch.ones_like, volume), torch.ones_like(volume))
    torch.testing.assert_close(windows.map(lambda x: 3 * x, volume), 3 * volume)


def test_the_number_of_patches_at_once_changes_nothing(volume):
    def function(x):
        return x * torch.linspace(0, 1, 8).reshape(1, 1, 8, 1, 1)

    one = PatchWindows((8, 8, 4), batch=1).map(function, volume)
    torch.testing.assert_close(PatchWindows((8, 8, 4), batch=7).map(function, volume), one)


def test_a_voxel_is_the_mean_of_its_windows_by_their_weights():
    windows = PatchWindows((4, 1, 1), overlap=0.5, batch=1)
    numbers = iter([1.0, 2.0, 5.0])
    result = windows.map(lambda x: torch.full_like(x, next(numbers)), torch.zeros(1, 1, 8, 1, 1)).flatten()
    near, far = (math.exp(-0.5 * (x / 0.5) ** 2) for x in (0.5, 1.5))
    left, right = (1 * near + 2 * far) / (near + far), (1 * far + 2 * near) / (near + far)
    assert result[:4].tolist() == pytest.approx([1, 1, left, right])
    left, right = (2 * near + 5 * far) / (near + far), (2 * far + 5 * near) / (near + far)
    assert result[4:].tolist() == pytest.approx([left, right, 5, 5])


def test_a_volume_that_is_shorter_than_a_patch_is_taken_whole():
    volume = torch.randn(1, 1, 6, 8, 2)
    sizes = []

    def function(x):
        sizes.append(tuple(x.shape[2:]))
        return x

    torch.testing.assert_close(PatchWindows((8, 8, 4)).map(function, volume), volume)
    assert sizes == [(6, 8, 2)]


def test_what_has_one_voxel_is_given_to_every_patch(volume):
    latent = torch.randn(1, 3, 1, 1, 1)
    result = PatchWindows((8, 8, 4)).map(lambda x, w: x + w[:, 2:], volume, latent)
    torch.testing.assert_close(result, volume + latent[:, 2:])


def test_each_patch_gets_its_part_of_the_volumes_noise(volume):
    noise = Noise([(0, "subject", 0)])
    windows = PatchWindows((8, 8, 4), batch=5)
    whole = noise.normal("t=3", (2, 19, 16, 7))

    def function(places, x):
        return Cut(noise, (19, 16, 7), places).normal("t=3", x.shape[1:])

    torch.testing.assert_close(windows.map_places(function, volume), whole)


@pytest.mark.parametrize("wrong", [{"size": (0, 8, 8)}, {"overlap": 1.0}, {"overlap": -0.1}, {"batch": 0}])
def test_patches_that_are_none_are_refused(wrong):
    with pytest.raises(InputError, match="at least 1"):
        PatchWindows(**{"size": (8, 8, 8), **wrong})


@pytest.mark.parametrize("windows", [SliceWindows(3), PatchWindows((8, 8, 4), batch=5)])
def test_ticks_are_counted_before_they_come(windows, volume):
    ticks = []
    replace(windows, tick=lambda: ticks.append(1)).map(lambda x: x, volume)
    assert len(ticks) == windows.ticks((19, 16, 7)) > 1
