import pytest
import torch

from scansynth.diffusion.windows import SliceWindows
from scansynth.errors import InputError


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
