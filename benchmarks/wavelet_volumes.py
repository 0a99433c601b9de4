"""Whole volumes through wavelets: seconds and memory of a call and of a training step, beside the plain convolution.

    python benchmarks/wavelet_volumes.py -o benchmarks/results/wavelet-volumes.json
    python benchmarks/wavelet_volumes.py --memory 8 …    # each case under a limit of so many GB of its process

A call is that of `Method.mean`: one pass of a 240×240×155 volume, one contrast of four. The plain convolution is one of
the network's base width at its resolution, in the same process, in turns with what is measured; the share of its rate
counts all operations of the convolutions (FLOP of PyTorch's own counter) over the seconds of the whole.
"""

import argparse
import json
import math
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from measuring import counted, in_own_process, peak, save
from scansynth.method import Progress
from scansynth.methods import find_method
from scansynth.network_precision import prepare_synthesis
from scansynth.noise import Noise
from scansynth.recipes import find_recipe
from scansynth.training.engine import Engine

CPU = torch.device("cpu")
RECIPES = ("regression_wavelet_small", "flow_wavelet_small")
CONTRASTS, TARGET = ("T1w", "T1ce", "T2w", "FLAIR"), "FLAIR"
VOLUME, PATCH = (240, 240, 155), (96, 112, 96)
TURNS = {"volume": 3, "step": 5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", type=float, help="GB that the process of a case may have, its code included")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        if arguments.memory:
            most = int(arguments.memory * 1e9)
            resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        print(json.dumps(measured(**json.loads(arguments.one))))
        return
    results = []
    for recipe in arguments.recipes:
        for work in TURNS:
            results.append(in_own_process({"recipe": recipe, "work": work}))
            print(json.dumps(results[-1]), flush=True)
    save(arguments.output, {"limit_gb": arguments.memory, "threads": arguments.threads, "results": results})


def measured(recipe: str, work: str) -> dict[str, Any]:
    """One recipe's volume or training step."""
    config = find_recipe(recipe)
    method = find_method(config.method)(config.settings, CONTRASTS)
    small = [side // 2 for side in (VOLUME if work == "volume" else PATCH)]
    plain = convolution(config.settings.channels, small, training=work == "step")
    if work == "volume":
        prepare_synthesis(method, CPU, "float32")
        images = torch.rand(1, len(CONTRASTS), *VOLUME) * 2 - 1
        available = torch.tensor([[name != TARGET for name in CONTRASTS]])
        batch = {"images": images * available[..., None, None, None], "available": available}

        def one() -> None:
            with torch.no_grad():
                method.mean(batch, TARGET, method.needs.windows(), Noise([(0, "subject", 0)]))
    else:
        engine = Engine(method, CPU, "float32")
        shape = (1, len(CONTRASTS))
        batch = {"images": torch.rand(*shape, *PATCH) * 2 - 1, "available": torch.ones(shape, dtype=torch.bool)}
        noise = Noise([(0, 0, 0)])

        def one() -> None:
            method.training_step(batch, engine.update, Progress(0, 1, 0.0), noise)

    # PyTorch counts no gradient of a leaf: 27 taps, a multiplication and an addition each; both gradients cost as much.
    voxels, channels = math.prod(small), config.settings.channels
    work_flop, plain_flop = counted(one), 2 * 27 * channels**2 * voxels * (3 if work == "step" else 1) / 1e9
    seconds, shares = [], []
    for _ in range(TURNS[work]):
        own, other = taken(one), taken(plain)
        seconds.append(own)
        shares.append((work_flop / own) / (plain_flop / other))
    return {
        "recipe": recipe, "work": work, "voxels": "×".join(map(str, VOLUME if work == "volume" else PATCH)),
        "parameters": sum(parameter.numel() for parameter in method.parameters()), "gflop": round(work_flop, 1),
        "seconds": round(statistics.median(seconds), 2), "peak_gb": peak(),
        "share_of_the_convolution_s_rate": round(statistics.median(shares), 3),
    }  # fmt: skip


def convolution(channels: int, shape: list[int], *, training: bool) -> Callable[[], None]:
    """A 3×3×3 convolution of one image; in training with both of its gradients."""
    layer, x = nn.Conv3d(channels, channels, 3, padding=1), torch.rand(1, channels, *shape, requires_grad=training)

    def one() -> None:
        if training:
            torch.autograd.grad(layer(x).sum(), [x, *layer.parameters()])
        else:
            with torch.no_grad():
                layer(x)

    return one


def taken(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
