"""Settings of a run: frozen dataclasses, written into the run folder as YAML and read back strictly.

The docstring under each field is its help text on the command line.
"""

import dataclasses
import re
import types
import typing
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import yaml

from scansynth.data.settings import DataSettings
from scansynth.errors import InputError
from scansynth.methods import find_method
from scansynth.precision import AskedPrecision
from scansynth.users_files import read_bytes

Decay = Literal["constant", "cosine"]
"""How learning rates fall over a training."""
MethodConfig = TypeVar("MethodConfig")

_EXPONENT = re.compile(r"[+-]?\d+e[+-]?\d+", re.IGNORECASE)
"""A number as people write it and YAML 1.1 takes it for a text: `1e-4`."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long and in what portions a run trains."""

    steps: int = 100_000
    """Training steps in all. A finished run trains on when it is started again with more."""
    minutes: float = 0.0
    """Train for so many wall minutes instead, validations included. The rate is measured at the start and on the way,
    and the steps that fit are written into the run (revisions). 0: by steps."""
    revisions: tuple[tuple[int, int], ...] = ()
    """What a run by minutes came to: from which step on it was to have how many steps in all. Not to be given, but
    kept: with minutes 0 they make the same run again."""
    threads: int = 0
    """Threads of PyTorch on the CPU. 0: a few steps are tried at the start, and the run keeps what was fastest."""
    batch_size: int = 4
    """Samples a step."""
    precision: AskedPrecision = "auto"
    """What the networks compute in; losses and weights are always float32. auto: bfloat16 where the device computes it
    faster, else float32."""
    decay: Decay | None = None
    """Learning rates: constant, or a cosine from their first value to zero. None: as the method's paper has it."""
    gradient_clip: float = 0.0
    """Largest norm of a player's gradient; 0 for no limit."""
    log_every: int = 50
    """Steps between two lines of metrics.jsonl; each gives the mean since the last."""
    checkpoint_minutes: float = 2.0
    """Minutes between two checkpoints; longer where writing one takes more than a twentieth of it. One is written too
    when the training is asked to stop (Ctrl-C, a kill, a queue's USR1)."""
    checkpoint_every: int | None = None
    """Steps between two checkpoints beside those; None: none."""
    validate_every: int = 1000
    """Steps between two validations with pictures."""
    validation_slices: int = 8
    """Slices of each validation subject, spread over its foreground; of a generator, sets of slices."""

    def __post_init__(self):
        for name in ("steps", "batch_size", "log_every", "checkpoint_every", "validate_every", "validation_slices"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} {getattr(self, name)}: must be at least 1")
        for name in ("minutes", "gradient_clip", "threads", "checkpoint_minutes"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} {getattr(self, name)}: must not be negative")
        starts, ends = [start for start, _ in self.revisions], [end for _, end in self.revisions]
        if self.revisions and (starts != sorted(set(starts)) or starts[0] != 0 or ends[-1] != self.steps):
            raise InputError(f"revisions {self.revisions}: must begin at step 0, go up, and end with the run's steps")


@dataclass(frozen=True)
class RunConfig(Generic[MethodConfig]):
    """Everything that determines a run, beside the data."""

    method: str
    """Name of the method (`scansynth methods`)."""
    settings: MethodConfig
    """Settings of the method."""
    contrasts: tuple[str, ...] = ()
    """Contrasts of the run; empty for all of the cohort."""
    _: KW_ONLY
    data: DataSettings = field(default_factory=DataSettings)
    """Which slices are trained on, and what the scans are taken to be."""
    training: Training = field(default_factory=Training)
    """How long and in what portions."""
    seed: int = 0
    """Seed of weights, order of the data and noise."""


def to_yaml(config: RunConfig[Any]) -> str:
    """The resolved settings as YAML."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(part) for key, part in value.items()}
        return [plain(part) for part in value] if isinstance(value, tuple | list) else value

    return yaml.safe_dump(plain(dataclasses.asdict(config)), sort_keys=False)


def read_yaml(path: Path) -> RunConfig[Any]:
    """Read settings written by `to_yaml` or by hand; what is left out has its default.

    Raises:
        InputError: for a file that cannot be read, an unknown key, or a value of the wrong type.
    """
    try:
        if not path.exists():
            raise InputError(f"{path}: no such settings file")
        content = yaml.safe_load(read_bytes(path).decode())
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a YAML settings file ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict) or "method" not in content:
        raise InputError(f"{path}: a settings file needs the key 'method' (see `scansynth methods`)")
    try:
        config_type = find_method(str(content["method"])).Config
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return build(RunConfig[config_type], {"settings": {}, **content}, str(path))


def build(wanted: Any, value: Any, where: str) -> Any:
    """Turn plain YAML values into a dataclass, checking every key and type.

    Args:
        wanted: a dataclass (perhaps of a generic), `tuple[…]`, `Literal`, a union, or a plain type.
        value: what YAML gave.
        where: file and key, for messages.

    Raises:
        InputError: for an unknown or missing key or a value of another type.
    """
    origin, arguments = typing.get_origin(wanted) or wanted, typing.get_args(wanted)
    if isinstance(origin, type) and dataclasses.is_dataclass(origin):
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected a group of settings, got {value!r}")
        fields = {item.name: item for item in dataclasses.fields(origin)}
        if unknown := [key for key in value if key not in fields]:
            raise InputError(f"{where}: unknown key {unknown[0]!r}; known keys: {', '.join(fields)}")
        hints = typing.get_type_hints(origin)
        parameters = dict(zip(getattr(origin, "__parameters__", ()), arguments, strict=False))
        kinds = {key: parameters.get(hints[key], hints[key]) for key in value}
        parts = {key: build(kinds[key], part, f"{where}: {key}") for key, part in value.items()}
        try:
            return origin(**parts)
        except InputError as error:  # values that do not fit each other or their range
            raise InputError(f"{where}: {error}") from None
    if origin is typing.Literal:
        if value not in arguments:
            raise InputError(f"{where}: {value!r} is not one of {', '.join(map(str, arguments))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: expected a list, got {value!r}")
        kinds = [arguments[0]] * len(value) if arguments[1:] == (Ellipsis,) else list(arguments)
        if len(kinds) != len(value):
            raise InputError(f"{where}: expected {len(kinds)} values, got {len(value)}")
        return tuple(build(kind, part, where) for kind, part in zip(kinds, value, strict=True))
    if origin in (typing.Union, types.UnionType):
        for kind in arguments:
            try:
                return build(kind, value, where)
            except InputError:
                continue
    elif origin is type(None) or origin is None:
        if value is None:
            return None
    elif origin is float and not isinstance(value, bool):
        if isinstance(value, int | float) or (isinstance(value, str) and _EXPONENT.fullmatch(value)):
            return float(value)
    elif isinstance(value, origin) and not (origin is int and isinstance(value, bool)):
        return value
    names = ", ".join(getattr(kind, "__name__", str(kind)) for kind in (arguments or (wanted,)))
    raise InputError(f"{where}: {value!r} is not of type {names}")
