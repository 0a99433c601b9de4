"""`calibrate`: intervals of a run's syntheses, from its validation subjects."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

import scansynth
from scansynth.commands.console import bars, out
from scansynth.commands.next_step import after_calibrating
from scansynth.errors import InputError
from scansynth.ranges import Count, Seed
from scansynth.training.selection import Which


@dataclass(frozen=True, kw_only=True)
class Calibrate:
    """Find intervals of a run's syntheses on the validation subjects; they are kept in its folder.

    `translate --intervals` then writes them beside each image, and `evaluate` tells how often they hold. They are of
    the weights and the way of drawing (--samples, --mean) that they were made with, and hold for scans like those that
    validate.
    """

    run_folder: Annotated[Path, arg(name="run")]
    """A trained run."""
    cohort: Path
    """The prepared cohort that it was trained on, with at least 4 validation subjects (9 for 90 %, 19 for 95 %)."""
    samples: Count = 1
    """To draw for each image: of several, the intervals follow their deviation from place to place."""
    mean: bool = False
    """Around the mean given the sources, in place of a draw."""
    weights: Which = "auto"
    """Which of the training: last (averages), best (of those validated), or auto: the best where at least five subjects
    validate, else the last."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    seed: Seed = 0
    """Seed of the noise."""
    keep: Path | None = None
    """Keep samples in this folder, and read those that are there."""

    def run(self) -> None:
        """Calibrate and print the widths."""
        from scansynth.data.cohort import Cohort
        from scansynth.evaluation.calibrate import calibrate_run

        run = scansynth.load(self.run_folder, self.device, weights=self.weights)
        if run.card:
            raise InputError(f"{self.run_folder}: an exported run stays as it is: calibrate it before the export")
        with bars() as move:
            found = calibrate_run(
                run, Cohort.open(self.cohort), samples=self.samples, mean=self.mean, seed=self.seed, kept=self.keep,
                report=partial(move, "calibrating"),
            )  # fmt: skip
        for target, intervals in found.items():
            out.print(f"{target}: {intervals.subjects} validation subjects", markup=False)
            what = "deviations" if self.samples > 1 else "of the range [0, 1]"
            for place, level in enumerate(intervals.levels):
                widths = ", ".join(f"{name} {factors[place]:.3g}" for name, factors in intervals.factors.items())
                out.print(f"  {100 * level:g} %: ± {widths} ({what})", markup=False)
        words = [*(["--samples", self.samples] if self.samples > 1 else []), *(["--mean"] if self.mean else [])]
        out.print(after_calibrating(self.run_folder, self.cohort, words), markup=False)
