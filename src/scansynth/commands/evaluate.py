"""`evaluate` and `compare`: runs measured on a split."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

import scansynth
from scansynth.commands.console import Output, bars, out
from scansynth.errors import InputError


@dataclass(frozen=True)
class Evaluate:
    """Measure runs on a split of a prepared cohort, beside the copied source: tables and pictures.

    `scansynth evaluate --spread SYNTHESIS TRUTH` shows two NIfTI files under the conventions in use instead.
    """

    run_folders: Annotated[tuple[Path, ...], arg(name="run")]
    """One run or several."""
    cohort: Path
    """The prepared cohort that they were trained on."""
    output: Output
    """Folder of tables and pictures."""
    split: str = "test"
    """train, val or test."""
    target: str | None = None
    """One contrast; by default all that the runs make."""
    protocol: str = "default"
    """How figures are measured."""
    pictures: int = 3
    """Subjects to draw."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    seed: int = 0
    """Of the noise."""
    samples: int = 1
    """To draw for each image; of several, the mean is measured and their spread held against its error."""

    def run(self) -> None:
        """Evaluate and print the table."""
        from scansynth.report.report import write_report

        found, runs = evaluated(self.run_folders, self.cohort, self.output, self.split, self)
        path = write_report(found, runs, self.output)
        out.print((self.output / "table.md").read_text(), markup=False)
        out.print(f"Report, for a browser: {path}", markup=False)


@dataclass(frozen=True)
class Compare:
    """Hold runs against each other on a split: best, differences with tests by subject, time and memory."""

    run_folders: Annotated[tuple[Path, ...], arg(name="run")]
    """The runs."""
    cohort: Path
    """The prepared cohort that all were trained on."""
    output: Output
    """Folder of tables, plots and pictures."""
    on: str = "test"
    """train, val or test."""
    target: str | None = None
    """One contrast; by default all that the runs make."""
    protocol: str = "default"
    """How figures are measured."""
    reference: str | None = None
    """The run, by its folder's name, that the others are held against; by default the best of each target."""
    pictures: int = 3
    """Subjects to draw."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    seed: int = 0
    """Of the noise."""

    def run(self) -> None:
        """Evaluate all runs, compare them and print the table."""
        from scansynth.evaluation.comparison import compare, write_comparison
        from scansynth.evaluation.plots import plot_subjects
        from scansynth.report.report import write_report

        found, runs = evaluated(self.run_folders, self.cohort, self.output, self.on, self)
        comparison = compare(found.results, self.protocol, self.reference, found.costs)
        write_comparison(comparison, self.output)
        plot_subjects(found.results, self.protocol, self.output)
        path = write_report(found, runs, self.output, comparison)
        out.print((self.output / "comparison.md").read_text(), markup=False)
        out.print(f"Report, for a browser: {path}", markup=False)


@dataclass(frozen=True)
class Spread:
    """One pair of images under the conventions in use: why figures of two papers cannot be laid side by side."""

    synthesis: Positional[Path]
    """NIfTI file."""
    truth: Positional[Path]
    """NIfTI file on the same grid and scale."""

    def run(self) -> None:
        """Print the table."""
        from scansynth.data.volume import Volume, check_same_grid
        from scansynth.evaluation.spread import markdown, spread

        volumes = {"synthesis": Volume.read(self.synthesis), "truth": Volume.read(self.truth)}
        check_same_grid(volumes)
        out.print(markdown(spread(volumes["synthesis"].array, volumes["truth"].array)), markup=False)


def evaluated(runs: tuple[Path, ...], cohort: Path, output: Path, split: str, options: Any) -> Any:
    """Measure runs on a split, with progress bars: what was measured, and the runs.

    `options` name target, protocol, seed, pictures and device.
    """
    from scansynth.data.cohort import SPLITS, Cohort
    from scansynth.evaluate import evaluate

    if split not in SPLITS:
        raise InputError(f"split {split}: choose from {', '.join(SPLITS)}")
    prepared = Cohort.open(cohort)
    loaded = [scansynth.load(folder, options.device) for folder in runs]
    with bars() as move:
        found = evaluate(
            loaded, prepared, output, split, options.protocol, options.target, options.seed, options.pictures,
            lambda done, total, name: move("evaluating", done, total), getattr(options, "samples", 1),
        )  # fmt: skip
    return found, loaded
