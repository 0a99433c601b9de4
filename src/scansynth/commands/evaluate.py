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
    lpips: Path | None = None
    """LPIPS as a further figure: its weights, a safetensors file (keys: scansynth.evaluation.perceptual_similarity)."""
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
        evaluated(self.run_folders, self.cohort, self.output, self.split, self)
        out.print((self.output / "table.md").read_text(), markup=False)


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
    lpips: Path | None = None
    """LPIPS as a further figure: its weights, a safetensors file (keys: scansynth.evaluation.perceptual_similarity)."""
    by_slice: bool = False
    """Tests over slices too, in comparison_by_slice.*: slices are not independent, p-values come out too small."""
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
        from scansynth.evaluation.comparison import check_slices, compare, markdown, write_comparison
        from scansynth.evaluation.plots import plot_subjects
        from scansynth.evaluation.protocols import find_protocol

        if self.by_slice:
            check_slices(find_protocol(self.protocol))
        found = evaluated(self.run_folders, self.cohort, self.output, self.on, self)
        plot_subjects(found.results, found.protocol, self.output)
        for unit in ("subject", "slice") if self.by_slice else ("subject",):
            comparison = compare(found.results, found.protocol, self.reference, found.costs, found.acceleration, unit)
            write_comparison(comparison, self.output)
            out.print(markdown(comparison), markup=False)


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
    """Measure runs on a split, with progress bars.

    `options` name target, protocol, LPIPS weights, seed, pictures and device.
    """
    from scansynth.data.cohort import SPLITS, Cohort
    from scansynth.evaluate import evaluate
    from scansynth.evaluation.perceptual_similarity import lpips_metric
    from scansynth.evaluation.protocols import find_protocol

    if split not in SPLITS:
        raise InputError(f"split {split}: choose from {', '.join(SPLITS)}")
    protocol = find_protocol(options.protocol)
    if options.lpips:
        protocol = protocol.with_metric(lpips_metric(options.lpips))
    prepared = Cohort.open(cohort)
    loaded = [scansynth.load(folder, options.device) for folder in runs]
    with bars() as move:
        return evaluate(
            loaded, prepared, output, split, protocol, options.target, options.seed, options.pictures,
            lambda done, total, name: move("evaluating", done, total), getattr(options, "samples", 1),
        )  # fmt: skip
