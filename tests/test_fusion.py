"""Attentional feature fusion."""

import torch

from scansynth.networks.fusion import AttentionalFusion


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
