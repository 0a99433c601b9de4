"""Writing a prepared cohort (`cohort.py` reads it).

Pass 1 writes each scan after the own half of its normalisation, with a record beside it; what is already there from
the same settings and source files is kept, so an interrupted build goes on where it stopped. Pass 2 reads the records
only: statistics from the training split, then `cohort.json`, last and atomically.
"""

import hashlib
import json
import logging
import os
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.funcs import as_closest_canonical
from nibabel.loadsave import load
from nibabel.nifti1 import Nifti1Image
from nibabel.orientations import inv_ornt_aff, io_orientation, ornt2axcodes
from nibabel.spatialimages import HeaderDataError

from scansynth.data.cohort import FORMAT, Cohort
from scansynth.data.intensity import NORMALISATIONS, Scaling, background, foreground_threshold
from scansynth.data.layouts import SPLITS, Listing, Subject, _person, describe
from scansynth.data.prepare import Grid, Preparation, grid_for, prepared_axis, to_grid
from scansynth.data.volume import Volume
from scansynth.errors import InputError

_UNREADABLE = (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError)
"""What nibabel raises for files that are not whole NIfTI images."""

logger = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
"""`progress(scans done, scans in all, "subject contrast")`, after each scan."""

# What is kept of a sidecar. Names, dates and places of a patient are not.
ACQUISITION = (
    "RepetitionTime", "RepetitionTimePreparation", "RepetitionTimeExcitation", "EchoTime", "InversionTime",
    "FlipAngle", "MagneticFieldStrength", "Manufacturer", "ScanningSequence", "SequenceVariant", "ScanOptions",
)  # fmt: skip


def build_cohort(
    listing: Listing,
    folder: Path | str,
    settings: Preparation,
    contrasts: Sequence[str] | None = None,
    *,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
    progress: Progress | None = None,
    overwrite: bool = False,
    skip_bad: bool = False,
) -> Cohort:
    """Prepare a cohort, or go on with one that was interrupted.

    Args:
        listing: the subjects found.
        folder: where the cohort is written.
        settings: how scans are prepared.
        contrasts: which contrasts; None takes all found.
        fractions: shares of train, val and test, where the data gives no split.
        seed: of that draw.
        progress: called after each scan.
        overwrite: throw away a cohort in `folder` that was prepared with other settings.
        skip_bad: leave scans out that cannot be read, with a warning.

    Raises:
        InputError: for contrasts that nobody has, bad scans, unfit splits, or a folder that holds something else.
    """
    folder = Path(folder)
    contrasts = chosen_contrasts(listing, contrasts)
    subjects = [subject for subject in listing.subjects if any(name in subject.scans for name in contrasts)]
    splits = choose_splits(subjects, fractions, seed)
    _claim(folder, settings, overwrite)

    total = sum(name in subject.scans for subject in subjects for name in contrasts)
    done, problems = 0, []
    entries: dict[str, Any] = {}
    for subject in subjects:
        wanted = {name: subject.scans[name] for name in contrasts if name in subject.scans}
        writer = _SubjectWriter(subject, wanted, folder, settings)
        bad = writer.load()
        problems += bad
        for contrast in wanted if not bad or skip_bad else ():
            writer.write(contrast)
            done += 1
            if progress is not None:
                progress(done, total, f"{subject.name} {contrast}")
        if writer.records:
            entries[subject.name] = writer.entry()
    if problems and not skip_bad:
        raise InputError(f"{len(problems)} bad files, mend them or leave them out (skip_bad): {'; '.join(problems)}")
    for problem in problems:
        logger.warning("left out: %s", problem)

    splits = {name: splits[name] for name in entries}
    index = {
        "format": FORMAT,
        "contrasts": list(contrasts),
        "settings": asdict(settings),
        "statistics": _statistics(entries, splits, contrasts, settings.intensity),
        "splits": splits,
        "subjects": entries,
    }
    index["fingerprint"] = _fingerprint(index)
    _write_json(index, folder / "cohort.json")
    return Cohort.open(folder)


@dataclass(frozen=True)
class Report:
    """What preparing would do, without doing it."""

    text: str
    problems: tuple[str, ...]


