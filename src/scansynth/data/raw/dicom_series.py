"""DICOM of subjects into NIfTI by dcm2niix, and which of the series is which contrast.

A folder below the data folder is a subject. Everything in it is converted into `converted/<subject>`, a file a series,
named by its number; sidecars keep times, angles and maker, and no text. Which series is which contrast goes by what the
scanner was told (echo, repetition and inversion time, sequence, agent) and by the series' description: where the two
agree on one contrast, or one of them is silent, that is it. What stays open, and a contrast that several series have,
is an error which says how to name the one that is meant, in a table of subject, series and contrast.
"""

import hashlib
import json
import logging
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict

from scansynth.data.acquisitions import KEPT
from scansynth.data.ahead import in_order
from scansynth.data.contrasts import STANDARD, contrasts_in, standard_name
from scansynth.data.image_files import Folder, walk
from scansynth.data.kept_values import file_key, known_values
from scansynth.data.layouts import Listing
from scansynth.data.not_taken import KINDS, LOCALIZERS, NotTaken
from scansynth.data.raw.archives import is_archive, opened
from scansynth.data.raw.folders import CONVERTED, are_whole, claim, sums_of
from scansynth.data.readers import reading
from scansynth.data.subject import make_subject
from scansynth.data.text_table import read_rows
from scansynth.errors import InputError, located
from scansynth.files import write_text
from scansynth.progress import Event, Report
from scansynth.records import read_json as read_record
from scansynth.records import sealed
from scansynth.users_files import parse_json

logger = logging.getLogger(__name__)

COLUMNS = ("subject", "series", "contrast")
LAYOUT = "DICOM"
VERSION = 2
"""Goes up when series are told apart otherwise."""
NONE = "none"
"""Contrast of a series that is not meant, in a table."""
_PARTS = re.compile(r".*_(ph|phase|real|imaginary|ROI\d*|Tilt)", re.IGNORECASE)
"""Products of dcm2niix beside a series: phase, real and imaginary parts, overlays, a tilted stack as it lay."""
_DERIVED = {
    "ADC", "FA", "TRACEW", "TRACE", "EADC", "MIP", "MINIP", "MPR", "PROJECTION IMAGE", "SUBTRACTION", "PERFUSION",
    "PHASE", "P", "PHASE MAP",
}  # fmt: skip
"""Values of Image Type that no scan has which is worked on here."""

Person = tuple[str, str]
"""Patient ID and name of DICOM."""
Told = Mapping[str, Any]
"""A sidecar as dcm2niix writes it: times in seconds."""


@dataclass(frozen=True)
class Series:
    """A converted series."""

    number: str
    """As its file is named: `3`, `3_e2` for the second echo."""
    file: Path
    description: str
    """What the scanner's operator called it."""
    contrasts: tuple[str, ...]
    """Which it may be; none where it is no such scan."""
    why: str
    """Why it is none, where it is."""


def is_dicom(root: Path) -> bool:
    """Whether a folder holds DICOM and no image of another format; a zip archive can be nothing else here."""
    if not root.is_dir():
        return is_archive(root)
    folders = list(walk(root).all())
    return any(folder.dicom for folder in folders) and not any(folder.readable for folder in folders)


def convert(root: Path, out: Path, *, table: Path | None = None, report: Report | None = None) -> Listing:
    """Convert the DICOM of all subjects; what is converted is kept.

    Args:
        root: the data folder: a folder a subject, or one subject's DICOM; or a zip archive of such a folder.
        out: folder in which `converted` is made.
        table: `.csv` or `.tsv` of subject, series and contrast, which counts before all else; `none` leaves one out.
        report: told of each subject.

    Raises:
        InputError: if dcm2niix is missing or fails, a folder holds several people, it is not clear which series is
            which contrast, or the table names what is not there.
    """
    place = out / CONVERTED
    claim(place, {"version": VERSION})
    with opened(root) as folder:
        return _listed(_subjects(walk(folder)), root, place, table=table, report=report)


