"""`plan`: what to train on a prepared cohort here, and why."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, UseAppendAction, arg

from scansynth.commands.console import out
from scansynth.commands.next_step import command
from scansynth.ranges import Positive, Seed, gigabytes


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Choose method, network, batch and precision for a prepared cohort and this machine, and say why."""

    cohort: Positional[Path]
    """A prepared cohort."""
    target: Annotated[UseAppendAction[tuple[str, ...]], arg()] = ()
    """Contrast to make; may be given several times; by default all."""
    hours: Positive = 1.0
    """Hours of training."""
    memory: str | None = None
    """Memory that the training may take, 8G or 800M; by default what is free here, of which it takes a part."""
    output: Annotated[Path, arg(aliases=["-o"])] = Path("plan.yaml")
    """Settings file to write, which `train` takes."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    seed: Seed = 0
    """Seed of weights, order of the data and noise, in the settings."""
    overwrite: bool = False
    """Replace a settings file that is there."""

    def run(self) -> None:
        """Plan, print, and write the settings."""
        from scansynth.data.cohort import Cohort
        from scansynth.devices import find_device
        from scansynth.errors import InputError
        from scansynth.files import write_text
        from scansynth.planning.plan import facts_of_cohort, plan
        from scansynth.planning.plan_rules import MEMORY

        if self.hours <= 0:
            raise InputError(f"--hours {self.hours:g}: must be above 0")
        if self.output.exists() and not self.overwrite:
            raise InputError(f"{self.output} is there already; choose another -o, or --overwrite")
        device = find_device(self.device)
        facts = facts_of_cohort(Cohort.open(self.cohort), self.target, device, self.hours)
        if self.memory:
            facts = replace(facts, memory_gb=gigabytes(self.memory))
        planned = plan(facts, device, share=1.0 if self.memory else MEMORY)
        planned = replace(planned, config=replace(planned.config, seed=self.seed))
        write_text(self.output, planned.yaml())
        out.print("\n".join(planned.lines()), markup=False)
        words = ("train", self.output, "--cohort", self.cohort, "--run", Path("runs") / self.output.stem)
        out.print(f"Next: {command(*words)}", markup=False)
