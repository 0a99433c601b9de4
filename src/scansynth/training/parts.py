"""What a run is made of before it trains: its method and its training samples."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from scansynth.config import RunConfig
from scansynth.data.cohort import Cohort
from scansynth.data.prepare import generated_grid
from scansynth.data.samples import Samples
from scansynth.devices import Processes
from scansynth.errors import InputError
from scansynth.method import Method
from scansynth.methods import find_method
from scansynth.needs import Needs
from scansynth.training.checkpoint import flatten
from scansynth.training.first_stage import FOLDER, FirstStage, LatentStage, builds_on, compute_latents, kind_of
from scansynth.training.previous import make_previous


def make_method(config: RunConfig[Any]) -> Method:
    """The method of a run with its first weights, which the seed determines."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return find_method(config.method)(config.settings, config.contrasts)


def needs_of(config: RunConfig[Any]) -> Needs:
    """What a run's method trains on, known without building networks."""
    return find_method(config.method).needs_of(config.settings, config.contrasts)


def untrained_stage(config: RunConfig[Any]) -> FirstStage:
    """A run as a first stage before it is trained: what builds on it can be tried for what it costs."""
    method = make_method(config)
    weights = save(flatten({name: method.nets[name] for name in method.averaged}))
    return kind_of(config)(config, weights, 0, Path("untrained"))


def find_first_stage(
    config: RunConfig[Any], cohort: Cohort, run: Path, *, given: Path | None, overwrite: bool, processes: Processes
) -> FirstStage | None:
    """The trained run that a method builds on: that of the run folder, or the one that is given.

    Of a latent method the cohort's latents are computed, as far as they are not there; of one that corrects what its
    first stage makes (`Needs.previous`), that. A run goes on with the mean and deviation that it began with, whatever
    they would be by now.

    Raises:
        InputError: if one is needed and none is there, it does not fit, or one is given and none is needed.
    """
    wanted = builds_on(config)
    if wanted is None:
        if given:
            raise InputError(f"--first-stage {given}: {config.method} with these settings builds on no other run")
        return None
    with processes.agreeing():
        stage = FirstStage.read(run / FOLDER) if (run / FOLDER).is_dir() and not overwrite else None
        begun = stage is not None
        if given:
            trained = FirstStage.of_run(given, cohort, config)
            if stage and stage.fingerprint != trained.fingerprint:
                raise InputError(f"{run}: holds a run of another first stage than {given}; leave --first-stage out")
            stage = stage or trained
        if stage is None:
            raise InputError(
                f"{config.method} with these settings builds on a trained {wanted}: train one on this cohort first "
                f"(`scansynth train {wanted} …`), and name its run with --first-stage"
            )
    if isinstance(stage, LatentStage):
        _fit_latents(stage, config, cohort, begun=begun, processes=processes)
    elif needs_of(config).previous:
        targets, acceleration = make_method(config).targets, config.data.acceleration
        # In the first process: the others find it on the disk.
        processes.from_first(lambda: make_previous(stage, cohort, targets, acceleration, processes.device))
    return stage


def _fit_latents(
    stage: LatentStage, config: RunConfig[Any], cohort: Cohort, *, begun: bool, processes: Processes
) -> None:
    """Compute the cohort's latents, and, of a run that begins, what they are normalised by."""
    latent = needs_of(config).first_stage
    with processes.agreeing():
        if latent is not None and latent != (stage.channels, stage.factor):
            raise InputError(
                f"the first stage gives latents of {stage.channels} channels, {stage.factor} times smaller than "
                f"images; the settings latent_channels and factor say {latent[0]} and {latent[1]}"
            )

    def statistics() -> list[list[float]]:
        found = compute_latents(stage, cohort, config.contrasts, config.data.acceleration, processes.device)
        return [one.tolist() for one in found]

    mean, deviation = processes.from_first(statistics)
    if not begun:
        stage.normalise(mean, deviation)


def make_parts(
    config: RunConfig[Any], cohort: Cohort, processes: Processes, *, first_stage: FirstStage | None = None
) -> tuple[Method, Samples]:
    """The method and its training samples.

    Raises:
        InputError: if cohort, method, batch and processes do not fit each other.
    """
    if unknown := [name for name in config.contrasts if name not in cohort.contrasts]:
        raise InputError(f"contrast {unknown[0]!r} is not in the cohort, which has {', '.join(cohort.contrasts)}")
    if config.training.batch_size % processes.count:
        raise InputError(
            f"a batch of {config.training.batch_size} cannot be shared by {processes.count} processes (it counts the "
            f"samples of a step over all of them): give --training.batch-size {processes.count} or a multiple of it, "
            "or fewer --devices"
        )
    if config.training.batch_size < needs_of(config).least_batch:
        raise InputError(
            f"{config.method} normalises over the batch, and one of {config.training.batch_size} has nothing to "
            f"compare with: give --training.batch-size {needs_of(config).least_batch} or more"
        )
    if needs_of(config).generates:
        generated_grid(cohort.settings)  # says now, not after the training, that nothing could be made
    method = make_method(config)
    method.first_stage = first_stage
    latents = first_stage if isinstance(first_stage, LatentStage) else None
    made = first_stage.made(cohort, config.data.acceleration) if first_stage and method.needs.previous else None
    return method, method.needs.samples(
        cohort, config.contrasts, seed=config.seed, data=config.data, latents=latents, made=made
    )
