"""Texture similarity: the pyramid is one, and what people see decides, on phantoms."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from scansynth.data.phantom import make_phantom
from scansynth.errors import InputError
from scansynth.metrics.cases import Case, inside_the_brain
from scansynth.metrics.image_metrics import Images, psnr, ssim, texture
from scansynth.metrics.protocols import PROTOCOLS, measure
from scansynth.metrics.texture_similarity import SCALES, filters, pyramid


@pytest.fixture(scope="module", params=["T1w", "FLAIR"])
def head(request):
    """A phantom's slices on exact zeros, its brain, and what is divided by."""
    volume = make_phantom(3, (64, 80, 20), 2.5).contrast(request.param, noise=0.01).astype(np.float64)
    volume /= volume.max()
    mask = inside_the_brain(Case(volume, volume)).mask[0].numpy()
    return volume * mask, mask


def of(synthesis, reference, metric=texture):
    return metric(inside_the_brain(Case(synthesis, reference))).item()


def error(synthesis, reference, mask):
    return np.sqrt(np.mean((synthesis - reference)[mask] ** 2))


def white(mask, seed=9):
    return np.random.default_rng(seed).standard_normal(mask.shape) * mask


def test_equal_images_are_alike(head):
    assert of(head[0], head[0]) == pytest.approx(100)


@pytest.mark.parametrize("shape", [(64, 80), (33, 47)])
def test_filters_are_a_tight_frame(shape):
    """Squares of all filters of a scale add up to 1 at each frequency that the scale sees (real bands: both halves)."""
    high, low, oriented = filters(*shape)
    both = oriented.square() + torch.roll(oriented.flip(1, 2), (1, 1), (1, 2)).square()
    total = low.square() + both.sum(0) / 4
    seen = torch.ones(shape, dtype=torch.bool)
    seen[0, 0] = False  # the mean has no direction, and is the low-pass's alone
    for axis, side in enumerate(shape):
        if side % 2 == 0:  # −π has no opposite
            seen.select(axis, side // 2).fill_(False)
    torch.testing.assert_close(total[seen], torch.ones_like(total[seen]), atol=1e-6, rtol=0)
    assert low[0, 0] == pytest.approx(1)
    assert high[0, 0] == pytest.approx(0, abs=1e-6)


def test_a_wave_is_found_in_the_band_of_its_width_and_direction():
    """Eight pixels a wave is the second scale's; it goes along X, the axis of rows, the third direction (90°)."""
    x = np.arange(64)[:, None] * np.ones((1, 64))
    bands = pyramid(torch.from_numpy(np.sin(2 * np.pi * x / 8))[None])
    energy = [float(band.abs().square().mean()) for band in bands]
    assert len(bands) == 2 + SCALES * 4
    assert int(np.argmax(energy)) == 1 + 4 + 2
    assert [tuple(band.shape[1:]) for band in bands[::4]] == [(64, 64), (64, 64), (32, 32), (16, 16)]
    # The low-pass keeps the values of a flat image.
    flat = pyramid(torch.full((1, 40, 48), 0.3, dtype=torch.float64))
    torch.testing.assert_close(flat[-1], torch.full_like(flat[-1], 0.3))


def test_it_ranks_as_people_do(head):
    """Of one squared error: a voxel's shift is not seen, noise is, and blur is seen most."""
    reference, mask = head
    blurred = ndimage.gaussian_filter(reference, 0.7) * mask
    noisy = reference + white(mask) * error(blurred, reference, mask)
    shifted = np.roll(reference, 1, 0) * mask
    assert error(noisy, reference, mask) == pytest.approx(error(blurred, reference, mask), rel=0.02)
    assert error(shifted, reference, mask) > error(blurred, reference, mask)
    assert of(shifted, reference) > of(noisy, reference) + 1
    assert of(noisy, reference) > of(blurred, reference) + 4
    # SSIM has the shift, which nobody sees, as the worst of the three.
    assert of(shifted, reference, ssim) < min(of(noisy, reference, ssim), of(blurred, reference, ssim))


def test_more_of_a_fault_is_worse(head):
    reference, mask = head
    blurs = [of(ndimage.gaussian_filter(reference, sigma) * mask, reference) for sigma in (0.7, 1.0, 1.5)]
    noises = [of(reference + white(mask) * amount, reference) for amount in (0.02, 0.05, 0.1)]
    for found in (blurs, noises):
        assert found == sorted(found, reverse=True)
        assert found[0] - found[-1] > 2


def test_missing_texture_is_seen_where_ssim_prefers_it(head):
    """A fine texture in the tissue: left out, or right but of another draw. Nobody can know the draw."""
    plain, mask = head

    def textured(seed):
        rough = np.random.default_rng(seed).standard_normal(mask.shape)
        waves = ndimage.gaussian_filter(rough, 0.8) - ndimage.gaussian_filter(rough, 1.8)
        return plain + 0.04 * mask * waves / waves[mask].std()

    reference, other = textured(1), textured(2)
    assert of(plain, reference, ssim) > of(other, reference, ssim) + 2
    assert of(plain, reference, psnr) > of(other, reference, psnr) + 2
    assert of(other, reference) > of(plain, reference) + 0.15


def test_only_the_brain_counts(head):
    reference, mask = head
    outside = reference + 0.5 * (~mask) * np.abs(white(~mask))
    masks = {"brain": mask}
    clean, dirty = (measure("default", x, reference, masks=masks) for x in (reference, outside))
    column = "texture_similarity_percent"
    assert clean.mean(column) == dirty.mean(column) == pytest.approx(100)
    assert column in PROTOCOLS["default"].columns


def test_slices_have_a_figure_each_and_small_ones_none(head):
    reference, _ = head
    slices = np.moveaxis(reference, 2, 0)
    found = texture(Images.of(ndimage.gaussian_filter(slices, (0, 1, 1)), slices, 1.0))
    assert found.shape == (20,)
    assert ((found > 50) & (found < 99)).all()
    with pytest.raises(InputError, match="12×80 voxels: texture similarity needs sides of at least 16"):
        texture(Images.of(slices[:, :12], slices[:, :12], 1.0))
