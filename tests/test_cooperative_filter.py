"""The similar cooperative filter: identity without thresholds, groups by hand, gradients, and less noise."""

import pytest
import torch

from scansynth.networks import cooperative_filter
from scansynth.networks.cooperative_filter import BlockMatching, CooperativeFilter, beyond, similar


def features(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (1, 2, 15, 9), (1, 1, 7, 7), (2, 1, 2, 3), (1, 2, 1, 4)])
@pytest.mark.parametrize("matches", [1, 4])
def test_without_thresholds_it_is_the_identity(shape, matches):
    x = features(*shape)
    layer = CooperativeFilter(shape[1], matches=matches, threshold=0.0).double()
    torch.testing.assert_close(layer(x), x, atol=1e-12, rtol=0)


def test_a_threshold_shrinks_towards_zero():
    x = torch.tensor([-3.0, -1.0, -0.2, 0.0, 0.5, 2.0])
    torch.testing.assert_close(x - beyond(x, torch.tensor(0.5)), torch.tensor([-2.5, -0.5, 0, 0, 0, 1.5]))


def test_similar_patches_are_found_as_a_loop_finds_them():
    rows, columns, radius, matches = 5, 4, 2, 4
    patches = features(2, rows * columns, 6)
    found = similar(patches, (rows, columns), radius, matches)
    for sample in range(2):
        for number in range(rows * columns):
            row, column = divmod(number, columns)
            reach = [
                r * columns + c
                for r in range(max(0, row - radius), min(rows, row + radius + 1))
                for c in range(max(0, column - radius), min(columns, column + radius + 1))
            ]
            reach.sort(key=lambda other: (patches[sample, number] - patches[sample, other]).square().sum().item())
            assert found[sample, number].tolist() == reach[:matches]


def test_where_few_are_in_reach_the_patch_itself_fills_up():
    found = similar(features(1, 2, 6), (1, 2), 1, 4)
    assert found.tolist() == [[[0, 1, 0, 0], [1, 0, 1, 1]]]


def test_a_large_threshold_leaves_the_mean_of_each_group():
    """Of sixteen patches two and two are each other's match, and become their mean."""
    values = torch.arange(8.0, dtype=torch.float64)[:, None] * 10 + torch.tensor([1.0, 2.0])
    x = values.reshape(1, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    layer = BlockMatching(1, patch=4, matches=2, threshold=100.0).double()
    means = values.mean(1, keepdim=True).expand(-1, 2).reshape(1, 1, 4, 4)
    torch.testing.assert_close(layer(x), means.repeat_interleave(4, 2).repeat_interleave(4, 3))
    alone = BlockMatching(1, patch=4, matches=1, threshold=100.0).double()
    torch.testing.assert_close(alone(x), x)


def test_gradients_are_right_in_features_and_thresholds():
    layer = CooperativeFilter(2, threshold=0.3).double()
    x = features(1, 2, 9, 10).requires_grad_()
    assert torch.autograd.gradcheck(layer, (x,), eps=1e-7, atol=1e-5)
    names = [name for name, _ in layer.named_parameters()]

    def by_thresholds(*values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x.detach(),))

    values = [value.detach().clone().requires_grad_() for value in layer.parameters()]
    assert torch.autograd.gradcheck(by_thresholds, values, eps=1e-7, atol=1e-5)


@pytest.mark.parametrize("shape", [(8, 8), (16, 16), (16, 20), (32, 32), (56, 56)])
def test_every_threshold_learns_whatever_the_size_of_the_map(shape):
    layer = CooperativeFilter(3, threshold=0.05).double()
    layer(features(2, 3, *shape)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad.abs() > 1e-6).all(), name


@pytest.mark.parametrize(("size", "side"), [(28, 4), (14, 4), (13, 4), (12, 3), (8, 2), (5, 1), (4, 1), (2, 1)])
def test_patches_are_the_largest_of_which_four_cover_a_side(size, side, monkeypatch):
    grids = []
    monkeypatch.setattr(
        cooperative_filter, "similar", lambda patches, grid, *how: grids.append(grid) or similar(patches, grid, *how)
    )
    BlockMatching(1)(features(1, 1, size, size + 3))
    assert grids == [(-(-size // side), -(-(size + 3) // side))]


def test_noise_becomes_less():
    """An image of repeated structure under white noise: PSNR rises by two decibels and more."""
    axis = torch.arange(64, dtype=torch.float64)
    clean = torch.sin(axis[:, None] / 5) + (axis[None] // 16 % 2)
    noisy = (clean + 0.3 * features(64, 64))[None, None]
    made = CooperativeFilter(1, matches=8, threshold=0.6).double()(noisy)

    def psnr(image):
        return -10 * torch.log10((image[0, 0] - clean).square().mean()).item()

    assert psnr(made) > psnr(noisy) + 2


def test_samples_of_a_batch_do_not_meet():
    x = features(3, 2, 16, 16)
    layer = CooperativeFilter(2, threshold=0.3).double()
    torch.testing.assert_close(layer(x)[1:2], layer(x[1:2]), atol=1e-12, rtol=0)


def test_under_autocast_it_computes_in_single_precision():
    torch.manual_seed(0)
    layer, f = CooperativeFilter(4, threshold=0.1), torch.randn(1, 4, 16, 16)
    alone = layer(f)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(layer(f), alone, rtol=0, atol=0)
        assert layer(f.bfloat16()).dtype == torch.bfloat16
