"""The command line: `scansynth VERB …`. Only this file prints.

Exit codes: 0 done, 1 failed, 2 wrong arguments.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import tyro
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tyro.conf import Positional, arg

import scansynth
from scansynth.errors import InputError, ToldElsewhereError

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

Input = Annotated[Path, arg(aliases=["-i"])]
Output = Annotated[Path, arg(aliases=["-o"])]


@contextmanager
def bars(show: bool = True) -> Iterator[Any]:
    """Progress bars: a function (text, done, in all) that draws and moves one bar a text.

    Where the output is no terminal (a log file), a line a text is written when it begins. Of several processes only
    the first one shows them.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=err, disable=not (show and err.is_terminal)) as progress:
        tasks: dict[str, Any] = {}

        def move(text: str, done: int, total: int, note: str = "") -> None:
            if text not in tasks:
                tasks[text] = progress.add_task(text)
                if show and not err.is_terminal:
                    err.print(f"{text} ({total})", markup=False)
            progress.update(tasks[text], completed=done, total=total, description=f"{text} {note}".strip())

        yield move


@dataclass(frozen=True)
class Demo:
    """Train and translate on phantom scans (or --data) in minutes, with tables and pictures."""

    output: Output = Path("demo")
    """Folder to write into."""
    data: Path | None = None
    """Your own scans (BIDS, BraTS, IXI or a table) instead of phantoms."""
    contrasts: tuple[str, str] = ("T1w", "T2w")
    """The two contrasts to translate between."""
    minutes: float | None = None
    """Training time in all; by default three and a half minutes."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    seed: int = 0
    """Of phantoms, splits, weights and noise."""

    def run(self) -> None:
        """Run the demo and print its table."""
        from scansynth.data.contrasts import standard_name
        from scansynth.demo import demo
        from scansynth.engine import find_device

        first, second = map(standard_name, self.contrasts)
        with bars() as move:
            outcome = demo(
                self.output, find_device(self.device), self.data, (first, second), self.minutes, self.seed, move
            )
        out.print((self.output / "evaluation" / "table.md").read_text(), markup=False)
        out.print(f"Done in {outcome.seconds / 60:.1f} minutes. Tables and pictures: {self.output / 'evaluation'}")
        out.print(f"Synthetic NIfTI files: {self.output / 'translated'}. Synthetic images are not scans.")
        if not outcome.beats_copied_source:
            raise InputError("a run is not better than its copied source: give it more --minutes")


@dataclass(frozen=True)
class Methods:
    """List methods and recipes."""

    def run(self) -> None:
        """Print both lists."""
        from scansynth.methods import METHODS
        from scansynth.recipes import RECIPES

        for name, entry in METHODS.items():
            out.print(f"{name}: {entry.description}\n    {entry.citation}", markup=False)
        out.print("\nRecipes (scansynth train RECIPE …):")
        for name, recipe in RECIPES.items():
            out.print(f"{name}: {(recipe.__doc__ or '').splitlines()[0]}", markup=False)


@dataclass(frozen=True)
class Prepare:
    """Prepare a folder or table of scans once, for training and evaluation."""

    input: Input
    """Folder (BIDS, BraTS, IXI) or CSV/TSV table of subject, contrast, path and split."""
    output: Output
    """Folder of the prepared cohort."""
    contrasts: tuple[str, ...] = ()
    """Which contrasts; empty for all that are found."""
    spacing: tuple[float | None, float | None, float | None] = (None, None, None)
    """Voxel size in mm (right, anterior, superior); None keeps an axis as acquired."""
    size: tuple[int | None, int | None, int | None] = (256, 256, None)
    """Voxels after resampling, centred on the foreground; None keeps an axis."""
    intensity: str = "syndiff"
    """syndiff, percentile, z-score or hu-window (CT only)."""
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Train, val and test, drawn by subject where the data gives no split."""
    seed: int = 0
    """Of that draw."""
    dry_run: bool = False
    """Show subjects, contrasts, grids and problems; write nothing."""
    skip_bad: bool = False
    """Leave scans out that cannot be read."""
    overwrite: bool = False
    """Throw away a cohort prepared with other settings."""

    def run(self) -> None:
        """Prepare, or show what would be done."""
        from scansynth.data.build_cohort import build_cohort
        from scansynth.data.contrasts import standard_name
        from scansynth.data.dry_run import dry_run
        from scansynth.data.layouts import find_subjects
        from scansynth.data.prepare import Preparation

        settings = Preparation(self.spacing, self.size, self.intensity)
        listing = find_subjects(self.input)
        contrasts = [standard_name(name) for name in self.contrasts] or None
        if self.dry_run:
            report = dry_run(listing, settings, contrasts)
            out.print(report.text, markup=False)
            return
        with bars() as move:
            cohort = build_cohort(
                listing,
                self.output,
                settings,
                contrasts,
                fractions=self.fractions,
                seed=self.seed,
                progress=lambda done, total, name: move("preparing", done, total),
                overwrite=self.overwrite,
                skip_bad=self.skip_bad,
            )
        counts = ", ".join(f"{len(cohort.subjects(split))} {split}" for split in ("train", "val", "test"))
        out.print(f"{self.output}: {len(cohort.subjects())} subjects ({counts}), {', '.join(cohort.contrasts)}")


