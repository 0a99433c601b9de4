"""Planes of volumes as small pictures: three a volume, a row a volume.

As radiologists read them: the subject's right to the left of axial and coronal planes, the nose to the left of sagittal
ones, anterior or superior up. No library for figures is loaded, so that a picture costs milliseconds.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

BANNER = "SYNTHETIC – for research, not for diagnosis"
ALARM = (255, 176, 0)
"""Colour of what must be seen."""
SCALE = 1.5
"""Pixels a mm."""
OUTLINE = (255, 90, 0)
_LINE, _SIZE = 16, 11
"""Of text, pixels."""


def grey(array: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Intensities as shares of white, (X, Y, Z) in [0, 1]: from the lowest to the 99.5th percentile."""
    low = float(array.min()) if low is None else low
    high = float(np.percentile(array, 99.5)) if high is None else high
    return np.clip((array - low) / max(high - low, 1e-9), 0, 1)


def middle_of(head: np.ndarray) -> list[int]:
    """Voxel through which the planes go: the middle of a head, (X, Y, Z) bool, or of the grid where there is none."""
    return [int(np.median(places)) for places in np.nonzero(head)] if head.any() else [side // 2 for side in head.shape]


def planes(
    shares: np.ndarray, middle: Sequence[int], spacing: Sequence[float], *, outline: np.ndarray | None = None
) -> list[Image.Image]:
    """Axial, coronal and sagittal plane through a voxel.

    Args:
        shares: of white, (X, Y, Z) RAS+ in [0, 1].
        middle: the voxel.
        spacing: mm.
        outline: (X, Y, Z) bool, whose edge is drawn.
    """
    return [_plane(shares, outline, axis, middle[axis], spacing) for axis in (2, 1, 0)]


def rows_of(rows: Sequence[tuple[str, Sequence[Image.Image]]], banner: str | None = None) -> Image.Image:
    """One picture of several rows, each under its name, with a line that warns below."""
    wide = max(sum(one.width for one in row) for _, row in rows)
    height = sum(max(one.height for one in row) + _LINE for _, row in rows) + (_LINE if banner else 0)
    page = Image.new("RGB", (wide, height), "black")
    draw, top = ImageDraw.Draw(page), 0
    for name, row in rows:
        draw.text((4, top + 2), _plain(name), fill=ALARM if name.startswith("SYNTHETIC") else "white", font_size=_SIZE)
        left, top = 0, top + _LINE
        for one in row:
            page.paste(one, (left, top))
            left += one.width
        top += max(one.height for one in row)
    if banner:
        draw.text((4, top + 2), _plain(banner), fill=ALARM, font_size=_SIZE)
    return page


def _plain(text: str) -> str:
    """Text that the built-in font can write."""
    return text.replace("–", "-").replace("²", "2").encode("latin-1", "replace").decode("latin-1")


def _plane(
    shares: np.ndarray, outline: np.ndarray | None, axis: int, place: int, spacing: Sequence[float]
) -> Image.Image:
    colours = np.repeat((255 * shares.take(place, axis)).astype(np.uint8)[..., None], 3, axis=-1)
    if outline is not None:
        mask = outline.take(place, axis)
        colours[mask & np.logical_not(ndimage.binary_erosion(mask))] = OUTLINE
    across, up = (mm for number, mm in enumerate(spacing) if number != axis)
    image = Image.fromarray(np.ascontiguousarray(colours.transpose(1, 0, 2)[::-1, ::-1]))
    size = max(1, round(image.width * across * SCALE)), max(1, round(image.height * up * SCALE))
    return image.resize(size, Image.Resampling.NEAREST if outline is not None else Image.Resampling.BILINEAR)
