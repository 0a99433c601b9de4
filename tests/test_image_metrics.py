"""Metrics against scikit-image, and the syndiff protocol's rules."""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from scansynth.errors import InputError
from scansynth.metrics import image_metrics as metrics
from scansynth.metrics.image_metrics import Images
from scansynth.metrics.protocols import PROTOCOLS, measure


def psnr(x, y, data_range):
    return metrics.psnr(Images.of(x, y, data_range)).numpy()


def ssim(x, y, data_range):
    return metrics.ssim(Images.of(x, y, data_range)).numpy() / 100


def gradient_energy_ratio(x, y):
    return metrics.gradient_energy(Images.of(np.moveaxis(x, 2, 0), np.moveaxis(y, 2, 0), 1.0)).item()


def smooth_slices(seed: int, n: int = 3, height: int = 32, width: int = 27) -> np.ndarray:
    """Slices with an empty background, a flat region and texture, (n, height, width)."""
    rng = np.random.default_rng(seed)
    slices = np.zeros((n, height, width))
    slices[:, 6:28, 4:24] = 0.6
    slices[:, 8:20, 8:20] += 0.3 * rng.random((n, 12, 12))
    return slices


def head(seed: int = 0) -> np.ndarray:
    """A volume (24, 20, 6) whose slices have 0, 5, 10, 50, 100 and 9.8 % of foreground."""
    rng = np.random.default_rng(seed)
    volume = np.zeros((24 * 20, 6))
    for z, voxels in enumerate((0, 24, 48, 240, 480, 47)):
        volume[:voxels, z] = 0.5 + 0.5 * rng.random(voxels)
    return volume.reshape(24, 20, 6)


@pytest.mark.parametrize("data_range", [1.0, 2.0])
@pytest.mark.parametrize("noise", [0.005, 0.1])
def test_psnr_and_ssim_equal_scikit_image(data_range, noise):
    reference = smooth_slices(0)
    synthesis = reference + noise * np.random.default_rng(1).standard_normal(reference.shape)
    expected_psnr = [
        peak_signal_noise_ratio(b, a, data_range=data_range) for a, b in zip(synthesis, reference, strict=True)
    ]
    expected_ssim = [
        structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, win_size=11, data_range=data_range
        )
        for a, b in zip(synthesis, reference, strict=True)
    ]
    np.testing.assert_allclose(psnr(synthesis, reference, data_range), expected_psnr, atol=1e-4)
    np.testing.assert_allclose(ssim(synthesis, reference, data_range), expected_ssim, atol=2e-5)
    tensors = torch.from_numpy(synthesis), torch.from_numpy(reference)
    np.testing.assert_array_equal(psnr(*tensors, data_range), psnr(synthesis, reference, data_range))
    np.testing.assert_array_equal(ssim(*tensors, data_range), ssim(synthesis, reference, data_range))


def test_ssim_near_the_border_equals_scikit_image():
    """A fault in the outer pixels is what tells one treatment of the border from another."""
    reference = smooth_slices(0)
    synthesis = reference.copy()
    synthesis[:, :3] = 1.0
    expected = [
        structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, win_size=11, data_range=1.0
        )
        for a, b in zip(synthesis, reference, strict=True)
    ]
    np.testing.assert_allclose(ssim(synthesis, reference, 1.0), expected, atol=2e-5)


def test_psnr_of_a_constant_error_is_known():
    reference = np.zeros((2, 8, 8))
    np.testing.assert_allclose(psnr(reference + 0.1, reference, 1.0), 20.0)
    np.testing.assert_allclose(psnr(reference + 0.1, reference, 2.0), 20.0 + 20 * np.log10(2))


def test_identical_slices_give_infinite_psnr_and_ssim_one():
    slices = smooth_slices(0)
    assert np.isposinf(psnr(slices, slices, 1.0)).all()
    np.testing.assert_allclose(ssim(slices, slices, 1.0), 1.0)


def test_gradient_energy_ratio_by_hand():
    reference = np.zeros((3, 3, 2))
    reference[1, 1, 0] = 1.0  # four in-plane steps of 1; the two slices differ, which must not count
    assert gradient_energy_ratio(reference, reference) == 1.0
    assert gradient_energy_ratio(3 * reference, reference) == pytest.approx(9.0)
    edge = np.zeros((3, 3, 2))
    edge[0] = 1.0  # one step of 1 in each of three columns and two slices
    assert gradient_energy_ratio(edge, reference) == pytest.approx(6 / 4)


