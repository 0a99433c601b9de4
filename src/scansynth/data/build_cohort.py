"""Writing a prepared cohort (`cohort.py` reads it).

First the census: all scans are read, and what cannot be right is refused before anything is prepared. Pass 1 writes
each scan after the own half of its normalisation, with a record beside it; what is already there from the same settings
and source files is kept, so an interrupted build goes on where it stopped. Pass 2 reads the records only: statistics
from the training split, then `cohort.json`, last and atomically.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from scansynth.data.acquisitions import Table, fields_of, read_sidecar
from scansynth.data.appearance import patterns_of, unpacked
from scansynth.data.arrays import Sums
from scansynth.data.build_tissue import TissueSettings, with_tissue, write_tissue
from scansynth.data.census import Census, take
from scansynth.data.census_rules import check_accepted
from scansynth.data.cohort import FORMAT, Cohort, ScanRecord, StoredPreparation
from scansynth.data.crops import Crop, Extent, Room, crops_with, room_for
from scansynth.data.intensity import NORMALISATIONS, Scaling
from scansynth.data.kept_values import known_values, place_in
from scansynth.data.layouts import Listing, Subject, chosen_contrasts
from scansynth.data.prepare import Grid, Preparation, grid_for, labels_on
from scansynth.data.raw.folders import is_ours
from scansynth.data.raw.settings import Raw
from scansynth.data.readers import reading
from scansynth.data.record import PreparationRecord
from scansynth.data.scan_facts import ScanFacts
from scansynth.data.splits import FRACTIONS, check_own_files, choose_splits, without_training
from scansynth.data.subject_ids import some_of
from scansynth.data.survey import survey
from scansynth.data.usual import Usual
from scansynth.data.volume import Volume, same_grid
from scansynth.errors import InputError
from scansynth.files import LOCK, only_one, write_text
from scansynth.progress import Event, Report
from scansynth.records import read_json, sealed

logger = logging.getLogger(__name__)

CENSUS = "census.json"
"""Lines of the census with what tells whether they still hold, so that the same command reads no scan twice."""


def build_cohort(
    listing: Listing,
    folder: Path | str,
    settings: Preparation,
    *,
    contrasts: Sequence[str] | None = None,
    fractions: tuple[float, float, float] = FRACTIONS,
    seed: int = 0,
    report: Report | None = None,
    overwrite: bool = False,
    skip_bad: bool = False,
    acquisitions: Table | None = None,
    tissue: TissueSettings | None = None,
    accept: Sequence[str] = (),
    census: Census | None = None,
    raw: Raw | None = None,
    like: PreparationRecord | None = None,
) -> Cohort:
    """Prepare a cohort, or go on with one that was interrupted.

    Args:
        listing: the subjects found.
        folder: where the cohort is written.
        settings: how scans are prepared.
        contrasts: which contrasts; None takes all found.
        fractions: shares of train, val and test, where the data gives no split.
        seed: of that draw.
        report: told after each scan ("subject contrast").
        overwrite: throw away a cohort in `folder` that was prepared with other settings.
        skip_bad: leave scans out that cannot be read, with a warning.
        acquisitions: acquisition parameters that count before those of sidecars (`acquisitions.read_table`).
        tissue: how tissue densities are made of each scan; None makes none.
        accept: names of rules (`census_rules.RULES`) that may be broken.
        census: of these scans, where it is taken already; else it is taken here.
        raw: how the scans were brought together before (`raw/on_disk.py`); written down.
        like: of a run, whose settings and training statistics these scans are prepared with, to test it on; all of them
            test then, whatever the data states.

    Raises:
        InputError: for contrasts that nobody has, bad scans, scans that break a rule, unfit splits, or a folder that
            holds something else or that another command prepares into.
    """
    folder, accept = Path(folder), check_accepted(accept)
    contrasts = chosen_contrasts(listing, contrasts)
    subjects = [subject for subject in listing.subjects if any(name in subject.scans for name in contrasts)]
    check_own_files(subjects)
    table = acquisitions or {}
    if strangers := sorted({name for name, _ in table if name} - {subject.name for subject in subjects}):
        raise InputError(f"the table of acquisitions names {strangers[0]}, of whom there is no scan")
    splits = split_of(subjects, fractions, seed, like=like)
    if not like and (
        untrained := without_training({subject.name: subject.scans for subject in subjects}, splits, contrasts)
    ):
        raise InputError(untrained[0])
    check_folder(folder)
    _check_settings(folder, settings, overwrite=overwrite)
    census = census or take(listing, contrasts, known=folder / CENSUS, keep=True)
    found = survey(census, settings, splits, tissue=tissue is not None, usual=like.usual if like else {})
    found.refuse(accept)
    if like:
        _check_unseen(census, like)
    with only_one(folder):
        _claim(folder, settings)
        census.write(folder / CENSUS)
        found.write(folder)

        segmented = with_tissue(contrasts) if tissue else []
        total = sum(name in subject.scans for subject in subjects for name in (*contrasts, *segmented))
        done, problems = 0, []
        entries: dict[str, Any] = {}
        for subject in subjects:
            wanted = {name: subject.scans[name] for name in contrasts if name in subject.scans}
            writer = _SubjectWriter(
                subject,
                wanted,
                folder,
                root=listing.root,
                settings=settings,
                acquisitions=table,
                read=census.volumes,
                tested=splits[subject.name] == "test",
            )
            bad = writer.load()
            problems += bad
            for contrast in wanted if not bad or skip_bad else ():
                writer.write(contrast)
                done += 1
                if report is not None:
                    report(Event(done, total, f"{subject.name} {contrast}"))
            with_maps = []
            for contrast in segmented if not bad or skip_bad else ():
                if tissue is None or contrast not in writer.records:
                    continue
                try:
                    record, crops = writer.records[contrast], writer.crops(contrast)
                    write_tissue(
                        writer.folder, contrast, record, tissue, folder / "cohort.json", sums=writer.sums, crops=crops
                    )
                    with_maps.append(contrast)
                except InputError as error:
                    problems.append(str(error))
                done += 1
                if report is not None:
                    report(Event(done, total, f"{subject.name} {contrast} tissue"))
            if writer.records:
                entries[subject.name] = writer.entry(with_maps)
        if problems and not skip_bad:
            raise InputError(
                f"{len(problems)} bad files, mend them or leave them out (skip_bad): {'; '.join(problems)}"
            )
        for problem in problems:
            logger.warning("left out: %s", problem)

        splits = {name: splits[name] for name in entries}
        index = {
            "format": FORMAT,
            "contrasts": list(contrasts),
            "settings": asdict(settings),
            "statistics": _statistics(entries, splits, contrasts, settings.intensity, like=like),
            "splits": splits,
            "subjects": entries,
            "census": _usual(census, splits, contrasts),
            "accepted": list(accept),
            "voxels": sorted({scan.digest for scan in census.scans if splits.get(scan.subject) in ("train", "val")}),
            **({"raw": asdict(raw.told)} if raw else {}),
            **({"like": like.fingerprint} if like else {}),
        }
        index["fingerprint"] = _fingerprint(index)
        write_text(folder / "cohort.json", _json(sealed(index)))
        return Cohort.open(folder)


class _SubjectWriter:
    """Pass 1 of one subject."""

    def __init__(
        self,
        subject: Subject,
        scans: Mapping[str, Path],
        folder: Path,
        *,
        root: Path,
        settings: Preparation,
        acquisitions: Table,
        read: dict[tuple[str, str], Volume],
        tested: bool,
    ):
        self.subject, self.scans, self.settings, self.acquisitions = subject, scans, settings, acquisitions
        self.tested, self.root = tested, root
        self.read = {contrast: read.pop((subject.name, contrast), None) for contrast in scans}
        self.folder = folder / "scans" / subject.name
        self.sums = Sums(self.folder)
        self.index = folder / "cohort.json"
        # The grid hangs on all scans of the subject: when one changes, all are prepared anew.
        files = [
            *scans.values(),
            *subject.masks.values(),
            *(subject.sidecars[c] for c in scans if c in subject.sidecars),
        ]
        told = [fields_of(acquisitions, subject.name, contrast, {}) for contrast in scans]
        parts = [FORMAT, asdict(settings), [_file_key(path) for path in files], told]
        self.key = _digest([*parts, "crops"] if tested else parts)
        self.records: dict[str, dict[str, Any]] = {}
        self.volumes: dict[str, Volume] = {}
        self.owns: dict[str, Scaling] = {}
        self.acquired: dict[str, dict[str, Any]] = {}
        self.masks: list[str] = []
        self.mask_arrays: dict[str, np.ndarray] = {}
        self.grids: dict[str, Grid] = {}
        self.room, self.extents = Room(), dict[str, Extent]()

    def load(self) -> list[str]:
        """Take over what is already written, else read the scans; returns what is wrong with them."""
        self.records = {contrast: record for contrast in self.scans if (record := self._written(contrast))}
        if len({tuple(record["masks"]) for record in self.records.values()}) > 1:
            self.records = {}
        if len(self.records) == len(self.scans):
            self.masks = next(iter(self.records.values()))["masks"]
            return []
        problems, normalisation = [], NORMALISATIONS[self.settings.intensity]
        for contrast, path in self.scans.items():
            try:
                with reading(path):
                    volume = self.read.pop(contrast) or Volume.read(path)
                    self.owns[contrast] = normalisation.own(volume, contrast)
                    sidecar = self.subject.sidecars.get(contrast)
                    self.acquired[contrast] = read_sidecar(sidecar) if sidecar else {}
                    self.volumes[contrast] = volume
            except InputError as error:
                problems.append(str(error))
        self.grids = _grids(self.volumes, self.settings)
        if self.tested and self.volumes and len({id(grid) for grid in self.grids.values()}) == 1:
            self.room, self.extents = room_for(self.volumes, next(iter(self.grids.values())), self.settings)
        for name, path in self.subject.masks.items():
            try:
                grids = [(volume.space, self.grids[contrast]) for contrast, volume in self.volumes.items()]
                self.mask_arrays[name] = labels_on(path, grids, self.room.to_grid)
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
        own = self.owns[contrast]
        inside = self.room.inside(grid.shape)
        stored = self.room.to_grid(volume.array, grid, volume.background(contrast))
        share = (stored[inside] > volume.threshold(contrast)).mean(axis=(0, 1))
        stored = normalisation.apply_own(stored, own)
        n = stored[inside]
        # What these two say is about to be untrue.
        self.index.unlink(missing_ok=True)
        (self.folder / f"{contrast}.json").unlink(missing_ok=True)
        while self.mask_arrays:
            name, mask = self.mask_arrays.popitem()
            self.sums.write(mask, f"mask_{name}.b2nd")
        self.sums.write(stored, f"{contrast}.b2nd")
        self.records[contrast] = {
            "key": self.key,
            "source": place_in(self.scans[contrast], self.root),
            "shape": list(grid.shape),
            "affine": grid.affine.tolist(),
            "own": asdict(own),
            "background": volume.background(contrast),
            "range": [float(n.min()), float(n.max())],
            "foreground": [round(float(value), 5) for value in share],
            "acquisition": fields_of(
                self.acquisitions,
                self.subject.name,
                contrast,
                known_values(self.acquired[contrast], f"{self.subject.name} {contrast}"),
            ),
            "masks": self.masks,
            "registered": all(same_grid(volume.space, other.space) for other in self.volumes.values()),
            **({"extent": asdict(self.extents[contrast])} if contrast in self.extents else {}),
        }
        write_text(self.folder / f"{contrast}.json", _json(self.records[contrast]))

    def entry(self, segmented: Sequence[str]) -> dict[str, Any]:
        """The subject in `cohort.json`; `segmented` are the contrasts that have tissue densities."""
        hidden = ("key", "masks", "registered")
        return {
            "registered": all(record["registered"] for record in self.records.values()),
            "masks": self.masks,
            **({"tissue": list(segmented)} if segmented else {}),
            **({"labels": self.subject.labels} if self.subject.labels else {}),
            "scans": {
                contrast: {name: value for name, value in record.items() if name not in hidden}
                for contrast, record in sorted(self.records.items())
            },
            "files": dict(sorted(self.sums.known.items())),
        }

    def crops(self, contrast: str) -> list[Crop]:
        """The crops that one scan may be read on."""
        found = {name: Extent.read(record["extent"]) for name, record in self.records.items() if "extent" in record}
        return crops_with(contrast, found, self.settings) if found else []

    def _written(self, contrast: str) -> dict[str, Any] | None:
        """The record of a scan that is there, whole and made from the same; None where it is to be made."""
        path = self.folder / f"{contrast}.json"
        if not path.is_file():
            return None
        try:
            record: Any = read_json(path, ScanRecord, "it is prepared anew")
        except InputError as error:
            logger.warning("%s", error)
            return None
        if record["key"] != self.key:
            return None
        files = [f"{contrast}.b2nd", *(f"mask_{name}.b2nd" for name in record["masks"])]
        # Of older cohorts nothing else is known of an array than that it must hold at least the crop on all scans.
        if damaged := [name for name in files if not self.sums.holds(name, shape=record["shape"])]:
            logger.warning("%s: missing or damaged: prepared anew", self.folder / damaged[0])
            return None
        return record


def _grids(volumes: Mapping[str, Volume], settings: Preparation) -> dict[str, Grid]:
    """A prepared grid for each scan; scans on one grid share it."""
    grids: dict[str, Grid] = {}
    for contrast, volume in volumes.items():
        if contrast not in grids:
            rest = {name: other for name, other in volumes.items() if name not in grids}
            group = {name: other for name, other in rest.items() if same_grid(volume.space, other.space)}
            grids |= dict.fromkeys(group, grid_for(group, settings))
    return grids


def split_of(
    subjects: Sequence[Subject], fractions: tuple[float, float, float], seed: int, *, like: PreparationRecord | None
) -> dict[str, str]:
    """Split of each subject; all test where they are prepared like a run's (errors of `choose_splits`)."""
    if like:
        return {subject.name: "test" for subject in subjects}
    return choose_splits({subject.name: subject.split for subject in subjects}, fractions, seed)


