"""A prepared cohort on disk, read slice by slice (`build_cohort.py` writes it).

cohort.json                        contrasts, settings, statistics, splits, subjects with their labels; written last
preparation.json                   the settings, written first
scans/<subject>/<contrast>.b2nd    float32 (X, Y, Z) after the own half of the normalisation, one block a slice
scans/<subject>/<contrast>.json    the scan's record: grid, own half, foreground by slice, source file
scans/<subject>/mask_<name>.b2nd   uint8
scans/<subject>/tissue_<contrast>.b2nd   uint8 (4, X, Y, Z), densities × 255, one block a slice (build_tissue.py)
scans/<subject>/SHA256SUMS         hashes of the arrays, for `prepare`; `cohort.json` has them too, with sizes

Scans and masks of a test subject may be larger than `shape` says: they hold what every set of its scans, taken as
sources, is cropped to (crops.py), and their records say where (`extent`). What is read is always of that shape.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import numpy as np

from scansynth.data.arrays import Sum, read_array
from scansynth.data.build_tissue import read_densities
from scansynth.data.crops import Crop, Extent, crop_of, inside
from scansynth.data.intensity import ContrastStatistics, Scaling
from scansynth.data.prepare import Preparation
from scansynth.data.raw.settings import Raw
from scansynth.data.splits import SPLITS
from scansynth.data.tissue import OWN_MASK, from_labels
from scansynth.data.usual import Usual
from scansynth.errors import InputError, shown
from scansynth.ranges import Count, Finite, Share
from scansynth.records import build, read_json

logger = logging.getLogger(__name__)

CURE = "delete it and run `prepare` on the cohort again"
"""For a damaged file: `prepare` keeps what has a record."""
FORMAT = 2
"""Goes up when what is written, or how it is computed, changes."""

NAME = re.compile(r"(?!\.{1,2}$)[\w.-]+")
"""Of a subject, a contrast or a mask: no way out of the folder."""
MOST_MB = 2000
"""Size of an index: about 5 kB a scan."""

Row = tuple[Finite, Finite, Finite, Finite]


class ScanEntry(TypedDict):
    """A scan in the index."""

    source: str
    shape: tuple[Count, Count, Count]
    affine: tuple[Row, Row, Row, Row]
    own: Scaling
    background: Finite
    range: tuple[Finite, Finite]
    foreground: list[Share]
    acquisition: dict[str, Any]
    extent: NotRequired[Extent]


class ScanRecord(ScanEntry):
    """A scan's own record."""

    key: str
    masks: list[str]
    registered: bool


class StoredPreparation(TypedDict):
    """`Preparation` in a record: all of it, for what is left out would be its default."""

    spacing: tuple[float | None, float | None, float | None]
    size: tuple[int | None, int | None, int | None]
    intensity: str


class _SubjectEntry(TypedDict):
    registered: bool
    masks: list[str]
    tissue: NotRequired[list[str]]
    labels: NotRequired[dict[str, str]]
    scans: dict[str, ScanEntry]
    files: NotRequired[dict[str, Sum]]


class _Index(TypedDict):
    format: int
    contrasts: list[str]
    settings: StoredPreparation
    statistics: dict[str, ContrastStatistics]
    splits: dict[str, Literal["train", "val", "test"]]
    subjects: dict[str, _SubjectEntry]
    census: NotRequired[dict[str, Usual]]
    accepted: NotRequired[list[str]]
    raw: NotRequired[Raw]
    like: NotRequired[str]
    voxels: NotRequired[list[str]]
    fingerprint: str


