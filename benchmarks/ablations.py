"""SynDiff's ablations (Tables VI to X of its paper) on phantoms, at one small equal budget.

    python benchmarks/ablations.py train runs/ablations --steps 1000            # all of them, one after another
    python benchmarks/ablations.py train runs/ablations --only no_cycle steps_2 # or some, e.g. in another process
    python benchmarks/ablations.py table runs/ablations -o benchmarks/results/ablations.json

Every variant is `syndiff_small` with its one point changed, trained for the same number of steps with the same seed;
stopped, the same command goes on. Synthesis uses the last weights. Translation is measured under the protocol `syndiff`
on phantoms held out. Unconditional variants have nothing to be compared with voxel by voxel: beside them stands a
Fréchet distance to the training slices, over the slices' leading principal components. (The paper's FID needs the
weights of an Inception network, which are not at hand.) Results that were measured stand in `benchmarks/results/`.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.linalg
import torch

from measuring import save
from scansynth.data.build_cohort import build_cohort
from scansynth.data.cohort import Cohort
from scansynth.data.datasets import SliceDataset, from_network
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.evaluation.evaluate import evaluate
from scansynth.evaluation.tables import Spread, summarise
from scansynth.evaluation.write import write_evaluation
from scansynth.metrics.image_metrics import GRADIENT_ENERGY, PSNR, SSIM
from scansynth.noise import Noise
from scansynth.recipes.syndiff import ABLATIONS, Recipe, syndiff_small
from scansynth.synthesis.run import Run
from scansynth.training.train import train

CONTRASTS = ("T1w", "T2w")
UNCONDITIONAL = "T2w"
BASE = "base"
SUBJECTS = 16
COMPONENTS = 32
GENERATED = 96
"""Images of each side of a Fréchet distance: it falls with their number, so all have the same."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=["train", "table"])
    parser.add_argument("folder", type=Path, help="where phantoms, cohort and runs lie")
    parser.add_argument("--steps", type=int, default=1000, help="training steps; pretrained variants add as many")
    parser.add_argument("--only", nargs="+", choices=[BASE, *ABLATIONS], help="some variants")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cohort = phantoms(arguments.folder)
    names = arguments.only or [BASE, *ABLATIONS]
    if arguments.action == "train":
        for name in names:
            recipe = variant(name, arguments.steps)
            print(f"{name}: {recipe.training.steps} steps", flush=True)
            train(recipe, cohort, arguments.folder / "runs" / name, device=torch.device(arguments.device))
        return
    table(arguments, cohort, names)


def phantoms(folder: Path) -> Cohort:
    """Sixteen phantoms at 3 mm, 64×64: 12 train, 2 val, 2 test."""
    if not (folder / "data" / "table.csv").exists():
        write_phantom_cohort(
            folder / "data", SUBJECTS, CONTRASTS, layout="table", seed=0, shape=(64, 72, 50), spacing=3.0
        )
    return build_cohort(
        find_subjects(folder / "data" / "table.csv"),
        folder / "cohort",
        Preparation(spacing=(3.0, 3.0, None), size=(64, 64, None)),
        contrasts=CONTRASTS,
    )


def variant(name: str, steps: int) -> Recipe:
    """A variant at the budget of the comparison."""
    base = syndiff_small()
    # One validation, at the end: it would cost a good part of so small a budget.
    training = replace(base.training, steps=steps, validate_every=1_000_000, checkpoint_every=100)
    base = replace(base, training=training)
    recipe = ABLATIONS[name].of(base) if name != BASE else base
    return replace(recipe, contrasts=(UNCONDITIONAL,) if recipe.settings.variant == "unconditional" else CONTRASTS)


def table(arguments: argparse.Namespace, cohort: Cohort, names: list[str]) -> None:
    """Measure the finished runs and write the figures."""
    runs = {name: arguments.folder / "runs" / name for name in names}
    unconditional = [name for name in names if name.startswith("unconditional")]
    translating = [Run.load(path, arguments.device) for name, path in runs.items() if name not in unconditional]
    found = evaluate(translating, cohort, protocol="syndiff", pictures=1)
    write_evaluation(found, arguments.folder / "evaluation")
    rows = [
        {
            "variant": row.label,
            "direction": row.direction,
            "psnr": spread(row.subjects[PSNR.column]),
            "ssim": spread(row.subjects[SSIM.column]),
            "gradient_energy": round(row.subjects[GRADIENT_ENERGY.column].mean, 3),
        }
        for row in summarise(found.results)
    ]
    frechet = {}
    if unconditional:
        real = {split: slices(cohort, split) for split in ("train", "test")}
        features = PrincipalComponents(real["train"])
        chosen = np.linspace(0, len(real["test"]) - 1, GENERATED).round().astype(int)
        frechet["held-out phantoms"] = features.distance(real["test"][chosen])
        for name in unconditional:
            made = generate(Run.load(runs[name], arguments.device), real["train"].shape[1:])
            frechet[name] = features.distance(made)
    content = {
        "steps": arguments.steps,
        "subjects": {split: len(cohort.subjects(split)) for split in ("train", "val", "test")},
        "translation": rows,
        "frechet_distance": {name: round(value, 3) for name, value in frechet.items()},
    }
    print(json.dumps(content, indent=1))
    save(arguments.output, content)


def spread(figures: Spread) -> list[float]:
    """Mean and standard deviation, to two digits."""
    return [round(figures.mean, 2), round(figures.std, 2)]


def slices(cohort: Cohort, split: str) -> np.ndarray:
    """All slices of the unconditional variants' contrast with foreground, (N, H, W) in [0, 1]."""
    dataset = SliceDataset(cohort, (UNCONDITIONAL,), split, paired=True, seed=0, min_foreground=0.1)
    return np.stack([from_network(dataset[number]["images"][0]).numpy() for number in range(len(dataset))])


def generate(run: Run, size: tuple[int, ...]) -> np.ndarray:
    """Slices of an unconditional run, (N, H, W) in [0, 1]."""
    made = []
    with torch.no_grad():
        for start in range(0, GENERATED, 32):
            noise = Noise([(0, "generated", number) for number in range(start, start + 32)], run.device)
            made.append(from_network(run.method.generate_slices(size, noise))[:, 0].clamp(0, 1).cpu())
    return torch.cat(made).numpy()


class PrincipalComponents:
    """Features of slices: their leading principal components, fitted on the training slices."""

    def __init__(self, images: np.ndarray):
        flat = images.reshape(len(images), -1)
        self.mean = flat.mean(0)
        self.axes = np.linalg.svd(flat - self.mean, full_matrices=False)[2][:COMPONENTS]
        self.train = self.features(images)

    def features(self, images: np.ndarray) -> np.ndarray:
        return (images.reshape(len(images), -1) - self.mean) @ self.axes.T

    def distance(self, images: np.ndarray) -> float:
        """Squared Fréchet distance of Gaussians fitted to the features of these and of the training slices."""
        (m1, c1), (m2, c2) = (
            (values.mean(0), np.cov(values.T)) for values in (self.train, self.features(images).astype(np.float64))
        )
        root = scipy.linalg.sqrtm(c1 @ c2)
        return float(((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * np.real(root)))


if __name__ == "__main__":
    main()
