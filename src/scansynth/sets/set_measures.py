"""Generated sets beside a real one: MS-SSIM of pairs, MMD, Fréchet distances by view (protocol `cdpm`), as tables.

Paper (cDPM, section 3.3): 500 generated volumes against 500 real ones drawn at random; MS-SSIM of pairs; MMD, with
neither kernel nor estimator named; FID of the three views, the slice not named. Its MMDs, 3.14 to 226 in a column
"(10³)", read as thousands, are of the size that the linear kernel gives on 128³ voxels in [0, 1] (the squared distance
of the mean volumes, added up over two million voxels); a Gaussian kernel cannot give more than 2. Here: both kernels,
with both estimators. The linear one is taken on all voxels. The Gaussian one sees more than the means; it is taken on
volumes that were averaged down to 32 voxels, since at full size single voxels' noise decides distances. Its bandwidth
is the median distance among the real volumes only, not among both sets as usual: so all sets of a table have one
kernel.
"""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scansynth.errors import InputError
from scansynth.evaluation.tables import Spread, csv_text, spread_text
from scansynth.files import write_text
from scansynth.metrics.protocols import PROTOCOLS
from scansynth.sets.features import DERIVATIVE_PYRAMID, VIEWS, FeatureExtractor, view_features
from scansynth.sets.set_similarity import PAIRS, SCALES, WINDOW, PairSimilarity, pair_similarity
from scansynth.sets.set_statistics import (
    VoxelSums,
    frechet_distance,
    gaussian_kernel,
    linear_mmd_squared,
    median_distance,
    mmd_squared,
)
from scansynth.sets.volume_sets import VolumeSet, check_comparable, shrunk

log = logging.getLogger(__name__)

LINEAR = "linear"
GRID = 32
"""Longest side of the volumes that the Gaussian kernel sees."""
REAL = 500
"""Real volumes that are drawn where there are more (cDPM, section 3.3)."""


SUMMARY = {
    "ms_ssim": ("MS-SSIM of pairs (%)", 2),
    "mmd": ("MMD² (10³; linear, voxels; biased)", 2),
    "fid_axial": ("FID-A", 1),
    "fid_coronal": ("FID-C", 1),
    "fid_sagittal": ("FID-S", 1),
}
"""What cDPM's Table 1 gives: column → heading and digits."""


@dataclass(frozen=True)
class Figure:
    """One figure of a set."""

    column: str
    """In CSV and JSON; names the extractor or the kernel."""
    heading: str
    value: float
    digits: int
    std: float = math.nan


@dataclass(frozen=True, kw_only=True)
class SetMeasures:
    """A set, measured against the real one; the real one itself has MS-SSIM only."""

    label: str
    volumes: int
    real: str
    """Label of the real set."""
    real_volumes: int
    figures: tuple[Figure, ...]
    pairs: PairSimilarity
    notes: tuple[str, ...]
    """What the reader must know of the figures."""

    def summary(self) -> dict[str, Spread]:
        """The figures of `SUMMARY` that there are; of Fréchet distances those that are FID, of Inception's features."""
        found = {}
        for figure in self.figures:
            if figure.column == f"mmd2_{LINEAR}_biased":
                found["mmd"] = Spread(figure.value / 1000, math.nan)
            for view in VIEWS:
                if figure.column.startswith(f"fid_{view}_"):
                    found[f"fid_{view}"] = Spread(figure.value, math.nan)
        return {"ms_ssim": Spread(self.pairs.mean, self.pairs.std), **found}


@dataclass(frozen=True)
class SetSummary:
    """All that is kept of a set: a few hundred kilobytes a volume, and one sum of volumes."""

    label: str
    sums: VoxelSums
    voxels: np.ndarray
    """Volumes on the coarse grid, (N, D) float32."""
    features: dict[str, np.ndarray]
    """View → (N, F) float64."""

    @classmethod
    def of(cls, volumes: VolumeSet, extractor: FeatureExtractor) -> "SetSummary":
        """Read every volume once."""
        sums, coarse, found = VoxelSums(), [], {view: [] for view in VIEWS}
        for volume in volumes:
            sums.add(volume)
            coarse.append(shrunk(volume, GRID).ravel())
            for view, features in view_features(volume, extractor).items():
                found[view].append(features)
        return cls(volumes.label, sums, np.stack(coarse), {view: np.stack(rows) for view, rows in found.items()})


