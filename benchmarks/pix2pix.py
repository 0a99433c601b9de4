"""pix2pix beside the regression and supervised SynDiff, trained for as many minutes on the same pairs of contrasts.

    python benchmarks/pix2pix.py prepare runs/pix2pix
    python benchmarks/pix2pix.py train runs/pix2pix --minutes 20
    python benchmarks/pix2pix.py train runs/pix2pix --minutes 20 --cohort COHORT --recipes pix2pix_small --seeds 1
    python benchmarks/pix2pix.py table runs/pix2pix --minutes 20 --cohort COHORT -o benchmarks/results/pix2pix.json

Two seeds, one thread a run. Without `--cohort` the phantoms of `prepare` are taken, with it the prepared cohort of that
folder (`scansynth prepare`). `train` trains one run after another; with `--recipes` and `--seeds` some of them, so that
several processes may train side by side, which then meet the same load. Stopped, the same command goes on; what is
trained or measured is not done again. Each run makes both contrasts of a pair from each other. There is one validation,
at the end, so that all are measured with their last weights. Test split, protocol `default`, one sample an image;
subjects are not named.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from measuring import save
from scansynth.config import RunConfig, read_yaml
from scansynth.data.build_cohort import build_cohort
from scansynth.data.cohort import Cohort
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.evaluation.evaluate import evaluate
from scansynth.evaluation.tables import COPIED_SOURCE, summarise
from scansynth.evaluation.write import write_evaluation
from scansynth.files import write_text
from scansynth.recipes import find_recipe
from scansynth.synthesis.run import Run
from scansynth.training import checkpoint
from scansynth.training.train import train

RECIPES = ("pix2pix_small", "regression_small", "syndiff_small_supervised")
PHANTOMS = "phantoms"
SUBJECTS = 32
CPU = torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["prepare", "train", "table"])
    parser.add_argument("folder", type=Path, help="where phantoms, runs and figures lie")
    parser.add_argument("--cohort", type=Path, help="a prepared cohort in place of the phantoms")
    parser.add_argument("--contrasts", nargs=2, default=("T1w", "T2w"), help="made from each other")
    parser.add_argument("--minutes", type=float, default=20.0, help="of each training")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, choices=RECIPES, help="some of the arms")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.action == "prepare":
        print(f"{len(phantoms(arguments.folder).subjects('test'))} phantoms to test on")
        return
    cohort = Cohort.open(arguments.cohort or arguments.folder / PHANTOMS)
    place = arguments.folder / "runs" / f"{cohort.folder.name}-{arguments.minutes:g}"
    runs = {
        (recipe, seed): place / f"{recipe}-{seed}" for seed in arguments.seeds for recipe in arguments.recipes
    }  # all recipes of one seed come before the next
    if arguments.action == "train":
        for (recipe, seed), run in runs.items():
            trained = train(settings(recipe, seed, arguments), cohort, run, device=CPU)
            print(f"{run.name}: {trained.training.steps} steps in {arguments.minutes:g} minutes", flush=True)
        return
    rows = []
    for (recipe, seed), run in runs.items():
        found = figures(run, cohort)
        rows += [row for row in found if row["method"] == COPIED_SOURCE and row not in rows]
        rows += [{**row, "method": recipe, "seed": seed} for row in found if row["method"] != COPIED_SOURCE]
        print(json.dumps(rows[-1], ensure_ascii=False), flush=True)
    content = {
        "cohort": cohort.folder.name,
        "subjects": {split: len(cohort.subjects(split)) for split in ("train", "val", "test")},
        "minutes": arguments.minutes,
        "protocol": "default",
        "results": rows,
    }
    save(arguments.output, content)


def phantoms(folder: Path) -> Cohort:
    """32 phantoms at 2.5 mm, 80×96: 22 train, 5 val, 5 test."""
    data = folder / "data"
    if not (data / "table.csv").exists():
        write_phantom_cohort(data, SUBJECTS, ("T1w", "T2w"), layout="table", seed=0, shape=(72, 88, 56), spacing=2.5)
    settings = Preparation(spacing=(2.5, 2.5, None), size=(80, 96, None))
    return build_cohort(find_subjects(data / "table.csv"), folder / PHANTOMS, settings)


def settings(recipe: str, seed: int, arguments: argparse.Namespace) -> RunConfig[Any]:
    """A recipe at the budget of the comparison."""
    base = find_recipe(recipe)
    training = replace(base.training, minutes=arguments.minutes, threads=1, validate_every=1_000_000)
    return replace(base, contrasts=tuple(arguments.contrasts), training=training, seed=seed)


def figures(run: Path, cohort: Cohort) -> list[dict[str, Any]]:
    """Rows of a run and of the copied sources: mean and deviation over test subjects; kept beside the run."""
    path = run.with_name(f"{run.name}.json")
    steps, newest = read_yaml(run / "config.yaml").training.steps, checkpoint.current(run / "last")
    if newest is None or checkpoint.step_of(newest) < steps:
        raise SystemExit(f"{run}: not trained to its end yet")
    if path.exists() and (kept := json.loads(path.read_text(encoding="utf-8")))["steps"] == steps:
        return kept["rows"]
    found = evaluate([Run.load(run, "cpu")], cohort, pictures=1)
    write_evaluation(found, run.with_name(f"{run.name}-evaluation"))
    own = {"steps": steps, "seconds_per_volume": round(found.costs[run.name].seconds, 2)}
    rows = [
        {
            "method": row.label,
            "direction": row.direction,
            **(own if row.label != COPIED_SOURCE else {}),
            **{column: [round(spread.mean, 4), round(spread.std, 4)] for column, spread in row.subjects.items()},
        }
        for row in summarise(found.results)
    ]
    write_text(path, json.dumps({"steps": steps, "rows": rows}, indent=1, ensure_ascii=False) + "\n")
    return rows


if __name__ == "__main__":
    main()
