"""What the benchmarks share: times, memory, operations, cases in processes of their own, and the file of results."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from scansynth.precision import automatic
from scansynth.training.run_folder import environment


def timed(work: Callable[[], object], repeats: int, device: torch.device) -> list[float]:
    """Seconds of each repeat, after three that are not counted (one, of a few)."""
    seconds, first = [], 3 if repeats > 3 else 1
    for _ in range(repeats + first):
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return seconds[first:]


def counted(work: Callable[[], object]) -> float:
    """GFLOP of a piece of work."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops() / 1e9


def peak() -> float:
    """Peak memory of this process so far, GB."""
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on a Mac, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e9, 3)


def in_own_process(case: Mapping[str, Any]) -> dict[str, Any]:
    """Measure a case in a fresh process of this benchmark, whose peak memory is its own.

    The process gets the same arguments and `--one` with the case as JSON; the last line that it prints is the result.
    """
    command = [sys.executable, *sys.orig_argv[1:], "--one", json.dumps(case)]
    run = subprocess.run(command, capture_output=True, text=True)
    if run.returncode:
        raise SystemExit(f"{case}:\n{run.stderr}")
    return json.loads(run.stdout.splitlines()[-1])


def precisions(device: torch.device = torch.device("cpu")) -> list[str]:  # noqa: B008
    """What is measured where nobody asks: bfloat16 only where the device has it; elsewhere one step takes minutes."""
    return ["float32", "bfloat16"] if automatic(device).precision == "bfloat16" else ["float32"]


def save(path: Path | None, content: Mapping[str, Any]) -> None:
    """Write results, if a file is named, with machine and command; of paths on the command line only the last part."""
    if path is None:
        return
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    head = {
        "environment": environment(),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words]),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**head, **content}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
