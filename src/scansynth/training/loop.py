"""The steps of a run: data in the order of the seed, updates, validation, checkpoints, and the end by steps or clock.

A step's samples and noise are functions of (seed, step, place in the batch) alone. Checkpoints are written by the
clock, and when somebody asks to stop; they hold what a resumed run needs to become the uninterrupted one.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from scansynth.config import RunConfig, to_yaml
from scansynth.data.cohort import Cohort
from scansynth.data.samples import Samples
from scansynth.errors import StoppedError, out_of_memory
from scansynth.files import write_text
from scansynth.method import Progress
from scansynth.metrics.cases import Case, inside_the_brain
from scansynth.metrics.image_metrics import PSNR, SSIM
from scansynth.metrics.montage import validation_picture
from scansynth.metrics.protocols import find_protocol, measure
from scansynth.noise import Noise
from scansynth.progress import Event, Report
from scansynth.training import checkpoint
from scansynth.training.accumulation import halved, parts
from scansynth.training.engine import Engine
from scansynth.training.metrics_file import add_line
from scansynth.training.pace import Budget, Crowding, progress_at
from scansynth.training.selection import FEWEST, RULE
from scansynth.training.stopping import Request
from scansynth.training.validation import (
    held_out_loss,
    held_out_samples,
    sources_shown,
    synthesise_target,
    validation_targets,
)

log = logging.getLogger(__name__)

COSTLY = 20
"""Checkpoints by the clock come at least so many times as far apart as writing one takes."""


class _InterruptedError(Exception):
    """Somebody asked to stop during a validation."""


@contextmanager
def _told_once() -> Iterator[None]:
    """Of an error of the system in TensorBoard's thread, which hands it on to this one, no traceback of its own."""
    before = threading.excepthook

    def hook(found: threading.ExceptHookArgs) -> None:
        if not isinstance(found.exc_value, OSError):
            before(found)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


def step(
    engine: Engine, batch: dict[str, torch.Tensor], config: RunConfig[Any], number: int, progress: Progress
) -> None:
    """One training step on a batch, of which `batch` holds this process's part."""
    own = len(batch["available"])
    places = engine.processes.share(own * engine.processes.count)
    keys = [(config.seed, number, place) for place in places]
    engine.begin_step(progress)
    for part, which in parts(batch, config.training.accumulate):
        engine.share, engine.last_part = (which.stop - which.start) / own, which.stop == own
        on_device = {key: value.to(engine.device) for key, value in part.items()}
        engine.method.training_step(on_device, engine.update, progress, Noise(keys[which], engine.device))


