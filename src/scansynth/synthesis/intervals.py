"""Intervals of a run, kept in its folder: of which weights and which way of drawing, by target.

intervals.json   what `scansynth calibrate` found on the validation subjects (`metrics/conformal.py`)
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from scansynth.errors import InputError
from scansynth.files import write_text
from scansynth.metrics.conformal import Intervals
from scansynth.records import read_json

if TYPE_CHECKING:
    from scansynth.synthesis.run import Run

FILE = "intervals.json"


def key_of(run: "Run", *, samples: int, mean: bool) -> str:
    """Which way of drawing intervals belong to, in words: an interval around a draw is none around a mean."""
    if mean and run.method.gives_mean:
        return "mean, in one call"
    samples = samples if run.method.stochastic else 1
    return f"mean of {samples} draws" if samples > 1 else "one draw"


def write_intervals(run: "Run", found: Mapping[str, Intervals], *, samples: int, mean: bool, cohort: str) -> Path:
    """Keep intervals by target in the run's folder, beside those of other ways of drawing with the same weights.

    Args:
        run: whose they are.
        found: by target.
        samples: that were drawn for an image.
        mean: whether means were made.
        cohort: fingerprint of where the validation subjects are.
    """
    path = run.folder / FILE
    kept = _read(path) if path.is_file() else None
    ways: dict[str, Any] = {}
    if kept and kept["weights"] == run.weights["sha256"]:
        ways |= kept["ways"]
    ways[key_of(run, samples=samples, mean=mean)] = {name: asdict(one) for name, one in found.items()}
    content = {"weights": run.weights["sha256"], "cohort": cohort, "ways": ways}
    write_text(path, json.dumps(content, indent=1) + "\n")
    return path


def read_intervals(run: "Run", *, samples: int, mean: bool) -> dict[str, Intervals]:
    """Intervals by target.

    Raises:
        InputError: if there are none of these weights and this way of drawing.
    """
    path, key = run.folder / FILE, key_of(run, samples=samples, mean=mean)
    way = "".join([f" --samples {samples}" if samples > 1 else "", " --mean" if mean else ""])
    again = f"`scansynth calibrate --run {run.folder} --cohort COHORT{way}` makes them"
    if not path.is_file():
        raise InputError(f"{run.folder}: no intervals are known of this run; {again}")
    content = _read(path)
    if content["weights"] != run.weights["sha256"]:
        raise InputError(f"{path}: intervals of other weights than those that are taken; {again}")
    if key not in content["ways"]:
        known = "; ".join(content["ways"])
        raise InputError(f"{path}: intervals of other ways of drawing ({known}), not of: {key}; {again}")
    return {
        name: Intervals(
            levels=tuple(one["levels"]),
            limits=(one["limits"][0], one["limits"][1]),
            factors={region: tuple(factors) for region, factors in one["factors"].items()},
            subjects=one["subjects"],
            sources=tuple(one["sources"]),
        )
        for name, one in content["ways"][key].items()
    }


def weights_of_intervals(folder: Path) -> str | None:
    """SHA-256 of the weights that a run's intervals are of; None where there are none."""
    return _read(folder / FILE)["weights"] if (folder / FILE).is_file() else None


class _Way(TypedDict):
    """Intervals of one target by one way of drawing."""

    levels: list[float]
    limits: list[float]
    factors: dict[str, list[float]]
    subjects: int
    sources: list[str]


class _Kept(TypedDict):
    """What the file says."""

    weights: str
    ways: dict[str, dict[str, _Way]]


def _read(path: Path) -> _Kept:
    return read_json(path, _Kept, "delete it and calibrate again")
