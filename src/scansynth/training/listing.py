"""The runs under a folder: what each is, how far it is, what was measured of it. torch is not loaded, nothing written.

A run is told by two of what a training leaves in its folder: config.yaml, preparation.json, last/ and best/. What
cannot be read of one is said in its place, beside what can be. Weights are held against their sizes, not their hashes:
`scansynth inspect` does that.
"""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

from scansynth.errors import InputError
from scansynth.files import LEADS_OUT, leading_out
from scansynth.methods import find_entry
from scansynth.ranges import Count, Natural
from scansynth.records import build, read_json
from scansynth.settings_file import read_settings
from scansynth.training.checkpoint_folder import CURE, STEP, is_whole, pointed, read_state, step_of
from scansynth.training.metrics_file import read_metrics
from scansynth.users_files import open_file

CONFIG, PREPARATION, CARD, TABLE = "config.yaml", "preparation.json", "card.json", "table.json"
KINDS = ("last", "best")
"""Folders of checkpoints."""
WITHIN = {*KINDS, "first_stage", "tensorboard", "validation"}
"""Folders that a training makes in its own, in which no other run is looked for."""

State = Literal["finished", "stopped", "training", "exported", "damaged"]
"""All steps are done; some are not; a training is at work on it here; `scansynth export` wrote it; see `fault`."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One row that a `scansynth evaluate` has of a run: one direction, by one protocol."""

    folder: Path
    """Of the evaluation."""
    weights: str
    """Which of the run's: last or best."""
    direction: str
    """Sources and target, `T1w+FLAIR→T2w`."""
    protocol: str
    """Name and version."""
    subjects: int
    figures: Mapping[str, float | str | None]
    """Means over subjects by column (`psnr_db`); None is missing, "inf" infinite."""
    changed: float
    """When it was written, in seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class ListedRun:
    """A run's folder, as much of it as could be read."""

    folder: Path
    """As the listed folder was given, and on from there."""
    state: State
    method: str | None = None
    contrasts: tuple[str, ...] = ()
    done: int | None = None
    """Training steps finished and saved."""
    steps: int | None = None
    """Training steps in all."""
    validated: int | None = None
    """Step of the newest validation."""
    psnr: Mapping[str, float] | None = None
    """Of the newest validation: dB by target."""
    loss: float | None = None
    """Of the newest validation of a run that generates: the held-out loss."""
    evaluations: tuple[Evaluated, ...] = ()
    """Of its newest or best weights, under the listed folder; the newest first."""
    size: int = 0
    """Of its files, in bytes."""
    changed: float = 0.0
    """When a file of it was last written, in seconds since 1970."""
    fault: str | None = None
    """What is damaged, in one line."""


class _Training(TypedDict):
    steps: Count


class _Settings(TypedDict):
    method: str
    contrasts: list[str]
    training: _Training


class _Protocol(TypedDict):
    name: str
    version: Natural


class _Spread(TypedDict):
    mean: float | str | None


class _Row(TypedDict):
    label: str
    direction: str
    n_subjects: Natural
    subjects: dict[str, _Spread]


class _Table(TypedDict):
    """What is taken of an evaluation's `table.json`; of older versions it does not say whose figures it has."""

    protocol: _Protocol
    weights: NotRequired[dict[str, str]]
    rows: list[_Row]


def list_runs(folder: str | Path) -> list[ListedRun]:
    """The runs in a folder, at any depth, by path; hidden folders are left out, and links are not followed.

    Raises:
        InputError: if there is no such folder, or it may not be read.
    """
    folder = Path(folder)
    try:
        os.scandir(folder).close()
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: no folder that can be read ({error}): give one with runs in it") from None
    found: list[tuple[ListedRun, dict[str, str]]] = []
    tables: list[Path] = []
    for place, folders, files in os.walk(folder):
        is_run = len({CONFIG, PREPARATION} & set(files)) + len(set(KINDS) & set(folders)) >= 2
        if is_run:
            found.append(_read(Path(place)))
        if TABLE in files:
            tables.append(Path(place, TABLE))
        folders[:] = [name for name in folders if not name.startswith(".") and not (is_run and name in WITHIN)]
    evaluations = list(_evaluations(tables, {digest for _, weights in found for digest in weights}))
    runs = [
        replace(
            run,
            evaluations=tuple(
                replace(row, weights=weights[digest]) for digest, row in evaluations if digest in weights
            ),
        )
        for run, weights in found
    ]
    return sorted(runs, key=lambda run: run.folder.parts)