def dry_run(listing: Listing, settings: Preparation, contrasts: Sequence[str] | None = None) -> Report:
    """Look at the headers only: subjects, contrasts, grids, problems, and the shapes that would come out.

    What needs the voxels (a truncated file, NaN) is seen by `build_cohort` alone. Nothing is written.

    Raises:
        InputError: for contrasts that nobody has.
    """
    contrasts = chosen_contrasts(listing, contrasts)
    grids: dict[str, Counter[str]] = {}
    problems: list[str] = []
    unregistered: list[str] = []
    for subject in listing.subjects:
        seen: list[tuple[tuple[int, ...], np.ndarray]] = []
        for contrast in contrasts:
            if contrast not in subject.scans:
                continue
            try:
                shape, affine, native = _read_header(subject.scans[contrast])
            except InputError as error:
                problems.append(str(error))
                continue
            seen.append((shape, affine))
            sizes = [float(size) for size in np.linalg.norm(affine[:3, :3], axis=0)]
            axes = [
                prepared_axis(*axis, 0.0) for axis in zip(shape, sizes, settings.spacing, settings.size, strict=True)
            ]
            prepared = [size * step for size, (_, step, _) in zip(sizes, axes, strict=True)]
            grid = (
                f"{_times(shape)} at {_times(sizes)} mm, stored {native}, "
                f"becomes {_times([voxels for _, _, voxels in axes])} at {_times(prepared)} mm"
            )
            grids.setdefault(grid, Counter())[contrast] += 1
        if not all(_same_space(*seen[0], *other) for other in seen[1:]):
            unregistered.append(subject.name)
    lines = [
        describe(listing),
        "",
        "grids (right, anterior, superior axes):",
        *(f"  {grid}: {', '.join(f'{n[name]} {name}' for name in contrasts if n[name])}" for grid, n in grids.items()),
    ]
    if unregistered:
        lines.append(f"contrasts on different grids, for unpaired training only: {', '.join(unregistered)}")
    lines += [f"problem: {problem}" for problem in problems]
    return Report("\n".join(lines), tuple(problems))


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


def _same_space(shape_a: tuple[int, ...], affine_a: np.ndarray, shape_b: tuple[int, ...], affine_b: np.ndarray) -> bool:
    """`Volume.same_grid` for headers and masks."""
    return shape_a == shape_b and bool(np.allclose(affine_a, affine_b, rtol=0, atol=1e-3))


def chosen_contrasts(listing: Listing, contrasts: Sequence[str] | None) -> tuple[str, ...]:
    """The asked contrasts, each of which somebody must have.

    Raises:
        InputError: if a contrast was not found.
    """
    unknown = [name for name in contrasts or () if name not in listing.contrasts]
    if unknown or not listing.contrasts:
        found = ", ".join(listing.contrasts) or "none"
        raise InputError(f"{listing.root}: no scan of {', '.join(unknown) or 'any contrast'} (found: {found})")
    return tuple(dict.fromkeys(contrasts or listing.contrasts))


def choose_splits(subjects: Sequence[Subject], fractions: tuple[float, float, float], seed: int) -> dict[str, str]:
    """Split of each subject: as the data says, or else drawn.

    Visits of one person (`sub-01_ses-1`, `sub-01_ses-2`) stay together. Counts are by largest remainder, at least
    one person trains. The draw depends on names and seed only.

    Raises:
        InputError: if fractions do not fit, or the data gives a split to some subjects only.
    """
    given = {subject.name: subject.split for subject in subjects if subject.split is not None}
    if given:
        missing = [subject.name for subject in subjects if subject.split is None]
        wrong = [name for name, split in given.items() if split not in SPLITS]
        if missing or wrong:
            raise InputError(
                f"subjects without a split (train, val or test) while others have one: {', '.join(missing + wrong)}: "
                "name them in the split file or take it away"
            )
        return {name: str(split) for name, split in given.items()}
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(f"split fractions {fractions}: give three shares that are not negative and add up to 1")
    people = sorted({_person(subject.name) for subject in subjects})
    quotas = np.asarray(fractions) * len(people)
    counts = np.floor(quotas + 1e-9).astype(int)
    for place in np.argsort(-(quotas - counts), kind="stable")[: len(people) - counts.sum()]:
        counts[place] += 1
    if counts[0] == 0 and len(people):
        counts[np.argmax(counts)] -= 1
        counts[0] = 1
    order = np.random.default_rng(seed).permutation(len(people))
    names = np.repeat(SPLITS, counts)
    drawn = {people[person]: str(names[place]) for place, person in enumerate(order)}
    return {subject.name: drawn[_person(subject.name)] for subject in subjects}


