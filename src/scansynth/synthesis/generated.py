"""Whole volumes that no source stands behind, in a folder; the same command goes on where it stopped.

Volume n of a seed is always the same one, whatever else is made, by however many processes. Nothing is kept of a volume
once it is written, so memory does not grow with their number. Intensities stay as the networks saw them in training
(prepared, 0 to 1): a volume that is nobody's scan has no scanner's unit, and so it can be held against a prepared
cohort (`sets/volume_sets.py`).
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

import scansynth
from scansynth.data.datasets import from_network
from scansynth.data.labels import encode
from scansynth.data.prepare import generated_grid
from scansynth.data.volume import Volume
from scansynth.devices import Processes
from scansynth.errors import InputError
from scansynth.method import Generator
from scansynth.noise import Noise
from scansynth.progress import Event, Report, one_of
from scansynth.ranges import Count, check_range
from scansynth.synthesis.image import NOTICE, Synthesis, check_replaceable, is_made
from scansynth.synthesis.locking import locked
from scansynth.synthesis.memory import room_in_memory
from scansynth.synthesis.run import Run
from scansynth.synthesis.sharing_out import check_shared, shared_out

UNIT = "prepared intensity, 0 to 1"
OTHERS = "from another run, seed or plan, or of other labels"
"""What is wrong with volumes that are there, for a message."""


@torch.no_grad()
def generate(
    run: Run,
    number: int,
    *,
    seed: int = 0,
    plan: str | None = None,
    report: Report | None = None,
    at_once: int | None = None,
    labels: Mapping[str, str] | None = None,
) -> Synthesis:
    """Make a volume.

    Args:
        run: a trained run of a method that generates.
        number: of the volume, from 1.
        seed: of the noise.
        plan: of the stages, where the method has several; None: the run's own.
        report: told of the network calls that are done.
        at_once: patches that go through the networks at once; memory and speed, not the result.
        labels: of the person who is made, name → value; of a run that was trained with labels, any of them.

    Raises:
        InputError: if the run makes its contrast from others, or has no such plan or label.
    """
    labels = labels or {}
    method, shape, affine = checked_grid(run, plan)
    stages = method.stages(shape[2], plan)
    windows = run.method.needs.windows(at_once)
    if report:
        total, done = method.calls(shape, windows, plan), count(1)
        windows = run.method.needs.windows(at_once, lambda: report(Event(next(done), total)))
    noise = Noise([(seed, "generated", number)], run.device)
    with room_in_memory(run.folder):
        made = method.generate(shape, windows, noise, plan=plan, labels=encode(labels, run.record.labels)[None])
    if not torch.isfinite(made).all():
        raise InputError(f"{run.folder}: the networks give NaN; the training diverged, use an earlier run")
    array = from_network(made)[0, 0].clamp(0, 1).cpu().numpy()
    provenance = {
        "synthetic": True,
        "notice": NOTICE,
        "target": run.config.contrasts[0],
        "unit": UNIT,
        "sources": {},
        "method": run.config.method,
        "run": run.name,
        "cohort": run.record.fingerprint,
        "number": number,
        "weights_chosen": run.chosen,
        **drawn(run, seed, plan, labels),
        "stages": stages,
        "sampling_steps": run.method.sampling_steps,
        "precision": run.precision,
        "versions": {"scansynth": scansynth.__version__, "torch": torch.__version__},
    }
    return Synthesis(
        array=array,
        deviation=None,
        samples=(),
        provenance=provenance,
        like=Volume.of(np.zeros(shape, np.float32), affine),
    )


def drawn(run: Run, seed: int, plan: str | None, labels: Mapping[str, str]) -> dict[str, Any]:
    """What of a sidecar tells one set from another."""
    own = getattr(run.config.settings, "plan", None)
    return {"weights": dict(run.weights), "seed": seed, "plan": plan or own, "labels": dict(labels)}


def checked_grid(run: Run, plan: str | None) -> tuple[Generator, tuple[int, int, int], np.ndarray]:
    """What makes a run's volumes, and their grid: shape (X, Y, Z) and affine, mm.

    Raises:
        InputError: if the run makes its contrast from others, or has no such plan.
    """
    method = run.method
    if not (method.needs.generates and isinstance(method, Generator)):
        raise InputError(
            f"{run.folder}: this run of {run.config.method} makes {', '.join(method.targets)} from other contrasts: "
            "use `translate`, or train a recipe that generates (cdpm)"
        )
    if plan is not None and plan not in method.plans:
        has = f"has {', '.join(method.plans)}" if method.plans else "makes a volume at once"
        raise InputError(f"plan {plan!r}: {run.config.method} {has}")
    shape, affine = generated_grid(run.record.settings)
    method.needs.check_volume(shape)
    return method, shape, affine


def volume_path(folder: Path, contrast: str, number: int) -> Path:
    """Where volume `number` of a set stands."""
    return folder / f"synthetic-{number:04d}_{contrast}.nii.gz"


def generate_set(
    run: Run,
    number: int,
    out: Path,
    *,
    seed: int = 0,
    plan: str | None = None,
    overwrite: bool = False,
    report: Report | None = None,
    at_once: int | None = None,
    processes: Processes | None = None,
    labels: Mapping[str, str] | None = None,
    shared: bool = False,
) -> list[Path]:
    """Make volumes 1 to `number` of a seed; those that are there and whole are kept.

    Nothing is replaced that is not marked synthetic; that is checked before the first volume is made.

    Args:
        run: a trained run of a method that generates.
        number: of volumes.
        out: folder to write into.
        seed: of the noise.
        plan: of the stages, where the method has several; None: the run's own.
        overwrite: make again what is there.
        report: told of the network calls that this process has done.
        at_once: as in `generate`.
        processes: that share the volumes; by default there is only this one.
        labels: as in `generate`.
        shared: with other such commands, which may run on other machines that see the folder.

    Returns:
        The volumes' files, in order.

    Raises:
        InputError: if the run does not generate, or the folder has volumes that were drawn in another way, or files of
            their names that are not marked synthetic, or it is another command's at the moment or cannot be written.
    """
    if number < 1:
        raise InputError(f"-n {number}: make at least one volume")
    check_shared(shared=shared, overwrite=overwrite)
    check_range(Count, at_once, "windows")
    processes = processes or Processes(run.device)
    paths = [volume_path(out, run.config.contrasts[0], one) for one in range(1, number + 1)]
    wanted = drawn(run, seed, plan, labels or {})
    left = processes.from_first(lambda: _left(run, paths, wanted, overwrite=overwrite))
    if not left:
        return paths
    with nullcontext(False) if shared else locked(out, processes) as waited:
        if waited:
            left = processes.from_first(lambda: _left(run, paths, wanted, overwrite=overwrite))
        dealt = left if shared else left[processes.rank :: processes.count]
        own: Iterable[int] = dealt
        if shared:
            first = processes.rank * len(left) // processes.count
            own = shared_out(
                out, left, name=str, there=lambda one: is_made(paths[one - 1], wanted, OTHERS), first=first
            )
        with processes.agreeing():  # nobody says that the set is whole before it is
            for done, one in enumerate(own):
                told = one_of(report, done, len(dealt))
                made = generate(run, one, seed=seed, plan=plan, report=told, at_once=at_once, labels=labels)
                made.write(paths[one - 1])
    return paths


def _left(run: Run, paths: Sequence[Path], wanted: Mapping[str, Any], *, overwrite: bool) -> list[int]:
    """Numbers of the volumes that are to be made, which nothing stands in the way of."""
    checked_grid(run, wanted["plan"])
    encode(wanted["labels"], run.record.labels)
    left = [number for number, path in enumerate(paths, 1) if overwrite or not is_made(path, wanted, OTHERS)]
    check_replaceable([paths[number - 1] for number in left])
    return left
