"""A planned recipe beside the fixed small one, trained for as many minutes on the same cohort; protocol `default`.

    python benchmarks/plans.py COHORT … --target FLAIR --minutes 30 --runs runs/plans -o benchmarks/results/plans.json

Two seeds. Both arms train at once, each in a process with one thread, so that both meet the same load; stopped, the
same command goes on. Cohorts are named by their folders.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from measuring import save
from scansynth.config import read_yaml, to_yaml
from scansynth.data.cohort import Cohort
from scansynth.evaluation.evaluate import evaluate
from scansynth.evaluation.tables import COPIED_SOURCE
from scansynth.evaluation.write import write_evaluation
from scansynth.files import write_text
from scansynth.metrics.image_metrics import PSNR, SSIM
from scansynth.planning.plan import facts_of_cohort, plan
from scansynth.recipes import find_recipe
from scansynth.synthesis.run import Run
from scansynth.training.train import train

CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cohorts", nargs="+", type=Path)
    parser.add_argument("--target", nargs="+", required=True, help="one for each cohort")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--one", nargs=4, metavar=("COHORT", "SETTINGS", "SEED", "RUN"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        cohort, settings, seed, run = arguments.one
        train(replace(read_yaml(Path(settings)), seed=int(seed)), Cohort.open(cohort), Path(run), device=CPU)
        return
    rows = []
    for folder, target in zip(arguments.cohorts, arguments.target, strict=True):
        cohort, place = Cohort.open(folder), arguments.runs / f"{folder.name}-{target}"
        settings = arms(cohort, target, arguments.minutes, place)
        for seed in arguments.seeds:
            runs = {arm: place / f"{arm}-{seed}" for arm in settings}
            train_at_once(folder, settings, seed, runs)
            for arm, run in runs.items():
                trained = read_yaml(run / "config.yaml")
                rows.append({
                    "cohort": folder.name, "target": target, "arm": arm, "seed": seed, "method": trained.method,
                    "steps": trained.training.steps,
                    **figures(run, cohort, target, run.with_name(f"{run.name}-figures")),
                })  # fmt: skip
                print(json.dumps(rows[-1]), flush=True)
                save(arguments.output, {"minutes": arguments.minutes, "results": rows})


def train_at_once(cohort: Path, settings: dict[str, Path], seed: int, runs: dict[str, Path]) -> None:
    """One training an arm, side by side."""
    started = [
        subprocess.Popen([
            sys.executable, __file__, str(cohort), "--target", "-", "--runs", "-",
            "--one", str(cohort), str(settings[arm]), str(seed), str(run),
        ])
        for arm, run in runs.items()
    ]  # fmt: skip
    statuses = [process.wait() for process in started]
    if any(statuses):
        raise SystemExit("a training failed")


def arms(cohort: Cohort, target: str, minutes: float, folder: Path) -> dict[str, Path]:
    """Files of both arms' settings. The plan is made once: it goes by the rate, which the machine's load changes."""
    files = {arm: folder / f"{arm}.yaml" for arm in ("planned", "fixed")}
    if all(file.exists() for file in files.values()):
        return files
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    planned = plan(facts_of_cohort(cohort, (target,), CPU, minutes / 60), CPU).config
    fixed = find_recipe(f"{planned.method}_small")
    training = replace(fixed.training, minutes=minutes, threads=1, validate_every=planned.training.validate_every)
    contrasts = planned.contrasts if planned.method == "syndiff" else cohort.contrasts
    write_text(files["fixed"], to_yaml(replace(fixed, contrasts=contrasts, training=training)))
    write_text(files["planned"], to_yaml(replace(planned, training=replace(planned.training, threads=1))))
    return files


def figures(run: Path, cohort: Cohort, target: str, out: Path) -> dict[str, float]:
    """Mean over test subjects, from all their sources."""
    found = evaluate([Run.load(run, "cpu")], cohort, target=target, pictures=1)
    write_evaluation(found, out)
    own = [result for result in found.results if result.label != COPIED_SOURCE]
    return {
        metric.column: round(float(np.mean([result.measurement.mean(metric.column) for result in own])), 4)
        for metric in (PSNR, SSIM)
    }


if __name__ == "__main__":
    main()
