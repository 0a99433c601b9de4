"""Subjects of a table, `.csv` or `.tsv`: columns subject, contrast, path and, optionally, split."""

import os
from pathlib import Path

from scansynth.data.contrasts import standard_name
from scansynth.data.subject import MASKS, Subject, add_file, check_name, make_subject
from scansynth.data.text_table import is_unknown, read_rows
from scansynth.errors import InputError, located, shown

COLUMNS = ("subject", "contrast", "path")


def read_table(table: Path) -> tuple[list[Subject], list[tuple[str, str]]]:
    """Subjects of a table, and its (subject, split) pairs.

    Raises:
        InputError: if it is no such table, or one of its lines is wrong.
    """
    files: dict[str, dict[str, Path]] = {}
    splits = []
    lines: dict[Path, int] = {}
    spelt: dict[str, str] = {}
    for line, row in read_rows(table, COLUMNS, ("split",)):
        where = f"{table} line {line}"
        if empty := [column for column in COLUMNS if not row[column]]:
            raise InputError(f"{where} has no {' and no '.join(empty)}: fill it in or remove the line")
        subject = row["subject"]
        with located(where):
            check_name(subject)
        if (before := spelt.setdefault(subject.lower(), subject)) != subject:
            raise InputError(f"{where} names {subject}, another line {before}: write one subject in one way")
        file = _existing(where, Path(os.path.abspath(table.parent / row["path"])))
        if file in lines:
            raise InputError(f"{where} names the file of line {lines[file]} again: give each scan its own file")
        lines[file] = line
        add_file(files.setdefault(subject, {}), _kind(where, row["contrast"]), file)
        if not is_unknown(row.get("split", "")):
            splits.append((subject, row["split"]))
    if not files:
        raise InputError(f"{table} lists no scans: add a line for each, with {', '.join(COLUMNS)}")
    masks = {name: {kind: own.pop(kind) for kind in MASKS if kind in own} for name, own in files.items()}
    if bare := [name for name, scans in files.items() if not scans]:
        kind = next(iter(masks[bare[0]]))
        raise InputError(f"{table} lists a {kind} mask of {bare[0]} and no scan: add one or remove the line")
    return [make_subject(name, scans, masks[name]) for name, scans in files.items()], splits


def _kind(where: str, contrast: str) -> str:
    """Standard name of a contrast, or the kind of a mask."""
    if contrast.lower() in MASKS:
        return contrast.lower()
    with located(where):
        return standard_name(contrast)


def _existing(where: str, file: Path) -> Path:
    try:
        is_folder, is_file = file.is_dir(), file.is_file()
    except OSError as error:  # no name of a file
        raise InputError(f"{where}: {shown(str(file))} cannot be looked for ({error.strerror}): correct it") from error
    if is_folder:
        raise InputError(
            f"{where}: {file} is a folder: name an image file in it (a folder of DICOM files is first converted to "
            "NIfTI, with dcm2niix)"
        )
    if not is_file:
        raise InputError(f"{where}: {file} does not exist: correct the path, it is relative to the table's folder")
    return file
