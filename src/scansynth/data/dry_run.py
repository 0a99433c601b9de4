"""What preparing a cohort would do, from the headers of its scans alone."""

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.loadsave import load
from nibabel.nifti1 import Nifti1Image
from nibabel.orientations import inv_ornt_aff, io_orientation, ornt2axcodes
from nibabel.spatialimages import HeaderDataError

from scansynth.data.layouts import Listing, chosen_contrasts, describe
from scansynth.data.prepare import Preparation, prepared_axis
from scansynth.data.splits import FRACTIONS, foresee, without_training
from scansynth.data.volume import Space, same_grid
from scansynth.errors import InputError

_UNREADABLE = (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError)
"""What nibabel raises for files that are not whole NIfTI images."""


NAMED = 5
"""Subjects that a warning names at most."""


@dataclass(frozen=True)
class Report:
    """What preparing would do, without doing it."""

    text: str
    """All of it: subjects, contrasts, grids, splits, warnings and problems."""
    splits: str
    """The numbers by split; empty where there can be none."""
    warnings: tuple[str, ...]
    """What may be meant so, and what follows from it."""
    unreadable: tuple[str, ...]
    """Scans whose headers cannot be read; `skip_bad` leaves them out."""
    problems: tuple[str, ...]
    """Those, and all else that preparing would stop at."""


def dry_run(
    listing: Listing,
    settings: Preparation,
    contrasts: Sequence[str] | None = None,
    fractions: tuple[float, float, float] = FRACTIONS,
    seed: int = 0,
) -> Report:
    """Look at the headers only: subjects, contrasts, grids, splits, problems, and the shapes that would come out.

    What needs the voxels (a truncated file, NaN) is seen by `build_cohort` alone. Nothing is written.

    Raises:
        InputError: for contrasts that nobody has.
    """
    contrasts = chosen_contrasts(listing, contrasts)
    grids: dict[str, Counter[str]] = {}
    unreadable: list[str] = []
    unregistered: list[str] = []
    for subject in listing.subjects:
        seen: list[Space] = []
        for contrast in contrasts:
            if contrast not in subject.scans:
                continue
            try:
                shape, affine, native = _read_header(subject.scans[contrast])
            except InputError as error:
                unreadable.append(str(error))
                continue
            seen.append((shape, affine))
            grids.setdefault(_grid(shape, affine, native, settings), Counter())[contrast] += 1
        if not all(same_grid(seen[0], other) for other in seen[1:]):
            unregistered.append(subject.name)
    splits, warnings, problems = _splits(listing, contrasts, fractions, seed)
    if unregistered:
        names = ", ".join(unregistered[:NAMED]) + (" …" if len(unregistered) > NAMED else "")
        warnings.insert(
            0,
            f"contrasts of {len(unregistered)} subjects lie on different grids ({names}): for unpaired training only; "
            "for any other register and resample each one's scans onto one of them",
        )
    problems = [*unreadable, *problems]
    lines = [
        describe(listing),
        "",
        "grids (right, anterior, superior axes):",
        *(f"  {grid}: {', '.join(f'{n[name]} {name}' for name in contrasts if n[name])}" for grid, n in grids.items()),
        *([splits] if splits else []),
        *(f"warning: {warning}" for warning in warnings),
        *(f"problem: {problem}" for problem in problems),
    ]
    return Report("\n".join(lines), splits, tuple(warnings), tuple(unreadable), tuple(problems))


def _grid(shape: tuple[int, ...], affine: np.ndarray, native: str, settings: Preparation) -> str:
    """A scan's grid, and what becomes of it."""
    sizes = [float(size) for size in np.linalg.norm(affine[:3, :3], axis=0)]
    axes = [prepared_axis(*axis, 0.0) for axis in zip(shape, sizes, settings.spacing, settings.size, strict=True)]
    prepared = [size * step for size, (_, step, _) in zip(sizes, axes, strict=True)]
    return (
        f"{_times(shape)} at {_times(sizes)} mm, stored {native}, "
        f"becomes {_times([voxels for _, _, voxels in axes])} at {_times(prepared)} mm"
    )


def _splits(
    listing: Listing, contrasts: Sequence[str], fractions: tuple[float, float, float], seed: int
) -> tuple[str, list[str], list[str]]:
    """The numbers by split, warnings, and problems, of the subjects that have one of the contrasts."""
    subjects = [subject for subject in listing.subjects if any(name in subject.scans for name in contrasts)]
    try:
        found = foresee({subject.name: subject.split for subject in subjects}, fractions, seed)
    except InputError as error:
        return "", [], [str(error)]
    untrained = without_training({subject.name: subject.scans for subject in subjects}, found.splits, contrasts)
    return found.line, list(found.warnings), untrained


def _times(numbers: Sequence[float]) -> str:
    return "×".join(f"{number:g}" for number in np.round(numbers, 3))


def _read_header(path: Path) -> tuple[tuple[int, ...], np.ndarray, str]:
    """RAS+ shape, RAS+ affine and native orientation of a scan, from its header."""
    try:
        image = _load(path)
        shape, affine = image.shape, np.asarray(image.affine)
    except _UNREADABLE as error:
        raise InputError(f"{path}: no readable NIfTI header ({error}): replace it or leave it out") from error
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or min(shape) < 1 or not abs(np.linalg.det(affine[:3, :3])) > 0:
        raise InputError(f"{path}: {_times(shape)} is not one volume in space: give a 3D image with a valid affine")
    native = io_orientation(affine)
    ras_shape = tuple(int(shape[axis]) for axis in np.argsort(native[:, 0]))
    names = "".join(str(code) for code in ornt2axcodes(native))
    return ras_shape, affine @ inv_ornt_aff(native, shape), names


def _load(path: Path) -> Nifti1Image:
    image = load(path)
    if not isinstance(image, Nifti1Image):
        raise ValueError("not NIfTI")
    return image
