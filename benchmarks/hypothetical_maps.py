"""MRDiff's hypothetical T1, T2 and S0 maps beside the true ones of phantoms.

    python benchmarks/hypothetical_maps.py --run RUN --cohort COHORT --seed 6 --shape 72 88 64 --spacing 2.5 \\
        --picture docs/results/hypothetical_maps.png -o benchmarks/results/hypothetical-maps.json

The cohort was prepared from `write_phantom_cohort(…, seed, shape, spacing)` with subjects of BIDS names; the true maps
are made anew from these. Pearson's and Spearman's correlation inside the brain by subject and map; the true one of S0
is the proton density. The picture is of the first subject.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage, stats

from measuring import save
from scansynth.data.cohort import Cohort
from scansynth.data.datasets import from_network, whole_subject
from scansynth.data.phantom import cohort_phantom
from scansynth.evaluation.tasks import Task, choose_work
from scansynth.metrics.montage import BANNER
from scansynth.noise import Noise
from scansynth.synthesis.run import Run

TRUE = {"T1 (s)": ("t1", 1000.0), "T2 (s)": ("t2", 1000.0), "S0 (arbitrary)": ("pd", 1.0)}
"""Map → the phantom's, and what it is divided by."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms")
    parser.add_argument("--shape", type=int, nargs=3, default=(96, 112, 96))
    parser.add_argument("--spacing", type=float, default=2.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    run, cohort = Run.load(arguments.run, "cpu"), Cohort.open(arguments.cohort)
    target = run.method.targets[0]
    found = {name: {"pearson": [], "spearman": []} for name in TRUE}
    work = choose_work([run], cohort, "test", protocol="mrdiff", target=target)
    for number, task in enumerate(work):
        subject, maps = task.subject, predicted(run, task)
        phantom = cohort_phantom(
            int(subject.split("-")[1]) - 1, arguments.seed, shape=arguments.shape, spacing=arguments.spacing
        )
        affine = cohort.affine(subject, target, crop=task.crop)
        true = {
            name: on_grid(getattr(phantom, field) / scale, phantom.affine, affine, next(iter(maps.values())).shape)
            for name, (field, scale) in TRUE.items()
        }
        brain = true["S0 (arbitrary)"] > 0.5
        for name, array in maps.items():
            found[name]["pearson"].append(float(np.corrcoef(array[brain], true[name][brain])[0, 1]))
            found[name]["spearman"].append(float(stats.spearmanr(array[brain], true[name][brain]).statistic))
        if arguments.picture and not number:
            picture(maps, true, brain, arguments.picture)
    results = {
        name: {kind: [round(float(np.mean(v)), 3), round(float(np.std(v, ddof=1)), 3)] for kind, v in kinds.items()}
        for name, kinds in found.items()
    }
    print(json.dumps(results, indent=1))
    save(arguments.output, {"subjects": len(work), "mean_and_deviation_over_subjects": results})


def predicted(run: Run, task: Task) -> dict[str, np.ndarray]:
    """Hypothetical maps by name, (X, Y, Z)."""
    batch = whole_subject(
        task.cohort, task.subject, run.config.contrasts, acceleration=run.config.data.acceleration, crop=task.crop
    )
    images, noise = from_network(batch["images"]), Noise([(0, task.subject, 0)])
    return dict(run.make(images, batch["available"], task.target, noise=noise, maps=True).maps)


def on_grid(array: np.ndarray, affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """An array on another grid of the same axes, linearly interpolated."""
    inner = np.linalg.inv(affine) @ other
    return ndimage.affine_transform(array, np.diag(inner)[:3], inner[:3, 3], shape, order=1)


def picture(maps: dict[str, np.ndarray], true: dict[str, np.ndarray], brain: np.ndarray, path: Path) -> None:
    """Hypothetical maps above the true ones, in the middle slice, each in a window of its own."""
    z = int(np.median(brain.nonzero()[2]))
    figure = Figure(figsize=(9, 7.6), layout="constrained", facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    for column, name in enumerate(maps):
        for row, (kind, image) in enumerate((("hypothetical", maps[name]), ("true", true[name]))):
            low, high = np.percentile(image[brain], (1, 99))
            shown = np.where(brain, image, np.nan)[..., z].T
            axes[row, column].imshow(shown, origin="lower", cmap="viridis", vmin=low, vmax=high)
            title = f"{kind} {name}, {low:.2g} to {high:.2g}"
            axes[row, column].set_title(title, color="white", fontsize=10)
            axes[row, column].axis("off")
    figure.suptitle(f"Phantom. Hypothetical maps: not measured. {BANNER}", color="#ffb000", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, facecolor="black")


if __name__ == "__main__":
    main()
