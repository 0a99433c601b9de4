"""The folder of a checkpoint as it lies there: which is the newest, whether it is whole, and what its state says.

What is in it is `checkpoint.py`'s, which loads torch; this does not.
"""

import logging
import re
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from safetensors import SafetensorError, safe_open

from scansynth.errors import InputError, shown
from scansynth.ranges import Natural, Weight
from scansynth.records import read_json

log = logging.getLogger(__name__)

STEP = re.compile(r"step-(\d{8,18})")
"""Name of a checkpoint's folder."""
CURE = "restore it or train anew"


class State(TypedDict):
    """`state.json`; what older runs do not have need not be there."""

    step: Natural
    groups: NotRequired[dict[str, list[dict[str, Any]]]]
    """Player → parameter groups of its optimiser."""
    sums: NotRequired[dict[str, tuple[float, Natural]]]
    """Loss → its sum since the last line of `metrics.jsonl`, and of how many steps."""
    updates: NotRequired[dict[str, Natural]]
    """Player → updates made."""
    best: NotRequired[float | None]
    rule: NotRequired[str]
    validated: NotRequired[Natural]
    """Step of the last validation."""
    seconds: NotRequired[Weight]
    subjects: NotRequired[Natural]
    """Of `best/`: that validated."""
    files: NotRequired[dict[str, tuple[Natural, str]]]
    """File → bytes and SHA-256."""


def current(folder: Path) -> Path | None:
    """The newest complete checkpoint under `last/` or `best/`, or None.

    Where a crash of the machine left no pointer, an empty one, or one to a damaged checkpoint, it is the newest whole
    one that is still there, if any, and a line says so.

    Raises:
        InputError: if the pointer names anything but a checkpoint beside it, or nothing, and none is there.
    """
    pointer = folder / "current"
    name = pointed(pointer) if pointer.is_file() else ""
    named = folder / name if name else None
    if named and is_whole(named):
        return named
    others = sorted(
        (path for path in folder.glob("step-*") if STEP.fullmatch(path.name) and path != named and is_whole(path)),
        key=step_of,
    )
    if not others:
        if named is None and pointer.is_file():
            raise InputError(f"{pointer}: names no checkpoint, and none is beside it: {CURE}")
        return named
    log.warning("%s: %s is damaged, as after a power loss: step %d is taken, the newest that is whole",
                pointer, named.name if named else "the pointer", step_of(others[-1]))  # fmt: skip
    return others[-1]


def pointed(pointer: Path) -> str:
    """The folder's name in a pointer file; empty where a crash has left nothing or zeros."""
    with pointer.open("rb") as file:
        name = file.read(256).strip(b"\0 \r\n\t").decode("utf-8", errors="replace")
    if name and not STEP.fullmatch(name):
        raise InputError(f"{pointer}: names {shown(name)}, which is no checkpoint beside it: write the name of one, or "
                         "train anew")  # fmt: skip
    return name


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint's files are there and of the size that their headers, or the state, say."""
    try:
        files = read_state(checkpoint).get("files")
        names = files or {path.name: (path.stat().st_size, "") for path in checkpoint.glob("*.safetensors")}
        for name, (size, _) in names.items():
            with safe_open(checkpoint / name, framework="np"):  # reads the header, and holds the size against it
                pass
            if (checkpoint / name).stat().st_size != size:
                return False
        return "weights.safetensors" in names
    except (InputError, OSError, SafetensorError):
        return False


def read_state(checkpoint: Path) -> State:
    """The state of a checkpoint.

    Raises:
        InputError: if it is damaged, or of another checkpoint.
    """
    state = read_json(checkpoint / "state.json", State, CURE)
    if state["step"] != step_of(checkpoint):
        raise InputError(f"{checkpoint / 'state.json'}: it is of step {state['step']}: {CURE}")
    if any(not re.fullmatch(r"\w+\.safetensors", name) for name in state.get("files", {})):
        raise InputError(f"{checkpoint / 'state.json'}: it names files that are none of a checkpoint: {CURE}")
    return state


def step_of(checkpoint: Path) -> int:
    """Training steps finished at a checkpoint.

    Raises:
        InputError: if it is no checkpoint's name.
    """
    if not (match := STEP.fullmatch(checkpoint.name)):
        raise InputError(f"{checkpoint}: the checkpoint cannot be read (not its name); {CURE}")
    return int(match[1])
