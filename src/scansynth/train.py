"""The training loop: data in the order of the seed, updates, validation, checkpoints; killed, it goes on.

Running the same command again resumes. A step's samples and noise are functions of (seed, step, place in the batch)
alone, so a resumed run equals an uninterrupted one, and several processes, each with its places of the batch, make
the run that one would make, but for rounding. Only the first of them writes.
"""

import json
import logging
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

import scansynth
from scansynth import checkpoint
from scansynth.config import RunConfig, read_yaml, to_yaml
from scansynth.data.cohort import Cohort
from scansynth.data.labels import Label, fit_labels
from scansynth.data.record import FILE, PreparationRecord
from scansynth.engine import Engine
from scansynth.errors import InputError
from scansynth.evaluation.metrics import PSNR, SSIM
from scansynth.evaluation.montage import validation_picture
from scansynth.evaluation.protocols import measure
from scansynth.files import write_text
from scansynth.first_stage import FOLDER, FirstStage
from scansynth.method import Noise, Progress
from scansynth.parts import TrainingData, find_first_stage, make_method, make_parts
from scansynth.precision import Precision, choose_precision
from scansynth.processes import Processes
from scansynth.validation import case_sources, held_out_loss, held_out_samples, synthesise_case, validation_cases

log = logging.getLogger(__name__)

MOVABLE = ("steps", "minutes", "log_every", "checkpoint_every", "validate_every")
"""Fields of `Training` that may be changed when a run resumes: they change no step of it."""

PATIENCE = 15.0
"""Seconds to wait for another training on the run to end: the workers of a killed one live on for some seconds."""

Report = Callable[[int, int, dict[str, float]], None]
"""Called with (steps finished, steps in all, newest figures)."""


def train(
    config: RunConfig[Any],
    cohort: Cohort,
    run: Path,
    device: torch.device,
    init: Path | None = None,
    overwrite: bool = False,
    report: Report | None = None,
    processes: Processes | None = None,
    first_stage: Path | None = None,
) -> RunConfig[Any]:
    """Train a run to its end, from the start or from its last checkpoint.

    Args:
        config: settings; empty `contrasts` take all of the cohort.
        cohort: prepared scans.
        run: the run folder, made if need be.
        device: where to compute.
        init: another run whose weights are the start (fine-tuning); ignored when the run resumes.
        overwrite: throw away a run that is there.
        report: told of every step, in the first process.
        processes: that train together; by default there is only this one.
        first_stage: run of the autoencoder that a latent method works on; not needed when the run resumes.

    Returns:
        The resolved settings, as in the run's `config.yaml`.

    Raises:
        InputError: if the cohort does not fit the method, or the folder holds a run of other settings or one that
            another training writes to.
    """
    processes = processes or Processes(device)
    config = replace(config, contrasts=config.contrasts or cohort.contrasts)
    with locked(run, processes):
        stage = find_first_stage(config, cohort, run, first_stage, overwrite, processes)
        with processes.agreeing():
            method, dataset = make_parts(config, cohort, processes, stage)
            if init and (overwrite or not checkpoint.current(run / "last")):
                weights, source = checkpoint.load_weights(init)
                check_same_networks(config, init, fit_labels(cohort, method.needs.labels, config.contrasts))
                checkpoint.restore(dict(method.nets.items()), weights, source)
        resumed, config = open_run(
            config, cohort, run, overwrite, lambda config: measured(config, dataset, processes), processes, stage
        )
        engine = Engine(method, device, computed(config), config.training.gradient_clip, processes)
        start, best = 0, -np.inf
        if resumed:
            with processes.agreeing():
                state = engine.load(resumed)
            start, best = state["step"], state["best"] if state["best"] is not None else -np.inf
        engine.start_equal()
        if processes.first:
            if resumed:
                log.info("%s: going on at step %d", run, start)
            _cut_back(run / "metrics.jsonl", start)
        _Loop(config, cohort, run, engine, dataset, best).run_steps(start, report)
    return config


@contextmanager
def locked(run: Path, processes: Processes) -> Iterator[None]:
    """Keep other trainings off the run: a lock beside its folder, which the system frees when the process ends."""
    lock = FileLock(run.absolute().with_name(f".{run.name}.lock"))

    def take() -> None:
        run.absolute().parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout as error:
            raise InputError(f"{run}: another training writes to it: let it end, or choose another --run") from error

    processes.from_first(take)
    try:
        yield
    finally:
        lock.release()


