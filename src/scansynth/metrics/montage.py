"""Pictures of a synthesis beside its sources and the truth.

Volumes are (X, Y, Z) in RAS+. Planes are shown as radiologists read them: the patient's right on the left of axial
and coronal pictures, anterior on the left of sagittal ones; anterior up (axial) and superior up. Intensities are
windowed for display only: synthesis and target share one window, taken from the target (without one, from the
synthesis); every source has its own, since contrasts have no common scale.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.text import Text

from scansynth.data.planes import BANNER
from scansynth.errors import InputError
from scansynth.files import written
from scansynth.metrics.cases import foreground

_DPI = 150
_COLUMN = 2.3  # inches
_GAP = 0.06
_MARGIN = 3  # voxels left around the foreground
_PERCENTILE = 99.5  # of the foreground: top of a window
_TEXT, _FAINT, _ALARM = "#e8e8e8", "#a8a8a8", "#ffb000"


@dataclass(frozen=True)
class _Panel:
    """One picture of a grid: rows from top to bottom, columns from left to right."""

    pixels: np.ndarray
    size: tuple[float, float]
    """Height and width, mm."""
    window: tuple[float, float]
    sides: tuple[str, str]
    """Anatomical directions at its left and its right edge."""
    colours: str = "gray"


_MAPS = ("|error|", "uncertainty")
"""Columns that are no images."""
_PLANES = {"axial": 2, "coronal": 1, "sagittal": 0}
"""Plane → the axis that it cuts."""


def montage(
    path: Path,
    sources: Mapping[str, np.ndarray],
    synthesis: np.ndarray,
    *,
    target: np.ndarray | None,
    spacing: Sequence[float],
    title: str,
    subject: str,
    uncertainty: np.ndarray | None = None,
) -> None:
    """Write a PNG: rows axial, coronal, sagittal; columns sources, synthesis, and what is known of target and error.

    With a target come |error| and, if given, uncertainty, on one colour scale: up to the 99.5th percentile of the error
    in the foreground. The planes pass through the median of the foreground of the target (without one, of the first
    source); pictures are cropped to the foreground of all inputs.

    Args:
        path: the PNG file; replaced as a whole.
        sources: contrast name → prepared volume, (X, Y, Z) RAS+, at least one.
        synthesis: (X, Y, Z).
        target: the true volume, (X, Y, Z), or None.
        spacing: of the voxels along X, Y, Z, mm.
        title: method or run, and what it made.
        subject: the subject's name.
        uncertainty: standard deviation of the samples, (X, Y, Z), shown beside the error.

    Raises:
        InputError: if there is no source, shapes differ, a voxel is not finite, or the spacing is not three
            positive lengths.
    """
    named = _named(sources, synthesis, target)
    if len(spacing) != 3 or min(spacing) <= 0:
        raise InputError(f"spacing {tuple(spacing)}: expected three positive lengths in mm")
    if bad := [name for name, volume in named.items() if not np.isfinite(volume).all()]:
        raise InputError(f"{', '.join(bad)}: NaN or infinite voxels cannot be shown")
    reference = next(iter(sources.values())) if target is None else target
    tissue = foreground(reference)
    if not tissue.any():
        raise InputError(f"{subject}: the {'first source' if target is None else 'target'} is empty, nothing to show")
    centre = [int(np.median(indices)) for indices in np.nonzero(tissue)]
    box = foreground_box(
        np.logical_or.reduce([foreground(volume) for name, volume in named.items() if name != "synthesis"])
    )
    windows = _windows(named)
    if target is not None:
        named["|error|"] = np.abs(synthesis.astype(np.float32) - target)
        windows["|error|"] = (0.0, display_top(named["|error|"][tissue]))
        if uncertainty is not None:
            # On the scale of the error: a spread that is far smaller than the error must look so.
            named["uncertainty"], windows["uncertainty"] = uncertainty, windows["|error|"]
    rows = {
        plane: [
            _panel(
                volume,
                axis,
                centre[axis],
                box=box,
                spacing=spacing,
                window=windows[name],
                colours="inferno" if name in _MAPS else "gray",
            )
            for name, volume in named.items()
        ]
        for plane, axis in _PLANES.items()
    }
    heading = f"{subject}  ·  {title}"
    write_png(path, _render(rows, list(named), heading, colour_bar=target is not None), heading)


def slice_grid(rows: Mapping[str, Sequence[np.ndarray]]) -> np.ndarray:
    """A compact grid of axial slices, one row a name.

    Args:
        rows: name → slices, each (X, Y) in RAS+ with equal sides in mm, the same number in each row. A row named
            `synthesis` is windowed as the row `target`; others by themselves.

    Returns:
        RGB picture, (height, width, 3) uint8, with the banner.
    """
    windows = _windows({name: np.stack(list(slices), axis=2) for name, slices in rows.items()})
    panels = {
        name: [
            _panel(image[:, :, None], 2, 0, box=None, spacing=(1.0, 1.0, 1.0), window=windows[name]) for image in slices
        ]
        for name, slices in rows.items()
    }
    return _render(panels, None, None, colour_bar=False, column=1.1)


def validation_picture(
    path: Path | None, sources: Mapping[str, np.ndarray], synthesis: np.ndarray, target: np.ndarray, *, count: int = 6
) -> np.ndarray:
    """A quick look during training: axial slices of sources, synthesis and target, one row each.

    Args:
        path: PNG file to write, or None.
        sources: contrast name → prepared volume, (X, Y, Z) RAS+, at least one.
        synthesis: (X, Y, Z); voxels that are not finite are shown black.
        target: the true volume, (X, Y, Z).
        count: how many slices, spread evenly over the target's foreground.

    Returns:
        RGB picture, (height, width, 3) uint8.

    Raises:
        InputError: if there is no source or shapes differ.
    """
    named = _named(sources, synthesis, target)
    box = foreground_box(
        np.logical_or.reduce([foreground(volume) for name, volume in named.items() if name != "synthesis"])
    )
    start, stop = box[2].start, box[2].stop
    # The middle of each of `count` equal stretches: the first and last slices of a head show little.
    indices = [start + int((2 * i + 1) * (stop - start) / (2 * count)) for i in range(count)]
    pixels = slice_grid(
        {name: [volume[box[0], box[1], z] for z in dict.fromkeys(indices)] for name, volume in named.items()}
    )
    if path is not None:
        write_png(path, pixels, "validation")
    return pixels


def _named(
    sources: Mapping[str, np.ndarray], synthesis: np.ndarray, target: np.ndarray | None
) -> dict[str, np.ndarray]:
    """All volumes in the order of their columns."""
    if not sources:
        raise InputError("a picture needs at least one source")
    if taken := {"synthesis", "target", *_MAPS} & set(sources):
        raise InputError(f"a source cannot be named {', '.join(sorted(taken))} in a picture: that column has its place")
    named = {**sources, "synthesis": synthesis}
    if target is not None:
        named["target"] = target
    if synthesis.ndim != 3 or any(volume.shape != synthesis.shape for volume in named.values()):
        shapes = ", ".join(f"{name} {volume.shape}" for name, volume in named.items())
        raise InputError(f"{shapes}: expected volumes (X, Y, Z) on one grid")
    return named


def foreground_box(tissue: np.ndarray) -> tuple[slice, slice, slice]:
    """The foreground's box with a margin. Planes with under 1 % of the fullest plane's voxels count as noise."""
    slices = []
    for axis, size in enumerate(tissue.shape):
        counts = tissue.sum(axis=tuple(other for other in range(3) if other != axis))
        planes = np.flatnonzero(counts > 0.01 * counts.max()) if counts.any() else np.array([0, size - 1])
        slices.append(slice(max(int(planes[0]) - _MARGIN, 0), min(int(planes[-1]) + 1 + _MARGIN, size)))
    return slices[0], slices[1], slices[2]


def _windows(named: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """Black is 0, the background of prepared images; white is the 99.5th percentile of the foreground."""
    windows = {name: (0.0, display_top(volume[foreground(volume)])) for name, volume in named.items()}
    return windows | ({"synthesis": windows["target"]} if "target" in windows else {})


def display_top(values: np.ndarray) -> float:
    """The intensity that is shown white, of the foreground's (n,): its 99.5th percentile."""
    top = float(np.percentile(values, _PERCENTILE)) if values.size else 0.0
    return top if top > 0 else 1.0


