"""Pictures that show whether scans lie on each other: checkerboards in three planes, with the brain's outline."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from scansynth.data.planes import grey, middle_of, planes, rows_of
from scansynth.data.raw.together import Together

FIELD = 20.0
"""Of a checkerboard, mm."""


def picture(together: Together, title: str) -> Image.Image:
    """A row a scan: axial, coronal and sagittal plane through the middle of the head.

    Fields of the reference and of the scan alternate, so that an edge which breaks off is a scan that lies askew; of
    the reference itself there is the first row.
    """
    reference = together.volumes[together.reference]
    middle = middle_of(reference.array > reference.threshold(together.reference))
    own = grey(reference.array)
    rows = []
    for contrast, volume in together.volumes.items():
        itself = contrast == together.reference
        mixed = own if itself else _mixed(own, grey(volume.array), reference.spacing)
        name = contrast if itself else f"{together.reference} and {contrast}"
        rows.append((f"{title} {name}", planes(mixed, middle, reference.spacing, outline=together.brain)))
    return rows_of(rows)


def _mixed(one: np.ndarray, other: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    fields = [(np.arange(side) * mm // FIELD).astype(int) for side, mm in zip(one.shape, spacing, strict=True)]
    x, y, z = np.ix_(*fields)
    return np.where((x + y + z) % 2 == 0, one, other)