def open_run(
    config: RunConfig[Any],
    cohort: Cohort,
    run: Path,
    overwrite: bool,
    resolve: Callable[[RunConfig[Any]], RunConfig[Any]],
    processes: Processes,
    stage: FirstStage | None,
) -> tuple[Path | None, RunConfig[Any]]:
    """Make the run folder or find the run in it; the first process does so for all.

    Returns:
        The checkpoint to go on from (None at the start), and the resolved settings.
    """
    stored = processes.from_first(lambda: find_run(run, overwrite))
    if stored is None:
        config = processes.from_first(lambda: with_precision(config, processes.device))
        config = resolve(config)
        processes.from_first(lambda: make_run(config, cohort, run, processes, stage))
        return None, config
    return processes.from_first(lambda: reopen_run(config, stored, cohort, run))


def with_precision(config: RunConfig[Any], device: torch.device) -> RunConfig[Any]:
    """The settings with the precision that `auto` takes on this device."""
    choice = choose_precision(config.training.precision, device)
    log.info("networks compute in %s", choice)
    return replace(config, training=replace(config.training, precision=choice.precision))


def computed(config: RunConfig[Any]) -> Precision:
    """The precision of a run whose `auto` has been resolved."""
    assert config.training.precision != "auto"
    return config.training.precision


def find_run(run: Path, overwrite: bool) -> RunConfig[Any] | None:
    """The settings of the run that is in the folder, or None where one may be made; clears it to overwrite it."""
    settings = run / "config.yaml"
    # config.yaml alone is no sign of a run: other programs name theirs so, too.
    if overwrite:
        # Renamed first: a kill leaves the whole run or none, never a part that neither goes on nor may be overwritten.
        discarded = run.absolute().with_name(f".{run.name}.overwritten")
        shutil.rmtree(discarded, ignore_errors=True)
        if settings.exists() and (run / FILE).exists():
            run.rename(discarded)
            shutil.rmtree(discarded)
    if not settings.exists():
        ours = ("environment.json", FILE, FOLDER)  # left by a kill before there was a config.yaml
        if run.exists() and any(path.name not in ours and not path.name.startswith(".") for path in run.iterdir()):
            raise InputError(f"{run}: the folder holds other files and no run; choose another --run")
        return None
    return read_yaml(settings)


def make_run(config: RunConfig[Any], cohort: Cohort, run: Path, processes: Processes, stage: FirstStage | None) -> None:
    """Write the folder of a run that begins; `config.yaml` last, which says that it is whole."""
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / "environment.json", json.dumps(environment() | {"processes": str(processes.count)}, indent=1))
    PreparationRecord.of(cohort, config.contrasts, make_method(config).needs.labels).write(run)
    if stage:
        stage.write(run / FOLDER)
    write_text(run / "config.yaml", to_yaml(config))


def reopen_run(
    config: RunConfig[Any], stored: RunConfig[Any], cohort: Cohort, run: Path
) -> tuple[Path | None, RunConfig[Any]]:
    """Let a run go on: its last checkpoint, if it has one, and its settings with what may be changed."""
    settings = run / "config.yaml"
    if stored.method != config.method:
        raise InputError(f"{run}: holds a run of {stored.method!r}, not {config.method!r}; choose another --run")
    PreparationRecord.read(run).check_same(cohort, run)
    # The end may be moved, and how often things are shown; all else would make it another run. By minutes, the end
    # that was measured at the start holds.
    steps = stored.training.steps if config.training.minutes else max(config.training.steps, stored.training.steps)
    asked = config.training.precision
    precision = stored.training.precision if asked == "auto" else asked
    training = replace(config.training, steps=steps, minutes=stored.training.minutes, precision=precision)
    wanted = replace(config, training=training)
    movable = {name: getattr(wanted.training, name) for name in MOVABLE}
    if to_yaml(replace(stored, training=replace(stored.training, **movable))) != to_yaml(wanted):
        raise InputError(
            f"{run}: holds a run with other settings (see {settings}); choose another --run, "
            "or --overwrite to start anew"
        )
    write_text(settings, to_yaml(wanted))
    return checkpoint.current(run / "last"), wanted


