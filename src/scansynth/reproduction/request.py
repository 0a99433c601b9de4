"""What is to be reproduced, and of which settings and folders that consists.

settings.json                 what was asked, and the steps that minutes came to
data/<set>/                   phantoms, in a small run without data
cohort/<set>/                 prepared
runs/<task>/<method>/         trained
evaluation/<task>/            measured and compared
reproduction.md .csv .json    beside the paper's figures
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

from scansynth.config import DataSettings, RunConfig
from scansynth.data.coarse_phantoms import SIZE, SPACING
from scansynth.data.layouts import Listing, find_subjects
from scansynth.data.phantom import CONTRASTS as PHANTOM_CONTRASTS
from scansynth.data.prepare import Preparation
from scansynth.data.splits import SPLITS, exact_splits
from scansynth.errors import InputError, shown
from scansynth.files import write_text
from scansynth.metrics.protocols import PROTOCOLS, Protocol
from scansynth.ranges import Count
from scansynth.recipes import find_recipe
from scansynth.records import read_json
from scansynth.reproduction.tables.paper_table import DataSet, PaperTable, PaperTask, Row


class _Settings(TypedDict):
    """`settings.json`."""

    table: str
    small: bool
    minutes: float | None
    seed: int
    steps: dict[str, Count]


@dataclass(frozen=True, kw_only=True)
class Request:
    """A table, at the paper's settings or small."""

    table: PaperTable
    out: Path
    data: Mapping[str, Path] = field(default_factory=dict)
    """Folder or table of scans by data set."""
    small: bool = False
    """The small recipes, 2.5 mm in plane, 64×80 voxels; phantoms where no data is given."""
    minutes: float | None = None
    """Training time of a small recipe on a task; None: the recipe's steps."""
    seed: int = 0
    """Of phantoms, splits, weights and noise."""

    def __post_init__(self):
        if self.minutes is not None and not self.small:
            raise InputError(
                "--minutes shortens a --small run; at the paper's settings training ends by the paper's steps"
            )
        if self.minutes is not None and self.minutes <= 0:
            raise InputError(f"--minutes {self.minutes:g}: must be above 0")

    @property
    def tasks(self) -> list[PaperTask]:
        """The tasks that there is data for."""
        return [
            task
            for task in self.table.tasks
            if task.data in self.data or (self.small and not self.unmade(self.table.data_set(task.data)))
        ]

    def unmade(self, data: DataSet) -> list[str]:
        """Contrasts of a data set that phantoms do not have."""
        return [name for name in self.table.contrasts_of(data.name) if name not in PHANTOM_CONTRASTS]

    @property
    def data_sets(self) -> list[DataSet]:
        """The data sets of those tasks."""
        return [one for one in self.table.data if any(task.data == one.name for task in self.tasks)]

    @property
    def first_stages(self) -> list[tuple[PaperTask, Row]]:
        """Trainings of first stages, one a data set: all of its contrasts."""
        if self.table.first_stage is None:
            return []
        row = Row("autoencoder", "First stage", *self.table.first_stage)
        return [(self.first_stage_task(data), row) for data in self.data_sets or self.table.data]

    def first_stage_task(self, data: DataSet) -> PaperTask:
        """What a first stage is trained on."""
        contrasts = self.table.contrasts_of(data.name)
        change = partial(replace, contrasts=contrasts)
        return PaperTask(f"first_stage_{data.name}", data.name, contrasts, contrasts, change)

    def first_stage_of(self, task: PaperTask) -> Path | None:
        """Run folder of a task's first stage, where the table has any."""
        for stage, row in self.first_stages:
            if stage.data == task.data:
                return self.run_folder(stage, row)
        return None

    def runs(self, task: PaperTask) -> list[tuple[PaperTask, Row]]:
        """The trainings of a task: one a method, or one a target."""
        found = []
        for row in self.table.present:
            found += [(_of_target(task, target), row) for target in task.targets] if row.by_target else [(task, row)]
        return found

    def chain(self, row: Row) -> list[Row]:
        """The trainings that a row takes, in their order: the runs that it builds on, and itself."""
        earlier = [
            replace(row, name=f"{row.name}-stage{number}", recipe=recipe, small=small, before=())
            for number, (recipe, small) in enumerate(row.before, 1)
        ]
        return [*earlier, row]

    def run_folder(self, task: PaperTask, row: Row) -> Path:
        """Where a run lies."""
        return self.out / "runs" / task.name / row.name

    def evaluation_folder(self, task: PaperTask) -> Path:
        """Where a task's figures lie."""
        return self.out / "evaluation" / task.name

    @property
    def protocol(self) -> Protocol:
        """How the table is measured."""
        assert self.table.protocol, self.table.name
        return PROTOCOLS[self.table.protocol]

    @property
    def volumes(self) -> int:
        """Volumes of a generated set."""
        return 4 if self.small else 500

    def preparation(self, data: DataSet) -> Preparation:
        """How scans are prepared."""
        if not self.small:
            return data.preparation
        if self.table.protocol and self.protocol.unit == "set":  # on one grid
            return Preparation((SPACING, SPACING, SPACING), (*SIZE[:2], SIZE[0]), data.preparation.intensity)
        return Preparation((SPACING, SPACING, None), SIZE, data.preparation.intensity)

    def recipe(self, row: Row) -> str:
        """The recipe of a method that exists."""
        name = row.small if self.small else row.recipe
        assert name, row
        return name

    def config(self, task: PaperTask, row: Row, steps: int | None = None) -> RunConfig[Any]:
        """Settings of a run.

        Args:
            task: the contrasts.
            row: the method.
            steps: in place of the small recipe's, before the variant changes them.
        """
        recipe = find_recipe(self.recipe(row))
        assert task.change
        config = replace(task.change(recipe), seed=self.seed)
        if self.small:
            # One validation, at the end, as in the demo; all slices, because a phantom has few.
            training = replace(
                recipe.training,
                steps=steps or recipe.training.steps,
                validate_every=1_000_000,
                checkpoint_every=200,
            )
            data = DataSettings(acceleration=config.data.acceleration, defaults=config.data.defaults)
            config = replace(config, training=training, data=data)
        return row.change(config) if row.change else config

    def chosen(self, data: DataSet, listing: Listing) -> Listing:
        """The subjects that a data set's tasks take: all contrasts, and the paper's split (unless small, or unknown).

        Raises:
            InputError: if there are too few.
        """
        contrasts = self.table.contrasts_of(data.name)
        whole = tuple(subject for subject in listing.subjects if set(contrasts) <= subject.scans.keys())
        listing = replace(listing, subjects=whole, contrasts=contrasts)
        words = f"{listing.root}: {len(whole)} subjects have {' and '.join(contrasts)}"
        if self.small:
            if len(whole) < 3:
                raise InputError(f"{words}; a small run needs at least three, to hold some out")
            return listing
        if data.split is None:
            return listing
        try:
            splits = exact_splits({subject.name: subject.split for subject in whole}, data.split, self.seed)
        except InputError as error:
            raise InputError(f"{words}. {self.table.name} takes the paper's split of {data.title}: {error}") from None
        taken = tuple(replace(one, split=splits[one.name]) for one in whole if one.name in splits)
        return replace(listing, subjects=taken)

    def listings(self) -> dict[str, Listing]:
        """The subjects taken of the data that is given, by data set.

        Raises:
            InputError: if there are too few, or no known layout is found.
        """
        given = [data for data in self.data_sets if data.name in self.data]
        return {data.name: self.chosen(data, find_subjects(self.data[data.name])) for data in given}

    def steps(self) -> dict[str, int]:
        """Steps that the minutes came to, by recipe; empty before the first run is trained.

        Raises:
            InputError: if the folder holds something else.
        """
        path = self.out / "settings.json"
        if not path.is_file():
            if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
                raise InputError(f"{self.out}: not a reproduction and not empty; choose another -o")
            return {}
        stored: dict[str, Any] = {**read_json(path, _Settings, "restore it, or choose another -o")}
        steps = stored.pop("steps")
        differ = [
            f"{name} {shown(stored.get(name))} there, {value} here"
            for name, value in self._asked.items()
            if stored.get(name) != value
        ]
        if differ:
            raise InputError(f"{self.out}: holds another reproduction ({'; '.join(differ)}); choose another -o")
        return steps

    def write_settings(self, steps: Mapping[str, int]) -> None:
        """Write what was asked, and the steps that the minutes came to."""
        write_text(self.out / "settings.json", json.dumps({**self._asked, "steps": dict(steps)}, indent=1) + "\n")

    @property
    def _asked(self) -> dict[str, Any]:
        return {"table": self.table.name, "small": self.small, "minutes": self.minutes, "seed": self.seed}


