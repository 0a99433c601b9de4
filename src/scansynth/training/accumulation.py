"""A step's batch in parts, one after another, whose gradients are summed: less memory, the same training.

Of methods with one player. Where several take turns within a step, what the first one's update moves is what the second
one sees, so that a batch cannot be parted.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from math import ceil
from typing import Any

from torch import Tensor

from scansynth.config import RunConfig
from scansynth.errors import InputError
from scansynth.method import Method
from scansynth.training.engine import Engine

log = logging.getLogger(__name__)


def check_accumulates(config: RunConfig[Any], method: Method) -> None:
    """Raise InputError where a batch is to be parted and cannot be."""
    training = config.training
    if training.accumulate > 1 and len(method.players) > 1:
        raise InputError(
            f"--training.accumulate {training.accumulate}: the {len(method.players)} players of {config.method} take "
            "turns within a step, so that its batch cannot be parted: give a smaller --training.batch-size"
        )
    if training.accumulate > training.batch_size:
        raise InputError(
            f"--training.accumulate {training.accumulate}: a batch of {training.batch_size} has no so many parts"
        )


def parts(batch: dict[str, Tensor], number: int) -> Iterator[tuple[dict[str, Tensor], slice]]:
    """A batch, (B, …) each, in so many parts as equal as can be, and which of its places each part holds."""
    count = len(batch["available"])
    size = ceil(count / min(number, count))
    for start in range(0, count, size):
        part = slice(start, min(start + size, count))
        yield {key: value[part] for key, value in batch.items()}, part


def halved(config: RunConfig[Any], engine: Engine, step: int) -> RunConfig[Any]:
    """The settings of a run whose step did not fit into memory, with its batch in twice as many parts.

    Raises:
        InputError: if a part holds one sample already, or the method's batches cannot be parted, or weights have moved
            in this step, or several processes train together.
    """
    training, players = config.training, len(engine.method.players)
    own = training.batch_size // engine.processes.count
    told = f"memory is out at step {step}; the last checkpoint stays as it is. "
    if players > 1:
        fewer = f"a smaller --training.batch-size than {own}, " if own > 1 else ""
        raise InputError(
            f"{told}{config.method} cannot part its batch: another run with {fewer}smaller slices or networks"
        )
    if engine.moved or engine.processes.count > 1:
        raise InputError(f"{told}Go on with --training.accumulate {min(own, 2 * training.accumulate)}")
    if training.accumulate >= own:
        raise InputError(f"{told}One sample at once is too much: another run with smaller slices, patches or networks")
    number = min(own, 2 * training.accumulate)
    log.warning("memory is out: going on with the batch of %d in %d parts (--training.accumulate)", own, number)
    return replace(config, training=replace(training, accumulate=number))
