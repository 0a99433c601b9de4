"""SynDiff's public release and `syndiff_public_code`, trained alike on one cohort: PSNR over iterations.

    git clone https://github.com/icon-lab/SynDiff PATH
    python benchmarks/reference_curves.py PATH runs/curves --cohort COHORT --iterations 1000 --every 100
    python benchmarks/reference_curves.py PATH runs/curves --cohort COHORT -o benchmarks/results/reference-curves.json

Same data in the same order (unpaired slices), same architecture at the width of `--channels`, same rates with their
cosine, seeds and number of iterations; the release as `reference.py` runs it, from the user's checkout. Weights of both
are drawn by themselves, so that curves agree no better than two seeds of one code do. PSNR inside the brain (as in
protocol `default`, over some slices of each test subject) of averaged weights, both directions. The cohort's slices
must have sides of a multiple of 32, at least 64. Stopped, the same command goes on; with `-o` what is there is written.
"""

import argparse
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from measuring import save
from reference import Reference
from scansynth.config import RunConfig
from scansynth.data.cohort import Cohort
from scansynth.data.datasets import from_network, read_image, to_network
from scansynth.devices import Processes
from scansynth.files import write_text
from scansynth.method import Method, Progress
from scansynth.metrics.cases import Case, inside_the_brain, slices_with_foreground
from scansynth.metrics.image_metrics import PSNR
from scansynth.noise import Noise
from scansynth.recipes import find_recipe
from scansynth.training.checkpoint import current
from scansynth.training.engine import Engine
from scansynth.training.loop import step
from scansynth.training.parts import make_parts

ARMS = ("release", "scansynth")
SLICES = 8
"""Of each test subject, spread over its foreground."""
LAST_RATE = 1e-5
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a checkout of https://github.com/icon-lab/SynDiff")
    parser.add_argument("folder", type=Path, help="where curves and states lie")
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--contrasts", nargs=2, default=("T1w", "T2w"))
    parser.add_argument("--channels", type=int, default=32)
    parser.add_argument("--iterations", type=int, default=1000)
    parser.add_argument("--every", type=int, default=100, help="iterations between two points of a curve")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--arms", nargs="+", default=ARMS, choices=ARMS)
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write, of what is there")
    arguments = parser.parse_args()
    cohort = Cohort.open(arguments.cohort)
    rows = []
    for seed in arguments.seeds:
        for arm in arguments.arms:
            place = arguments.folder / f"{cohort.folder.name}-{arguments.iterations}" / f"{arm}-{seed}"
            if not arguments.output:
                train(arm, seed, cohort, place, arguments)
            if (place / "curve.json").exists():
                rows.append({"arm": arm, "seed": seed, "curve": json.loads((place / "curve.json").read_text())})
    save(arguments.output, {"cohort": cohort.folder.name, "channels": arguments.channels, "results": rows})


def train(arm: str, seed: int, cohort: Cohort, place: Path, arguments: argparse.Namespace) -> None:
    """Go on to the end, and put a point on the curve at every so many iterations."""
    torch.manual_seed(seed)
    recipe = find_recipe("syndiff_public_code")
    settings = replace(recipe.settings, channels=arguments.channels)
    training = replace(recipe.training, steps=arguments.iterations)
    config = replace(recipe, settings=settings, training=training, contrasts=tuple(arguments.contrasts), seed=seed)
    method, dataset = make_parts(config, cohort, Processes(CPU))
    shown = held_out(cohort, arguments.contrasts)
    trainee = Release(config, arguments.path, shown[0].shape[2:]) if arm == "release" else Ours(config, method)
    path, points = place / "curve.json", []
    if path.exists():
        points = json.loads(path.read_text())
        trainee.load(place)
    done = points[-1]["iteration"] if points else 0
    while done < arguments.iterations:
        item = dataset[done]
        trainee.iteration({key: value[None] for key, value in item.items()}, done)
        done += 1
        if done % arguments.every == 0 or done == arguments.iterations:
            psnr = {
                f"{arguments.contrasts[1 - i]}→{arguments.contrasts[i]}": inside(trainee, shown, i) for i in range(2)
            }
            points.append({"iteration": done, **psnr})
            trainee.save(place, done)
            write_text(path, json.dumps(points))
            print(place.name, points[-1], flush=True)


def held_out(cohort: Cohort, contrasts: Sequence[str]) -> list[Tensor]:
    """Slices of each test subject, (n, 2, H, W) in [−1, 1]."""
    found = []
    for subject in cohort.subjects("test"):
        both = torch.stack([read_image(cohort, subject, one, acceleration=()) for one in contrasts])
        tissue = slices_with_foreground(both[0].numpy())
        chosen = tissue[np.linspace(0, len(tissue) - 1, SLICES).round().astype(int)]
        found.append(to_network(both[..., chosen]).movedim(3, 0))
    return found


