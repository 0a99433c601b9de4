"""`contrasts.tsv` of a folder of translations: which contrast of which subject is real, synthetic, absent or failed.

Several commands may write into one folder, by other runs or from other data: the table is of all of them. What is
synthetic is read from the sidecars that stand there, never from the table before.
"""

import csv
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from scansynth.data.contrasts import STANDARD
from scansynth.data.layouts import Listing
from scansynth.data.subject import sidecar_of
from scansynth.errors import InputError
from scansynth.files import write_text
from scansynth.synthesis.image import content_of, is_whole
from scansynth.synthesis.writers.bids import SIDECARS, output_path
from scansynth.users_files import read_text

NAME = "contrasts.tsv"
REAL, SYNTHETIC, ABSENT, FAILED = STATUSES = ("real", "synthetic", "absent", "failed")

Image = tuple[str, str]
"""Subject and contrast."""

_BEFORE = "subject\tcontrast\tstatus\tpath"  # the first line that older versions wrote


@dataclass(frozen=True)
class Entry:
    """One contrast of one subject, a row of the table."""

    subject: str
    contrast: str
    status: str
    """real, synthetic, absent or failed. Of what is real, too, there may be a synthetic or failed one: a second row."""
    path: str
    """Its file: a real one absolute, a synthetic one relative to the table's folder; empty where there is none."""
    note: str = ""
    """Why there is none, or why a synthetic image was not made again."""


COLUMNS = tuple(column.name for column in fields(Entry))


def check_table(path: Path) -> None:
    """Check that a table that stands there is one of ours, so that it may be written anew.

    Raises:
        InputError: if it is not, by its first line.
    """
    if not os.path.lexists(path):
        return
    try:
        first = read_text(path).partition("\n")[0].rstrip("\r")
    except InputError:
        first = ""
    if first not in ("\t".join(COLUMNS), _BEFORE):
        raise InputError(f"{path} is no table of this program (by its first line) and stays: choose another -o")


def write_table(entries: Iterable[Entry], path: Path) -> None:
    """Write the table.

    Raises:
        InputError: if another table stands there.
    """
    check_table(path)
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(astuple(entry) for entry in entries)
    write_text(path, text.getvalue())


def read_table(path: Path) -> list[Entry]:
    """The rows of a table; none where it is not there or of an older version, whose paths say less."""
    try:
        first, *rows = csv.reader(io.StringIO(read_text(path), newline=""), delimiter="\t")
    except (ValueError, csv.Error):
        return []
    return [Entry(*row) for row in rows if len(row) == len(COLUMNS)] if tuple(first) == COLUMNS else []


def synthetic_images(out: Path) -> dict[Image, list[tuple[Path, str]]]:
    """The whole synthetic images that stand in a folder of translations, by their sidecars, whichever run made them.

    Returns:
        Subject and contrast → file, and by which run.
    """
    found: dict[Image, list[tuple[Path, str]]] = {}
    for sidecar in sorted(one for pattern in SIDECARS for one in out.glob(pattern)):
        content = content_of(sidecar)
        subject, contrast = str(content.get("subject")), str(content.get("target"))
        for layout in ("BIDS", "table"):
            image = output_path(out, layout, subject, contrast)
            if sidecar_of(image) == sidecar and content.get("synthetic") is True and is_whole(image):
                by = f"made by {content.get('run')}, seed {content.get('seed')}"
                found.setdefault((subject, contrast), []).append((image, by))
    return found


def list_contrasts(
    listing: Listing, out: Path, made: Iterable[Path], failures: Mapping[Image, str], absent: Mapping[Image, str]
) -> list[Entry]:
    """The rows of a table: each contrast of the data, of the run and of what stands in the folder, for each subject.

    Rows of the table before stay where this command says nothing: those of subjects that it did not list, and images
    that failed and are still not there.

    Args:
        listing: the subjects.
        out: the folder of translations.
        made: images that this command made or found as wanted.
        failures: why images could not be made.
        absent: of each contrast of the run, why there is none if there is none.
    """
    there, before, mine = synthetic_images(out), read_table(out / NAME), set(made)
    failed_before = {(row.subject, row.contrast): row.note for row in before if row.status == FAILED}
    named = {name for _, name in (*there, *absent)} | {row.contrast for row in before} | {*listing.contrasts}
    contrasts = [*(name for name in STANDARD if name in named), *sorted(named.difference(STANDARD))]
    rows = []
    for subject in listing.subjects:
        for name in contrasts:
            image = (subject.name, name)
            if name in subject.scans:
                rows.append(Entry(*image, REAL, os.path.abspath(subject.scans[name])))
            for file, by in there.get(image, ()):
                note = "" if file in mine else failures.get(image, by)
                rows.append(Entry(*image, SYNTHETIC, file.relative_to(out).as_posix(), note))
            if image in there:
                continue
            if image in failures:
                rows.append(Entry(*image, FAILED, "", failures[image]))
            elif name not in subject.scans:
                old = failed_before.get(image)
                rows.append(Entry(*image, FAILED if old else ABSENT, "", old or absent.get(image, "not of this run")))
    listed = {subject.name for subject in listing.subjects}
    rows += [row for row in before if row.subject not in listed and _still_so(row, there)]
    rows += [
        Entry(*image, SYNTHETIC, file.relative_to(out).as_posix(), by)
        for image, files in there.items()
        if image[0] not in listed
        for file, by in files
    ]
    return sorted(rows, key=lambda row: (row.subject, contrasts.index(row.contrast), STATUSES.index(row.status)))


def _still_so(row: Entry, there: Mapping[Image, object]) -> bool:
    """Whether a row of an older table holds; what is synthetic is listed by its sidecar."""
    if row.status == REAL:
        return Path(row.path).is_file()
    return row.status in (ABSENT, FAILED) and (row.subject, row.contrast) not in there
