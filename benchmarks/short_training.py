"""A short training inside a benchmark: for so many steps, or so many processor seconds; no folder, no log."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from scansynth.config import RunConfig
from scansynth.data.cohort import Cohort
from scansynth.devices import Processes
from scansynth.method import Method, Progress
from scansynth.training.engine import Engine
from scansynth.training.loop import step
from scansynth.training.parts import make_parts

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Trained:
    """What a short training came to."""

    method: Method
    engine: Engine
    steps: int
    seconds: float
    """The processor's, of a step."""


def train_shortly(
    config: RunConfig[Any],
    cohort: Cohort,
    *,
    steps: int | None = None,
    seconds: float | None = None,
    nets: nn.ModuleDict | None = None,
) -> Trained:
    """Train for so many steps, or until so many processor seconds are used; learning rates fall accordingly.

    Args:
        config: of the run, its contrasts named.
        cohort: with its training subjects.
        steps: or
        seconds: of the processor.
        nets: in place of the method's own.
    """
    assert (steps is None) != (seconds is None), "either steps or seconds"
    method, samples = make_parts(config, cohort, Processes(CPU))
    if nets is not None:
        method.nets = nets
    training = config.training
    engine = Engine(method, CPU, "float32", gradient_clip=training.gradient_clip, decay=training.decay)
    method.train()
    begun, done, share = time.process_time(), 0, 0.0
    while share < 1:
        items = [samples[done * training.batch_size + place] for place in range(training.batch_size)]
        batch = {key: torch.stack([item[key] for item in items]) for key in items[0]}
        step(engine, batch, config, done, Progress(done, steps or 1, 0.0, share=share))
        done += 1
        share = done / steps if steps else (time.process_time() - begun) / (seconds or 1)
    return Trained(method, engine, done, (time.process_time() - begun) / done)
