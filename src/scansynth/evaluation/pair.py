"""Two images, measured under a protocol: files, or what is in memory."""

from collections.abc import Mapping

import numpy as np

from scansynth.data.sources import Source, as_labels, as_volume
from scansynth.data.volume import Volume, check_same_grid
from scansynth.errors import InputError
from scansynth.metrics.cases import HU_RANGE, prepare_synthrad
from scansynth.metrics.protocols import Measurement, Protocol, find_protocol
from scansynth.metrics.protocols import measure as measure_arrays


def measure(
    protocol: str | Protocol,
    synthesis: Source | np.ndarray,
    reference: Source | np.ndarray,
    *,
    masks: Mapping[str, Source | np.ndarray] | None = None,
    prepared: bool = False,
) -> Measurement:
    """Measure an image against the true one.

    Protocols are of prepared images, in [0, 1]. Two images in the scanner's unit are brought there together: divided by
    the reference's maximum, as `scansynth evaluate --spread` does it, so that both must have one scale. Protocol
    `synthrad` takes them in Hounsfield units.

    Args:
        protocol: a name in `PROTOCOLS`, or a protocol (one with a further metric).
        synthesis: path, `Volume`, nibabel image, or (array, affine); an array alone, (X, Y, Z), is taken to lie on the
            reference's grid.
        reference: the truth, likewise, on the same grid.
        masks: that the protocol reads, by name (`brain`, `seg`, `body`), likewise.
        prepared: whether both are prepared images already, in [0, 1], to be measured as they stand: from a cohort, or
            written by `scansynth generate`.

    Returns:
        The protocol's figures; `mean(column)` is the subject's.

    Raises:
        InputError: if an image or mask cannot be read, their grids differ, the reference has negative values, or the
            protocol cannot measure them (`scansynth.metrics.measure`).
    """
    protocol = find_protocol(protocol)
    truth = _volume(reference, "reference", np.eye(4))
    made = _volume(synthesis, "synthesis", truth.affine)
    check_same_grid({"synthesis": made, "reference": truth})
    found = {}
    for name, mask in (masks or {}).items():
        labels, affine = as_labels((mask, truth.affine) if isinstance(mask, np.ndarray) else mask, f"mask {name}")
        check_same_grid({"reference": truth, f"mask {name}": Volume.of(labels, affine)})
        found[name] = labels
    x, y = made.array.astype(np.float64), truth.array.astype(np.float64)
    if prepared:
        return measure_arrays(protocol, x, y, masks=found)
    if protocol.prepare is prepare_synthrad:
        low, high = HU_RANGE
        x, y = ((np.clip(image, low, high) - low) / (high - low) for image in (x, y))
        return measure_arrays(protocol, x, y, masks=found, to_units=lambda image: image * (high - low) + low)
    if y.min() < 0:
        raise InputError(
            f"the reference has negative values (down to {y.min():.4g}): CT is measured by protocol synthrad, other "
            "images with their background at 0"
        )
    return measure_arrays(protocol, x / y.max(), y / y.max(), masks=found)


def _volume(source: Source | np.ndarray, what: str, affine: np.ndarray) -> Volume:
    return as_volume((source, affine) if isinstance(source, np.ndarray) else source, what)