def inside(trainee: "Trainee", shown: Sequence[Tensor], target: int) -> float:
    """Mean PSNR inside the brain over test subjects of one direction."""
    found = []
    for subject in shown:
        made = trainee.translate(subject[:, [1 - target]], target)
        synthesis, truth = (from_network(one[:, 0]).clamp(0, 1).movedim(0, 2).double().numpy() for one in (
            made, subject[:, [target]]
        ))  # fmt: skip
        found.append(float(PSNR.of(inside_the_brain(Case(synthesis, truth))).mean()))
    return round(float(np.mean(found)), 3)


class Trainee(ABC):
    """A code that is trained, one iteration after the other."""

    @abstractmethod
    def iteration(self, batch: dict[str, Tensor], number: int) -> None:
        """Train on a batch of `images` (B, 2, H, W)."""

    @abstractmethod
    def translate(self, source: Tensor, target: int) -> Tensor:
        """Slices (n, 1, H, W) of a contrast from the other one, by averaged weights, in [−1, 1]."""

    @abstractmethod
    def save(self, place: Path, done: int) -> None:
        """Keep what a later command goes on from."""

    @abstractmethod
    def load(self, place: Path) -> None:
        """Go on from there."""


class Ours(Trainee):
    """This package's training step."""

    def __init__(self, config: RunConfig[Any], method: Method):
        self.config, self.engine = config, Engine(method, CPU, "float32")

    def iteration(self, batch: dict[str, Tensor], number: int) -> None:
        """One training step."""
        step(self.engine, batch, self.config, number, Progress(number, self.config.training.steps, 0.0))

    @torch.no_grad()
    def translate(self, source: Tensor, target: int) -> Tensor:
        """The slices as one volume."""
        method = self.engine.method
        images = torch.zeros(1, 2, *source.shape[2:], len(source))
        images[0, 1 - target] = source[:, 0].movedim(0, 2)
        batch = {"images": images, "available": torch.tensor([[index != target for index in range(2)]])}
        with self.engine.averaged_weights():
            noise = Noise([(0, "curve", 0)])
            made = method.translate(batch, method.contrasts[target], method.needs.windows(), noise)
        return made.image[0].movedim(3, 0)

    def save(self, place: Path, done: int) -> None:
        """A checkpoint."""
        self.engine.save(place / "last", done, {})

    def load(self, place: Path) -> None:
        """The newest checkpoint."""
        newest = current(place / "last")
        assert newest is not None
        self.engine.load(newest)


class Release(Trainee):
    """The release's iteration, whose rates fall along the same cosine."""

    def __init__(self, config: RunConfig[Any], path: Path, size: Sequence[int]):
        self.steps = config.training.steps
        self.reference = Reference(path, size, config.settings.channels)
        self.optimizers = self.reference.optimizers()
        self.first = [[group["lr"] for group in one.param_groups] for one in self.optimizers]

    def iteration(self, batch: dict[str, Tensor], number: int) -> None:
        """One iteration; every tenth has the penalty."""
        for optimizer, rates in zip(self.optimizers, self.first, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = LAST_RATE + (rate - LAST_RATE) * 0.5 * (1 + math.cos(math.pi * number / self.steps))
        self.reference.images = [batch["images"][:, [0]], batch["images"][:, [1]]]
        self.reference.iteration(penalty=number % self.reference.penalty_every == 0)

    def translate(self, source: Tensor, target: int) -> Tensor:
        """By the averages, from noise of a seed of its own."""
        kept = torch.get_rng_state()
        torch.manual_seed(0)
        with self.reference.averages():
            made = self.reference.translate(source, target)
        torch.set_rng_state(kept)
        return made

    def save(self, place: Path, done: int) -> None:
        """Networks, optimisers with their averages, and PyTorch's random numbers."""
        place.mkdir(parents=True, exist_ok=True)
        state = {
            "nets": {name: net.state_dict() for name, net in self.reference.nets.items()},
            "optimizers": [getattr(one, "optimizer", one).state_dict() for one in self.optimizers],
            "random": torch.get_rng_state(),
        }
        torch.save(state, place / "state.part")
        (place / "state.part").rename(place / "state.pt")

    def load(self, place: Path) -> None:
        """What `save` has kept."""
        state = torch.load(place / "state.pt", weights_only=True)
        for name, net in self.reference.nets.items():
            net.load_state_dict(state["nets"][name])
        for one, found in zip(self.optimizers, state["optimizers"], strict=True):
            inner: Any = getattr(one, "optimizer", one)  # the release's averages wrap an optimiser
            inner.load_state_dict(found)
            one.state, one.param_groups = inner.state, inner.param_groups
        torch.set_rng_state(state["random"])


if __name__ == "__main__":
    main()