def measure_sets(
    generated: Sequence[VolumeSet],
    real: VolumeSet,
    extractor: FeatureExtractor = DERIVATIVE_PYRAMID,
    *,
    pairs: int = PAIRS,
    seed: int = 0,
) -> list[SetMeasures]:
    """Measure sets against a real one.

    A further set of real volumes among `generated` (held-out subjects) shows what a perfect generator would reach: MMD
    and Fréchet distances of finite sets are not 0. Only sets of equal numbers should be compared.

    Args:
        generated: the sets, one row each.
        real: what they should be like; of more than 500 volumes, 500 are drawn.
        extractor: of the slices' features.
        pairs: of MS-SSIM, drawn at random where a set has more.
        seed: of what is drawn.

    Returns:
        The real set's row (MS-SSIM of its own pairs), then one a set.

    Raises:
        InputError: if there is no set, a label stands twice, grids differ, or a set has fewer than two volumes.
    """
    labels = [real.label, *(one.label for one in generated)]
    if not generated or len(set(labels)) < len(labels):
        raise InputError(f"sets {', '.join(labels)}: give one or more, each with a label of its own")
    for one in generated:
        check_comparable(real, one)
    if small := [one.label for one in (real, *generated) if len(one) < 2]:
        raise InputError(f"{small[0]}: a single volume is no set; give two or more")
    real = real.draw(REAL, seed)
    truth = SetSummary.of(real, extractor)
    bandwidth = median_distance(truth.voxels)
    own = pair_similarity(real, pairs, seed)
    rows = [
        SetMeasures(
            label=real.label,
            volumes=len(real),
            real=real.label,
            real_volumes=len(real),
            figures=(_ms_ssim(own),),
            pairs=own,
            notes=(),
        )
    ]
    for one in generated:
        found = SetSummary.of(one, extractor)
        similar = pair_similarity(one, pairs, seed)
        figures = [_ms_ssim(similar), Figure("ms_ssim_from_real", "apart from real", abs(similar.mean - own.mean), 2)]
        linear = linear_mmd_squared(found.sums, truth.sums)
        gaussian = mmd_squared(found.voxels, truth.voxels, gaussian_kernel(bandwidth))
        for kernel, what, discrepancy, digits in (
            (LINEAR, "linear, voxels", linear, 2),
            (f"gaussian_{GRID}", f"Gaussian, {GRID} voxels", gaussian, 4),
        ):
            for estimator, value in (("unbiased", discrepancy.unbiased), ("biased", discrepancy.biased)):
                figures.append(Figure(f"mmd2_{kernel}_{estimator}", f"MMD² ({what}; {estimator})", value, digits))
        for view in VIEWS:
            figures.append(_frechet(view, found, truth, extractor))
        fewest = min(len(one), len(real))
        notes = [extractor.note, f"Gaussian kernel: bandwidth {bandwidth:.4g}, the real volumes' median distance"]
        if fewest <= extractor.size:
            notes.append(few_images(fewest, extractor))
            log.warning("%s: %s", one.label, notes[-1])
        rows.append(
            SetMeasures(
                label=one.label,
                volumes=len(one),
                real=real.label,
                real_volumes=len(real),
                figures=tuple(figures),
                pairs=similar,
                notes=tuple(notes),
            )
        )
    return rows


def few_images(fewest: int, extractor: FeatureExtractor) -> str:
    """The rule: a covariance of F features has full rank from F + 1 images on."""
    return (
        f"{fewest} images for {extractor.size} features of {extractor.name}: covariances of full rank need "
        f"{extractor.size + 1}; the Fréchet distance is far above its limit and depends on the number of images, so "
        "that it can be compared with nothing but sets of equal numbers"
    )


def _ms_ssim(pairs: PairSimilarity) -> Figure:
    column = "ms_ssim_percent" if pairs.scales == SCALES else f"ms_ssim_{pairs.scales}_scales_percent"
    heading = f"MS-SSIM (%; {pairs.scales} scales, window {WINDOW}) of pairs"
    return Figure(column, heading, pairs.mean, 2, pairs.std)