@dataclass(frozen=True)
class Cohort:
    """A prepared cohort; `Cohort.open(folder)`."""

    folder: Path
    index: Mapping[str, Any]
    """`cohort.json` as read."""

    @classmethod
    def open(cls, folder: Path | str) -> "Cohort":
        """Open a prepared cohort.

        Raises:
            InputError: if the folder holds none, or one of another format.
        """
        path = Path(folder) / "cohort.json"
        if not path.is_file():
            raise InputError(f"{folder}: no finished prepared cohort (cohort.json is missing): run `prepare` on it")
        again = "run `prepare` again"
        index = read_json(path, dict[str, Any], again, most_mb=MOST_MB)
        if index.get("format") != FORMAT:
            raise InputError(
                f"{path}: format {shown(index.get('format'))}, this version reads {FORMAT}: prepare the cohort again"
            )
        try:
            build(_Index, index, "in it")
            _check(index)
        except InputError as error:
            raise InputError(f"{path}: damaged ({error}): {again}") from None
        return cls(Path(folder), index)

    @property
    def contrasts(self) -> tuple[str, ...]:
        """All contrasts of the cohort."""
        return tuple(self.index["contrasts"])

    @property
    def fingerprint(self) -> str:
        """Hash of settings, subjects, splits and statistics."""
        return self.index["fingerprint"]

    @cached_property
    def settings(self) -> Preparation:
        """How the scans were prepared."""
        return read_settings(self.index["settings"])

    @cached_property
    def statistics(self) -> dict[str, ContrastStatistics]:
        """Training statistics by contrast."""
        return {contrast: ContrastStatistics(**values) for contrast, values in self.index["statistics"].items()}

    @cached_property
    def usual(self) -> dict[str, Usual]:
        """What the training scans of each contrast are like."""
        try:
            return {name: Usual.read(values) for name, values in self.index.get("census", {}).items()}
        except InputError as error:
            raise InputError(f"{self.folder / 'cohort.json'}: damaged ({error}): {CURE}") from None

    @property
    def like(self) -> str | None:
        """The fingerprint of the cohort whose settings and statistics this one was prepared with, to test runs on."""
        return self.index.get("like")

    @property
    def seen(self) -> tuple[str, ...]:
        """Hashes of the voxels of the scans that train or validate; of cohorts of older versions none."""
        return tuple(self.index.get("voxels", ()))

    @cached_property
    def raw(self) -> Raw | None:
        """How the scans were brought together before they were prepared, if they were."""
        return Raw(**self.index["raw"]) if "raw" in self.index else None

    def subjects(self, split: str | None = None) -> list[str]:
        """Names of the subjects of a split (train, val, test), or of all."""
        assert split is None or split in SPLITS, split
        return [name for name in self.index["subjects"] if split is None or self.split_of(name) == split]

    def split_of(self, subject: str) -> str:
        """Split of a subject."""
        return self.index["splits"][subject]

    def available(self, subject: str) -> tuple[str, ...]:
        """Contrasts that a subject has."""
        scans = self.index["subjects"][subject]["scans"]
        return tuple(contrast for contrast in self.contrasts if contrast in scans)

    def masks(self, subject: str) -> tuple[str, ...]:
        """Masks that a subject has."""
        return tuple(self.index["subjects"][subject]["masks"])

    def labels(self, subject: str) -> dict[str, str]:
        """What is known of a subject from `participants.tsv`, by column and as written there."""
        return dict(self.index["subjects"][subject].get("labels", {}))

    def registered(self, subject: str) -> bool:
        """Whether all scans of a subject lie on one grid."""
        return self.index["subjects"][subject]["registered"]

    def crop(self, subject: str, sources: Sequence[str]) -> Crop | None:
        """Where a test subject is cropped in a translation from some of its contrasts: as these alone would have it.

        None stands for the crop on all scans, in which a target has its say: of subjects that train or validate, whose
        scans lie on different grids, or that an older version prepared.

        Args:
            subject: name of the subject.
            sources: contrasts that it has, at least one.
        """
        if self.split_of(subject) != "test" or not self.registered(subject):
            return None
        scans = [self._extent(subject, contrast) for contrast in sources]
        found = [scan for scan in scans if scan is not None]
        if len(found) < len(scans):
            _ = self._said_older  # cached: said once
            return None
        return crop_of(found, self.settings)

    def shape(self, subject: str, contrast: str) -> tuple[int, int, int]:
        """(X, Y, Z) of a prepared scan, on whatever crop."""
        x, y, z = self._scan(subject, contrast)["shape"]
        return x, y, z

    def spacing(self, subject: str, contrast: str) -> tuple[float, float, float]:
        """Sides of a prepared scan's voxels, mm."""
        x, y, z = np.linalg.norm(self.affine(subject, contrast)[:3, :3], axis=0).tolist()
        return x, y, z

    def affine(self, subject: str, contrast: str, *, crop: Crop | None = None) -> np.ndarray:
        """(4, 4) RAS+ affine of a prepared scan, mm, on a crop; None for the one on all scans."""
        affine = np.asarray(self._scan(subject, contrast)["affine"], dtype=np.float64)
        if crop is not None:
            affine[:3, 3] += affine[:3, :3] @ crop.shift
        return affine

    def foreground(self, subject: str, contrast: str) -> np.ndarray:
        """Share of each axial slice that is foreground, (Z,) in [0, 1]."""
        return np.asarray(self._scan(subject, contrast)["foreground"], dtype=np.float64)

    def acquisition(self, subject: str, contrast: str) -> dict[str, Any]:
        """What the scan's JSON sidecar said about the acquisition (BIDS fields, seconds and degrees)."""
        return dict(self._scan(subject, contrast)["acquisition"])

    def source(self, subject: str, contrast: str) -> Path:
        """The file that a scan was prepared from, by its place in the data; older cohorts kept the whole path."""
        return Path(self._scan(subject, contrast)["source"])

    def read(
        self, subject: str, contrast: str, z: int | slice | None = None, *, axis: int = 2, crop: Crop | None = None
    ) -> np.ndarray:
        """A prepared scan or some of its slices.

        Args:
            subject: name of the subject.
            contrast: one that the subject has.
            z: a slice number gives (X, Y), a range (X, Y, n), None the whole (X, Y, Z).
            axis: which axis the slices lie along; 2: axial ones, which are read without the rest.
            crop: of a test subject (`crop`), None for the one on all its scans.

        Returns:
            float32, in [0, 1] over the training subjects.
        """
        n = self._read(subject, f"{contrast}.b2nd", z, crop, axis=axis)
        return self.statistics[contrast].to_image(n)

    def read_mask(self, subject: str, name: str, *, crop: Crop | None = None) -> np.ndarray:
        """A mask on the prepared grid, (X, Y, Z) uint8; of a test subject on a crop (`crop`)."""
        return self._read(subject, f"mask_{name}.b2nd", None, crop)

    def has_tissue(self, subject: str, contrast: str) -> bool:
        """Whether a scan has tissue densities: segmented from it alone, or of the subject's own mask `tissue`."""
        if contrast not in self.available(subject):
            return False
        return OWN_MASK in self.masks(subject) or contrast in self.index["subjects"][subject].get("tissue", ())

    def read_tissue(
        self, subject: str, contrast: str, z: int | slice | None = None, *, crop: Crop | None = None
    ) -> np.ndarray:
        """Tissue densities of a scan (`tissue.TISSUES`), or some axial slices of them.

        The user's own mask stands for all contrasts of a subject, where there is one.

        Args:
            subject: name of the subject.
            contrast: one that has densities (`has_tissue`).
            z: a slice number gives (4, X, Y), a range (4, X, Y, n), None the whole (4, X, Y, Z).
            crop: of a test subject (`crop`), None for the one on all its scans.

        Returns:
            float32 in [0, 1], summing to at most 1.

        Raises:
            InputError: if there are none, or the file is damaged.
        """
        if not self.has_tissue(subject, contrast):
            raise InputError(
                f"{self.folder}: {contrast} of {subject} has no tissue densities: run `prepare --tissue segment` on it"
            )
        if OWN_MASK in self.masks(subject):
            return from_labels(self._read(subject, f"mask_{OWN_MASK}.b2nd", z, crop))
        known = self._sums(subject)
        stored = read_densities(self.folder / "scans" / subject, contrast, z, CURE, crop=crop, known=known)
        return stored.astype(np.float32) / 255

    def _scan(self, subject: str, contrast: str) -> dict[str, Any]:
        return self.index["subjects"][subject]["scans"][contrast]

    def _extent(self, subject: str, contrast: str) -> Extent | None:
        """How far a test subject's scan reaches, where its record says so."""
        values = self._scan(subject, contrast).get("extent")
        return Extent.read(values) if values else None

    @cached_property
    def _said_older(self) -> None:
        logger.warning(
            "%s: prepared by an older version: test subjects are cropped on all their scans, target included; "
            "run `prepare` again", self.folder,
        )  # fmt: skip

    def _read(
        self, subject: str, name: str, z: int | slice | None, crop: Crop | None = None, *, axis: int = 2
    ) -> np.ndarray:
        """A scan or a mask; of a subject with an extent, all lie on one grid."""
        any_scan = next(iter(self.index["subjects"][subject]["scans"]))
        extent = self._extent(subject, any_scan)
        box = inside(extent, self.shape(subject, any_scan), crop) if extent else None
        known = self._sums(subject).get(name)
        return read_array(self.folder / "scans" / subject / name, z, CURE, axis=axis, box=box, known=known)

    def _sums(self, subject: str) -> Mapping[str, tuple[int, str]]:
        """Size and hash of a subject's files."""
        files = self.index["subjects"][subject].get("files")
        if files is None:
            _say_unsummed(self.folder)
            return {}
        return {name: (size, digest) for name, (size, digest) in files.items()}


