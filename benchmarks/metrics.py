"""Seconds and memory of the metrics of protocol `default`, and their speed beside libraries that are called by slice.

    pip install --no-deps --target PIQ piq
    python benchmarks/metrics.py --piq PIQ -o benchmarks/results/metrics.json

Phantom brains at 1 mm, 240×240×155, are degraded by blur and noise. Each metric of the protocol measures each whole
volume. Then FSIM, SSIM and MS-SSIM measure all axial slices of a volume that show the brain, ours in one call, and in
the same minute a library slice by slice: piq (FSIM), torchmetrics and scikit-image. Who goes first changes from pair to
pair; ratios are taken pair by pair, and their medians told, so that other work on the machine strikes both alike.

piq's package imports torchvision, which its FSIM does not need: the module is imported by itself.
"""

import argparse
import importlib
import json
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from skimage.metrics import structural_similarity
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

from measuring import save
from scansynth.data.phantom import make_phantom
from scansynth.metrics import image_metrics as metrics
from scansynth.metrics.cases import Case, brain, inside_the_brain
from scansynth.metrics.image_metrics import Images
from scansynth.metrics.protocols import PROTOCOLS, measure
from scansynth.training.costs import peak_gb, reset_peak

SHAPE = (240, 240, 155)
DEGRADED = [(blur, noise) for blur in (0.0, 0.7) for noise in (0.01, 0.02, 0.03, 0.05, 0.08)]
"""Standard deviation of a Gaussian in mm, and of noise as a share of the maximum."""
SHOWN = 0.01
"""Share of brain from which on a slice is measured beside the libraries: of a few voxels rounding makes the figure."""
Figure = Callable[[torch.Tensor, torch.Tensor], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--piq", type=Path, help="folder that piq is installed in; without it FSIM stands alone")
    parser.add_argument("--subjects", type=int, default=2, help="each gives ten pairs")
    parser.add_argument("--beside", type=int, default=6, help="pairs that the libraries measure too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    began = os.getloadavg()
    seconds: dict[str, list[float]] = {}
    beside: dict[str, list[tuple[float, float, float]]] = {}
    reset_peak()
    memory_before, total = peak_gb(), 10 * arguments.subjects
    peaks = []
    comparisons = libraries(arguments.piq)
    for number, (synthesis, reference) in enumerate(pairs(arguments.subjects)):
        for name, value in of_volume(synthesis, reference).items():
            seconds.setdefault(name, []).append(value)
        if number % 10 == 0:
            reset_peak()
            measure("default", synthesis, reference)
            peaks.append(peak_gb())
        if number % (total // arguments.beside) == 0 and number // (total // arguments.beside) < arguments.beside:
            for name, found in of_slices(synthesis, reference, comparisons, number).items():
                beside.setdefault(name, []).append(found)
        print(f"pair {number + 1} of {total}", {name: round(values[-1], 2) for name, values in seconds.items()})
        print({name: [round(value, 3) for value in values[-1]] for name, values in beside.items()}, flush=True)
    rows = [{"figure": name, **spread(values)} for name, values in seconds.items()]
    compared = [
        {
            "figure": name,
            "pairs": len(found),
            "seconds": round(float(np.median([one[0] for one in found])), 3),
            "library_seconds": round(float(np.median([one[1] for one in found])), 3),
            "ratio": spread([one[1] / one[0] for one in found]),
            "largest_difference": float(np.max([one[2] for one in found])),
        }
        for name, found in beside.items()
    ]
    content = {
        "load_average": {"at the start": began[0], "at the end": os.getloadavg()[0]},
        "shape": SHAPE,
        "volumes": total,
        "seconds_a_volume": rows,
        "peak_memory_gb": round(max(peaks), 2),
        "memory_before_gb": round(memory_before, 2),
        "beside_libraries": compared,
    }
    print(json.dumps(content, indent=1, ensure_ascii=False))
    save(arguments.output, content)


def spread(values: list[float]) -> dict[str, float]:
    low, median, high = np.percentile(values, (25, 50, 75)).round(3).tolist()
    return {"median": median, "low_quartile": low, "high_quartile": high}


def pairs(subjects: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Degraded and true T2w volumes in [0, 1], float32."""
    for seed in range(subjects):
        reference = make_phantom(seed, SHAPE, 1.0).contrast("T2w")
        reference /= reference.max()
        for number, (blur, noise) in enumerate(DEGRADED):
            blurred = ndimage.gaussian_filter(reference, blur)
            made = blurred + noise * np.random.default_rng(number).standard_normal(SHAPE, np.float32)
            yield np.clip(made, 0, 1).astype(np.float32), reference


def of_volume(synthesis: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Seconds of each metric of `default` on one volume."""
    images = inside_the_brain(Case(synthesis.astype(np.float64), reference.astype(np.float64)))
    seconds = {}
    for metric, _ in PROTOCOLS["default"].metrics:
        begun = time.perf_counter()
        metric.of(images)
        seconds[metric.column] = time.perf_counter() - begun
    return seconds


def of_slices(
    synthesis: np.ndarray, reference: np.ndarray, comparisons: dict[str, tuple[Callable, Figure]], number: int
) -> dict[str, tuple[float, float, float]]:
    """Seconds of ours and of a library on the slices that show the brain, and the largest difference of their figures.

    What all metrics share, the check of the images, is done before. SSIM and MS-SSIM are compared as shares, as the
    libraries give them.
    """
    shown = brain(Case(synthesis, reference)).mean((0, 1)) >= SHOWN
    x, y = (torch.from_numpy(np.moveaxis(volume[:, :, shown], 2, 0).copy()) for volume in (synthesis, reference))
    images, results = Images.of(x, y, 1.0), {}
    for name, (ours, library) in comparisons.items():

        def at_once(ours: Callable = ours) -> np.ndarray:
            return ours(images).numpy()

        def by_slice(library: Figure = library) -> np.ndarray:
            return np.array([library(a, b) for a, b in zip(x, y, strict=True)])

        took: dict[Callable, float] = {}
        figures: dict[Callable, np.ndarray] = {}
        for work in (at_once, by_slice) if number % 2 else (by_slice, at_once):
            begun = time.perf_counter()
            figures[work] = work()
            took[work] = time.perf_counter() - begun
        scale = 1 if name.startswith("FSIM") else 100
        difference = float(np.abs(figures[at_once] / scale - figures[by_slice]).max())
        results[name] = (took[at_once], took[by_slice], difference)
    return results


def libraries(piq: Path | None) -> dict[str, tuple[Callable, Figure]]:
    """Our metric, and a library's for one slice (H, W)."""

    def scikit_image(x: torch.Tensor, y: torch.Tensor) -> float:
        settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        return structural_similarity(y.numpy(), x.numpy(), data_range=1.0, **settings)

    found: dict[str, tuple[Callable, Figure]] = {
        "SSIM, scikit-image": (metrics.ssim, scikit_image),
        "SSIM, torchmetrics": (
            metrics.ssim,
            lambda x, y: structural_similarity_index_measure(x[None, None], y[None, None], data_range=1.0).item(),
        ),
        "MS-SSIM, torchmetrics": (
            metrics.ms_ssim,
            lambda x, y: multiscale_structural_similarity_index_measure(
                x[None, None], y[None, None], data_range=1.0
            ).item(),
        ),
    }
    if piq:
        package = types.ModuleType("piq")
        package.__path__ = [str(piq / "piq")]
        sys.modules["piq"] = package
        fsim = importlib.import_module("piq.fsim").fsim
        found["FSIM, piq"] = (metrics.fsim, lambda x, y: fsim(x[None, None], y[None, None], chromatic=False).item())
    return found


if __name__ == "__main__":
    main()
