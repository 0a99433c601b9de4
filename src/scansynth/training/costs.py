"""What a run's synthesis takes: seconds and memory of a volume."""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

Value = TypeVar("Value")


@dataclass(frozen=True)
class Cost:
    """What a run's synthesis of a volume takes."""

    seconds: float
    memory_gb: float
    """Peak: of the GPU, or of the whole process on a CPU under Linux; NaN where it is not known."""
    parameters: int


def measured_cost(work: Callable[[], Value], device: torch.device, parameters: int) -> tuple[Value, Cost]:
    """Do a piece of synthesis; what it makes, and what it took."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    else:
        reset_peak()
    begun = time.perf_counter()
    made = work()
    seconds = time.perf_counter() - begun
    memory = torch.cuda.max_memory_allocated(device) / 1e9 if on_gpu else peak_gb()
    return made, Cost(seconds, memory, parameters)


def reset_peak() -> None:
    """Let Linux count this process's peak memory anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_gb() -> float:
    """Peak memory of this process since `reset_peak`; NaN where it is not told."""
    return _status("VmHWM:")


def resident_gb() -> float:
    """Memory of this process now; NaN where it is not told."""
    return _status("VmRSS:")


def _status(name: str) -> float:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1]) * 1024 / 1e9
    return math.nan
