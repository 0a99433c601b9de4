"""Attention in windows: who sees whom, with shifts and without."""

import pytest
import torch

from scansynth.networks.unet import UNet
from scansynth.networks.window_attention import WindowAttention, fitting, merge, partition, relative_index


@pytest.mark.parametrize(("shape", "window"), [((8, 12), (4, 3)), ((8, 4, 6), (4, 2, 3))])
def test_windows_are_put_together_as_they_were_cut(shape, window):
    x = torch.randn(2, *shape, 5)
    windows = partition(x, window)
    assert windows.shape[-1] == 5
    first = x[0][tuple(slice(0, width) for width in window)]
    assert torch.equal(windows[0, 0], first.reshape(-1, 5))
    assert torch.equal(merge(windows, window, shape), x)


def seen_from(layer, shape, place):
    """Which places change when one does, through the attention alone."""
    torch.manual_seed(0)
    x = torch.randn(1, layer.qkv.in_features, *shape)
    changed = x.clone()
    changed[(0, slice(None), *place)] += 1.0
    with torch.no_grad():
        return (layer.attend(x) - layer.attend(changed)).abs().amax(dim=(0, 1)) > 1e-7


def attention(dims, shifted, window=4):
    torch.manual_seed(1)
    layer = WindowAttention(dims, 16, window, shifted=shifted, heads=2)
    torch.nn.init.normal_(layer.bias)
    torch.nn.init.normal_(layer.out.weight)
    return layer


def test_a_window_sees_itself_and_nothing_else():
    seen = seen_from(attention(2, shifted=False), (8, 12), (5, 2))
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[4:8, 0:4] = True
    assert torch.equal(seen, expected)


@pytest.mark.parametrize(
    ("place", "rows", "columns"),
    [((5, 3), (2, 6), (2, 6)), ((0, 0), (0, 2), (0, 2)), ((7, 11), (6, 8), (10, 12)), ((1, 7), (0, 2), (6, 10))],
)
def test_shifted_windows_lie_half_a_window_further_and_do_not_reach_round_the_edge(place, rows, columns):
    seen = seen_from(attention(2, shifted=True), (8, 12), place)
    expected = torch.zeros(8, 12, dtype=torch.bool)
    expected[slice(*rows), slice(*columns)] = True
    assert torch.equal(seen, expected)


def test_in_three_dimensions_a_short_side_is_one_window_and_is_not_shifted():
    seen = seen_from(attention(3, shifted=True), (8, 8, 2), (3, 3, 0))
    expected = torch.zeros(8, 8, 2, dtype=torch.bool)
    expected[2:6, 2:6] = True
    assert torch.equal(seen, expected)


def test_the_bias_depends_on_the_distance_alone():
    index = relative_index((3, 2), 4, torch.device("cpu"))
    assert len(index.unique()) == 5 * 3
    places = [(i, j) for i in range(3) for j in range(2)]
    distances = {}
    for a, first in enumerate(places):
        for b, second in enumerate(places):
            distances.setdefault((first[0] - second[0], first[1] - second[1]), set()).add(int(index[a, b]))
    assert all(len(rows) == 1 for rows in distances.values())
    assert index.max() < 7 * 7


def test_windows_fit_the_side():
    assert [fitting(side, 4) for side in (1, 2, 6, 7, 8, 12)] == [1, 2, 3, 1, 4, 4]


def test_a_unet_takes_it_in_two_and_three_dimensions_and_learns():
    for dims, shape in ((2, (16, 24)), (3, (16, 16, 8))):
        torch.manual_seed(0)
        unet = UNet(
            dims, 1, 1, channels=8, multipliers=(1, 2, 2), blocks=1, attention_levels=(), bottleneck_attention=False,
            time_width=16, window_levels=(1, 2), head_width=8,
        )  # fmt: skip
        layers = [module for module in unet.modules() if isinstance(module, WindowAttention)]
        assert [layer.shifted for layer in layers] == [False, True] * 3
        x = torch.randn(2, 1, *shape)
        y = unet(x, torch.tensor([3, 7]))
        assert y.shape == x.shape
        y.square().mean().backward()
        assert all(layer.bias.grad is not None and layer.bias.grad.abs().sum() > 0 for layer in layers)
