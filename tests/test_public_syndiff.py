"""The networks of SynDiff's public release: sizes, and what their logits hang on."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from scansynth.errors import InputError
from scansynth.losses.adversarial import r1_penalty
from scansynth.networks.embedding import MappingNetwork
from scansynth.networks.public_syndiff import (
    DiffusiveDiscriminator,
    PatchDiscriminator,
    minibatch_deviation,
    public_unet,
)
from scansynth.networks.resnet import ResNetTranslator

T_BATCH = torch.tensor([250, 1000])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def shake(net: nn.Module) -> nn.Module:
    """Take every parameter off its initial value."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def assert_all_get_gradients(net: nn.Module, output: Tensor) -> None:
    (output * torch.randn_like(output)).sum().backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead, f"no gradient: {dead}"


def parameters(*nets: nn.Module) -> int:
    return sum(parameter.numel() for net in nets for parameter in net.parameters())


def gigaflops(function: Callable[[], Tensor]) -> float:
    """A multiplication and an addition count as two."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() / 1e9


def test_sizes_of_the_release():
    """Its parameters and operations at 64×64, where a side of 16 is level 2."""
    with torch.device("meta"):
        x, pair, t, z = torch.empty(1, 1, 64, 64), torch.empty(1, 2, 64, 64), torch.empty(1), torch.empty(1, 100)
        mapping = MappingNetwork(100, 256, 4)
        for channels, millions, flops in ((32, 11.9, 2.28), (64, 39.1, 8.98)):
            unet = public_unet(channels, attention_levels=(2,))
            assert parameters(unet, mapping) / 1e6 == pytest.approx(millions, abs=0.05)
            assert gigaflops(lambda: unet(pair, t, mapping(z))) == pytest.approx(flops, abs=0.005)  # noqa: B023
        discriminator, translator = DiffusiveDiscriminator(), ResNetTranslator(upsample_kernel=3)
        patches = PatchDiscriminator()
        assert parameters(discriminator) / 1e6 == pytest.approx(27.7, abs=0.05)
        assert gigaflops(lambda: discriminator(pair, t)) == pytest.approx(9.46, abs=0.005)
        assert parameters(translator) / 1e6 == pytest.approx(7.83, abs=0.005)
        assert parameters(patches) / 1e6 == pytest.approx(2.76, abs=0.005)
        assert 2 * parameters(unet, mapping, discriminator, translator, patches) / 1e6 == pytest.approx(155, abs=0.5)
        assert translator(x).shape == x.shape


def test_diffusive_discriminator_gives_a_logit_an_image_and_trains_every_parameter():
    net, x = DiffusiveDiscriminator(2, channels=4, blocks=3, time_width=8), torch.randn(2, 2, 8, 24)
    logits = net(x, T_BATCH)  # one side becomes a single place
    assert logits.shape == (2,)
    assert (net(x, torch.tensor([250, 500]))[1] - logits[1]).abs() > 1e-6
    assert_all_get_gradients(net, logits)
    with pytest.raises(InputError, match=r"3 blocks.*at least 8.*\(4, 24\)"):
        net(x[:, :, :4], T_BATCH)


def test_penalty_of_the_diffusive_discriminator():
    net, x = shake(DiffusiveDiscriminator(2, 4, 3, time_width=8)), torch.randn(2, 2, 8, 8, requires_grad=True)
    penalty = r1_penalty(net(x, T_BATCH), x)
    penalty.backward()
    assert penalty > 0
    for name, parameter in net.named_parameters():
        if name.endswith("weight"):
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.abs().max() > 0, name


def test_minibatch_deviation_is_over_four_neighbours():
    h = torch.randn(6, 3, 2, 2)
    expected = [group.std(0, correction=0).mean() for group in (h[:4], h[4:])]
    channel = minibatch_deviation(h)
    assert channel.shape == (6, 1, 2, 2)
    torch.testing.assert_close(channel[:, 0, 0, 0], torch.stack([*[expected[0]] * 4, *[expected[1]] * 2]))
    torch.testing.assert_close(minibatch_deviation(h[:1]), torch.full((1, 1, 2, 2), 1e-4))


def test_logits_of_the_release_depend_on_the_batch():
    net, x = shake(DiffusiveDiscriminator(2, 4, 2, time_width=8)), torch.randn(2, 2, 8, 8)
    assert (net(x, T_BATCH)[0] - net(x[:1], T_BATCH[:1])[0]).abs() > 1e-5


def test_patch_discriminator():
    net = PatchDiscriminator(1, channels=4)
    logits = net(torch.randn(2, 1, 64, 72))
    assert logits.shape == (2, 1, 6, 7)
    assert_all_get_gradients(net, logits)
    assert net(torch.randn(1, 1, 24, 24)).shape == (1, 1, 1, 1)
    with pytest.raises(InputError, match=r"at least 24.*\(64, 23\)"):
        net(torch.randn(1, 1, 64, 23))


def test_a_patch_is_70_by_70():
    net = PatchDiscriminator(1, channels=4)
    for index, layer in enumerate(net.layers):
        if isinstance(layer, nn.InstanceNorm2d):
            net.layers[index] = nn.Identity()  # it reads the whole image
    x = torch.randn(1, 1, 128, 128, requires_grad=True)
    (gradient,) = torch.autograd.grad(net(x)[0, 0, 7, 7], x)
    assert [int(gradient[0, 0].abs().sum(axis).count_nonzero()) for axis in (0, 1)] == [70, 70]


def test_the_public_discriminator_keeps_minibatches_apart():
    torch.manual_seed(0)
    net = DiffusiveDiscriminator(channels=4, blocks=2)
    x, t = torch.randn(4, 2, 8, 8), torch.tensor([250, 500, 750, 1000])
    apart = torch.cat([net(x[:2], t[:2]), net(x[2:], t[2:])])
    torch.testing.assert_close(net(x, t, minibatches=2), apart)
    assert not torch.allclose(net(x, t), apart)
