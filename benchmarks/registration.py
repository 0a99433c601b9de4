"""How well `prepare --raw` finds planted motions, and how well its rough mask the brain.

    python benchmarks/registration.py --cohort DATA -o benchmarks/results/registration.json

Of phantoms with a skull, and of a folder of subjects whose scans share a grid, each contrast is moved by up to 12
degrees about each axis and 20 mm along each, and sliced anew at 0.8×0.8×4 mm; then it is registered to the first
contrast. The error is the root mean square distance over the head between the planted motion and the one that is found.
Scans of patients share a grid only as well as those who registered them could do: what they were off counts as an error
here. The mask is held against the brains of phantoms without a skull. One thread.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import from_matvec
from scipy.spatial.transform import Rotation

from measuring import save
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import make_phantom
from scansynth.data.raw.brain import rough_mask
from scansynth.data.raw.registration import distance, head_points, moved, register
from scansynth.data.volume import Volume

DEGREES, MILLIMETRES = 12.0, 20.0
SPACING, SHAPE = (0.8, 0.8, 4.0), (240, 280, 48)
HEAD = (92, 112, 100), 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cohort", type=Path, help="data folder, scans of each subject on one grid")
    parser.add_argument("--subjects", type=int, default=5, help="of that folder, and phantoms")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    asked = parser.parse_args()
    rng, rows = np.random.default_rng(0), []
    for number in range(asked.subjects):
        head = make_phantom(100 + number, *HEAD, skull=True, tumour=bool(number % 2))
        scans = {name: Volume.of(head.contrast(name), head.affine) for name in ("T1w", "T2w", "FLAIR")}
        rows += registered(f"phantom {number + 1}", scans, rng)
    subjects = find_subjects(asked.cohort).subjects[: asked.subjects] if asked.cohort else ()
    for number, subject in enumerate(subjects, 1):
        rows += registered(f"test-{number}", {name: Volume.read(file) for name, file in subject.scans.items()}, rng)
    masks = [masked(100 + number, contrast) for number in range(asked.subjects) for contrast in ("T1w", "FLAIR", "T2w")]
    kinds = {kind: [row for row in rows if row["subject"].startswith(kind)] for kind in ("phantom", "test")}
    save(asked.output, {
        "planted": {"degrees": DEGREES, "mm": MILLIMETRES, "voxels_mm": SPACING},
        "summary": {kind: summary(found) for kind, found in kinds.items()},
        "registrations": rows, "rough_masks": masks,
    })  # fmt: skip


def registered(subject: str, scans: dict[str, Volume], rng: np.random.Generator) -> list[dict[str, Any]]:
    """A row for each contrast but the first."""
    (first, fixed), *others = scans.items()
    points, rows = head_points(fixed, first), []
    for name, volume in others:
        planted = motion(points.mean(0), rng)
        moving = sliced(volume, planted, points.mean(0))
        begun = time.process_time()
        found = register(fixed, moving, contrasts=(first, name))
        left = found.matrix[:3, :3] @ planted[:3, :3].T
        rows.append({
            "subject": subject, "contrasts": f"{name} to {first}",
            "planted_degrees": round(angle(planted[:3, :3]), 2),
            "planted_mm": round(distance(planted, np.eye(4), points), 2),
            "error_mm": round(distance(found.matrix, planted, points), 3), "error_degrees": round(angle(left), 3),
            "starts_apart_mm": round(found.apart, 3), "processor_seconds": round(time.process_time() - begun, 1),
        })  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def motion(centre: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A turn about a centre and a shift, (4, 4) mm."""
    turn = Rotation.from_rotvec(rng.uniform(-DEGREES, DEGREES, 3), degrees=True).as_matrix()
    return from_matvec(turn, centre - turn @ centre + rng.uniform(-MILLIMETRES, MILLIMETRES, 3))


def sliced(volume: Volume, planted: np.ndarray, centre: np.ndarray) -> Volume:
    """A scan lain down anew, in thick slices of a grid of its own."""
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = planted[:3, :3] @ centre + planted[:3, 3] - affine[:3, :3] @ (np.array(SHAPE) - 1) / 2
    like = Volume.of(np.zeros(SHAPE, np.float32), affine)
    return replace(like, array=moved(volume, np.linalg.inv(planted), like, 0.0), _found={})


def angle(turn: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(turn) - 1) / 2, -1, 1))))


def masked(seed: int, contrast: str) -> dict[str, Any]:
    """The rough mask of a phantom beside its true brain."""
    head, bare = (make_phantom(seed, *HEAD, skull=skull) for skull in (True, False))
    truth, found = bare.fractions[0] < 0.5, rough_mask(Volume.of(head.contrast(contrast), head.affine), contrast)
    dice = 2 * (truth & found).sum() / (truth.sum() + found.sum())
    row = {"phantom": seed, "contrast": contrast, "dice": round(float(dice), 4)}
    print(row, flush=True)
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    if not rows:
        return {}
    return {
        f"{name}_{kind}": round(float(how([row[name] for row in rows])), 3)
        for name in ("error_mm", "error_degrees", "processor_seconds")
        for kind, how in (("median", np.median), ("largest", np.max))
    }


if __name__ == "__main__":
    main()