class _SubjectWriter:
    """Pass 1 of one subject."""

    def __init__(self, subject: Subject, scans: Mapping[str, Path], folder: Path, settings: Preparation):
        self.subject, self.scans, self.settings = subject, scans, settings
        self.folder = folder / "scans" / subject.name
        self.index = folder / "cohort.json"
        # The grid hangs on all scans of the subject: when one changes, all are prepared anew.
        files = [
            *scans.values(),
            *subject.masks.values(),
            *(subject.sidecars[c] for c in scans if c in subject.sidecars),
        ]
        self.key = _digest([FORMAT, asdict(settings), [_file_key(path) for path in files]])
        self.records: dict[str, dict[str, Any]] = {}
        self.volumes: dict[str, Volume] = {}
        self.masks: list[str] = []
        self.mask_arrays: dict[str, np.ndarray] = {}
        self.grids: dict[str, Grid] = {}

    def load(self) -> list[str]:
        """Take over what is already written, else read the scans; returns what is wrong with them."""
        self.records = {contrast: record for contrast in self.scans if (record := self._written(contrast))}
        if len(self.records) == len(self.scans):
            self.masks = next(iter(self.records.values()))["masks"]
            return []
        problems, normalisation = [], NORMALISATIONS[self.settings.intensity]
        for contrast, path in self.scans.items():
            try:
                volume = Volume.read(path)
                normalisation.own(volume, contrast)
                _read_acquisition(self.subject.sidecars.get(contrast))
                self.volumes[contrast] = volume
            except InputError as error:
                problems.append(str(error))
        self.grids = _grids(self.volumes, self.settings)
        for name, path in self.subject.masks.items():
            try:
                self.mask_arrays[name] = self._read_mask(path)
            except InputError as error:
                problems.append(str(error))
        self.masks = list(self.mask_arrays)
        return problems

    def write(self, contrast: str) -> None:
        """Write one scan and its record, unless it is there or was left out as bad."""
        if contrast in self.records or contrast not in self.volumes:
            return
        volume, grid = self.volumes[contrast], self.grids[contrast]
        normalisation = NORMALISATIONS[self.settings.intensity]
        own = normalisation.own(volume, contrast)
        prepared = to_grid(volume.array, grid, background(contrast))
        share = (prepared > foreground_threshold(volume.array, contrast)).mean(axis=(0, 1))
        n = normalisation.apply_own(prepared, own)
        # What these two say is about to be untrue.
        self.index.unlink(missing_ok=True)
        (self.folder / f"{contrast}.json").unlink(missing_ok=True)
        while self.mask_arrays:
            name, mask = self.mask_arrays.popitem()
            _write_array(mask, self.folder / f"mask_{name}.b2nd")
        _write_array(n, self.folder / f"{contrast}.b2nd")
        self.records[contrast] = {
            "key": self.key,
            "source": str(self.scans[contrast]),
            "shape": list(grid.shape),
            "affine": grid.affine.tolist(),
            "own": asdict(own),
            "range": [float(n.min()), float(n.max())],
            "foreground": [round(float(value), 5) for value in share],
            "acquisition": _read_acquisition(self.subject.sidecars.get(contrast)),
            "masks": self.masks,
            "registered": all(volume.same_grid(other) for other in self.volumes.values()),
        }
        _write_json(self.records[contrast], self.folder / f"{contrast}.json")

    def entry(self) -> dict[str, Any]:
        """The subject in `cohort.json`."""
        hidden = ("key", "masks", "registered")
        return {
            "registered": all(record["registered"] for record in self.records.values()),
            "masks": self.masks,
            "scans": {
                contrast: {name: value for name, value in record.items() if name not in hidden}
                for contrast, record in sorted(self.records.items())
            },
        }

    def _written(self, contrast: str) -> dict[str, Any] | None:
        path = self.folder / f"{contrast}.json"
        if not (path.is_file() and path.with_suffix(".b2nd").is_file()):
            return None
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if record["key"] == self.key else None

    def _read_mask(self, path: Path) -> np.ndarray:
        # Not `Volume.read`: a mask may be empty, a scan may not.
        try:
            image = as_closest_canonical(_load(path))
            mask = np.asarray(image.dataobj).reshape(image.shape[:3])
        except _UNREADABLE as error:
            raise InputError(f"{path}: not readable as a mask ({error}): replace it or take it away") from error
        space = mask.shape, np.asarray(image.affine)
        owners = [
            name for name, volume in self.volumes.items() if _same_space(*space, volume.array.shape, volume.affine)
        ]
        if not owners:
            raise InputError(f"{path}: the mask lies on no scan's grid: resample it to its scan")
        if mask.min() < 0 or mask.max() > 255 or (mask != np.round(mask)).any():
            raise InputError(f"{path}: a mask holds whole numbers from 0 to 255")
        return to_grid(mask.astype(np.uint8), self.grids[owners[0]], 0, order=0)


