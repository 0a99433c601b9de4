"""A synthetic head with every contrast: tissues, the signals they give, and files in the layouts of real data sets.

For tests, demonstrations and first steps: the relation between the contrasts is MR physics (`physics/signal.py`), so a
method has something true to learn, and the answer is known. It is no substitute for patients.
"""

import csv
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from scansynth.data.contrasts import standard_name
from scansynth.data.phantom_anatomy import TISSUES, anatomy
from scansynth.data.phantom_shapes import grid_axes, smooth_field, stream
from scansynth.errors import InputError
from scansynth.physics.acquisition import DEFAULTS, signal


@dataclass(frozen=True)
class Tissue:
    """What one tissue is like at 3 T and in CT."""

    t1: float
    """Longitudinal relaxation time, ms."""
    t2: float
    """Transverse relaxation time, ms."""
    pd: float
    """Proton density, as a share of water's."""
    hu: float
    """CT number, HU."""
    agent: float = 0.0
    """Concentration of gadolinium after injection, mmol/l."""


# White and grey matter: Wansapura et al., J. Magn. Reson. Imaging 9 (1999) 531, at 3 T. Blood and muscle: Stanisz et
# al., Magn. Reson. Med. 54 (2005) 507. T1 of fluid, which hardly depends on the field: Rooney et al., Magn. Reson.
# Med. 57 (2007) 308. Fat: de Bazelaire et al., Radiology 230 (2004) 652. The nuclei lie between white and grey matter,
# with T2 short for their iron; these, bone and the tumour's tissues are rounded values of ours that give the usual
# look. Proton densities: the water content of tissue. CT numbers: W. A. Kalender, Computed Tomography, 3rd ed. 2011.
PROPERTIES: dict[str, Tissue] = {
    "air": Tissue(1.0, 1.0, 0.0, -1000),
    "fluid": Tissue(4300, 1800, 1.00, 6),
    "grey": Tissue(1331, 110, 0.83, 38),
    "white": Tissue(832, 79.6, 0.70, 29),
    "striatum": Tissue(1200, 88, 0.81, 38),
    "thalamus": Tissue(1060, 84, 0.77, 36),
    "pallidum": Tissue(970, 62, 0.74, 38),
    "choroid": Tissue(1700, 180, 0.88, 40, agent=0.25),
    "vessel": Tissue(1932, 275, 0.60, 52, agent=0.40),  # the low density stands for the signal that flow takes away
    "bone": Tissue(350, 4, 0.12, 1100),
    "marrow": Tissue(400, 60, 0.55, 450),
    "fat": Tissue(382, 68, 0.65, -95),
    "muscle": Tissue(1412, 50, 0.75, 55),
    "necrosis": Tissue(2600, 420, 0.95, 16),
    "rim": Tissue(1500, 125, 0.85, 40, agent=0.28),
    "oedema": Tissue(1450, 165, 0.86, 20),
}
assert tuple(PROPERTIES) == TISSUES

_RELAXIVITY = 4.5e-3  # per mmol/l and ms, of a usual agent: Rohrer et al., Invest. Radiol. 40 (2005) 715
_SEG = {"necrosis": 1, "oedema": 2, "rim": 4}  # labels of BraTS 2021
_HEADER = "synthetic phantom made by scansynth, not a patient"


