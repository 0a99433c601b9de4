import math

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from scansynth.losses.adversarial import discriminator_loss, generator_loss, r1_penalty
from scansynth.networks.discriminator import Discriminator


def test_losses_are_the_logarithms_of_the_paper():
    real, fake = torch.tensor([0.3, -2.0, 5.0]), torch.tensor([1.0, -0.5, 4.0])

    def log_sigmoid(x):
        return [-math.log(1 + math.exp(-value)) for value in x.tolist()]

    assert generator_loss(fake).item() == pytest.approx(-sum(log_sigmoid(fake)) / 3, rel=1e-6)
    # 1 − D(x) is the sigmoid of the negative logit.
    expected = -sum(log_sigmoid(real)) / 3 - sum(log_sigmoid(-fake)) / 3
    assert discriminator_loss(real, fake).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(3,), (2, 1, 5, 4)])
def test_the_pair_is_binary_cross_entropy_of_images_and_of_patches(shape):
    real, fake = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).double() * 3
    ones, zeros = torch.ones_like(real), torch.zeros_like(real)
    torch.testing.assert_close(generator_loss(fake), bce(fake, ones))
    torch.testing.assert_close(discriminator_loss(real, fake), bce(real, ones) + bce(fake, zeros))


def test_a_lost_generator_still_gets_a_gradient():
    logit = torch.tensor([-40.0], requires_grad=True)
    generator_loss(logit).backward()
    assert logit.grad is not None
    assert logit.grad.item() == pytest.approx(-1)


def test_losses_stay_finite_for_large_logits():
    large = torch.tensor([1e4, -1e4])
    assert torch.isfinite(generator_loss(large))
    assert torch.isfinite(discriminator_loss(large, large))


def test_r1_of_a_linear_discriminator_is_the_squared_norm_of_its_weights():
    weights = torch.randn(2, 5, 5, dtype=torch.float64, requires_grad=True)
    x = torch.randn(3, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    penalty = r1_penalty((weights * x).sum((1, 2, 3)), x)
    torch.testing.assert_close(penalty, weights.square().sum())
    penalty.backward()
    torch.testing.assert_close(weights.grad, 2 * weights)


def test_r1_is_taken_with_respect_to_x_alone_and_averaged_over_the_batch():
    x = torch.randn(4, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    condition = torch.randn(4, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    logit = (x.square() / 2 + x * condition + 7 * condition).sum((1, 2, 3))
    expected = (x + condition).square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(r1_penalty(logit, x), expected)


def test_r1_of_the_network_equals_finite_differences():
    torch.manual_seed(0)
    net = Discriminator(2, channels=4, blocks=2, time_width=8).double()
    t = torch.tensor([250, 750])
    x = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    x_t = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    penalty = r1_penalty(net(torch.cat([x, x_t], dim=1), t), x)
    step, squares = 1e-6, torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for i in range(4):
            for j in range(4):
                moved = torch.zeros_like(x)
                moved[:, :, i, j] = step
                up, down = net(torch.cat([x + moved, x_t], 1), t), net(torch.cat([x - moved, x_t], 1), t)
                squares += ((up - down) / (2 * step)) ** 2
    assert penalty.item() == pytest.approx(squares.mean().item(), rel=1e-6)
