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
from scansynth.ranges import Count, Natural, Positive, Seed, Share
from scansynth.training.selection import Which


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What `evaluate` and `compare` share."""

    run_folders: Annotated[tuple[Path, ...], arg(name="run")]
    """One run or several."""
    cohort: Path
    """The prepared cohort that all were trained on, or one that was prepared like it (`prepare --like`)."""
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
    pictures: Natural = 3
    """Subjects to draw."""
    weights: Which = "auto"
    """Which of the training: last (averages), best (of those validated), or auto: the best where at least five subjects
    validate, else the last."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    seed: Seed = 0
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
        from scansynth.files import check_place

        for folder in (self.output, self.keep):
            if folder:
                check_place(folder)
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
        realism: float = 1.0,
        subsets: bool = False,
        kept: Path | None = None,
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
                realism=realism,
                kept=self.keep or kept,
                subsets=subsets,
            )
        write_evaluation(found, self.output)
        return found


@dataclass(frozen=True, kw_only=True)
class Evaluate(_Measured):
    """Measure runs on a split of a prepared cohort, beside the copied source: tables and pictures.

    `scansynth evaluate --spread SYNTHESIS TRUTH` shows two NIfTI files under the conventions in use instead.
    """

    samples: Count = 1
    """To draw for each image; of several, the mean is measured and their spread held against its error."""
    mean: bool = False
    """Measure the mean given the sources, in one call of the networks or of --samples draws: the least error, without
    texture."""
    realism: Share = 1.0
    """Measure images that lie so far from the mean given the sources, 0, to a draw, 1, of runs that have both."""
    subsets: Literal["given", "all"] = "given"
    """Make each target from all contrasts that a subject has beside it, or from every set of them in turn."""
    noise: tuple[Positive, ...] = ()
    """Measure with noise in the sources too, of these shares of their mean (SynDiff's Fig. 6: 0.03 to 0.21)."""
    dice: str | None = None
    """A mask of the subjects (`seg`): Dice of a segmenter with the target acquired, synthetic and left out. Under
    protocol default it is taken unasked where subjects have a mask and that costs under a tenth of the syntheses."""
    segmenter: str | None = None
    """With --dice: your segmenter, 'COMMAND {T1w} {T2w} … {output}' (NIfTI files), in place of one trained here."""

    def run(self) -> None:
        """Evaluate and print the tables."""
        from tempfile import TemporaryDirectory

        from scansynth.evaluation.downstream import mask_of
        from scansynth.evaluation.robustness import check_levels
        from scansynth.evaluation.segmenter import command_segmenter, with_mask
        from scansynth.evaluation.tables import write_tables
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
        with TemporaryDirectory() as folder:
            # Dice is of syntheses that have been made: where nothing is kept they are, until then.
            mask = self.dice or (mask_of(runs, cohort, self.split) if protocol.name == "default" else None)
            kept = self.keep or (Path(folder) if mask else None)
            found = self.evaluated(
                runs,
                cohort,
                protocol,
                samples=self.samples,
                mean=self.mean,
                realism=self.realism,
                subsets=self.subsets == "all",
                kept=kept,
            )
            dice, further, notes = self.downstream(runs, cohort, found, mask=mask, kept=kept)
        if further or notes:
            write_tables(
                found.results,
                self.output,
                found.protocol,
                acceleration=found.acceleration,
                syntheses=found.syntheses,
                further=further,
                weights=found.weights,
                notes=[*found.notes, *notes],
            )
        out.print((self.output / "table.md").read_text(), markup=False)
        if found.sites:
            out.print((self.output / "sites.md").read_text(), markup=False)
        if dice:
            out.print((self.output / "dice.md").read_text(), markup=False)
        if self.noise:
            self.with_noise(runs, cohort, protocol)
        path = write_report(found, runs, self.output, noise=bool(self.noise), dice=dice, notes=notes)
        out.print(f"Report, for a browser: {path}", markup=False)
        out.print(after_evaluating(runs, self.cohort, self.options()), markup=False)

    @property
    def share(self) -> float:
        """How far from the mean to a draw the images lie that a segmenter sees."""
        return 0.0 if self.mean else self.realism

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

    def downstream(
        self, runs: list[Any], cohort: Any, found: Any, *, mask: str | None, kept: Path | None
    ) -> tuple[list[Any], list[Any], list[str]]:
        """What a segmenter finds, its column of the table, and, where it was not asked, why."""
        from scansynth.evaluation.downstream import (
            SHARE,
            as_column,
            forecast,
            left_out,
            measure_downstream,
            write_downstream,
        )

        if mask is None:
            why = "the subjects have no mask with labels (`seg`, `dseg`) together with all contrasts"
            return [], [], [f"Dice of a segmenter: none, for {why}."] if found.protocol.name == "default" else []
        if not self.dice:
            targets = len({result.target for result in found.results})
            try:
                seconds = forecast(runs, cohort, mask, targets)
            except InputError as error:
                return [], [], [f"Dice of `{mask}`: none ({error})."]
            if seconds > SHARE * found.seconds:
                return [], [], [
                    f"Dice of `{mask}`: not taken unasked, for its segmenters would train for some "
                    f"{seconds / 60:.1f} minutes and the syntheses took {found.seconds / 60:.1f}; `--dice {mask}` "
                    "takes it."
                ]  # fmt: skip
        with stage_bars() as report:
            dice = measure_downstream(
                runs, cohort, mask, split=self.split, target=self.target, seed=self.seed, command=self.segmenter,
                kept=kept, report=report, realism=self.share,
            )  # fmt: skip
        missing = left_out(runs, cohort, mask, self.split)
        write_downstream(dice, mask, self.segmenter, self.output, missing=missing)
        return dice, [as_column(dice, mask, self.segmenter, missing, realism=self.share)], []


@dataclass(frozen=True)
class Compare(_Measured):
    """Hold runs against each other on a split: best, differences with tests by subject, time and memory.

    Runs that are equal but for the seed are trainings of one method, and stand in one row.
    """

    by_slice: bool = False
    """Tests over slices too, in comparison_by_slice.*: slices are not independent, p-values come out too small."""
    reference: str | None = None
    """The method, by its row or a run of it, that the others are held against; by default the best of each target."""

    def run(self) -> None:
        """Evaluate all runs, compare them and print the table."""
        from scansynth.evaluation.arms import arms_of
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
        arms = arms_of(runs)
        by_subject = compare(
            found.results,
            found.protocol,
            arms=arms,
            reference=self.reference,
            costs=found.costs,
            acceleration=found.acceleration,
            notes=found.notes,
        )
        write_comparison(by_subject, self.output)
        out.print(markdown(by_subject), markup=False)
        if self.by_slice:
            costs, acceleration = found.costs, found.acceleration
            by_slice = compare(
                found.results,
                found.protocol,
                arms=arms,
                reference=self.reference,
                costs=costs,
                acceleration=acceleration,
                unit="slice",
                notes=found.notes,
            )
            write_comparison(by_slice, self.output)
            out.print(markdown(by_slice), markup=False)
        path = write_report(found, runs, self.output, comparison=by_subject)
        out.print(f"Report, for a browser: {path}", markup=False)
        # The run that has the best mean of the most figures.
        best = [label for row in by_subject.rows for label in row.runs for _ in row.best]
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
