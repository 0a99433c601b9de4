"""Runs on a prepared cohort's split: synthesis against truth, under a protocol, as tables and pictures."""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from scansynth.data.cohort import Cohort
from scansynth.data.datasets import from_network, read_image, whole_subject
from scansynth.errors import InputError
from scansynth.evaluation.comparison import Cost
from scansynth.evaluation.montage import montage
from scansynth.evaluation.protocols import find_protocol, measure
from scansynth.evaluation.tables import COPIED_SOURCE, Result, write_tables
from scansynth.method import Noise
from scansynth.synthesis import Run

Value = TypeVar("Value")
Report = Callable[[int, int, str], None]
"""Called with (images done, images in all, "run subject contrast")."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured."""

    results: list[Result]
    costs: dict[str, Cost]
    """What the synthesis of a volume takes, by run."""


def evaluate(
    runs: Sequence[Run],
    cohort: Cohort,
    out: Path,
    split: str = "test",
    protocol: str = "syndiff",
    target: str | None = None,
    seed: int = 0,
    pictures: int = 3,
    report: Report | None = None,
) -> Evaluation:
    """Synthesise every target of every subject of a split, measure it, and measure the copied sources beside it.

    One sample is drawn for each image, as in the papers. Accelerated contrasts are the low-resolution images that the
    runs know, as sources, as copied sources, as truth and in pictures. Written are `table.md`, `table.csv`,
    `slices.csv`, `table.json` and `montage_<run>_<subject>_<target>.png`.

    Args:
        runs: trained on this cohort; named by their folders.
        cohort: the prepared cohort.
        out: folder to write into.
        split: which subjects.
        protocol: how to measure.
        target: one contrast, or None for all that the runs make.
        seed: of the noise.
        pictures: for how many subjects montages are made.
        report: told of every image.

    Returns:
        All figures, and what each run's synthesis takes.

    Raises:
        InputError: if a run was trained on another cohort, runs see a contrast at different accelerations, or the split
            has no subject to measure.
    """
    find_protocol(protocol)
    labels = [run.folder.name for run in runs]
    if len(set(labels)) < len(labels):
        raise InputError(f"runs of one name ({', '.join(labels)}) cannot stand in one table; rename a run folder")
    for run in runs:
        run.record.check_same(cohort, run.folder)
    contrasts = tuple(dict.fromkeys(name for run in runs for name in run.config.contrasts))
    acceleration = common_acceleration(runs)
    targets = {run.folder: (run.choose_target(target, {}),) if target else run.method.targets for run in runs}
    work = [
        (subject, name)
        for subject in cohort.subjects(split)
        for name in contrasts
        if any(name in targets[run.folder] for run in runs)
        and name in cohort.available(subject)
        and len(set(cohort.available(subject)) & set(contrasts)) > 1
    ]
    if not work:
        raise InputError(f"{cohort.folder}: no {split} subject has a target together with a source")
    results: list[Result] = []
    costs: dict[str, list[Cost]] = {label: [] for label in labels}
    drawn = list(dict.fromkeys(subject for subject, _ in work))[:pictures]
    done, total = 0, sum(name in targets[run.folder] for _, name in work for run in runs)
    for subject, name in work:
        truth = read_image(cohort, subject, name, acceleration).numpy()
        masks = {mask: cohort.read_mask(subject, mask) for mask in cohort.masks(subject)}
        statistics = cohort.statistics[name]
        take = partial(
            measure,
            protocol,
            reference=truth,
            masks=masks,
            to_units=statistics.to_units if statistics.unit == "HU" else None,
        )
        copies = [source for source in contrasts if source != name and source in cohort.available(subject)]
        for source in copies:
            figures = take(read_image(cohort, subject, source, acceleration).numpy())
            results.append(Result(COPIED_SOURCE, (source,), name, subject, figures))
        for run, label in zip(runs, labels, strict=True):
            if name not in targets[run.folder]:
                continue
            (synthesis, sources), cost = measured_cost(
                lambda run=run, subject=subject, name=name: synthesise(run, cohort, subject, name, seed), run
            )
            costs[label].append(cost)
            results.append(Result(label, sources, name, subject, take(synthesis)))
            if subject in drawn:
                shown = {source: read_image(cohort, subject, source, acceleration).numpy() for source in sources}
                picture = out / f"montage_{label}_{subject}_{name}.png"
                out.mkdir(parents=True, exist_ok=True)
                title = f"{label}: {results[-1].direction}"
                spacing = np.linalg.norm(cohort.affine(subject, name)[:3, :3], axis=0)
                montage(picture, shown, synthesis, truth, spacing, title, subject)
            done += 1
            if report:
                report(done, total, f"{label} {subject} {name}")
    write_tables(results, out, protocol)
    return Evaluation(results, {label: typical(found) for label, found in costs.items() if found})


def measured_cost(work: Callable[[], Value], run: Run) -> tuple[Value, Cost]:
    """Do a piece of synthesis; what it makes, and its seconds and peak memory.

    Memory is that of the GPU, or, on a CPU under Linux, of the whole process (elsewhere unknown).
    """
    on_gpu = run.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(run.device)
    else:
        reset_peak()
    begun = time.perf_counter()
    made = work()
    seconds = time.perf_counter() - begun
    memory = torch.cuda.max_memory_allocated(run.device) / 1e9 if on_gpu else peak_gb()
    return made, Cost(seconds, memory, sum(parameter.numel() for parameter in run.method.parameters()))


def reset_peak() -> None:
    """Let Linux count this process's peak memory anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_gb() -> float:
    """Peak memory of this process since `reset_peak`; NaN where it is not told."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    return math.nan


def typical(costs: Sequence[Cost]) -> Cost:
    """Median seconds and largest memory of several volumes."""
    seconds = float(np.median([cost.seconds for cost in costs]))
    return Cost(seconds, max(cost.memory_gb for cost in costs), costs[0].parameters)


def common_acceleration(runs: Sequence[Run]) -> list[tuple[str, int]]:
    """The acceleration of the contrasts of several runs, which one table can have one of.

    Raises:
        InputError: if two runs see a contrast at different accelerations.
    """
    folds: dict[str, tuple[int, Run]] = {}
    for run in runs:
        for name in run.config.contrasts:
            fold = dict(run.config.data.acceleration).get(name, 1)
            other_fold, other = folds.setdefault(name, (fold, run))
            if fold != other_fold:
                raise InputError(
                    f"{other.folder} and {run.folder} see {name} at accelerations {other_fold} and {fold}: their "
                    "sources or truths differ; evaluate them apart"
                )
    return [(name, fold) for name, (fold, _) in folds.items()]


def synthesise(run: Run, cohort: Cohort, subject: str, target: str, seed: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """A prepared subject's target from its other contrasts: (X, Y, Z) in [0, 1], and which contrasts it is from."""
    batch = whole_subject(cohort, subject, run.config.contrasts, run.config.data.acceleration)
    index = run.config.contrasts.index(target)
    images, available = from_network(batch["images"]), batch["available"].clone()
    available[:, index] = False
    images[:, index] = 0.0
    sources = tuple(name for k, name in enumerate(run.config.contrasts) if available[0, k])
    if not sources:
        raise InputError(f"{subject}: no source for {target} among {', '.join(run.config.contrasts)}")
    with torch.no_grad():
        return run.make(images, available, target, Noise([(seed, subject, 0)], run.device)), sources
