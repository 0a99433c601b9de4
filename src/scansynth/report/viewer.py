"""The viewer of a page: its scripts, its volumes, and the page of one translated image that shows nothing else."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup

from scansynth.data.subject import sidecar_of, stem_of
from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.evaluation.shown import Shown
from scansynth.metrics.montage import BANNER
from scansynth.report.page import HERE, render
from scansynth.report.volumes import LARGEST, LEVELS, UNCERTAINTY_LEVELS, pack
from scansynth.synthesis.image import content_of
from scansynth.synthesis.writers.nifti import part_path

NIIVUE = HERE / "vendor" / "niivue"
SCRIPTS = ("volumes.js", "compare.js", "panels.js", "readout.js", "viewer.js")
"""The page's own scripts, in the order in which they build on each other."""
COLOURS = {"error": "inferno", "uncertainty": "viridis"}
"""matplotlib's maps: both rise evenly in lightness, so that they can be read without seeing colours."""


PREPARED = "those of prepared images"


@dataclass(frozen=True)
class Viewer:
    """What a page with `viewer.html.j2` in it needs."""

    scripts: Sequence[str]
    """Of the page, in their order."""
    values: Mapping[str, Any]
    """For the template."""

    @classmethod
    def of(cls, shown: Sequence[Shown], largest: int = LARGEST, *, scale: str = PREPARED) -> "Viewer":
        """The viewer of volumes.

        Args:
            shown: subjects and targets.
            largest: characters that embedded volumes may take; subjects beyond them are left out, and named.
            scale: what intensities are, in words.
        """
        packed = pack(shown, largest)
        data = {"banner": BANNER, "colours": _colours(), "cases": packed.cases, "scale": scale}
        values = {
            "licences": [(NIIVUE / name).read_text("utf-8") for name in ("VERSION", "LICENSE", "LICENSES-of-parts")],
            "volumes": packed.volumes,
            "left_out": packed.left_out,
            "levels": (LEVELS, UNCERTAINTY_LEVELS),
            "scale": scale,
            "data": Markup(script_json(data)),
        }
        own = [(HERE / name).read_text("utf-8") for name in SCRIPTS]
        return cls([(NIIVUE / "niivue.umd.js").read_text("utf-8"), *own], values)


def view_page(image: Path, sources: Mapping[str, Path], truth: Path | None = None) -> str:
    """A page that shows a synthetic image with its sources, how unsure it is, and the truth where somebody has it.

    Args:
        image: a file that scansynth wrote, with its sidecar beside it; the deviation of its samples is found there.
        sources: by contrast; on the grid of the image.
        truth: the acquired image of the target, on that grid.

    Raises:
        InputError: if the image is not marked as synthetic, or another one does not share its grid.
    """
    told = content_of(sidecar_of(image))
    if told.get("synthetic") is not True:
        raise InputError(f"{image}: not marked as synthetic: no image of this program, or its sidecar is missing")
    made = Volume.read(image)
    deviation = part_path(image, "std")

    def like(path: Path) -> np.ndarray:
        volume = Volume.read(path)
        if volume.array.shape != made.array.shape or not np.allclose(volume.affine, made.affine, atol=0.1):
            raise InputError(f"{path}: lies on another grid ({volume.grid}) than {image} ({made.grid})")
        return np.maximum(volume.array, 0)

    label = f"{told.get('method', 'synthesis')} by {told.get('run', 'a run')}"
    shown = Shown(
        subject=stem_of(image.name),
        target=str(told.get("target", "")),
        affine=made.affine,
        truth=like(truth) if truth else None,
        sources={name: like(path) for name, path in sources.items()},
        syntheses={label: np.maximum(made.array, 0)},
        deviations={label: like(deviation)} if deviation.is_file() else {},
    )
    unit = told.get("unit")
    viewer = Viewer.of([shown], scale=f"those of the files{f' (of the synthesis: {unit})' if unit else ''}")
    return render("view.html.j2", viewer.scripts, title=f"{shown.subject}: synthetic {shown.target}", **viewer.values)


def script_json(value: Any) -> str:
    """JSON that can stand in a script element: no text in it can end the element or open a comment."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def _colours() -> dict[str, list[list[int]]]:
    """RGB from 0 to 255 at even places of each map, the first one black: where there is nothing, nothing is seen."""
    places = np.linspace(0, 1, 33)[1:]
    return {
        meaning: [[0, 0, 0], *(255 * matplotlib.colormaps[name](places)[:, :3]).round().astype(int).tolist()]
        for meaning, name in COLOURS.items()
    }
