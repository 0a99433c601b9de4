"""`train`: a cohort into a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Generic, NoReturn, TypeVar

import tyro
from tyro.conf import arg

from scansynth.commands.console import bars, err, out
from scansynth.commands.next_step import after_training
from scansynth.ranges import Count

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
    """Start from the weights of this run (fine-tuning)."""
    first_stage: Path | None = None
    """Run of the autoencoder that a latent method works on (ldm, cola_diff); kept in the run folder."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    devices: Count = 1
    """Devices on each machine, a process each; they share the samples of a step (docs/clusters.md)."""
    nodes: Count = 1
    """Machines; with several, start the command by torchrun or srun."""
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
        from scansynth.training.parts import needs_of
        from scansynth.training.train import train

        with start_processes(self.device, self.devices, self.nodes) as processes, bars(show=processes.first) as move:
            with processes.agreeing():
                cohort = Cohort.open(self.cohort)
            config = train(
                self.chosen(),
                cohort,
                self.run,
                device=processes.device,
                init=self.init,
                overwrite=self.overwrite,
                report=lambda event: move(
                    f"training {self.run.name}", replace(event, what=validation_note(event.figures))
                ),
                processes=processes,
                first_stage=self.first_stage,
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


LISTS = "`scansynth methods --recipes METHOD` lists the recipes of a method, `scansynth methods` the methods."


def parse_train(arguments: Sequence[str]) -> Train[Any]:
    """`train RECIPE …` or `train FILE.yaml …`: the recipe says which settings there are."""
    if not arguments or arguments[0].startswith("-"):
        without_recipe(help_asked="--help" in arguments or "-h" in arguments)
    from scansynth.config import RunConfig, read_yaml
    from scansynth.methods import find_method
    from scansynth.recipes import find_recipe

    name = arguments[0]
    config = read_yaml(Path(name)) if name.endswith((".yaml", ".yml")) else find_recipe(name)
    kind = RunConfig[find_method(config.method).Config]
    default = Train(cohort=tyro.MISSING, run=tyro.MISSING, config=config)
    return tyro.cli(Train[kind], default=default, args=list(arguments[1:]), prog=f"scansynth train {name}")


def without_recipe(*, help_asked: bool) -> NoReturn:
    """What `train` has to say before there is a recipe; torch is not loaded for it."""
    if not help_asked:
        err.print(f"usage: scansynth train RECIPE|FILE.yaml --cohort COHORT --run RUN …\n{LISTS}", markup=False)
        raise SystemExit(2)
    tyro.cli(
        Train[NoRecipe],
        default=Train(cohort=tyro.MISSING, run=tyro.MISSING, config=NoRecipe()),
        args=["--help"],
        prog="scansynth train RECIPE|FILE.yaml",
        description=f"{Train.__doc__}\n\n{LISTS} A recipe has settings of its own beside these options: "
        "`scansynth train RECIPE --help` shows them. FILE.yaml is the config.yaml of a run, or one like it.",
    )
    raise SystemExit(0)
