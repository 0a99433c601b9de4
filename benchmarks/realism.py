"""The knob from the mean to a draw: distortion, texture, jumps and Dice along it, of recipes trained at equal cost.

    python benchmarks/realism.py runs/realism -o benchmarks/results/realism.json --figure docs/results/realism.png
    python benchmarks/realism.py runs/realism --cohort COHORT -o benchmarks/results/realism-four.json

Without --cohort of 53 phantoms, half of which have a tumour. Each training costs as much as `--steps` steps of
`regression_small` (`image_quality.py`). Every target is made from all other contrasts, by methods that have a mean and
draws at each share of the way, by others as they make it. Figures are those of protocol `default`; Dice is that of one
segmenter, trained on acquired contrasts, with the target synthetic. Stopped, the same command goes on. One thread.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from image_quality import phantoms, trained
from measuring import save
from scansynth.data.cohort import Cohort
from scansynth.errors import InputError
from scansynth.evaluation.coherence import CoherenceFigures
from scansynth.evaluation.costs import CostFigures
from scansynth.evaluation.downstream import WHOLE, dice
from scansynth.evaluation.evaluate import evaluate
from scansynth.evaluation.samples import made_so
from scansynth.evaluation.segmenter import Segment, train_segmenter, with_mask
from scansynth.evaluation.tasks import choose_work
from scansynth.metrics.image_metrics import GRADIENT_ENERGY, PSNR, SSIM, TEXTURE
from scansynth.recipes import find_recipe
from scansynth.synthesis.run import Run

RECIPES = (
    "regression_small",
    "regression_wavelet_small",
    "flow_small",
    "flow_wavelet_small",
    "syndiff_small_supervised",
)
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
MASK = "seg"
FIGURES = {"psnr_db": PSNR, "ssim_percent": SSIM, "texture": TEXTURE, "gradient_energy": GRADIENT_ENERGY}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where runs and what they draw lie")
    parser.add_argument("--cohort", type=Path, help="a prepared one in place of the phantoms")
    parser.add_argument("--contrasts", nargs="+", help="of the runs; by default all of the cohort")
    parser.add_argument("--steps", type=int, default=1000, help="of the regression, which each training costs")
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--figure", type=Path, help="draw what is measured (.png); for phantoms")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cohort = Cohort.open(asked.cohort) if asked.cohort else phantoms(asked.folder, layout="BraTS")
    contrasts = tuple(asked.contrasts or cohort.contrasts)
    segment, rows = segmenter(cohort, contrasts), []
    for seed in asked.seeds:
        for recipe in asked.recipes:
            folder = asked.folder / f"{cohort.folder.name}-{'-'.join(contrasts)}-{asked.steps}" / f"{recipe}-{seed}"
            trained(recipe, seed, cohort, folder, asked.steps, None, contrasts=contrasts)
            run = Run.load(folder, "cpu")
            levels = LEVELS if run.method.stochastic and run.method.gives_mean else (1.0,)
            for target in contrasts:
                for level in levels:
                    rows.append({"recipe": recipe, "seed": seed, **measured(run, cohort, target, level, segment)})
                    print(json.dumps(rows[-1]), flush=True)
            save(asked.output, {
                "cohort": cohort.folder.name, "contrasts": contrasts, "regression_steps": asked.steps,
                "subjects": {split: len(cohort.subjects(split)) for split in ("train", "val", "test")},
                "dice_of_acquired": None if segment is None else found_by(segment, cohort, contrasts), "results": rows,
            })  # fmt: skip
    if asked.figure:
        draw(rows, asked.figure)


def measured(run: Run, cohort: Cohort, target: str, level: float, segment: Segment | None) -> dict[str, Any]:
    """Means over the test subjects."""
    kept = run.folder.with_name(f"{run.folder.name}-drawn")
    found = evaluate(
        [run], cohort, target=target, realism=level, pictures=0, kept=kept, kinds=(CoherenceFigures, CostFigures)
    )
    own = [one.measurement for one in found.results if one.label == run.folder.name]
    row: dict[str, Any] = {"target": target, "realism": level, "stochastic": run.method.stochastic}
    for name, metric in FIGURES.items():
        values = np.array([one.mean(metric.column) for one in own])
        mean = np.exp(np.log(values).mean()) if metric is GRADIENT_ENERGY else values.mean()
        row[name] = round(float(mean), 4)
    row["jumps"] = round(float(np.mean([one.slices for one in found.coherence.values()])), 3)
    row["jumps_over_plane"] = round(float(np.mean([one.excess for one in found.coherence.values()])), 3)
    cost = found.costs[run.folder.name]
    row |= {"seconds": round(cost.seconds, 2), "memory_gb": round(cost.memory_gb, 2)}
    if segment is not None:
        row["dice"] = with_synthesis(segment, run, cohort, target, level, kept)
    return row


def segmenter(cohort: Cohort, contrasts: tuple[str, ...]) -> Segment | None:
    """Trained on the acquired contrasts; None without a mask."""
    try:
        with_mask(cohort, "train", contrasts, MASK)
        with_mask(cohort, "test", contrasts, MASK)
    except InputError:
        return None
    return train_segmenter(cohort, contrasts, MASK, device=torch.device("cpu"))


def with_synthesis(segment: Segment, run: Run, cohort: Cohort, target: str, level: float, kept: Path) -> float:
    """Dice of all labels together, with a target synthetic: the mean over the test subjects who have the mask."""
    subjects = set(with_mask(cohort, "test", run.config.contrasts, MASK))
    values = []
    for task in choose_work([run], cohort, "test", protocol="default", target=target):
        if task.subject in subjects:
            images = {name: task.read(name) for name in run.config.contrasts}
            images[target] = made_so(run, task, 0, realism=level, kept=kept).image
            values.append(overlap(segment, images, cohort, task.subject, target, task.crop))
    return round(float(np.nanmean(values)), 4)


def found_by(segment: Segment, cohort: Cohort, contrasts: tuple[str, ...]) -> float:
    """Dice of all labels together with everything acquired."""
    values = []
    for subject in with_mask(cohort, "test", contrasts, MASK):
        images = {name: cohort.read(subject, name) for name in contrasts}
        values.append(overlap(segment, images, cohort, subject, contrasts[0], None))
    return round(float(np.nanmean(values)), 4)


def overlap(segment: Segment, images: Any, cohort: Cohort, subject: str, contrast: str, crop: Any) -> float:
    truth = cohort.read_mask(subject, MASK, crop=crop)
    labels = sorted({int(value) for value in np.unique(truth)} - {0})
    return dice(segment(images, cohort.affine(subject, contrast, crop=crop)), truth, labels or [1])[WHOLE]


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """PSNR against texture and gradient energy, and Dice, along the knob; a line a recipe, target and seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [("texture", "texture similarity"), ("gradient_energy", "gradient energy"), ("dice", "Dice")]
    panels = [panel for panel in panels if any(panel[0] in row for row in rows)]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.2 * len(panels), 3.8), constrained_layout=True)
    colours = {recipe: f"C{number}" for number, recipe in enumerate(dict.fromkeys(row["recipe"] for row in rows))}
    for axis, (name, label) in zip(np.atleast_1d(axes), panels, strict=True):
        for recipe, colour in colours.items():
            for key in dict.fromkeys((row["target"], row["seed"]) for row in rows if row["recipe"] == recipe):
                own = [row for row in rows if row["recipe"] == recipe and (row["target"], row["seed"]) == key]
                values = [row[name] for row in own]
                first = key == next((row["target"], row["seed"]) for row in rows if row["recipe"] == recipe)
                axis.plot([row["psnr_db"] for row in own], values, "o-", ms=3, lw=1, color=colour,
                          label=find_recipe(recipe).method + ("" if "small" not in recipe else f" ({recipe})")
                          if first else None)  # fmt: skip
        axis.set(xlabel="PSNR (dB)", ylabel=label)
    np.atleast_1d(axes)[0].legend(fontsize=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