def _listed(
    folders: Sequence[Folder],
    root: Path,
    place: Path,
    *,
    table: Path | None,
    report: Report | None,
) -> Listing:
    """The subjects of folders, converted."""
    named = _table(table) if table else {}
    names = [_name(folder.path) for folder in folders]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{root}: two folders would both be subject {twice[0]}: rename one of them")
    subjects, left, problems = [], [], []
    for done, (folder, found) in enumerate(in_order(lambda one: _converted(one, place), folders)):
        name = _name(folder.path)
        chosen, others, unclear = choose(name, found.series, named.pop(name, {}))
        problems += unclear
        if not unclear:
            found.remember()
        left += [NotTaken(one.file, one.why or "another series of a contrast that was taken", name, one.contrasts,
                          scan=bool(one.contrasts)) for one in others]  # fmt: skip
        if chosen:
            subjects.append(make_subject(name, {contrast: one.file for contrast, one in chosen.items()}))
        if report:
            report(Event(done + 1, len(folders), name))
    if named:
        raise InputError(f"{table}: {next(iter(named))} is no subject in {root}")
    if problems:
        raise InputError("; ".join(problems))
    if not subjects:
        raise InputError(f"{root}: of its DICOM no series is a contrast that is known")
    there = {contrast for one in subjects for contrast in one.scans}
    standard = [contrast for contrast in STANDARD if contrast in there]
    contrasts = (*standard, *sorted(there.difference(standard)))
    return Listing(LAYOUT, place, tuple(sorted(subjects, key=lambda one: one.name)), contrasts, tuple(left))


def one_series(path: Path, into: Path) -> tuple[Path, Person]:
    """Convert the one series of a folder or zip archive.

    Args:
        path: of the DICOM.
        into: a folder for it.

    Returns:
        The NIfTI file, named by the series' number, and whose it is: to be compared, and never kept.

    Raises:
        InputError: if dcm2niix is missing or fails, or there is not one series in it.
    """
    with located(path), opened(path) as folder, TemporaryDirectory(dir=into) as made:
        _dcm2niix(folder, Path(made))
        found, person = _taken(folder, Path(made), into)
    numbers = {one.number for one in found}
    whole = [one for one in found if not _PARTS.fullmatch(one.number) and f"{one.number}_Eq" not in numbers]
    if len(whole) != 1:
        raise InputError(f"{path}: give the folder of one series; it holds {_named(found)}")
    return whole[0].file, person


def choose(
    subject: str, series: Sequence[Series], named: Mapping[str, str]
) -> tuple[dict[str, Series], list[Series], list[str]]:
    """Which series is which contrast.

    Args:
        subject: whose they are.
        series: all of the subject's.
        named: number of a series → contrast, by the user's table.

    Returns:
        Contrast → series, those that are none, and what is not clear, in words.
    """
    numbers = {one.number for one in series}
    unclear = [
        f"{subject} has no series {number} (it has {', '.join(sorted(numbers))})" for number in named.keys() - numbers
    ]
    found: dict[str, list[Series]] = {}
    for one in series:
        if one.number in named:
            found.setdefault(named[one.number], []).append(one)
    settled = set(found)
    found.pop(NONE, None)
    open_ones = [one for one in series if one.number not in named]
    for one in open_ones:
        if len(one.contrasts) == 1 and one.contrasts[0] not in settled:
            found.setdefault(one.contrasts[0], []).append(one)
    for contrast, several in found.items():
        if len(several) > 1:
            unclear.append(
                f"{subject}: {_named(several)} may each be its {contrast}; {_line(subject, several[0], contrast)}"
            )
    for one in open_ones:
        if len(one.contrasts) > 1 and not set(one.contrasts) & found.keys():
            kinds = " or ".join(one.contrasts)
            unclear.append(f"{subject}: {_named([one])} may be {kinds}; {_line(subject, one, one.contrasts[0])}")
    chosen = {contrast: several[0] for contrast, several in found.items()}
    taken = {one.number for one in chosen.values()}
    return chosen, [one for one in series if one.number not in taken], unclear


def _named(series: Sequence[Series]) -> str:
    return "series " + " and ".join(f"{one.number} ({one.description or 'no description'})" for one in series)


