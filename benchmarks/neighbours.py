"""What neighbouring slices cost: a training step and a synthesis of recipes as they are and in 2.5D, in turns.

    python benchmarks/neighbours.py -o benchmarks/results/neighbours.json

Phantoms of 64×80×64 voxels, T1w, T2w and FLAIR. A step is the run's own, with the reading of its samples; a synthesis
is that of 16 slices of one subject's T2w from both others, with the cutting of their batch. Each turn takes some of one
kind, then of the other, and the next begins with the other: what else the machine does meets both. Where others use the
machine, the processor's seconds count, and the operations.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from measuring import counted, save
from scansynth.data.build_cohort import build_cohort
from scansynth.data.datasets import whole_subject
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.devices import Processes
from scansynth.given import given, sources_for
from scansynth.noise import Noise
from scansynth.recipes import find_recipe
from scansynth.training.engine import Engine
from scansynth.training.parts import make_parts
from scansynth.training.trial import trial_step

CPU = torch.device("cpu")
CONTRASTS = ("T1w", "T2w", "FLAIR")
SIZE = (64, 80, 64)


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["regression_small", "mrdiff_small"])
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--steps", type=int, default=2, help="of each kind in a turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_phantom_cohort(Path(folder), 6, CONTRASTS, layout="table", shape=SIZE, spacing=2.5)
        cohort = build_cohort(
            find_subjects(Path(folder) / "table.csv"), Path(folder) / "cohort", Preparation(size=(*SIZE[:2], None))
        )
        for recipe in asked.recipes:
            works = [kind(recipe + ending, cohort) for ending in ("", "_25d")]
            for what, place, repeats in (("step", 0, asked.steps), ("synthesis", 1, 1)):
                taken = in_turns([both[place] for both in works], asked.turns, repeats)
                gflop = [round(counted(both[place]), 3) for both in works]
                row: dict[str, object] = {
                    "recipe": recipe,
                    "of": what,
                    "GFLOP": gflop[0],
                    "GFLOP with neighbours": gflop[1],
                }
                row["GFLOP: ratio"] = round(gflop[1] / gflop[0], 4)
                for clock, found in (("seconds", taken[0]), ("processor seconds", taken[1])):
                    ratios = [two / one for one, two in found]
                    plain, beside = (round(statistics.median(kind), 4) for kind in zip(*found, strict=True))
                    row |= {
                        clock: plain,
                        f"{clock} with neighbours": beside,
                        f"{clock}: median ratio of a turn": round(statistics.median(ratios), 4),
                        f"{clock}: ratios of turns": sorted(round(ratio, 3) for ratio in ratios),
                    }
                rows.append(row)
                print(rows[-1], flush=True)
                save(asked.output, {"size": list(SIZE), "threads": asked.threads, "results": rows})


def kind(recipe: str, cohort) -> tuple[Callable[[], object], Callable[[], object]]:
    """A training step and a synthesis of a recipe."""
    config = find_recipe(recipe)
    training = replace(config.training, precision="float32")
    config = replace(config, contrasts=CONTRASTS, training=training)
    method, dataset = make_parts(config, cohort, Processes(CPU))
    Engine(method, CPU, "float32")
    method.eval()
    (name,) = cohort.subjects("test")
    whole = whole_subject(cohort, name, CONTRASTS)

    @torch.no_grad()
    def synthesis() -> object:
        batch = given(whole, sources_for("T2w", CONTRASTS), slice(24, 40), neighbours=method.needs.neighbours)
        return method.translate(batch, "T2w", method.needs.windows(), Noise([(0, name, 0)])).image

    return trial_step(config, dataset, Processes(CPU), None), synthesis


def in_turns(works: list[Callable[[], object]], turns: int, repeats: int) -> list[list[tuple[float, float]]]:
    """Seconds of each of two kinds in each turn, after one that is not counted: by the clock, and the processor's."""
    by_clock, by_processor = [], []
    for turn in range(turns + 1):
        clock, processor = [0.0, 0.0], [0.0, 0.0]
        for which in (0, 1) if turn % 2 else (1, 0):
            begun, used = time.perf_counter(), time.process_time()
            for _ in range(repeats):
                works[which]()
            clock[which] = (time.perf_counter() - begun) / repeats
            processor[which] = (time.process_time() - used) / repeats
        by_clock.append((clock[0], clock[1]))
        by_processor.append((processor[0], processor[1]))
    return [by_clock[1:], by_processor[1:]]


if __name__ == "__main__":
    main()
