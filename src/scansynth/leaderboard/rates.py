"""Equal cost: how many steps of each recipe the minutes pay for, measured once and written down.

A step is timed by the processor seconds that it takes with one thread (on a GPU by the clock), with the run's own
samples, at several places of the training, whose phases may differ. It is timed in turns with a yardstick, a fixed
piece of convolution: the median of their ratios hangs little on what else the machine does, and, where processors are
alike, on which machine it was taken. The yardstick's own seconds were taken by the process that began, and hold for
all:

    steps = 60 · minutes / (ratio · yardstick)

A method that builds on a first stage has half of them, its first stage the other half. Of methods in latents,
which are not computed before the first stage is trained, random ones are stepped on.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn import functional

from scansynth.data.latents import LatentDataset
from scansynth.data.samples import Samples
from scansynth.devices import Processes
from scansynth.files import write_text
from scansynth.leaderboard.fitting import samples_of
from scansynth.leaderboard.request import Request
from scansynth.ranges import Count, Positive
from scansynth.records import read_json
from scansynth.training.first_stage import LatentStage
from scansynth.training.pace import threads
from scansynth.training.parts import needs_of
from scansynth.training.trial import trial_step

WARM_UP, TURNS = 2, 5
YARDSTICK = 15
"""Turns by which the yardstick's own seconds are taken."""
CURE = "delete it, and it is measured again"


class _Stored(TypedDict):
    """`rates/<recipe>.json`."""

    ratio: Positive
    seconds: Positive
    steps: Count
    steps_of_half: Count


@dataclass(frozen=True)
class Rate:
    """What a training step costs, and the steps that follow."""

    ratio: float
    """Over the yardstick."""
    seconds: float
    """On the yardstick's machine."""
    steps: int
    """That all minutes pay for, at least one."""
    steps_of_half: int
    """That half of them do."""

    @classmethod
    def of(cls, ratio: float, yardstick: float, minutes: float) -> "Rate":
        """From the ratio, the yardstick's seconds and the minutes."""
        seconds = ratio * yardstick
        return cls(ratio, seconds, *(max(1, round(60 * part / seconds)) for part in (minutes, minutes / 2)))


class _Again(Samples):
    """Random latents, the same batch again and again: what a step costs does not hang on what they are."""

    def __init__(self, batch: dict[str, Tensor]):
        self.batch = batch

    def __len__(self) -> int:
        return len(self.batch["available"])

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {key: value[i % len(self)] for key, value in self.batch.items()}

    def shows(self, i: int) -> list[str]:
        """Nobody."""
        return []


def yardstick(device: torch.device) -> Callable[[], None]:
    """A fixed piece of work like that of the networks: a convolution and its gradients."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 32, 64, 64, generator=generator).to(device)
    weight = torch.randn(32, 32, 3, 3, generator=generator).to(device).requires_grad_()

    def one() -> None:
        loss = functional.conv2d(images, weight, padding=1).square().mean()
        torch.autograd.grad(loss, weight)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return one


def measured_yardstick(device: torch.device) -> float:
    """Its seconds here: the median of several turns."""
    work = yardstick(device)
    with threads(int(device.type == "cpu")):
        return statistics.median([_timed(work, device) for _ in range(WARM_UP + YARDSTICK)][WARM_UP:])


def measured_ratio(request: Request, recipe: str, stage: str | None) -> float:
    """Seconds of a recipe's training step over those of the yardstick.

    Raises:
        InputError: if a step cannot be made.
    """
    device, config = request.device, request.config(recipe)
    samples, untrained = samples_of(request, recipe, stage)
    if isinstance(untrained, LatentStage):
        assert isinstance(samples, LatentDataset), "latents are those of slices"
        height, width = samples.size
        count = config.training.batch_size
        samples = _Again(needs_of(config).random_batch(len(config.contrasts), count, (height, width), config.seed))

    def share(number: int) -> float:
        return max(number - WARM_UP, 0) / TURNS

    ratios = list[float]()
    with threads(int(device.type == "cpu")):
        step = trial_step(config, samples, Processes(device), untrained, share=share)
        work = yardstick(device)
        for _ in range(WARM_UP + TURNS):
            own, other = _timed(step, device), _timed(work, device)
            ratios.append(own / max(other, 1e-9))
    return statistics.median(ratios[WARM_UP:])


def _timed(work: Callable[[], None], device: torch.device) -> float:
    """Seconds that a piece of work costs: of this process's processors, or, on a GPU, of the clock."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    begun = clock()
    work()
    return clock() - begun


def find_rate(request: Request, recipe: str, stage: str | None, yardstick_seconds: float) -> Rate:
    """What a step of a recipe costs: as it is written down, or measured now.

    Raises:
        InputError: if a step cannot be made, or what is written is damaged.
    """
    path = request.out / "rates" / f"{recipe}.json"
    if path.is_file():
        stored: _Stored = read_json(path, _Stored, CURE)
        return Rate(**stored)
    return Rate.of(measured_ratio(request, recipe, stage), yardstick_seconds, request.minutes)


def write_rate(request: Request, recipe: str, rate: Rate) -> None:
    """Write a rate down, and the steps that it comes to; one that is there stays."""
    path = request.out / "rates" / f"{recipe}.json"
    if path.is_file():
        return
    write_text(path, json.dumps(asdict(rate), indent=1) + "\n")
