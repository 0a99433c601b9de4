"""Predicted and measured peak memory of training and of synthesis, each case in a process of its own.

    python benchmarks/memory.py --work training -o benchmarks/results/memory.json
    python benchmarks/memory.py --work synthesis -o benchmarks/results/memory-synthesis.json

A training's prediction (`scansynth.training.memory`) is made before its first step, from one sample; a synthesis'
(`scansynth.synthesis.memory`) before the subject's first pass, from one window and two. Weights are untrained.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from measuring import in_own_process, save
from scansynth.network_precision import prepare_synthesis
from scansynth.noise import Noise
from scansynth.precision import choose_precision
from scansynth.recipes import find_recipe
from scansynth.synthesis.memory import predicted
from scansynth.training.costs import measured_cost
from scansynth.training.memory import predicted_gb
from scansynth.training.parts import make_method, needs_of, untrained_stage
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
SYNTHESES = (
    ("regression_small", (240, 240, 155), 4, 1),
    ("regression_small", (240, 240, 155), 4, 16),
    ("regression", (256, 256, 16), 2, 8),
    ("ddpm_x0_small", (160, 192, 32), 2, 16),
    ("syndiff", (256, 256, 8), 2, 4),
    ("syndiff_small", (160, 192, 32), 2, 16),
    ("cola_diff_small", (160, 192, 32), 4, 16),
    ("mrdiff_small", (160, 192, 32), 3, 8),
    ("pix2pix_small", (160, 192, 32), 2, 16),
    ("cg_ddpm_small", (128, 128, 32), 2, 4),
    ("regression_wavelet_small", (192, 192, 128), 4, 1),
    ("flow_wavelet_small", (192, 192, 128), 4, 1),
)
"""Recipe, volume, contrasts, windows at once."""
CALLS = 2
"""Network calls an image, where a recipe takes more: memory does not grow with them."""
NAMES = ("T1w", "T2w", "FLAIR", "T1ce")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", nargs="+", default=["training", "synthesis"], choices=["training", "synthesis"])
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        work, number = json.loads(arguments.one)
        print(json.dumps(measure(CASES[number]) if work == "training" else measure_synthesis(SYNTHESES[number])))
        return
    rows = {work: [] for work in arguments.work}
    for work in arguments.work:
        for number in range(len(CASES if work == "training" else SYNTHESES)):
            rows[work].append(in_own_process((work, number)))
            print(work, rows[work][-1], flush=True)
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


@torch.no_grad()
def measure_synthesis(case) -> dict:
    recipe, shape, contrasts, at_once = case
    config = find_recipe(recipe)
    names = config.contrasts if len(config.contrasts) == contrasts else NAMES[:contrasts]
    settings = config.settings
    if getattr(settings, "sampling_steps", 0) > CALLS:
        settings = replace(settings, sampling_steps=CALLS)
    method, device = make_method(replace(config, contrasts=names, settings=settings)), torch.device("cpu")
    if method.builds_on(settings):
        method.first_stage = untrained_stage(replace(find_recipe("autoencoder_small"), contrasts=names))
    precision = choose_precision("auto", device).precision
    prepare_synthesis(method, device, precision)
    images = torch.rand((1, contrasts, *shape), generator=torch.Generator().manual_seed(0)) * 2 - 1
    available = torch.tensor([[index != contrasts - 1 for index in range(contrasts)]])
    batch = {"images": images * available[..., None, None, None], "available": available}
    if method.needs.tissue:
        batch["tissue"] = torch.rand((1, contrasts, 4, *shape)) / 4
    prediction = predicted(method, batch, names[-1])
    noise = Noise([(0, "benchmark", 0)])
    work = partial(method.translate, batch, names[-1], method.needs.windows(at_once), noise)
    _, cost = measured_cost(work, device, parameters=0)
    return {
        "recipe": recipe,
        "volume": shape,
        "contrasts": contrasts,
        "at_once": at_once,
        "predicted_gb": round(prediction.peak(at_once), 3),
        "measured_gb": round(cost.memory_gb, 3),
        "ratio": round(prediction.peak(at_once) / cost.memory_gb, 3),
    }


if __name__ == "__main__":
    main()
