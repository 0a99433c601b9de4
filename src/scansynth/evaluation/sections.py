"""What a page shows of figures: tables as text, and sections of them. Nothing here knows HTML."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """One figure."""

    text: str
    spread: str = ""
    """`± 1.26`, where there is one."""
    best: bool = False
    mark: str = ""
    """Stars of a difference to the reference."""


@dataclass(frozen=True)
class Line:
    """One line of a table."""

    names: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """Headings and lines, and what the reader must know of them."""

    title: str
    names: tuple[str, ...]
    """Headings of the first columns, which are text."""
    headings: tuple[str, ...]
    """Headings of the figures."""
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the report."""

    name: str
    """Its address on the page, `uncertainty`: one word."""
    heading: str
    text: str = ""
    """A paragraph above the table."""
    table: Table | None = None
    plots: Mapping[str, str] = field(default_factory=dict)
    """Files of the evaluation's folder, each with what it shows, for those who do not see it."""
