"""Predicted and measured peak memory of training, ten configurations, each in a process of its own.

    python benchmarks/memory.py -o benchmarks/results/memory.json

The prediction (`scansynth.training.memory`) is made before the training's first step, from one sample.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from measuring import in_own_process, save
from scansynth.recipes import find_recipe
from scansynth.training.memory import predicted_gb
from scansynth.training.parts import needs_of
from scansynth.training.trial import try_steps

CASES = (
    ("regression_small", (64, 80), 2, 4, {}),
    ("regression_small", (160, 192), 4, 4, {}),
    ("regression", (160, 192), 4, 2, {"channels": 48}),
    ("regression", (256, 256), 2, 2, {}),
    ("ddpm_x0_small", (96, 96), 3, 8, {}),
    ("mrdiff_small", (96, 96), 3, 4, {}),
    ("syndiff_small", (96, 112), 2, 2, {}),
    ("syndiff_small", (160, 192), 2, 1, {}),
    ("cg_ddpm_small", (64, 64), 2, 2, {}),
    ("cdpm_small", (64, 80), 1, 2, {}),
    ("autoencoder_small", (96, 112), 4, 8, {}),
    ("cola_diff_small", (96, 112), 4, 16, {}),
)
"""Recipe, size of a slice, contrasts, batch, settings that differ."""
NAMES = ("T1w", "T2w", "FLAIR", "T1ce")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(CASES[json.loads(arguments.one)])))
        return
    rows = []
    for number in range(len(CASES)):
        rows.append(in_own_process(number))
        print(rows[-1], flush=True)
    save(arguments.output, {"results": rows})


def measure(case) -> dict:
    recipe, size, contrasts, batch, settings = case
    config = find_recipe(recipe)
    names = config.contrasts if len(config.contrasts) == contrasts else NAMES[:contrasts]
    config = replace(
        config,
        contrasts=names,
        settings=replace(config.settings, **settings),
        training=replace(config.training, batch_size=batch),
    )
    device = torch.device("cpu")
    predicted = predicted_gb(config, needs_of(config).random_batch(len(config.contrasts), 1, size, 0), device)
    trial = try_steps(config, size, device)
    return {
        "recipe": recipe,
        "size": size,
        "contrasts": contrasts,
        "batch": batch,
        "settings": settings,
        "predicted_gb": round(predicted, 3),
        "measured_gb": round(trial.memory_gb, 3),
        "ratio": round(predicted / trial.memory_gb, 3),
    }


if __name__ == "__main__":
    main()
