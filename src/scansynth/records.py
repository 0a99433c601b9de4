"""Records that are read back: JSON of a known form, and plain values turned into dataclasses, both strictly.

A record that was cut, emptied, edited or made to hang its reader is one `InputError`, never a traceback and never a
guess.
"""

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, overload

from scansynth.errors import InputError, shown
from scansynth.ranges import Range, check_range
from scansynth.users_files import parse_json, read_bytes

Kind = TypeVar("Kind")

MOST_MB = 16
"""Size of a record, where its kind has none of its own: none that is written comes near it."""
SEAL = "record_sha256"
"""Key of a record's own hash (`sealed`)."""


@overload
def read_json(path: Path, kind: type[Kind], cure: str, *, most_mb: float = MOST_MB) -> Kind: ...
@overload
def read_json(path: Path, kind: Any, cure: str, *, most_mb: float = MOST_MB) -> Any: ...
def read_json(path: Path, kind: Any, cure: str, *, most_mb: float = MOST_MB) -> Any:
    """Read a JSON record and check its form; what it says is kept as it is written.

    Args:
        path: of the file, UTF-8.
        kind: that its content must be of: a `TypedDict`, `dict[str, …]`, `list[…]`, `Any` (`build`).
        cure: what to do where it is missing or damaged.
        most_mb: its largest size.

    Raises:
        InputError: if it is missing, no JSON, too large, nested too deeply, has a key twice, or is not of the kind.
    """
    if not path.exists():
        raise InputError(f"{path}: missing: {cure}")
    try:
        content: Any = parse_json(read_bytes(path, int(most_mb * 1e6)))
        build(kind, content, "its content")
        if isinstance(content, dict) and content.get(SEAL, "") not in ("", _hash(content)):
            raise ValueError("it does not say what was written")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: damaged or not readable ({_line(error)}): {cure}") from None
    return content


def build(wanted: Any, value: Any, where: str) -> Any:
    """Turn plain values into what is wanted, checking every key, type and range.

    Args:
        wanted: a dataclass (perhaps of a generic), a `TypedDict` (which may have more keys), `dict[str, …]`, `list[…]`,
            `tuple[…]`, `Literal`, a union, `Annotated` with a `Range`, `Any`, or a plain type.
        value: what YAML or JSON gave.
        where: file and key, for messages.

    Raises:
        InputError: for an unknown or missing key, a value of another type, or one out of its range.
    """
    origin, arguments = typing.get_origin(wanted) or wanted, typing.get_args(wanted)
    if origin is Any:
        return value
    if origin is Annotated:
        found = build(arguments[0], value, where)
        check_range(wanted, found, where)
        return found
    if typing.is_typeddict(origin):
        return _mapping(origin, value, where)
    if isinstance(origin, type) and dataclasses.is_dataclass(origin):
        return _dataclass(origin, arguments, value, where)
    if origin is typing.Literal:
        if not any(value is one or (type(value) is type(one) and value == one) for one in arguments):
            raise InputError(f"{where}: {shown(value)} is not one of {', '.join(map(str, arguments))}")
        return value
    if origin in (list, tuple):
        return _sequence(origin, arguments, value, where)
    if origin is dict and arguments:
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected names with values, got {shown(value)}")
        return {key: build(arguments[1], part, f"{where}: {shown_key(key)}") for key, part in value.items()}
    if origin in (typing.Union, types.UnionType):
        return _one_of(arguments, value, where)
    try:
        return _plain(origin, value)
    except (TypeError, OverflowError):
        raise InputError(f"{where}: {shown(value)} is not of type {_name(wanted)}") from None


def shown_key(key: object) -> str:
    """A key as a message names it: names as they are, as long as they are short."""
    return key if isinstance(key, str) and key.isprintable() and len(key) <= 40 else shown(key)


def _plain(kind: Any, value: Any) -> Any:
    if kind in (None, type(None)) and value is None:
        return None
    if kind is float and not isinstance(value, bool):
        if isinstance(value, int | float) or (isinstance(value, str) and _is_exponent(value)):
            return float(value)
    elif kind is int:  # one of more bits is nothing that anybody counts, and no array can hold it
        if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() < 64:
            return value
    elif isinstance(kind, type) and isinstance(value, kind):
        return value
    raise TypeError


