"""Seconds, peak memory and floating-point operations of a training iteration, a slice and a volume.

    python benchmarks/speed.py syndiff_public_code --size 64 64 --channels 32 -o FILE.json
    python benchmarks/speed.py syndiff_small regression_small --size 80 96
    python benchmarks/speed.py syndiff --size 256 256 --work slice volume --depth 155

Every recipe, precision and kind of work is measured in a process of its own, whose peak memory is its own. Rates stand
beside those of a plain convolution and a plain matrix product, measured in the same run. `--reference PATH` measures
SynDiff's public release there (`reference.py`) beside it, in turns. Run it on a quiet machine; on a busy one set
`OMP_WAIT_POLICY=passive`, which the results name. Results that were measured stand in `benchmarks/results/`, a table
of them in `docs/performance.md`.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from measuring import counted, in_own_process, peak, precisions, save, timed
from scansynth.devices import find_device
from scansynth.diffusion.windows import SliceWindows
from scansynth.method import Progress
from scansynth.network_precision import prepare_synthesis
from scansynth.noise import Noise
from scansynth.recipes import find_recipe
from scansynth.training.engine import Engine
from scansynth.training.loop import step
from scansynth.training.parts import make_method

KINDS = (
    ("convolution, backward", ("convolution_backward",)),
    ("convolution", ("convolution", "conv2d", "conv_depthwise")),
    ("matrix product", ("mm", "matmul", "linear", "dot_product", "im2col", "col2im")),
    ("normalisation", ("norm",)),
    ("resampling", ("pool", "upsample", "pad")),
    ("optimiser and averages", ("adam", "lerp", "Optimizer")),
    ("copies and casts", ("copy", "contiguous", "cat", "_to", "clone")),
)
"""Kinds of operations and parts of their names, the first that fits."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", help="names of recipes")
    parser.add_argument("--size", nargs=2, type=int, default=(96, 96), help="pixels of a slice")
    parser.add_argument("--depth", type=int, default=8, help="slices of a volume")
    parser.add_argument("--channels", type=int, help="base channels of the generators, if not the recipe's")
    parser.add_argument("--batch", type=int, help="slices an iteration, if not the recipe's")
    parser.add_argument("--precision", nargs="+", default=precisions())
    parser.add_argument("--work", nargs="+", default=["iteration", "slice"], choices=["iteration", "slice", "volume"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=20, help="measured, after some that are not")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--reference", type=Path, help="a checkout of SynDiff's public release")
    parser.add_argument("--profile", action="store_true", help="also the share of each kind of operation")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a case, in the process that measures it
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        print(json.dumps(measure(json.loads(arguments.one), arguments)))
        return
    rates = plain_rates(find_device(arguments.device))
    print(json.dumps(rates), flush=True)
    results = []
    for work in arguments.work:
        for recipe in arguments.recipes:
            for precision in arguments.precision:
                case = {"code": "scansynth", "recipe": recipe, "precision": precision, "work": work}
                results.append(shown(in_own_process(case)))
        if arguments.reference and work != "volume":
            for fir in ("plain", "depthwise"):
                case = {"code": "public release", "fir": fir, "precision": "float32", "work": work}
                results.append(shown(in_own_process(case)))
    save(arguments.output, {"threads": arguments.threads, "plain_rates": rates, "results": results})


def shown(result: dict) -> dict:
    """The result, printed but for its profile."""
    print(json.dumps({key: value for key, value in result.items() if key != "profile"}), flush=True)
    return result


def plain_rates(device: torch.device) -> dict[str, float]:
    """GFLOP/s of a 2048×2048 matrix product and of a 3×3 convolution of 256 channels on 64×64 pixels."""
    rates = {}
    for name in precisions(device):
        dtype = getattr(torch, name)
        a = torch.randn(2048, 2048, device=device, dtype=dtype)
        x = torch.randn(1, 256, 64, 64, device=device, dtype=dtype)
        weight = torch.randn(256, 256, 3, 3, device=device, dtype=dtype)
        for what, work, flop in (
            ("matrix product", lambda a=a: a @ a, 2 * 2048**3),
            ("convolution", lambda x=x, w=weight: functional.conv2d(x, w, padding=1), 2 * 256 * 256 * 9 * 64 * 64),
        ):
            rates[f"{what} {name}"] = round(flop / np.median(timed(work, 15, device)) / 1e9, 1)
    return rates


def measure(case: dict, arguments: argparse.Namespace) -> dict:
    """One case: seconds, memory, operations."""
    device = find_device(arguments.device)
    work, parameters = (ours if case["code"] == "scansynth" else reference)(case, arguments, device)
    seconds = timed(work, arguments.repeats, device)
    memory = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else peak()
    gflop = counted(work)
    low, median, high = np.percentile(seconds, (25, 50, 75)).round(4).tolist()
    result = {
        **case,
        "size": list(arguments.size),
        "channels": arguments.channels,
        "batch": arguments.batch,
        "depth": arguments.depth if case["work"] == "volume" else None,
        "seconds": median,
        "quartiles": [low, high],
        "peak_memory_gb": round(memory, 2),
        "gflop": round(gflop, 2),
        "gflop_per_second": round(gflop / median, 1),
        "parameters": parameters,
    }
    if arguments.profile:
        result["profile"] = shares(work)
    return result


def ours(case: dict, arguments: argparse.Namespace, device: torch.device) -> tuple[Callable[[], object], int]:
    """A piece of scansynth's work, and the number of parameters of its networks."""
    recipe = replace(find_recipe(case["recipe"]), contrasts=("T1w", "T2w"))
    training = replace(recipe.training, precision=case["precision"])
    if arguments.batch:
        training = replace(training, batch_size=arguments.batch)
    settings = replace(recipe.settings, channels=arguments.channels) if arguments.channels else recipe.settings
    if case["recipe"] == "syndiff_public_code":  # the release attends where the larger side is 16, whatever the level
        settings = replace(settings, attention_levels=(int(np.log2(max(arguments.size) / 16)),))
    recipe = replace(recipe, settings=settings, training=training)
    method = make_method(recipe)
    parameters = sum(parameter.numel() for parameter in method.parameters())
    if case["work"] == "iteration":
        engine = Engine(method, device, recipe.training.precision)
        images = torch.rand(recipe.training.batch_size, 2, *arguments.size) * 2 - 1
        batch = {"images": images, "available": torch.ones(len(images), 2, dtype=torch.bool)}
        # Step 1 on: a step that a lazy gradient penalty leaves out, for nine of ten of the public code's.
        count = iter(range(1, 10**6))

        def iteration() -> None:
            number = next(count)
            step(engine, batch, recipe, number, Progress(number, 10**6, 0.0))
            engine.mean_losses()

        return iteration, parameters
    depth = arguments.depth if case["work"] == "volume" else 1
    prepare_synthesis(method, device, recipe.training.precision)
    images = torch.rand(1, 2, *arguments.size, depth, device=device) * 2 - 1
    batch = {"images": images, "available": torch.tensor([[True, False]], device=device)}

    def translate() -> None:
        with torch.no_grad():
            method.translate(batch, "T2w", SliceWindows(), Noise([(0, "subject", 0)], device))

    return translate, parameters


def reference(case: dict, arguments: argparse.Namespace, device: torch.device) -> tuple[Callable[[], object], int]:
    """A piece of the public release's work, and the number of parameters of its networks."""
    from reference import Reference

    if device.type != "cpu":
        raise SystemExit("--reference is measured on the CPU")
    size, channels = tuple(arguments.size), arguments.channels or 64
    public = Reference(arguments.reference, size, channels, arguments.batch or 1, fir=case["fir"])
    work = {"iteration": lambda: public.iteration(penalty=False), "slice": public.slice}[case["work"]]
    return work, sum(public.parameters().values())


def shares(work: Callable[[], object]) -> dict[str, float]:
    """Share of the processor's time by kind of operation."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        work()
    times: dict[str, float] = {}
    for event in profiler.key_averages():
        kind = next((kind for kind, parts in KINDS if any(part in event.key for part in parts)), "elementwise and rest")
        times[kind] = times.get(kind, 0.0) + event.self_cpu_time_total
    total = sum(times.values())
    return {kind: round(time / total, 3) for kind, time in sorted(times.items(), key=lambda item: -item[1])}


if __name__ == "__main__":
    main()
