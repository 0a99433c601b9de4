"""Small heads of ellipsoids, the same for the same number, and the healthy cohorts that kinds are made from."""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SHAPE = (28, 32, 24)
SPACING = 7.0
PEOPLE = 6
SPLITS = ("train", "train", "train", "train", "val", "test")
"""Of the people, in their order."""
AFFINE = np.diag([SPACING, SPACING, SPACING, 1.0])
AFFINE[:3, 3] = [-(side - 1) / 2 * SPACING for side in SHAPE]

_CONTRASTS: dict[str, tuple[float, ...]] = {
    # air, fluid, grey, white, lesion, bone, scalp
    "T1w": (0, 200, 500, 800, 350, 60, 950),
    "T2w": (0, 1000, 600, 350, 850, 60, 450),
    "FLAIR": (0, 150, 600, 450, 950, 60, 500),
    "T1ce": (0, 200, 500, 790, 1000, 60, 950),
    "CT": (-1000, 8, 38, 28, 50, 1100, -80),
}
_LESION = 4
_BRATS = {"T1w": "t1", "T1ce": "t1ce", "T2w": "t2", "FLAIR": "flair"}


@dataclass(frozen=True, eq=False)
class Head:
    """What a healthy scan shows, on the grid (`SHAPE`, `AFFINE`), RAS+."""

    array: np.ndarray
    """(X, Y, Z) float32, whole numbers that int16 holds."""
    mask: np.ndarray
    """(X, Y, Z) bool: the head."""


@cache
def head(number: int, contrast: str, skull: bool = False) -> Head:
    """A person's scan: stripped to the brain with exact 0 around it, or with scalp, bone and noisy air; CT has both."""
    skull = skull or contrast == "CT"
    tissue = _tissue(number, skull)
    rng = np.random.default_rng([number, list(_CONTRASTS).index(contrast), skull])
    array = np.asarray(_CONTRASTS[contrast], np.float32)[tissue]
    if contrast == "CT":
        array = array + rng.normal(0, 6, SHAPE)
    else:
        real, imaginary = rng.normal(0, 8, (2, *SHAPE))
        array = np.hypot(array * rng.uniform(0.92, 1.08) + real, imaginary)
        if not skull:
            array = array * (tissue > 0)
    array = np.rint(array).astype(np.float32)
    array.flags.writeable = False
    return Head(array, tissue > 0)


def voxels(number: int, contrast: str, *, skull: bool = False) -> np.ndarray:
    """A healthy scan to be spoilt, (X, Y, Z) float32."""
    return head(number, contrast, skull).array.copy()


@cache
def tumour(number: int) -> np.ndarray:
    """The lesion's labels, (X, Y, Z) uint8: 2 around and 1 inside."""
    tissue = _tissue(number, False)
    inside = np.all(np.indices(SHAPE) % 2 == 0, axis=0)
    return np.where(tissue == _LESION, np.where(inside, 1, 2), 0).astype(np.uint8)


@cache
def _tissue(number: int, skull: bool) -> np.ndarray:
    """Index into the contrasts' values, (X, Y, Z); left and right differ, so that a flip is seen."""
    rng = np.random.default_rng(number)
    centre = (np.asarray(SHAPE) - 1) / 2 + rng.uniform(-0.4, 0.4, 3)
    size = rng.uniform(0.96, 1.04, 3)
    places = np.moveaxis(np.indices(SHAPE), 0, -1)

    def distance(offset: Sequence[float], radii: Sequence[float]) -> np.ndarray:
        """1 on an ellipsoid's surface."""
        return np.linalg.norm((places - centre - offset * size) / (radii * size), axis=-1)

    brain = distance((0, 0, 0), (9.2, 11.4, 7.9))
    tissue = np.zeros(SHAPE, np.uint8)
    if skull:
        tissue[brain < 1.25] = 6
        tissue[brain < 1.13] = 5
    for number_of_tissue, edge in ((1, 1.0), (2, 0.88), (3, 0.62)):
        tissue[brain < edge] = number_of_tissue
    tissue[distance((-2.4, 0, 1.2), (1.6, 4.6, 2.1)) < 1] = 1
    tissue[distance((2.3, 0.6, 1.2), (1.2, 3.2, 1.5)) < 1] = 1
    tissue[distance((4.6, 4.0, 1.5), (2.5, 2.8, 2.3)) < 1] = _LESION
    return tissue


