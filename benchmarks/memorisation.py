"""The verdict on memorised volumes: which planted copies are found, and how often a new person is called one.

    python benchmarks/memorisation.py --real DATA -o benchmarks/results/memorisation.json

Phantoms (T1w, 60×72×60 voxels of 3 mm) and real heads (a folder of NIfTI files, T1w, resampled to 2.8 mm) are split
into training, held-out and new people. Of four training people each change makes a planted copy:

- noise: Rician, deviation in per cent of the brightest voxels; gamma; bias: a smooth field of factors, 1 ± so many per
  cent; blur: Gaussian, deviation in voxels;
- blends: the mean of two training people as they lie, half and half or 70 to 30;
- moved: turned by 3 degrees and shifted by one to two voxels; mirrored; all: mirrored, moved, gamma 0.8, bias 20 %,
  noise 2 %.

New people were never trained on; they are measured as they are, blurred, with noise, and as means of two: images as
generators make them, none of which is a copy. Each row says how many of its volumes got which grade with all held-out
volumes, with four and with none, how many had the right volume named, and the unexplained shares.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from measuring import save
from scansynth.data.phantom import make_phantom
from scansynth.data.volume import Volume
from scansynth.sets.memorisation import CLEAR, COPY, MIXED, Memorisation, Nearest, find_memorised
from scansynth.sets.registration import Map, warped
from scansynth.sets.volume_sets import VolumeSet

TRAINING, HELD_OUT, COPIED = 36, 12, 4
SPACING = 2.8
"""Of real heads, mm."""
Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]


def noisy(volume: np.ndarray, deviation: float, rng: np.random.Generator) -> np.ndarray:
    """Rician noise."""
    real, imaginary = deviation * rng.standard_normal((2, *volume.shape))
    return np.hypot(volume + real, imaginary)


def field(shape: tuple[int, ...], depth: float, rng: np.random.Generator) -> np.ndarray:
    """Factors from 1 − depth to 1 + depth, of second order in the position."""
    u = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij"))
    found = np.einsum("i,ixyz->xyz", rng.standard_normal(3), u)
    found += np.einsum("ij,ixyz,jxyz->xyz", rng.standard_normal((3, 3)), u, u)
    return 1 + depth * (2 * (found - found.min()) / np.ptp(found) - 1)


def moved(volume: np.ndarray) -> np.ndarray:
    """Turned by three degrees about the long axis, and shifted."""
    angle = np.deg2rad(3)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return np.clip(warped(volume, Map(turn, np.array([0.03, -0.04, 0.05])), volume.shape, order=3), 0, None)


CHANGES: dict[str, Change] = {
    "exact": lambda v, _, __: v,
    **{f"noise {100 * s:g} %": lambda v, _, rng, s=s: noisy(v, s, rng) for s in (0.02, 0.05, 0.1)},
    **{f"gamma {g:g}": lambda v, _, __, g=g: v**g for g in (0.6, 0.8, 1.25, 1.6)},
    **{f"bias {100 * d:g} %": lambda v, _, rng, d=d: v * field(v.shape, d, rng) for d in (0.2, 0.4)},
    **{f"blur {s:g}": lambda v, _, __, s=s: ndimage.gaussian_filter(v, s) for s in (0.5, 1.0)},
    "blend 50:50": lambda v, other, _: (v + other) / 2,
    "blend 70:30": lambda v, other, _: 0.7 * v + 0.3 * other,
    "moved": lambda v, _, __: moved(v),
    "mirrored": lambda v, _, __: v[::-1],
    "all": lambda v, _, rng: noisy(moved(v[::-1]) ** 0.8 * field(v.shape, 0.2, rng), 0.02, rng),
}
NEW: dict[str, Change] = {
    "new": lambda v, _, __: v,
    "new, blurred by 1": lambda v, _, __: ndimage.gaussian_filter(v, 1.0),
    "new, noise 5 %": lambda v, _, rng: noisy(v, 0.05, rng),
    "new, bias 40 %": lambda v, _, rng: v * field(v.shape, 0.4, rng),
    "mean of two new": lambda v, other, _: (v + other) / 2,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--real", type=Path, help="folder of NIfTI files of heads, 52 or more; only phantoms without it"
    )
    parser.add_argument("--people", type=int, default=64, help="training 36, held out 12, new ones the rest")
    parser.add_argument("--copied", type=int, default=COPIED, help="training people that are copied")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    cohorts = {"phantoms": (phantoms(arguments.people), 3.0)}
    if arguments.real:
        cohorts["real heads"] = heads(arguments.real, arguments.people), SPACING
    content = {name: measured(*one, arguments.copied) for name, one in cohorts.items()}
    save(arguments.output, {"capability": torch.backends.cpu.get_cpu_capability(), **content})


def measured(people: list[np.ndarray], spacing: float, copied: int) -> dict[str, object]:
    """Grades of all planted and new volumes of one cohort."""
    begun = time.perf_counter()
    found, what = search(people, copied)
    rows = [row(kind, found, what) for kind in (*CHANGES, *NEW)]
    for one in rows:
        print(json.dumps(one, ensure_ascii=False), flush=True)
    by_one, by_two = ([round(v, 4) for v in sorted(values)] for values in held_out(found))
    return {
        "shape": list(people[0].shape),
        "spacing_mm": spacing,
        "training": TRAINING,
        "held_out": HELD_OUT,
        "new": len(people) - TRAINING - HELD_OUT,
        "copied": copied,
        "constants": {"COPY": COPY, "CLEAR": CLEAR, "MIXED": MIXED},
        "seconds": round(time.perf_counter() - begun),
        "held_out_unexplained": {"by_one": by_one, "by_two": by_two},
        "results": rows,
    }


def phantoms(count: int) -> list[np.ndarray]:
    """T1w of phantoms, [0, 1]."""
    return [scaled(make_phantom(1000 + seed, (60, 72, 60), 3.0).contrast("T1w")) for seed in range(count)]


def heads(folder: Path, count: int) -> list[np.ndarray]:
    """T1w of real heads on one grid, [0, 1]."""
    found = []
    for path in sorted(folder.rglob("*.nii.gz"))[:count]:
        volume = Volume.read(path)
        factors = np.array(volume.spacing) / SPACING
        found.append(scaled(ndimage.zoom(ndimage.gaussian_filter(volume.array, 0.3 / factors), factors, order=1)))
    least = np.min([one.shape for one in found], axis=0)
    return [
        one[tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(one.shape, least, strict=True))]
        for one in found
    ]


def scaled(volume: np.ndarray) -> np.ndarray:
    """By its 99.9th percentile, at most 1."""
    return np.clip(volume / np.percentile(volume, 99.9), 0, 1).astype(np.float32)


def search(people: list[np.ndarray], copied: int) -> tuple[Memorisation, dict[str, tuple[str, set[str]]]]:
    """What is found; of each generated volume, by name, its kind and the training volumes that it was made of."""
    rng = np.random.default_rng(0)
    training, new = people[:TRAINING], people[TRAINING + HELD_OUT :]
    made: dict[str, np.ndarray] = {}
    what: dict[str, tuple[str, set[str]]] = {}
    for kinds, group, count in ((CHANGES, training, copied), (NEW, new, len(new))):
        for kind, change in kinds.items():
            for k in range(count if kind in (*CHANGES, "new") else min(count, copied)):
                other = (k + 1 + len(group) // 3) % len(group)
                name = f"{kind}, {k}"
                made[name] = np.ascontiguousarray(change(group[k], group[other], rng), np.float32)
                parents = {f"train {k}", *([f"train {other}"] if "blend" in kind else [])}
                what[name] = kind, parents if kind in CHANGES else set()
    found = find_memorised(
        VolumeSet.of("planted", made),
        VolumeSet.of("training", {f"train {k}": one for k, one in enumerate(training)}),
        VolumeSet.of("held out", {f"held {k}": one for k, one in enumerate(people[TRAINING : TRAINING + HELD_OUT])}),
    )
    return found, what


def row(kind: str, found: Memorisation, what: dict[str, tuple[str, set[str]]]) -> dict[str, object]:
    """Grades and distances of the volumes of one kind."""
    some = [one for one in found.generated if what[one.name][0] == kind]
    few = replace(found, held_out=found.held_out[:4], near=None, near_two=None)
    none = replace(few, held_out=())
    return {
        "kind": kind,
        "volumes": len(some),
        "named_right": sum(right(one, found, what[one.name][1]) for one in some),
        "grades": dict(Counter(found.grade(one) for one in some)),
        "grades_4_held_out": dict(Counter(few.grade(one) for one in some)),
        "grades_0_held_out": dict(Counter(none.grade(one) for one in some)),
        "unexplained": spread([one.match.unexplained for one in some]),
        "by_two": spread([one.by_two for one in some]),
        "by_others": spread([one.others for one in some]),
        "by_other_pairs": spread([one.other_pairs for one in some]),
    }


def right(one: Nearest, found: Memorisation, parents: set[str]) -> bool:
    """Whether all training volumes that a copy or a blend is said to show are in it."""
    named = one.blend.matches if one.blend and found.grade(one) == "blend" else (one.match,)
    return {match.name for match in named} <= parents


def spread(values: list[float]) -> list[float]:
    """Smallest, median, largest."""
    return [round(float(value), 4) for value in (min(values), np.median(values), max(values))]


def held_out(found: Memorisation) -> tuple[list[float], list[float]]:
    """Unexplained shares of held-out people, by one and by two training volumes."""
    return [one.match.unexplained for one in found.held_out], [one.by_two for one in found.held_out]


if __name__ == "__main__":
    main()
