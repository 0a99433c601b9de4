"""`train`: a cohort into a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, NoReturn, TypeVar

import tyro
from tyro.conf import Positional, arg

from scansynth.commands.console import bars, err, out
from scansynth.commands.help import ALL, parse
from scansynth.commands.next_step import after_training
from scansynth.errors import InputError
from scansynth.ranges import Count, gigabytes

Settings = TypeVar("Settings")


@dataclass(frozen=True, kw_only=True)
class Train(Generic[Settings]):
    """Train a run; the same command again goes on where it stopped."""

    cohort: Path
    """A prepared cohort."""
    run: Path
    """Run folder, made if need be."""
    config: Annotated[Settings, arg(name="")]
    """The recipe's settings."""
    init: Path | None = None
    """Start from the weights of this run (fine-tuning), or of `starter`, the run that comes with the package."""
    first_stage: Path | None = None
    """Trained run that this one builds on (the autoencoder of ldm and cola_diff, the stage before of provogan); kept in
    the run folder."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    devices: Count = 1
    """Devices on each machine, a process each; they share the samples of a step (docs/clusters.md)."""
    nodes: Count = 1
    """Machines; with several, start the command by torchrun or srun."""
    memory: str | None = None
    """Memory that the training may take, 8G or 800M: its batch is computed in as many parts as a prediction asks for
    (--training.accumulate). Where memory is out even so, in twice as many."""
    defaults: bool = False
    """Take usual values of a contrast, with a warning, where a method reads TR or TE and a scan's are not known (the
    same as --data.defaults common)."""
    overwrite: bool = False
    """Throw away the run that is there."""

    def chosen(self) -> Any:
        """The settings, with usual acquisitions where they are asked for."""
        config: Any = self.config
        if not self.defaults or config.data.defaults != "none":
            return config
        return replace(config, data=replace(config.data, defaults="common"))

    def start(self) -> None:
        """Train to the end."""
        from scansynth.data.cohort import Cohort
        from scansynth.devices import start_processes
        from scansynth.synthesis.card import FILE as CARD
        from scansynth.synthesis.places import checked
        from scansynth.training.parts import needs_of
        from scansynth.training.train import train

        if (self.run / CARD).exists():
            raise InputError(f"{self.run}: an exported run does not go on: --init {self.run} starts another from it")
        with start_processes(self.device, self.devices, self.nodes) as processes, bars(show=processes.first) as move:
            with processes.agreeing():
                cohort = Cohort.open(self.cohort)
            config = train(
                self.chosen(),
                cohort,
                self.run,
                device=processes.device,
                init=self.init and checked(self.init),
                overwrite=self.overwrite,
                report=lambda event: move(
                    f"training {self.run.name}", replace(event, what=validation_note(event.figures))
                ),
                processes=processes,
                first_stage=self.first_stage and checked(self.first_stage),
                memory_gb=gigabytes(self.memory) if self.memory else None,
            )
        if processes.first:
            out.print(f"{self.run}: trained.", markup=False)
            out.print(after_training(needs_of(config), self.run, self.cohort), markup=False)


def validation_note(figures: Mapping[str, float]) -> str:
    """What stands beside the training bar."""
    psnr, loss = figures.get("validation/psnr"), figures.get("validation/loss")
    if loss is not None:
        return f"(validation loss {loss:.4f})"
    return f"(validation {psnr:.2f} dB)" if psnr is not None else ""


@dataclass(frozen=True)
class NoRecipe:
    """In place of a recipe's settings, where none is named."""


@dataclass(frozen=True, kw_only=True)
class TrainAny(Train[NoRecipe]):
    """Train a run; the same command again goes on where it stopped.

    A recipe has settings of its own beside these options: `scansynth train RECIPE --help` shows the first of them.
    """

    recipe: Annotated[Positional[str], arg(metavar="RECIPE|FILE.yaml")]
    """A recipe (`scansynth methods --recipes METHOD`), or the config.yaml of a run. Or a file like it, as `scansynth
    plan` writes."""
    config: Annotated[NoRecipe, arg(name="")] = NoRecipe()
    """None yet."""


LISTS = "`scansynth methods --recipes METHOD` lists the recipes of a method, `scansynth methods` the methods."


def parse_train(arguments: Sequence[str]) -> Train[Any]:
    """`train RECIPE …` or `train FILE.yaml …`: the recipe says which settings there are."""
    if not arguments or arguments[0].startswith("-"):
        without_recipe(arguments)
    kind, default = recipe_options(arguments[0])
    return parse("train RECIPE", kind, arguments[1:], f"scansynth train {arguments[0]}", default=default)


def recipe_options(name: str) -> tuple[Any, Train[Any]]:
    """The command that a recipe, or a settings file, makes of `train`, and what its options are by default.

    Raises:
        InputError: if there is no such recipe, or the file is none of settings.
    """
    from scansynth.config import RunConfig, read_yaml
    from scansynth.methods import find_method
    from scansynth.recipes import find_recipe

    config = read_yaml(Path(name)) if name.endswith((".yaml", ".yml")) else find_recipe(name)
    kind = RunConfig[find_method(config.method).Config]
    return Train[kind], Train(cohort=tyro.MISSING, run=tyro.MISSING, config=config)


def without_recipe(arguments: Sequence[str]) -> NoReturn:
    """What `train` has to say before there is a recipe; torch is not loaded for it."""
    if not {"-h", "--help", ALL} & set(arguments):
        err.print(f"usage: scansynth train RECIPE|FILE.yaml --cohort COHORT --run RUN …\n{LISTS}", markup=False)
        raise SystemExit(2)
    parse("train", TrainAny, arguments, "scansynth train")
    raise SystemExit(0)