@dataclass(frozen=True, eq=False)
class Phantom:
    """One synthetic subject on a grid (X, Y, Z) in RAS+."""

    seed: int
    fractions: np.ndarray
    """Share of each tissue in each voxel, (N, X, Y, Z) float32, summing to 1; the first is air."""
    affine: np.ndarray
    """Voxel to millimetres, (4, 4) float64."""
    names: tuple[str, ...] = TISSUES
    """The N tissues."""

    @cached_property
    def _variation(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """t1, t2, pd → a factor of each tissue (N,) and a smooth field of factors (X, Y, Z), both close to 1."""
        rng = stream(self.seed, "variation")
        spread = {"t1": 0.025, "t2": 0.025, "pd": 0.01}
        axes = grid_axes(self.fractions.shape[1:], float(self.affine[0, 0]))
        return {
            key: (np.exp(rng.normal(0, s, len(self.names))), 1 + s * np.clip(smooth_field(rng, axes, 32.0), -2.5, 2.5))
            for key, s in spread.items()
        }

    def tissue(self, name: str, where: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """T1 (ms), T2 (ms) and PD of one tissue in the voxels of a mask (X, Y, Z): (n,) float32 each."""
        values, index = PROPERTIES[name], self.names.index(name)
        t1, t2, pd = (
            (value * factors[index] * field[where]).astype(np.float32)
            for value, (factors, field) in zip((values.t1, values.t2, values.pd), self._variation.values(), strict=True)
        )
        return t1, t2, np.minimum(pd, 1)

    def _maps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        t1, t2, pd = (np.zeros(self.fractions.shape[1:], np.float32) for _ in range(3))
        for name, fraction in zip(self.names[1:], self.fractions[1:], strict=True):
            where = fraction > 0
            for total, value in zip((t1, t2, pd), self.tissue(name, where), strict=True):
                total[where] += fraction[where] * value
        matter = np.maximum(1 - self.fractions[0], 1e-6)
        return t1 / matter, t2 / matter, pd

    @cached_property
    def t1(self) -> np.ndarray:
        """T1 before contrast agent, ms, (X, Y, Z) float32: mean of the tissues in a voxel, 0 in air."""
        return self._maps()[0]

    @cached_property
    def t2(self) -> np.ndarray:
        """T2, ms, (X, Y, Z) float32: mean of the tissues in a voxel, 0 in air."""
        return self._maps()[1]

    @cached_property
    def pd(self) -> np.ndarray:
        """Proton density in [0, 1], (X, Y, Z) float32."""
        return self._maps()[2]

    @cached_property
    def hu(self) -> np.ndarray:
        """CT numbers without noise, HU, (X, Y, Z) float32."""
        return np.tensordot(np.array([PROPERTIES[n].hu for n in self.names], np.float32), self.fractions, axes=1)

    def tissue_map(self) -> np.ndarray:
        """Index in `names` of each voxel's main tissue, (X, Y, Z) uint8; 0 is air."""
        return self.fractions.argmax(axis=0).astype(np.uint8)

    def tumour_mask(self) -> np.ndarray:
        """BraTS 2021 labels, (X, Y, Z) uint8: 1 necrosis, 2 oedema, 4 enhancing rim, 0 elsewhere."""
        labels = np.array([_SEG.get(name, 0) for name in self.names], np.uint8)
        return labels[self.tissue_map()]

    def contrast(self, name: str, noise: float = 0.02, bias: float = 0.1) -> np.ndarray:
        """One scan of the subject: the sum over tissues of fraction times signal, with bias field and noise.

        Args:
            name: T1w, T2w, PDw, FLAIR, T1ce or CT, or an alias of one.
            noise: MRI: standard deviation of the Rician noise's two channels, as a share of the mean signal in the
                head. CT: that of Gaussian noise, as a share of 200 HU.
            bias: MRI: standard deviation of the logarithm of the smooth receive field; CT has none.

        Returns:
            (X, Y, Z) float32, the same for the same (seed, name). MRI: ≥ 0, in arbitrary units, 0 where there is only
            air if there is no skull. CT: HU.

        Raises:
            InputError: if there is no such contrast.
        """
        name = standard_name(name)
        rng = stream(self.seed, f"scan {name}")
        head = self.fractions[0] < 1
        stripped = not self.fractions[self.names.index("bone")].any()
        if name == "CT":
            noisy = self.hu + noise * 200 * rng.standard_normal(self.hu.shape, np.float32)
            return np.where(head, noisy, -1000).astype(np.float32) if stripped else noisy
        if name not in DEFAULTS:
            raise InputError(f"the phantom has no contrast {name!r}: choose of {', '.join(CONTRASTS)}")
        image = self._signals(name)
        axes = grid_axes(image.shape, float(self.affine[0, 0]))
        image *= np.exp(bias * np.clip(smooth_field(rng, axes, 70.0), -2.5, 2.5))
        if noise:
            deviation = np.float32(noise * image[head].mean())
            real, imaginary = deviation * rng.standard_normal((2, *image.shape), np.float32)
            image = np.hypot(image + real, imaginary)
        return image * head if stripped else image

    def _signals(self, name: str) -> np.ndarray:
        """Noise-free MR image of a standard contrast, (X, Y, Z) float32."""
        image = np.zeros(self.fractions.shape[1:], np.float32)
        for tissue, fraction in zip(self.names[1:], self.fractions[1:], strict=True):
            where = fraction > 0
            t1, t2, pd = self.tissue(tissue, where)
            if name == "T1ce":
                t1 = 1 / (1 / t1 + np.float32(_RELAXIVITY * PROPERTIES[tissue].agent))
            s0 = torch.from_numpy(fraction[where] * pd)
            image[where] += signal(DEFAULTS[name], s0, torch.from_numpy(t1), torch.from_numpy(t2)).numpy()
        return image


def make_phantom(
    seed: int,
    shape: Sequence[int] = (96, 112, 96),
    spacing: float = 2.0,
    *,
    tumour: bool = False,
    skull: bool = False,
) -> Phantom:
    """Make a subject.

    Args:
        seed: of the subject, ≥ 0. Grid, tumour and skull do not change the brain that a seed gives, but for the push of
            the tumour.
        shape: of the grid, (X, Y, Z). The brain takes about 140 × 180 × 150 mm.
        spacing: of the grid, mm.
        tumour: with an enhancing tumour.
        skull: with scalp, face and skull; otherwise as after skull stripping.

    Raises:
        InputError: if seed, shape or spacing make no grid.
    """
    if seed < 0 or len(shape) != 3 or min(shape) < 8 or not spacing > 0:
        raise InputError(f"phantom of seed {seed}, shape {tuple(shape)}, spacing {spacing} mm: give a seed >= 0, three "
                         "sides of 8 voxels or more, and a spacing > 0")  # fmt: skip
    made = anatomy(seed, shape, spacing, tumour=tumour, skull=skull)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = [axis[0] for axis in made.axes]
    return Phantom(seed, made.fractions, affine)


CONTRASTS = (*DEFAULTS, "CT")
"""That a phantom has."""

_FILES = {
    "BraTS": ({"T1w": "t1", "T1ce": "t1ce", "T2w": "t2", "FLAIR": "flair"}, "phantom{:03d}", "{0}/{0}_{1}.nii.gz"),
    "IXI": ({"T1w": "T1", "T2w": "T2", "PDw": "PD"}, "IXI{0:03d}-Guys-{0:04d}", "{0}-{1}.nii.gz"),
    "BIDS": (
        {"T1w": "T1w", "T2w": "T2w", "PDw": "PDw", "FLAIR": "FLAIR", "T1ce": "ce-gadolinium_T1w", "CT": "CT"},
        "sub-{:03d}",
        "{0}/anat/{0}_{1}.nii.gz",
    ),
    "table": ({name: name for name in CONTRASTS}, "phantom{:03d}", "{0}_{1}.nii.gz"),
}
"""Layout → standard contrast → its name in files; the subject's name by number; the path by subject and contrast."""


def has_tumour(index: int, tumour_share: float) -> bool:
    """Whether the subject of that index (from 0) of a cohort has a tumour: evenly spread."""
    return int((index + 1) * tumour_share + 1e-9) > int(index * tumour_share + 1e-9)


def cohort_phantom(
    index: int,
    seed: int = 0,
    *,
    shape: Sequence[int] = (96, 112, 96),
    spacing: float = 2.0,
    tumour_share: float = 0.5,
    skull: bool = False,
) -> Phantom:
    """The subject of that index (from 0) of `write_phantom_cohort`, with its true maps."""
    subject = zlib.crc32(f"{seed} {index}".encode())
    return make_phantom(subject, shape, spacing, tumour=has_tumour(index, tumour_share), skull=skull)


def write_phantom_cohort(
    folder: Path,
    subjects: int,
    contrasts: Sequence[str],
    *,
    layout: str = "BraTS",
    seed: int = 0,
    shape: Sequence[int] = (96, 112, 96),
    spacing: float = 2.0,
    tumour_share: float = 0.5,
    missing: Mapping[str, Sequence[str]] | None = None,
    skull: bool = False,
) -> None:
    """Write a cohort of phantoms as NIfTI files.

    Subjects are numbered from 1: `phantom001` (BraTS, table), `IXI001-Guys-0001` (IXI), `sub-001` (BIDS). BraTS adds
    `_seg` where there is a tumour, BIDS and table a sidecar of acquisition times (seconds) beside each MR image, and
    table a `table.csv` with columns subject, contrast, path and split (70 % train, 15 % val, 15 % test).

    Args:
        folder: where to write; made if it is not there, and files of the same name are replaced.
        subjects: how many.
        contrasts: which scans each has.
        layout: BraTS, IXI, BIDS or table.
        seed: of the cohort, ≥ 0.
        shape: of the grid, (X, Y, Z).
        spacing: of the grid, mm.
        tumour_share: share of the subjects that have a tumour, in [0, 1], evenly spread.
        missing: subject → contrasts that it lacks.
        skull: with scalp, face and skull.

    Raises:
        InputError: if the layout is unknown or has no file name for a contrast, a number is out of range, or `missing`
            names a subject that is not there.
    """
    if layout not in _FILES:
        raise InputError(f"no layout {layout!r}: choose of {', '.join(_FILES)}")
    kinds, name_of, path_of = _FILES[layout]
    contrasts = [standard_name(contrast) for contrast in contrasts]
    if unknown := [contrast for contrast in contrasts if contrast not in kinds]:
        raise InputError(f"the {layout} layout has no file name for {', '.join(unknown)}: it has {', '.join(kinds)}")
    if subjects < 1 or not 0 <= tumour_share <= 1:
        raise InputError(f"{subjects} subjects, tumour share {tumour_share}: give 1 or more, and a share in [0, 1]")
    names = [name_of.format(number) for number in range(1, subjects + 1)]
    lacks = {name: {standard_name(contrast) for contrast in some} for name, some in (missing or {}).items()}
    if strangers := [name for name in lacks if name not in names]:
        raise InputError(f"missing names {', '.join(strangers)}, but the subjects are {names[0]} to {names[-1]}")

    rows = []
    for index, name in enumerate(names):
        phantom = cohort_phantom(index, seed, shape=shape, spacing=spacing, tumour_share=tumour_share, skull=skull)
        for contrast in contrasts:
            if contrast in lacks.get(name, ()):
                continue
            path = folder / path_of.format(name, kinds[contrast])
            _write(path, phantom.contrast(contrast), phantom.affine)
            rows.append((name, contrast, path.relative_to(folder).as_posix(), _split(index, subjects)))
            if layout in ("BIDS", "table") and contrast in DEFAULTS:
                _write_sidecar(path.with_name(path.name.replace(".nii.gz", ".json")), contrast)
        if layout == "BraTS" and has_tumour(index, tumour_share):
            _write(folder / path_of.format(name, "seg"), phantom.tumour_mask(), phantom.affine)
    if layout == "BIDS":
        description = {"Name": f"scansynth phantoms: {_HEADER}", "BIDSVersion": "1.9.0", "DatasetType": "raw"}
        (folder / "dataset_description.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    if layout == "table":
        with (folder / "table.csv").open("w", newline="", encoding="utf-8") as table:
            csv.writer(table).writerows([("subject", "contrast", "path", "split"), *rows])


def _split(index: int, subjects: int) -> str:
    """70 % train, 15 % val, 15 % test, at least one of each where there are three subjects."""
    held = max(1, round(0.15 * subjects)) if subjects >= 3 else 0
    return "test" if index >= subjects - held else "val" if index >= subjects - 2 * held else "train"


def _write(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = _HEADER
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nib.save(image, path)


def _write_sidecar(path: Path, contrast: str) -> None:
    """BIDS acquisition parameters: times in seconds, angle in degrees."""
    acquisition = DEFAULTS[contrast]
    fields = {"RepetitionTime": acquisition.tr / 1000, "EchoTime": acquisition.te / 1000}
    if acquisition.ti is not None:
        fields["InversionTime"] = acquisition.ti / 1000
    if acquisition.flip_angle is not None:
        fields["FlipAngle"] = acquisition.flip_angle
    path.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")