def _frechet(view: str, found: SetSummary, truth: SetSummary, extractor: FeatureExtractor) -> Figure:
    value = frechet_distance(found.features[view], truth.features[view])
    letter = view[0].upper()
    if extractor.is_inception:
        return Figure(f"fid_{view}_{extractor.name}", f"FID-{letter} ({extractor.name})", value, 1)
    return Figure(f"frechet_{view}_{extractor.name}", f"Fréchet-{letter} ({extractor.name})", value, 2)


def write_set_measures(rows: Sequence[SetMeasures], folder: Path) -> None:
    """Write `sets.md`, `sets.csv` and `sets.json`, each whole or not at all.

    Rows that were measured in several calls may stand together: figures by other extractors, kernels or numbers of
    scales have columns of their own, and a row is empty where it lacks one.

    Args:
        rows: of `measure_sets`, at least one.
        folder: where to; made if missing.

    Raises:
        InputError: without rows.
    """
    if not rows:
        raise InputError("there is no set to write")
    columns = {figure.column: figure for row in rows for figure in row.figures}
    protocol = PROTOCOLS["cdpm"]
    records = [
        {
            "protocol": protocol.name,
            "protocol_version": protocol.version,
            "label": row.label,
            "n_volumes": row.volumes,
            "real": row.real,
            "n_real": row.real_volumes,
            "pairs": row.pairs.pairs,
            "pairs_possible": row.pairs.possible,
            "seed": row.pairs.seed,
            **_values(row, columns),
        }
        for row in rows
    ]
    write_text(folder / "sets.csv", csv_text(records))
    plain = [{**record, "notes": list(row.notes)} for record, row in zip(records, rows, strict=True)]
    write_text(folder / "sets.json", json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(folder / "sets.md", _markdown(rows, columns))


def _values(row: SetMeasures, columns: dict[str, Figure]) -> dict[str, float | None]:
    """Every column of the table, with the deviation where one of the rows has it."""
    own = {figure.column: figure for figure in row.figures}
    found: dict[str, float | None] = {}
    for name in columns:
        figure = own.get(name)
        found[name] = None if figure is None else figure.value
        if name.startswith("ms_ssim") and name.endswith("percent"):
            found[f"{name}_std"] = None if figure is None or math.isnan(figure.std) else figure.std
    return found


def _markdown(rows: Sequence[SetMeasures], columns: dict[str, Figure]) -> str:
    protocol = PROTOCOLS["cdpm"]
    headings = ["set", "volumes", "pairs", *(figure.heading for figure in columns.values())]
    lines = [
        f"Protocol `{protocol.name}`, version {protocol.version} ({protocol.source}).",
        "",
        f"| {' | '.join(headings)} |",
        f"| --- |{' ---: |' * (len(headings) - 1)}",
    ]
    for row in rows:
        own = {figure.column: figure for figure in row.figures}
        cells = [row.label.replace("|", "\\|"), str(row.volumes), f"{row.pairs.pairs} of {row.pairs.possible}"]
        for name in columns:
            figure = own.get(name)
            cells.append("" if figure is None else spread_text(Spread(figure.value, figure.std), figure.digits))
        lines.append(f"| {' | '.join(cells)} |")
    notes = dict.fromkeys(note for row in rows for note in row.notes)
    counts = {row.volumes for row in rows}
    lines += [
        "",
        f"- Intensities: {protocol.intensities}; range {protocol.data_range}. Mask: none, background included.",
        "- MS-SSIM: mean ± standard deviation over random pairs of the set (seed "
        f"{', '.join(sorted({str(row.pairs.seed) for row in rows}))}); like the real set's is best. Pairs share "
        "volumes, so the deviation is no error of the mean.",
        "- MMD² and Fréchet distances (squared; of the central slice of each volume, by view): 0 is best; finite sets "
        "of one distribution have more. The unbiased MMD² may be negative.",
        *(f"- {note}." for note in notes),
    ]
    if (scales := min(row.pairs.scales for row in rows)) < SCALES:
        lines.append(f"- **Note:** the volumes have room for {scales} scales of MS-SSIM; protocol cdpm has {SCALES}.")
    if len(counts) > 1:
        lines.append("- **Note:** sets differ in their numbers of volumes, on which Fréchet distances depend.")
    return "\n".join(lines) + "\n"
