"""Seconds of one training iteration of a recipe, on random images: median and quartiles, as JSON.

    python benchmarks/iteration.py syndiff_small --size 80 96 --threads 2 -o FILE.json

Run it on a quiet machine; on a busy one set `OMP_WAIT_POLICY=passive`, which the results name. Results that were
measured stand in `benchmarks/results/`.
"""

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from scansynth.engine import Engine, find_device
from scansynth.method import Progress
from scansynth.recipes import find_recipe
from scansynth.train import environment, make_method, step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", help="names of recipes")
    parser.add_argument("--size", nargs=2, type=int, default=(96, 96), help="pixels of a slice")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=20, help="measured, after five that are not")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = find_device(arguments.device)
    results = []
    for name in arguments.recipes:
        recipe = replace(find_recipe(name), contrasts=("T1w", "T2w"))
        engine = Engine(make_method(recipe), device, recipe.training.precision)
        images = torch.rand(recipe.training.batch_size, 2, *arguments.size) * 2 - 1
        batch = {"images": images, "available": torch.ones(len(images), 2, dtype=torch.bool)}
        seconds = []
        for number in range(arguments.iterations + 5):
            begun = time.perf_counter()
            step(engine, batch, recipe, number, Progress(number, 1000, 0.0))
            engine.mean_losses()  # reads the losses: waits for the device
            seconds.append(time.perf_counter() - begun)
        low, median, high = np.percentile(seconds[5:], (25, 50, 75)).round(4).tolist()
        results.append(
            {
                "recipe": name,
                "size": list(arguments.size),
                "batch": len(images),
                "precision": recipe.training.precision,
                "threads": arguments.threads,
                "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
                "seconds": median,
                "quartiles": [low, high],
                "parameters": sum(parameter.numel() for parameter in engine.method.parameters()),
            }
        )
        print(json.dumps(results[-1]), flush=True)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps({"environment": environment(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
