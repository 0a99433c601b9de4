"""Text tables, `.csv` and `.tsv`, read strictly."""

import csv
from collections.abc import Sequence
from pathlib import Path

from scansynth.errors import InputError

UNKNOWN = ("", "n/a")
"""What a cell says whose value is not known (BIDS)."""


def read_rows(table: Path, required: Sequence[str], optional: Sequence[str] | None) -> list[tuple[int, dict[str, str]]]:
    """Read a table whose first line names its columns.

    Args:
        table: the file, UTF-8.
        required: columns that must be there.
        optional: further columns that may be there; None allows any.

    Returns:
        (line number, column → text) of each line that is not empty.

    Raises:
        InputError: if the file is no such table.
    """
    delimiter = {".csv": ",", ".tsv": "\t"}.get(table.suffix.lower())
    if delimiter is None:
        raise InputError(f"{table} is neither a folder nor a table: give a data folder or a .csv or .tsv file")
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:  # -sig: spreadsheets write a byte order mark
            reader = csv.reader(stream, delimiter=delimiter)
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table} is not a UTF-8 text table ({error}): save it as CSV UTF-8") from None
    header = lines[0][1] if lines else []
    if missing := [column for column in required if column not in header]:
        raise InputError(f"{table} lacks the columns {', '.join(missing)}: its first line says {', '.join(header)!r}")
    if len(set(header)) < len(header):
        raise InputError(f"{table} names a column twice: its first line says {', '.join(header)!r}")
    if optional is not None and (unknown := [column for column in header if column not in (*required, *optional)]):
        known = ", ".join((*required, *optional))
        raise InputError(f"{table} has unknown columns {', '.join(unknown)}: only {known} are read, remove the others")
    rows = []
    for line, cells in lines[1:]:
        if not any(cells):
            continue
        if len(cells) != len(header):
            wrong = f"{table} line {line} has {len(cells)} cells, its first line {len(header)}"
            raise InputError(f"{wrong}: mend the line (text that holds a separator needs quotes)")
        rows.append((line, dict(zip(header, cells, strict=True))))
    return rows
