"""Text tables, `.csv` and `.tsv`, read strictly: nothing in a file is passed over without a word."""

import csv
import io
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from scansynth.errors import InputError, shown
from scansynth.users_files import read_text

UNKNOWN = ("", "n/a")
"""What a cell says whose value is not known (BIDS), in any case."""


def is_unknown(text: str) -> bool:
    """Whether a cell says that its value is not known."""
    return text.lower() in UNKNOWN


def read_rows(
    table: Path, required: Sequence[str], optional: Sequence[str] = (), *, others: bool = False
) -> list[tuple[int, dict[str, str]]]:
    """Read a table whose first line names its columns; required and optional ones are known in any case.

    Args:
        table: the file, UTF-8.
        required: columns that must be there.
        optional: further columns that may be there.
        others: whether any further columns may be there; they keep their spelling.

    Returns:
        (line number, column → text) of each line that is not empty.

    Raises:
        InputError: if the file is no such table.
    """
    lines = _lines(table)
    known = {column.lower(): column for column in (*required, *optional)}
    header = [known.get(cell.lower(), cell) for cell in lines[0][1]] if lines else []
    named = [column for column in header if column]
    if missing := [column for column in required if column not in header]:
        raise InputError(
            f"{table} lacks the columns {', '.join(missing)}: its first line says {shown(', '.join(header))}"
        )
    if len(set(named)) < len(named):
        raise InputError(f"{table} names a column twice: its first line says {shown(', '.join(lines[0][1]))}")
    if not others and (unknown := [column for column in named if column not in known.values()]):
        told = ", ".join(known.values())
        raise InputError(f"{table} has unknown columns {', '.join(unknown)}: only {told} are read, remove the others")
    return [(line, _row(f"{table} line {line}", header, cells)) for line, cells in lines[1:] if any(cells)]


def stated_file(root: Path, name: str, others: Sequence[str]) -> Path | None:
    """The file of a data folder that goes by a fixed name, in any case; None where there is none.

    Args:
        root: the data folder.
        name: as `splits.json`.
        others: patterns of names (`split*.csv`) by which it may have been meant to be that file.

    Raises:
        InputError: if it is there twice, cannot be read, or only under another name, so that what it says would be
            passed over.
    """
    there = sorted(os.listdir(root))
    files = [file for file in there if file.lower() == name]
    if not files:
        meant = [file for file in there if any(fnmatchcase(file.lower(), pattern) for pattern in others)]
        if meant:
            raise InputError(f"{root / meant[0]} is not read: save it as {name}, or move it away if it says nothing of "
                             "these scans")  # fmt: skip
        return None
    if len(files) > 1:
        raise InputError(f"{root} has {' and '.join(files)}: keep one of them")
    if not (root / files[0]).is_file():
        raise InputError(f"{root / files[0]} is no file, or a link to one that is not there: put the file there, or "
                         "remove it")  # fmt: skip
    return root / files[0]


def _lines(table: Path) -> list[tuple[int, list[str]]]:
    """(Line number, cells) of all lines."""
    delimiter = {".csv": ",", ".tsv": "\t"}.get(table.suffix.lower())
    if delimiter is None:
        raise InputError(f"{table} is neither a folder nor a table: give a data folder or a .csv or .tsv file")
    # A quote that nobody closes makes one cell of all lines to the next one, or of the rest: never read on after it.
    reader = csv.reader(io.StringIO(read_text(table), newline=""), delimiter=delimiter, strict=True)
    lines: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            lines.append((reader.line_num, [cell.strip() for cell in cells]))
            if any("\n" in cell or "\r" in cell for cell in cells):
                raise csv.Error("a quoted cell goes on in the next line")
    except csv.Error as error:
        raise InputError(f"{table} line {reader.line_num}: {error}: mend the quotes of that cell") from None
    return lines


def _row(where: str, header: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    """Column → text of a line; `where` it stands, for messages."""
    if len(cells) != len(header):
        raise InputError(
            f"{where} has {len(cells)} cells, its first line {len(header)}: mend the line (text that holds a separator "
            "needs quotes)"
        )
    if nameless := [cell for column, cell in zip(header, cells, strict=True) if cell and not column]:
        raise InputError(f"{where}: {shown(nameless[0])} stands in a column without a name: name it in the first line")
    return {column: cell for column, cell in zip(header, cells, strict=True) if column}
