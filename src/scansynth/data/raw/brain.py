"""What of a head is brain: by the user's own program, or roughly, without weights.

The rough mask is for those who have nothing better: the phantom's head (`data/phantom.py`), in the scan's contrast, is
laid over the scan by mutual information, and its brain's outline is then moved to where the scan's brain ends. It takes
in what touches the brain (orbits, sinuses, neck muscles) here and there, and cuts off a gyrus elsewhere: the pictures
are to be looked at. SynthStrip and HD-BET are better; both are commands that can be named.
"""

import math
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from scipy import ndimage

from scansynth.data.phantom import make_phantom
from scansynth.data.raw.itk_images import RAS_TO_LPS, itk
from scansynth.data.raw.registration import head_points, level, matrix_of, metric, moved, run
from scansynth.data.raw.settings import ROUGH
from scansynth.data.readers import read_labels
from scansynth.data.volume import Volume, same_grid
from scansynth.errors import InputError

BEST = ("T1w", "T1ce", "FLAIR", "T2w", "PDw")
"""Contrasts that a mask is taken from, the best first."""
DARK_SKULL = ("T1w", "T1ce", "FLAIR")
"""Contrasts in which fluid and bone around the brain are darker than it, so that its edge can be seen."""
LEVELS = (8.0, 4.0)
NODS = (0.0, -0.3, 0.3, -0.6, 0.6)
CROWN = 110.0
"""Of a head below its top, mm: what the middle is taken of, for some scans show the neck and some do not."""
SCALES = (0.75, 1.35)
"""Between which heads differ in size from the phantom's."""
MILLILITRES = (700.0, 2100.0)
SEED, SHAPE, SPACING = 3, (88, 112, 84), 2.0
"""Of the phantom, which ends below the skull's base."""


def brain_mask(volume: Volume, contrast: str, how: str) -> np.ndarray:
    """The brain of a head.

    Args:
        volume: the scan.
        contrast: standard name.
        how: `rough`, or a command with `{input}` and `{output}` (NIfTI files).

    Returns:
        (X, Y, Z) bool.

    Raises:
        InputError: if the command fails or writes no mask on the scan's grid, or nothing like a brain is found.
    """
    mask = rough_mask(volume, contrast) if how == ROUGH else _by_command(volume, how)
    millilitres = float(mask.sum() * np.prod(volume.spacing) / 1000)
    if not MILLILITRES[0] <= millilitres <= MILLILITRES[1]:
        raise InputError(
            f"{volume.name}: the brain that was found in it has {millilitres:.0f} ml, which no adult's has: name your "
            "own program (--brain 'COMMAND {input} {output}'), or keep the heads (--brain keep)"
        )
    return mask


def rough_mask(volume: Volume, contrast: str) -> np.ndarray:
    """The brain of a head, roughly, (X, Y, Z) bool.

    Raises:
        InputError: if the contrast is none that the phantom has, or its head cannot be laid over the scan.
    """
    if contrast not in BEST:
        raise InputError(f"{volume.name}: the rough mask is of {', '.join(BEST)}, not of {contrast}: name a command")
    atlas, brain = _atlas(contrast)
    matrix = np.linalg.inv(_laid_over(atlas, volume, contrast))
    inside = moved(replace(atlas, array=brain, _found={}), matrix, volume, 0.0, order=1) > 0.5
    depth, spacing = _depth(inside, volume.spacing), volume.spacing
    sure = depth > 12
    if contrast not in DARK_SKULL or not sure.any():
        return inside
    middle, brightest = np.median(volume.array[sure]), np.percentile(volume.array[sure], 99.5)
    background = volume.background(contrast)
    tissue = volume.array > background + 0.5 * (middle - background)
    tissue &= volume.array < background + 1.15 * (brightest - background)
    tissue &= _depth(~inside, spacing) <= 6
    core = _largest(_depth(tissue, spacing) > 2)  # what hangs on by thin bridges falls off
    closed = _depth(_depth(~core, spacing) <= 11, spacing) > 8  # over sulci, whose fluid is dark
    filled = ndimage.binary_fill_holes(closed)
    assert filled is not None
    return filled


@cache
def _atlas(contrast: str) -> tuple[Volume, np.ndarray]:
    """The phantom's head without noise, and the share of each voxel that is brain or its fluid."""
    head = make_phantom(SEED, SHAPE, SPACING, skull=True)
    bare = make_phantom(SEED, SHAPE, SPACING)
    return Volume.of(head.contrast(contrast, noise=0.0, bias=0.0), head.affine), 1 - bare.fractions[0]


