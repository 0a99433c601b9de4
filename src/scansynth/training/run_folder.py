"""The folder of a run: made, found again, and what of its settings may change when its training goes on.

config.yaml        the resolved settings; written last, so that it says that the folder is whole
environment.json   versions, machine, and what was chosen by the machine
preparation.json   what the run keeps of its cohort (`data/record.py`)
"""

import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

import scansynth
from scansynth.config import RunConfig, read_yaml, to_yaml
from scansynth.data.cohort import Cohort
from scansynth.data.record import FILE, PreparationRecord
from scansynth.devices import Processes
from scansynth.errors import InputError, InUseError
from scansynth.files import PATIENCE, write_text
from scansynth.precision import automatic, choose_precision
from scansynth.records import read_json
from scansynth.training import checkpoint
from scansynth.training.first_stage import FOLDER, FirstStage
from scansynth.training.parts import needs_of

log = logging.getLogger(__name__)

NAMED_WEIGHTS = "named weights"
"""Key of `environment.json`."""
MOVABLE = (
    "steps", "minutes", "revisions", "threads", "precision", "accumulate", "log_every", "checkpoint_minutes",
    "checkpoint_every", "validate_every",
)  # fmt: skip
"""Fields of `Training` that may be changed when a run resumes: they change nothing of what has been trained."""


@contextmanager
def locked(run: Path, processes: Processes) -> Iterator[None]:
    """Keep other trainings off the run: a lock beside its folder, which the system frees when the process ends."""
    lock = FileLock(run.absolute().with_name(f".{run.name}.lock"))

    def take() -> None:
        run.absolute().parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout as error:
            raise InUseError(f"{run}: another training writes to it: let it end, or choose another --run") from error

    processes.from_first(take)
    try:
        yield
    finally:
        lock.release()


def open_run(
    config: RunConfig[Any],
    cohort: Cohort,
    run: Path,
    *,
    overwrite: bool,
    resolve: Callable[[RunConfig[Any]], RunConfig[Any]],
    processes: Processes,
    stage: FirstStage | None,
    named: Mapping[str, str],
) -> tuple[Path | None, RunConfig[Any]]:
    """Make the run folder or find the run in it; the first process does so for all.

    Args:
        config: settings as they are asked for.
        cohort: prepared scans.
        run: the folder.
        overwrite: throw away a run that is there.
        resolve: settings that are measured on this machine, of a run that begins; all processes take part.
        processes: that train together.
        stage: the first stage of a latent method.
        named: what came of the weights that the settings name (`Method.take_named_weights`).

    Returns:
        The checkpoint to go on from (None at the start), and the resolved settings.

    Raises:
        InputError: if the folder holds a run of other settings, or something else.
    """
    stored = processes.from_first(lambda: find_run(run, overwrite=overwrite))
    if stored is not None:
        return processes.from_first(lambda: reopen_run(config, stored, cohort, run, processes.device))
    choice = processes.from_first(lambda: choose_precision(config.training.precision, processes.device))
    if processes.first:
        log.info("precision: networks compute in %s", choice)
    config = resolve(replace(config, training=replace(config.training, precision=choice.precision)))
    chosen = {"processes": str(processes.count), "precision": str(choice)}
    if named:
        chosen[NAMED_WEIGHTS] = "; ".join(f"{part}: {said}" for part, said in named.items())
    processes.from_first(lambda: make_run(config, cohort, run, chosen, stage))
    return None, config


def find_run(run: Path, *, overwrite: bool) -> RunConfig[Any] | None:
    """The settings of the run that is in the folder, or None where one may be made; clears it to overwrite it."""
    settings = run / "config.yaml"
    # config.yaml alone is no sign of a run: other programs name theirs so, too.
    if overwrite:
        # Renamed first: a kill leaves the whole run or none, never a part that neither goes on nor may be overwritten.
        discarded = run.absolute().with_name(f".{run.name}.overwritten")
        shutil.rmtree(discarded, ignore_errors=True)
        if settings.exists() and (run / FILE).exists():
            run.rename(discarded)
            shutil.rmtree(discarded)
    if not settings.exists():
        ours = ("environment.json", FILE, FOLDER)  # left by a kill before there was a config.yaml
        if run.exists() and any(path.name not in ours and not path.name.startswith(".") for path in run.iterdir()):
            raise InputError(f"{run}: the folder holds other files and no run; choose another --run")
        return None
    return read_yaml(settings)