Settings = TypeVar("Settings")


@dataclass(frozen=True)
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
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    devices: int = 1
    """Devices on each machine, a process each; they share the samples of a step (docs/clusters.md)."""
    nodes: int = 1
    """Machines; with several, start the command by torchrun or srun."""
    overwrite: bool = False
    """Throw away the run that is there."""

    def start(self) -> None:
        """Train to the end."""
        from scansynth.data.cohort import Cohort
        from scansynth.processes import start_processes
        from scansynth.train import train

        with start_processes(self.device, self.devices, self.nodes) as processes, bars(processes.first) as move:
            with processes.agreeing():
                cohort = Cohort.open(self.cohort)
            train(
                self.config,  # pyright: ignore[reportArgumentType]
                cohort,
                self.run,
                processes.device,
                self.init,
                self.overwrite,
                lambda done, total, figures: move(f"training {self.run.name}", done, total, validation_note(figures)),
                processes,
            )
        if processes.first:
            done = f"{self.run}: trained. Next: scansynth evaluate --run {self.run} --cohort {self.cohort} -o FOLDER"
            out.print(done)


def validation_note(figures: dict[str, float]) -> str:
    """What stands beside the training bar."""
    psnr = figures.get("validation/psnr")
    return f"(validation {psnr:.2f} dB)" if psnr is not None else ""


@dataclass(frozen=True)
class Translate:
    """Make a contrast that was not acquired: for one subject (files by contrast) or a folder (-i)."""

    run_folder: Annotated[Path, arg(name="run")]
    """A trained run."""
    output: Output
    """File (.nii.gz) for one subject, folder for many."""
    input: Annotated[Path | None, arg(aliases=["-i"])] = None
    """Folder or table of many subjects."""
    target: str | None = None
    """Contrast to make; may be left out where only one is missing."""
    t1w: Path | None = None
    """T1-weighted source."""
    t2w: Path | None = None
    """T2-weighted source."""
    pdw: Path | None = None
    """Proton-density-weighted source."""
    flair: Path | None = None
    """FLAIR source."""
    t1ce: Path | None = None
    """Contrast-enhanced T1-weighted source."""
    ct: Path | None = None
    """CT source."""
    source: tuple[str, ...] = ()
    """Further sources as NAME=FILE."""
    missing: bool = False
    """With -i: make only what a subject does not have."""
    samples: int = 1
    """How many to draw; with several the mean, the standard deviation and each sample are written."""
    shared_noise: bool = False
    """One noise image for all slices: neighbours agree better."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    devices: int = 1
    """With -i: devices on each machine, a process each; they share the subjects (docs/clusters.md)."""
    nodes: int = 1
    """With -i: machines; with several, start the command by torchrun or srun."""
    seed: int = 0
    """Of the noise."""
    overwrite: bool = False
    """Make again what is there."""

    def run(self) -> None:
        """Translate a subject or a folder."""
        sources = self.sources()
        if (self.input is None) == (not sources):
            raise InputError("translate: give either source files (--t1w FILE …) or a folder (-i FOLDER)")
        if self.input is None:
            self.one(sources)
        else:
            self.many(self.input)

    def sources(self) -> dict[str, Path]:
        """Source files by contrast."""
        named = {
            "T1w": self.t1w,
            "T2w": self.t2w,
            "PDw": self.pdw,
            "FLAIR": self.flair,
            "T1ce": self.t1ce,
            "CT": self.ct,
        }
        sources = {name: path for name, path in named.items() if path is not None}
        for item in self.source:
            name, found, path = item.partition("=")
            if not found:
                raise InputError(f"--source {item}: write NAME=FILE")
            sources[name] = Path(path)
        return sources

    def one(self, sources: dict[str, Path]) -> None:
        """One subject's files."""
        if self.missing or self.devices > 1 or self.nodes > 1:
            raise InputError("--missing, --devices and --nodes go with a folder (-i)")
        if not self.output.name.endswith((".nii", ".nii.gz")):
            raise InputError(f"-o {self.output}: name a .nii.gz file")
        if self.output.exists() and not self.overwrite:
            raise InputError(f"{self.output} is there already; choose another -o, or --overwrite")
        run = scansynth.load(self.run_folder, self.device)
        with bars() as move:
            synthesis = run.translate(
                dict(sources), self.target, self.samples, self.seed,
                shared_noise=self.shared_noise,
                report=lambda done, total: move("translating", done, total),
            )  # fmt: skip
        for path in synthesis.write(self.output):
            out.print(f"{path}", markup=False)
        out.print("Synthetic, for research: not a scan.")

    def many(self, folder: Path) -> None:
        """A cohort."""
        from scansynth.cohort_synthesis import translate_cohort
        from scansynth.data.layouts import find_subjects
        from scansynth.processes import start_processes

        with start_processes(self.device, self.devices, self.nodes) as processes, bars(processes.first) as move:
            with processes.agreeing():
                listing = find_subjects(folder)
                run = scansynth.load(self.run_folder, str(processes.device))
            entries = translate_cohort(
                run, listing, self.output, self.target, self.missing, self.samples, self.seed,
                self.shared_noise, self.overwrite, lambda done, total, name: move("translating", done, total),
                processes,
            )  # fmt: skip
        for entry in entries if processes.first else ():
            out.print(f"{entry.subject}\t{entry.contrast}\t{entry.status}\t{entry.path}", markup=False)


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

        found = evaluated(self.run_folders, self.cohort, self.output, self.on, self)
        comparison = compare(found.results, self.protocol, self.reference, found.costs)
        write_comparison(comparison, self.output)
        plot_subjects(found.results, self.protocol, self.output)
        out.print((self.output / "comparison.md").read_text(), markup=False)


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
    """Measure runs on a split, with progress bars; `options` name target, protocol, seed, pictures and device."""
    from scansynth.data.cohort import SPLITS, Cohort
    from scansynth.evaluate import evaluate

    if split not in SPLITS:
        raise InputError(f"split {split}: choose from {', '.join(SPLITS)}")
    prepared = Cohort.open(cohort)
    loaded = [scansynth.load(folder, options.device) for folder in runs]
    with bars() as move:
        return evaluate(
            loaded, prepared, output, split, options.protocol, options.target, options.seed, options.pictures,
            lambda done, total, name: move("evaluating", done, total), getattr(options, "samples", 1),
        )  # fmt: skip


