"""cDPM's seconds, memory and operations by the size of its sets, beside a 3D U-Net that sees 32 slices at once.

    python benchmarks/cdpm.py --work training -o benchmarks/results/cdpm-training.json
    python benchmarks/cdpm.py --work volume -o benchmarks/results/cdpm-volume.json
    python benchmarks/cdpm.py --work volume --channels 64 --steps 2 --sets 20 -o …/cdpm-volume-paper.json

Every case runs in a process of its own, whose peak memory is its own. Slices are 128×128. `training`: a step of one
sample, a set of τ_max slices or a box of 128×128×32. `volume`: `generate` with untrained weights, 128×128×128 by cDPM
in stages of τ_max / 2, 128×128×32 by the 3D U-Net; "seconds" are those of all its sampling steps (`--steps`), "at 50
steps" what 50 would take. Both networks have the recipe's levels and the width of `--channels`.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from measuring import counted, in_own_process, peak, precisions, save, timed
from scansynth.config import RunConfig
from scansynth.diffusion.samplers import times
from scansynth.method import Progress
from scansynth.network_precision import prepare_synthesis
from scansynth.noise import Noise
from scansynth.recipes import find_recipe
from scansynth.training.engine import Engine
from scansynth.training.loop import step
from scansynth.training.parts import make_method

CPU = torch.device("cpu")
SIDE, SLICES, SLAB = 128, 128, 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=["training", "volume"], required=True)
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--sets", nargs="+", type=int, default=[4, 10, 20], help="τ_max; 0 leaves cDPM out")
    parser.add_argument("--no-3d", action="store_true", help="leave the 3D U-Net out")
    parser.add_argument("--steps", type=int, default=4, help="of sampling")
    parser.add_argument("--precision", default=precisions()[-1])
    parser.add_argument("--repeats", type=int, default=3, help="training steps")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a case, in the process that measures it
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        print(json.dumps(measure(arguments, json.loads(arguments.one)["largest"])))
        return
    results = []
    for largest in [*arguments.sets, *([] if arguments.no_3d else [0])]:
        results.append(in_own_process({"largest": largest}))
        print(json.dumps(results[-1]), flush=True)
        save(arguments.output, {"threads": arguments.threads, "results": results})


def settings_of(arguments: argparse.Namespace, largest: int) -> RunConfig[Any]:
    """cDPM with sets of so many slices, or, of 0, the 3D U-Net."""
    config = find_recipe("cdpm" if largest else "ddpm_3d")
    common = {"channels": arguments.channels, "sampler": "ddim", "sampling_steps": arguments.steps}
    own = {"largest": largest, "stage": largest // 2} if largest else {"patch": (SIDE, SIDE, SLAB)}
    training = replace(config.training, batch_size=1, precision=arguments.precision)
    return replace(config, settings=replace(config.settings, **common, **own), training=training)


def measure(arguments: argparse.Namespace, largest: int) -> dict[str, Any]:
    """One case."""
    config = settings_of(arguments, largest)
    method = make_method(config)
    case = {
        "work": arguments.work,
        "network": f"sets of {largest} slices" if largest else f"3D, {SLAB} slices",
        "precision": arguments.precision,
        "parameters": sum(parameter.numel() for parameter in method.parameters()),
    }
    before = peak()
    if arguments.work == "training":
        engine = Engine(method, CPU, arguments.precision)
        batch = method.needs.random_batch(len(method.contrasts), 1, (SIDE, SIDE), 0)

        def work() -> None:
            step(engine, batch, config, 9, Progress(9, 10, 0.0))
            engine.mean_losses()

        seconds, gflop = timed(work, arguments.repeats, CPU), counted(work)
        slices = largest or SLAB
        return case | figures(seconds, before) | {"gflop": round(gflop, 1), "gflop_a_slice": round(gflop / slices, 1)}
    prepare_synthesis(method, CPU, arguments.precision)
    depth = SLICES if largest else SLAB

    def generate(steps: int) -> None:
        method.path = times(method.schedule, steps)
        with torch.no_grad():
            method.generate((SIDE, SIDE, depth), method.needs.windows(), Noise([(0, "generated", 1)]))

    begun = time.perf_counter()
    generate(arguments.steps)
    found = case | figures([time.perf_counter() - begun], before)
    return found | {
        "volume": [SIDE, SIDE, depth],
        "stages": max(method.stages(depth)) + 1,
        "steps": arguments.steps,
        "seconds_at_50_steps": round(50 * found["seconds"] / arguments.steps, 1),
        "gflop_a_step": round(counted(lambda: generate(1)), 1),
    }


def figures(seconds: list[float], before: float) -> dict[str, Any]:
    """Times, and memory beside what the process held before."""
    return {
        "seconds": round(float(np.median(seconds)), 3),
        "range": [round(min(seconds), 3), round(max(seconds), 3)],
        "peak_memory_gb": peak(),
        "memory_before_gb": before,
    }


if __name__ == "__main__":
    main()
