"""Accelerated MRI: what keeping the centre of k-space must do, for even and odd sizes."""

import math

import numpy as np
import pytest
import torch

from scansynth.errors import InputError
from scansynth.physics.kspace import keep_centre, undersample

SIZES = [(16, 16), (16, 13), (15, 24), (9, 7), (1, 6)]
FOLDS = [1, 2, 3, 4]


def images(height, width, batch=(2, 3), dtype=torch.float64):
    generator = torch.Generator().manual_seed(height * 100 + width)
    return torch.rand(*batch, height, width, generator=generator, dtype=dtype)


def wave(n, frequency, phase):
    """A real cosine of so many cycles over n voxels, (n,)."""
    return torch.cos(2 * math.pi * frequency * torch.arange(n, dtype=torch.float64) / n + phase)


@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_definition(height, width, fold):
    """The complex transform, masked at |k| ≤ N / 2F frequency by frequency, gives the same, and it is real."""
    x = images(height, width).numpy()
    k_space = np.fft.fft2(x)
    for a in range(height):
        for b in range(width):
            k_a, k_b = round(height * np.fft.fftfreq(height)[a]), round(width * np.fft.fftfreq(width)[b])
            if abs(k_a) > height / (2 * fold) or abs(k_b) > width / (2 * fold):
                k_space[..., a, b] = 0
    expected = np.fft.ifft2(k_space)
    assert np.abs(expected.imag).max() < 1e-12
    np.testing.assert_allclose(keep_centre(torch.from_numpy(x), fold).numpy(), expected.real, atol=1e-12)
    np.testing.assert_allclose(undersample(torch.from_numpy(x), fold).numpy(), np.abs(expected.real), atol=1e-12)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_fold_one_keeps_every_image(height, width):
    torch.testing.assert_close(undersample(images(height, width), 1), images(height, width))


@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_linear_self_adjoint_projection_that_adds_no_energy(height, width, fold):
    x, y = images(height, width), images(height, width).flip(0)
    once = keep_centre(x, fold)
    torch.testing.assert_close(keep_centre(once, fold), once)
    torch.testing.assert_close(keep_centre(2 * x - y, fold), 2 * once - keep_centre(y, fold))
    torch.testing.assert_close((once * y).sum(), (x * keep_centre(y, fold)).sum())
    assert (once.square().sum((-2, -1)) <= x.square().sum((-2, -1)) * (1 + 1e-12)).all()
    torch.testing.assert_close(once.mean((-2, -1)), x.mean((-2, -1)))


@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_constant_stays(height, width, fold):
    constant = torch.full((height, width), 0.7, dtype=torch.float64)
    torch.testing.assert_close(undersample(constant, fold), constant)
    assert (undersample(0 * constant, fold) == 0).all()


@pytest.mark.parametrize(("n", "fold"), [(16, 4), (15, 4), (24, 3), (25, 2)])
@pytest.mark.parametrize("axis", [0, 1])
def test_frequencies_of_the_centre_stay_and_others_vanish(n, fold, axis):
    for frequency in range(n // 2 + 1):
        for phase in (0.0, 0.9):
            x = wave(n, frequency, phase)[:, None].expand(n, 10)
            x = x.T if axis else x
            expected = x if frequency <= n / (2 * fold) else torch.zeros_like(x)
            torch.testing.assert_close(keep_centre(x, fold), expected)


def test_a_smooth_magnitude_image_stays_and_small_detail_goes():
    """Four-fold on 32 voxels keeps periods of 8 voxels and more."""
    smooth = (2 + wave(32, 2, 0.3)[:, None] + wave(32, 4, 1.0)) / 4
    torch.testing.assert_close(undersample(smooth, 4), smooth)
    detail = smooth + 0.1 * wave(32, 9, 0.2)[:, None] * wave(32, 1, 0.0)
    torch.testing.assert_close(undersample(detail, 4), smooth)
    torch.testing.assert_close(undersample(undersample(detail, 4), 4), smooth)


def test_what_was_acquired_at_this_acceleration_changes_little():
    """Even with the sharpest edges: only the ringing around them, which the magnitude folds up, is not kept."""
    h, w = torch.meshgrid(torch.arange(192) - 95.5, torch.arange(192) - 95.5, indexing="ij")
    disc = ((h / 70) ** 2 + (w / 55) ** 2 < 1).double()
    once = undersample(disc, 4)
    twice = undersample(once, 4)
    lost, changed = (once - disc).abs().mean(), (twice - once).abs().mean()
    assert 0 < changed < 0.4 * lost


@pytest.mark.parametrize(
    ("n", "fold", "lines"), [(256, 4, 65), (256, 1, 256), (255, 4, 63), (255, 1, 255), (152, 4, 39), (64, 3, 21)]
)
def test_kept_lines_are_the_odd_number_nearest_to_the_share(n, fold, lines):
    """The trace of a projection is its rank: here the number of kept frequencies."""
    point = torch.zeros(n, 1, dtype=torch.float64)
    point[0, 0] = 1
    assert keep_centre(point, fold)[0, 0].item() * n == pytest.approx(lines)
    assert fold == 1 or (lines % 2 == 1 and abs(lines - n / fold) <= 1)


def test_padding_does_not_change_the_resolution():
    """The bound is in cycles per voxel, so zeros around an image blur it no more and no less."""
    middle = torch.exp(-((torch.arange(64, dtype=torch.float64) - 32) ** 2) / 4)
    small = middle[:, None] * middle
    padded = torch.nn.functional.pad(small, (32, 32, 32, 32))
    # The kept share of 64 lines (17) is a little above that of 128 (33).
    torch.testing.assert_close(undersample(padded, 4)[32:96, 32:96], undersample(small, 4), atol=0.03, rtol=0)


def test_shape_dtype_and_leading_dimensions_are_kept():
    for dtype in (torch.float32, torch.float64):
        for batch in ((), (5,), (2, 3), (2, 1, 4)):
            x = images(9, 12, batch, dtype)
            made = undersample(x, 3)
            assert (made.shape, made.dtype) == (x.shape, dtype)
            assert (made >= 0).all()
            torch.testing.assert_close(made.reshape(-1, 9, 12)[-1], undersample(x.reshape(-1, 9, 12)[-1], 3))


@pytest.mark.parametrize("fold", [0, -4])
def test_folds_below_one_are_refused(fold):
    with pytest.raises(InputError, match=f"acceleration {fold}"):
        undersample(images(8, 8), fold)
