"""A data folder's scans brought together on disk, for `prepare`: what is made is kept, so a stopped command goes on.

registered/settings.json                   how: of another `how` nothing is taken over
registered/quality.tsv                     a line a registered scan: figures, what is odd
registered/<subject>/<contrast>.nii.gz     on the grid of the reference
registered/<subject>/<mask>.nii.gz         labels, by the motion of the scan that they lie on; `brain`, where it was cut
registered/<subject>/quality.png           checkerboards with the reference in three planes, the brain's outline
registered/<subject>/together.json         motions (mm → mm) and figures; written last
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from scansynth.data.ahead import in_order
from scansynth.data.kept_values import file_key, place_in
from scansynth.data.layouts import Listing
from scansynth.data.raw.folders import REGISTERED, are_whole, claim, sums_of
from scansynth.data.raw.quality import picture
from scansynth.data.raw.settings import Raw
from scansynth.data.raw.together import Placed, bring_together, labels_together, together_odd
from scansynth.data.readers import reading
from scansynth.data.subject import BRAIN, Subject
from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.files import write_text
from scansynth.progress import Event, Report
from scansynth.records import read_json, sealed

logger = logging.getLogger(__name__)

VERSION = 1
"""Goes up when what is written is computed otherwise."""
TEXT = "registered by scansynth"


class _Kept(TypedDict):
    """`together.json`."""

    key: str
    reference: str
    sources: dict[str, str]
    placed: dict[str, Placed]
    masks: list[str]
    files: dict[str, str]


@dataclass(frozen=True)
class Registered:
    """A listing whose scans were brought together, and what is to be looked at."""

    listing: Listing
    odd: tuple[str, ...]
    """A line a scan."""
    bad: tuple[str, ...]
    """Subjects left out, and why."""


def register_listing(
    listing: Listing, folder: Path, how: Raw, *, overwrite: bool = False, report: Report | None = None
) -> Registered:
    """Bring the scans of each subject onto one grid, side by side over subjects.

    Args:
        listing: the subjects.
        folder: of the cohort, in which `registered` is made.
        how: they are brought together.
        overwrite: throw away what was brought together otherwise.
        report: told of each subject.

    Returns:
        The subjects with their registered scans and masks; sidecars, splits and labels are as they were. A subject one
        of whose scans cannot be read, or whose brain is not found, is left out and named.

    Raises:
        InputError: for settings that cannot be meant, SimpleITK that is missing, or a folder of other settings.
    """
    from scansynth.data.raw.itk_images import itk

    how.check()
    itk()
    place = folder / REGISTERED
    if how.reference and how.reference not in listing.contrasts:
        raise InputError(f"--reference {how.reference}: no scan is of it (found: {', '.join(listing.contrasts)})")
    claim(place, {"version": VERSION, **asdict(how.told), "key": how.key}, overwrite=overwrite)
    subjects, kept, bad = [], {}, []
    for done, (subject, found) in enumerate(
        in_order(lambda one: _one(one, listing.root, place, how), listing.subjects)
    ):
        if isinstance(found, str):
            bad.append(f"{subject.name}: {found}")
        else:
            subjects.append(_moved_to(subject, place, found))
            kept[subject.name] = found
        if report:
            report(Event(done + 1, len(listing.subjects), subject.name))
    placed = {name: one["placed"] for name, one in kept.items()}
    odd = together_odd(placed)
    write_text(place / "quality.tsv", _table(kept, odd))
    lines = tuple(f"{name} {contrast}: {'; '.join(texts)}" for (name, contrast), texts in odd.items())
    return Registered(replace(listing, root=folder.absolute(), subjects=tuple(subjects)), lines, tuple(bad))


def _one(subject: Subject, root: Path, place: Path, how: Raw) -> _Kept | str:
    """Bring a subject's scans together, unless that is done; why not, where it cannot be."""
    here, files = place / subject.name, [*subject.scans.values(), *subject.masks.values()]
    key = json.dumps([VERSION, how.key, [file_key(file) for file in files]])
    record = here / "together.json"
    if record.is_file():
        try:
            kept = _read(record)
            if kept["key"] == key and are_whole(here, kept["files"]):
                return kept
        except InputError as error:
            logger.warning("%s", error)
    try:
        volumes = {}
        for contrast, path in subject.scans.items():
            with reading(path):
                volumes[contrast] = Volume.read(path)
        together = bring_together(volumes, how, mask=subject.masks.get(BRAIN))
        masks = {
            name: labels_together(path, volumes, together.reference, together.placed)
            for name, path in subject.masks.items()
        }
    except InputError as error:
        return str(error)
    record.unlink(missing_ok=True)
    like = together.volumes[together.reference]
    for contrast, volume in together.volumes.items():
        like.write_array(here / f"{contrast}.nii.gz", volume.array, TEXT)
    if together.brain is not None:
        masks[BRAIN] = together.brain
    for name, mask in masks.items():
        like.write_array(here / f"{name}.nii.gz", mask.astype(np.float32), TEXT)
    picture(together, subject.name).save(here / "quality.png")
    kept = _Kept(
        key=key,
        reference=together.reference,
        sources={contrast: place_in(file, root) for contrast, file in subject.scans.items()},
        placed=together.placed,
        masks=list(masks),
        files=sums_of(here, [f"{name}.nii.gz" for name in (*together.volumes, *masks)]),
    )
    stored = {**kept, "placed": {contrast: asdict(one) for contrast, one in together.placed.items()}}
    write_text(record, json.dumps(sealed(stored), indent=1))
    return kept


def _moved_to(subject: Subject, place: Path, kept: _Kept) -> Subject:
    """The subject with what was made of its scans."""
    here = place / subject.name
    return replace(
        subject,
        scans={contrast: here / f"{contrast}.nii.gz" for contrast in subject.scans},
        masks={name: here / f"{name}.nii.gz" for name in kept["masks"] if name in subject.masks},
    )


def _read(record: Path) -> _Kept:
    kept: Any = read_json(record, _Kept, "the scans are registered again")
    kept["placed"] = {contrast: Placed(**values) for contrast, values in kept["placed"].items()}
    return kept


def _table(kept: Mapping[str, _Kept], odd: Mapping[tuple[str, str], list[str]]) -> str:
    """`quality.tsv`."""
    lines = ["subject\tcontrast\treference\tdegrees\tmm\tinformation\tbefore\tstarts_apart_mm\tcovered\todd\tsource"]
    for subject, one in kept.items():
        for contrast, placed in one["placed"].items():
            cells = [
                subject, contrast, one["reference"], f"{placed.degrees:.2f}", f"{placed.millimetres:.2f}",
                f"{placed.information:.3f}", f"{placed.before:.3f}", f"{placed.apart:.2f}", f"{placed.covered:.3f}",
                "; ".join(odd.get((subject, contrast), [])), one["sources"][contrast],
            ]  # fmt: skip
            lines.append("\t".join(cells))
    return "\n".join(lines) + "\n"