def _check_unseen(census: Census, like: PreparationRecord) -> None:
    """Raise InputError if scans are to test a run that trained or validated on them, under whatever name."""
    seen = [f"{scan.subject} {scan.contrast}" for scan in census.scans if scan.digest in like.seen]
    if seen:
        raise InputError(
            f"the voxels of {some_of(seen)} are those of scans that trained or validated the run, and figures would be "
            "too good: leave these people out"
        )
    if named := sorted({scan.subject for scan in census.scans if like.splits.get(scan.subject) in ("train", "val")}):
        logger.warning(
            "%s: people of that name trained or validated the run; if it is they, this is no external test",
            some_of(named),
        )


def _statistics(
    entries: Mapping[str, Any],
    splits: Mapping[str, str],
    contrasts: Sequence[str],
    intensity: str,
    *,
    like: PreparationRecord | None,
) -> dict[str, Any]:
    """Training statistics by contrast: from the records, or those of a run."""
    if like:
        return {contrast: asdict(like.statistics[contrast]) for contrast in contrasts}
    if untrained := without_training({name: entry["scans"] for name, entry in entries.items()}, splits, contrasts):
        raise InputError(untrained[0])  # bad scans that were left out were all that there was
    statistics = {}
    for contrast in contrasts:
        records = [
            entry["scans"][contrast]
            for name, entry in entries.items()
            if splits[name] == "train" and contrast in entry["scans"]
        ]
        own = [Scaling(**record["own"]) for record in records]
        ranges, backgrounds = [r["range"] for r in records], [r["background"] for r in records]
        statistics[contrast] = asdict(NORMALISATIONS[intensity].fit(contrast, own, ranges, backgrounds))
    return statistics


