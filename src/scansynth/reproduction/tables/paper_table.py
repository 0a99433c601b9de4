"""What a table of a paper is: data, split, tasks, methods, protocol, and the figures that the paper prints.

Figures are written as in the paper: `30.42±1.40`, `30.75` where the paper gives no deviation, `?` where the text at
hand cannot be read with certainty (`92.97±?` where that is true of the deviation alone). Nothing is guessed.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from scansynth.config import RunConfig
from scansynth.data.prepare import Preparation
from scansynth.metrics.image_metrics import PSNR, SSIM

Change = Callable[[Any], RunConfig[Any]]
"""From one set of settings to another."""

NOT_READABLE = "not readable"
COLUMNS = (PSNR.column, SSIM.column)
"""What most tables give."""

_CELL = re.compile(r"\?|(?P<mean>\d+\.\d+)(±(?P<std>\d+\.\d+|\?))?")


@dataclass(frozen=True)
class Figure:
    """One figure of a paper."""

    mean: float
    """NaN: not readable."""
    std: float | None
    """NaN: not readable; None: the paper gives none."""

    def text(self, digits: int = 2) -> str:
        """`30.42 ± 1.40`, or what of it can be read."""
        if math.isnan(self.mean):
            return NOT_READABLE
        std = "" if self.std is None else f" ± {NOT_READABLE if math.isnan(self.std) else f'{self.std:.{digits}f}'}"
        return f"{self.mean:.{digits}f}{std}"


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """A data set that a table needs."""

    name: str
    """What it is called on the command line."""
    title: str
    """What it is, in words."""
    contrasts: tuple[str, ...]
    """Of the paper; a contrast without a standard name is told in `scans`."""
    split: tuple[int, int, int] | None
    """People who train, validate and test; None where the paper does not give all three."""
    scans: str
    """How many slices, of which resolution, registered how: what the data must be."""
    preparation: Preparation = field(default_factory=Preparation)
    """How scans are prepared."""


@dataclass(frozen=True)
class PaperTask:
    """One training of each method: some contrasts of a data set."""

    name: str
    data: str
    """Name of the data set."""
    contrasts: tuple[str, ...]
    """That a run is trained on."""
    targets: tuple[str, ...]
    """That are measured, in the paper's order; empty where the paper does not say."""
    change: Change | None = None
    """Puts the task into a recipe; None while no method of the table exists."""


@dataclass(frozen=True)
class Row:
    """A method as the paper's table has it."""

    name: str
    """Of its run folder."""
    label: str
    """In the paper."""
    recipe: str | None = None
    """None: the method does not exist here yet."""
    small: str | None = None
    """The recipe of the same method for small slices."""
    change: Change | None = None
    """What makes the variant of the recipe."""
    _: KW_ONLY
    before: tuple[tuple[str, str], ...] = ()
    """The runs that it builds on, one after another, each trained on the task first: recipes at the paper's size and
    small."""
    by_target: bool = False
    """A run for each target: the paper's method makes one contrast, and ours would share its samples among several."""


Cell = tuple[str, str, str]
"""Names of row and task, and the target."""


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table (or a figure's bars) of a paper, as a complete plan."""

    name: str
    shows: str
    """Which table, and what it holds."""
    citation: str
    data: tuple[DataSet, ...]
    training: str
    """The paper's training, in words."""
    tasks: tuple[PaperTask, ...]
    rows: tuple[Row, ...]
    protocol: str | None
    """How it is measured; None while no protocol does."""
    columns: tuple[str, ...] = COLUMNS
    """The protocol's figures that the paper gives."""
    measures: str = ""
    """What the paper gives that no protocol measures yet."""
    figures: Mapping[Cell, Mapping[str, Figure]] = field(default_factory=dict)
    """The paper's; empty where they are not transcribed."""
    notes: tuple[str, ...] = ()
    """Where the paper and this table part, and what could not be read."""
    first_stage: tuple[str, str] | None = None
    """Recipes of the autoencoder that latent methods work on, at the paper's size and small; one run a data set."""

    @property
    def present(self) -> tuple[Row, ...]:
        """Methods that exist."""
        return tuple(row for row in self.rows if row.recipe)

    @property
    def absent(self) -> tuple[Row, ...]:
        """Methods that do not exist yet."""
        return tuple(row for row in self.rows if not row.recipe)

    @property
    def obstacle(self) -> str:
        """Why nothing of it can be run yet; empty where something can."""
        if not self.present:
            return f"no method {', '.join(row.label for row in self.rows)} yet"
        return "" if self.protocol else f"nothing measures {self.measures} yet"

    @property
    def unreadable(self) -> int:
        """Figures of which the mean or the deviation could not be read."""
        figures = [figure for columns in self.figures.values() for figure in columns.values()]
        return sum(math.isnan(figure.mean) or math.isnan(figure.std or 0.0) for figure in figures)

    def data_set(self, name: str) -> DataSet:
        """The data set of that name."""
        return next(one for one in self.data if one.name == name)

    def contrasts_of(self, name: str) -> tuple[str, ...]:
        """Contrasts of a data set that the tasks need, in the data set's order."""
        wanted = {contrast for task in self.tasks if task.data == name for contrast in task.contrasts}
        return tuple(contrast for contrast in self.data_set(name).contrasts if contrast in wanted)


def transcribed(
    text: str, places: Sequence[tuple[str, str]], columns: Sequence[str] = COLUMNS
) -> dict[Cell, dict[str, Figure]]:
    """Figures of a table from lines as they are printed.

    Args:
        text: a line a row: the row's name, then its cells.
        places: (task, target) of the table's columns, in order.
        columns: what is given at each place, in order.
    """
    figures: dict[Cell, dict[str, Figure]] = {}
    for line in text.strip().splitlines():
        row, *cells = line.replace("|", " ").split()
        assert len(cells) == len(places) * len(columns), line
        read = [_figure(cell) for cell in cells]
        for number, (task, target) in enumerate(places):
            own = read[number * len(columns) : (number + 1) * len(columns)]
            figures[row, task, target] = dict(zip(columns, own, strict=True))
    return figures


def _figure(cell: str) -> Figure:
    match = _CELL.fullmatch(cell)
    assert match, cell
    if match["mean"] is None:
        return Figure(math.nan, math.nan)
    std = match["std"]
    return Figure(float(match["mean"]), None if std is None else math.nan if std == "?" else float(std))
