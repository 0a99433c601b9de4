"""`generate`: whole volumes that no source stands behind."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

import scansynth
from scansynth.commands.console import Output, bars, out
from scansynth.commands.next_step import after_generating
from scansynth.errors import InputError
from scansynth.ranges import Count, Seed
from scansynth.training.selection import Which


@dataclass(frozen=True, kw_only=True)
class Generate:
    """Make whole volumes without a source, as many as asked for; the same command goes on where it stopped."""

    run_folder: Annotated[Path, arg(name="run")]
    """A trained run of a method that generates (cdpm)."""
    output: Output
    """Folder of the volumes: synthetic-0001_T1w.nii.gz and so on, prepared intensities, each with a sidecar."""
    number: Annotated[Count, arg(aliases=["-n"])]
    """Volumes. With more than are there, the further ones are made."""
    plan: str | None = None
    """Stages of a method that makes a volume in some: autoregressive or hierarchical; by default the run's own."""
    label: tuple[str, ...] = ()
    """Labels of the person who is made, as NAME=VALUE, where the run was trained with labels: age=63 sex=F."""
    at_once: Annotated[Count | None, arg(name="windows")] = None
    """Patches that go through the networks at once: memory and speed, not the result."""
    weights: Which = "auto"
    """Which of the training: last (averages), best (of those validated), or auto: the best where at least five subjects
    validate, else the last."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    devices: Count = 1
    """Devices on each machine, a process each; they share the volumes (docs/clusters.md)."""
    shared: bool = False
    """Other such commands, on machines that see the same folders, work on it too: each image is made once, by one of
    them; a dead one's share is taken over (docs/clusters.md)."""
    nodes: Count = 1
    """Machines; with several, start the command by torchrun or srun."""
    seed: Seed = 0
    """Seed of the noise: volume n of a seed is always the same."""
    overwrite: bool = False
    """Make again what is there, if it is marked synthetic; nothing else is ever replaced."""

    def run(self) -> None:
        """Make the volumes that are not there."""
        from scansynth.devices import start_processes
        from scansynth.synthesis.generated import generate_set

        with start_processes(self.device, self.devices, self.nodes) as processes, bars(show=processes.first) as move:
            with processes.agreeing():
                run = scansynth.load(self.run_folder, str(processes.device), weights=self.weights)
            paths = generate_set(
                run, self.number, self.output, seed=self.seed, plan=self.plan, overwrite=self.overwrite,
                report=partial(move, "generating"), at_once=self.at_once, processes=processes,
                labels=self.labels(), shared=self.shared,
            )  # fmt: skip
        if processes.first:
            out.print(f"{len(paths)} volumes in {self.output}. Synthetic, for research: not scans.", markup=False)
            out.print(after_generating(self.output), markup=False)

    def labels(self) -> dict[str, str]:
        """Values by name.

        Raises:
            InputError: if one is not NAME=VALUE.
        """
        parts = [item.partition("=") for item in self.label]
        if wrong := ["".join(part) for part in parts if not (part[0] and part[1])]:
            raise InputError(f"--label {wrong[0]}: write NAME=VALUE")
        return {name: value for name, _, value in parts}
