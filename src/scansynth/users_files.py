"""Files that users name, opened: regular ones only, so that no pipe is waited for and no device read without end."""

import json
import math
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from scansynth.errors import InputError, shown

MOST_TEXT = 1 << 26
"""Bytes of a text file; a table of 100 000 subjects has fewer."""


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading.

    Raises:
        InputError: if it is missing, a folder, no regular file (a link leads to what it is), or cannot be read.
    """
    try:
        _check(path, os.stat(path).st_mode)
        # What took the file's place since must not block either.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            _check(path, os.fstat(handle).st_mode)
        except InputError:
            os.close(handle)
            raise
        return os.fdopen(handle, "rb")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): check its permissions") from error
    except InputError:
        raise
    except ValueError as error:  # a NUL in its name
        raise InputError(f"{str(path)!r} names no file ({error}): check the path") from None


def read_bytes(path: Path, most: int = MOST_TEXT) -> bytes:
    """All of a file.

    Raises:
        InputError: as `open_file`, or if it has more than `most` bytes.
    """
    with open_file(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            content = file.read(most + 1) if size <= most else b""
        except OSError as error:
            raise InputError(f"{path} cannot be read ({error.strerror or error}): check its permissions") from error
    if max(size, len(content)) > most:
        limit = f"{most // 1000} kB" if most < 1_000_000 else f"{most // 1_000_000} MB"
        raise InputError(f"{path} has more than {limit}: no such file is that long, check the path")
    return content


def read_text(path: Path) -> str:
    """The text of a file, without a byte order mark.

    Raises:
        InputError: as `read_bytes`, or if it is not UTF-8.
    """
    content = read_bytes(path)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        raise InputError(f"{path} is UTF-16 or no text, not UTF-8 (a spreadsheet's “Unicode text” is UTF-16): save it "
                         "again as UTF-8")  # fmt: skip
    try:
        return content.decode("utf-8-sig")  # -sig: spreadsheets write a byte order mark
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a UTF-8 text table or file ({error}): save it again as UTF-8") from None


def read_json(path: Path) -> Any:
    """What a JSON file of a user says.

    Raises:
        InputError: as `read_text`, or as `parse_json`, whose numbers must be finite.
    """
    try:
        return parse_json(read_text(path), finite=True)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON ({error}): mend or remove it") from None


def parse_json(content: bytes | str, *, finite: bool = False) -> Any:
    """The values of a JSON text.

    Args:
        content: UTF-8, with or without a byte order mark.
        finite: whether numbers must be finite: Python itself reads NaN and 1e999, and what is made of them nobody else
            reads.

    Raises:
        ValueError: if it is none, nested too deeply, has a number that is too long, or a key twice.
    """
    text = content if isinstance(content, str) else content.decode("utf-8")
    numbers = {"parse_float": _finite, "parse_int": _whole, "parse_constant": _no_number} if finite else {}
    try:
        return json.loads(text.removeprefix("\ufeff"), object_pairs_hook=_once, **numbers)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _check(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise InputError(f"{path} is a folder: give a file")
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is a pipe, a device or a socket, not a file: save what it gives as a file, give that")


def _finite(text: str) -> float:
    return float(text) if math.isfinite(float(text)) else _no_number(text)


def _whole(text: str) -> int:
    if len(text) > 300:  # beyond float64
        _no_number(f"{text[:9]}…")
    return int(text)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no finite number")


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; a key that is there twice would lose its first value in silence."""
    pairs = list(pairs)
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {shown(next(name for name in names if names.count(name) > 1))} is there twice")
    return content
