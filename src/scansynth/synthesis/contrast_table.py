"""`contrasts.tsv` of a folder of translations: which contrast of which subject is real, synthetic, absent or failed.

Several commands may write into one folder, by other runs or from other data: the table is of all of them. What is
synthetic is read from the sidecars that stand there, never from the table before.
"""

import csv
import io
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

from scansynth.data.contrasts import STANDARD
from scansynth.data.layouts import Listing
from scansynth.data.subject import sidecar_of
from scansynth.errors import InputError
from scansynth.files import write_text
from scansynth.synthesis.image import content_of, is_whole
from scansynth.synthesis.writers.bids import SIDECARS, output_path, place_of
from scansynth.users_files import read_text

NAME = "contrasts.tsv"
REAL, SYNTHETIC, ABSENT, FAILED = STATUSES = ("real", "synthetic", "absent", "failed")

Image = tuple[str, str]
"""Subject and contrast."""

_PATH = re.compile(r"(?<![\w.:/])(?:/[^\s/:;,'\"]+)+/([^\s/:;,'\"]+)")  # an absolute one
_BEFORE = "subject\tcontrast\tstatus\tpath"  # the first line that older versions wrote


@dataclass(frozen=True)
class Entry:
    """One contrast of one subject, a row of the table."""

    subject: str
    contrast: str
    status: str
    """real, synthetic, absent or failed. Of what is real, too, there may be a synthetic or failed one: a second row."""
    path: str
    """Its file: a real one by its place in the data (in BIDS a URI), a synthetic one relative to the table's folder;
    empty where there is none."""
    note: str = ""
    """Why there is none, or why a synthetic image was not made again."""


@dataclass(frozen=True)
class Named:
    """The subjects of a table, and how it names their files: no folder above the data is in it."""

    listing: Listing
    link: str | None
    """What the folder calls the data in BIDS URIs (`writers.bids.describe`); None where they are not BIDS."""
    folders: tuple[Path, ...] = ()
    """Further ones that messages may name."""

    def place(self, file: Path) -> str:
        """Of a scan."""
        return place_of(file, self.listing.root, self.link)

    def told(self, why: str) -> str:
        """A message, with files by their places in the data and folders by their names."""
        scans = {str(file) for subject in self.listing.subjects for file in subject.scans.values()}
        for file in sorted((file for file in scans if file in why), key=len, reverse=True):
            why = why.replace(file, place_of(Path(file), self.listing.root))
        for folder in (self.listing.root, *self.folders):
            for written in {str(folder), str(folder.absolute())} - {"."}:
                why = why.replace(written, folder.absolute().name)
        return _PATH.sub(r"\1", why)


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


def synthetic_images(out: Path, hashed: Collection[str] = ()) -> dict[Image, list[tuple[Path, str]]]:
    """The whole synthetic images that stand in a folder of translations, by their sidecars, whichever run made them.

    Args:
        out: the folder.
        hashed: subjects whose images are read in full; the others' sizes are right.

    Returns:
        Subject and contrast → file, and by which run.
    """
    found: dict[Image, list[tuple[Path, str]]] = {}
    for sidecar in sorted(one for pattern in SIDECARS for one in out.glob(pattern)):
        content = content_of(sidecar)
        subject, contrast = str(content.get("subject")), str(content.get("target"))
        for layout in ("BIDS", "table"):
            image = output_path(out, layout, subject, contrast)
            if (
                sidecar_of(image) == sidecar
                and content.get("synthetic") is True
                and is_whole(image, hashed=subject in hashed)
            ):
                # Older versions wrote the whole path of the run.
                by = f"made by {Path(str(content.get('run'))).name}, seed {content.get('seed')}"
                found.setdefault((subject, contrast), []).append((image, by))
    return found


def list_contrasts(
    named: Named, out: Path, made: Iterable[Path], failures: Mapping[Image, str], absent: Mapping[Image, str]
) -> list[Entry]:
    """The rows of a table: each contrast of the data, of the run and of what stands in the folder, for each subject.

    Rows of the table before stay where this command says nothing: those of subjects that it did not list, and images
    that failed and are still not there.

    Args:
        named: the subjects.
        out: the folder of translations.
        made: images that this command made or found as wanted.
        failures: why images could not be made.
        absent: of each contrast of the run, why there is none if there is none.
    """
    listed = {subject.name for subject in named.listing.subjects}
    there, before, mine = synthetic_images(out, listed), read_table(out / NAME), set(made)
    listing, failures = named.listing, {image: named.told(why) for image, why in failures.items()}
    failed_before = {(row.subject, row.contrast): row.note for row in before if row.status == FAILED}
    known = {name for _, name in (*there, *absent)} | {row.contrast for row in before} | {*listing.contrasts}
    contrasts = [*(name for name in STANDARD if name in known), *sorted(known.difference(STANDARD))]
    rows = []
    for subject in listing.subjects:
        for name in contrasts:
            image = (subject.name, name)
            if name in subject.scans:
                rows.append(Entry(*image, REAL, named.place(subject.scans[name])))
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
    rows += [_without_folders(row) for row in before if row.subject not in listed and _still_so(row, there)]
    rows += [
        Entry(*image, SYNTHETIC, file.relative_to(out).as_posix(), by)
        for image, files in there.items()
        if image[0] not in listed
        for file, by in files
    ]
    return sorted(rows, key=lambda row: (row.subject, contrasts.index(row.contrast), STATUSES.index(row.status)))


def _still_so(row: Entry, there: Mapping[Image, object]) -> bool:
    """Whether a row of an older table holds, as far as it can be seen; what is synthetic is listed by its sidecar.

    Where the scans of subjects lie that are not listed now, the table does not say; older versions did.
    """
    if row.status == REAL:
        return not os.path.isabs(row.path) or Path(row.path).is_file()
    return row.status in (ABSENT, FAILED) and (row.subject, row.contrast) not in there


def _without_folders(row: Entry) -> Entry:
    """A row of an older version without the machine's folders."""
    path = Path(row.path).name if os.path.isabs(row.path) else row.path
    return replace(row, path=path, note=_PATH.sub(r"\1", row.note))
