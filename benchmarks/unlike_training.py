"""What `translate` says of sources that its run knows nothing of, by kind, and how often it stops usual ones.

    python benchmarks/unlike_training.py runs/unlike --brains DATA --heads DATA --elsewhere DATA --raw DATA \
        -o benchmarks/results/unlike-training.json

Two runs: one of brains in several contrasts, one of heads with their skulls in T1w. Each is shown the scans that it was
not trained on, as they are, from the same place and from elsewhere, and then spoilt in one way after the other. Counted
are scans that are refused, those of which something is said that is not said of the same scan unspoilt, and those that
pass in silence. The guard asks nothing of a network: the runs are trained for one step. Subjects are not named.
"""

import argparse
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from measuring import save
from scansynth.data.build_cohort import build_cohort
from scansynth.data.cohort import Cohort
from scansynth.data.layouts import Listing, find_subjects
from scansynth.data.phantom import make_phantom
from scansynth.data.prepare import Preparation, grid_for
from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.recipes import find_recipe
from scansynth.synthesis.guard import found_in
from scansynth.synthesis.run import Run
from scansynth.training.train import train

CPU = torch.device("cpu")
SIDE = 256
"""Of prepared planes, voxels: all heads fit."""
SLICES = 5.0
"""Millimetres of thick slices."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where cohorts and runs lie")
    parser.add_argument("--brains", type=Path, required=True, help="data: brains in several contrasts, with a split")
    parser.add_argument("--heads", type=Path, required=True, help="data: heads with skulls in T1w, with a split")
    parser.add_argument("--elsewhere", type=Path, help="data: brains that another place prepared")
    parser.add_argument("--raw", type=Path, help="data: heads as scanners gave them")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    asked = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    brains, heads = (find_subjects(place) for place in (asked.brains, asked.heads))
    strangers = {
        "the skull is there": [*scans_of(heads, "test"), *(scans_of(find_subjects(asked.raw)) if asked.raw else [])],
        "from elsewhere": scans_of(find_subjects(asked.elsewhere)) if asked.elsewhere else [],
    }
    rows = table("brains", made(asked.folder / "brains", brains), scans_of(brains, "test", "val"), strangers)
    strangers = {"the skull is gone": [
        one for one in scans_of(brains, "test", "val") if one[0] == "T1w"
    ]}  # fmt: skip
    rows += table("heads", made(asked.folder / "heads", heads), scans_of(heads, "test"), strangers)
    save(asked.output, {"results": rows})


def made(folder: Path, listing: Listing) -> Run:
    """A run that was trained for one step on a cohort of the data."""
    build_cohort(listing, folder / "cohort", Preparation(size=(SIDE, SIDE, None), intensity="robust"))
    cohort = Cohort.open(folder / "cohort")
    recipe = find_recipe("autoencoder_small")
    training = replace(recipe.training, steps=1, validate_every=1_000_000, threads=1, precision="float32")
    train(replace(recipe, contrasts=cohort.contrasts, training=training), cohort, folder / "run", device=CPU)
    return Run.load(folder / "run", "cpu")


def scans_of(listing: Listing, *splits: str) -> list[tuple[str, Volume]]:
    """Contrast and scan, of all subjects or those of splits."""
    return [
        (contrast, Volume.read(file))
        for subject in listing.subjects
        if not splits or subject.split in splits
        for contrast, file in subject.scans.items()
    ]


def table(
    name: str, run: Run, usual: list[tuple[str, Volume]], strangers: Mapping[str, list[tuple[str, Volume]]]
) -> list[dict[str, Any]]:
    """A row a kind of source."""
    before = [said(run, contrast, scan) for contrast, scan in usual]
    rows = [counted(name, "as those it was trained on", [(one, set()) for one in before])]
    for kind, scans in strangers.items():
        known = [(contrast, scan) for contrast, scan in scans if contrast in run.config.contrasts]
        if known:
            rows.append(counted(name, kind, [(said(run, contrast, scan), set()) for contrast, scan in known]))
    for kind, spoil in KINDS.items():
        found = [
            (said(run, asked, spoilt), set() if of is None else of[1])
            for (contrast, scan), of in zip(usual, before, strict=True)
            for asked, spoilt in spoil(contrast, scan, run.config.contrasts)
        ]
        if found:
            rows.append(counted(name, kind, found))
    for row in rows:
        print(json.dumps(row), flush=True)
    return rows


def said(run: Run, contrast: str, scan: Volume) -> tuple[bool, set[str]]:
    """Whether a source is refused, and the rules that it breaks."""
    volumes = {contrast: scan}
    try:
        grid = grid_for(volumes, run.record.settings)
        _, facts = found_in(run.record, volumes, grid)
    except InputError as error:
        return True, {str(error).partition(":")[0]}
    return any(one.rule.severity == "impossible" for one in facts), {one.rule.name for one in facts}


def counted(run: str, kind: str, found: list[tuple[tuple[bool, set[str]], set[str]]]) -> dict[str, Any]:
    """Shares of scans, and the rules that spoke."""
    refused = sum(one for (one, _), _ in found)
    told = sum(not one and bool(rules - before) for (one, rules), before in found)
    spoke: dict[str, int] = {}
    for (_, rules), before in found:
        for rule in rules - before:
            spoke[rule] = spoke.get(rule, 0) + 1
    return {
        "run": run, "kind": kind, "scans": len(found), "refused": refused, "warned": told,
        "silent": len(found) - refused - told, "rules": dict(sorted(spoke.items(), key=lambda item: -item[1])),
    }  # fmt: skip


def turned(how: Callable[[np.ndarray], np.ndarray]) -> "Spoil":
    """The scan with its voxels changed."""

    def spoil(contrast: str, scan: Volume, _: tuple[str, ...]) -> Iterator[tuple[str, Volume]]:
        yield contrast, Volume.of(np.ascontiguousarray(how(scan.array)), scan.affine)

    return spoil


def with_affine(change: np.ndarray) -> "Spoil":
    """The scan with its voxel sizes changed."""

    def spoil(contrast: str, scan: Volume, _: tuple[str, ...]) -> Iterator[tuple[str, Volume]]:
        yield contrast, Volume.of(scan.array, scan.affine @ change)

    return spoil


def as_another(*, with_t2: bool) -> "Spoil":
    """The scan under each of the other contrasts' names: those where one of the two is T2w, or those where none is."""

    def spoil(contrast: str, scan: Volume, contrasts: tuple[str, ...]) -> Iterator[tuple[str, Volume]]:
        for other in contrasts:
            if other != contrast and ("T2w" in (contrast, other)) == with_t2:
                yield other, scan

    return spoil