def nifti(
    array: np.ndarray, affine: np.ndarray = AFFINE, *, dtype: Any = np.int16, image_class: type = nib.Nifti1Image
) -> bytes:
    """A healthy file's bytes: both forms say the affine, units are mm."""
    image = image_class(np.asarray(array).astype(dtype), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_sform(affine, 1)
    image.header.set_qform(affine, 1)
    return image.to_bytes()


def write(path: Path, data: bytes) -> None:
    """Write an image's bytes, compressed where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data, 1, mtime=0) if path.name.lower().endswith(".gz") else data)


def read(path: Path) -> bytes:
    """An image's bytes, decompressed."""
    data = path.read_bytes()
    return gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data


def edit(path: Path, **fields: Any) -> None:
    """Set fields of a file's header as no library would."""
    data = read(path)
    header = nib.Nifti1Header(data[:348], check=False)
    for name, value in fields.items():
        header[name] = value
    write(path, header.binaryblock + data[348:])


@cache
def _healthy(number: int, contrast: str, skull: bool) -> bytes:
    return gzip.compress(nifti(head(number, contrast, skull).array), 1, mtime=0)


def person(number: int) -> str:
    """A person's name in BIDS."""
    return f"sub-{number:02d}"


def case(number: int) -> str:
    """A person's name in BraTS."""
    return f"BraTS2021_{number:05d}"


def bids_path(folder: Path, number: int, contrast: str = "T1w", name: str = "") -> Path:
    """Where a scan stands in BIDS; `name` stands for all that follows the person's name."""
    place, suffix = ("ct", "ct") if contrast == "CT" else ("anat", contrast)
    return folder / person(number) / place / f"{person(number)}_{name or f'{suffix}.nii.gz'}"


def brats_path(folder: Path, number: int, kind: str = "t1") -> Path:
    """Where a scan or a mask stands in BraTS."""
    return folder / case(number) / f"{case(number)}_{kind}.nii.gz"


def bids(
    folder: Path,
    contrasts: Sequence[str] = ("T1w", "T2w"),
    *,
    skull: bool = False,
    split: bool = True,
    people: int = PEOPLE,
) -> None:
    """A healthy BIDS data set; with `split`, `participants.tsv` states who trains, validates and tests."""
    for number in range(1, people + 1):
        for contrast in contrasts:
            path = bids_path(folder, number, contrast)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_healthy(number, contrast, skull))
    description = {"Name": "Ellipsoids", "BIDSVersion": "1.9.0"}
    (folder / "dataset_description.json").write_text(json.dumps(description), encoding="utf-8")
    if split:
        (folder / "participants.tsv").write_text(participants(), encoding="utf-8")


def participants(names: Mapping[int, str] | None = None, columns: str = "participant_id age sex split") -> str:
    """The text of `participants.tsv`; `names` replaces what some people are called there."""
    rows = [
        [(names or {}).get(number, person(number)), str(30 + number), "FM"[number % 2], SPLITS[number - 1]]
        for number in range(1, PEOPLE + 1)
    ]
    return "".join("\t".join(row) + "\n" for row in (columns.split(), *rows))


def brats(folder: Path, contrasts: Sequence[str] = ("T1w", "T2w"), *, mask: bool = True) -> None:
    """A healthy BraTS data set with its splits in `splits.json`."""
    stated: dict[str, list[str]] = {}
    for number in range(1, PEOPLE + 1):
        for contrast in contrasts:
            path = brats_path(folder, number, _BRATS[contrast])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_healthy(number, contrast, False))
        if mask:
            write(brats_path(folder, number, "seg"), nifti(tumour(number), dtype=np.uint8))
        stated.setdefault(SPLITS[number - 1], []).append(case(number))
    (folder / "splits.json").write_text(json.dumps(stated), encoding="utf-8")