def _panel(
    volume: np.ndarray,
    axis: int,
    index: int,
    *,
    box: tuple[slice, slice, slice] | None,
    spacing: Sequence[float],
    window: tuple[float, float],
    colours: str = "gray",
) -> _Panel:
    """Cut a plane of an RAS+ volume and turn it as radiologists see it."""
    across, up = (other for other in range(3) if other != axis)
    cut: list[int | slice] = [slice(None)] * 3 if box is None else list(box)
    cut[axis] = index
    # Rows: `up` from its high end (anterior or superior) down. Columns: `across` from its high end, which is the
    # patient's right (X) or front (Y).
    pixels = volume[tuple(cut)].T[::-1, ::-1]
    size = (pixels.shape[0] * spacing[up], pixels.shape[1] * spacing[across])
    return _Panel(pixels, size, window, ("A", "P") if across == 1 else ("R", "L"), colours)


def _render(
    rows: Mapping[str, Sequence[_Panel]],
    columns: Sequence[str] | None,
    heading: str | None,
    *,
    colour_bar: bool,
    column: float = _COLUMN,
) -> np.ndarray:
    """Lay panels out to scale on black, name rows and columns, and set the banner below; RGB uint8.

    Positions are inches from the top left; all panels have one scale, so that a row is as high as its tallest.
    """
    scale = column / max(panel.size[1] for row in rows.values() for panel in row)
    heights = [scale * max(panel.size[0] for panel in row) for row in rows.values()]
    n_columns = max(len(row) for row in rows.values())
    left, top = 0.32, (0.4 if heading else 0.06) + (0.28 if columns else 0.0)
    right = 0.62 if colour_bar else 0.06
    width = left + n_columns * (column + _GAP) + right
    height = top + sum(heights) + _GAP * len(heights) + 0.34
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="black")
    canvas = FigureCanvasAgg(figure)

    def place(x: float, y: float, w: float, h: float) -> tuple[float, float, float, float]:
        return x / width, 1 - (y + h) / height, w / width, h / height

    def write(
        x: float, y: float, text: str, *, room: float, size: float = 11, colour: str = _TEXT, rotation: float = 0
    ) -> None:
        artist = figure.text(
            x / width, 1 - y / height, text, ha="center", va="center", size=size, color=colour, rotation=rotation,
            parse_math=False,
        )  # fmt: skip
        _fit(artist, canvas, room * _DPI, upright=rotation != 0)

    y = top
    image = None
    for (name, panels), row_height in zip(rows.items(), heights, strict=True):
        write(left / 2, y + row_height / 2, name, room=row_height, size=10, rotation=90)
        for i, panel in enumerate(panels):
            h, w = (scale * length for length in panel.size)
            x = left + i * (column + _GAP) + (column - w) / 2
            axes = figure.add_axes(place(x, y + (row_height - h) / 2, w, h))
            axes.set_axis_off()
            image = axes.imshow(
                panel.pixels, cmap=panel.colours, vmin=panel.window[0], vmax=panel.window[1], aspect="auto"
            )
            if columns and i == 0:
                for side, at in zip(panel.sides, (0.02, 0.98), strict=True):
                    axes.text(
                        at, 0.98, side, transform=axes.transAxes, ha="left" if at < 0.5 else "right", va="top",
                        size=8, color=_FAINT,
                    )  # fmt: skip
        y += row_height + _GAP
    for i, name in enumerate(columns or ()):
        write(left + i * (column + _GAP) + column / 2, top - 0.14, name, room=column, size=10)
    if heading:
        write(width / 2, 0.22, heading, room=width - 0.2)
    write(width / 2, height - 0.17, BANNER, room=width - 0.2, colour=_ALARM)
    if colour_bar and image is not None:
        axes = figure.add_axes(place(width - right + 0.04, top, 0.1, y - _GAP - top))
        figure.colorbar(image, cax=axes).ax.tick_params(colors=_FAINT, labelsize=7, length=2, pad=2)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[:, :, :3].copy()


def _fit(text: Text, canvas: FigureCanvasAgg, room: float, *, upright: bool) -> None:
    """Shrink a text that is longer than its room (pixels), down to 6 points; cut off what is still too long."""
    full = text.get_text()

    def length() -> float:
        extent = text.get_window_extent(canvas.get_renderer())
        return extent.height if upright else extent.width

    if length() > room:
        text.set_fontsize(max(6.0, float(text.get_fontsize()) * room / length()))
    while length() > room and len(full) > 1:
        full = full[:-1]
        text.set_text(full + "…")


def write_png(path: Path, pixels: np.ndarray, title: str) -> None:
    """Write a picture, (height, width, 3) uint8, under another name in its folder, then put it in place."""
    with written(path) as temporary:
        imsave(temporary, pixels, format="png", dpi=_DPI, metadata={"Title": title, "Description": BANNER})