def measured(config: RunConfig[Any], dataset: TrainingData, processes: Processes) -> RunConfig[Any]:
    """Convert `training.minutes` to steps by the rate of a trial on a copy of the method.

    The trial takes a twentieth of the time, or five steps; what it trains is thrown away. All processes take part,
    the first one's clock counts.
    """
    minutes, batch_size = config.training.minutes, config.training.batch_size
    if not minutes:
        return config
    training = config.training
    engine = Engine(make_method(config), processes.device, computed(config), training.gradient_clip, processes)
    seconds: list[float] = []
    begun = time.perf_counter()
    while processes.from_first(lambda: len(seconds) < 5 or time.perf_counter() - begun < 60 * minutes / 20):
        before = time.perf_counter()
        items = [dataset[len(seconds) * batch_size + place] for place in processes.share(batch_size)]
        batch = {key: torch.stack([item[key] for item in items]) for key in items[0]}
        step(engine, batch, config, len(seconds), Progress(0, 1, 0.0))
        seconds.append(time.perf_counter() - before)
    rate, rest = float(np.mean(seconds[1:])), 60 * minutes - (time.perf_counter() - begun)
    steps = processes.from_first(lambda: max(1, round(rest / rate)))
    if processes.first:
        log.info("%.3f s a step: %d steps in %.1f minutes", rate, steps, minutes)
    return replace(config, training=replace(training, steps=steps))


def step(
    engine: Engine, batch: dict[str, torch.Tensor], config: RunConfig[Any], number: int, progress: Progress
) -> None:
    """One training step on a batch, of which `batch` holds this process's part."""
    places = engine.processes.share(len(batch["available"]) * engine.processes.count)
    keys = [(config.seed, number, place) for place in places]
    engine.progress = progress
    on_device = {key: value.to(engine.device) for key, value in batch.items()}
    engine.method.training_step(on_device, engine.update, progress, Noise(keys, engine.device))


