"""Settings of a run: frozen dataclasses, written into the run folder as YAML and read back strictly.

The docstring under each field is its help text on the command line.
"""

import dataclasses
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import yaml

from scansynth.data.contrasts import check_letters
from scansynth.data.settings import DataSettings
from scansynth.errors import InputError, located
from scansynth.methods import find_method
from scansynth.precision import AskedPrecision
from scansynth.ranges import Count, Natural, Seed, Weight, check_ranges
from scansynth.records import build, shown_key
from scansynth.settings_file import read_settings

Decay = Literal["constant", "cosine", "cooldown"]
"""How learning rates fall over a training."""
MethodConfig = TypeVar("MethodConfig")


@dataclass(frozen=True, kw_only=True)
class Training:
    """How long and in what portions a run trains."""

    steps: Count = 100_000
    """Training steps in all. A finished run trains on when it is started again with more."""
    minutes: Weight = 0.0
    """Train for so many wall minutes instead, validations included. The rate is measured at the start and on the way,
    and the steps that fit are written into the run (revisions). 0: by steps."""
    revisions: tuple[tuple[Natural, Count], ...] = ()
    """What a run by minutes came to: from which step on it was to have how many steps in all. Not to be given, but
    kept: with minutes 0 they make the same run again."""
    threads: Natural = 0
    """Threads of PyTorch on the CPU. 0: a few steps are tried at the start, and the run keeps what was fastest."""
    batch_size: Count = 4
    """Samples a step."""
    accumulate: Count = 1
    """Parts that a step's batch is computed in, one after another, their gradients summed: less memory and more time,
    the same training but for rounding. For methods of one player. Doubled where memory is out."""
    precision: AskedPrecision = "auto"
    """What the networks compute in; losses and weights are always float32. auto: bfloat16 where the device computes it
    faster, else float32."""
    decay: Decay | None = None
    """Learning rates: constant; a cosine from their first value to zero; or cooldown, constant but for the last fifth
    of the training, over which they fall to zero along a line (Hägele et al., NeurIPS 2024). None: as the method's
    paper has it."""
    gradient_clip: Weight = 0.0
    """Largest norm of a player's gradient; 0 for no limit."""
    log_every: Count = 50
    """Steps between two lines of metrics.jsonl; each gives the mean since the last."""
    checkpoint_minutes: Weight = 2.0
    """Minutes between two checkpoints; longer where writing one takes more than a twentieth of it. One is written too
    when the training is asked to stop (Ctrl-C, a kill, a queue's USR1)."""
    checkpoint_every: Count | None = None
    """Steps between two checkpoints beside those; None: none."""
    validate_every: Count = 1000
    """Steps between two validations with pictures."""
    validation_slices: Count = 8
    """Slices of each validation subject, spread over its foreground; of a generator, sets of slices."""

    def __post_init__(self):
        check_ranges(self)
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
    seed: Seed = 0
    """Seed of weights, order of the data and noise."""

    def __post_init__(self):
        check_ranges(self)
        for contrast in self.contrasts:  # files are named by them
            check_letters(contrast)


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
    content = read_settings(path)
    with located(path):
        config_type = find_method(shown_key(content["method"])).Config
    return build(RunConfig[config_type], {"settings": {}, **content}, str(path))
