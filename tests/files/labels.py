"""Label images: values that are none, other grids, wrong names."""

from pathlib import Path

import numpy as np

from .checks import follows, has_tumour
from .heads import AFFINE, brats, brats_path, case, nifti, tumour, voxels, write
from .registry import kind, named, refused, right


@kind("nearly-whole", right(has_tumour(2)))
def nearly_whole(folder: Path) -> None:
    """Labels are floats a hair below whole numbers: cutting the fraction off turns 1 into 0.

    Found: https://github.com/Project-MONAI/MONAI/issues/2746
    """
    brats(folder)
    write(brats_path(folder, 2, "seg"), nifti(tumour(2) * (1 - 1e-6), dtype=np.float32))


@kind("interpolated", refused("_seg", "whole"))
def interpolated(folder: Path) -> None:
    """Labels were resampled as an image is, and have fractions along the borders of regions.

    Found: https://github.com/BioMedIA/dhcp-structural-pipeline/issues/3
    """
    brats(folder)
    labels = tumour(2).astype(float)
    write(brats_path(folder, 2, "seg"), nifti((labels + np.roll(labels, 1, 0)) / 2, dtype=np.float32))


@kind("scan-as-mask", refused("_seg", "label|whole"))
def scan_as_mask(folder: Path) -> None:
    """The label file holds a CT's values from −1024 upwards.

    Found: https://github.com/MIC-DKFZ/nnUNet/issues/1007
    """
    brats(folder)
    write(brats_path(folder, 2, "seg"), nifti(np.maximum(voxels(2, "CT"), -1024)))


@kind("mask-as-scan", named("almost-empty|unlike-others", case(2)))
def mask_as_scan(folder: Path) -> None:
    """The file of a T1 holds the tumour's labels."""
    brats(folder)
    write(brats_path(folder, 2, "t1"), nifti(tumour(2)))


@kind("mask-on-other-grid", refused("_seg", "grid"))
def mask_on_other_grid(folder: Path) -> None:
    """The mask has other voxels than the scan that it was drawn on.

    Found: https://github.com/MIC-DKFZ/nnUNet/issues/622
    """
    brats(folder)
    write(brats_path(folder, 2, "seg"), nifti(tumour(2)[::2], AFFINE @ np.diag([2, 1, 1, 1]), dtype=np.uint8))


@kind("mask-a-hair-off", right(has_tumour(2), quiet=True))
def mask_a_hair_off(folder: Path) -> None:
    """Scan and mask differ in the seventh digit of their directions, and a strict comparison drops the case.

    Found: https://github.com/MIC-DKFZ/nnUNet/issues/1287
    """
    brats(folder)
    write(brats_path(folder, 2, "seg"), nifti(tumour(2), AFFINE + 2e-6 * (np.arange(16).reshape(4, 4) < 12)))


@kind("mask-misnamed", named("W39_1998.09.19_Segm"))
def mask_misnamed(folder: Path) -> None:
    """One case of BraTS 2020 has its mask under the annotator's own name.

    Found: https://github.com/iolag/UPD_study/pull/3
    """
    brats(folder)
    brats_path(folder, 2, "seg").unlink()
    write(folder / case(2) / "W39_1998.09.19_Segm.nii", nifti(tumour(2), dtype=np.uint8))


@kind("mask-empty", right(follows(2, subject=case(2))))
def mask_empty(folder: Path) -> None:
    """A mask without any label: nothing was found, which is a finding."""
    brats(folder)
    write(brats_path(folder, 2, "seg"), nifti(np.zeros_like(tumour(2)), dtype=np.uint8))