@cache
def _say_unsummed(folder: Path) -> None:
    logger.warning(
        "%s: prepared by an older version, without hashes of its arrays: damage to them may go unseen; run `prepare` "
        "again, which adds them", folder,
    )  # fmt: skip


def _check(index: Mapping[str, Any]) -> None:
    """Raise InputError for parts of an index that do not fit together, or name what is no file of a cohort."""
    read_settings(index["settings"])
    names = [*index["subjects"], *index["contrasts"], *(m for one in index["subjects"].values() for m in one["masks"])]
    if odd := [name for name in names if not NAME.fullmatch(name)]:
        raise InputError(f"{shown(odd[0])} is no name")
    if index["splits"].keys() != index["subjects"].keys():
        raise InputError("its splits are of other subjects")
    if set(index["contrasts"]) != index["statistics"].keys():
        raise InputError("its statistics are of other contrasts")
    for name, subject in index["subjects"].items():
        if not subject["scans"] or subject["scans"].keys() - set(index["contrasts"]):
            raise InputError(f"the scans of {name} are of other contrasts, or none")
        if any(len(scan["foreground"]) != scan["shape"][2] for scan in subject["scans"].values()):
            raise InputError(f"a scan of {name} has more or fewer slices than its foreground")


def read_settings(values: Mapping[str, Any]) -> Preparation:
    """`Preparation` from JSON values.

    Raises:
        InputError: if they are none of a preparation.
    """
    return Preparation(tuple(values["spacing"]), tuple(values["size"]), values["intensity"])
