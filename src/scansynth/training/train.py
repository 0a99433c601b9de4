"""A training, from its settings to its end; killed, it goes on.

Running the same command again resumes. A step's samples and noise are functions of (seed, step, place in the batch)
alone, so a resumed run equals an uninterrupted one, and several processes, each with its places of the batch, make
the run that one would make, but for rounding. Only the first of them writes.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from scansynth.config import RunConfig, read_yaml
from scansynth.data.cohort import Cohort
from scansynth.data.labels import Label, fit_labels
from scansynth.data.record import PreparationRecord
from scansynth.devices import Processes
from scansynth.errors import InputError
from scansynth.precision import choose_precision
from scansynth.progress import Report
from scansynth.training import checkpoint
from scansynth.training.accumulation import check_accumulates
from scansynth.training.engine import Engine
from scansynth.training.loop import Loop
from scansynth.training.memory import fitting
from scansynth.training.metrics_file import cut_back
from scansynth.training.pace import threads
from scansynth.training.parts import find_first_stage, make_parts
from scansynth.training.run_folder import locked, open_run
from scansynth.training.stopping import asked_to_stop
from scansynth.training.trial import with_steps, with_threads

log = logging.getLogger(__name__)


def train(
    config: RunConfig[Any],
    cohort: Cohort,
    run: Path,
    *,
    device: torch.device,
    init: Path | None = None,
    overwrite: bool = False,
    report: Report | None = None,
    processes: Processes | None = None,
    first_stage: Path | None = None,
    memory_gb: float | None = None,
) -> RunConfig[Any]:
    """Train a run to its end, from the start or from its last checkpoint.

    Args:
        config: settings; empty `contrasts` take all of the cohort.
        cohort: prepared scans.
        run: the run folder, made if need be.
        device: where to compute.
        init: another run whose weights are the start (fine-tuning), of the same contrasts, or of more where the method
            can leave some out (`Method.adopted`); ignored when the run resumes.
        overwrite: throw away a run that is there.
        report: told of every step and of the newest figures, in the first process.
        processes: that train together; by default there is only this one.
        first_stage: run that this one builds on (`Method.builds_on`); not needed when the run resumes.
        memory_gb: that it may take; the batch is computed in as many parts as a prediction asks for.

    Returns:
        The resolved settings, as in the run's `config.yaml`.

    Raises:
        InputError: if the cohort does not fit the method, or the folder holds a run of other settings or one that
            another training writes to.
        StoppedError: if a signal asked to stop; what was trained is saved.
    """
    begun = time.perf_counter()
    processes = processes or Processes(device)
    config = replace(config, contrasts=config.contrasts or cohort.contrasts)
    with locked(run, processes):
        stage = find_first_stage(config, cohort, run, given=first_stage, overwrite=overwrite, processes=processes)
        with processes.agreeing():
            method, dataset = make_parts(config, cohort, processes, first_stage=stage)
            check_accumulates(config, method)
            if memory_gb:
                one = {key: value[None] for key, value in dataset[0].items()}
                config = fitting(config, one, device, memory_gb)
            begins = overwrite or not checkpoint.current(run / "last")
            named = method.take_named_weights(started=init is not None) if begins else {}
            if init and begins:
                weights, source = checkpoint.load_weights(init)
                other = check_startable(config, init, fit_labels(cohort, method.needs.labels, config.contrasts))
                if other != config.contrasts:
                    weights = method.adopted(weights, other) if set(config.contrasts) <= set(other) else None
                    if weights is None:
                        raise unlike(config, init, other)
                checkpoint.restore(dict(method.nets.items()), weights, source)

        def resolve(config: RunConfig[Any]) -> RunConfig[Any]:
            return with_steps(with_threads(config, dataset, processes, stage), cohort, dataset, processes, stage)

        resumed, config = open_run(
            config, cohort, run, overwrite=overwrite, resolve=resolve, processes=processes, stage=stage, named=named
        )
        training, state = config.training, {}
        precision = choose_precision(training.precision, device).precision
        engine = Engine(
            method, device, precision, gradient_clip=training.gradient_clip, decay=training.decay, processes=processes
        )
        if resumed:
            with processes.agreeing():
                state = engine.load(resumed)
        engine.start_equal()
        if processes.first:
            if resumed:
                log.info("%s: going on at step %d", run, state["step"])
            cut_back(run / "metrics.jsonl", state.get("step", 0))
        with threads(training.threads), asked_to_stop() as stop:
            seconds = time.perf_counter() - begun
            return Loop(
                config, cohort, run, engine=engine, dataset=dataset, state=state, seconds=seconds, stop=stop
            ).run_steps(report)


def unlike(config: RunConfig[Any], init: Path, contrasts: Sequence[str], method: str = "") -> InputError:
    """That a run of these contrasts cannot be started from."""
    return InputError(
        f"--init {init}: a run of {method or config.method} on {', '.join(contrasts)} cannot start one of "
        f"{config.method} on {', '.join(config.contrasts)}"
    )


def check_startable(config: RunConfig[Any], init: Path, labels: Sequence[Label]) -> tuple[str, ...]:
    """The contrasts of the run to start from.

    Raises:
        InputError: if it is of another method or other labels.
    """
    other = read_yaml(init / "config.yaml")
    if other.method != config.method:
        raise unlike(config, init, other.contrasts, other.method)
    # The weights know a class by its place; numbers are standardised anew.
    known = [(label.name, label.classes) for label in PreparationRecord.read(init).labels]
    if known != [(label.name, label.classes) for label in labels]:
        raise InputError(
            f"--init {init}: a run of other labels, or of other classes of them, cannot start this one: leave --init "
            "out, or train with the same labels"
        )
    return other.contrasts