def _usual(census: Census, splits: Mapping[str, str], contrasts: Sequence[str]) -> dict[str, Any]:
    """What the training scans of each contrast are usually like: what sources of a translation are held against."""
    scans: dict[str, list[ScanFacts]] = {contrast: [] for contrast in contrasts}
    for scan in census.scans:
        if splits.get(scan.subject) == "train" and scan.contrast in scans:
            scans[scan.contrast].append(scan)
    patterns = patterns_of({contrast: [unpacked(one.afar) for one in own] for contrast, own in scans.items()})
    return {contrast: asdict(Usual.of(own, patterns.get(contrast))) for contrast, own in scans.items() if own}


def check_folder(folder: Path) -> None:
    """Raise InputError if a folder holds something that is no cohort: said before thousands of scans are read."""
    ours = (folder / "preparation.json").is_file() or is_ours(folder)
    if not ours and folder.exists() and (not folder.is_dir() or any(one.name != LOCK for one in folder.iterdir())):
        raise InputError(f"{folder}: not a prepared cohort and not empty: give a new folder")


def _check_settings(folder: Path, settings: Preparation, *, overwrite: bool) -> None:
    """Raise InputError if a cohort was prepared with other settings, and may not be thrown away."""
    marker = folder / "preparation.json"
    if marker.is_file() and not overwrite and _stored(marker) != json.loads(_json(asdict(settings))):
        raise InputError(f"{folder}: prepared with other settings ({marker.name}): another folder, or overwrite")