def test_wrong_arguments_are_told_in_words():
    slices = smooth_slices(0)
    for metric in (psnr, ssim):
        with pytest.raises(InputError, match="different grids"):
            metric(slices[:2], slices, 1.0)
        with pytest.raises(InputError, match="expected \\(N, H, W\\)"):
            metric(slices[0], slices[0], 1.0)
        for data_range in (None, 0.0, -1.0, float("nan")):
            with pytest.raises(InputError, match="data range"):
                metric(slices, slices, data_range)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="SSIM needs sides of at least 11"):
        ssim(slices[:, :10], slices[:, :10], 1.0)
    with pytest.raises(InputError, match="flat"):
        gradient_energy_ratio(slices, np.ones_like(slices))


def test_syndiff_leaves_out_slices_under_ten_per_cent_foreground():
    reference = head()
    measured = measure("syndiff", reference * 0.9, reference)
    assert measured.slices.tolist() == [2, 3, 4]
    assert measured.figures["psnr_db"].shape == measured.figures["ssim_percent"].shape == (3,)
    assert (measured.protocol, measured.protocol_version) == ("syndiff", PROTOCOLS["syndiff"].version)
    # Air that is not quite zero is no foreground, whatever the scale of the intensities.
    faint = reference + 0.02
    assert measure("syndiff", faint, faint).slices.tolist() == [2, 3, 4]
    assert measure("syndiff", faint, 100 * faint).slices.tolist() == [2, 3, 4]


def test_syndiff_equals_its_words():
    reference = head()
    synthesis = np.clip(reference + 0.1 * np.random.default_rng(3).standard_normal(reference.shape), 0, None)
    measured = measure("syndiff", synthesis, reference)
    for i, z in enumerate((2, 3, 4)):
        a = synthesis[:, :, z] / synthesis[:, :, z].mean()
        b = reference[:, :, z] / reference[:, :, z].mean()
        a, b = a / b.max(), b / b.max()
        assert measured.figures["psnr_db"][i] == pytest.approx(10 * np.log10(1 / np.mean((a - b) ** 2)))
        expected = structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, win_size=11, data_range=1.0
        )
        assert measured.figures["ssim_percent"][i] == pytest.approx(100 * expected, abs=5e-3)
    assert measured.mean("psnr_db") == pytest.approx(measured.figures["psnr_db"].sum() / 3)
    assert measured.mean("ssim_percent") == pytest.approx(measured.figures["ssim_percent"].sum() / 3)


def test_syndiff_does_not_depend_on_the_scale_of_either_image():
    reference = head()
    synthesis = np.roll(reference, 1, axis=1)
    expected = measure("syndiff", synthesis, reference)
    for other in (measure("syndiff", 3 * synthesis, reference), measure("syndiff", synthesis, 3 * reference)):
        np.testing.assert_array_equal(other.slices, expected.slices)
        np.testing.assert_allclose(other.figures["psnr_db"], expected.figures["psnr_db"])
        np.testing.assert_allclose(other.figures["ssim_percent"], expected.figures["ssim_percent"], atol=1e-3)
        assert other.mean("gradient_energy_ratio") == pytest.approx(expected.mean("gradient_energy_ratio"))


def test_syndiff_measures_an_empty_synthesis_as_empty():
    reference = head()
    synthesis = reference.copy()
    synthesis[:, :, 3] = 0
    measured = measure("syndiff", synthesis, reference)
    assert np.isposinf(measured.figures["psnr_db"][[0, 2]]).all()
    truth = reference[:, :, 3] / reference[:, :, 3].max()
    assert measured.figures["psnr_db"][1] == pytest.approx(-10 * np.log10(np.mean(truth**2)))
    assert np.isfinite(measured.figures["ssim_percent"]).all()


def test_measure_refuses_what_it_cannot_measure():
    reference = head()
    with pytest.raises(InputError, match="unknown: choose from default, syndiff"):
        measure("sindiff", reference, reference)
    with pytest.raises(InputError, match="one grid"):
        measure("syndiff", reference[1:], reference)
    with pytest.raises(InputError, match="no slice of the reference"):
        measure("syndiff", reference, np.zeros_like(reference))
    with pytest.raises(InputError, match="negative"):
        measure("syndiff", reference, reference - 0.5)
    broken = reference.copy()
    broken[0, 0, :2] = np.nan
    with pytest.raises(InputError, match="synthesis has 2 voxels"):
        measure("syndiff", broken, reference)
