"""Variability of a stochastic method's samples, as in SynDiff's section V-D.

    python benchmarks/variability.py --run RUN --cohort COHORT -o benchmarks/results/variability.json

Of 50 test slices of each target, drawn at random, ten samples each; the standard deviation of PSNR and SSIM over the
samples of a slice, averaged over slices. Protocol `syndiff`. Subjects are not named. (Section V-E, noise in the
sources, is `scansynth evaluate --noise`.)
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from measuring import save
from scansynth.data.cohort import Cohort
from scansynth.data.datasets import from_network, read_image, whole_subject
from scansynth.metrics.cases import slices_with_foreground
from scansynth.metrics.image_metrics import PSNR, SSIM
from scansynth.metrics.protocols import measure
from scansynth.noise import Noise
from scansynth.synthesis.run import Run

SLICES, SAMPLES = 50, 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--cohort", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    run, cohort = Run.load(arguments.run, arguments.device), Cohort.open(arguments.cohort)
    content = {
        "method": run.config.method,
        "protocol": "syndiff",
        "test_subjects": len(cohort.subjects("test")),
        "variability": [variability(run, cohort, target) for target in run.method.targets],
    }
    print(json.dumps(content["variability"], indent=1))
    save(arguments.output, content)


def test_subject(run: Run, cohort: Cohort, subject: str, target: str) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Prepared images (1, K, X, Y, Z) in [0, 1], which are sources (1, K), and the truth (X, Y, Z)."""
    batch = whole_subject(cohort, subject, run.config.contrasts, acceleration=run.config.data.acceleration)
    truth = read_image(cohort, subject, target, acceleration=run.config.data.acceleration).numpy()
    return from_network(batch["images"]), batch["available"], truth


def variability(run: Run, cohort: Cohort, target: str) -> dict:
    """Spread of PSNR and SSIM over samples."""
    rng = np.random.default_rng(0)
    places = []
    for subject in cohort.subjects("test"):
        truth = read_image(cohort, subject, target, acceleration=run.config.data.acceleration).numpy()
        places += [(subject, int(z)) for z in slices_with_foreground(truth)]
    chosen = [places[number] for number in rng.permutation(len(places))[:SLICES]]
    psnr, ssim = [], []
    for subject in sorted({subject for subject, _ in chosen}):
        images, available, truth = test_subject(run, cohort, subject, target)
        z = sorted(number for name, number in chosen if name == subject)
        made = [
            run.make(images[..., z], available, target, noise=Noise([(0, subject, n)])).image for n in range(SAMPLES)
        ]
        # The protocol leaves slices out by the whole volume's mean: each slice is measured inside its volume.
        figures = []
        for sample in made:
            volume = truth.copy()
            volume[..., z] = sample
            found = measure("syndiff", volume, truth)
            figures.append(
                [
                    (found.figures[PSNR.column][i], found.figures[SSIM.column][i])
                    for i in np.flatnonzero(np.isin(found.slices, z))
                ]
            )
        spread = np.std(figures, axis=0, ddof=1)
        psnr += list(spread[:, 0])
        ssim += list(spread[:, 1])
    return {
        "target": target,
        "slices": len(psnr),
        "samples": SAMPLES,
        "psnr_deviation": round(float(np.mean(psnr)), 4),
        "ssim_deviation": round(float(np.mean(ssim)), 4),
    }


if __name__ == "__main__":
    main()
