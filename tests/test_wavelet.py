"""Haar wavelets: nothing is lost, energy stays, and PyWavelets finds the same."""

import numpy as np
import pytest
import pywt
import torch

from scansynth.physics.wavelet import dwt, iwt


def images(dims, seed=0):
    shape = (2, 3, 8, 6, 4)[: 2 + dims]
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dims", [2, 3])
def test_nothing_is_lost_and_energy_stays(dims):
    x = images(dims)
    bands = dwt(x)
    assert bands.shape == (2, 3 * 2**dims, *[side // 2 for side in x.shape[2:]])
    torch.testing.assert_close(iwt(bands), x, atol=1e-14, rtol=0)
    assert bands.square().sum().item() == pytest.approx(x.square().sum().item(), rel=1e-14)
    other = torch.randn(bands.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(dwt(iwt(other)), other, atol=1e-14, rtol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_pywavelets_finds_the_same_bands(dims):
    x = images(dims)
    bands = dwt(x).unflatten(1, (3, 2**dims))
    found = pywt.dwtn(x.numpy(), "haar", axes=tuple(range(2, 2 + dims)))
    for number, name in enumerate(sorted(found)):  # aa, ad, da, dd: low before high, the first axis slowest
        np.testing.assert_allclose(bands[:, :, number].numpy(), found[name], atol=1e-12)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_half_precision_and_the_order_in_memory_change_nothing_else(order):
    x = images(2).to(torch.bfloat16)
    bands = dwt(x.to(memory_format=order))
    assert bands.dtype == torch.bfloat16
    torch.testing.assert_close(bands, dwt(x.float()).to(torch.bfloat16), atol=0, rtol=0)
    torch.testing.assert_close(
        iwt(bands.to(memory_format=order)), iwt(bands.float()).to(torch.bfloat16), atol=0, rtol=0
    )


def test_white_noise_stays_white():
    bands = dwt(torch.randn(1, 1, 512, 512, generator=torch.Generator().manual_seed(0)))[0].flatten(1)
    torch.testing.assert_close(torch.cov(bands), torch.eye(4), atol=0.02, rtol=0)


def test_gradients_are_the_inverse():
    x = images(2).requires_grad_()
    weights = images(2, seed=1)
    (gradient,) = torch.autograd.grad((dwt(x) * dwt(weights)).sum(), x)
    torch.testing.assert_close(gradient, weights, atol=1e-13, rtol=0)
