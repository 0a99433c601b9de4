"""The U-Net on wavelets (`networks/wavelet_unet.py`), and recomputation."""

import pytest
import torch
from torch.nn import functional

from scansynth.errors import InputError
from scansynth.networks.unet import UNet
from scansynth.networks.wavelet_unet import FEATURES, WaveletUNet
from scansynth.physics.wavelet import dwt, iwt

SIZE = {"channels": 8, "multipliers": (1, 2), "attention_levels": ()}


def network(wavelets=1, **settings):
    torch.manual_seed(0)
    return WaveletUNet(5, 2, planes=2, wavelets=wavelets, **SIZE, **settings)


def image(*shape, seed=0):
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("wavelets", [1, 2])
def test_it_is_a_unet_on_the_bands_of_its_stem(wavelets):
    """What the stem gives is split, seen by a plain U-Net together with the planes, and joined again."""
    net, x = network(wavelets), image(3, 16, 8, 8)
    planes = torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1, 1)
    plain = UNet(3, FEATURES * 8**wavelets + 2, FEATURES * 8**wavelets, bottleneck_attention=False, **SIZE)
    plain.load_state_dict({name: net.state_dict()[name] for name in plain.state_dict()})
    whole = torch.cat([x, planes.expand(-1, -1, 16, 8, 8)], dim=1)
    stem = bands = net.stem(whole)
    for _ in range(wavelets):
        bands = dwt(bands)
    bands = plain(torch.cat([bands, planes.expand(-1, -1, *bands.shape[2:])], dim=1))
    for _ in range(wavelets):
        bands = iwt(bands)
    expected = net.out(functional.silu(net.joint_norm(net.joint(torch.cat([bands, stem], dim=1)))))
    found = net(whole)
    assert found.shape == (1, 2, 16, 8, 8)
    torch.testing.assert_close(found, expected)
    assert net.size_multiple == 2 * 2**wavelets


def test_sizes_that_cannot_be_halved_are_refused():
    with pytest.raises(InputError, match="multiple of 4"):
        network()(image(5, 8, 8, 6))


def test_an_output_starts_at_a_value():
    net = network()
    net.start(1, -4.0)
    with torch.no_grad():
        net.get_parameter("out.weight").zero_()
        torch.testing.assert_close(net(image(5, 8, 8, 8))[:, 1], torch.full((1, 8, 8, 8), -4.0))


def test_what_is_learnt_on_a_box_holds_for_a_volume_of_any_size():
    """A volume that repeats a box periodically has the box's statistics: far from its borders the same comes out."""
    net, box = network().eval(), image(5, 8, 8, 8)
    with torch.no_grad():
        small, large = net(box.repeat(1, 1, 5, 5, 5)), net(box.repeat(1, 1, 7, 7, 7))
    middle = (..., *[slice(16, 24)] * 3), (..., *[slice(24, 32)] * 3)
    torch.testing.assert_close(small[middle[0]], large[middle[1]], atol=0.05, rtol=0)


def test_recomputation_changes_no_gradient():
    x, t = image(5, 8, 8, 8), torch.tensor([7.0])
    gradients = []
    for recompute in (False, True):
        net = network(recompute=recompute, time_width=16)
        loss = net(x, t).square().mean()
        gradients.append(torch.autograd.grad(loss, list(net.parameters())))
    for kept, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, kept)


def test_recomputation_keeps_less():
    """Bytes that the graph of a loss holds on to."""
    held = []
    for recompute in (False, True):
        net, sizes = network(recompute=recompute), {}

        def pack(tensor, sizes=sizes):
            sizes[tensor.data_ptr()] = tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            net(image(5, 16, 16, 16))
        held.append(sum(sizes.values()))
    assert held[1] < 0.5 * held[0]
