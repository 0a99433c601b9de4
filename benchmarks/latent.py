"""What a latent space saves: the same U-Net on latents and on images, and what the cooperative filter costs.

    python benchmarks/latent.py --work spaces -o benchmarks/results/latent.json
    python benchmarks/latent.py --work filter --batch 4 -o benchmarks/results/latent-filter.json

Both are latent diffusion (`ldm`) of one width on one image; in image space the first stage is the identity. A training
step does not encode, since latents are stored; sampling encodes three sources and decodes, by an autoencoder of
`autoencoder_small`'s width at a factor of 4. Each case has a process of its own, whose peak memory is its own; "over
idle" leaves out what that process holds before it works. Sampling is done once, after two steps to warm up. The
filter: CoLa-Diff's forward pass at 56×56 with and without, in turns, at several widths (the paper's is 128).
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from measuring import in_own_process, peak, precisions, save, timed
from scansynth.diffusion.samplers import times
from scansynth.diffusion.windows import SliceWindows
from scansynth.method import Progress
from scansynth.methods.autoencoder import Autoencoder
from scansynth.methods.cola_diff import ColaDiff
from scansynth.methods.latent_diffusion import LatentDiffusion
from scansynth.network_precision import prepare_synthesis
from scansynth.noise import Noise
from scansynth.recipes import find_recipe
from scansynth.training.engine import Engine
from scansynth.training.loop import step
from scansynth.training.parts import make_method

CPU = torch.device("cpu")
CONTRASTS = ("T1w", "T1ce", "T2w", "FLAIR")
FILTER_WIDTHS = 32, 64, 128
"""Base widths of the U-Net that the filter is timed in."""


class Trained(nn.Module):
    """An autoencoder in the place of a trained one: weights do not change what it takes."""

    def __init__(self):
        super().__init__()
        config = replace(find_recipe("autoencoder_small"), contrasts=CONTRASTS)
        settings = replace(config.settings, multipliers=(1, 2, 4), latent_channels=8)
        autoencoder = make_method(replace(config, settings=settings))
        assert isinstance(autoencoder, Autoencoder)
        self.autoencoder = autoencoder

    def encode(self, x: Tensor) -> Tensor:
        """Images to latents."""
        return self.autoencoder.encode(x)

    def decode(self, latent: Tensor) -> Tensor:
        """Latents to images."""
        return self.autoencoder.decode(latent)


class Same(nn.Module):
    """The identity: images are their own latents."""

    def encode(self, x: Tensor) -> Tensor:
        """The image."""
        return x

    def decode(self, latent: Tensor) -> Tensor:
        """The image."""
        return latent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=["spaces", "filter"], required=True)
    parser.add_argument("--size", type=int, default=224, help="pixels of a slice's side")
    parser.add_argument("--channels", type=int, default=32, help="base width of the U-Net")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--precision", default="float32", help="in both spaces; the filter is timed in two")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # a case, in the process that measures it
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        print(json.dumps(measure(json.loads(arguments.one), arguments)))
        return
    results = []
    cases = [{"work": work, "space": space} for work in ("training", "sampling") for space in ("latent", "image")]
    filters = [
        {"work": "filter", "channels": width, "precision": precision}
        for width in FILTER_WIDTHS
        for precision in precisions()
    ]
    for case in cases if arguments.work == "spaces" else filters:
        results.append(in_own_process(case))
        print(json.dumps(results[-1]), flush=True)
    content = {"threads": arguments.threads, "results": results}
    if arguments.work == "spaces":
        content["ratios"] = {"training": ratios(*results[:2]), "sampling": ratios(*results[2:])}
        print(json.dumps(content["ratios"], indent=1))
    save(arguments.output, content)


def ratios(latent: dict, image: dict) -> dict:
    """Image over latent space."""
    return {
        "time": round(image["seconds"] / latent["seconds"], 2),
        "peak memory": round(image["peak_memory_gb"] / latent["peak_memory_gb"], 2),
        "peak memory over idle": round(image["over_idle_gb"] / latent["over_idle_gb"], 2),
    }


def measure(case: dict, arguments: argparse.Namespace) -> dict:
    """One case."""
    if case["work"] == "filter":
        return {**case, **filter_share(case["channels"], case["precision"], arguments.batch)}
    latent = case["space"] == "latent"
    config = replace(find_recipe("ldm"), contrasts=CONTRASTS)
    settings = replace(config.settings, channels=arguments.channels, targets=("FLAIR",))
    stage: nn.Module = Trained() if latent else Same()
    settings = (
        replace(settings, latent_channels=8, factor=4) if latent else replace(settings, latent_channels=1, factor=1)
    )
    training = replace(config.training, precision=arguments.precision, batch_size=arguments.batch)
    config = replace(config, settings=settings, training=training)
    method = make_method(config)
    assert isinstance(method, LatentDiffusion)
    method.first_stage = stage  # pyright: ignore[reportAttributeAccessIssue]
    side = arguments.size // settings.factor
    idle = peak()
    if case["work"] == "training":
        engine = Engine(method, CPU, config.training.precision)
        shape = arguments.batch, len(CONTRASTS)
        batch = {
            "latents": torch.randn(*shape, settings.latent_channels, side, side),
            "available": torch.ones(shape, dtype=torch.bool),
        }

        def work() -> None:
            step(engine, batch, config, 1, Progress(1, 10, 0.0))
            engine.mean_losses()

        seconds = timed(work, arguments.repeats, CPU)
    else:
        prepare_synthesis(method, CPU, config.training.precision)
        images = torch.rand(1, len(CONTRASTS), arguments.size, arguments.size, arguments.batch) * 2 - 1
        batch = {"images": images, "available": torch.tensor([[True, True, True, False]])}

        def sample(steps: int) -> float:
            method.path = times(method.schedule, steps)
            begun = time.perf_counter()
            with torch.no_grad():
                method.translate(batch, "FLAIR", SliceWindows(arguments.batch), Noise([(0, "subject", 0)]))
            return time.perf_counter() - begun

        sample(2)
        seconds = [sample(settings.sampling_steps)]
    return {
        **case,
        "size": arguments.size,
        "channels": arguments.channels,
        "batch": arguments.batch,
        "precision": arguments.precision,
        "seconds": round(float(np.median(seconds)), 3),
        "peak_memory_gb": peak(),
        "over_idle_gb": round(peak() - idle, 3),
    }


def filter_share(channels: int, precision: str, batch: int) -> dict:
    """Share of a forward pass at 56×56 that the cooperative filter takes."""
    config = replace(find_recipe("cola_diff"), contrasts=CONTRASTS)
    settings = replace(config.settings, channels=channels, structural_guidance=False)
    networks = {}
    for filtered in (True, False):
        method = make_method(replace(config, settings=replace(settings, cooperative_filter=filtered)))
        assert isinstance(method, ColaDiff)
        prepare_synthesis(method, CPU, precision)
        networks[filtered] = method
    kappa_t, t = torch.randn(batch, 3, 56, 56), torch.full((batch,), 500)
    y, planes = torch.randn(batch, 4, 3, 56, 56), torch.zeros(batch, 8, 1, 1)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    with torch.no_grad():
        conditions = {filtered: method.condition(y, planes, None) for filtered, method in networks.items()}
        for repeat in range(12):
            for filtered, method in networks.items():
                begun = time.perf_counter()
                method.network(kappa_t, conditions[filtered], t)
                if repeat > 1:
                    seconds[filtered].append(time.perf_counter() - begun)
    shares = 1 - np.divide(seconds[False], seconds[True])
    return {
        "seconds_with": round(float(np.median(seconds[True])), 4),
        "seconds_without": round(float(np.median(seconds[False])), 4),
        "share": round(float(np.median(shares)), 3),
        "quartiles": [round(float(share), 3) for share in np.quantile(shares, (0.25, 0.75))],
        "batch": batch,
    }


if __name__ == "__main__":
    main()