def _line(subject: str, one: Series, contrast: str) -> str:
    return f"name it in a --series table ({','.join(COLUMNS)}), as {subject},{one.number},{contrast}"


def contrasts_of(told: Told, number: str = "") -> tuple[tuple[str, ...], str]:
    """Which contrasts a series may be, and, where it is none, why.

    Args:
        told: its sidecar.
        number: of its file, whose ending says what dcm2niix made of it.
    """
    description = " ".join(str(told.get(key, "")) for key in ("SeriesDescription", "ProtocolName", "SequenceName"))
    words = set(re.findall(r"[a-z0-9]+", description.lower()))
    kinds = {str(kind).upper() for kind in told.get("ImageType", ())}
    if _PARTS.fullmatch(number):
        return (), "a part or product of a series, no magnitude image"
    if LOCALIZERS.search(description.lower()):
        return (), "localizer: no scan to work on"
    if found := kinds & _DERIVED:
        return (), f"computed, not acquired (Image Type {sorted(found)[0]})"
    if told.get("Modality") == "CT":
        return ("CT",), ""
    if words & set(KINDS) and "flair" not in words:
        return (), "another kind of image (functional, diffusion, vessels …)"
    said = set(contrasts_in(str(told.get("SeriesDescription", "")))) or set(contrasts_in(description))
    if "FLAIR" in said:  # T2 FLAIR
        said.discard("T2w")
    measured = set(_by_times(told))
    both = said & measured if said and measured else said | measured
    if said and measured and not both:  # the two contradict each other
        both = said | measured
    if {"T1w", "T1ce"} <= both:
        both -= {"T1w"} if told.get("ContrastBolusAgent") or said == {"T1ce"} else {"T1ce"}
    elif both == {"T1w"} and told.get("ContrastBolusAgent"):
        both = {"T1ce"}
    order = [*STANDARD, *sorted(both - set(STANDARD))]
    return tuple(
        name for name in order if name in both
    ), "" if both else "neither its times nor its name say a contrast"


def _by_times(told: Told) -> tuple[str, ...]:
    """The contrasts that echo, repetition and inversion time (s) and sequence allow; none where they say nothing."""
    echo, repetition, inversion = (_number(told, key) for key in ("EchoTime", "RepetitionTime", "InversionTime"))
    sequence = str(told.get("ScanningSequence", "")).upper()
    if echo is None or repetition is None:
        return ()
    if inversion and inversion >= 1.5 and echo >= 0.06:
        return ("FLAIR",)
    if "GR" in sequence and "SE" not in sequence:
        if echo >= 0.012:
            return ("T2starw",)
        return ("T1w", "T1ce") if inversion or repetition <= 0.05 else ()
    if "SE" not in sequence:
        return ()
    if inversion and 0.3 <= inversion < 1.5 and echo <= 0.04:
        return ("T1w", "T1ce")
    if repetition <= 1.3 and echo <= 0.04:
        return ("T1w", "T1ce")
    if repetition >= 1.8 and echo >= 0.07:
        return ("T2w",) if repetition < 6 and inversion is None else ("T2w", "FLAIR")
    return ("PDw",) if repetition >= 1.8 and echo <= 0.04 else ()


def _number(told: Told, key: str) -> float | None:
    value = told.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _subjects(tree: Folder) -> list[Folder]:
    """The folders that are subjects: those right below the data folder that hold DICOM, or it itself."""
    if tree.dicom:
        return [tree]
    return [one for one in tree.folders if any(folder.dicom for folder in one.all())]


def _name(folder: Path) -> str:
    return re.sub(r"[^\w.-]+", "-", folder.name).strip("-.") or "subject"


class _Kept(TypedDict):
    """`series.json`: without what the operator wrote, which may name anybody."""

    key: str
    series: dict[str, tuple[list[str], str]]
    files: dict[str, str]


@dataclass(frozen=True)
class _Converted:
    """A subject's series, and where they are."""

    here: Path
    key: str
    series: list[Series]

    def remember(self) -> None:
        """Write down that they are converted. While it is open which is which they are converted anew each time: the
        record keeps no descriptions, and the message needs them."""
        told = {one.number: (one.contrasts, one.why) for one in self.series}
        files = [f"{one.number}{ending}" for one in self.series for ending in (".nii.gz", ".json")]
        content = {"key": self.key, "series": told, "files": sums_of(self.here, files)}
        write_text(self.here / "series.json", json.dumps(sealed(content), indent=1))