def _grids(volumes: Mapping[str, Volume], settings: Preparation) -> dict[str, Grid]:
    """A prepared grid for each scan; scans on one grid share it."""
    grids: dict[str, Grid] = {}
    for contrast, volume in volumes.items():
        if contrast not in grids:
            group = {name: other for name, other in volumes.items() if volume.same_grid(other) and name not in grids}
            grids |= dict.fromkeys(group, grid_for(group, settings))
    return grids


def _statistics(entries: Mapping[str, Any], splits: Mapping[str, str], contrasts: Sequence[str], intensity: str):
    """Training statistics by contrast, from the records."""
    statistics = {}
    for contrast in contrasts:
        records = [
            entry["scans"][contrast]
            for name, entry in entries.items()
            if splits[name] == "train" and contrast in entry["scans"]
        ]
        if not records:
            raise InputError(f"no training subject has {contrast}: leave that contrast out or change the split")
        own = [Scaling(**record["own"]) for record in records]
        statistics[contrast] = asdict(NORMALISATIONS[intensity].fit(contrast, own, [r["range"] for r in records]))
    return statistics


def _claim(folder: Path, settings: Preparation, overwrite: bool) -> None:
    """Make the folder ours, or see that it already is and with the same settings."""
    marker = folder / "preparation.json"
    if marker.is_file():
        if json.loads(marker.read_text(encoding="utf-8")) == json.loads(json.dumps(asdict(settings))):
            return
        if not overwrite:
            raise InputError(f"{folder}: prepared with other settings ({marker.name}): another folder, or overwrite")
        (folder / "cohort.json").unlink(missing_ok=True)
        shutil.rmtree(folder / "scans", ignore_errors=True)
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: not a prepared cohort and not empty: give a new folder")
    _write_json(asdict(settings), marker)


def _read_acquisition(sidecar: Path | None) -> dict[str, Any]:
    if sidecar is None:
        return {}
    try:
        values = json.loads(sidecar.read_text(encoding="utf-8"))
        return {name: values[name] for name in ACQUISITION if name in values}
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{sidecar}: not readable as JSON ({error}): mend or remove it") from error


def _file_key(path: Path) -> list[str | int]:
    """What tells whether a file is still the same one; a missing file is reported where it is read."""
    if not path.is_file():
        return [str(path)]
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _fingerprint(index: Mapping[str, Any]) -> str:
    """Hash of what decides what a network sees; where the source files lie is no part of it."""
    subjects = {
        name: {
            contrast: {key: value for key, value in scan.items() if key != "source"}
            for contrast, scan in entry["scans"].items()
        }
        for name, entry in index["subjects"].items()
    }
    return _digest([index["format"], index["settings"], index["statistics"], index["splits"], subjects])[:16]


def _write_array(array: np.ndarray, path: Path) -> None:
    """Compress an (X, Y, Z) array so that one axial slice is one block; atomic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    x, y, z = array.shape
    codec = blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=5, filters=[blosc2.Filter.SHUFFLE])
    chunks, blocks = (x, y, min(z, 8)), (x, y, 1)
    whole: Any = np.ascontiguousarray(array)  # blosc2's types do not know numpy's arrays
    blosc2.asarray(whole, urlpath=str(part), mode="w", chunks=chunks, blocks=blocks, cparams=codec)
    os.replace(part, path)


def _write_json(values: Any, path: Path) -> None:
    """Write a JSON file; atomic."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(values, indent=1, allow_nan=False), encoding="utf-8")
    os.replace(part, path)
