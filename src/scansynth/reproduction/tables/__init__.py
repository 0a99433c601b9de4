"""Tables of the papers: data, split, methods, protocol and the printed figures; one file a paper."""

from scansynth.errors import InputError
from scansynth.reproduction.tables import cdpm, cg_ddpm, cola_diff, mrdiff, syndiff
from scansynth.reproduction.tables.paper_table import PaperTable

TABLES: dict[str, PaperTable] = {
    table.name: table for paper in (syndiff, mrdiff, cola_diff, cg_ddpm, cdpm) for table in paper.TABLES
}


def find_table(name: str) -> PaperTable:
    """The table of that name; underscores may stand for hyphens.

    Raises:
        InputError: if there is none.
    """
    table = TABLES.get(name.replace("_", "-"))
    if table is None:
        raise InputError(f"table {name!r} is unknown: choose from {', '.join(TABLES)}")
    return table