def _converted(folder: Folder, place: Path) -> _Converted:
    """The series of a subject; converted unless they are."""
    here = place / _name(folder.path)
    record = here / "series.json"
    files = sorted(file for file in folder.path.rglob("*") if file.is_file())
    # By their places in it: an archive is unpacked elsewhere each time.
    key = json.dumps([VERSION, [[str(file.relative_to(folder.path)), *file_key(file)[1:]] for file in files]])
    key = hashlib.sha256(key.encode()).hexdigest()
    if record.is_file():
        try:
            kept = read_record(record, _Kept, "the series are converted again")
            if kept["key"] == key and are_whole(here, kept["files"]):
                found = kept["series"].items()
                return _Converted(here, key, [
                    Series(number, here / f"{number}.nii.gz", "", tuple(contrasts), why)
                    for number, (contrasts, why) in found
                ])  # fmt: skip
        except InputError as error:
            logger.warning("%s", error)
    shutil.rmtree(here, ignore_errors=True)
    here.mkdir(parents=True)
    with TemporaryDirectory(dir=here) as made:
        _dcm2niix(folder.path, Path(made))
        return _Converted(here, key, _taken(folder.path, Path(made), here)[0])


def _dcm2niix(folder: Path, out: Path) -> None:
    program = shutil.which("dcm2niix")
    if program is None:
        try:
            import dcm2niix
        except ImportError:
            raise InputError("DICOM is converted by dcm2niix: pip install 'scansynth[raw]'") from None
        program = dcm2niix.bin
    done = subprocess.run(
        [program, "-z", "y", "-b", "y", "-ba", "n", "-f", "%s", "-o", str(out), str(folder)],
        capture_output=True, text=True, errors="replace",
    )  # fmt: skip
    if done.returncode or not any(out.glob("*.nii.gz")):
        last = (done.stdout + done.stderr).strip().splitlines()[-1:] or ["nothing"]
        raise InputError(f"{folder}: dcm2niix made nothing of it (exit {done.returncode}); it said: {last[0]}")


def _taken(folder: Path, made: Path, here: Path) -> tuple[list[Series], Person]:
    """What dcm2niix made, moved to its place with sidecars that name nobody; and who it is."""
    people, series = set(), []
    for file in sorted(made.glob("*.nii.gz")):
        number = file.name.removesuffix(".nii.gz")
        sidecar = made / f"{number}.json"
        with reading(folder):
            told = parse_json(sidecar.read_bytes()) if sidecar.is_file() else {}
        people.add((str(told.get("PatientID", "")), str(told.get("PatientName", ""))))
        contrasts, why = contrasts_of(told, number)
        if (made / f"{number}_Eq.nii.gz").exists():
            contrasts, why = (), "slices at unequal distances: its even copy (_Eq) is taken"
        shutil.move(file, here / file.name)
        kept = known_values({key: told[key] for key in KEPT if key in told}, f"{here.name} {number}")
        write_text(here / f"{number}.json", json.dumps(kept, indent=1))
        description = str(told.get("SeriesDescription", told.get("ProtocolName", "")))
        series.append(Series(number, here / file.name, description, contrasts, why))
    if len(people) > 1:
        shutil.rmtree(here)
        raise InputError(f"{folder}: holds DICOM of {len(people)} people: give each a folder of their own")
    return series, people.pop()


def _table(table: Path) -> dict[str, dict[str, str]]:
    """Subject → number of a series → contrast."""
    found: dict[str, dict[str, str]] = {}
    for line, row in read_rows(table, COLUMNS, ()):
        if empty := [column for column in COLUMNS if not row[column]]:
            raise InputError(f"{table} line {line} has no {empty[0]}: fill it in or remove the line")
        contrast = row["contrast"] if row["contrast"] == NONE else standard_name(row["contrast"])
        found.setdefault(row["subject"], {})[row["series"]] = contrast
    return found
