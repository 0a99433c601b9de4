"""How fast a training goes here: threads, steps for a time, and where the end is while the clock may still move it.

A run by minutes gets its number of steps from a short trial, and then, at a few steps on the way, anew from the rate so
far. Each such revision is written into the run's settings. The share of the training that is done, which learning
rates follow, goes on from where it was towards the new end. So the run is a function of its settings, revisions
included, and the clock decides no more than those.
"""

import logging
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from scansynth.config import RunConfig, Training
from scansynth.method import Progress

log = logging.getLogger(__name__)

TRIAL = 0.4
"""Seconds that steps are timed with one number of threads, about."""
LARGE = 0.8
"""Seconds of a step with one thread: larger ones gain by all threads, and are not tried; the whole trial takes two."""
HUGE = 5.0
"""Seconds of a step with one thread: its operations are so long that threads gain though others are busy."""
SLICE = 1.5e-3
"""Seconds of an addition that takes a tenth of a millisecond where the processors are free."""
GAIN = 0.93
"""More threads are taken where a step takes at most this share of the time that fewer take: they suffer from others."""
CROWDED = 3.0
"""Times as long as at first that steps take when threads wait for each other. A later phase of a training may, too, but
then the threads are at work: they have at least `AT_WORK` of their processors."""
AT_WORK = 0.75
CROWDED_STEPS = 5
"""Steps in a row that say so."""
LAST_REVISION = 0.02
"""Share of the time within which the end is not moved any more."""


def progress_at(training: Training, number: int, epoch: float) -> Progress:
    """How far a training is when `number` steps are finished."""
    if not training.revisions:
        return Progress(number, training.steps, epoch)
    share = 0.0
    ends = [start for start, _ in training.revisions[1:]] + [number]
    for (start, steps), end in zip(training.revisions, ends, strict=True):
        if start < number:
            share += (1 - share) * (min(end, number) - start) / (steps - start)
    return Progress(number, training.steps, epoch, share=share)


class Budget:
    """The time of a run by minutes, and the steps that fit into it.

    Args:
        config: settings of the run, whose `steps` are what a trial, or the last revision, made of the minutes.
        step: training steps finished.
        seconds: spent on them.
        validations: seconds that a validation takes, as far as known.
    """

    def __init__(self, config: RunConfig[Any], step: int, seconds: float, *, validations: float = 0.0):
        self.config, self.validations = config, validations
        self._begun, self._step, self._seconds = time.perf_counter() - seconds, step, seconds
        self._validated = 0.0
        self._next = self._after(step)

    @property
    def seconds(self) -> float:
        """Spent on the run so far."""
        return time.perf_counter() - self._begun

    def validated(self, seconds: float) -> None:
        """Take note of how long a validation took: the rate of training is without it."""
        self.validations, self._validated = seconds, self._validated + seconds

    def revised(self, done: int) -> RunConfig[Any] | None:
        """The settings with a new end, where it is time to look after `done` steps and the end is another one."""
        training = self.config.training
        spent, budget = self.seconds, 60 * training.minutes
        if done < self._next and spent < budget - self.validations:
            return None
        rate = max(spent - self._seconds - self._validated, 1e-9) / max(done - self._step, 1)
        steps = done + self._fitting(done, budget - spent, rate)
        self._step, self._seconds, self._validated = done, spent, 0.0
        if steps != training.steps:
            before = training.revisions or ((0, training.steps),)
            self.config = replace(
                self.config, training=replace(training, steps=steps, revisions=(*before, (done, steps)))
            )
        self._next = self._after(done) if budget - spent > LAST_REVISION * budget else steps + 1
        return None if steps == training.steps else self.config

    def _fitting(self, done: int, seconds: float, rate: float) -> int:
        """Steps that fit into the rest of the time, with the validations that fall into it and the one at the end."""
        every = self.config.training.validate_every
        per_step = rate + self.validations / every
        return max(0, round((seconds - self.validations) / per_step))

    def _after(self, step: int) -> int:
        """The step after which to look at the clock next: a third of what is left, at first a sixteenth."""
        left = self.config.training.steps - step
        return step + max(1, left // (3 if step else 16))


def choose_threads(step: Callable[[], None], most: int, busy: Callable[[int], bool] | None = None) -> int:
    """The number of threads with which a training step is fastest here: all, or half of them again and again.

    Args:
        step: a training step, on a copy of what is trained.
        most: threads that there are.
        busy: whether other programs hold the processors that so many threads need; by default `others_are_busy`.
    """
    if most == 1:
        return 1
    with threads(1):
        timed(step)  # kernels are chosen and memory is laid out
        alone = timed(step)
    if alone < HUGE and (busy or others_are_busy)(most):
        log.info("threads: 1, as other programs use the processors; --training.threads sets another number")
        return 1
    if alone > LARGE:
        log.info("threads: all %d, as a step takes %.2f s with one; --training.threads sets another", most, alone)
        return most
    seconds, number = dict[int, float](), most
    while number > 1:
        with threads(number):
            timed(step)
            seconds[number] = rate(step)
        if seconds[number] > min(seconds.values()):
            break
        number //= 2
    with threads(1):
        seconds[1] = rate(step)
    chosen = 1
    for number in sorted(seconds)[1:]:
        if seconds[number] <= GAIN * seconds[chosen]:
            chosen = number
    told = ", ".join(f"{seconds[number]:.3f} s with {number}" for number in sorted(seconds))
    log.info("threads: %d (a step takes %s); --training.threads sets another number", chosen, told)
    return chosen


class Crowding:
    """Notes when steps become so slow that threads must be waiting for each other: another program has come."""

    def __init__(self) -> None:
        self._first: list[float] = []
        self._slow = 0

    def found(self, seconds: float, processor: float, number: int) -> bool:
        """Take note of a step; whether the last ones all took many times as long as the first ones.

        Args:
            seconds: that it took.
            processor: seconds of all processors that this process had meanwhile.
            number: of its threads.
        """
        if len(self._first) < CROWDED_STEPS:
            self._first.append(seconds)
            return False
        slow = seconds > CROWDED * statistics.median(self._first) and processor < AT_WORK * number * seconds
        self._slow = self._slow + 1 if slow else 0
        return self._slow >= CROWDED_STEPS


def others_are_busy(number: int) -> bool:
    """Whether threads wait for each other, as other programs hold their processors.

    Small operations that are shared by threads then take a time slice of the system each, some milliseconds, and a
    training step takes up to 60 times as long. Twenty additions are timed, with pauses in which threads fall asleep.
    """
    if number == 1:
        return False
    a, sums = torch.ones(2**18), torch.empty(2**18)
    taken = []
    with threads(number):
        for _ in range(20):
            pause = time.perf_counter() + 0.002
            while time.perf_counter() < pause:
                pass
            begun = time.perf_counter()
            torch.add(a, a, out=sums)
            taken.append(time.perf_counter() - begun)
    return statistics.median(taken) > SLICE


def timed(step: Callable[[], object]) -> float:
    """Seconds of a step."""
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def rate(step: Callable[[], None], seconds: float = TRIAL) -> float:
    """Seconds a step takes: the median of as many as fit into `seconds`, at least two."""
    times: list[float] = []
    while len(times) < 2 or sum(times) < seconds:
        times.append(timed(step))
    return statistics.median(times)


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Inside, PyTorch computes on the CPU with so many threads; 0: as it is."""
    before = torch.get_num_threads()
    if number:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
