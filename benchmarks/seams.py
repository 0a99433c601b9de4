"""Seams of windows: gradients of the error where windows meet, against elsewhere, window by window and by step.

    python benchmarks/seams.py --run runs/iddpm runs/cg_ddpm --cohort phantoms -o benchmarks/results/seams.json
    python benchmarks/seams.py --run runs/iddpm --cohort phantoms --picture docs/results/seams.png

Windows *meet* between two voxels where the neighbouring windows of one axis weigh alike (there the window that counts
most changes), and *end* where one begins or stops. A seam runs along them, so the error (synthesis − truth) is smoothed
along the other two axes first, which quietens noise and keeps seams. The figure is the mean |gradient of that| between
such two voxels, over that between all others, inside the brain. The truth's own gradients, measured so, stand beside
it: anatomy is not the same everywhere. Mean over axes and the first test subjects, one sample each.

Both ways see one noise, that of the volume. A third, for comparison, gives each window a noise of its own, which
scansynth never does. The picture is of the first subject; a picture in a project must be that of a phantom.
"""

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy import ndimage
from torch import Tensor

from measuring import save
from scansynth.data.cohort import Cohort
from scansynth.data.datasets import from_network, read_image, whole_subject
from scansynth.diffusion import windows as windows_module
from scansynth.diffusion.windows import Cut, PatchWindows
from scansynth.metrics.cases import Case, brain
from scansynth.metrics.montage import BANNER
from scansynth.noise import Noise
from scansynth.synthesis.run import Run

WAYS = {
    "own noise": "window by window, each with its own noise",
    "window": "window by window",
    "step": "blended at every step",
}
SIGMA = 2.0
"""Of the smoothing along a seam, voxels."""


class OwnNoise(Cut):
    """Noise that windows do not share."""

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, (N, C, *size), drawn for each window."""
        draws = [Noise([(*self.noise.keys[0], str(place))]).normal(name, shape) for place in self.places]
        return torch.cat(draws)


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
            figures = {way: {"meet": [], "end": []} for way in (*WAYS, "truth")}
            for subject in cohort.subjects("test")[: arguments.subjects]:
                truth, made, planes = all_ways(run, cohort, subject, target)
                if arguments.picture and not results and not figures["step"]["meet"]:
                    picture(truth, made, planes, target, arguments.picture)
                mask = brain(Case(made["step"], truth))
                for way, found in figures.items():
                    image = truth if way == "truth" else made[way] - truth
                    for kind, ratios in found.items():
                        ratios.append(jump(image, mask, planes, kind))
            for way, found in figures.items():
                one = {"run": folder.name, "target": target, "way": way}
                one |= {f"gradient_where_windows_{kind}": round(float(np.mean(v)), 3) for kind, v in found.items()}
                results.append(one)
                print(json.dumps(one), flush=True)
    save(arguments.output, {"subjects": arguments.subjects, "results": results})


def all_ways(
    run: Run, cohort: Cohort, subject: str, target: str
) -> tuple[np.ndarray, dict[str, np.ndarray], list[dict[str, set[int]]]]:
    """Truth and all syntheses (X, Y, Z) of the slices that are synthesised; where windows meet and end, by axis."""
    batch = whole_subject(cohort, subject, run.config.contrasts, acceleration=run.config.data.acceleration)
    images, available = from_network(batch["images"]), batch["available"].clone()
    available[:, run.config.contrasts.index(target)] = False
    images = images * available[..., None, None, None]
    made = {}
    for way in WAYS:
        run.method.config = replace(run.method.config, blend="step" if way == "step" else "window")
        windows_module.Cut = OwnNoise if way == "own noise" else Cut
        made[way] = run.make(images, available, target, noise=Noise([(0, subject, 0)])).image
    shown = (images > 0).flatten(0, 3).any(0).nonzero().flatten()
    tissue = run.slab(int(shown[0]), int(shown[-1]) + 1, images.shape[4])
    truth = read_image(cohort, subject, target, acceleration=run.config.data.acceleration).numpy()[..., tissue]
    made = {way: image[..., tissue] for way, image in made.items()}
    assert run.method.needs.size
    places = PatchWindows(run.method.needs.size).places(truth.shape)
    planes = []
    for axis in range(3):
        sides = sorted({(place[axis].start, place[axis].stop) for place in places})
        # Between voxel p − 1 and voxel p.
        ends = {edge for side in sides for edge in side} - {0, truth.shape[axis]}
        meets = {round((a + b + c + d) / 4) for (a, b), (c, d) in itertools.pairwise(sides)}
        planes.append({"end": ends - meets, "meet": meets})
    return truth, made, planes


def jump(image: np.ndarray, mask: np.ndarray, planes: list[dict[str, set[int]]], kind: str) -> float:
    """Mean |gradient| of the smoothed image where windows meet or end, over that elsewhere; mean over the axes."""
    ratios = []
    for axis, found in enumerate(planes):
        # Inside the mask only: smoothed over it, what lies outside does not count.
        sigma = [0.0 if other == axis else SIGMA for other in range(3)]
        weight = ndimage.gaussian_filter(mask.astype(np.float64), sigma)
        smooth = ndimage.gaussian_filter(np.where(mask, image, 0.0), sigma) / np.maximum(weight, 1e-6)
        gradient = np.abs(np.diff(smooth, axis=axis))
        inside = np.take(mask, range(1, mask.shape[axis]), axis) & np.take(mask, range(mask.shape[axis] - 1), axis)
        at = np.isin(np.arange(1, mask.shape[axis]), list(found[kind]))
        else_ = ~np.isin(np.arange(1, mask.shape[axis]), list(found["end"] | found["meet"]))
        values = [gradient.compress(some, axis)[inside.compress(some, axis)] for some in (at, else_)]
        if all(one.size for one in values):
            ratios.append(values[0].mean() / values[1].mean())
    return float(np.mean(ratios))


def picture(
    truth: np.ndarray, made: dict[str, np.ndarray], planes: list[dict[str, set[int]]], target: str, path: Path
) -> None:
    """Truth and all ways, and their errors, in the middle slice; lines show where windows meet."""
    z = truth.shape[2] // 2
    figure = Figure(figsize=(12, 7.4), layout="constrained", facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 4)
    top = np.percentile(np.abs(made["own noise"] - truth), 99)
    axes[0, 0].imshow(truth[..., z].T, origin="lower", cmap="gray", vmin=0, vmax=1)
    axes[0, 0].set_title(f"{target}, truth", color="white", fontsize=10)
    for column, (way, words) in enumerate(WAYS.items(), 1):
        axes[0, column].imshow(made[way][..., z].T, origin="lower", cmap="gray", vmin=0, vmax=1)
        axes[0, column].set_title(f"synthetic, {words}", color="white", fontsize=9)
        axes[1, column].imshow((made[way] - truth)[..., z].T, origin="lower", cmap="RdBu", vmin=-top, vmax=top)
        for position in planes[0]["meet"]:
            axes[1, column].axvline(position - 0.5, color="black", linewidth=0.5)
        for position in planes[1]["meet"]:
            axes[1, column].axhline(position - 0.5, color="black", linewidth=0.5)
    for axis in axes.flat:
        axis.axis("off")
    words = "Error: blue too bright, red too dark.\nLines: where windows meet."
    axes[1, 0].text(0.5, 0.5, words, color="white", ha="center", va="center", transform=axes[1, 0].transAxes)
    figure.suptitle(f"Phantom. {BANNER}", color="#ffb000", fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, facecolor="black")


if __name__ == "__main__":
    main()