def thick(contrast: str, scan: Volume, _: tuple[str, ...]) -> Iterator[tuple[str, Volume]]:
    """The scan in slices of 5 mm."""
    factor = SLICES / scan.spacing[2]
    array = ndimage.gaussian_filter1d(scan.array, factor / 2.5, axis=2)
    array = ndimage.zoom(array, (1, 1, 1 / factor), order=1)
    yield contrast, Volume.of(array, scan.affine @ np.diag([1, 1, scan.array.shape[2] / array.shape[2], 1]))


def computed_tomography(contrast: str, scan: Volume, _: tuple[str, ...]) -> Iterator[tuple[str, Volume]]:
    """The CT of a phantom, with and without its skull, in Hounsfield units."""
    for skull in (False, True):
        head = make_phantom(scan.array.size % 97, (88, 112, 88), 2.0, skull=skull)
        yield contrast, Volume.of(head.contrast("CT"), head.affine)


def ball(contrast: str, scan: Volume, _: tuple[str, ...]) -> Iterator[tuple[str, Volume]]:
    """A ball of gel, as scanners are tested with."""
    grid = np.ogrid[tuple(slice(-1, 1, complex(0, side)) for side in scan.array.shape)]
    noise = np.random.default_rng(0).normal(0, 0.02, scan.array.shape)
    inside = sum(axis**2 for axis in grid) < 0.6
    top = float(np.percentile(scan.array, 99))
    yield contrast, Volume.of(top * np.abs(inside * 0.7 + noise).astype(np.float32) * inside, scan.affine)


def inverted(array: np.ndarray) -> np.ndarray:
    """Bright what was dark, inside the head."""
    return np.where(array > 0, array[array > 0].max() * 1.05 - array, 0)


def noisy(array: np.ndarray) -> np.ndarray:
    """Rician noise of a third of the head's mean."""
    rng, level = np.random.default_rng(0), array[array > array.mean()].mean() / 3
    return np.hypot(array + rng.normal(0, level, array.shape), rng.normal(0, level, array.shape))


Spoil = Callable[[str, Volume, tuple[str, ...]], Iterator[tuple[str, Volume]]]
KINDS: dict[str, Spoil] = {
    "T2w under another's name, another as T2w": as_another(with_t2=True),
    "T1w, T1ce, FLAIR under each other's names": as_another(with_t2=False),
    "upside down": turned(lambda array: array[:, :, ::-1]),
    "nose to the back": turned(lambda array: array[:, ::-1]),
    "axes exchanged (y and z)": turned(lambda array: array.transpose(0, 2, 1)),
    "axes exchanged (x and y)": turned(lambda array: array.transpose(1, 0, 2)),
    "slices of 5 mm": thick,
    "voxel sizes in cm": with_affine(np.diag([0.1, 0.1, 0.1, 1.0])),
    "voxel sizes lost (1 mm become 2)": with_affine(np.diag([2.0, 2.0, 2.0, 1.0])),
    "the upper half missing": turned(lambda array: array[:, :, : array.shape[2] // 2]),
    "one side missing": turned(lambda array: array[: array.shape[0] // 2]),
    "intensities inverted": turned(inverted),
    "noise of a third of the signal": turned(noisy),
    "a CT": computed_tomography,
    "a ball of gel": ball,
    "noise alone": turned(lambda array: np.abs(np.random.default_rng(0).normal(0, 100, array.shape))),
}

if __name__ == "__main__":
    main()
