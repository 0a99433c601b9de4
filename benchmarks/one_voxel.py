"""One voxel of 32767 in one training scan: what it does to prepared images and to figures, by `--intensity`.

    python benchmarks/one_voxel.py -o benchmarks/results/one-voxel.json

Phantoms; the truth, blurred in the plane, stands for a synthesis, so that nothing is trained: it is equally good or bad
however the scans are prepared, and a figure that rises rises for nothing.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
from scipy import ndimage

from measuring import save
from scansynth.data.build_cohort import build_cohort
from scansynth.data.cohort import Cohort
from scansynth.data.foreground import top_of
from scansynth.data.layouts import Listing, find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.data.splits import FRACTIONS, choose_splits
from scansynth.data.volume import Volume
from scansynth.metrics.image_metrics import Images, psnr
from scansynth.metrics.protocols import measure

ARMS = ("syndiff", "z-score", "percentile", "robust")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_phantom_cohort(folder / "in", 10, ("T1w", "T2w"), layout="BIDS", shape=(72, 88, 48), spacing=2.5)
        listing = find_subjects(folder / "in")
        for spiked in (False, True):
            rescale(listing, spiked)
            for intensity in ARMS:
                settings = Preparation(size=(80, 96, None), intensity=intensity)
                cohort = build_cohort(listing, folder / f"{intensity}-{spiked}", settings)
                rows.append({"intensity": intensity, "one voxel": spiked, **figures(cohort)})
                print(json.dumps(rows[-1]), flush=True)
                save(arguments.output, {"results": rows})


def rescale(listing: Listing, spiked: bool) -> None:
    """T1w scans whose tissue reaches up to 1000, as in files of 16 bits; one voxel of one training scan at 32767."""
    splits = choose_splits({subject.name: subject.split for subject in listing.subjects}, FRACTIONS, 0)
    for subject in listing.subjects:
        volume = Volume.read(subject.scans["T1w"])
        array = volume.array * (1000 / top_of(volume.array))
        if spiked and subject.name == min(name for name, split in splits.items() if split == "train"):
            array[36, 44, 24] = 32767
        volume.write_array(subject.scans["T1w"], array, "phantom")


def figures(cohort: Cohort) -> dict[str, float | str]:
    """Medians over the test subjects."""
    found: dict[str, list[float]] = {}
    why = ""
    for subject in cohort.subjects("test"):
        truth = cohort.read(subject, "T1w")
        synthesis = ndimage.gaussian_filter(truth, (1.0, 1.0, 0.0))
        found.setdefault("brightest tissue of a test scan in [0, 1]", []).append(float(np.percentile(truth, 99.9)))
        shown = np.flatnonzero(truth.any((0, 1)))
        slices = [np.moveaxis(volume[:, :, shown], 2, 0) for volume in (synthesis, truth)]
        unchecked = float(psnr(Images.of(*slices, 1.0)).mean())
        found.setdefault("PSNR (dB) of range 1, unchecked", []).append(unchecked)
        measured = measure("mrdiff", synthesis, truth)
        why = why or measured.missing.get("psnr_db", "")
        if "psnr_db" not in measured.missing:
            found.setdefault("PSNR (dB) that is given", []).append(measured.mean("psnr_db"))
    return {name: round(float(np.median(values)), 3) for name, values in found.items()} | ({"why": why} if why else {})


if __name__ == "__main__":
    main()
