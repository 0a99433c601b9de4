"""Attentional feature fusion, and attention over the channels of one map."""

import torch

from scansynth.networks.fusion import AttentionalFusion, ChannelAttention


def test_every_place_lies_between_the_two_maps():
    torch.manual_seed(0)
    layer = AttentionalFusion(8)
    a, b = torch.randn(2, 2, 8, 6, 5).unbind(0)
    made = layer(a, b)
    assert made.shape == a.shape
    assert (made >= torch.minimum(a, b) - 1e-6).all()
    assert (made <= torch.maximum(a, b) + 1e-6).all()
    torch.testing.assert_close(layer(a, a), a)


def test_the_weight_is_that_of_the_local_and_the_global_context():
    torch.manual_seed(0)
    layer = AttentionalFusion(4)
    a, b = torch.randn(2, 1, 4, 3, 3).unbind(0)
    both = a + b
    overall = layer.overall(both.mean((2, 3), keepdim=True))
    weight = torch.sigmoid(layer.local(both) + overall)
    torch.testing.assert_close(layer(a, b), weight * a + (1 - weight) * b)
    gradients = torch.autograd.grad(layer(a, b).square().sum(), list(layer.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients[-4:])


def test_channel_attention_multiplies_each_channel_by_one_number_of_all_means():
    torch.manual_seed(0)
    layer = ChannelAttention(8)
    x = torch.randn(2, 8, 6, 5)
    factor = layer(x) / x
    torch.testing.assert_close(factor, factor[..., :1, :1].expand_as(factor))
    assert (factor > 0).all()
    assert (factor < 1).all()
    shuffled = x.flatten(2)[..., torch.randperm(30)].reshape(x.shape)  # the same means
    torch.testing.assert_close(layer(shuffled) / shuffled, factor)
    other = x.clone()
    other[:, 3] += 1
    assert (layer(other)[:, 0] / x[:, 0] - factor[:, 0]).abs().min() > 1e-5