def _is_exponent(text: str) -> bool:
    """Whether a text is a number as people write it and YAML 1.1 takes it for a text: `1e-4`."""
    mantissa, e, exponent = text.lower().partition("e")
    digits = [part[1:] if part[:1] in ("+", "-") else part for part in (mantissa, exponent)]
    return bool(e) and len(text) < 40 and all(part.isascii() and part.isdigit() for part in digits)


def _one_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    refused: list[InputError] = []
    for kind in kinds:
        try:
            return build(kind, value, where)
        except InputError as error:
            # Of the kinds that are not None, the one that says more than "not of this type" is meant.
            refused += [error] if " is not of type " not in str(error) else []
    if len(refused) == 1:
        raise refused[0]
    raise InputError(f"{where}: {shown(value)} is not of type {', '.join(map(_name, kinds))}")


def _sequence(origin: type, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, list | tuple):
        raise InputError(f"{where}: expected a list, got {shown(value)}")
    if origin is list or arguments[1:] == (Ellipsis,):
        kind = arguments[0] if arguments else Any
        if _are_numbers(kind, value):
            return origin(map(float, value))
        return origin(build(kind, part, where) for part in value)
    if len(arguments) != len(value):
        raise InputError(f"{where}: expected {len(arguments)} values, got {len(value)}")
    if len(set(arguments)) == 1 and _are_numbers(arguments[0], value):
        return tuple(map(float, value))
    return tuple(build(kind, part, where) for kind, part in zip(arguments, value, strict=True))


def _are_numbers(kind: Any, values: Sequence[Any]) -> bool:
    """Whether values are floats in a range, told in one look at all of them; what is wrong with one is said by `build`.

    An index has a number for each slice of each scan.
    """
    of = typing.get_args(kind)
    if not of or of[0] is not float or not values or not set(map(type, values)) <= {float, int}:
        return False
    try:
        ends = float(min(values)), float(max(values))
        return all(math.isfinite(value) for value in values) and all(
            note.problem(end) is None for note in of[1:] if isinstance(note, Range) for end in ends
        )
    except OverflowError:
        return False


def _mapping(kind: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected names with values, got {shown(value)}")
    if missing := sorted(kind.__required_keys__ - value.keys()):
        raise InputError(f"{where}: {missing[0]!r} is missing")
    hints = _hints(kind)
    return {
        key: build(_required(hints[key]), part, f"{where}: {key}") if key in hints else part
        for key, part in value.items()
    }


@cache
def _hints(kind: Any) -> dict[str, Any]:
    """Types of a class's fields, which take long to work out."""
    return typing.get_type_hints(kind, include_extras=True)


def _required(kind: Any) -> Any:
    """A type without `NotRequired[…]` around it."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) in (typing.NotRequired, typing.Required) else kind


def _dataclass(origin: Any, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a group of settings, got {shown(value)}")
    fields = {item.name: item for item in dataclasses.fields(origin)}
    if unknown := [key for key in value if key not in fields]:
        raise InputError(f"{where}: unknown key {shown(unknown[0])}; known keys: {', '.join(fields)}")
    for name, item in fields.items():
        without = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if without and item.init and name not in value:
            raise InputError(f"{where}: {name!r} is missing")
    hints = _hints(origin)
    parameters = dict(zip(getattr(origin, "__parameters__", ()), arguments, strict=False))
    kinds = {key: parameters.get(hints[key], hints[key]) for key in value}
    parts = {key: build(kinds[key], part, f"{where}: {key}") for key, part in value.items()}
    try:
        return origin(**parts)
    except InputError as error:  # values that do not fit each other or their range
        raise InputError(f"{where}: {error}") from None


def _name(kind: Any) -> str:
    if typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return ", ".join(map(_name, typing.get_args(kind)))
    return "None" if kind is type(None) else getattr(kind, "__name__", str(kind))


def _line(error: Exception) -> str:
    return " ".join((error.strerror if isinstance(error, OSError) and error.strerror else str(error)).split())


def sealed(content: dict[str, Any]) -> dict[str, Any]:
    """A record with a hash of what it says, which `read_json` holds it against: no digit changes in silence."""
    return {**content, SEAL: _hash(content)}


def _hash(content: dict[str, Any]) -> str:
    plain = json.dumps({key: value for key, value in content.items() if key != SEAL}, sort_keys=True)
    return hashlib.sha256(plain.encode()).hexdigest()