def _of_target(task: PaperTask, target: str) -> PaperTask:
    """A task with one of its targets, whose runs lie in a folder below."""
    change = task.change
    assert change

    def narrowed(recipe: RunConfig[Any]) -> RunConfig[Any]:
        config = change(recipe)
        return replace(config, settings=replace(config.settings, targets=(target,)))

    return replace(task, name=f"{task.name}/{target}", targets=(target,), change=narrowed)


def check_runnable(request: Request) -> None:
    """Raise InputError if nothing of the table can be run, or no data is given for it."""
    table = request.table
    if table.obstacle:
        raise InputError(f"{table.name} cannot be run: {table.obstacle} (--dry-run shows what is known of it)")
    if not request.tasks:
        needed = "; ".join(needs(table, one) for one in table.data)
        flag = "--data FOLDER" if len(table.data) == 1 else f"--data {table.data[0].name}=FOLDER …"
        raise InputError(
            f"{table.name} needs data: {needed}. Lay it out as BIDS, BraTS, IXI or a table of paths and give {flag}, "
            "or try --small on phantoms"
        )


def needs(table: PaperTable, data: DataSet) -> str:
    """What data a table needs, in words."""
    people = f"{sum(data.split)} subjects ({split_words(data)}), each with" if data.split else "subjects with"
    return f"{data.name} ({data.title}): {people} {', '.join(table.contrasts_of(data.name))}; {data.scans}"


def split_words(data: DataSet) -> str:
    """The paper's split, `25 train, 5 val, 10 test`."""
    if data.split is None:
        return "not all stated"
    return ", ".join(f"{count} {split}" for count, split in zip(data.split, SPLITS, strict=True))


def parse_data(table: PaperTable, items: Sequence[str]) -> dict[str, Path]:
    """Data folders from `FOLDER` (tables of one data set) or `NAME=FOLDER`.

    Raises:
        InputError: for a name that the table does not have, or none where it has several.
    """
    names = [one.name for one in table.data]
    found: dict[str, Path] = {}
    for item in items:
        name, _, path = item.partition("=")
        if name not in names:
            if len(names) > 1:
                raise InputError(f"--data {item}: {table.name} has several data sets; write {'|'.join(names)}=FOLDER")
            name, path = names[0], item
        if name in found:
            raise InputError(f"--data {item}: {name} is given twice; give one folder")
        found[name] = Path(path)
    return found
