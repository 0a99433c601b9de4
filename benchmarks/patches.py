"""Seconds, memory and operations of 3D methods: a training step of patches, a step of a whole volume, memory by volume.

    python benchmarks/patches.py --work training -o benchmarks/results/patches-training.json
    python benchmarks/patches.py --work volume --recipes cg_ddpm_small --windows 1 2 4 8 16 -o …/patches-volume.json
    python benchmarks/patches.py --work memory -o benchmarks/results/patches-memory.json

Every case runs in a process of its own, whose peak memory is its own. Rates stand beside that of a plain 3D convolution
of 32 channels on four patches of 64×64×16, channels last, measured in the same run (for training with its gradients).
`training`: four patches of 64×64×16, with the recipe's shifted-window levels and with convolutions alone. `volume`: one
sampling step of 256×256×32 (a volume takes 50 of them) by windows of 64×64×16. `memory`: the same for volumes of
several sizes and a small network; "arrays": how many float32 volumes the memory holds that a larger volume takes more.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from measuring import counted, in_own_process, peak, precisions, save, timed
from scansynth.diffusion.windows import PatchWindows
from scansynth.method import Progress
from scansynth.network_precision import prepare_synthesis
from scansynth.noise import Noise
from scansynth.recipes import find_recipe
from scansynth.training.engine import Engine
from scansynth.training.loop import step
from scansynth.training.parts import make_method

PATCH, BATCH, VOLUME = (64, 64, 16), 4, (256, 256, 32)
VOLUMES = ((128, 128, 32), (256, 128, 32), (256, 256, 32), (256, 256, 64))
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=["training", "volume", "memory"], required=True)
    parser.add_argument("--recipes", nargs="+", default=["cg_ddpm", "iddpm"])
    parser.add_argument("--precision", nargs="+", default=precisions())
    parser.add_argument("--windows", nargs="+", type=int, default=[4], help="windows at once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a case, in the process that measures it
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        print(json.dumps(measure(json.loads(arguments.one), arguments.repeats)))
        return
    results = []
    for case in cases(arguments):
        results.append(one := in_own_process(case))
        if arguments.work == "memory" and one is not results[0]:
            # Between the smallest and each larger volume, so that what does not grow drops out.
            first = results[0]
            voxels = np.prod(one["volume"]) - np.prod(first["volume"])
            one["arrays"] = round((one["peak_memory_gb"] - first["peak_memory_gb"]) * 1e9 / voxels / 4, 1)
        print(json.dumps(one), flush=True)
        save(arguments.output, {"threads": arguments.threads, "results": results})  # each case takes long


def cases(arguments: argparse.Namespace) -> list[dict]:
    """What is measured."""
    if arguments.work == "memory":
        return [
            {"work": "memory", "recipe": "cg_ddpm_small", "precision": "float32", "volume": volume, "windows": 1}
            for volume in VOLUMES
        ]
    found = []
    for precision in arguments.precision:
        for recipe in arguments.recipes:
            case = {"work": arguments.work, "recipe": recipe, "precision": precision}
            if arguments.work == "training":
                found += [{**case, "attention": attention} for attention in (True, False)]
            else:
                found += [{**case, "volume": VOLUME, "windows": windows} for windows in arguments.windows]
    return found


def measure(case: dict, repeats: int) -> dict:
    """One case: seconds, peak memory, operations, and the rate beside a plain convolution's."""
    config = replace(find_recipe(case["recipe"]), contrasts=("T1w", "T2w"))
    settings = replace(config.settings, patch=PATCH)
    if not case.get("attention", True):
        settings = replace(settings, window_levels=())
    if case["work"] == "memory":
        settings = replace(settings, channels=8, multipliers=(1, 2), window_levels=(1,))
    config = replace(config, settings=replace(settings, sampling_steps=1) if case["work"] != "training" else settings)
    method = make_method(config)
    training = case["work"] == "training"
    plain = None if case["work"] == "memory" else plain_rate(case["precision"], training)
    if training:
        engine = Engine(method, CPU, case["precision"])
        batch = {
            "images": torch.rand(BATCH, 2, *PATCH) * 2 - 1,
            "available": torch.ones(BATCH, 2, dtype=torch.bool),
        }

        def work() -> None:
            step(engine, batch, config, 9, Progress(9, 10, 0.0))  # the joint phase
            engine.mean_losses()

    else:
        prepare_synthesis(method, CPU, case["precision"])
        windows = PatchWindows(PATCH, batch=case["windows"])

        def translate(volume: Sequence[int]) -> None:
            image = torch.rand(1, 1, *volume) * 2 - 1
            images = torch.cat([image, torch.zeros_like(image)], dim=1)
            batch = {"images": images, "available": torch.tensor([[True, False]])}
            with torch.no_grad():
                method.translate(batch, "T2w", windows, Noise([(0, "subject", 0)]))

        work, one_window = partial(translate, case["volume"]), partial(translate, PATCH)

    if case["work"] == "memory":
        work()
        return {**case, "peak_memory_gb": peak()}
    seconds = timed(work, repeats, CPU)
    memory = peak()
    gflop = counted(work) if training else counted(one_window) * len(windows.places(case["volume"]))
    rate = gflop / np.median(seconds)
    assert plain
    return {
        **case,
        "seconds": round(float(np.median(seconds)), 3),
        "range": [round(min(seconds), 3), round(max(seconds), 3)],
        "peak_memory_gb": memory,
        "gflop": round(gflop, 1),
        "gflop_per_second": round(rate, 1),
        "plain_convolution_gflop_per_second": round(plain, 1),
        "share_of_plain": round(rate / plain, 3),
        "parameters": sum(parameter.numel() for parameter in method.parameters()),
    }


def plain_rate(precision: str, gradients: bool) -> float:
    """GFLOP/s of a 3×3×3 convolution of 32 channels on four patches, with its gradients or without."""
    dtype, layout = getattr(torch, precision), torch.channels_last_3d
    x = torch.randn(BATCH, 32, *PATCH, dtype=dtype).to(memory_format=layout).requires_grad_(gradients)
    layer = nn.Conv3d(32, 32, 3, padding=1, dtype=dtype).to(memory_format=layout).requires_grad_(gradients)

    def work() -> None:
        y = layer(x)
        if gradients:
            torch.autograd.grad(y, [x, *layer.parameters()], torch.ones_like(y))

    flop = 2 * 27 * 32 * 32 * x[:, 0].numel() * (3 if gradients else 1)
    return flop / float(np.median(timed(work, 15, CPU))) / 1e9


if __name__ == "__main__":
    main()