class _Loop:
    """The steps of one run."""

    def __init__(
        self, config: RunConfig[Any], cohort: Cohort, run: Path, engine: Engine, dataset: TrainingData, best: float
    ):
        self.config, self.run, self.engine, self.dataset, self.best = config, run, engine, dataset, best
        self.validation = validation_cases(cohort, engine.method, config) if engine.processes.first else []
        self.held_out = held_out_samples(cohort, engine.method, config) if engine.processes.first else None
        if engine.processes.first and not self.validation and self.held_out is None:
            log.warning("the cohort has no validation subject: synthesis will use the last weights, not the best")

    def batches(self, start: int) -> Iterator[dict[str, torch.Tensor]]:
        """This process's places of the batch of each step."""
        training, own = self.config.training, self.engine.processes.share(self.config.training.batch_size)
        numbers = ([step * training.batch_size + place for place in own] for step in range(start, training.steps))
        return iter(DataLoader(self.dataset, batch_sampler=numbers))

    def steps(self, start: int) -> Iterator[int]:
        """Train from `start` to the end; yields the steps finished after each."""
        training, engine = self.config.training, self.engine
        engine.method.train()
        for number, batch in enumerate(self.batches(start), start):
            epoch = number * training.batch_size / len(self.dataset)
            step(engine, batch, self.config, number, Progress(number, training.steps, epoch))
            yield number + 1

    def run_steps(self, start: int, report: Report | None) -> None:
        """Train from `start` to the end; the first process logs, validates and saves."""
        training, engine = self.config.training, self.engine
        if not engine.processes.first:
            for _ in self.steps(start):
                pass
            return
        writer = SummaryWriter(str(self.run / "tensorboard"), purge_step=start)
        clock, clock_step = time.perf_counter(), start
        figures: dict[str, float] = {}
        for done in self.steps(start):
            at_end = done == training.steps
            save = at_end or done % training.checkpoint_every == 0
            # A line at each checkpoint too, so that what was summed up to it is not lost with a kill after it.
            if save or done % training.log_every == 0:
                seconds = (time.perf_counter() - clock) / (done - clock_step)
                figures = engine.mean_losses()
                self.write(writer, done, {**figures, "seconds_per_step": seconds})
            if (self.validation or self.held_out is not None) and (at_end or done % training.validate_every == 0):
                figures = {**figures, **self.validate(writer, done)}
            if save:
                engine.save(self.run / "last", done, {"best": self.best if np.isfinite(self.best) else None})
            if save or done % training.log_every == 0:
                clock, clock_step = time.perf_counter(), done
            if report:
                report(done, training.steps, figures)
        writer.close()

    def write(self, writer: SummaryWriter, done: int, figures: dict[str, float]) -> None:
        """Put figures into metrics.jsonl and TensorBoard."""
        with (self.run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": done, **figures}) + "\n")
        for name, value in figures.items():
            writer.add_scalar(name, value, done)

    def validate(self, writer: SummaryWriter, done: int) -> dict[str, float]:
        """Measure the averaged nets on the validation slices, keep the best weights, and draw a picture.

        Figures are those of the protocol `syndiff`, which does not depend on the scale of an image: that of a
        target's intensities cannot be known from its sources, and would decide which weights seem best.
        """
        engine, psnr, ssim = self.engine, {}, {}
        if self.held_out is not None:  # nothing is there to compare a volume with that is made without a source
            with engine.averaged_weights():
                loss = held_out_loss(engine.method, self.held_out, self.config, engine.device)
            self.write(writer, done, {"validation/loss": loss})
            self.keep_best(done, -loss, {"validation_loss": loss})
            return {"validation/loss": loss}
        with engine.averaged_weights():
            for case in self.validation:
                synthesis = synthesise_case(engine.method, case, self.config.seed, engine.device).numpy()
                truth = case.truth.numpy()
                measured = measure("syndiff", synthesis, truth)
                psnr.setdefault(case.target, []).append(measured.mean(PSNR.column))
                ssim.setdefault(case.target, []).append(measured.mean(SSIM.column))
                if case.subject == self.validation[0].subject:
                    path = self.run / "validation" / f"step-{done:08d}_{case.target}.png"
                    path.parent.mkdir(exist_ok=True)
                    picture = validation_picture(path, case_sources(engine.method, case), synthesis, truth)
                    writer.add_image(f"validation/{case.target}", picture, done, dataformats="HWC")
        figures = {f"validation/{target}/psnr": float(np.mean(values)) for target, values in psnr.items()}
        mean = float(np.mean(list(figures.values())))
        figures |= {f"validation/{target}/ssim": float(np.mean(values)) for target, values in ssim.items()}
        figures["validation/psnr"] = mean
        self.write(writer, done, figures)
        self.keep_best(done, mean, {"validation_psnr": mean})
        return figures

    def keep_best(self, done: int, score: float, state: dict[str, float]) -> None:
        """Save the weights for synthesis, if no earlier ones scored as high."""
        if score > self.best:
            self.best = score
            checkpoint.save(self.run / "best", done, {"weights": self.engine.synthesis_weights()}, state)


def check_same_networks(config: RunConfig[Any], init: Path, labels: Sequence[Label]) -> None:
    """Raise InputError if the run to start from is of another method, other contrasts or other labels."""
    other = read_yaml(init / "config.yaml")
    if (other.method, other.contrasts) != (config.method, config.contrasts):
        raise InputError(
            f"--init {init}: a run of {other.method} on {', '.join(other.contrasts)} cannot start one of "
            f"{config.method} on {', '.join(config.contrasts)}"
        )
    # The weights know a class by its place; numbers are standardised anew.
    known = [(label.name, label.classes) for label in PreparationRecord.read(init).labels]
    if known != [(label.name, label.classes) for label in labels]:
        raise InputError(
            f"--init {init}: a run of other labels, or of other classes of them, cannot start this one: leave --init "
            "out, or train with the same labels"
        )


def environment() -> dict[str, str]:
    """Versions and machine, for environment.json."""
    return {
        "scansynth": scansynth.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "threads": str(torch.get_num_threads()),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _cut_back(metrics: Path, step: int) -> None:
    """Drop lines of metrics.jsonl that a resumed run will write again."""
    if metrics.exists():
        kept = []
        for line in metrics.read_text().splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except json.JSONDecodeError:  # a line that a kill cut short
                continue
        write_text(metrics, "".join(kept))
