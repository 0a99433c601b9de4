"""Train the starter run, which comes with the package, on phantoms of random contrasts, and export it.

    python tools/starter.py build/starter            # about an hour on one core; stopped, it goes on
    python tools/starter.py build/starter --export src/scansynth/starter

Domain randomisation over the physics model: every scan of every phantom has repetition, echo and inversion times,
flip angle, relaxation times and proton densities of its own around the usual ones (`physics/acquisition.py`), a blur
along a random axis as of thick slices, a bias field and noise. So any set of five contrasts leads to any other, on
brains without skull. What real scans are like it does not know, so that the guard of sources has nothing to hold them
against; the card says so.
"""

import argparse
import csv
import math
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from scipy import ndimage

from scansynth.config import DataSettings
from scansynth.data.augmentation import Augmentation
from scansynth.data.build_cohort import build_cohort
from scansynth.data.cohort import Cohort
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import PROPERTIES, Phantom, cohort_phantom
from scansynth.data.phantom_shapes import grid_axes, smooth_field, stream
from scansynth.data.prepare import Preparation
from scansynth.data.record import PreparationRecord
from scansynth.physics.acquisition import DEFAULTS, Acquisition, signal
from scansynth.recipes import find_recipe
from scansynth.sharing.export import Statement, export_run
from scansynth.training.train import train

SPLITS = {"train": 60, "val": 5, "test": 5}
SHAPE, SPACING = (96, 112, 96), 2.0
STATEMENT = Statement(
    name="starter",
    data="70 numerical phantoms of heads without skull; contrasts, resolutions and noise at random",
    data_licence="CC0-1.0",
    licence="Apache-2.0",
    limits=(
        "It has never seen a scan of a person: what it makes of one is a first image and no result. Train your own.",
        "Brains without skull alone; its voxels are 2 mm in the axial plane.",
        "Nothing tells it whether sources are like what it knows: they are not checked against its training scans.",
    ),
)


def randomised(phantom: Phantom, contrast: str) -> np.ndarray:
    """One scan, (X, Y, Z) float32 ≥ 0, 0 where there is only air; the same for the same phantom and contrast."""
    rng = stream(phantom.seed, f"randomised {contrast}")
    how = sequence(contrast, rng)
    image = np.zeros(phantom.fractions.shape[1:], np.float32)
    for tissue, fraction in zip(phantom.names[1:], phantom.fractions[1:], strict=True):
        where = fraction > 0
        t1, t2, pd = (
            values * math.exp(rng.normal(0, spread))
            for values, spread in zip(phantom.tissue(tissue, where), (0.08, 0.08, 0.03), strict=True)
        )
        if contrast == "T1ce":
            t1 = 1 / (1 / t1 + 4.5e-3 * PROPERTIES[tissue].agent * rng.uniform(0.5, 1.5))
        maps = (torch.from_numpy(np.asarray(one, np.float32)) for one in (fraction[where] * pd, t1, t2))
        image[where] += signal(how, *maps).numpy()
    head = phantom.fractions[0] < 1
    thick = [0.0, 0.0, 0.0]
    thick[rng.integers(3)] = rng.uniform(0, 5.0) / SPACING / 2.355  # FWHM up to 5 mm
    image = ndimage.gaussian_filter(image, thick)
    image *= np.exp(rng.uniform(0, 0.25) * np.clip(smooth_field(rng, grid_axes(image.shape, SPACING), 70.0), -2.5, 2.5))
    deviation = rng.uniform(0.003, 0.05) * float(image[head].mean())
    real, imaginary = deviation * rng.standard_normal((2, *image.shape))
    return (np.hypot(image + real, imaginary) * head).astype(np.float32)


def sequence(contrast: str, rng: np.random.Generator) -> Acquisition:
    """The usual acquisition of a contrast with parameters around its own; half of the T1w are spin echoes."""

    def around(value: float, spread: float) -> float:
        return value * math.exp(rng.uniform(-spread, spread))

    usual = DEFAULTS[contrast]
    if usual.flip_angle is not None and rng.random() < 0.5:
        return Acquisition("spin_echo", tr=around(550.0, 0.3), te=around(13.0, 0.3))
    return replace(
        usual, tr=around(usual.tr, 0.25), te=around(usual.te, 0.2),
        ti=None if usual.ti is None else around(usual.ti, 0.08),
        flip_angle=None if usual.flip_angle is None else around(usual.flip_angle, 0.3),
    )  # fmt: skip


def prepared(folder: Path) -> Cohort:
    """The phantoms, half of them with a tumour, prepared."""
    data, rows = folder / "data", []
    splits = [split for split, count in SPLITS.items() for _ in range(count)]
    for index, split in enumerate(splits):
        name = f"phantom{index + 1:03}"
        phantom = None
        for contrast in DEFAULTS:
            file = data / f"{name}_{contrast}.nii.gz"
            rows.append((name, contrast, file.name, split))
            if not file.exists():
                phantom = phantom or cohort_phantom(index, 2026, shape=SHAPE, spacing=SPACING)
                data.mkdir(parents=True, exist_ok=True)
                beside = file.with_name(f".{file.name}")
                nib.save(nib.Nifti1Image(randomised(phantom, contrast), phantom.affine), beside)
                beside.rename(file)
    with (data / "table.csv").open("w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([("subject", "contrast", "path", "split"), *rows])
    settings = Preparation(spacing=(SPACING, SPACING, None), size=(*SHAPE[:2], None), intensity="robust")
    return build_cohort(find_subjects(data / "table.csv"), folder / "cohort", settings)


def main() -> None:
    """Prepare, train, export."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where phantoms, cohort and run lie")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--export", type=Path, help="write the finished run there, in place of the one that is there")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cohort = prepared(asked.folder)
    recipe = find_recipe("regression_small")
    augmentation = Augmentation(
        flip=0.5, rotation_degrees=15.0, scale=0.15, shift=0.05, gain=0.2, gamma=0.3, bias=0.2
    )  # fmt: skip
    config = replace(
        recipe, contrasts=tuple(DEFAULTS), data=replace(DataSettings(), augmentation=augmentation),
        training=replace(recipe.training, steps=asked.steps, threads=1, validate_every=1000, decay="cooldown"),
    )  # fmt: skip
    run = asked.folder / "run"
    train(config, cohort, run, device=torch.device("cpu"))
    # What phantoms are like says nothing of scans: the guard of sources is not to hold them against it.
    replace(PreparationRecord.read(run), usual={}).write(run)
    if asked.export:
        out = asked.folder / "exported"
        shutil.rmtree(out, ignore_errors=True)
        export_run(run, out, STATEMENT)
        shutil.rmtree(asked.export, ignore_errors=True)
        shutil.copytree(out, asked.export)
        size = sum(path.stat().st_size for path in asked.export.rglob("*") if path.is_file())
        print(f"{asked.export}: {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
