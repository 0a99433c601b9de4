"""The same pair of images under all conventions."""

import numpy as np
import pytest

from scansynth.errors import InputError
from scansynth.metrics.conventions import markdown, under_conventions
from scansynth.metrics.protocols import measure


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    reference = np.zeros((40, 36, 20))
    reference[8:32, 8:28, 3:17] = 300 + 700 * rng.random((24, 20, 14))
    return np.clip(0.9 * reference + 60 * (reference > 0) * rng.standard_normal(reference.shape), 0, None), reference


def test_conventions_span_decibels_and_contain_the_protocol(pair):
    found = under_conventions(*pair)
    figures = [one.psnr for one in found]
    assert figures == sorted(figures, reverse=True)
    assert max(figures) - min(figures) > 5
    protocol = next(one for one in found if "syndiff" in one.name)
    expected = measure("syndiff", *(volume / pair[1].max() for volume in pair))
    assert protocol.psnr == pytest.approx(expected.mean("psnr_db"))
    assert protocol.ssim == pytest.approx(expected.mean("ssim_percent"), abs=1e-3)


def test_what_each_convention_does_to_the_same_error(pair):
    found = {one.name: one for one in under_conventions(*pair)}
    synthesis, reference = (volume / pair[1].max() for volume in pair)
    whole = found["whole volume, range 1 after division by the reference's maximum"]
    assert whole.psnr == pytest.approx(-10 * np.log10(np.mean((synthesis - reference) ** 2)))
    # A range of 2 for images twice as wide changes nothing; a range of 1 costs 20·log10(2).
    assert found["the same, mapped to [−1, 1], range 2"].psnr == pytest.approx(whole.psnr)
    assert found["the same, mapped to [−1, 1], range 1"].psnr == pytest.approx(whole.psnr - 20 * np.log10(2))
    box = (slice(8, 32), slice(8, 28), slice(3, 17))
    error = np.mean((synthesis - reference)[box] ** 2)
    assert found["cropped to the brain's box, range 1"].psnr == pytest.approx(-10 * np.log10(error))
    assert found["inside the brain, range 1"].psnr == pytest.approx(-10 * np.log10(error))


def test_the_table_says_what_it_spans(pair):
    text = markdown(under_conventions(*pair))
    assert text.count("\n| ") == len(under_conventions(*pair)) + 1
    assert "dB by convention alone" in text


def test_empty_references_and_other_grids_are_refused(pair):
    synthesis, reference = pair
    with pytest.raises(InputError, match="empty"):
        under_conventions(synthesis, np.zeros_like(reference))
    with pytest.raises(InputError, match="one grid"):
        under_conventions(synthesis[1:], reference)
