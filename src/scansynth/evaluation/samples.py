"""Samples of a prepared subject: drawn, or read where they were kept, so that a stopped evaluation goes on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scansynth.config import to_yaml
from scansynth.errors import InputError
from scansynth.evaluation.tasks import Task, synthesise
from scansynth.files import written
from scansynth.noise import Noise
from scansynth.physics.noise import noisy
from scansynth.progress import Report
from scansynth.synthesis.realism import between
from scansynth.synthesis.run import Run
from scansynth.training.costs import Cost, measured_cost


@dataclass(frozen=True)
class DrawnSample:
    """One sample of a subject's target."""

    image: np.ndarray
    """(X, Y, Z) float32 in [0, 1]."""
    sources: tuple[str, ...]
    """What it was made from."""
    observed: Mapping[str, Mapping[int, float]]
    """What the method saw of its own steps (`Made.observed`)."""
    cost: Cost
    """What it took to draw it."""


def kept_at(run: Run, task: Task, sample: int | None, kept: Path, *, level: float = 0.0) -> Path:
    """Where a sample is kept (arguments as in `draw`)."""
    given = () if task.whole else task.sources
    crop = [str(task.crop)] if task.crop and any(task.crop.shift) else []
    disturbed = [f"noise-{level!r}"] if level else []
    drawn = "mean" if sample is None else f"sample-{sample + 1}"
    name = "_".join([task.subject, "+".join([*given, task.target]), *crop, *disturbed, f"{drawn}.npz"])
    return kept / run.folder.name / name


def calls_left(run: Run, task: Task, sample: int | None, *, kept: Path | None = None, level: float = 0.0) -> int:
    """Network calls that drawing a sample takes, all slices counted; none where it is kept (arguments as in `draw`)."""
    if kept and kept_at(run, task, sample, kept, level=level).is_file():
        return 0
    return run.calls(task.cohort.shape(task.subject, task.target), realism=float(sample is not None))


def draw(
    run: Run,
    task: Task,
    seed: int,
    *,
    sample: int | None,
    kept: Path | None = None,
    level: float = 0.0,
    report: Report | None = None,
) -> DrawnSample:
    """Draw one sample, or read it.

    Args:
        run: what makes it.
        task: what is made of whom.
        seed: of the noise.
        sample: number of the sample, from 0; None: the mean (`synthesise`).
        kept: folder of samples; one that is there is read, others are put there.
        level: of noise in the sources (`noisy`); every level has the same random numbers.
        report: told of the network calls that are done.

    Raises:
        InputError: if the folder holds this sample of another run, seed or cohort, or it cannot be read.
    """
    path = kept and kept_at(run, task, sample, kept, level=level)
    of = {
        "weights": run.weights["sha256"],
        "settings": hashlib.sha256(to_yaml(run.config).encode()).hexdigest(),
        "cohort": task.cohort.fingerprint,
        "seed": seed,
        # On the crop on all scans samples are what they were before there was another.
        **({"crop": list(task.crop.shift)} if task.crop and any(task.crop.shift) else {}),
    }
    if path and path.is_file():
        return _read(path, of)
    noise = Noise([(seed, task.subject, "noise in the sources")])
    change = partial(noisy, level=level, noise=noise) if level else None  # unchanged scans keep their stored tissue
    given = None if task.whole else task.sources
    parameters = sum(parameter.numel() for parameter in run.method.parameters())
    (made, sources), cost = measured_cost(
        lambda: synthesise(
            run,
            task.cohort,
            task.subject,
            target=task.target,
            seed=seed,
            samples=(sample,),
            change=change,
            given=given,
            crop=task.crop,
            report=report,
        ),
        run.device,
        parameters,
    )
    drawn = DrawnSample(made[0].image, sources, made[0].observed, cost)
    if path:
        _write(path, drawn, of)
    return drawn


def partway(mean: DrawnSample, sample: DrawnSample, realism: float) -> DrawnSample:
    """What lies between a mean and a sample (`synthesis/realism.py`), which took both."""
    cost = Cost(
        mean.cost.seconds + sample.cost.seconds,
        max(mean.cost.memory_gb, sample.cost.memory_gb),
        sample.cost.parameters,
    )
    return replace(sample, image=between(mean.image, sample.image, realism), cost=cost)


def made_so(run: Run, task: Task, seed: int, *, realism: float, kept: Path | None = None) -> DrawnSample:
    """One image of a subject, so far from the mean to the first sample, of a run that has both; of others the sample.

    Arguments as of `draw`.
    """
    if realism == 1 or not (run.method.stochastic and run.method.gives_mean):
        return draw(run, task, seed, sample=0, kept=kept)
    mean = draw(run, task, seed, sample=None, kept=kept)
    return partway(mean, draw(run, task, seed, sample=0, kept=kept), realism) if realism else mean


def _write(path: Path, drawn: DrawnSample, of: Mapping[str, Any]) -> None:
    content = {"of": of, "sources": drawn.sources, "observed": drawn.observed, "cost": asdict(drawn.cost)}
    with written(path) as temporary:
        np.savez_compressed(temporary, image=drawn.image, content=np.array(json.dumps(content)))


def _read(path: Path, of: Mapping[str, Any]) -> DrawnSample:
    try:
        with np.load(path, allow_pickle=False) as file:
            image, content = file["image"], json.loads(str(file["content"]))
        found, sources, cost = content["of"], tuple(content["sources"]), Cost(**content["cost"])
        observed = {
            name: {int(time): value for time, value in steps.items()} for name, steps in content["observed"].items()
        }
    except Exception as error:  # zip, numpy, JSON and keys each have their own
        why = " ".join(str(error).split())
        raise InputError(f"{path}: not readable as a sample ({why}); delete it") from error
    if found != of:
        other = ", ".join(name for name in {**of, **found} if found.get(name) != of.get(name))
        raise InputError(f"{path}: a sample of other {other}; choose another folder to keep samples in")
    return DrawnSample(image, sources, observed, cost)
