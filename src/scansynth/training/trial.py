"""A few training steps, thrown away: what a step takes here, and what follows from it for threads and steps."""

import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import numpy as np
import torch

from scansynth.config import RunConfig
from scansynth.data.cohort import Cohort
from scansynth.data.samples import Samples
from scansynth.devices import Processes
from scansynth.method import Progress
from scansynth.precision import choose_precision
from scansynth.training.costs import measured_cost
from scansynth.training.engine import Engine
from scansynth.training.first_stage import FirstStage
from scansynth.training.loop import step
from scansynth.training.pace import choose_threads, threads, timed
from scansynth.training.parts import make_method
from scansynth.training.validation import held_out_loss, held_out_samples, synthesise_target, validation_targets

log = logging.getLogger(__name__)

WARM_UP = 1
STEPS = 2
"""Measured; taken at a quarter and at three quarters of the training, whose phases may differ."""


@dataclass(frozen=True)
class Trial:
    """What a training step takes."""

    seconds: float
    """Mean of the measured steps."""
    memory_gb: float
    """Peak: of the GPU, or of the whole process on a CPU under Linux; NaN where it is not known."""
    shape: tuple[int, ...]
    """Of a training image, voxels: a slice (also of a set), or a patch."""


def try_steps(config: RunConfig[Any], size: tuple[int, int], device: torch.device) -> Trial:
    """Train a few steps of a run on random images and throw them away.

    Args:
        config: settings of the run, its contrasts named.
        size: of a slice, (H, W) voxels.
        device: where to compute.
    """
    training, seconds = config.training, []
    method = make_method(config)
    batch = method.needs.random_batch(len(method.contrasts), training.batch_size, size, config.seed)

    def work() -> None:
        engine = Engine(
            method, device, choose_precision(training.precision, device).precision, gradient_clip=training.gradient_clip
        )
        for place in (*[0] * WARM_UP, *range(STEPS)):
            number = int((place + 0.5) / STEPS * training.steps)
            begun = time.perf_counter()
            step(engine, batch, config, number, Progress(number, training.steps, 0.0))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - begun)

    _, cost = measured_cost(work, device, parameters=0)
    return Trial(float(np.mean(seconds[WARM_UP:])), cost.memory_gb, method.needs.image_shape(size))


def trial_step(
    config: RunConfig[Any],
    dataset: Samples,
    processes: Processes,
    stage: FirstStage | None,
    *,
    share: Callable[[int], float] = lambda number: 0.0,
) -> Callable[[], None]:
    """A training step on a copy of the method, with the run's own samples; all processes call it together.

    Args:
        config: settings of the run.
        dataset: its samples.
        processes: that train together.
        stage: the trained run that it builds on.
        share: from the number of the call, how much of the training is done before it, in [0, 1): phases differ.
    """
    training, numbers = config.training, count()
    precision = choose_precision(training.precision, processes.device).precision
    method = make_method(config)
    method.first_stage = stage
    engine = Engine(method, processes.device, precision, gradient_clip=training.gradient_clip, processes=processes)

    def one() -> None:
        number = next(numbers)
        items = [dataset[number * training.batch_size + place] for place in processes.share(training.batch_size)]
        batch = {key: torch.stack([item[key] for item in items]) for key in items[0]}
        step(engine, batch, config, number, Progress(int(share(number) * training.steps), training.steps, 0.0))
        if processes.device.type == "cuda":
            torch.cuda.synchronize(processes.device)

    return one


def with_threads(
    config: RunConfig[Any], dataset: Samples, processes: Processes, stage: FirstStage | None
) -> RunConfig[Any]:
    """The settings with the number of threads that suits the run on this machine, where the settings leave it open.

    Several processes share the processors already, and a GPU does not care.
    """
    training, most = config.training, torch.get_num_threads()
    if training.threads or processes.count > 1 or processes.device.type != "cpu":
        return config
    number = choose_threads(trial_step(config, dataset, processes, stage), most)
    return replace(config, training=replace(training, threads=number))


def with_steps(
    config: RunConfig[Any], cohort: Cohort, dataset: Samples, processes: Processes, stage: FirstStage | None
) -> RunConfig[Any]:
    """The settings with the steps that fit into the minutes, where minutes are asked for.

    The trial takes two seconds, or three steps; the training itself corrects what it finds (`pace.Budget`). All
    processes take part, the first one's clock counts.
    """
    training = config.training
    if not training.minutes:
        return config
    one, seconds = trial_step(config, dataset, processes, stage), list[float]()
    with threads(training.threads):
        while processes.from_first(lambda: len(seconds) < 3 or sum(seconds) < 2):
            seconds.append(timed(one))
        rate = statistics.median(seconds[1:])
        left = 60 * training.minutes - sum(seconds)
        if processes.first:
            left -= validation_seconds(config, cohort, processes, stage)
    steps = processes.from_first(lambda: max(1, round(left / rate)))
    if processes.first:
        log.info("%.3f s a step: about %d steps in %g minutes; the clock decides", rate, steps, training.minutes)
    return replace(config, training=replace(training, steps=steps))


def validation_seconds(config: RunConfig[Any], cohort: Cohort, processes: Processes, stage: FirstStage | None) -> float:
    """About how long the validation at the end takes: one target of it, times their number."""
    method, device = make_method(config).to(processes.device), processes.device
    method.first_stage = stage
    if (samples := held_out_samples(cohort, method, config)) is not None:
        once = replace(config, training=replace(config.training, validation_slices=1))
        return config.training.validation_slices * timed(lambda: held_out_loss(method, samples, once, device))
    targets = validation_targets(cohort, method, config)
    return len(targets) * timed(lambda: synthesise_target(method, targets[0], config.seed, device)) if targets else 0.0
