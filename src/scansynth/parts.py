"""What a run is made of before it trains: its method and its training samples."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from scansynth.config import DataSettings, RunConfig
from scansynth.data.acquisitions import Acquisitions
from scansynth.data.cohort import Cohort
from scansynth.data.datasets import SliceDataset
from scansynth.data.latents import LatentDataset
from scansynth.data.patches import PatchDataset
from scansynth.data.prepare import generated_grid
from scansynth.data.slice_sets import SliceSetDataset
from scansynth.errors import InputError
from scansynth.first_stage import FOLDER, FirstStage, compute_latents
from scansynth.method import Method
from scansynth.methods import find_method
from scansynth.processes import Processes

TrainingData = SliceDataset | PatchDataset | SliceSetDataset
"""What samples are drawn from."""


def make_method(config: RunConfig[Any]) -> Method:
    """The method of a run with its first weights, which the seed determines."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return find_method(config.method)(config.settings, config.contrasts)


def find_first_stage(
    config: RunConfig[Any], cohort: Cohort, run: Path, *, given: Path | None, overwrite: bool, processes: Processes
) -> FirstStage | None:
    """The first stage of a latent method: that of the run folder, or the trained autoencoder that is given.

    The cohort's latents are computed, as far as they are not there.

    Raises:
        InputError: if one is needed and none is there, it does not fit, or one is given and none is needed.
    """
    needs = make_method(config).needs
    if needs.latent is None:
        if given:
            raise InputError(f"--first-stage {given}: {config.method} works on images, and needs none")
        return None
    with processes.agreeing():
        stage = FirstStage.read(run / FOLDER) if (run / FOLDER).is_dir() and not overwrite else None
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
        if needs.latent != (stage.channels, stage.factor):
            raise InputError(
                f"the first stage gives latents of {stage.channels} channels, {stage.factor} times smaller than "
                f"images; the settings latent_channels and factor say {needs.latent[0]} and {needs.latent[1]}"
            )
    deviation = processes.from_first(
        lambda: compute_latents(stage, cohort, config.contrasts, config.data.acceleration, processes.device).tolist()
    )
    stage.deviation.copy_(torch.tensor(deviation))
    return stage


def make_parts(
    config: RunConfig[Any], cohort: Cohort, processes: Processes, *, first_stage: FirstStage | None = None
) -> tuple[Method, TrainingData]:
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
    method, data = make_method(config), config.data
    method.first_stage = first_stage
    needs = method.needs
    if needs.unit in ("patch", "slice_set") and data != DataSettings(acceleration=data.acceleration):
        unit = {"patch": "patches", "slice_set": "sets of slices"}[needs.unit]
        raise InputError(f"{config.method} trains on {unit}: of the settings under data, only acceleration counts")
    if method.generates:
        generated_grid(cohort.settings)  # says now, not after the training, that nothing could be made
    if needs.slice_sets is not None or needs.patch is not None:
        dataset = whole_samples(method, config, cohort, "train")
        if isinstance(dataset, SliceSetDataset):
            check_size(method, dataset.size)
        return method, dataset
    if needs.latent is not None:
        if replace(data, augmentation=DataSettings().augmentation) != data:
            raise InputError(f"{config.method} trains on stored latents, which cannot be augmented: leave that out")
        if needs.tissue and data.acceleration:
            raise InputError(
                f"{config.method}: the cohort's tissue densities are those of fully sampled scans; leave acceleration "
                "out, or train with --settings.no-structural-guidance"
            )
        assert first_stage is not None
        dataset = LatentDataset(
            cohort,
            config.contrasts,
            config.seed,
            min_foreground=data.min_foreground,
            slices_per_subject=data.slices_per_subject,
            store=first_stage.store(cohort, data.acceleration),
            deviation=first_stage.deviation.cpu(),
            tissue=needs.tissue,
        )
    else:
        dataset = SliceDataset(
            cohort,
            config.contrasts,
            split="train",
            paired=needs.paired,
            seed=config.seed,
            min_foreground=data.min_foreground,
            augmentation=data.augmentation,
            slices_per_subject=data.slices_per_subject,
            acceleration=data.acceleration,
            acquisitions=None if needs.sequences is None else Acquisitions(needs.sequences, data.defaults),
        )
    check_size(method, dataset.size)
    return method, dataset


def whole_samples(method: Method, config: RunConfig[Any], cohort: Cohort, split: str) -> PatchDataset | SliceSetDataset:
    """Patches or sets of slices of a split, whichever the method trains on."""
    needs, acceleration = method.needs, config.data.acceleration
    if needs.slice_sets is not None:
        sets, labels = needs.slice_sets, needs.labels
        return SliceSetDataset(
            cohort, config.contrasts, split, seed=config.seed, sets=sets, acceleration=acceleration, labels=labels
        )
    assert needs.patch is not None
    return PatchDataset(cohort, config.contrasts, split, seed=config.seed, size=needs.patch, acceleration=acceleration)


def check_size(method: Method, size: tuple[int, int]) -> None:
    """Raise InputError if the networks cannot take the cohort's slices."""
    multiple = method.needs.size_multiple
    if any(side % multiple for side in size):
        raise InputError(
            f"prepared slices are {size[0]}×{size[1]}, the networks need multiples of {multiple}: "
            "prepare the cohort with another --size"
        )
