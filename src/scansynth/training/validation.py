"""What a training is watched by: a few slices of the validation subjects, each target made from the other contrasts.

A method that makes volumes without a source is watched by its loss on samples of the validation subjects.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scansynth.config import RunConfig
from scansynth.data.cohort import Cohort
from scansynth.data.datasets import from_network, whole_subject
from scansynth.data.samples import Samples
from scansynth.errors import InputError
from scansynth.given import given, sources_for
from scansynth.method import Method, Progress
from scansynth.metrics.cases import Case, inside_the_brain, slices_with_foreground
from scansynth.noise import Noise

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ValidationTarget:
    """Slices of one validation subject with one target left out (or, where it is reconstructed, alone)."""

    subject: str
    target: str
    batch: dict[str, torch.Tensor]
    truth: torch.Tensor  # (X, Y, n), 0 and up


def validation_targets(cohort: Cohort, method: Method, config: RunConfig[Any]) -> list[ValidationTarget]:
    """Every validation subject with every target that it has (together with a source, if that is needed)."""
    found = []
    for subject in cohort.subjects("val"):
        if not cohort.registered(subject):
            continue
        whole = whole_subject(
            cohort, subject, config.contrasts, acceleration=config.data.acceleration, tissue=method.needs.tissue
        )
        foreground = np.max([cohort.foreground(subject, name) for name in cohort.available(subject)], axis=0)
        tissue = np.flatnonzero(foreground >= config.data.min_foreground)
        if not len(tissue):
            continue
        shown = method.needs.validated(tissue, len(foreground), config.training.validation_slices)
        z = torch.as_tensor(shown)
        for target in method.targets:
            index = config.contrasts.index(target)
            readable = sources_for(target, config.contrasts, reconstructs=method.reconstructs)
            if not whole["available"][0, index] or not (whole["available"] & readable).any():
                continue
            if not method.reconstructs and not method.needs.suffice(
                cohort.available(subject), target, config.contrasts
            ):
                continue
            truth = from_network(whole["images"][0, index][..., z]).clamp_min(0)
            try:
                slices_with_foreground(truth.numpy())
                inside_the_brain(Case(truth.numpy(), truth.numpy()))
            except InputError as error:
                log.warning("no validation of %s %s: %s", subject, target, error)
                continue
            shown = given(whole, readable, z, neighbours=method.needs.neighbours)
            found.append(ValidationTarget(subject, target, shown, truth))
    return found


@torch.no_grad()
def synthesise_target(method: Method, left_out: ValidationTarget, seed: int, device: torch.device) -> torch.Tensor:
    """The synthesis of a validation target, (X, Y, n) in [0, 1]."""
    batch = {key: value.to(device) for key, value in left_out.batch.items()}
    noise = Noise([(seed, left_out.subject, 0)], device)
    made = method.translate(batch, left_out.target, method.needs.windows(), noise).image
    return from_network(made)[0, 0].clamp(0, 1).cpu()


def held_out_samples(cohort: Cohort, method: Method, config: RunConfig[Any]) -> Samples | None:
    """Samples of the validation subjects, for a method that makes volumes without a source; None for others."""
    has_subject = any(set(config.contrasts) & set(cohort.available(subject)) for subject in cohort.subjects("val"))
    if not (method.needs.generates and has_subject):
        return None
    return method.needs.samples(cohort, config.contrasts, "val", seed=config.seed, data=config.data)


@torch.no_grad()
def held_out_loss(
    method: Method,
    samples: Samples,
    config: RunConfig[Any],
    device: torch.device,
    *,
    before_each: Callable[[], None] = lambda: None,
) -> float:
    """Mean training loss of `validation_slices` epochs of samples, with the same ones, times and noise each time.

    No volume is sampled: that takes minutes, and there is no image that it should equal.
    Before each sample `before_each` is called.
    """
    values: list[float] = []

    def record(player: str, losses: Mapping[str, torch.Tensor]) -> None:
        values.append(sum(loss.item() for loss in losses.values()))

    for i in range(config.training.validation_slices * len(samples)):
        before_each()
        batch = {key: value[None].to(device) for key, value in samples[i].items()}
        method.training_step(batch, record, Progress(0, 1, 0.0), Noise([(config.seed, "held out", i)], device))
    return float(np.mean(values))


def sources_shown(method: Method, left_out: ValidationTarget) -> dict[str, np.ndarray]:
    """The available contrasts of a validation target, (X, Y, n) in [0, 1]."""
    return {
        name: from_network(left_out.batch["images"][0, index]).numpy()
        for index, name in enumerate(method.contrasts)
        if left_out.batch["available"][0, index]
    }
