"""FSIM and GMSD against figures of another implementation, and as functions of many slices."""

import numpy as np
import pytest
import torch

from scansynth.metrics.feature_similarity import (
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
    assert fsim(y, x, 1.0).item() == pytest.approx(FIGURES[name][0], abs=1e-4)
    assert gmsd(y, x, 1.0).item() == pytest.approx(FIGURES[name][1], abs=1e-4)


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
