"""What of a scan is background, and what is foreground: found from the scan, for single voxels decide nothing.

MR has no unit and no sign that all agree on: magnitudes begin at 0, but scans also come stored in [−1, 1], z-scored or
with an offset. So what is empty is read off the border, where nearly every scan shows air or the zeros of a mask.
"""

import numpy as np

AIR_HU = -1000.0
"""What an empty voxel measures in CT; scanners write less (−1024, −2000, −3024) outside their field of view."""
CONSTANT = 0.25
"""Share of the border from which on one value is that of a mask or of padding."""
NOISE = 0.05
"""Of the way from the background to the brightest tissue, and of the voxels: what may lie below a noisy background."""
DARK = 1 / 8
"""Share of a scan's mean above its background from which on a voxel counts as foreground."""
SAMPLE = 100_000
"""Values that percentiles of a scan are taken of: more say no more."""
CEILING = 2.0
"""Of the 99.9th percentile: brighter voxels count as no brighter. Scans have no tissue there; spikes and metal are."""


def find_background(array: np.ndarray, contrast: str) -> float:
    """What an empty voxel of a scan measures.

    Air in CT. In MR the most frequent value of the six outer faces, or 0 where that is dark beside the scan's mean
    (noise of a magnitude image), or where the faces show tissue and other voxels are dark.

    Args:
        array: the whole scan as acquired, (X, Y, Z).
        contrast: standard name of the contrast.
    """
    if contrast == "CT":
        return AIR_HU
    lowest = float(array.min())
    dark = DARK * float((array if lowest >= 0 else np.maximum(array, 0)).mean(dtype=np.float64))
    border = faces(array)
    values, counts = np.unique(border, return_counts=True)
    constant = counts.max() >= CONSTANT * border.size
    mode = float(values[counts.argmax()]) if constant else _smooth_mode(border)
    if abs(mode) <= dark or (not constant and 0 <= lowest <= dark):
        return 0.0
    if lowest >= 0 and not constant:  # an offset, or a crop that is tissue up to its faces
        values = thinned(array)
        darker = values < mode - NOISE * (top_of(values) - mode)
        return mode if darker.mean() < NOISE else 0.0
    return mode


def foreground_threshold(array: np.ndarray, contrast: str, background: float | None = None) -> float:
    """The value above which a voxel counts as foreground: one eighth of the mean above the background.

    SPM's global (`spm_global`) draws the same line. Nothing lies below the background, and voxels of more than twice
    the 99.9th percentile count as twice that, so that a spike or metal moves no line.

    Args:
        array: the whole scan as acquired, (X, Y, Z).
        contrast: standard name of the contrast.
        background: as `find_background` gives it; None finds it.
    """
    empty = find_background(array, contrast) if background is None else background
    above = array if empty == 0 and array.min() >= 0 else np.maximum(array - np.float32(empty), 0)
    ceiling = CEILING * top_of(above)
    if 0 < ceiling < float(above.max()):
        above = np.minimum(above, ceiling)
    return empty + DARK * float(above.mean(dtype=np.float64))


def top_of(values: np.ndarray) -> float:
    """The 99.9th percentile: what is bright in some values, of any shape, whatever the brightest is.

    Of many values, of a sample of them (`thinned`).
    """
    return at_share(np.sort(thinned(values)), 0.999)


def at_share(ordered: np.ndarray, share: float) -> float:
    """The value below which a share of ordered values lies."""
    return float(ordered[int(share * (ordered.size - 1))])


def thinned(values: np.ndarray) -> np.ndarray:
    """Every n-th value, flat, in a stride that meets all columns; at least `SAMPLE` where there are so many."""
    step = max(1, values.size // SAMPLE)
    while step > 1 and any(step % side == 0 or side % step == 0 for side in values.shape[1:]):
        step -= 1
    return values.reshape(-1)[::step]


def faces(array: np.ndarray) -> np.ndarray:
    """The voxels of the six outer faces, flat."""
    ends = [array.take((0, -1), axis).ravel() for axis in range(3)]
    return np.concatenate(ends)


def bounding_box(mask: np.ndarray) -> tuple[slice, slice, slice]:
    """The smallest box that holds a mask, (X, Y, Z) bool; the whole array if the mask is empty."""
    box = []
    for axis in range(3):
        hits = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        box.append(slice(int(hits[0]), int(hits[-1]) + 1) if hits.size else slice(0, mask.shape[axis]))
    return box[0], box[1], box[2]


def _smooth_mode(values: np.ndarray) -> float:
    """Where values that hardly repeat are densest: the median of the fullest of 64 bins."""
    low, high = np.percentile(values, (1, 99))
    if low == high:
        return float(low)
    counts, edges = np.histogram(values, 64, (low, high))
    fullest = int(counts.argmax())
    inside = values[(values >= edges[fullest]) & (values <= edges[fullest + 1])]
    return float(np.median(inside))
