"""Dice of the tissue maps against phantoms whose tissue is known: each contrast by itself, and sources together.

    python benchmarks/tissue.py -o benchmarks/results/tissue.json
    python benchmarks/tissue.py --seed 5 -o benchmarks/results/tissue-unseen.json --picture docs/results/tissue.png

The segmentation was tuned on phantoms of seeds 0, 1 and 2; those of other seeds it has not seen. The picture is of the
first subject with a tumour.

Truth is the tissue with the largest share of a voxel. The nuclei (striatum, thalamus, pallidum) are grey matter; the
tumour is necrosis, rim and oedema; vessels and choroid plexus are none of the four. Voxels that are air by more than
half are left out: the phantom's skull stripping is soft, that of real scans is a mask. `equal weights` is the mean of
the sources without their weights, `product` the product of their probabilities, floored at 0.03.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure

from measuring import save
from scansynth.data.phantom import Phantom, cohort_phantom, has_tumour
from scansynth.data.tissue import LOOKS, combine, masks, segment
from scansynth.physics.tissue import TISSUES

GROUPS = (("white",), ("grey", "striatum", "thalamus", "pallidum"), ("fluid",), ("necrosis", "rim", "oedema"))
SOURCES = (
    ("T1w", "T2w"),
    ("T1w", "T1ce", "T2w"),
    ("T1w", "T1ce", "T2w", "FLAIR"),
    ("T1w", "PDw"),
    ("T2w", "PDw"),
    ("T1w", "FLAIR"),
    ("T2w", "FLAIR"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subjects", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0, help="of the phantoms")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    parser.add_argument("--picture", type=Path, help="PNG file: scans, true tissue, and what is found")
    arguments = parser.parse_args()
    began, wanted = os.getloadavg(), arguments.picture
    rows: dict[str, list[np.ndarray]] = {}
    for number in range(arguments.subjects):
        phantom = cohort_phantom(number, arguments.seed, shape=(80, 96, 80), spacing=2.0)
        maps = {contrast: segment(phantom.contrast(contrast), contrast, (2.0,) * 3) for contrast in LOOKS}
        for contrast, densities in maps.items():
            rows.setdefault(contrast, []).append(dice(densities, phantom))
        for sources in SOURCES:
            some, name = {contrast: maps[contrast] for contrast in sources}, " + ".join(sources)
            rows.setdefault(name, []).append(dice(combine(some), phantom))
            rows.setdefault(f"{name}, equal weights", []).append(dice(combine_as(some, product=False), phantom))
            rows.setdefault(f"{name}, product", []).append(dice(combine_as(some, product=True), phantom))
        print(f"subject {number + 1}", {name: found[-1].round(3).tolist() for name, found in rows.items()}, flush=True)
        if wanted and has_tumour(number, 0.5):
            picture(phantom, maps, wanted)
            wanted = None
    large = cohort_phantom(1, arguments.seed, shape=(140, 172, 138), spacing=1.0)
    seconds = {}
    for contrast in LOOKS:
        image, begun = large.contrast(contrast), time.process_time()
        segment(image, contrast, (1.0,) * 3)
        seconds[contrast] = round(time.process_time() - begun, 1)
    content = {
        "load_average": {"at the start": began[0], "at the end": os.getloadavg()[0]},
        "phantoms": f"{arguments.subjects} of seed {arguments.seed}, 80×96×80 at 2 mm, every other one with a tumour",
        "dice": [{"sources": name, **summary(found)} for name, found in rows.items()],
        "processor_seconds_of_140x172x138": seconds,
    }
    print(json.dumps(content, indent=1, ensure_ascii=False))
    save(arguments.output, content)


def summary(found: list[np.ndarray]) -> dict[str, dict[str, float]]:
    """Mean and least by tissue, of the subjects that have it."""
    table = np.array(found)
    return {
        tissue: {"mean": round(float(np.nanmean(column)), 3), "least": round(float(np.nanmin(column)), 3)}
        for tissue, column in zip(TISSUES, table.T, strict=True)
    }


def true_masks(phantom: Phantom) -> tuple[np.ndarray, np.ndarray]:
    """Where each tissue has the largest share, (4, X, Y, Z), and the brain, (X, Y, Z)."""
    groups = [sum(phantom.fractions[phantom.names.index(name)] for name in group) for group in GROUPS]
    main = np.stack([*groups, 1 - sum(groups)]).argmax(0)
    brain = phantom.fractions[0] < 0.5
    return (main == np.arange(4)[:, None, None, None]) & brain, brain


def dice(densities: np.ndarray, phantom: Phantom) -> np.ndarray:
    """By tissue, (4,); NaN for what the phantom does not have."""
    true, brain = true_masks(phantom)
    found = masks(densities) & brain
    sizes = true.sum((1, 2, 3))
    both = 2 * (found & true).sum((1, 2, 3)) / np.maximum(found.sum((1, 2, 3)) + sizes, 1)
    return np.where(sizes > 0, both, np.nan)


def combine_as(by_contrast: Mapping[str, np.ndarray], product: bool) -> np.ndarray:
    """The combinations that were not chosen."""
    maps = np.stack(list(by_contrast.values()))
    normal = np.exp(np.log(maps[:, :3] + 0.03).mean(0)) if product else maps[:, :3].mean(0)
    normal *= maps.sum((0, 1)) > 0
    tumour = maps[:, 3].max(0)
    total = normal.sum(0)
    normal *= np.where(total > 0, (1 - tumour) / np.where(total > 0, total, 1), 0)
    return np.concatenate([normal, tumour[None]])


def picture(phantom: Phantom, maps: Mapping[str, np.ndarray], path: Path) -> None:
    """Scans above the tissues, true and found in one scan and in three, in the tumour's largest slice."""
    true, brain = true_masks(phantom)
    z = int(true[3].sum((0, 1)).argmax())
    sources = ("T1w", "T2w", "FLAIR")
    found = {
        "true tissue": true,
        "from T1w alone": masks(maps["T1w"]) & brain,
        f"from {' + '.join(sources)}": masks(combine({contrast: maps[contrast] for contrast in sources})) & brain,
    }
    figure = Figure(figsize=(9, 7.6), layout="constrained", facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    for column, contrast in enumerate(sources):
        axes[0, column].imshow(phantom.contrast(contrast)[..., z].T, origin="lower", cmap="gray")
        axes[0, column].set_title(contrast, color="white", fontsize=10)
    colours = ["black", "#e8e8e8", "#8a8a8a", "#2f6fd0", "#d04a2f"]
    for column, (name, tissues) in enumerate(found.items()):
        labels = (tissues * np.arange(1, 5)[:, None, None, None]).max(0)[..., z]
        norm = BoundaryNorm(np.arange(6) - 0.5, 5)
        axes[1, column].imshow(labels.T, origin="lower", cmap=ListedColormap(colours), norm=norm)
        axes[1, column].set_title(name, color="white", fontsize=10)
    for axis in axes.flat:
        axis.axis("off")
    figure.suptitle(
        "Phantom, not a scan. White matter white, grey matter grey, CSF blue, tumour red.", color="#ffb000", fontsize=11
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, facecolor="black")


if __name__ == "__main__":
    main()
