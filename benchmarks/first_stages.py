"""What first stages of small images keep after equal processor seconds, and what a step on their latents costs.

    python benchmarks/first_stages.py --work reconstruction --seconds 120 -o benchmarks/results/first-stages.json
    python benchmarks/first_stages.py --work steps -o benchmarks/results/first-stages-steps.json

Reconstruction: `autoencoder_small` at two factors with three numbers of latent channels, on phantoms of 64×80×60
voxels of 2.5 mm (T1w, T2w, FLAIR; nine train, three are measured), each for the same processor seconds of training,
with the learning rate and the discriminator's begin at the same shares of them; PSNR inside the brain as `default` has
it, of the averaged networks. Steps: the networks of `ldm_small` and `cola_diff_small` as they are at factor 2 and as
they were at factor 4, in turns, by processor seconds and operations.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from measuring import counted, save
from scansynth.config import RunConfig
from scansynth.data.build_cohort import build_cohort
from scansynth.data.coarse_phantoms import coarse_phantoms
from scansynth.data.cohort import Cohort
from scansynth.data.datasets import from_network, read_image, to_network
from scansynth.data.prepare import Preparation
from scansynth.method import Progress
from scansynth.methods.autoencoder import Autoencoder
from scansynth.metrics.cases import Case, inside_the_brain
from scansynth.metrics.image_metrics import psnr
from scansynth.recipes import find_recipe
from scansynth.training.engine import Engine
from scansynth.training.loop import step
from scansynth.training.parts import make_method
from short_training import train_shortly

CPU = torch.device("cpu")
CONTRASTS = ("T1w", "T2w", "FLAIR")
SIZE = (64, 80)
CASES = [(factor, channels) for channels in (3, 4, 8) for factor in (2, 4)]
LEVELS = {2: (1, 2), 4: (1, 2, 4)}
BEFORE: dict[str, Any] = {
    "latent_channels": 8, "factor": 4, "channels": 32, "multipliers": (1, 2, 2), "attention_levels": (1, 2)
}  # fmt: skip
"""What `ldm_small` and `cola_diff_small` were at factor 4."""


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=["reconstruction", "steps"], required=True)
    parser.add_argument("--seconds", type=float, default=120.0, help="processor seconds of a training")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.work == "steps":
        rows = [compared(recipe, asked.turns) for recipe in ("ldm_small", "cola_diff_small")]
        save(asked.output, {"size": list(SIZE), "threads": asked.threads, "results": rows})
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listing = coarse_phantoms(folder, CONTRASTS, seed=0, report=lambda event: None)
        preparation = Preparation(size=(*SIZE, None))
        cohort = build_cohort(listing, folder / "cohort", preparation, fractions=(0.75, 0.0, 0.25))
        for factor, channels in CASES:
            rows.append(reconstruction(cohort, factor, channels, asked.seconds))
            print(rows[-1], flush=True)
            save(asked.output, {"size": list(SIZE), "threads": asked.threads, "results": rows})


def reconstruction(cohort: Cohort, factor: int, channels: int, seconds: float) -> dict[str, Any]:
    """PSNR of the test subjects' contrasts after so many processor seconds of training."""
    config = replace(find_recipe("autoencoder_small"), contrasts=CONTRASTS)
    settings = replace(config.settings, multipliers=LEVELS[factor], latent_channels=channels)
    config = replace(config, settings=settings)
    trained = train_shortly(config, cohort, seconds=seconds)
    method = trained.method
    assert isinstance(method, Autoencoder)
    figures: dict[str, float] = {}
    with trained.engine.averaged_weights(), torch.no_grad():
        for contrast in CONTRASTS:
            found = [of_subject(method, read_image(cohort, subject, contrast)) for subject in cohort.subjects("test")]
            figures[contrast] = round(float(np.mean(found)), 2)
    return {
        "factor": factor,
        "latent channels": channels,
        "numbers of a slice's latent": channels * SIZE[0] * SIZE[1] // factor**2,
        "steps": trained.steps,
        "processor seconds a step": round(trained.seconds, 4),
        "PSNR inside the brain (dB)": figures,
        "mean (dB)": round(float(np.mean([*figures.values()])), 2),
    }


def of_subject(method: Autoencoder, image: torch.Tensor) -> float:
    """PSNR inside the brain of a scan's reconstruction."""
    slices = to_network(image).movedim(2, 0)[:, None]
    made = torch.cat([method.decode(method.encode(some)) for some in slices.split(16)])[:, 0].movedim(0, 2)
    case = Case(from_network(made.clamp(-1, 1)).numpy(), image.numpy())
    return float(psnr(inside_the_brain(case)).mean())


def engine_of(config: RunConfig[Any]) -> Engine:
    """Its method, ready to train."""
    return Engine(make_method(config), CPU, "float32", gradient_clip=config.training.gradient_clip)


def compared(recipe: str, turns: int) -> dict[str, Any]:
    """A training step of a recipe as it is and as it was, in turns."""
    config = replace(find_recipe(recipe), contrasts=CONTRASTS)
    works = []
    for settings in (replace(config.settings, **BEFORE), config.settings):
        engine = engine_of(replace(config, settings=settings))
        batch = engine.method.needs.random_batch(len(CONTRASTS), config.training.batch_size, SIZE, 0)

        def work(engine: Engine = engine, batch: dict[str, torch.Tensor] = batch) -> None:
            step(engine, batch, config, 1, Progress(1, 10, 0.0))

        works.append((work, sum(parameter.numel() for parameter in engine.method.nets.parameters())))
    seconds: list[list[float]] = [[], []]
    for turn in range(turns + 2):
        for kind in (0, 1) if turn % 2 else (1, 0):
            begun = time.process_time()
            works[kind][0]()
            if turn > 1:
                seconds[kind].append(time.process_time() - begun)
    row: dict[str, Any] = {"recipe": recipe}
    for kind, name in enumerate(("factor 4, before", "factor 2")):
        work, parameters = works[kind]
        row[name] = {
            "processor seconds": round(float(np.median(seconds[kind])), 4),
            "GFLOP": round(counted(work), 3),
            "parameters": parameters,
        }
    row["median ratio of a turn"] = round(float(np.median(np.divide(seconds[1], seconds[0]))), 3)
    print(row, flush=True)
    return row


if __name__ == "__main__":
    main()