VERBS = {
    "demo": Demo,
    "methods": Methods,
    "prepare": Prepare,
    "train": Train,
    "translate": Translate,
    "evaluate": Evaluate,
    "compare": Compare,
}


def parse_train(arguments: Sequence[str]) -> Train[Any]:
    """`train RECIPE …` or `train FILE.yaml …`: the recipe says which settings there are."""
    from scansynth.config import RunConfig, read_yaml
    from scansynth.methods import find_method
    from scansynth.recipes import RECIPES, find_recipe

    if not arguments or arguments[0].startswith("-"):
        err.print(f"usage: scansynth train RECIPE|FILE.yaml --cohort COHORT --run RUN …\nrecipes: {', '.join(RECIPES)}")
        raise SystemExit(0 if "--help" in arguments or "-h" in arguments else 2)
    name = arguments[0]
    config = read_yaml(Path(name)) if name.endswith((".yaml", ".yml")) else find_recipe(name)
    kind = RunConfig[find_method(config.method).Config]
    default = Train(cohort=tyro.MISSING, run=tyro.MISSING, config=config)
    return tyro.cli(Train[kind], default=default, args=list(arguments[1:]), prog=f"scansynth train {name}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code."""
    typed, arguments = arguments is None, list(sys.argv[1:] if arguments is None else arguments)
    handler = RichHandler(console=err, show_time=False, show_level=False, show_path=False)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler])
    logging.getLogger("scansynth").setLevel(logging.INFO)
    if arguments[:1] == ["--version"]:
        out.print(scansynth.__version__)
        return 0
    if not arguments or arguments[0] not in VERBS:
        out.print("scansynth makes the medical scans nobody acquired. Verbs:\n")
        for name, verb in VERBS.items():
            out.print(f"  {name:10} {(verb.__doc__ or '').splitlines()[0]}", markup=False)
        out.print("\nscansynth VERB --help tells more.")
        if arguments and arguments[0] not in ("-h", "--help"):
            err.print(f"error: no verb {arguments[0]!r}", markup=False)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 2
    verb, rest = arguments[0], arguments[1:]
    try:
        if verb == "train":
            command: Any = parse_train(rest)
        elif verb == "evaluate" and "--spread" in rest:
            files = [argument for argument in rest if argument != "--spread"]
            command = tyro.cli(Spread, args=files, prog="scansynth evaluate --spread")
        else:
            command = tyro.cli(VERBS[verb], args=rest, prog=f"scansynth {verb}")
        if not typed and getattr(command, "devices", 1) > 1:
            raise InputError("several --devices repeat the command line: call `scansynth`, not its main() from Python")
        command.start() if verb == "train" else command.run()
    except ToldElsewhereError:
        return 1
    except InputError as error:
        err.print(f"error: {error}", markup=False)
        return 1
    except KeyboardInterrupt:
        err.print("stopped; the same command goes on from the last checkpoint")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
