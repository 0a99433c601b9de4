"""How a source of a translation may be unlike a run's training: one function a rule, as in `census_checks.py`."""

import math

import numpy as np

from scansynth.data.appearance import UPRIGHT, Pattern, Pose, alike, best_pose, unpacked
from scansynth.data.census_checks import LEAST_OTHERS, Others
from scansynth.data.scan_facts import ScanFacts
from scansynth.data.usual import FIGURES, has_skull


def unlike_training(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """Figures far from the run's training scans."""
    usual = others.usual.get(scan.contrast)
    if usual is None or usual.scans < LEAST_OTHERS:
        return None
    for name, figure in FIGURES.items():
        middle, deviation = usual.figures.get(name, (0.0, math.inf))  # of another version's run
        if abs(figure(scan) - middle) > threshold * deviation:
            return f"{name}: {figure(scan):.3g}, where the run's training had {middle:.3g}"
    return None


def skull_unlike_training(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """A head for a run of brains, or a brain for a run of heads."""
    usual = others.usual.get(scan.contrast)
    if usual is None or usual.scans < 2:
        return None
    volume = usual.figures.get("volume of the head", (0.0, 0.0))[0]
    if has_skull(scan) and usual.with_skull <= threshold and scan.head_ml > 1.5 * volume:
        return f"it shows the skull (foreground of {scan.head_ml:.0f} ml), and the run was trained on brains alone"
    if not has_skull(scan) and usual.with_skull >= 1 - threshold and scan.head_ml < volume / 1.5:
        return f"it is stripped of the skull ({scan.head_ml:.0f} ml), and the run was trained on whole heads"
    return None


def spacing_unlike_training(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """Other voxels than the run's training scans."""
    usual = others.usual.get(scan.contrast)
    if usual is None:
        return None
    least = [mm or 0.0 for mm in others.worked]  # what is finer is seen no finer
    own, known = np.maximum(scan.spacing, least), np.maximum(usual.spacing, least)
    if float(np.max(np.maximum(own / known, known / own))) <= threshold:
        return None
    here, there = ("×".join(f"{mm:.3g}" for mm in one) for one in (scan.spacing, usual.spacing))
    return f"voxels of {here} mm, where the run's training had {there} mm"


REVERSED = {
    (False, True): "upside down", (True, False): "with nose and back of the head exchanged",
    (True, True): "turned around and upside down",
}  # fmt: skip
"""Which of the anterior and the superior axis is reversed, in words."""


def lies_otherwise(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """A head that fits the training's better upside down, or with axes exchanged."""
    pattern = _pattern(scan, others)
    if pattern is None:
        return None
    own, mean = unpacked(scan.afar), pattern.blocks()
    here, (there, pose) = alike(own, mean), best_pose(own, mean)
    if there - here <= threshold - min(0.0, pattern.upright) or there < pattern.whole - threshold:
        return None
    return (
        f"the head seems to lie {_in_words(pose)}: turned back, it is {there:.2f} like the run's training, as its "
        f"header says {here:.2f} (correlation)"
    )


def _in_words(pose: Pose) -> str:
    axes, flips = pose
    if axes == UPRIGHT[0]:
        return REVERSED[flips[1:]]
    return (
        f"with axes exchanged (right, anterior and superior are its axes {', '.join(str(axis + 1) for axis in axes)})"
    )


def another_contrast(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """A scan that looks like another contrast of the run's training."""
    pattern = _pattern(scan, others)
    if pattern is None:
        return None
    own = unpacked(scan.afar)
    here = alike(own, pattern.blocks(), inner=True)
    for name, usual in others.usual.items():
        if name == scan.contrast or usual.pattern is None:
            continue
        there = alike(own, usual.pattern.blocks(), inner=True)
        if there - here > threshold - min(0.0, pattern.apart.get(name, -1.0)):
            return (
                f"it looks like {name} ({there:.2f}), not like {scan.contrast} ({here:.2f}): correlation with the "
                "run's training"
            )
    return None


def pattern_unlike_training(scan: ScanFacts, others: Others, threshold: float) -> str | None:
    """A scan that looks like none of the training's."""
    pattern = _pattern(scan, others)
    if pattern is None:
        return None
    here = alike(unpacked(scan.afar), pattern.blocks(), inner=True)
    if here >= pattern.inner - threshold:
        return None
    return f"it looks like none of the run's training ({here:.2f}, where these have {pattern.inner:.2f} at least)"


def _pattern(scan: ScanFacts, others: Others) -> Pattern | None:
    usual = others.usual.get(scan.contrast)
    return usual.pattern if usual else None
