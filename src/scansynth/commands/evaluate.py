"""`evaluate` and `compare`: runs measured on a split."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

import scansynth
from scansynth.commands.console import Output, bars, out, stage_bars
from scansynth.commands.next_step import after_evaluating, at_work
from scansynth.errors import InputError
from scansynth.training.selection import Which


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What `evaluate` and `compare` share."""

    run_folders: Annotated[tuple[Path, ...], arg(name="run")]
    """One run or several."""
    cohort: Path
    """The prepared cohort that all were trained on."""
    output: Output
    """Folder of tables, plots, pictures and the report."""
    split: str = "test"
    """train, val or test."""
    target: str | None = None
    """One contrast; by default all that the runs make."""
    protocol: str = "default"
    """How figures are measured."""
    lpips: Path | None = None
    """LPIPS as a further figure: its weights, a safetensors file (keys: scansynth.networks.perceptual)."""
    pictures: int = 3
    """Subjects to draw."""
    weights: Which = "auto"
    """Which of the training: last (averages), best (of those validated), or auto: the best where at least five subjects
    validate, else the last."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    seed: int = 0
    """Seed of the noise."""
    keep: Path | None = None
    """Keep samples in this folder, and read those that are there: a stopped evaluation goes on where it was."""

    def chosen_protocol(self) -> Any:
        """The protocol that is asked for, with LPIPS where its weights are named."""
        from scansynth.metrics.perceptual_similarity import lpips_metric
        from scansynth.metrics.protocols import find_protocol

        protocol = find_protocol(self.protocol)
        return protocol.with_metric(lpips_metric(self.lpips)) if self.lpips else protocol

    def options(self) -> list[str | Path]:
        """What was asked for beside runs, cohort and folder, for another command."""
        given = {"--split": self.split, "--target": self.target, "--protocol": self.protocol, "--keep": self.keep}
        usual = {"--split": "test", "--protocol": "default"}
        return [word for pair in given.items() if pair[1] not in (None, usual.get(pair[0])) for word in pair if word]

    def opened(self) -> tuple[list[Any], Any]:
        """Loaded runs and the open cohort, which has such a split."""
        from scansynth.data.cohort import SPLITS, Cohort

        if self.split not in SPLITS:
            raise InputError(f"split {self.split}: choose from {', '.join(SPLITS)}")
        prepared = Cohort.open(self.cohort)
        runs = [scansynth.load(folder, self.device, weights=self.weights) for folder in self.run_folders]
        return runs, prepared

    def evaluated(
        self,
        runs: list[Any],
        cohort: Any,
        protocol: Any,
        *,
        samples: int = 1,
        mean: bool = False,
        subsets: bool = False,
    ) -> Any:
        """Measure, with progress bars, and write tables and pictures."""
        from scansynth.evaluation.evaluate import evaluate
        from scansynth.evaluation.write import write_evaluation

        with bars() as move:
            found = evaluate(
                runs,
                cohort,
                split=self.split,
                protocol=protocol,
                target=self.target,
                seed=self.seed,
                pictures=self.pictures,
                report=partial(move, "evaluating"),
                samples=samples,
                mean=mean,
                kept=self.keep,
                subsets=subsets,
            )
        write_evaluation(found, self.output)
        return found


@dataclass(frozen=True)
class Evaluate(_Measured):
    """Measure runs on a split of a prepared cohort, beside the copied source: tables and pictures.

    `scansynth evaluate --spread SYNTHESIS TRUTH` shows two NIfTI files under the conventions in use instead.
    """

    samples: int = 1
    """To draw for each image; of several, the mean is measured and their spread held against its error."""
    mean: bool = False
    """Measure the mean given the sources, in one call of the networks or of --samples draws: the least error, without
    texture."""
    subsets: Literal["given", "all"] = "given"
    """Make each target from all contrasts that a subject has beside it, or from every set of them in turn."""
    noise: tuple[float, ...] = ()
    """Measure with noise in the sources too, of these shares of their mean (SynDiff's Fig. 6: 0.03 to 0.21)."""
    dice: str | None = None
    """A mask of the subjects (`seg`): Dice of a segmenter with the target acquired, synthetic and left out."""
    segmenter: str | None = None
    """With --dice: your segmenter, 'COMMAND {T1w} {T2w} … {output}' (NIfTI files), in place of one trained here."""

    def run(self) -> None:
        """Evaluate and print the tables."""
        from scansynth.evaluation.robustness import check_levels
        from scansynth.evaluation.segmenter import command_segmenter, with_mask
        from scansynth.report.report import write_report

        protocol = self.chosen_protocol()
        runs, cohort = self.opened()
        # What cannot be done later is said before anything is synthesised.
        if self.noise:
            check_levels(self.noise)
        if self.dice:
            with_mask(cohort, self.split, runs[0].config.contrasts, self.dice)
        if self.segmenter:
            command_segmenter(self.segmenter)
            if not self.dice:
                raise InputError("--segmenter goes with --dice MASK: the mask that its labels are held against")
        found = self.evaluated(
            runs, cohort, protocol, samples=self.samples, mean=self.mean, subsets=self.subsets == "all"
        )
        out.print((self.output / "table.md").read_text(), markup=False)
        if self.noise:
            self.with_noise(runs, cohort, protocol)
        dice = self.downstream(runs, cohort, self.dice) if self.dice else ()
        path = write_report(found, runs, self.output, noise=bool(self.noise), dice=dice)
        out.print(f"Report, for a browser: {path}", markup=False)
        out.print(after_evaluating(runs, self.cohort, self.options()), markup=False)

    def with_noise(self, runs: list[Any], cohort: Any, protocol: Any) -> None:
        """The same with noise in the sources."""
        from scansynth.evaluation.robustness import measure_robustness, write_robustness

        with bars() as move:
            robustness = measure_robustness(
                runs, cohort, self.noise, split=self.split, protocol=protocol, target=self.target, seed=self.seed,
                report=partial(move, "evaluating with noise"), kept=self.keep,
            )  # fmt: skip
        write_robustness(robustness, self.output)
        out.print((self.output / "noise.md").read_text(), markup=False)

    def downstream(self, runs: list[Any], cohort: Any, mask: str) -> list[Any]:
        """What a segmenter finds."""
        from scansynth.evaluation.downstream import measure_downstream, write_downstream

        with stage_bars() as report:
            found = measure_downstream(
                runs, cohort, mask, split=self.split, target=self.target, seed=self.seed, command=self.segmenter,
                report=report,
            )  # fmt: skip
        write_downstream(found, mask, self.segmenter, self.output)
        out.print((self.output / "dice.md").read_text(), markup=False)
        return found


@dataclass(frozen=True)
class Compare(_Measured):
    """Hold runs against each other on a split: best, differences with tests by subject, time and memory."""

    by_slice: bool = False
    """Tests over slices too, in comparison_by_slice.*: slices are not independent, p-values come out too small."""
    reference: str | None = None
    """The run, by its folder's name, that the others are held against; by default the best of each target."""

    def run(self) -> None:
        """Evaluate all runs, compare them and print the table."""
        from scansynth.evaluation.comparison import check_slices, compare
        from scansynth.evaluation.comparison_tables import markdown, write_comparison
        from scansynth.evaluation.plots import plot_subjects
        from scansynth.report.report import write_report

        protocol = self.chosen_protocol()
        if self.by_slice:
            check_slices(protocol)
        runs, cohort = self.opened()
        found = self.evaluated(runs, cohort, protocol)
        plot_subjects(found.results, found.protocol, self.output)
        by_subject = compare(
            found.results, found.protocol, reference=self.reference, costs=found.costs, acceleration=found.acceleration
        )
        write_comparison(by_subject, self.output)
        out.print(markdown(by_subject), markup=False)
        if self.by_slice:
            costs, acceleration = found.costs, found.acceleration
            by_slice = compare(
                found.results,
                found.protocol,
                reference=self.reference,
                costs=costs,
                acceleration=acceleration,
                unit="slice",
            )
            write_comparison(by_slice, self.output)
            out.print(markdown(by_slice), markup=False)
        path = write_report(found, runs, self.output, comparison=by_subject)
        out.print(f"Report, for a browser: {path}", markup=False)
        # The run that has the best mean of the most figures.
        best = [row.label for row in by_subject.rows for _ in row.best]
        out.print(at_work(max(runs, key=lambda run: best.count(run.folder.name)), self.cohort), markup=False)


@dataclass(frozen=True)
class Conventions:
    """One pair of images under the conventions in use: why figures of two papers cannot be laid side by side."""

    synthesis: Positional[Path]
    """NIfTI file."""
    truth: Positional[Path]
    """NIfTI file on the same grid and scale."""

    def run(self) -> None:
        """Print the table."""
        from scansynth.data.volume import Volume, check_same_grid
        from scansynth.metrics.conventions import markdown, under_conventions

        volumes = {"synthesis": Volume.read(self.synthesis), "truth": Volume.read(self.truth)}
        check_same_grid(volumes)
        out.print(markdown(under_conventions(volumes["synthesis"].array, volumes["truth"].array)), markup=False)
