"""Acquisition parameters of scans: from BIDS sidecars or a table (seconds), or the usual ones of a contrast.

Networks get them in milliseconds and degrees, (TR, TE, TI, flip angle); what the sequence does not have is 0.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from scansynth.data.contrasts import standard_name
from scansynth.data.text_table import read_rows
from scansynth.errors import InputError, shown
from scansynth.physics.acquisition import USUAL, Acquisition, SequenceName
from scansynth.users_files import read_json

logger = logging.getLogger(__name__)

FIELDS = (
    "RepetitionTime", "RepetitionTimePreparation", "RepetitionTimeExcitation", "EchoTime", "InversionTime",
    "FlipAngle",
)  # fmt: skip
"""BIDS: times in seconds, the angle in degrees."""
SECONDS = {"RepetitionTime": 60.0, "EchoTime": 1.0, "InversionTime": 20.0}
"""Times beyond which a sidecar means milliseconds."""
KEPT = (*FIELDS, "MagneticFieldStrength", "Manufacturer", "ScanningSequence", "SequenceVariant", "ScanOptions")
"""What is kept of a sidecar. Names, dates and places of a patient are not."""
LONGEST = {"TR": 60.0, "TE": 1.0, "TI": 60.0}
"""Seconds above which a time is taken for one in milliseconds."""

Table = Mapping[tuple[str | None, str], Mapping[str, float]]
"""Subject (None: every one) and contrast → BIDS fields."""


@dataclass(frozen=True)
class Acquisitions:
    """What a run's networks are told of each scan's acquisition.

    A missing field is an error, or, where usual values are allowed, they stand for the scan's, with a warning for each
    contrast.
    """

    sequences: Mapping[str, SequenceName]
    """Contrast → the equation that its signal is taken to follow."""
    usual: str = "none"
    """Table of usual acquisitions (`physics.acquisition.USUAL`), or none."""
    _warned: set[str] = field(default_factory=set, compare=False)

    def of(self, subject: str, contrast: str, fields: Mapping[str, Any]) -> Tensor:
        """TR, TE, TI (ms) and flip angle (degrees) of a scan, (4,) float32.

        Args:
            subject: for messages.
            contrast: of the scan.
            fields: of its sidecar.

        Raises:
            InputError: if a field is missing or not in its unit.
        """
        sequence = self.sequences[contrast]
        try:
            found = read_acquisition(fields, sequence)
        except MissingFieldError as missing:
            usual = USUAL.get(self.usual, {}).get(contrast)
            if usual is None:
                raise InputError(f"{subject} {contrast}: {self._advice(contrast, missing.name)}") from None
            found = _as(usual.acquisition, sequence, contrast)
            if contrast not in self._warned:
                self._warned.add(contrast)
                logger.warning(
                    "%s %s: %s is not known (of other subjects perhaps neither); taking TR %g ms and TE %g ms: %s",
                    subject, contrast, missing.name, found.tr, found.te, usual.source,
                )  # fmt: skip
        except InputError as error:
            raise InputError(f"{subject} {contrast}: {error}") from None
        return torch.tensor([found.tr, found.te, found.ti or 0.0, found.flip_angle or 0.0])

    def _advice(self, contrast: str, name: str) -> str:
        known = contrast in USUAL["common"]
        usual = ", or allow usual values with --defaults" if known else "; there are no usual values of this contrast"
        return (
            f"{name} is not known: write it (seconds, FlipAngle in degrees) into the JSON file beside the image or the "
            f"table of prepare --acquisition{usual}"
        )


class MissingFieldError(InputError):
    """A field that a sequence needs."""

    def __init__(self, name: str):
        super().__init__(f"{name} is not known")
        self.name = name


def read_acquisition(fields: Mapping[str, Any], sequence: SequenceName) -> Acquisition:
    """An acquisition from BIDS fields.

    `RepetitionTime` of an MP-RAGE is the inversion interval on some makes and the echo spacing on others. Where the
    unambiguous field is there it counts: `RepetitionTimePreparation` for an inversion recovery,
    `RepetitionTimeExcitation` for the others.

    Args:
        fields: BIDS names, seconds and degrees.
        sequence: the equation that the signal is taken to follow.

    Raises:
        MissingFieldError: if a field is not there.
        InputError: if one is not a number in its unit.
    """
    clear = "RepetitionTimePreparation" if sequence == "inversion_recovery" else "RepetitionTimeExcitation"
    tr = _milliseconds(fields, clear if clear in fields else "RepetitionTime", "TR")
    te = _milliseconds(fields, "EchoTime", "TE")
    ti = _milliseconds(fields, "InversionTime", "TI") if sequence == "inversion_recovery" else None
    angle = _number(fields, "FlipAngle") if sequence == "spoiled_gradient_echo" else None
    return Acquisition(sequence, tr, te, ti, angle)


def read_table(path: Path) -> Table:
    """Read a table of acquisitions.

    Columns: contrast, any of `FIELDS` (seconds, degrees), and, optionally, subject. A row without a subject holds for
    all; one with a subject comes before it.

    Raises:
        InputError: for other columns, a row twice, or values that are no numbers.
    """
    rows = read_rows(path, ("contrast",), ("subject", *FIELDS))
    table: dict[tuple[str | None, str], dict[str, float]] = {}
    for number, row in rows:
        if not row.get("contrast"):
            raise InputError(f"{path}, line {number}: no contrast")
        key = row.get("subject") or None, standard_name(row["contrast"])
        if key in table:
            raise InputError(f"{path}, line {number}: {key[1]} {f'of {key[0]} ' if key[0] else ''}stands there twice")
        try:
            table[key] = {name: float(row[name]) for name in FIELDS if row.get(name)}
        except ValueError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
        if wrong := [name for name, value in table[key].items() if not math.isfinite(value)]:
            raise InputError(f"{path}, line {number}: {wrong[0]} {row[wrong[0]]} is no finite number")
    return table


def read_sidecar(sidecar: Path) -> dict[str, Any]:
    """What is kept of the JSON file beside an image; warns of times that look like milliseconds.

    Raises:
        InputError: if it is no JSON object, or one of what is kept is neither text nor a finite number, nor several.
    """
    values = read_json(sidecar)
    if not isinstance(values, dict):
        raise InputError(f"{sidecar} holds no JSON object ({{…}}): mend or remove it")
    kept = {name: values[name] for name in KEPT if name in values}
    for name, value in kept.items():
        several = value if isinstance(value, list) else [value]
        if not all(one is None or isinstance(one, str | int | float) for one in several):
            raise InputError(f"{sidecar} has {name} as an object or a list of lists: mend or remove it")
        if name in SECONDS and isinstance(value, int | float) and value > SECONDS[name]:
            logger.warning("%s: %s of %g s: in milliseconds? BIDS states seconds", sidecar, name, value)
    return kept


def fields_of(table: Table, subject: str, contrast: str, sidecar: Mapping[str, Any]) -> dict[str, Any]:
    """A scan's fields: its sidecar's, over them the table's for the contrast, over them the table's for the scan."""
    return {**sidecar, **table.get((None, contrast), {}), **table.get((subject, contrast), {})}


def _number(fields: Mapping[str, Any], name: str) -> float:
    if fields.get(name) is None:
        raise MissingFieldError(name)
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        raise InputError(f"{name} {shown(value)} is not a number")
    return float(value)


def _milliseconds(fields: Mapping[str, Any], name: str, time: str) -> float:
    value = _number(fields, name)
    if value > LONGEST[time]:
        raise InputError(
            f"{name} {value:g} is more than {LONGEST[time]:g} s: it must be in seconds, and looks like milliseconds"
        )
    return 1000 * value


def _as(usual: Acquisition, sequence: SequenceName, contrast: str) -> Acquisition:
    """Usual parameters for the equation that is used, which may be another than the scan's own."""
    if sequence == "inversion_recovery" and usual.ti is None:
        raise InputError(f"{contrast}: there is no usual InversionTime")
    if sequence == "spoiled_gradient_echo" and usual.flip_angle is None:
        raise InputError(f"{contrast}: there is no usual FlipAngle")
    return Acquisition(
        sequence, usual.tr, usual.te,
        usual.ti if sequence == "inversion_recovery" else None,
        usual.flip_angle if sequence == "spoiled_gradient_echo" else None,
    )  # fmt: skip
