"""What to train on a cohort, here, in so many hours: rules applied, a few steps tried, settings with their reasons.

facts_of_cohort       what a prepared cohort has
plan_rules.decide     method, contrasts, unit, network, batch, learning rate
plan                  the rate measured, width and batch adjusted to time and memory
Plan.yaml             settings that `train` takes, reasons as comments
"""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scansynth.config import RunConfig, to_yaml
from scansynth.data.cohort import Cohort
from scansynth.data.contrasts import standard_name
from scansynth.data.splits import SPLITS
from scansynth.errors import InputError
from scansynth.planning.plan_rules import GENERATOR_STEPS, MEMORY, Decision, Facts, adjusted_width, decide
from scansynth.precision import choose_precision
from scansynth.recipes import find_recipe
from scansynth.training.memory import predicted_gb
from scansynth.training.parts import needs_of
from scansynth.training.selection import FEWEST
from scansynth.training.trial import try_steps

log = logging.getLogger(__name__)

UNCERTAINTY = 0.25
"""Share by which the number of steps may come out otherwise: a trial of seconds on a machine that others use too."""
VALIDATIONS = 10
"""In a training, about."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings to train with, and how they came about."""

    config: RunConfig[Any]
    decisions: tuple[Decision, ...]
    steps: int
    """That fit into the time, about."""
    seconds: float
    """Of a training step, in a trial here."""
    memory_gb: float
    """Peak of the training, predicted."""
    there_gb: float
    """Memory of the device."""
    device: torch.device
    hours: float

    def lines(self) -> list[str]:
        """A line a decision, and what it will take."""
        low, high = (float(f"{self.steps * factor:.2g}") for factor in (1 - UNCERTAINTY, 1 + UNCERTAINTY))
        rate = f"{self.seconds:.3g} s a step in a trial just now"
        return [
            *(topic_line(one.topic, f"{_shown(one.value)}: {one.why}") for one in self.decisions),
            topic_line("training", f"{_time(self.hours)} on {self.device}: {low:,.0f} to {high:,.0f} steps ({rate})"),
            topic_line("memory", f"about {self.memory_gb:.1f} GB of {self.there_gb:.1f} for the training"),
        ]

    def yaml(self) -> str:
        """A settings file that `train` takes."""
        return "\n".join(f"# {line}".rstrip() for line in self.lines()) + "\n" + to_yaml(self.config)


def plan(facts: Facts, device: torch.device, *, share: float = MEMORY) -> Plan:
    """Decide, try a few steps, and adjust width and batch to the time and the memory.

    Args:
        facts: of cohort and machine.
        device: where it would be trained.
        share: of the memory that the training may take.

    Raises:
        InputError: if nothing can be trained on such a cohort.
    """
    decided = decide(facts)
    config = configured(decided, facts)
    seconds = try_steps(config, facts.size, device).seconds
    steps = facts.hours * 3600 / seconds
    if decided["method"].value == "cdpm" and steps < GENERATOR_STEPS:
        raise InputError(
            f"there is one contrast, {facts.contrasts[0]}: nothing can be translated, and to generate volumes needs "
            f"{GENERATOR_STEPS} training steps and more, of which {steps:,.0f} fit into {_time(facts.hours)} here: "
            f"give --hours {math.ceil(GENERATOR_STEPS * seconds / 3600 * 1.2)}, or train on a GPU"
        )
    if "width" in decided:
        width, why = adjusted_width(decided["width"].value, steps, facts.device)
        decided["width"] = replace(decided["width"], why=f"{decided['width'].why}; {why}")
        if width != decided["width"].value:
            decided["width"] = replace(decided["width"], value=width)
            config = configured(decided, facts)
            seconds = try_steps(config, facts.size, device).seconds
            steps = facts.hours * 3600 / seconds
    needed = memory_of(config, facts, device)
    while needed > share * facts.memory_gb and config.training.batch_size > 1:
        halved = config.training.batch_size // 2
        config = replace(config, training=replace(config.training, batch_size=halved))
        why = f"a larger batch would take {needed:.1f} of {facts.memory_gb:.1f} GB"
        decided["batch size"] = Decision("batch size", halved, "memory", why)
        needed = memory_of(config, facts, device)
        seconds, steps = seconds / 2, steps * 2
    choice = choose_precision(config.training.precision, device)
    decided["precision"] = Decision("precision", choice.precision, "by the machine", choice.reason)
    decided["validation"] = Decision("validation", *_validation(facts))
    every = max(1, round(steps / VALIDATIONS))
    training = replace(config.training, minutes=60 * facts.hours, steps=max(1, round(steps)), validate_every=every)
    config = replace(config, training=training)
    return Plan(
        config=config,
        decisions=tuple(decided.values()),
        steps=training.steps,
        seconds=seconds,
        memory_gb=needed,
        there_gb=facts.memory_gb,
        device=device,
        hours=facts.hours,
    )