class Loop:
    """The steps of one run.

    Args:
        config: resolved settings.
        cohort: prepared scans.
        run: its folder.
        engine: of the method that is trained.
        dataset: training samples.
        state: of the checkpoint that the run goes on from; empty at the start.
        seconds: that this process has spent on the run before its steps.
        stop: whether somebody asks to stop.
    """

    def __init__(
        self,
        config: RunConfig[Any],
        cohort: Cohort,
        run: Path,
        *,
        engine: Engine,
        dataset: Samples,
        state: dict[str, Any],
        seconds: float,
        stop: Request,
    ):
        self.config, self.run, self.engine, self.dataset, self.stop = config, run, engine, dataset, stop
        self.start = state.get("step", 0)
        best = state.get("best")
        self.best = -np.inf if best is None else best
        if best is not None and state.get("rule") != RULE:
            log.info("%s: its best weights were chosen by another rule: they are chosen anew from here on", run)
            self.best = -np.inf
        self.validated = state.get("validated", self.start)
        engine.method.train()
        first = engine.processes.first
        self.validation = validation_targets(cohort, engine.method, config) if first else []
        self.held_out = held_out_samples(cohort, engine.method, config) if first else None
        self.validating = len({one.subject for one in self.validation}) or len(cohort.subjects("val"))
        if first and not self.validates:
            log.warning("the cohort has no validation subject: synthesis will use the last weights, not the best")
        elif first and self.validating < FEWEST:
            log.info(
                "validation subjects: %d, too few to tell which weights are best (%d): synthesis will use the last, "
                "unless --weights best is given", self.validating, FEWEST,
            )  # fmt: skip
        self.budget = Budget(config, self.start, state.get("seconds", 0.0) + seconds)
        self.crowding = Crowding()
        self.figures: dict[str, float] = {}

    @property
    def validates(self) -> bool:
        """Whether there is something to validate on."""
        return bool(self.validation) or self.held_out is not None

    @property
    def end(self) -> int:
        """Training steps in all, as far as known."""
        return self.config.training.steps

    def batches(self) -> Iterator[dict[str, torch.Tensor]]:
        """This process's places of the batch of each step."""
        size = self.config.training.batch_size
        own = self.engine.processes.share(size)
        return iter(
            DataLoader(
                self.dataset, batch_sampler=([step * size + place for place in own] for step in count(self.start))
            )
        )

    def steps(self) -> Iterator[int]:
        """Train to the end; yields the steps finished after each."""
        done, batches = self.start, self.batches()
        while done < self.end:
            training = self.config.training
            epoch = done * training.batch_size / len(self.dataset)
            batch, begun, used = next(batches), time.perf_counter(), time.process_time()
            self.engine.whose = partial(self.whose, done)
            self.fitting_step(batch, done, progress_at(training, done, epoch))
            done += 1
            self.make_room(time.perf_counter() - begun, time.process_time() - used)
            self.revise(done)
            yield done

    def fitting_step(self, batch: dict[str, torch.Tensor], done: int, progress: Progress) -> None:
        """A step; where memory is out, in twice as many parts, which the run keeps.

        Raises:
            InputError: if memory does not do for the least part, or weights have moved already.
        """
        while True:
            try:
                return step(self.engine, batch, self.config, done, progress)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                config = halved(self.config, self.engine, done)
            self.config = self.budget.config = config
            write_text(self.run / "config.yaml", to_yaml(config))
            if self.engine.device.type == "cuda":
                torch.cuda.empty_cache()

    def whose(self, done: int) -> str:
        """Of whom the samples of a step are, for a message."""
        size = self.config.training.batch_size
        names = {name for place in range(size) for name in self.dataset.shows(done * size + place)}
        return f", on scans of {', '.join(sorted(names))}"

    def revise(self, done: int) -> None:
        """Move the end of a run by minutes, where the clock says so; written down, it holds for a resumed run too."""
        if not self.config.training.minutes:
            return
        revised = self.engine.processes.from_first(lambda: self.budget.revised(done))
        if revised is not None:
            self.config = self.budget.config = revised
            if self.engine.processes.first:
                write_text(self.run / "config.yaml", to_yaml(revised))

    def make_room(self, seconds: float, processor: float) -> None:
        """Go on with one thread where several wait for each other, up to 60 times as long as one takes alone."""
        training = self.config.training
        alone = self.engine.processes.count == 1 and self.engine.device.type == "cpu"
        if not alone or training.threads < 2 or not self.crowding.found(seconds, processor, training.threads):
            return
        log.warning(
            "other programs use the processors (a step took %.2f s): going on with one thread; a later "
            "--training.threads %d takes them all again", seconds, training.threads,
        )  # fmt: skip
        torch.set_num_threads(1)
        self.config = self.budget.config = replace(self.config, training=replace(training, threads=1))
        write_text(self.run / "config.yaml", to_yaml(self.config))

    def stopping(self) -> bool:
        """Whether any process was asked to stop."""
        if self.engine.processes.count == 1:
            return bool(self.stop)
        asked = torch.tensor([float(bool(self.stop))], device=self.engine.device)
        self.engine.processes.mean_([asked])
        return asked.item() > 0

    def run_steps(self, report: Report | None) -> RunConfig[Any]:
        """Train to the end; the first process logs, validates and saves.

        Returns:
            The settings, with the steps that the run came to.

        Raises:
            StoppedError: if somebody asked to stop; what was trained is saved.
        """
        if not self.engine.processes.first:
            for done in self.steps():
                if self.stopping() and done < self.end:
                    raise StoppedError(self.stop.by or 0, done, self.end, str(self.run))
        elif self.start < self.end or self.validation_left:
            with _told_once(), SummaryWriter(str(self.run / "tensorboard"), purge_step=self.start) as writer:
                self.catch_up(writer)
                self._run_first(writer, report)
        return self.config

    def _run_first(self, writer: SummaryWriter, report: Report | None) -> None:
        clock, clock_step = time.perf_counter(), self.start
        saved, cost = time.perf_counter(), 0.0
        for done in self.steps():
            training, at_end = self.config.training, done >= self.end
            if at_end or done % training.log_every == 0:
                seconds = (time.perf_counter() - clock) / (done - clock_step)
                self.figures = self.engine.mean_losses()
                self.write(writer, done, {**self.figures, "seconds_per_step": seconds})
                clock, clock_step = time.perf_counter(), done
            if self.validates and (at_end or done % training.validate_every == 0):
                before = time.perf_counter()
                self.validate_if_left(writer, done)
                clock += time.perf_counter() - before  # seconds_per_step are those of training
            stopping = self.stopping()
            apart = max(60 * training.checkpoint_minutes, COSTLY * cost)
            by_steps = training.checkpoint_every and done % training.checkpoint_every == 0
            if at_end or stopping or by_steps or time.perf_counter() - saved > apart:
                before = time.perf_counter()
                self.save(done)
                saved = time.perf_counter()
                cost = saved - before
                clock += cost
            if report:
                report(Event(done, self.end, figures=self.figures))
            if stopping and (not at_end or self.validated < done):
                raise StoppedError(self.stop.by or 0, done, self.end, str(self.run))

    def save(self, done: int) -> None:
        """Write a checkpoint."""
        best = self.best if np.isfinite(self.best) else None
        # Seconds are of use where minutes are; elsewhere they would make equal runs unequal.
        spent = {"seconds": round(self.budget.seconds, 1)} if self.config.training.minutes else {}
        self.engine.save(self.run / "last", done, {"best": best, "rule": RULE, "validated": self.validated, **spent})

    @property
    def validation_left(self) -> bool:
        """Whether a stop has left a validation undone at the step that the run goes on from."""
        due = self.start % self.config.training.validate_every == 0 or self.start == self.end
        return self.validates and due and self.validated < self.start

    def catch_up(self, writer: SummaryWriter) -> None:
        """Make the validation that a stop has left undone."""
        if not self.validation_left:
            return
        self.validate_if_left(writer, self.start)
        if self.validated == self.start:
            checkpoint.note(self.run / "last", best=self.best, rule=RULE, validated=self.validated)
        elif self.engine.processes.count == 1:  # else all stop together, after their next step
            raise StoppedError(self.stop.by or 0, self.start, self.end, str(self.run))

    def validate_if_left(self, writer: SummaryWriter, done: int) -> None:
        """Validate; where somebody asks to stop meanwhile, it is left for when the run goes on."""
        before = time.perf_counter()
        try:
            self.figures = {**self.figures, **self.validate(writer, done)}
            self.validated = done
        except _InterruptedError:
            pass
        self.budget.validated(time.perf_counter() - before)

    def write(self, writer: SummaryWriter, done: int, figures: dict[str, float]) -> None:
        """Put figures into metrics.jsonl and TensorBoard."""
        add_line(self.run / "metrics.jsonl", done, figures)
        for name, value in figures.items():
            writer.add_scalar(name, value, done)

    def validate(self, writer: SummaryWriter, done: int) -> dict[str, float]:
        """Measure the averaged nets on the validation slices, keep the best weights, and draw a picture.

        PSNR is that of the protocol `default`, inside the brain, and the weights of its highest mean over
        targets are the best (`RULE`). SSIM is that of `syndiff`, slice by slice: those that are validated lie apart.
        """
        engine, psnr, ssim = self.engine, {}, {}
        if self.held_out is not None:  # nothing is there to compare a volume with that is made without a source
            with engine.averaged_weights():
                loss = held_out_loss(engine.method, self.held_out, self.config, engine.device, before_each=self.go_on)
            self.write(writer, done, {"validation/loss": loss})
            self.keep_best(done, -loss, {"validation_loss": loss})
            return {"validation/loss": loss}
        with engine.averaged_weights():
            for left_out in self.validation:
                self.go_on()
                synthesis = synthesise_target(engine.method, left_out, self.config.seed, engine.device).numpy()
                truth = left_out.truth.numpy()
                inside = inside_the_brain(Case(synthesis.astype(np.float64), truth.astype(np.float64)))
                psnr.setdefault(left_out.target, []).append(float(PSNR.of(inside).mean()))
                measured = measure(find_protocol("syndiff").only(SSIM.column), synthesis, truth)
                ssim.setdefault(left_out.target, []).append(measured.mean(SSIM.column))
                if left_out.subject == self.validation[0].subject:
                    path = self.run / "validation" / f"step-{done:08d}_{left_out.target}.png"
                    path.parent.mkdir(exist_ok=True)
                    picture = validation_picture(path, sources_shown(engine.method, left_out), synthesis, truth)
                    writer.add_image(f"validation/{left_out.target}", picture, done, dataformats="HWC")
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
            told = {**state, "subjects": self.validating, "rule": RULE}
            checkpoint.save(self.run / "best", done, {"weights": self.engine.synthesis_weights()}, told)

    def go_on(self) -> None:
        """Raise `_InterruptedError` if somebody asks to stop."""
        if self.stop:
            raise _InterruptedError
