"""Pictures: orientation, aspect and layout, read back from the pixels."""

import matplotlib.image
import numpy as np
import pytest

from scansynth.errors import InputError
from scansynth.metrics.montage import BANNER, montage, slice_grid, validation_picture

SHAPE = (30, 34, 26)
BLOB = (slice(21, 23), slice(24, 26), slice(18, 20))
"""To the right, to the front and above of the centre."""


def ball(level: float = 0.4) -> np.ndarray:
    """A dim ellipsoid in the middle of the volume."""
    x, y, z = (np.linspace(-1.2, 1.2, size)[axis] for size, axis in zip(SHAPE, np.ix_(*map(range, SHAPE)), strict=True))
    return np.where(x**2 + y**2 + z**2 < 1, level, 0.0).astype(np.float32)


def with_cross_hairs_blob() -> np.ndarray:
    """The ellipsoid with a bright bar along each axis through the blob, so that each middle plane cuts one."""
    volume = ball()
    x, y, z = BLOB
    volume[x, y, 4:22] = volume[x, 5:29, z] = volume[4:26, y, z] = 1.0
    return volume


def read(path) -> np.ndarray:
    return matplotlib.image.imread(path)[:, :, :3]


def panels(picture: np.ndarray) -> list[tuple[int, int]]:
    """First and last row of each row of panels, read from the ellipsoid's grey in the first column."""
    width = picture.shape[1]
    lit = (picture[:, width // 8 : width // 2] > 0.2).mean(axis=(1, 2)) > 0.1
    edges = np.flatnonzero(np.diff(np.concatenate([[0], lit.astype(int), [0]])))
    return [(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if stop - start > 40]


def test_blob_lies_where_a_radiologist_expects_it(tmp_path):
    path = tmp_path / "montage.png"
    volume = with_cross_hairs_blob()
    montage(path, {"T1w": volume}, ball(), target=None, spacing=(1.0, 1.0, 1.0), title="run", subject="test-1")
    picture = read(path)
    rows = panels(picture)
    assert len(rows) == 3
    half = picture.shape[1] // 2
    # Right and anterior are on the left of the picture, anterior and superior above: up and to the left, thrice.
    for start, stop in rows:
        grey = picture[start:stop, 60:half].mean(axis=2)
        body = np.argwhere(grey > 0.2)
        blob = np.argwhere(grey > 0.95)
        assert len(blob) > 20
        (row, column), (middle_row, middle_column) = blob.mean(axis=0), (body.min(axis=0) + body.max(axis=0)) / 2
        extent = np.ptp(body, axis=0)
        assert row < middle_row - 0.1 * extent[0]
        assert column < middle_column - 0.1 * extent[1]


def test_pictures_keep_the_proportions_in_mm(tmp_path):
    heights = {}
    for name, spacing in {"cube": (1.0, 1.0, 1.0), "thick": (1.0, 1.0, 2.0)}.items():
        path = tmp_path / f"{name}.png"
        montage(path, {"T1w": ball()}, ball(), target=None, spacing=spacing, title="run", subject="test-1")
        heights[name] = [stop - start for start, stop in panels(read(path))]
    assert heights["thick"][0] == pytest.approx(heights["cube"][0], rel=0.02)
    assert heights["thick"][1] == pytest.approx(2 * heights["cube"][1], rel=0.05)
    assert heights["thick"][2] == pytest.approx(2 * heights["cube"][2], rel=0.05)


def test_montage_is_dark_named_and_shows_the_error_in_colour(tmp_path):
    path = tmp_path / "montage.png"
    target = with_cross_hairs_blob()
    montage(
        path,
        {"T1w": ball(), "FLAIR": ball()},
        ball(),
        target=target,
        spacing=(1.0, 1.0, 1.0),
        title="run $a_b",
        subject="test-1",
    )
    picture = read(path)
    assert [other.name for other in tmp_path.iterdir()] == ["montage.png"]
    border = np.concatenate([picture[:4].reshape(-1, 3), picture[-4:].reshape(-1, 3), picture[:, :4].reshape(-1, 3)])
    assert border.max() == 0
    coloured = np.ptp(picture, axis=2) > 0.1
    top, bottom = int(0.15 * picture.shape[0]), int(0.9 * picture.shape[0])
    columns = np.flatnonzero(coloured[top:bottom].any(axis=0))
    assert columns.min() > 0.7 * picture.shape[1]  # only the error and its bar, at the right
    assert coloured[bottom:].sum() > 500  # the banner
    assert BANNER.encode() in path.read_bytes()


def test_window_of_the_synthesis_is_the_targets(tmp_path):
    """A synthesis of half the intensity must look half as bright, not be stretched to the same."""
    pixels = slice_grid({"T1w": [ball()[:, :, 13]], "synthesis": [ball(0.2)[:, :, 13]], "target": [ball()[:, :, 13]]})
    rows = [pixels[start:stop].max(axis=2) for start, stop in _grid_rows(pixels)]
    brightness = [np.median(row[row > 60]) for row in rows]
    assert brightness == [255, pytest.approx(127, abs=3), 255]


def _grid_rows(pixels: np.ndarray) -> list[tuple[int, int]]:
    lit = (pixels[:, 60:].max(axis=2) > 60).mean(axis=1) > 0.3
    edges = np.flatnonzero(np.diff(np.concatenate([[0], lit.astype(int), [0]])))
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > 20]


def test_validation_picture_is_written_as_returned(tmp_path):
    path = tmp_path / "step-10.png"
    broken = np.full(SHAPE, np.nan, dtype=np.float32)  # a diverged training must not stop at its picture
    pixels = validation_picture(path, {"T1w": ball()}, broken, ball(), count=3)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    np.testing.assert_array_equal((read(path) * 255).round().astype(np.uint8), pixels)
    assert (pixels == 255).any()
    assert validation_picture(None, {"T1w": ball()}, ball(), ball(), count=6).shape[1] > pixels.shape[1]


def test_wrong_arguments_are_told_in_words(tmp_path):
    path, volume, spacing = tmp_path / "montage.png", ball(), (1.0, 1.0, 1.0)
    with pytest.raises(InputError, match="at least one source"):
        montage(path, {}, volume, target=volume, spacing=spacing, title="run", subject="test-1")
    with pytest.raises(InputError, match="cannot be named target"):
        montage(path, {"target": volume}, volume, target=volume, spacing=spacing, title="run", subject="test-1")
    with pytest.raises(InputError, match="on one grid"):
        montage(path, {"T1w": volume[1:]}, volume, target=volume, spacing=spacing, title="run", subject="test-1")
    with pytest.raises(InputError, match="positive lengths"):
        montage(path, {"T1w": volume}, volume, target=volume, spacing=(1.0, 0.0, 1.0), title="run", subject="test-1")
    with pytest.raises(InputError, match="synthesis: NaN"):
        montage(
            path,
            {"T1w": volume},
            np.full_like(volume, np.nan),
            target=volume,
            spacing=spacing,
            title="run",
            subject="test-1",
        )
    with pytest.raises(InputError, match="target is empty"):
        montage(
            path, {"T1w": volume}, volume, target=np.zeros_like(volume), spacing=spacing, title="run", subject="test-1"
        )
    assert not list(tmp_path.iterdir())


def test_uncertainty_is_a_column_on_the_scale_of_the_error(tmp_path):
    target = ball()
    # An error of 0.2 everywhere: a deviation of 0.2 must be as bright as it, a deviation of 0.02 nearly black.
    pictures = []
    for deviation in (None, 0.2, 0.02):
        path = tmp_path / "montage.png"
        spread = None if deviation is None else np.full(SHAPE, deviation, np.float32)
        montage(
            path,
            {"T1w": target},
            target + 0.2,
            target=target,
            spacing=(1.0, 1.0, 1.0),
            title="run",
            subject="test-1",
            uncertainty=spread,
        )
        pictures.append(read(path))
    plain, wide, narrow = pictures
    assert wide.shape[1] > plain.shape[1] * 1.15
    assert wide.shape == narrow.shape
    differs = np.flatnonzero((wide != narrow).any(axis=(0, 2)))
    assert differs.min() > 0.7 * wide.shape[1]  # the last column only
    middle = (slice(wide.shape[0] // 6, wide.shape[0] // 5), slice(differs.min() + 40, differs.max() - 40))
    assert wide[middle].mean() > narrow[middle].mean() + 0.3
