"""Figures by tissue and lesion: MAE, PSNR and SSIM inside each of a subject's masks, label by label.

Whatever protocol the other tables are of, regions are measured on the intensities of protocol `default` and with its
range, that of the reference inside the brain: with ranges of their own two regions could not be compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from scansynth.data.datasets import Acceleration
from scansynth.evaluation.acceleration import acceleration_note, acceleration_text
from scansynth.evaluation.figures import Figures, Synthesis
from scansynth.evaluation.sections import Cell, Line, Section, Table
from scansynth.evaluation.tables import Result, counted, csv_text, listed, spread_of, spread_text
from scansynth.files import write_text
from scansynth.metrics.cases import Case, inside_the_brain
from scansynth.metrics.image_metrics import MAE, PSNR, SSIM, WINDOW, box_around
from scansynth.metrics.protocols import PROTOCOLS
from scansynth.metrics.structural_similarity import ssim_maps

METRICS = (MAE, PSNR, SSIM)
PROTOCOL = PROTOCOLS["default"]
BIDS_LABELS = {
    1: "GM", 2: "WM", 3: "CSF", 4: "B", 5: "ST", 6: "NB", 7: "L", 8: "CGM", 9: "SGM", 10: "BS", 11: "CBM",
}  # fmt: skip
"""Of a mask named `dseg`: BIDS' common image-derived labels (grey matter, white matter, fluid, bone, soft tissue,
non-brain, lesion, cortical and subcortical grey matter, brainstem, cerebellum)."""


@dataclass(frozen=True)
class Region:
    """A mask, or one label of it."""

    mask: str
    """The mask's name."""
    label: int | None = None
    """None: all labels."""

    @property
    def name(self) -> str:
        """`seg`; of one label `seg-4`, or `dseg-GM` where BIDS names it."""
        if self.label is None:
            return self.mask
        return f"{self.mask}-{BIDS_LABELS.get(self.label, self.label) if self.mask == 'dseg' else self.label}"


@dataclass(frozen=True)
class RegionResult:
    """One run on one region of one subject."""

    result: Result
    """The run on the subject."""
    region: Region
    voxels: int
    figures: Mapping[str, float]
    """By the metrics' columns; SSIM is NaN where a side of the volume is shorter than its window."""


class RegionFigures(Figures):
    """Of each synthesis and each copied source, inside the subject's masks."""

    def __init__(self) -> None:
        self.found: list[RegionResult] = []
        self.results: list[Result] = []
        """Of all subjects, those without a mask too."""

    def collect(self, synthesis: Synthesis) -> None:
        """Measure each region that the subject has."""
        self.results.append(synthesis.result)
        self.found += measure_regions(synthesis.result, synthesis.image, synthesis.truth, synthesis.masks)

    @property
    def empty(self) -> bool:
        """Whether no subject has a mask."""
        return not self.found

    def write(self, folder: Path, *, acceleration: Acceleration = ()) -> None:
        """Write `regions.md` and `regions.csv`."""
        write_regions(self.found, self.results, folder, acceleration=acceleration)

    def section(self) -> Section:
        """Means over the subjects that have the region."""
        return Section(name="regions", heading="By region", table=_table(self.found, self.results))


def regions_of(masks: Mapping[str, np.ndarray]) -> dict[Region, np.ndarray]:
    """The regions of a subject: each mask as a whole, and each of its labels.

    Args:
        masks: by name, (X, Y, Z), 0 outside, whole numbers.

    Returns:
        Voxels by region, (X, Y, Z) bool; none without a voxel.
    """
    found = {}
    for name, mask in masks.items():
        labels = np.unique(mask[mask > 0])
        if labels.size:
            found[Region(name)] = mask > 0
        found |= {Region(name, int(label)): mask == label for label in labels}
    return found


