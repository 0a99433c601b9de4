"""The grid of two voxels in MRDiff's images, with and without the convolution across it, after equal processor seconds.

    python benchmarks/mrdiff_grid.py --seconds 200 -o benchmarks/results/mrdiff-grid.json

`mrdiff_small` and `mrdiff_small_smooth` on phantoms of 64×80×60 voxels of 2.5 mm, T1w and PDw to T2w; nine train,
three are measured, 16 slices each, by the mean (one call at t = T) and by DDIM in 10 steps. The inverse wavelet
transform makes squares of two voxels: "borders" is the mean square of the differences between neighbours in two
squares over that of neighbours in one (1: no grid); "Nyquist" the power in the outermost eighth of the frequencies
along either axis over the truth's.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from measuring import save
from scansynth.data.build_cohort import build_cohort
from scansynth.data.coarse_phantoms import coarse_phantoms
from scansynth.data.cohort import Cohort
from scansynth.data.datasets import whole_subject
from scansynth.data.prepare import Preparation
from scansynth.diffusion.samplers import times
from scansynth.diffusion.windows import SliceWindows
from scansynth.methods.mrdiff import MrDiff
from scansynth.noise import Noise
from scansynth.recipes import find_recipe
from short_training import train_shortly

CPU = torch.device("cpu")
CONTRASTS = ("T1w", "PDw", "T2w")
TARGET = "T2w"
SLICES = slice(22, 38)


def main() -> None:
    """Measure, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=200.0, help="processor seconds of a training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listing = coarse_phantoms(folder, CONTRASTS, seed=0, report=lambda event: None)
        cohort = build_cohort(listing, folder / "cohort", Preparation(size=(64, 80, None)), fractions=(0.75, 0.0, 0.25))
        for smooth in (False, True):
            rows.append(measured(cohort, smooth, asked.seconds))
            print(rows[-1], flush=True)
            save(asked.output, {"threads": asked.threads, "results": rows})


def measured(cohort: Cohort, smooth: bool, seconds: float) -> dict[str, Any]:
    """One training, and the grid of its images."""
    config = replace(find_recipe("mrdiff_small"), contrasts=CONTRASTS)
    settings = replace(config.settings, smooth_grid=smooth, targets=(TARGET,))
    config = replace(config, settings=settings, data=replace(config.data, defaults="common"))
    trained = train_shortly(config, cohort, seconds=seconds)
    method = trained.method
    assert isinstance(method, MrDiff)
    row: dict[str, Any] = {
        "smooth_grid": smooth,
        "steps": trained.steps,
        "processor seconds a step": round(trained.seconds, 4),
    }
    found: dict[str, list[dict[str, float]]] = {"mean": [], "DDIM": []}
    with trained.engine.averaged_weights(), torch.no_grad():
        for subject in cohort.subjects("test"):
            whole = whole_subject(cohort, subject, CONTRASTS)
            images = whole["images"][..., SLICES].clone()
            truth = images[:, [CONTRASTS.index(TARGET)]].clone()
            images[:, CONTRASTS.index(TARGET)] = 0
            data = {"images": images, "available": torch.tensor([[name != TARGET for name in CONTRASTS]])}
            for name, count in (("mean", 1), ("DDIM", 10)):
                path = times(method.schedule, count)
                made = method.translate(data, TARGET, SliceWindows(16), Noise([(0, subject, 0)]), path=path).image
                found[name].append(figures(made, truth))
    for name, ones in found.items():
        row[name] = {figure: round(sum(one[figure] for one in ones) / len(ones), 4) for figure in ones[0]}
    return row


def figures(made: Tensor, truth: Tensor) -> dict[str, float]:
    """Of slices (1, 1, X, Y, n) in [−1, 1]."""
    error = (made - truth).square().mean().item()
    return {
        "borders": borders(made),
        "borders of the truth": borders(truth),
        "Nyquist": nyquist(made) / nyquist(truth),
        "PSNR, background included (dB)": -10 * torch.tensor(error / 4).log10().item(),
    }


def borders(x: Tensor) -> float:
    """Squares of differences across squares of two voxels over those inside of them."""
    inside = across = 0.0
    for axis in (2, 3):
        squares = x.diff(dim=axis).square().movedim(axis, 0)
        inside += squares[::2].mean().item()
        across += squares[1::2].mean().item()
    return across / inside


def nyquist(x: Tensor) -> float:
    """Power of the outermost eighth of the frequencies along either axis."""
    power = torch.fft.fft2(x, dim=(2, 3)).abs().square()
    outer = [torch.fft.fftfreq(side).abs() >= 7 / 16 for side in x.shape[2:4]]
    return power[:, :, outer[0][:, None] | outer[1]].sum().item()


if __name__ == "__main__":
    main()