def make_run(
    config: RunConfig[Any], cohort: Cohort, run: Path, chosen: dict[str, str], stage: FirstStage | None
) -> None:
    """Write the folder of a run that begins; `config.yaml` last, which says that it is whole."""
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / "environment.json", json.dumps(environment() | chosen, indent=1))
    PreparationRecord.of(cohort, config.contrasts, needs_of(config).labels).write(run)
    if stage:
        stage.write(run / FOLDER)
    write_text(run / "config.yaml", to_yaml(config))


def reopen_run(
    config: RunConfig[Any], stored: RunConfig[Any], cohort: Cohort, run: Path, device: torch.device
) -> tuple[Path | None, RunConfig[Any]]:
    """Let a run go on: its last checkpoint, if it has one, and its settings with what may be changed."""
    settings = run / "config.yaml"
    if stored.method != config.method:
        raise InputError(f"{run}: holds a run of {stored.method!r}, not {config.method!r}; choose another --run")
    PreparationRecord.read(run).check_same(cohort, run)
    newest = checkpoint.current(run / "last")
    done = checkpoint.step_of(newest) if newest else 0
    wanted = replace(config, training=replace(config.training, **goes_on(config, stored, done, run, device)))
    movable = {name: getattr(wanted.training, name) for name in MOVABLE}
    if to_yaml(replace(stored, training=replace(stored.training, **movable))) != to_yaml(wanted):
        raise InputError(
            f"{run}: holds a run with other settings (see {settings}); choose another --run, "
            "or --overwrite to start anew"
        )
    write_text(settings, to_yaml(wanted))
    return newest, wanted


def goes_on(
    config: RunConfig[Any], stored: RunConfig[Any], done: int, run: Path, device: torch.device
) -> dict[str, Any]:
    """Fields of `Training` with which a run goes on; a line says so where the command's own do not hold.

    The end may be moved back, not forth: the recipe's steps and those that somebody asked for look alike. By minutes,
    the end that was measured holds. Precision and threads stay those of the run, unless others are asked for.
    """
    asked, was = config.training, stored.training
    steps, minutes, revisions = was.steps, was.minutes, was.revisions
    if not asked.minutes and asked.steps > was.steps:
        steps, minutes, revisions = asked.steps, 0.0, ()
    elif not asked.minutes and asked.steps < was.steps:
        log.info(
            "%s: %d steps are asked for, the run has %d of its %d: those %d hold (fewer need another --run)",
            run, asked.steps, done, was.steps, was.steps,
        )  # fmt: skip
    if asked.minutes and done >= was.steps:
        log.info(
            "%s: finished after %d steps, --training.minutes has nothing to add; --training.steps with a larger number "
            "trains on", run, done,
        )  # fmt: skip
    elif asked.minutes and asked.minutes != was.minutes:
        log.info("%s: its %d steps hold, %g minutes do not; --training.steps moves the end", run, steps, asked.minutes)
    precision = was.precision if asked.precision == "auto" else asked.precision
    if precision != was.precision:
        log.warning("%s: goes on in %s, was in %s: no run of one precision any more", run, precision, was.precision)
    elif precision == "bfloat16" and (here := automatic(device)).precision != "bfloat16":
        log.warning(
            "%s: goes on in bfloat16, as it began, which is slow here (%s); --training.precision float32 goes on "
            "faster", run, here.reason,
        )  # fmt: skip
    return {
        "steps": steps, "minutes": minutes, "revisions": revisions, "precision": precision,
        "threads": asked.threads or was.threads, "accumulate": max(asked.accumulate, was.accumulate),
    }  # fmt: skip


def named_weights(run: Path) -> str:
    """What came of the published weights that a run's settings name; empty where its method has none to name.

    Raises:
        InputError: if the run's `environment.json` is missing or damaged.
    """
    kept = read_json(run / "environment.json", dict[str, str], "it is written when a run begins; train it anew")
    return kept.get(NAMED_WEIGHTS, "")


def environment() -> dict[str, str]:
    """Versions and machine, for environment.json."""
    return {
        "scansynth": scansynth.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "processors": str(os.cpu_count()),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
