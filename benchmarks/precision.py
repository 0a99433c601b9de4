"""bfloat16 against float32: the same training curve within its noise, on phantoms.

    python benchmarks/precision.py runs/precision --steps 1000 -o benchmarks/results/precision.json

`syndiff_small` is trained in both precisions from two seeds. The noise of a curve is what another seed changes. For
every logged loss the gap between the precisions (same seed) is divided by the gap between the seeds (same precision);
both gaps are means of the absolute differences over the logged steps, the first tenth left out.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ablations import CONTRASTS, phantoms
from measuring import save
from scansynth.recipes.syndiff import syndiff_small
from scansynth.training.train import train

PRECISIONS, SEEDS = ("float32", "bfloat16"), (0, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where phantoms, cohort and runs lie")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cohort = phantoms(arguments.folder)
    curves = {}
    for precision in PRECISIONS:
        for seed in SEEDS:
            recipe = syndiff_small()
            training = replace(
                recipe.training, steps=arguments.steps, precision=precision, validate_every=100, checkpoint_every=100
            )
            run = arguments.folder / "runs" / f"{precision}_{seed}"
            train(
                replace(recipe, contrasts=CONTRASTS, training=training, seed=seed),
                cohort,
                run,
                device=torch.device("cpu"),
            )
            curves[precision, seed] = curve(run, arguments.steps // 10)
    rows = []
    for name in curves[PRECISIONS[0], 0]:
        values = {key: curve[name] for key, curve in curves.items()}
        between_precisions = np.mean([gap(values["float32", s], values["bfloat16", s]) for s in SEEDS])
        between_seeds = np.mean([gap(values[p, 0], values[p, 1]) for p in PRECISIONS])
        rows.append(
            {
                "figure": name,
                "mean": {p: round(float(np.mean([values[p, s].mean() for s in SEEDS])), 4) for p in PRECISIONS},
                "gap_between_precisions": round(float(between_precisions), 4),
                "gap_between_seeds": round(float(between_seeds), 4),
            }
        )
        print(json.dumps(rows[-1]))
    save(arguments.output, {"steps": arguments.steps, "curves": rows})


def curve(run: Path, start: int) -> dict[str, np.ndarray]:
    """Every logged figure over the steps after `start`."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    names = dict.fromkeys(name for line in lines for name in line if "/" in name)
    return {name: np.array([line[name] for line in lines if name in line and line["step"] > start]) for name in names}


def gap(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of two curves."""
    return float(np.abs(a - b).mean())


if __name__ == "__main__":
    main()
