"""What a run is made of before it trains: its method and its training samples."""

from pathlib import Path
from typing import Any

import torch

from scansynth.config import RunConfig
from scansynth.data.cohort import Cohort
from scansynth.data.prepare import generated_grid
from scansynth.data.samples import Samples
from scansynth.devices import Processes
from scansynth.errors import InputError
from scansynth.method import Method
from scansynth.methods import find_method
from scansynth.needs import Needs
from scansynth.training.first_stage import FOLDER, FirstStage, compute_latents


def make_method(config: RunConfig[Any]) -> Method:
    """The method of a run with its first weights, which the seed determines."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return find_method(config.method)(config.settings, config.contrasts)


def needs_of(config: RunConfig[Any]) -> Needs:
    """What a run's method trains on, known without building networks."""
    return find_method(config.method).needs_of(config.settings, config.contrasts)


def find_first_stage(
    config: RunConfig[Any], cohort: Cohort, run: Path, *, given: Path | None, overwrite: bool, processes: Processes
) -> FirstStage | None:
    """The first stage of a latent method: that of the run folder, or the trained autoencoder that is given.

    The cohort's latents are computed, as far as they are not there. A run goes on with the mean and deviation that it
    began with, whatever they would be by now.

    Raises:
        InputError: if one is needed and none is there, it does not fit, or one is given and none is needed.
    """
    latent = needs_of(config).first_stage
    if latent is None:
        if given:
            raise InputError(f"--first-stage {given}: {config.method} works on images, and needs none")
        return None
    with processes.agreeing():
        stage = FirstStage.read(run / FOLDER) if (run / FOLDER).is_dir() and not overwrite else None
        begun = stage is not None
        if given:
            trained = FirstStage.of_run(given, cohort, config)
            if stage and stage.sha256 != trained.sha256:
                raise InputError(f"{run}: holds a run of another first stage than {given}; leave --first-stage out")
            stage = stage or trained
        if stage is None:
            raise InputError(
                f"{config.method} works on latents: train an autoencoder on this cohort first (`scansynth train "
                "autoencoder …`), and name its run with --first-stage"
            )
        if latent != (stage.channels, stage.factor):
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
    return stage


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
    if needs_of(config).generates:
        generated_grid(cohort.settings)  # says now, not after the training, that nothing could be made
    method = make_method(config)
    method.first_stage = first_stage
    return method, method.needs.samples(
        cohort, config.contrasts, seed=config.seed, data=config.data, latents=first_stage
    )
