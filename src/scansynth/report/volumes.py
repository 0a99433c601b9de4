"""Volumes as the report shows them: cropped to the head, quantised to bytes, packed as NIfTI files into text.

Voxels are packed as what is left of them after a prediction from their neighbours: one sixth less than as they are.

Of each contrast of a subject, the truth and all its syntheses share one scale from 0 to the largest value of any of
them, so that one window fits all and their difference can be taken in the browser. An uncertainty has a scale of its
own. What is written is for display only: figures are measured before, on the volumes as they are.
"""

import base64
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import nibabel as nib
import numpy as np

from scansynth.evaluation.shown import Shown
from scansynth.metrics.cases import foreground
from scansynth.metrics.montage import display_top, foreground_box

LEVELS = 255
"""Steps of an image's scale."""
UNCERTAINTY_LEVELS = 63
"""Steps of an uncertainty's scale: it is shown in colours only, and noise packs badly."""
LARGEST = 48_000_000
"""Characters of packed volumes in one page: browsers open more, but slowly."""


@dataclass
class Packed:
    """Volumes of several subjects and what the page must know of them."""

    volumes: dict[str, str] = field(default_factory=dict)
    """Identifier → gzipped NIfTI file as base64; in place of its voxels stand their `residuals`."""
    cases: list[dict[str, Any]] = field(default_factory=list)
    """One a subject and target: names, grid and images, in JSON's types."""
    left_out: list[str] = field(default_factory=list)
    """Subjects whose volumes did not fit any more."""

    @property
    def size(self) -> int:
        """Characters of all volumes."""
        return sum(map(len, self.volumes.values()))


def pack(shown: Sequence[Shown], largest: int = LARGEST) -> Packed:
    """Crop, quantise and pack volumes, subject by subject, until `largest` is reached; the first always fits.

    Args:
        shown: subjects and targets; all volumes of a target on one grid.
        largest: characters that all volumes may take.
    """
    packed = Packed()
    for subject in dict.fromkeys(one.subject for one in shown):
        part = _pack_subject([one for one in shown if one.subject == subject], len(packed.volumes))
        if packed.volumes and packed.size + part.size > largest:
            packed.left_out.append(subject)
            continue
        packed.volumes |= part.volumes
        packed.cases += part.cases
    return packed


def _pack_subject(shown: Sequence[Shown], first: int) -> Packed:
    """Each target is cropped on its sources, so that several grids may show the same head; equal files are one."""
    tops: dict[str, float] = {}
    for one in shown:
        for name, volume in _acquired(one).items():
            tops[name] = max(tops.get(name, 0.0), float(volume.max()))
        tops[one.target] = max([tops.get(one.target, 0.0), *(float(volume.max()) for volume in one.syntheses.values())])
    tops = {name: top or 1.0 for name, top in tops.items()}
    packed = Packed()
    for grid in dict.fromkeys(one.affine.tobytes() for one in shown):
        _pack_grid([one for one in shown if one.affine.tobytes() == grid], tops, first, packed)
    return packed


