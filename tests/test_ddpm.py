"""What the networks of the DDPM family give, and what their losses are of."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from scansynth.diffusion.gaussian import q_sample
from scansynth.diffusion.windows import Whole
from scansynth.method import Progress
from scansynth.methods.ddpm import Ddpm, DdpmConfig
from scansynth.noise import Noise


class Gives(nn.Module):
    """A network that knows x_0 = 0.5 · first source, and gives it in one of three ways."""

    def __init__(self, method, off=0.0):
        super().__init__()
        self.output, self.schedule, self.off = method.config.output, method.schedule, off

    def forward(self, x, t):
        x_t, x0 = x[:, :1], 0.5 * x[:, 1:2]
        alpha_bar = self.schedule.at(t, x_t)
        eps = (x_t - alpha_bar.sqrt() * x0) / (1 - alpha_bar).sqrt()
        given = {"noise": eps, "x0": x0, "velocity": alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0}[self.output]
        return given + self.off


def method(output, off=0.0):
    config = replace(
        DdpmConfig.tiny(), patch=None, output=output, variance="fixed", loss="l2", sampler="ddim", targets=("T2w",)
    )
    one = Ddpm(config, ("T1w", "T2w")).double()
    one.nets["unet"] = Gives(one, off)
    return one


def data():
    t1 = torch.rand(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return {"images": torch.cat([t1, 0.5 * t1], dim=1), "available": torch.ones(2, 2, dtype=torch.bool)}


@pytest.mark.parametrize("output", ["noise", "velocity", "x0"])
def test_whatever_a_network_gives_an_exact_one_is_sampled_exactly(output):
    one, y = method(output), data()["images"][:1, :1]
    batch = {"images": torch.cat([y, torch.zeros_like(y)], dim=1), "available": torch.tensor([[True, False]])}
    made = one.translate(batch, "T2w", Whole(), Noise([(0, "subject", 0)])).image
    torch.testing.assert_close(made, 0.5 * y, atol=1e-9, rtol=0)


@pytest.mark.parametrize("output", ["noise", "velocity", "x0"])
def test_the_loss_is_of_the_noise_but_where_the_network_gives_the_image(output):
    one, found = method(output, off=0.1), {}
    noise = Noise([(0, 0, 0), (0, 0, 1)])
    one.training_step(data(), lambda player, losses: found.update(losses), Progress(0, 10, 0.0), noise)
    t = noise.integers("t", 1, 41)
    # What an error of 0.1 in the network's output becomes in what the loss is of.
    factor = one.schedule.lookup(t) if output == "velocity" else torch.ones(2)
    ((name, value),) = found.items()
    assert name == ("x0" if output == "x0" else "noise")
    assert value.item() == pytest.approx(0.01 * factor.mean().item(), rel=1e-4)


def test_noisy_images_are_those_of_the_noise():
    one = method("x0")
    x0 = data()["images"][:, 1:]
    t, eps = torch.tensor([3, 40]), torch.randn(2, 1, 8, 8, dtype=torch.float64)
    x_t = q_sample(one.schedule, x0, t, eps)
    planes = torch.zeros(2, 4, 1, 1)
    eps_f, v = one.predict(x_t, data()["images"], planes, t)
    torch.testing.assert_close(eps_f, eps, atol=1e-9, rtol=0)
    assert v is None
