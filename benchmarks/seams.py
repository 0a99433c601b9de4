"""Seams of windows: gradients of the error where windows meet, against elsewhere, window by window and by step.

    python benchmarks/seams.py --run runs/iddpm runs/cg_ddpm --cohort phantoms -o benchmarks/results/seams.json
    python benchmarks/seams.py --run runs/iddpm --cohort phantoms --picture docs/seams.png

Windows *meet* between two voxels where the neighbouring windows of one axis weigh alike (there the window that counts
most changes), and *end* where one begins or stops. The figure is the mean |gradient of synthesis − truth| along the
axis between such two voxels, over that between all others, inside the brain: 1 where windows leave no trace. Mean over
axes, targets and the first test subjects, one sample each. Both ways see the same noise. The picture is of the first
subject; a picture in a project must be that of a phantom.
"""

import argparse
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scansynth.data.cohort import Cohort
from scansynth.data.datasets import from_network, read_image, whole_subject
from scansynth.diffusion.windows import PatchWindows
from scansynth.evaluation.montage import BANNER
from scansynth.evaluation.protocols import Case, brain
from scansynth.method import Noise
from scansynth.synthesis import Run
from scansynth.train import environment

BLENDS = {"window": "window by window", "step": "blended at every step"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, nargs="+", required=True)
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--subjects", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--picture", type=Path, help="PNG file: both ways of the first run, first subject and target")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cohort, results = Cohort.open(arguments.cohort), []
    for folder in arguments.run:
        run = Run.load(folder, "cpu")
        for target in run.method.targets:
            figures = {blend: {"meet": [], "end": []} for blend in BLENDS}
            for subject in cohort.subjects("test")[: arguments.subjects]:
                truth, made, planes = both(run, cohort, subject, target)
                if arguments.picture and not results and not figures["step"]["meet"]:
                    picture(truth, made, planes, target, arguments.picture)
                for blend, synthesis in made.items():
                    for kind, found in figures[blend].items():
                        found.append(jump(synthesis, truth, planes, kind))
            for blend, found in figures.items():
                one = {"run": folder.name, "target": target, "blend": blend}
                one |= {f"gradient_where_windows_{kind}": round(float(np.mean(v)), 3) for kind, v in found.items()}
                results.append(one)
                print(json.dumps(one), flush=True)
    if arguments.output:
        content = {"environment": environment(), "subjects": arguments.subjects, "results": results}
        words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
        content["command"] = " ".join(["python", "benchmarks/seams.py", *words])
        arguments.output.write_text(json.dumps(content, indent=1) + "\n")


def both(
    run: Run, cohort: Cohort, subject: str, target: str
) -> tuple[np.ndarray, dict[str, np.ndarray], list[dict[str, set[int]]]]:
    """Truth and both syntheses (X, Y, Z) of the slices that are synthesised; where windows meet and end, by axis."""
    batch = whole_subject(cohort, subject, run.config.contrasts, run.config.data.acceleration)
    images, available = from_network(batch["images"]), batch["available"].clone()
    available[:, run.config.contrasts.index(target)] = False
    images = images * available[..., None, None, None]
    made = {}
    for blend in BLENDS:
        run.method.config = replace(run.method.config, blend=blend)
        made[blend] = run.make(images, available, target, Noise([(0, subject, 0)]))
    shown = (images > 0).flatten(0, 3).any(0).nonzero().flatten()
    tissue = run.slab(int(shown[0]), int(shown[-1]) + 1, images.shape[4])
    truth = read_image(cohort, subject, target, run.config.data.acceleration).numpy()[..., tissue]
    made = {blend: image[..., tissue] for blend, image in made.items()}
    assert run.method.needs.patch
    places = PatchWindows(run.method.needs.patch).places(truth.shape)
    planes = []
    for axis in range(3):
        sides = sorted({(place[axis].start, place[axis].stop) for place in places})
        # Between voxel p − 1 and voxel p.
        ends = {edge for side in sides for edge in side} - {0, truth.shape[axis]}
        meets = {round((a + b + c + d) / 4) for (a, b), (c, d) in itertools.pairwise(sides)}
        planes.append({"end": ends - meets, "meet": meets})
    return truth, made, planes


def jump(synthesis: np.ndarray, truth: np.ndarray, planes: list[dict[str, set[int]]], kind: str) -> float:
    """Mean |gradient of the error| where windows meet or end, over that elsewhere; mean over axes that have both."""
    error, mask = synthesis - truth, brain(Case(synthesis, truth))
    ratios = []
    for axis, found in enumerate(planes):
        gradient = np.abs(np.diff(error, axis=axis))
        inside = np.logical_and(
            np.take(mask, range(1, mask.shape[axis]), axis), np.take(mask, range(mask.shape[axis] - 1), axis)
        )
        at = np.isin(np.arange(1, mask.shape[axis]), list(found[kind]))
        else_ = ~np.isin(np.arange(1, mask.shape[axis]), list(found["end"] | found["meet"]))
        values = [gradient.compress(some, axis)[inside.compress(some, axis)] for some in (at, else_)]
        if all(one.size for one in values):
            ratios.append(values[0].mean() / values[1].mean())
    return float(np.mean(ratios))


def picture(
    truth: np.ndarray, made: dict[str, np.ndarray], planes: list[dict[str, set[int]]], target: str, path: Path
) -> None:
    """Truth and both ways, and their errors, in the middle slice; lines show where windows meet."""
    z = truth.shape[2] // 2
    figure = Figure(figsize=(9, 7.4), layout="constrained", facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    top = np.percentile(np.abs(made["window"] - truth), 99.5)
    panels = {(0, 0): (truth, "truth")}
    for column, (blend, words) in enumerate(BLENDS.items(), 1):
        panels[0, column] = (made[blend], f"synthetic {target}, {words}")
        panels[1, column] = (made[blend] - truth, "error")
    for place in np.ndindex(2, 3):
        axis = axes[place]
        axis.axis("off")
        if place not in panels:
            continue
        image, words = panels[place]
        limits = (
            {"cmap": "gray", "vmin": 0, "vmax": 1} if place[0] == 0 else {"cmap": "RdBu", "vmin": -top, "vmax": top}
        )
        axis.imshow(image[..., z].T, origin="lower", **limits)
        axis.set_title(words, color="white", fontsize=10)
        if place[0]:
            for position in planes[0]["meet"]:
                axis.plot([position - 0.5] * 2, [-2, -0.5], color="black", clip_on=False)
            for position in planes[1]["meet"]:
                axis.plot([-2, -0.5], [position - 0.5] * 2, color="black", clip_on=False)
    words = "Error: blue too bright, red too dark.\nMarks at the borders: where windows meet."
    axes[1, 0].text(0.5, 0.5, words, color="white", ha="center", va="center", transform=axes[1, 0].transAxes)
    figure.suptitle(f"Phantom. {BANNER}", color="#ffb000", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, facecolor="black")


if __name__ == "__main__":
    main()