def _pack_grid(shown: Sequence[Shown], tops: Mapping[str, float], first: int, packed: Packed) -> None:
    """Pack a subject's targets on one grid, with the scales' ends by contrast; identifiers count from `first`."""
    contrasts = {name: volume for one in shown for name, volume in _acquired(one).items()}
    tissue = np.logical_or.reduce([foreground(volume) for volume in contrasts.values()])
    box = foreground_box(tissue)
    affine = shown[0].affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    stored: dict[str, dict[str, Any]] = {}

    def store(volume: np.ndarray, top: float, levels: int, description: str) -> dict[str, Any]:
        file = nifti(residuals(quantised(volume[box], top, levels)), affine, top / levels, description)
        text = base64.b64encode(gzip.compress(file, 6, mtime=0)).decode("ascii")
        known = (name for name, kept in packed.volumes.items() if kept == text)
        identifier = next(known, f"volume-{first + len(packed.volumes)}")
        packed.volumes[identifier] = text
        return {"volume": identifier, "step": top / levels}

    for name, volume in contrasts.items():
        white = display_top(volume[foreground(volume)])
        stored[name] = {**store(volume, tops[name], LEVELS, f"{name}, for display"), "white": white}
    for one in shown:
        images = [{"kind": "source", "name": name, **stored[name]} for name in one.sources]
        white = stored[one.target]["white"] if one.truth is not None else _common_top(one.syntheses, tissue)
        if one.truth is not None:
            images.append({"kind": "truth", "name": one.target, **stored[one.target]})
        for run, volume in one.syntheses.items():
            made = store(volume, tops[one.target], LEVELS, f"SYNTHETIC {one.target}. Not a scan.")
            images.append({"kind": "synthesis", "name": run, **made, "white": white})
        spread_top = max((float(volume[box].max()) for volume in one.deviations.values()), default=0.0) or 1.0
        spread_white = _common_top(one.deviations, tissue)
        for run, volume in one.deviations.items():
            made = store(volume, spread_top, UNCERTAINTY_LEVELS, f"SYNTHETIC {one.target}: standard deviation")
            images.append({"kind": "uncertainty", "name": run, **made, "white": spread_white})
        errors = {run: np.abs(volume - one.truth) for run, volume in one.syntheses.items() if one.truth is not None}
        packed.cases.append(
            {
                "subject": one.subject,
                "target": one.target,
                "shape": [part.stop - part.start for part in box],
                "spacing": list(one.spacing),
                "top": tops[one.target],
                "error_white": _common_top(errors, tissue),
                "images": images,
            }
        )


def _acquired(shown: Shown) -> dict[str, np.ndarray]:
    """Volumes by contrast that are no synthesis."""
    return {**shown.sources, **({} if shown.truth is None else {shown.target: shown.truth})}


def _common_top(maps: Mapping[str, np.ndarray], tissue: np.ndarray) -> float:
    """The upper end of a colour scale that the maps of all runs share, so that their colours can be compared."""
    return max((display_top(volume[tissue]) for volume in maps.values()), default=1.0)


def quantised(volume: np.ndarray, top: float, levels: int) -> np.ndarray:
    """Bytes (X, Y, Z) from 0 to `levels` for values from 0 to `top`; what lies below or above is clipped."""
    return np.clip(np.rint(volume * (levels / top)), 0, levels).astype(np.uint8)


def residuals(array: np.ndarray) -> np.ndarray:
    """Voxels less their prediction from the three neighbours before them in their axial slice, modulo 256.

    The predictor is the median of a, b and a + b − c (Weinberger, Seroussi and Sapiro, IEEE TIP 9(8), 2000: JPEG-LS);
    a neighbour outside the slice counts as 0. `volumes.js` undoes it.

    Args:
        array: (X, Y, Z) uint8.

    Returns:
        (X, Y, Z) uint8.
    """
    padded = np.pad(array.astype(np.int16), ((1, 0), (1, 0), (0, 0)))
    a, b, c = padded[:-1, 1:], padded[1:, :-1], padded[:-1, :-1]
    predicted = np.clip(a + b - c, np.minimum(a, b), np.maximum(a, b))
    return (array - predicted).astype(np.uint8)


def nifti(array: np.ndarray, affine: np.ndarray, step: float, description: str) -> bytes:
    """A NIfTI-1 file whose values are bytes times `step`.

    Args:
        array: (X, Y, Z) uint8, RAS+.
        affine: (4, 4), mm.
        step: of the scale.
        description: up to 79 letters that stand in the header.
    """
    header = nib.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape(array.shape)
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = step, 0
    header["vox_offset"], header["magic"] = 352, b"n+1"
    header["descrip"] = description.encode("ascii", "replace")[:79]
    return header.binaryblock + bytes(4) + array.tobytes(order="F")
