"""What MRDiff's physics costs: a training step and a sampling against a plain U-Net that gives x̂_0.

    python benchmarks/mrdiff.py -o benchmarks/results/mrdiff.json

Beside MRDiff stands its encoder with a last convolution to the sub-bands of x̂_0 instead of features, trained with L_G
on batches of N·B, since N noisy versions of B images go through MRDiff's encoder. Both alternate within one run; ratios
are those of neighbours. Sampling: 50 steps of 16 slices.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from measuring import precisions, save
from scansynth.diffusion.windows import SliceWindows
from scansynth.method import Progress
from scansynth.methods.mrdiff import MrDiff
from scansynth.network_precision import prepare_synthesis
from scansynth.networks.unet import UNet
from scansynth.noise import Noise
from scansynth.physics.wavelet import iwt
from scansynth.recipes import find_recipe
from scansynth.training.engine import Engine
from scansynth.training.loop import step
from scansynth.training.parts import make_method

CPU = torch.device("cpu")
CONTRASTS = ("T1w", "T2w", "FLAIR")


class Bands(nn.Module):
    """The plain U-Net's generator: sub-bands to the image."""

    def forward(self, e: Tensor) -> Tensor:
        """(B, 4, H/2, W/2) → (B, 1, H, W)."""
        return iwt(e)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="mrdiff_small")
    parser.add_argument("--size", nargs=2, type=int, default=(96, 112), help="pixels of a slice")
    parser.add_argument("--precision", nargs="+", default=precisions())
    parser.add_argument("--repeats", type=int, default=20, help="training steps")
    parser.add_argument("--samplings", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    results = []
    for precision in arguments.precision:
        for work in (training, sampling):
            results.append(measure(arguments, precision, work))
            print(json.dumps(results[-1]), flush=True)
    save(arguments.output, {"threads": arguments.threads, "results": results})


def measure(arguments, precision: str, kind) -> dict:
    """Seconds of both, in turns, and the ratio."""
    works = {name: kind(arguments, precision, name == "plain") for name in ("mrdiff", "plain")}
    seconds = {name: [] for name in works}
    repeats = arguments.repeats if kind is training else arguments.samplings
    for repeat in range(repeats + 1):
        for name, work in works.items():
            begun = time.perf_counter()
            work()
            if repeat:  # the first of each warms up
                seconds[name].append(time.perf_counter() - begun)
    ratios = np.divide(seconds["mrdiff"], seconds["plain"])
    return {
        "work": kind.__name__,
        "precision": precision,
        "size": list(arguments.size),
        **{f"seconds_{name}": round(float(np.median(values)), 4) for name, values in seconds.items()},
        "ratio": round(float(np.median(ratios)), 3),
        "quartiles": np.percentile(ratios, (25, 75)).round(3).tolist(),
    }


def prepared(arguments, precision: str, plain: bool):
    """Settings and method; the plain one gives x̂_0's sub-bands straight from its U-Net."""
    config = replace(find_recipe(arguments.recipe), contrasts=CONTRASTS)
    settings = replace(config.settings, targets=("FLAIR",))
    batch = config.training.batch_size
    if plain:
        batch *= settings.copies
        settings = replace(settings, decoder="none", consistency_weight=0.0, copies=1)
    training = replace(config.training, precision=precision, batch_size=batch)
    config = replace(config, settings=settings, training=training)
    method = make_method(config)
    assert isinstance(method, MrDiff)
    if plain:
        count = len(CONTRASTS)
        method.nets["E"] = UNet(
            2, 4 * (count + 1) + 2 * count, 4, channels=settings.channels, multipliers=settings.multipliers,
            blocks=settings.blocks, attention_levels=settings.attention_levels,
            bottleneck_attention=bool(settings.attention_levels), time_width=4 * settings.channels,
        )  # fmt: skip
        method.nets["G"] = Bands()
        method.averaged = ("E",)  # the other has no parameters
    return config, method


def training(arguments, precision: str, plain: bool):
    """One training step."""
    config, method = prepared(arguments, precision, plain)
    engine = Engine(method, CPU, config.training.precision)
    count = config.training.batch_size
    batch = {
        "images": torch.rand(count, 3, *arguments.size) * 2 - 1,
        "available": torch.ones(count, 3, dtype=torch.bool),
        "acquisition": torch.tensor([[9.81, 4.6, 0, 0], [8178.0, 100, 0, 0], [9000.0, 120, 0, 0]]).repeat(count, 1, 1),
    }

    def work() -> None:
        step(engine, batch, config, 1, Progress(1, 10, 0.0))
        engine.mean_losses()

    return work


def sampling(arguments, precision: str, plain: bool):
    """One target of 16 slices."""
    config, method = prepared(arguments, precision, plain)
    prepare_synthesis(method, CPU, config.training.precision)
    images = torch.rand(1, 3, *arguments.size, 16) * 2 - 1
    batch = {"images": images, "available": torch.tensor([[True, True, False]])}

    def work() -> None:
        with torch.no_grad():
            method.translate(batch, "FLAIR", SliceWindows(16), Noise([(0, "subject", 0)]))

    return work


if __name__ == "__main__":
    main()
