"""A small picture of each translation: sources, synthesis and how unsure it is, in three planes."""

from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from scansynth.data.planes import BANNER, grey, middle_of, planes, rows_of
from scansynth.data.subject import stem_of
from scansynth.files import written
from scansynth.synthesis.image import Synthesis

FOLDER = "figures"


def picture_path(image: Path) -> Path:
    """Where the picture of an image of a folder of translations stands."""
    folder = image.parent.parent if image.parent.name == "anat" else image.parent
    return folder / FOLDER / f"{stem_of(image.name)}.png"


def picture_of(synthesis: Synthesis) -> Image.Image:
    """A row a source, then the synthesis, then its deviation and the half width of its widest interval."""
    first = next(iter(synthesis.given))
    like = synthesis.given[first]
    middle, spacing = middle_of(like.array > like.threshold(first)), like.spacing
    unit = synthesis.provenance["unit"]
    rows = [(name, planes(grey(volume.array), middle, spacing)) for name, volume in synthesis.given.items()]
    rows.append((f"SYNTHETIC {synthesis.provenance['target']}", planes(grey(synthesis.array), middle, spacing)))
    unsure = {} if synthesis.deviation is None else {"standard deviation of the samples": synthesis.deviation}
    if synthesis.intervals:
        level = max(synthesis.intervals)
        unsure[f"half the width of the {100 * level:g} % interval"] = synthesis.intervals[level]
    for name, array in unsure.items():
        top = float(array.max())
        rows.append((f"{name}; white is {top:.3g} {unit}", planes(grey(array, 0, top), middle, spacing)))
    return rows_of(rows, BANNER)


def write_picture(synthesis: Synthesis, path: Path) -> None:
    """Write it as a PNG file, whole or not at all."""
    said = PngInfo()
    said.add_itxt("Description", BANNER)
    with written(path) as temporary:
        picture_of(synthesis).save(temporary, "PNG", pnginfo=said)
