"""Ranges of settings, stated with their types: `channels: Count`. What lies outside is refused wherever it came from.

`records.build` checks what a file says, `check_ranges` what a command line or a program says.
"""

import dataclasses
import math
import re
import types
import typing
from dataclasses import dataclass
from typing import Annotated, Any

from scansynth.errors import InputError, shown


@dataclass(frozen=True)
class Range:
    """Numbers from `least` to `most`, both included; never NaN, never infinite."""

    least: float | int = -math.inf
    most: float | int = math.inf
    above: bool = False
    """Whether `least` itself is left out."""

    def problem(self, value: float) -> str | None:
        """What a number must be, where it is not; None where it is."""
        if isinstance(value, float) and not math.isfinite(value):
            return "must be a finite number"
        if (value > self.least if self.above else value >= self.least) and value <= self.most:
            return None
        if self.most < math.inf:
            return f"must lie in {self.least} to {self.most}"
        return f"must be {'above' if self.above else 'at least'} {self.least}"


Count = Annotated[int, Range(1)]
"""A number of things that cannot be without one."""
Natural = Annotated[int, Range(0)]
"""A number of things that may be none, or a place counted from 0."""
Seed = Annotated[int, Range(0, 2**63 - 1)]
"""What random numbers begin with: NumPy takes no negative one, PyTorch none of more bits."""
Share = Annotated[float, Range(0, 1)]
"""A part of a whole, or a probability."""
Weight = Annotated[float, Range(0)]
"""What a loss or a change counts, or how fast something learns; 0 leaves it out."""
Positive = Annotated[float, Range(0, above=True)]
"""A scale or a duration that cannot be none."""
Finite = Annotated[float, Range()]
"""Any number."""


def gigabytes(text: str, flag: str = "--memory") -> float:
    """An amount of memory as people write it, `8G`, `800M` or `8` (GB), in GB.

    Raises:
        InputError: if it is none, or nothing.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([GM]?)B?", text.strip(), re.IGNORECASE)
    if not match or not float(match[1]):
        raise InputError(f"{flag} {shown(text)}: write an amount of memory, such as 8G or 800M")
    return float(match[1]) / (1000 if match[2].upper() == "M" else 1)


def check_ranges(settings: Any, *, flags: str | None = None) -> None:
    """Raise InputError for the first field of a dataclass, or of one inside it, that lies outside its range.

    Args:
        settings: the dataclass.
        flags: what its fields' flags on a command line begin with, "--" where they are those of a verb; None: no flags.
    """
    for name, kind in typing.get_type_hints(type(settings), include_extras=True).items():
        if hasattr(settings, name):
            _check(kind, getattr(settings, name), name if flags is None else flags + _flag(kind, name), flags)


def _flag(kind: Any, name: str) -> str:
    """A field's flag, which may have another name (tyro's `arg(name=…)`)."""
    named = [note.name for note in typing.get_args(kind) if isinstance(getattr(note, "name", None), str)]
    return (named or [name])[0].replace("_", "-")


def _check(kind: Any, value: Any, where: str, flags: str | None) -> None:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        check_range(kind, value, where)
        _check(arguments[0], value, where, flags)
    elif origin in (typing.Union, types.UnionType):
        for part in arguments:
            _check(part, value, where, flags)
    elif origin is tuple and isinstance(value, tuple):
        parts = [arguments[0]] * len(value) if arguments[1:] == (Ellipsis,) else arguments
        for part, one in zip(parts, value, strict=False):
            _check(part, one, where, flags)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        check_ranges(value, flags=flags and (flags if where == flags else f"{where}."))


def check_range(kind: Any, value: Any, where: str) -> None:
    """Raise InputError if a number lies outside the range of an `Annotated` type; other values have none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        for note in typing.get_args(kind)[1:]:
            if isinstance(note, Range) and (problem := note.problem(value)):
                raise InputError(f"{where} {shown(value)}: {problem}")