def _read(folder: Path) -> tuple[ListedRun, dict[str, str]]:
    """What a run's folder says, and of its weights SHA-256 → last or best."""
    weights: dict[str, str] = {}
    faults: list[str] = []

    @contextmanager
    def noting() -> Iterator[None]:
        try:
            yield
        except InputError as error:
            faults.append(str(error))
        except OSError as error:  # gone in between, or not to be read
            faults.append(f"{error.filename or folder}: {error.strerror or error}: {CURE}")

    told: dict[str, Any] = dict(zip(("size", "changed"), _on_disk(folder), strict=True))
    if link := next(leading_out(folder), None):  # nothing is read that is not in it
        return ListedRun(folder=folder, state="damaged", fault=f"{link}: {LEADS_OUT}", **told), {}
    with noting():
        settings: _Settings = build(_Settings, read_settings(folder / CONFIG), str(folder / CONFIG))
        told |= {"method": settings["method"], "contrasts": tuple(settings["contrasts"])}
        told["steps"] = settings["training"]["steps"]
        find_entry(settings["method"])
    if not (folder / PREPARATION).is_file():
        faults.append(f"{folder / PREPARATION}: missing: {CURE}")
    for kind in reversed(KINDS):
        with noting():
            if checkpoint := _newest(folder / kind):
                told["done"] = step_of(checkpoint)
                if known := read_state(checkpoint).get("files", {}).get("weights.safetensors"):
                    weights[known[1]] = kind
    with noting():
        told |= _validated(folder / "metrics.jsonl")
    if faults:
        return ListedRun(folder=folder, state="damaged", fault=" ".join("; ".join(faults).split()), **told), weights
    done, steps = told.setdefault("done", 0), told["steps"]
    exported = (folder / CARD).is_file()
    state = "exported" if exported else "training" if _at_work(folder) else "finished" if done >= steps else "stopped"
    return ListedRun(folder=folder, state=state, **told), weights


def _on_disk(folder: Path) -> tuple[int, float]:
    """Bytes of a folder's files, and when the last of them was written, in seconds since 1970."""
    size, changed = 0, 0.0
    for place, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):  # a training may have removed it since
                status = os.lstat(os.path.join(place, name))
                if stat.S_ISREG(status.st_mode):
                    size, changed = size + status.st_size, max(changed, status.st_mtime)
    return size, changed


def _newest(folder: Path) -> Path | None:
    """The checkpoint that `last/` or `best/` points to, or None where there is none yet.

    Raises:
        InputError: if the pointer names none, or the checkpoint is damaged; with the one that a training would take.
    """
    pointer, name, before = folder / "current", "", None
    while pointer.is_file() and (name := pointed(pointer)) != before:
        if name and is_whole(folder / name):
            return folder / name
        before = name  # looked at twice: a training may have put the next one in its place
    others = [path for path in folder.glob("step-*") if STEP.fullmatch(path.name)]
    if before is None and not others:
        return None
    what = f"{folder / name}: the checkpoint is damaged" if name else f"{pointer}: names no checkpoint"
    if whole := [step_of(path) for path in others if is_whole(path)]:
        raise InputError(f"{what}: step {max(whole)} is taken, the newest that is whole")
    raise InputError(f"{what}: {CURE}")


def _validated(path: Path) -> dict[str, Any]:
    """Step and figures of the newest validation in a `metrics.jsonl`."""
    for step, figures in reversed(read_metrics(path)):
        parts = {tuple(name.split("/")): value for name, value in figures.items() if name.startswith("validation/")}
        if psnr := {part[1]: value for part, value in parts.items() if len(part) == 3 and part[2] == "psnr"}:
            return {"validated": step, "psnr": psnr}
        if ("validation", "loss") in parts:
            return {"validated": step, "loss": parts["validation", "loss"]}
    return {}


def _at_work(run: Path) -> bool:
    """Whether a training of this machine holds the run's lock (`run_folder.locked`); no where the system cannot say."""
    run = run.absolute()
    try:
        import fcntl

        with open_file(run.with_name(f".{run.name}.lock")) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, InputError, OSError):
        return False
    return False


def _evaluations(tables: Sequence[Path], known: set[str]) -> Iterator[tuple[str, Evaluated]]:
    """SHA-256 of weights, and what was measured of them, the newest evaluation first; tables of others are passed over.

    Args:
        tables: files of that name.
        known: SHA-256 of the weights that are asked for.
    """
    for path in sorted(tables, key=_written, reverse=True):
        try:
            table: _Table = read_json(path, _Table, CURE)
        except InputError:  # any program may call a file so
            continue
        protocol = f"{table['protocol']['name']} {table['protocol']['version']}"
        for label, digest in table.get("weights", {}).items():
            for row in table["rows"]:
                if digest in known and row["label"] == label:
                    figures = {column: spread["mean"] for column, spread in row["subjects"].items()}
                    yield (
                        digest,
                        Evaluated(
                            folder=path.parent, weights="", direction=row["direction"], protocol=protocol,
                            subjects=row["n_subjects"], figures=figures, changed=_written(path),
                        ),
                    )  # fmt: skip


def _written(path: Path) -> float:
    """When a file was written, in seconds since 1970; 0 of one that is gone."""
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0
