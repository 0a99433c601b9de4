"""The starter run on real scans, beside a trained run and the copied source; and what a start from it saves.

    python benchmarks/starter.py runs/starter --data FOUR_CONTRAST --further BRATS -o benchmarks/results/starter.json

Scans are prepared like the starter's (2 mm in the axial plane). Two trainings of the starter's recipe with equal steps,
one from nothing and one `--init starter`, validate often: at which step the validation subjects' mean PSNR reaches
`--goal`. Then the test subjects are measured, protocol `default`, each target from all other contrasts; of --further,
people whom neither saw, all are. One seed unless --seeds says more. One thread. Subjects are not named.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from measuring import save
from scansynth.data.build_cohort import build_cohort
from scansynth.data.cohort import Cohort
from scansynth.data.layouts import Listing, find_subjects
from scansynth.evaluation.evaluate import evaluate
from scansynth.metrics.image_metrics import PSNR, SSIM
from scansynth.recipes import find_recipe
from scansynth.synthesis.places import STARTER, find_run
from scansynth.synthesis.run import Run
from scansynth.training.metrics_file import read_metrics
from scansynth.training.train import train

RECIPE = "regression_small"
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the cohort and the runs lie")
    parser.add_argument("--data", type=Path, required=True, help="a folder of registered brains without skull")
    parser.add_argument("--further", type=Path, help="another such folder, to measure on alone")
    parser.add_argument("--contrasts", nargs="+", default=["T1w", "T2w", "FLAIR", "T1ce"])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--every", type=int, default=50, help="steps between two validations")
    parser.add_argument("--goal", type=float, default=20.0, help="dB")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cohort = prepared(asked.data, asked.folder / "cohort", asked.contrasts)
    runs, starts = [Run.load(STARTER, "cpu")], []
    for seed in asked.seeds:
        for init in (None, STARTER):
            place = asked.folder / f"{'from-starter' if init else 'from-nothing'}-{seed}"
            recipe = find_recipe(RECIPE)
            training = replace(
                recipe.training, steps=asked.steps, threads=1, validate_every=asked.every, log_every=asked.every
            )
            config = replace(recipe, contrasts=cohort.contrasts, training=training, seed=seed)
            train(config, cohort, place, device=CPU, init=find_run(init) if init else None)
            starts.append({"run": place.name, **reached(place, asked.goal)})
            print(json.dumps(starts[-1]), flush=True)
            runs.append(Run.load(place, "cpu"))
    save(asked.output, {
        "contrasts": cohort.contrasts, "steps": asked.steps, "goal_db": asked.goal, "starts": starts,
        "subjects": {split: len(cohort.subjects(split)) for split in ("train", "val", "test")},
        "results": [row for run in runs for row in measured(run, cohort, asked.data, asked.folder)],
        "further": [
            row for run in runs[:2] for row in further(run, asked.further, asked.folder)
        ] if asked.further else [],
    })  # fmt: skip


def prepared(data: Path, place: Path, contrasts: list[str]) -> Cohort:
    """The scans, on the starter's voxels, with statistics of their own."""
    settings = Run.load(STARTER, "cpu").record.settings
    return build_cohort(find_subjects(data), place, settings, contrasts=contrasts)


def reached(run: Path, goal: float) -> dict[str, Any]:
    """The first validation whose mean over targets is the goal, and all of them."""
    curve = []
    for step, figures in read_metrics(run / "metrics.jsonl"):
        found = [value for name, value in figures.items() if name.startswith("validation/") and name.endswith("/psnr")]
        if found:
            curve.append((step, round(float(np.mean(found)), 2)))
    first = next((step for step, value in curve if value >= goal), None)
    return {"steps_to_goal": first, "validation_psnr_db": curve}


def measured(run: Run, cohort: Cohort, data: Path, folder: Path) -> list[dict[str, Any]]:
    """Of the cohort's test subjects: of the starter, on the same scans prepared like its own."""
    if run.name != STARTER:
        return means(run, cohort)
    people = set(cohort.subjects("test"))
    listing = find_subjects(data)
    few = replace(listing, subjects=tuple(one for one in listing.subjects if one.name in people))
    return means(run, prepared_like(run, few, folder / "test-like-starter", cohort.contrasts))


def further(run: Run, data: Path, folder: Path) -> list[dict[str, Any]]:
    """Of all subjects of another folder."""
    contrasts = [name for name in find_subjects(data).contrasts if name in run.config.contrasts]
    return means(run, prepared_like(run, find_subjects(data), folder / f"further-like-{run.name}", contrasts))


def prepared_like(run: Run, listing: Listing, place: Path, contrasts: Sequence[str]) -> Cohort:
    """Scans prepared as a run's own were, all of them to test on."""
    settings = run.record.settings
    return build_cohort(listing, place, settings, contrasts=contrasts, like=run.record)


def means(run: Run, cohort: Cohort) -> list[dict[str, Any]]:
    """Means over the test subjects by direction, the copied source among them."""
    found = evaluate([run], cohort, pictures=0, kinds=())
    rows = []
    for label, direction in dict.fromkeys((one.label, one.direction) for one in found.results):
        own = [one.measurement for one in found.results if (one.label, one.direction) == (label, direction)]
        figures = {name: round(float(np.mean([one.mean(metric.column) for one in own])), 3)
                   for name, metric in (("psnr_db", PSNR), ("ssim_percent", SSIM))}  # fmt: skip
        rows.append({"run": run.name, "label": label, "direction": direction, "subjects": len(own), **figures})
        print(json.dumps(rows[-1]), flush=True)
    return rows


if __name__ == "__main__":
    main()
