"""Auto-weight adaptation by hand."""

import math

import pytest
import torch

from scansynth.networks.auto_weight import AutoWeight


def test_the_factors_are_those_of_the_equations():
    layer = AutoWeight(3)
    with torch.no_grad():
        layer.mu.copy_(torch.tensor([1.0, 2.0, 0.5]))
        layer.nu.copy_(torch.tensor([0.3, -0.2, 1.0]))
        layer.o.copy_(torch.tensor([0.1, 0.0, -0.4]))
    y = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    made = layer(y)
    for sample in range(2):
        g = [mu * math.sqrt(y[sample, c].square().sum().item() + 1e-5) for c, mu in enumerate((1.0, 2.0, 0.5))]
        norm = math.sqrt(sum(value**2 for value in g) + 1e-5)
        for c, (nu, o) in enumerate(((0.3, 0.1), (-0.2, 0.0), (1.0, -0.4))):
            factor = 1 + 1 / (1 + math.exp(-(nu * math.sqrt(3) * g[c] / norm + o)))
            torch.testing.assert_close(made[sample, c], y[sample, c] * factor)


@pytest.mark.parametrize("gate", ["sigmoid", "tanh"])
def test_it_starts_the_same_for_all_and_empty_channels_have_gradients(gate):
    layer = AutoWeight(4, gate)
    y = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    y[:, 2:] = 0
    y.requires_grad_()
    start = {"sigmoid": 1.5, "tanh": 1.0}[gate]
    torch.testing.assert_close(layer.factors(y), torch.full((1, 4), start))
    with torch.no_grad():
        layer.nu.fill_(0.7)
    gradients = torch.autograd.grad(layer(y).sum(), [y, *layer.parameters()])
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    low, high = {"sigmoid": (1, 2), "tanh": (0, 2)}[gate]
    assert layer.factors(100 * y).min() > low
    assert layer.factors(100 * y).max() < high
    assert torch.isfinite(layer(torch.zeros_like(y))).all()


def test_all_empty_conditions_are_harmless():
    y = torch.zeros(1, 2, 3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(AutoWeight(2)(y).sum(), y)
    assert torch.isfinite(gradient).all()
