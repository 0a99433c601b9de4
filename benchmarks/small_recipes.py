"""A training step of the small recipes in float32 and bfloat16, by the processor's capability, and what `auto` took.

    python benchmarks/small_recipes.py -o benchmarks/results/small-recipes.json

Random images of 64×80, each case in a process of its own. Recipes that differ from one of these in losses or weights
alone are left out. Where the processor has no bfloat16, a single step is timed in it, for at most `--limit` seconds.
"""

import argparse
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from measuring import save, timed
from scansynth.method import Progress
from scansynth.precision import automatic
from scansynth.recipes import find_recipe
from scansynth.training.engine import Engine
from scansynth.training.loop import step
from scansynth.training.parts import make_method

RECIPES = (
    "regression_small", "syndiff_small", "syndiff_small_supervised", "ddpm_x0_small", "mrdiff_small",
    "mrdiff_small_generator_only", "autoencoder_small", "ldm_small", "cola_diff_small", "cola_diff_small_no_filter",
    "cg_ddpm_small", "iddpm_small", "cdpm_small", "cdpm_translator_small", "ddpm_3d_small",
)  # fmt: skip
CAPABILITIES = {"as it is": {}, "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}}
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--size", nargs=2, type=int, default=(64, 80))
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--limit", type=float, default=120.0)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(**json.loads(arguments.one), size=tuple(arguments.size))))
        return
    rows = []
    native = torch.backends.cpu.get_cpu_capability()
    for capability, environment in CAPABILITIES.items():
        if capability == native:  # the same twice
            continue
        for recipe in arguments.recipes:
            for precision, threads in [("float32", n) for n in arguments.threads] + [
                ("bfloat16", max(arguments.threads))
            ]:
                case = {"recipe": recipe, "precision": precision, "threads": threads}
                found = in_environment(case, environment, arguments)
                rows.append({**case, "capability": native if capability == "as it is" else capability, **found})
                print(json.dumps(rows[-1]), flush=True)
                save(arguments.output, {"size": list(arguments.size), "results": rows})


def in_environment(case: dict, environment: dict[str, str], arguments: argparse.Namespace) -> dict:
    """A case in a fresh process; what takes longer than the limit is said to."""
    command = [sys.executable, __file__, "--size", *map(str, arguments.size), "--one", json.dumps(case)]
    try:
        run = subprocess.run(
            command,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=arguments.limit,
            check=True,
        )
    except subprocess.TimeoutExpired:
        return {"seconds": None, "auto": "", "note": f"more than {arguments.limit:g} s"}
    return json.loads(run.stdout.splitlines()[-1])


def measure(recipe: str, precision: str, threads: int, size: tuple[int, int]) -> dict:
    """Median seconds of a training step."""
    torch.set_num_threads(threads)
    config = find_recipe(recipe)
    config = replace(config, contrasts=config.contrasts or ("T1w", "T2w"))
    auto = automatic(CPU)
    engine = Engine(make_method(config), CPU, precision, gradient_clip=config.training.gradient_clip)
    batch = engine.method.needs.random_batch(len(engine.method.contrasts), config.training.batch_size, size, 0)

    def one() -> None:
        step(engine, batch, config, 1, Progress(1, 10, 0.0))

    slow = precision != auto.precision and precision == "bfloat16"
    seconds = timed(one, 1, CPU)[0] if slow else sorted(timed(one, 3, CPU))[1]
    return {"seconds": round(seconds, 4), "auto": auto.precision}


if __name__ == "__main__":
    main()