def configured(decided: Mapping[str, Decision], facts: Facts) -> RunConfig[Any]:
    """The settings that the decisions come to."""
    values = {topic: decision.value for topic, decision in decided.items()}
    config = replace(find_recipe(values["recipe"]), contrasts=values["contrasts"])
    settings, data, training = config.settings, config.data, config.training
    if "width" in values:
        settings = replace(
            settings, channels=values["width"], multipliers=values["multipliers"],
            learning_rate=values["learning rate"], targets=facts.targets,
        )  # fmt: skip
        training = replace(training, batch_size=values["batch size"])
    if values.get("augmentation"):
        data = replace(data, augmentation=replace(data.augmentation, flip=0.5))
    config = replace(config, settings=settings, data=data, training=training)
    multiple = needs_of(config).size_multiple
    if any(side % multiple for side in facts.size):
        height, width = (-(-side // multiple) * multiple for side in facts.size)
        raise InputError(
            f"slices of {facts.size[0]}×{facts.size[1]} do not fit {values['recipe']}, whose networks need multiples "
            f"of {multiple}: prepare the cohort with --size {height} {width} …"
        )
    return config


def memory_of(config: RunConfig[Any], facts: Facts, device: torch.device) -> float:
    """Peak memory of a training, GB."""
    batch = needs_of(config).random_batch(len(config.contrasts), 1, facts.size, config.seed)
    return predicted_gb(config, batch, device)


def facts_of_cohort(cohort: Cohort, targets: Sequence[str], device: torch.device, hours: float) -> Facts:
    """What a prepared cohort has for a plan.

    Args:
        cohort: prepared scans.
        targets: contrasts to make; empty for all.
        device: where it would be trained.
        hours: for the training.

    Raises:
        InputError: if the cohort lacks a target, or has slices of several sizes.
    """
    targets = tuple(dict.fromkeys(standard_name(name) for name in targets))
    if unknown := [name for name in targets if name not in cohort.contrasts]:
        raise InputError(f"{cohort.folder}: no scan of {unknown[0]}: the cohort has {', '.join(cohort.contrasts)}")
    train = cohort.subjects("train")
    scans = [(subject, name) for subject in train for name in cohort.available(subject)]
    sizes = {cohort.shape(*scan)[:2] for scan in scans}
    if len(sizes) > 1:
        raise InputError(
            f"{cohort.folder}: slices of {len(sizes)} sizes; prepare them with --size X Y None, so that all have one"
        )
    voxels = [np.linalg.norm(cohort.affine(*scan)[:3, :3], axis=0) for scan in scans]
    x, y, z = (float(mm) for mm in np.median(voxels, axis=0))
    slices = [int((cohort.foreground(*scan) >= 0.1).sum()) for scan in scans]
    paired = {
        name: sum(
            name in cohort.available(subject) and len(cohort.available(subject)) > 1 and cohort.registered(subject)
            for subject in train
        )
        for name in cohort.contrasts
    }
    return Facts(
        contrasts=cohort.contrasts,
        targets=targets,
        size=sizes.pop(),
        spacing=(x, y, z),
        one_grid=None not in (*cohort.settings.size, *cohort.settings.spacing),
        subjects={split: len(cohort.subjects(split)) for split in SPLITS},
        having={name: sum(one == name for _, one in scans) for name in cohort.contrasts},
        paired=paired,
        slices=round(sum(slices) / len(cohort.contrasts)),
        device=device.type,
        memory_gb=memory_there(device),
        hours=hours,
    )


def memory_there(device: torch.device) -> float:
    """Memory of a device, GB: of a GPU its own, else what the system has available."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 1e9
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 / 1e9 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 8.0  # not told: a small laptop's


def _validation(facts: Facts) -> tuple[str, str, str]:
    count = facts.subjects.get("val", 0)
    if not count:
        return "none", "no validation subject", "no subject validates: the last averages are taken, not the best"
    if count < FEWEST:
        told = f"about {VALIDATIONS} times; too few to tell which weights are best: the last averages are taken"
        return f"{count} subjects", "validation subjects", told
    return f"{count} subjects", "validation subjects", f"about {VALIDATIONS} times; the best weights are taken"


def topic_line(topic: str, text: str) -> str:
    """A topic and what is said of it, as a line of a plan."""
    return f"{topic:14} {text}"


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _time(hours: float) -> str:
    return f"{hours:g} h" if hours >= 1 else f"{60 * hours:.0f} min"