def measure_regions(
    result: Result, synthesis: np.ndarray, reference: np.ndarray, masks: Mapping[str, np.ndarray]
) -> list[RegionResult]:
    """Measure a synthesis inside each region of its subject.

    Args:
        result: the run on the subject.
        synthesis: prepared volume, (X, Y, Z) in [0, 1].
        reference: the true prepared volume, (X, Y, Z).
        masks: of the subject, by name, (X, Y, Z).

    Raises:
        InputError: if the grids differ, a voxel is not finite, or the brain has no voxel or no range.
    """
    regions = regions_of(masks)
    if not regions:
        return []
    images = inside_the_brain(Case(synthesis.astype(np.float64), reference.astype(np.float64), masks))
    x, y = images.synthesis[0], images.reference[0]
    error = (x - y).abs().numpy()
    similarity = np.full(error.shape, np.nan)
    if min(error.shape) >= WINDOW:
        # Where the window of no voxel of a region reaches, nothing need be known.
        box = box_around(torch.from_numpy(np.any(list(regions.values()), axis=0)), WINDOW // 2)
        maps, _ = ssim_maps(x[box][None].float(), y[box][None].float(), images.data_range, size=WINDOW, reflect=True)
        similarity[box] = maps[0].numpy()
    found = []
    for region, voxels in regions.items():
        with np.errstate(divide="ignore"):
            decibels = 10 * np.log10(images.data_range**2 / np.mean(error[voxels] ** 2))
        values = (error[voxels].mean(), decibels, 100 * similarity[voxels].mean())
        figures = {metric.column: float(value) for metric, value in zip(METRICS, values, strict=True)}
        found.append(RegionResult(result, region, int(voxels.sum()), figures))
    return found


def write_regions(
    found: Sequence[RegionResult], results: Sequence[Result], folder: Path, *, acceleration: Acceleration = ()
) -> None:
    """Write `regions.md`, means over subjects, and `regions.csv`, a line a subject, region and figure.

    Both name the protocol with its version. A subject without a region is left out of that region's mean, and counted.

    Args:
        found: figures by region, at least one.
        results: figures of all subjects, those without a mask too.
        folder: where to; made if missing.
        acceleration: at which all was measured.
    """
    write_text(folder / "regions.md", _markdown(found, results, acceleration))
    write_text(folder / "regions.csv", csv_text(_records(found, acceleration)))


def rows_by_region(found: Sequence[RegionResult]) -> dict[tuple[str, str, Region], list[RegionResult]]:
    """By run, direction and region: targets and runs in the order given, masks before their labels.

    Left out are the labels of masks that have no label but 1: that is the mask itself.
    """
    labels: dict[str, set[int]] = {}
    for one in found:
        labels.setdefault(one.region.mask, set()).update(() if one.region.label is None else (one.region.label,))
    kept = [one for one in found if one.region.label is None or labels[one.region.mask] != {1}]
    rows: dict[tuple[str, str, Region], list[RegionResult]] = {}
    targets = list(dict.fromkeys(one.result.target for one in kept))
    runs = list(dict.fromkeys((one.result.label, one.result.direction) for one in kept))
    masks = list(dict.fromkeys(one.region.mask for one in kept))

    def place(one: RegionResult) -> tuple[int, ...]:
        run = one.result.label, one.result.direction
        order = targets.index(one.result.target), masks.index(one.region.mask), one.region.label or 0, runs.index(run)
        return order

    for one in sorted(kept, key=place):
        rows.setdefault((one.result.label, one.result.direction, one.region), []).append(one)
    return rows


def _table(found: Sequence[RegionResult], results: Sequence[Result]) -> Table:
    """A line a region, run and direction: means over the subjects that have the region."""
    lines = []
    for (label, direction, region), row in rows_by_region(found).items():
        subjects = sum((result.label, result.direction) == (label, direction) for result in results)
        cells = [Cell(f"{len(row)} of {subjects}"), Cell(f"{np.mean([one.voxels for one in row]):.0f}")]
        for metric in METRICS:
            values = spread_of([one.figures[metric.column] for one in row])
            text, _, spread = spread_text(values, metric.digits).partition(" ")
            cells.append(Cell(text, spread))
        lines.append(Line((region.name, label, direction), tuple(cells)))
    own = ("subjects", "voxels", *(metric.heading for metric in METRICS))
    notes = ("Intensities and range of protocol default: that of the reference inside the brain, for every region.",)
    notes += odd_notes(found)
    return Table("By region", ("region", "method", "direction"), own, tuple(lines), notes)


def odd_notes(found: Sequence[RegionResult]) -> tuple[str, ...]:
    """Whose figure is infinite or missing, and so left out of a mean of others: a line a region, figure and row."""
    headings = {metric.column: metric.heading for metric in METRICS}
    lines = []
    for (label, direction, region), row in rows_by_region(found).items():
        for column, heading in headings.items():
            infinite = [one.result.subject for one in row if np.isinf(one.figures[column])]
            if infinite:
                lines.append(
                    f"{heading} of {label}, {direction}, in {region.name} is infinite (no error) for "
                    f"{counted(infinite)}: left out of a mean of others: {listed(infinite)}."
                )
            missing = [one.result.subject for one in row if np.isnan(one.figures[column])]
            if missing and len(missing) < len(row):
                lines.append(
                    f"{heading} of {label}, {direction}, in {region.name} is missing (a side has less than {WINDOW} "
                    f"voxels) for {counted(missing)}: left out of a mean of others: {listed(missing)}."
                )
    return tuple(lines)


def _markdown(found: Sequence[RegionResult], results: Sequence[Result], acceleration: Acceleration) -> str:
    headings = ["region", "method", "direction", "subjects", "voxels", *(metric.heading for metric in METRICS)]
    lines = [
        f"By region, protocol `{PROTOCOL.name}`, version {PROTOCOL.version} ({PROTOCOL.source}).",
        "",
        f"| {' | '.join(headings)} |",
        f"| --- | --- | --- |{' ---: |' * (len(headings) - 3)}",
    ]
    for (label, direction, region), row in rows_by_region(found).items():
        subjects = sum((result.label, result.direction) == (label, direction) for result in results)
        cells = [region.name, label.replace("|", "\\|"), direction, f"{len(row)} of {subjects}"]
        cells += [f"{np.mean([one.voxels for one in row]):.0f}"]
        for metric in METRICS:
            spread = spread_of([one.figures[metric.column] for one in row])
            cells.append("–" if np.isnan(spread.mean) else spread_text(spread, metric.digits))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(
        [
            *lines,
            "",
            "Mean ± standard deviation over the subjects that have the region (“5 of 6”: one has no voxel of it and is "
            "left out); voxels: their mean number.",
            "",
            *(f"- {note}" for note in acceleration_note(acceleration)),
            "- Region: a mask of the cohort, all its labels together (`seg`) and each by itself (`seg-4`; of `dseg` by "
            "BIDS' names).",
            f"- Intensities: {PROTOCOL.intensities}.",
            "- Range: of the whole image, the reference's maximum less its minimum inside the brain; no region has its "
            "own.",
            f"- SSIM: the 3D map of the whole image averaged inside the region, whose edge sees what lies around; – "
            f"where a side of the volume has less than {WINDOW} voxels.",
            *(f"- {note}" for note in odd_notes(found)),
            "",
        ]
    )


def _records(found: Sequence[RegionResult], acceleration: Acceleration) -> list[dict[str, object]]:
    return [
        {
            "protocol": PROTOCOL.name,
            "protocol_version": PROTOCOL.version,
            "acceleration": acceleration_text(acceleration),
            "label": one.result.label,
            "direction": one.result.direction,
            "subject": one.result.subject,
            "region": one.region.name,
            "n_voxels": one.voxels,
            "figure": column,
            "value": value,
        }
        for row in rows_by_region(found).values()
        for one in row
        for column, value in one.figures.items()
    ]
