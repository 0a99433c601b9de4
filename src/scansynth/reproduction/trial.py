"""How long a training step takes on this machine, and how much memory: a few real steps on random images."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scansynth.config import RunConfig
from scansynth.engine import Engine
from scansynth.evaluation.costs import measured_cost
from scansynth.method import Method, Progress
from scansynth.parts import make_method
from scansynth.precision import choose_precision
from scansynth.train import step

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
    batch = random_batch(method, training.batch_size, size, config.seed)

    def work() -> None:
        engine = Engine(method, device, choose_precision(training.precision, device).precision, training.gradient_clip)
        for place in (*[0] * WARM_UP, *range(STEPS)):
            number = int((place + 0.5) / STEPS * training.steps)
            begun = time.perf_counter()
            step(engine, batch, config, number, Progress(number, training.steps, 0.0))
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - begun)

    _, cost = measured_cost(work, device, parameters=0)
    return Trial(float(np.mean(seconds[WARM_UP:])), cost.memory_gb, tuple(method.needs.patch or size))


def random_batch(method: Method, count: int, size: tuple[int, int], seed: int) -> dict[str, torch.Tensor]:
    """Random images as a method trains on them: slices of this size, whole sets of them, or its patches."""
    generator = torch.Generator().manual_seed(seed)
    needs, shape = method.needs, (count, len(method.contrasts))
    if needs.slice_sets is not None:
        n = needs.slice_sets.size
        return {
            "slices": torch.rand((count, n, shape[1], *size), generator=generator) * 2 - 1,
            "index": torch.arange(n).expand(count, -1),
            "is_target": torch.ones((count, n), dtype=torch.bool),
            "valid": torch.ones((count, n), dtype=torch.bool),
            "available": torch.ones(shape, dtype=torch.bool),
            "depth": torch.full((count,), 128),
        }
    batch = {"available": torch.ones(shape, dtype=torch.bool)}
    if needs.latent is None:
        batch["images"] = torch.rand((*shape, *(needs.patch or size)), generator=generator) * 2 - 1
    else:
        channels, factor = needs.latent
        batch["latents"] = torch.randn((*shape, channels, *(side // factor for side in size)), generator=generator)
    if needs.tissue:
        batch["tissue"] = torch.rand((*shape, 4, *size), generator=generator) / 4
    if needs.sequences is not None:  # TR, TE, TI in ms and the flip angle in degrees: any
        batch["acquisition"] = torch.tensor([2000.0, 50.0, 800.0, 30.0]).expand(*shape, 4)
    return batch