def _laid_over(atlas: Volume, volume: Volume, contrast: str) -> np.ndarray:
    """(4, 4): mm of the phantom's world → mm of the scan's.

    Raises:
        InputError: if no start ends at a head of a likely size.
    """
    pyramids = [[level(one, mm) for mm in LEVELS] for one in (atlas, volume)]
    here, there = (_crown(head_points(one, contrast)) for one in (atlas, volume))
    turn, centre = RAS_TO_LPS[:3, :3], here - np.array([0, 0, CROWN / 2])
    found: list[tuple[float, Any]] = []
    for nod in NODS:
        start, rigid = itk().Similarity3DTransform(), itk().Euler3DTransform()
        rigid.SetRotation(nod, 0.0, 0.0)
        start.SetCenter((turn @ centre).tolist())
        start.SetMatrix(rigid.GetMatrix())
        start.SetTranslation((turn @ (there - here)).tolist())
        found.append((_climb(pyramids[0][0], pyramids[1][0], start, LEVELS[0]), start))
    ends = []
    for _, similar in sorted(found, key=lambda one: one[0])[:2]:
        affine = itk().AffineTransform(3)
        for end in (similar, affine):
            if end is affine:
                affine.SetCenter(similar.GetCenter())
                affine.SetMatrix(similar.GetMatrix())
                affine.SetTranslation(similar.GetTranslation())
            value = math.inf
            for first, second, mm in zip(*pyramids, LEVELS, strict=True):
                value = _climb(first, second, end, mm)
            matrix = matrix_of(end)
            scales = np.linalg.svd(matrix[:3, :3])[1]
            if math.isfinite(value) and SCALES[0] <= scales.min() and scales.max() <= SCALES[1]:
                ends.append((value, matrix))
    if not ends:
        raise InputError(f"{volume.name}: no head was found in it that a brain could be cut out of: name a --brain "
                         "command, or keep the heads")  # fmt: skip
    return min(ends, key=lambda one: one[0])[1]


def _crown(points: np.ndarray) -> np.ndarray:
    """The top of a head and the middle of what lies below it, of points (n, 3), mm."""
    top = np.percentile(points[:, 2], 99.5)
    low, high = np.percentile(points[points[:, 2] > top - CROWN], (1, 99), axis=0)
    return np.array([*((low + high) / 2)[:2], top])


def _climb(fixed: Any, moving: Any, transform: Any, mm: float) -> float:
    """Climb in place; minus the mutual information at the end, infinite where the two do not meet."""
    method = metric(transform)
    method.SetOptimizerAsRegularStepGradientDescent(mm / 4, mm / 400, 150, 0.6, 1e-8)
    method.SetOptimizerScalesFromPhysicalShift()
    return run(method, fixed, moving)


def _depth(mask: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """How deep voxels lie in a mask, mm; 0 outside it."""
    found: Any = ndimage.distance_transform_edt(mask, sampling=spacing)
    return found


def _largest(mask: np.ndarray) -> np.ndarray:
    pieces: Any = ndimage.label(mask)[0]  # pyright: ignore[reportGeneralTypeIssues, reportIndexIssue]
    sizes = np.bincount(pieces.ravel())
    sizes[0] = 0
    return pieces == sizes.argmax() if sizes.any() else mask


def _by_command(volume: Volume, command: str) -> np.ndarray:
    """The mask that a user's program makes."""
    with TemporaryDirectory() as folder:
        scan, mask = Path(folder, "scan.nii.gz"), Path(folder, "mask.nii.gz")
        volume.write_array(scan, volume.array, "")
        places = {"{input}": str(scan), "{output}": str(mask)}
        words = []
        for word in shlex.split(command):
            for name, place in places.items():
                word = word.replace(name, place)
            words.append(word)
        try:
            done = subprocess.run(words, capture_output=True, text=True, errors="replace")
        except OSError as error:
            raise InputError(f"--brain: {words[0]} cannot be started ({error.strerror}): is it installed?") from error
        if done.returncode or not mask.is_file():
            last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["nothing"]
            raise InputError(f"--brain: {words[0]} made no mask of {volume.name} (exit {done.returncode}); it said: "
                             f"{last[0]}")  # fmt: skip
        labels, affine = read_labels(mask)
    if not same_grid((labels.shape, affine), volume.space):
        raise InputError(f"--brain: {words[0]} made a mask of {volume.name} on another grid: let it keep the scan's")
    return labels > 0
