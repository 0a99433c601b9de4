"""Tissue densities of a prepared cohort, one file a scan (`Cohort.read_tissue` reads them).

They are no part of the preparation's settings and of the cohort's fingerprint: a cohort can be given densities later,
and nothing changes for runs that use none. Each file names what it was made from, and is kept where that still holds.

tissue_<contrast>.b2nd               the scan on the crop on all scans of its subject
tissue_<contrast>_<crop>.b2nd        of a test subject, the scan on another crop (crops.py) where one of the two cuts
                                     something of it off; else the densities are those of the first file, moved
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from scansynth.data.arrays import Sums, read_array, read_note
from scansynth.data.crops import Crop, Extent, inside, moved
from scansynth.data.tissue import LOOKS, OWN_MASK, VERSION, segment
from scansynth.errors import InputError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TissueSettings:
    """How tissue densities are made."""

    expert_tumour: bool = False
    """The mask `seg` in place of the tumour that is segmented. Experts drew it with all contrasts in sight, the
    target's too: figures of a run that was given it are too good."""


def with_tissue(contrasts: Sequence[str]) -> list[str]:
    """Those of a cohort's contrasts that get densities; the others (CT) are left without.

    Raises:
        InputError: if there is none.
    """
    found = [contrast for contrast in contrasts if contrast in LOOKS]
    if not found:
        raise InputError(f"no tissue can be segmented in {', '.join(contrasts)}: it can in {', '.join(LOOKS)}")
    if left := [contrast for contrast in contrasts if contrast not in LOOKS]:
        logger.warning("no tissue is segmented in %s, which do not show it", ", ".join(left))
    return found


def write_tissue(
    folder: Path,
    contrast: str,
    record: Mapping[str, Any],
    settings: TissueSettings,
    index: Path,
    *,
    sums: Sums,
    crops: Sequence[Crop] = (),
) -> None:
    """Segment one prepared scan, unless that is done.

    Args:
        folder: of the subject in the cohort.
        contrast: one of `with_tissue`.
        record: of the prepared scan.
        settings: how to.
        index: the cohort's index, which goes before anything is written.
        sums: of the folder's arrays.
        crops: of a test subject, those that the scan may be read on.

    Raises:
        InputError: if the scan cannot be segmented.
    """
    if OWN_MASK in record["masks"]:
        return
    path = folder / f"tissue_{contrast}.b2nd"
    expert = settings.expert_tumour and "seg" in record["masks"]
    key = f"{VERSION} {'expert' if expert else 'segmented'} {record['key']}"
    if read_note(path, "key") == key and all(
        sums.holds(one.name) for one in (path, *(_at(path, c) for c in _own(path)))
    ):
        return
    extent = Extent.read(record["extent"]) if "extent" in record else None

    def read(name: str, crop: Crop | None) -> np.ndarray:
        box = inside(extent, tuple(record["shape"]), crop) if extent else None
        return read_array(folder / name, None, f"delete {folder} and run `prepare` again", box=box)

    def densities(crop: Crop | None) -> np.ndarray:
        voxel = np.linalg.norm(np.asarray(record["affine"])[:3, :3], axis=0).tolist()
        tumour = read("mask_seg.b2nd", crop) > 0 if expert else None
        try:
            found = segment(read(f"{contrast}.b2nd", crop), contrast, voxel, tumour=tumour)
        except InputError as error:
            raise InputError(f"{record['source']}: {error}") from error
        # Rounded down, so that a voxel's densities never sum to more than 1.
        return np.floor(found * 255 + 1e-3).astype(np.uint8)

    image = read(f"{contrast}.b2nd", None)
    own = [crop for crop in crops if not _shows_the_same(image, read(f"{contrast}.b2nd", crop), crop)]
    whole, apart = densities(None), {crop: densities(crop) for crop in own}
    index.unlink(missing_ok=True)
    for old in (path, *folder.glob(f"tissue_{contrast}_*.b2nd")):
        sums.remove(old.name)
    for crop, found in apart.items():
        sums.write(found, _at(path, crop).name)
    sums.write(whole, path.name, key=key, crops=[list(crop.shift) for crop in own])


def read_densities(
    folder: Path,
    contrast: str,
    z: int | slice | None,
    cure: str,
    *,
    crop: Crop | None = None,
    known: Mapping[str, tuple[int, str]] = MappingProxyType({}),
) -> np.ndarray:
    """What `write_tissue` wrote.

    Args:
        folder: of the subject in the cohort.
        contrast: of the scan.
        z: a slice number gives (4, X, Y), a range (4, X, Y, n), None the whole (4, X, Y, Z).
        cure: what to do where a file cannot be read.
        crop: of a test subject, None for the one on all its scans.
        known: size and hash of the folder's files, by name.

    Returns:
        uint8, densities × 255.

    Raises:
        InputError: if the file is missing or damaged.
    """
    path = folder / f"tissue_{contrast}.b2nd"
    if crop is None or not any(crop.shift):
        return read_array(path, z, cure, known=known.get(path.name))
    if crop in _own(path):
        return read_array(_at(path, crop), z, cure, known=known.get(_at(path, crop).name))
    whole = moved(read_array(path, None, cure, known=known.get(path.name)), crop)
    return whole if z is None else whole[..., z]


def _own(path: Path) -> list[Crop]:
    """The crops with files of their own beside a file of densities."""
    return [Crop((x, y, z)) for x, y, z in read_note(path, "crops") or ()]


def _at(path: Path, crop: Crop | None) -> Path:
    return path if crop is None else path.with_name(f"{path.stem}_{crop}.b2nd")


def _shows_the_same(image: np.ndarray, other: np.ndarray, crop: Crop) -> bool:
    """Whether another crop of a scan is the image, moved: then so are its densities, bit by bit."""
    low = image.min()
    if other.min() != low:
        return False
    x, y, z = crop.shift
    image, other = image - low, other - low
    return np.array_equal(moved(image, crop), other) and np.array_equal(moved(other, Crop((-x, -y, -z))), image)
