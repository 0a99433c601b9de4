"""FSIM and GMSD against figures of another implementation, and as functions of many slices."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from scansynth.metrics.feature_similarity import (
    frequencies,
    fsim,
    gmsd,
    gradient_magnitude,
    lower_median,
    phase_congruency,
)

FIGURES = {  # piq 0.8.0, float64
    "noise": (0.7221256880018848, 0.16175354404901904),
    "blur": (0.9194023549435729, 0.05936332305623345),
    "contrast": (0.9909853534275932, 0.04662808008254468),
    "shift-odd": (0.8614560505625378, 0.13220407559493247),
    "large": (0.4778117153976241, 0.17890916492807263),
}
SHAPES = {"shift-odd": (97, 131), "large": (520, 416)}


def pair(name):
    """Rings and squares on a disc, and a degraded copy; float64 in [0, 1], (1, H, W) each."""
    shape = SHAPES.get(name, (160, 144))
    i, j = np.indices(shape)
    r = np.hypot((i - shape[0] / 2) / 1.2, j - shape[1] / 2)
    squares = 0.15 * ((i // 12 + j // 12) % 2) * (r < 40)
    x = np.clip(0.15 + 0.35 * (r < 55) + 0.2 * np.sin(r / 4) * (r < 50) + squares, 0, 1)
    noise = np.random.default_rng(0).standard_normal(shape)
    if name in ("noise", "large"):
        y = x + 0.06 * noise
    elif name == "blur":
        y = x
        for axis in (0, 1):
            padded = np.pad(y, [(2, 2) if side == axis else (0, 0) for side in (0, 1)], mode="edge")
            parts = [np.take(padded, range(k, k + shape[axis]), axis) for k in range(5)]
            y = sum(weight * part for weight, part in zip(np.array([1, 4, 6, 4, 1]) / 16, parts, strict=True))
    elif name == "contrast":
        y = x**1.4
    else:
        y = np.roll(x, 1, axis=1) + 0.02 * noise
    return torch.as_tensor(x)[None], torch.as_tensor(np.clip(y, 0, 1))[None]


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_those_of_another_implementation(name):
    x, y = pair(name)
    assert fsim(y, x, 1.0).item() == pytest.approx(FIGURES[name][0], abs=5e-6)
    assert gmsd(y, x, 1.0).item() == pytest.approx(FIGURES[name][1], abs=1e-4)


def reference_fsim(first, second):
    """FSIM of images in [0, 255] as its authors' MATLAB code has it, in NumPy, step by step: (H, W) float64 both."""
    rows, columns = first.shape
    # "if mod(cols,2) xrange = [-(cols-1)/2:(cols-1)/2]/(cols-1); else xrange = [-cols/2:(cols/2-1)]/cols;"
    ranges = [
        np.arange(-(side - 1) / 2, side / 2) / (side - 1) if side % 2 else np.arange(-side / 2, side / 2) / side
        for side in (columns, rows)
    ]
    x, y = np.meshgrid(*ranges)
    radius, theta = (np.fft.ifftshift(part) for part in (np.sqrt(x**2 + y**2), np.arctan2(-y, x)))
    low_pass = 1 / (1 + (radius / 0.45) ** 30)
    radius[0, 0] = 1
    congruencies, gradients = [], []
    for image in (first, second):
        spectrum, energy_all, amplitude_all = np.fft.fft2(image), np.zeros_like(image), np.zeros_like(image)
        for angle in np.arange(4) * np.pi / 4:
            apart = np.abs(
                np.arctan2(
                    np.sin(theta) * np.cos(angle) - np.cos(theta) * np.sin(angle),
                    np.cos(theta) * np.cos(angle) + np.sin(theta) * np.sin(angle),
                )
            )
            bank = []
            for scale in range(4):
                gabor = np.exp(-(np.log(radius * 6 * 2**scale) ** 2) / (2 * np.log(0.55) ** 2)) * low_pass
                gabor[0, 0] = 0
                bank.append(gabor * np.exp(-(apart**2) / (2 * (np.pi / 4 / 1.2) ** 2)))
            responses = [np.fft.ifft2(spectrum * one) for one in bank]
            total = sum(responses)
            mean = total / (np.abs(total) + 1e-8)
            energy = sum(
                one.real * mean.real + one.imag * mean.imag - np.abs(one.real * mean.imag - one.imag * mean.real)
                for one in responses
            )
            powers = np.sort(np.abs(responses[0]).ravel() ** 2)
            middle = powers[(powers.size - 1) // 2]  # the lower median, as torch and piq have it; MATLAB's: 1e-5 off
            noise = -middle / np.log(0.5) / np.sum(bank[0] ** 2)
            kernels = [np.fft.ifft2(one).real * np.sqrt(rows * columns) for one in bank]
            squares = sum(np.sum(one**2) for one in kernels)
            products = sum(np.sum(kernels[i] * kernels[j]) for i in range(3) for j in range(i + 1, 4))
            tau = np.sqrt((2 * noise * squares + 4 * noise * products) / 2)
            threshold = tau * (np.sqrt(np.pi / 2) + 2 * np.sqrt(2 - np.pi / 2)) / 1.7
            energy_all += np.maximum(energy - threshold, 0)
            amplitude_all += sum(np.abs(one) for one in responses)
        congruencies.append(energy_all / (amplitude_all + 1e-8))
        kernel = np.array([[3, 0, -3], [10, 0, -10], [3, 0, -3]]) / 16
        gradients.append(np.hypot(*(ndimage.convolve(image, one, mode="constant") for one in (kernel, kernel.T))))
    (pc1, pc2), (g1, g2) = congruencies, gradients
    alike = (2 * pc1 * pc2 + 0.85) / (pc1**2 + pc2**2 + 0.85) * (2 * g1 * g2 + 160) / (g1**2 + g2**2 + 160)
    most = np.maximum(pc1, pc2)
    return np.sum(alike * most) / np.sum(most)


@pytest.mark.parametrize("size", [(61, 75), (61, 76), (60, 75), (60, 76)])
def test_odd_and_even_sides_have_the_reference_codes_grid(size):
    rows, columns = size
    x, y = (image[:, 60 : 60 + rows, 30 : 30 + columns] for image in pair("noise"))
    expected = reference_fsim(*(255 * image[0].numpy() for image in (y, x)))
    assert fsim(y, x, 1.0).item() == pytest.approx(expected, abs=1e-8)


def test_an_odd_sides_frequencies_end_at_one_half_as_an_even_sides_do():
    np.testing.assert_allclose(np.fft.fftshift(frequencies(5).numpy()), [-0.5, -0.25, 0, 0.25, 0.5])
    np.testing.assert_allclose(np.fft.fftshift(frequencies(4).numpy()), [-0.5, -0.25, 0, 0.25])
    assert frequencies(1).tolist() == [0]


@pytest.mark.parametrize("metric", [fsim, gmsd])
def test_a_stack_of_slices_is_slice_by_slice(metric):
    pairs = [pair(name) for name in ("noise", "blur", "contrast")]
    x, y = (torch.cat(images) for images in zip(*pairs, strict=True))
    torch.testing.assert_close(metric(y, x, 1.0), torch.cat([metric(b, a, 1.0) for a, b in pairs]))


@pytest.mark.parametrize("metric", [fsim, gmsd])
def test_the_range_of_intensities_is_taken_out(metric):
    x, y = pair("noise")
    torch.testing.assert_close(metric(4095 * y, 4095 * x, 4095.0), metric(y, x, 1.0))
    assert metric(y, x, 1.0) != metric(y, x, 2.0)


def test_equal_slices_are_alike_in_full():
    x, _ = pair("noise")
    assert fsim(x, x, 1.0).item() == 1
    assert gmsd(x, x, 1.0).item() == 0


def test_phase_congruency_is_high_on_a_line_of_any_contrast_and_zero_on_flat_ground():
    image = torch.zeros(2, 64, 64, dtype=torch.float64)
    image[:, :, 32] = torch.tensor([255.0, 25.5])[:, None]
    found = phase_congruency(image)
    assert (found[:, 20:44, 32] > 0.5).all()
    torch.testing.assert_close(found[0], found[1], atol=1e-3, rtol=0)
    assert phase_congruency(torch.full((1, 64, 64), 100.0, dtype=torch.float64)).abs().max() < 1e-3


def test_the_gradient_of_a_ramp_is_its_slope_over_both_sides():
    ramp = torch.arange(8.0).expand(1, 8, 8)
    for kernel in (((3.0, 0.0, -3.0), (10.0, 0.0, -10.0), (3.0, 0.0, -3.0)), ((1.0, 0.0, -1.0),) * 3):
        torch.testing.assert_close(gradient_magnitude(ramp, kernel)[0, 1:-1, 1:-1], torch.full((6, 6), 2.0))


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (240, 241), (300, 302)])
@pytest.mark.parametrize("kind", ["random", "rising", "one step", "flat", "two values"])
def test_the_median_is_exact(size, kind):
    values = torch.rand(size, generator=torch.Generator().manual_seed(0))
    if kind == "rising":
        values = values.flatten().sort().values.reshape(size)
    elif kind == "one step":
        # Between two values of the sample lies most of what there is.
        values = torch.where(torch.arange(values.numel()) % (values.numel() // 3600 or 1) == 0, values.flatten(), 2.0)
        values = values.reshape(size)
    elif kind == "flat":
        values = torch.zeros(size)
    elif kind == "two values":
        values = values.round()
    assert lower_median(values) == values.flatten().median()