def _claim(folder: Path, settings: Preparation) -> None:
    """Make the folder ours; what was prepared with other settings goes."""
    marker = folder / "preparation.json"
    if marker.is_file():
        try:
            if _stored(marker) == json.loads(_json(asdict(settings))):
                return
        except InputError as error:  # overwritten, as somebody asks
            logger.warning("%s", error)
        (folder / "cohort.json").unlink(missing_ok=True)
        shutil.rmtree(folder / "scans", ignore_errors=True)
    write_text(marker, _json(asdict(settings)))


def _stored(marker: Path) -> Any:
    return read_json(
        marker, StoredPreparation, "prepare with --overwrite, which throws the cohort away, or into another folder"
    )


def _file_key(path: Path) -> list[str | int]:
    """What tells whether a file is still the same one; a missing file is reported where it is read."""
    if not path.is_file():
        return [str(path)]
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def _digest(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _fingerprint(index: Mapping[str, Any]) -> str:
    """Hash of what decides what a network is trained on.

    Where the source files lie is no part of it, nor how far the scans of test subjects reach.
    """
    subjects = {
        name: {
            contrast: {key: value for key, value in scan.items() if key not in ("source", "extent")}
            for contrast, scan in entry["scans"].items()
        }
        for name, entry in index["subjects"].items()
    }
    return _digest([index["format"], index["settings"], index["statistics"], index["splits"], subjects])[:16]


def _json(values: Any) -> str:
    return json.dumps(values, indent=1, allow_nan=False)
