"""Pictures that show whether scans lie on each other: checkerboards in three planes, with the brain's outline."""

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from scansynth.data.raw.together import Together

FIELD = 20.0
"""Of a checkerboard, mm."""
SCALE = 1.5
"""Pixels a mm."""
OUTLINE = (255, 90, 0)


def picture(together: Together, title: str) -> Image.Image:
    """A row a scan: axial, coronal and sagittal plane through the middle of the head, nose and left side to the left.

    Fields of the reference and of the scan alternate, so that an edge which breaks off is a scan that lies askew; of
    the reference itself there is the first row.
    """
    reference = together.volumes[together.reference]
    head = reference.array > reference.threshold(together.reference)
    middle = [int(np.median(places)) for places in np.nonzero(head)] if head.any() else [s // 2 for s in head.shape]
    own = _grey(reference.array)
    rows = []
    for contrast, volume in together.volumes.items():
        mixed = own if contrast == together.reference else _mixed(own, _grey(volume.array), reference.spacing)
        planes = [_plane(mixed, together.brain, axis, middle[axis], reference.spacing) for axis in (2, 1, 0)]
        rows.append((contrast, planes))
    wide = sum(plane.width for plane in rows[0][1])
    page = Image.new("RGB", (wide, sum(max(one.height for one in planes) + 16 for _, planes in rows)), "black")
    draw, top = ImageDraw.Draw(page), 0
    for contrast, planes in rows:
        name = contrast if contrast == together.reference else f"{together.reference} and {contrast}"
        draw.text((4, top + 2), f"{title} {name}", fill="white", font_size=11)
        left, top = 0, top + 16
        for plane in planes:
            page.paste(plane, (left, top))
            left += plane.width
        top += max(plane.height for plane in planes)
    return page


def _grey(array: np.ndarray) -> np.ndarray:
    low, high = float(array.min()), float(np.percentile(array, 99.5))
    return np.clip((array - low) / max(high - low, 1e-9), 0, 1)


def _mixed(one: np.ndarray, other: np.ndarray, spacing: tuple[float, float, float]) -> np.ndarray:
    fields = [(np.arange(side) * mm // FIELD).astype(int) for side, mm in zip(one.shape, spacing, strict=True)]
    x, y, z = np.ix_(*fields)
    return np.where((x + y + z) % 2 == 0, one, other)


def _plane(
    grey: np.ndarray, brain: np.ndarray | None, axis: int, place: int, spacing: tuple[float, float, float]
) -> Image.Image:
    """One plane, anterior or superior up, the subject's left to the left; the brain's outline in orange."""
    colours = np.repeat((255 * grey.take(place, axis)).astype(np.uint8)[..., None], 3, axis=-1)
    if brain is not None:
        mask = brain.take(place, axis)
        colours[mask & np.logical_not(ndimage.binary_erosion(mask))] = OUTLINE
    across, up = (mm for number, mm in enumerate(spacing) if number != axis)
    image = Image.fromarray(np.flipud(colours.transpose(1, 0, 2)))
    size = max(1, round(image.width * across * SCALE)), max(1, round(image.height * up * SCALE))
    return image.resize(size, Image.Resampling.NEAREST if brain is not None else Image.Resampling.BILINEAR)
