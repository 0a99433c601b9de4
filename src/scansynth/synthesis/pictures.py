"""A small picture of each translation: sources, synthesis and how unsure it is, in three planes."""

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scansynth.data.foreground import bounding_box
from scansynth.data.planes import BANNER, grey, middle_of, planes, rows_of
from scansynth.data.subject import stem_of
from scansynth.files import written
from scansynth.synthesis.image import Synthesis

FOLDER = "figures"
MARGIN = 12.0
"""Around the head, mm."""


def picture_path(image: Path) -> Path:
    """Where the picture of an image of a folder of translations stands."""
    folder = image.parent.parent if image.parent.name == "anat" else image.parent
    return folder / FOLDER / f"{stem_of(image.name)}.png"


def picture_of(synthesis: Synthesis) -> Image.Image:
    """A row a source, then the synthesis, then its deviation and the half width of its widest interval."""
    first = next(iter(synthesis.given))
    like = synthesis.given[first]
    head, spacing = like.array > like.threshold(first), like.spacing
    margins = [round(MARGIN / mm) for mm in spacing]
    box = tuple(
        slice(max(0, part.start - margin), part.stop + margin)
        for part, margin in zip(bounding_box(head), margins, strict=True)
    )
    middle, unit = middle_of(head[box]), synthesis.provenance["unit"]

    def row(array: np.ndarray, *scale: float) -> list[Image.Image]:
        return planes(grey(array[box], *scale), middle, spacing)

    rows = [(name, row(volume.array)) for name, volume in synthesis.given.items()]
    rows.append((f"SYNTHETIC {synthesis.provenance['target']}", row(synthesis.array)))
    unsure = {} if synthesis.deviation is None else {"standard deviation of the samples": synthesis.deviation}
    if synthesis.intervals:
        level = max(synthesis.intervals)
        unsure[f"half the width of the {100 * level:g} % interval"] = synthesis.intervals[level]
    for name, array in unsure.items():
        top = float(array.max())
        rows.append((f"{name}; white is {top:.3g} {unit}", row(array, 0, top)))
    return rows_of(rows, BANNER)


def write_picture(synthesis: Synthesis, path: Path) -> None:
    """Write it as a PNG file, whole or not at all."""
    said = PngInfo()
    said.add_itxt("Description", BANNER)
    with written(path) as temporary:
        picture_of(synthesis).save(temporary, "PNG", pnginfo=said)
