"""A planned recipe beside the fixed small one, trained for as many minutes on the same cohort; protocol `default`.

    python benchmarks/plans.py COHORT … --target FLAIR --minutes 30 --runs runs/plans -o benchmarks/results/plans.json

Two seeds an arm, one training after another; stopped, the same command goes on. Cohorts are named by their folders.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from measuring import save
from scansynth.config import read_yaml
from scansynth.data.cohort import Cohort
from scansynth.evaluate import evaluate
from scansynth.evaluation.metrics import PSNR, SSIM
from scansynth.evaluation.tables import COPIED_SOURCE
from scansynth.plan import facts_of_cohort, plan
from scansynth.recipes import find_recipe
from scansynth.synthesis import Run
from scansynth.train import train

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohorts", nargs="+", type=Path)
    parser.add_argument("--target", nargs="+", required=True, help="one for each cohort")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    rows = []
    for folder, target in zip(arguments.cohorts, arguments.target, strict=True):
        cohort = Cohort.open(folder)
        for seed in arguments.seeds:
            for arm, config in arms(cohort, target, arguments.minutes, arguments.runs / folder.name).items():
                run = arguments.runs / folder.name / f"{arm}-{seed}"
                trained = train(replace(config, seed=seed), cohort, run, CPU)
                rows.append({
                    "cohort": folder.name, "target": target, "arm": arm, "seed": seed, "method": config.method,
                    "steps": trained.training.steps,
                    **figures(run, cohort, target, run.with_name(f"{run.name}-figures")),
                })  # fmt: skip
                print(json.dumps(rows[-1]), flush=True)
                save(arguments.output, {"minutes": arguments.minutes, "results": rows})


def arms(cohort: Cohort, target: str, minutes: float, folder: Path) -> dict:
    """The settings of both arms. The plan is made once: it goes by the rate, which the machine's load changes."""
    facts = facts_of_cohort(cohort, (target,), CPU, minutes / 60)
    kept = folder / "planned.yaml"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        kept.write_text(plan(facts, CPU).yaml())
    planned = read_yaml(kept)
    fixed = find_recipe(f"{planned.method}_small")
    training = replace(fixed.training, minutes=minutes, validate_every=planned.training.validate_every)
    contrasts = planned.contrasts if planned.method == "syndiff" else cohort.contrasts
    return {"planned": planned, "fixed": replace(fixed, contrasts=contrasts, training=training)}


def figures(run: Path, cohort: Cohort, target: str, out: Path) -> dict[str, float]:
    """Mean over test subjects, from all their sources."""
    found = evaluate([Run.load(run, "cpu")], cohort, out, target=target, pictures=1)
    own = [result for result in found.results if result.label != COPIED_SOURCE]
    return {
        metric.column: round(float(np.mean([result.measurement.mean(metric.column) for result in own])), 4)
        for metric in (PSNR, SSIM)
    }


if __name__ == "__main__":
    main()
