"""`distill`: a trained diffusion run into one that makes an image in few network calls."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from scansynth.ranges import Count, Seed, Weight


@dataclass(frozen=True, kw_only=True)
class Distill:
    """Distil a trained diffusion run into a new one that draws in 1, 2 or 4 network calls.

    The new run has the networks of the trained one, its teacher, and starts from its weights. It is trained on the
    same cohort, by consistency distillation (docs/methods.md), and is then a run like any other. The same command again
    goes on where it stopped.
    """

    run_folder: Annotated[Positional[Path], "RUN"]
    """The trained run, of ddpm or mrdiff."""
    cohort: Path
    """The prepared cohort that it was trained on."""
    new_run: Annotated[Path, arg(name="run")]
    """Folder of the new run, made if need be."""
    steps: Literal[1, 2, 4]
    """Network calls of a draw."""
    training_steps: Annotated[Count | None, arg(name="training.steps")] = None
    """Training steps in all, each of which costs about two of the teacher's; by default as many as that took."""
    minutes: Annotated[Weight, arg(name="training.minutes")] = 0.0
    """Train for so many wall minutes instead."""
    batch_size: Annotated[Count | None, arg(name="training.batch-size")] = None
    """Samples a step; by default as the teacher's."""
    learning_rate: Annotated[Weight | None, arg(name="settings.learning-rate")] = None
    """At the start; by default a fifth of the teacher's."""
    seed: Seed = 0
    """Seed of the order of the data and of the noise."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    devices: Count = 1
    """Devices on each machine, a process each; they share the samples of a step (docs/clusters.md)."""
    nodes: Count = 1
    """Machines; with several, start the command by torchrun or srun."""
    overwrite: bool = False
    """Throw away the run that is there."""

    def run(self) -> None:
        """Train the new run to its end."""
        from scansynth.commands.train import Train
        from scansynth.synthesis.places import checked
        from scansynth.training.distill import distilled_config

        teacher = checked(self.run_folder)
        config = distilled_config(
            teacher,
            self.steps,
            training_steps=self.training_steps,
            minutes=self.minutes,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            seed=self.seed,
        )
        Train(
            cohort=self.cohort, run=self.new_run, config=config, init=teacher, first_stage=teacher, device=self.device,
            devices=self.devices, nodes=self.nodes, overwrite=self.overwrite,
        ).start()  # fmt: skip
