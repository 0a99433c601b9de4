"""`metrics.jsonl` of a run: a line of figures a time, added to while it trains and cut back when it goes on."""

import json
import logging
from pathlib import Path

from scansynth.errors import InputError
from scansynth.files import write_text
from scansynth.records import build
from scansynth.users_files import parse_json

log = logging.getLogger(__name__)

CURE = "the same `scansynth train` command leaves what is damaged out"


def read_metrics(path: Path) -> list[tuple[int, dict[str, float]]]:
    """(Step, figures by name) of each finished line; of a training that still runs, the last may not be.

    Raises:
        InputError: if the file is damaged.
    """
    if not path.is_file():
        return []
    lines = _lines(path)
    found = [_parsed(line) for line in lines]
    if None in found:
        raise InputError(f"{path} line {found.index(None) + 1}: damaged: {CURE}")
    return [one for one in found if one is not None]


def cut_back(path: Path, step: int) -> None:
    """Drop the lines that a resumed run will write again, and what a kill or a crash has left of others."""
    if not path.exists():
        return
    kept, damaged = [], 0
    for line in _lines(path):
        if (found := _parsed(line)) is None:
            damaged += 1
        elif found[0] <= step:
            kept.append(line.decode() + "\n")
    if damaged:
        log.warning("%s: %d damaged lines are left out", path, damaged)
    write_text(path, "".join(kept))


def _lines(path: Path) -> list[bytes]:
    """The lines that have an end."""
    return path.read_bytes().split(b"\n")[:-1]


def _parsed(line: bytes) -> tuple[int, dict[str, float]] | None:
    try:
        content = build(dict[str, float], parse_json(line), "line")
        step = content.pop("step")
        return (int(step), content) if step >= 0 and step.is_integer() else None
    except (ValueError, KeyError):
        return None


def add_line(path: Path, step: int, figures: dict[str, float]) -> None:
    """Add a line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **figures}) + "\n")
