"""SSIM and MS-SSIM against other implementations, in 2D and 3D, and as functions of many images."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

from scansynth.metrics import image_metrics as metrics
from scansynth.metrics.image_metrics import Images
from scansynth.metrics.structural_similarity import (
    SCALE_WEIGHTS,
    gaussian,
    ssim_maps,
    structure_by_scale,
    windowed,
)


def ms_ssim(synthesis, reference, size=11, scales=5):
    return metrics.ms_ssim(Images.of(synthesis, reference, 1.0), size, scales) / 100


def images(shape, seed=0):
    """Smooth images in [0, 1] and noisy copies, float64."""
    generator = torch.Generator().manual_seed(seed)
    smooth = windowed(
        torch.rand(*shape[:1], *(side + 6 for side in shape[1:]), generator=generator).double(), gaussian(7)
    )
    smooth = (smooth - smooth.min()) / (smooth.max() - smooth.min())
    return smooth, (smooth + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1)


@pytest.mark.parametrize("shape", [(2, 40, 33), (2, 20, 17, 14)])
def test_ssim_is_that_of_scikit_image(shape):
    reference, synthesis = images(shape)
    found = ssim_maps(synthesis, reference, 1.0)[0].flatten(1).mean(1)
    expected = [
        structural_similarity(
            y.numpy(), x.numpy(), data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
        )
        for x, y in zip(reference, synthesis, strict=True)
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 40, 33), (1, 20, 17, 14)])
def test_the_reflected_map_has_the_size_of_the_image_and_the_same_inside(shape):
    reference, synthesis = images(shape)
    inside, everywhere = ssim_maps(synthesis, reference, 1.0)[0], ssim_maps(synthesis, reference, 1.0, reflect=True)[0]
    assert everywhere.shape == reference.shape
    torch.testing.assert_close(everywhere[(slice(None), *[slice(5, -5)] * (len(shape) - 1))], inside)


def test_ms_ssim_is_that_of_torchmetrics():
    reference, synthesis = images((3, 192, 200))
    # With a Gaussian the library takes a window of 11 for σ = 1.5, whatever kernel_size says.
    expected = multiscale_structural_similarity_index_measure(
        synthesis[:, None], reference[:, None], data_range=1.0, kernel_size=7, reduction="none", normalize="relu"
    )
    torch.testing.assert_close(ms_ssim(synthesis, reference), expected, rtol=0, atol=1e-5)


def test_ms_ssim_of_volumes_is_the_product_of_its_scales():
    reference, synthesis = images((2, 24, 20, 28))
    weights = SCALE_WEIGHTS[:2]
    pooled = [torch.nn.functional.avg_pool3d(image[:, None], 2)[:, 0] for image in (synthesis, reference)]
    fine = ssim_maps(synthesis, reference, 1.0, size=7)[1].flatten(1).mean(1)
    coarse = ssim_maps(*pooled, 1.0, size=7, reflect=True)[0].flatten(1).mean(1)
    expected = fine ** (weights[0] / sum(weights)) * coarse ** (weights[1] / sum(weights))
    torch.testing.assert_close(ms_ssim(synthesis, reference, 7, 2), expected, rtol=0, atol=1e-5)


def test_a_stack_is_image_by_image():
    reference, synthesis = images((20, 64, 56))
    found = ms_ssim(synthesis, reference, 7, 3)
    each = torch.cat([ms_ssim(y[None], x[None], 7, 3) for x, y in zip(reference, synthesis, strict=True)])
    torch.testing.assert_close(found, each)


def test_equal_images_have_one_everywhere():
    reference, _ = images((1, 192, 176))
    torch.testing.assert_close(ssim_maps(reference, reference, 1.0)[0].min().item(), 1.0)
    assert ms_ssim(reference, reference).item() == pytest.approx(1.0)


@pytest.mark.parametrize("scales", [1, 2, 3])
@pytest.mark.parametrize("corner", [(0, 0, 0), (13, 9, 21), (41, 31, 17)])
def test_what_lies_far_from_a_mask_is_left_out_and_changes_nothing(corner, scales):
    reference, synthesis = images((1, 61, 47, 45))
    mask = torch.zeros(reference.shape, dtype=torch.bool)
    mask[(0, *(slice(start, start + 9) for start in corner))] = True
    mask[(0, *(start + 9 for start in corner))] = True
    masked = Images.of(synthesis, reference, 1.0, mask=mask)
    full = ssim_maps(synthesis, reference, 1.0, reflect=True)[0]
    torch.testing.assert_close(metrics.ssim(masked) / 100, full[mask].mean()[None], rtol=0, atol=1e-6)
    expected, share, weights = 1.0, mask.double(), SCALE_WEIGHTS[:scales]
    maps = structure_by_scale(synthesis, reference, 1.0, size=7, scales=scales, reflect=True)
    for weight, one in zip(weights, maps, strict=True):
        assert (share >= 0.5).any()
        expected *= one[share >= 0.5].mean() ** (weight / sum(weights))
        share = torch.nn.functional.avg_pool3d(share[:, None], 2)[:, 0]
    torch.testing.assert_close(metrics.ms_ssim(masked, 7, scales) / 100, expected[None], rtol=0, atol=1e-6)


def test_a_mask_too_small_for_a_scale_counts_all_places_of_it():
    reference, synthesis = images((1, 61, 47, 45))
    mask = torch.zeros(reference.shape, dtype=torch.bool)
    mask[0, 30, 20, 20] = True
    fine, coarse = structure_by_scale(synthesis, reference, 1.0, size=7, scales=2, reflect=True)
    weights = [weight / sum(SCALE_WEIGHTS[:2]) for weight in SCALE_WEIGHTS[:2]]
    expected = fine[mask].mean().clamp(min=0) ** weights[0] * coarse.mean() ** weights[1]
    found = metrics.ms_ssim(Images.of(synthesis, reference, 1.0, mask=mask), 7, 2) / 100
    torch.testing.assert_close(found, expected[None], rtol=0, atol=1e-5)
