"""What a pipeline was asked for, and what it will do with such scans: decided by looking at them and a few trials."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from scansynth.config import RunConfig, to_yaml
from scansynth.data.census_rules import check_accepted
from scansynth.data.choose_preparation import Look, choose_preparation, look
from scansynth.data.contrasts import standard_name
from scansynth.data.layouts import Listing, chosen_contrasts
from scansynth.data.prepare import Preparation
from scansynth.data.raw.settings import Raw
from scansynth.data.splits import SPLITS, choose_splits, person_of
from scansynth.errors import InputError
from scansynth.planning.plan import memory_there, plan, topic_line
from scansynth.planning.plan_rules import Facts
from scansynth.progress import Event, Report, named
from scansynth.recipes import find_recipe
from scansynth.synthesis.what_to_make import check_missing
from scansynth.training.trial import try_steps

ENOUGH_STEPS = 3000
"""Training steps that a spacing must leave: fewer learn less than coarser slices would."""
TRAINING = 0.85
"""Share of the time that training gets; the rest is for looking, preparing, measuring, translating and the report."""
BY = (80, 96)
"""Slice of the trial that says how many voxels are affordable."""


REGISTERED_FIRST = (
    "each subject's scans lie on several grids: they are registered to one of them first (bias {}, brain {}): look at "
    "cohort/registered"
)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What was asked of a pipeline."""

    data: str
    targets: tuple[str, ...]
    """Contrasts to make; empty: all."""
    hours: float
    seed: int
    skip_bad: bool
    fractions: tuple[float, float, float]
    """Of train, val and test, where the data gives no split."""
    accept: tuple[str, ...] = ()
    """Rules of the census that may be broken."""
    pattern: str | None = None
    """How files are named, where no layout that is known names them so."""
    together: Raw = Raw()  # noqa: RUF009 (frozen)
    """How scans that lie on several grids are brought together."""


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What a pipeline will do."""

    asked: Asked
    listing: Listing
    preparation: Preparation
    why_so: str
    """Prepared."""
    split: dict[str, int]
    config: RunConfig[Any]
    lines: tuple[str, ...]
    """Of the plan."""
    unreadable: tuple[str, ...]
    """Of the scans looked at."""
    as_found: Listing | None = None
    """The scans as they came, where `listing` has what was registered of them; what is missing is made of these."""

    @property
    def generates(self) -> bool:
        """Whether volumes are generated, and nothing translated."""
        return self.config.method == "cdpm"

    @property
    def missing_images(self) -> list[tuple[str, str]]:
        """Subject and target of all that will be made: who lacks it and has a source."""
        known = set(self.config.contrasts)
        return [
            (subject.name, name)
            for name in self.asked.targets or self.config.contrasts
            for subject in self.listing.subjects
            if name not in subject.scans and known & subject.scans.keys()
        ]

    @property
    def missing(self) -> dict[str, int]:
        """Target → subjects who lack it and have a source; those of targets that nobody lacks are left out."""
        return dict(Counter(name for _, name in self.missing_images))

    def text(self) -> str:
        """All of it, for people, before anything is done."""
        where = f"{self.asked.data}, {len(self.listing.subjects)} subjects, {self.listing.layout} layout"
        prepared = self.preparation
        how = f"size {_axes(prepared.size)}, spacing {_axes(prepared.spacing)} mm, intensities {prepared.intensity}"
        lines = [
            ("scans", f"{where}, {', '.join(self.listing.contrasts)}"),
            *(
                [("together", REGISTERED_FIRST.format(self.asked.together.bias, self.asked.together.told.brain))]
                if self.as_found
                else ()
            ),
            ("split", ", ".join(f"{self.split[name]} {name}" for name in SPLITS)),
            *self._warnings(),
            ("prepare", f"{how}: {self.why_so}"),
        ]
        return "\n".join([*(topic_line(*line) for line in lines), *self.lines, topic_line("then", self._after())])

    def _warnings(self) -> list[tuple[str, str]]:
        lines = [("problem", problem) for problem in self.unreadable]
        if not self.split["val"]:
            lines.append(("warning", "nobody validates: the last weights are taken, not the best"))
        if not self.split["test"]:
            lines.append(("warning", "nobody is left for the test: figures are of the validation, or there are none"))
        return lines

    def _after(self) -> str:
        if self.generates:
            return "volumes can be generated; nothing is translated or measured against a truth"
        lacking = ", ".join(f"{count} lack {name}" for name, count in self.missing.items())
        made = f"what is missing is made ({lacking})" if lacking else "nobody lacks a target: nothing is translated"
        held_out = "measured on held-out subjects" if self.split["test"] or self.split["val"] else "not measured"
        return f"{held_out}; {made}; one page links it all"


def propose(
    listing: Listing,
    asked: Asked,
    device: torch.device,
    report: Report,
    *,
    as_found: Listing | None = None,
    seen: Look | None = None,
) -> Proposal:
    """Look at the scans and decide what to do; nothing is written.

    Args:
        listing: the subjects found.
        asked: targets and hours.
        device: where to train.
        report: told of what is being done.
        as_found: where the listing has registered scans, the scans as they came.
        seen: what a look at the listing's scans showed, if there was one.

    Raises:
        InputError: if nothing can be trained on such scans.
    """
    if asked.hours <= 0:
        raise InputError(f"--hours {asked.hours:g}: must be above 0")
    contrasts = chosen_contrasts(listing, None)
    chosen_contrasts(listing, asked.targets)  # somebody must have each
    listing = with_split(listing, asked)
    splits = {subject.name: subject.split or "train" for subject in listing.subjects}
    seen = seen or look(listing, contrasts, named(report, "looking at scans"))
    if seen.unreadable and not asked.skip_bad:
        raise InputError(
            f"{len(seen.unreadable)} scans cannot be read: mend or remove them, or --skip-bad; {seen.unreadable[0]}"
        )
    one_grid = len(contrasts) == 1
    report(Event(0, 2, "trying a few training steps"))
    basis = replace(find_recipe("cdpm_small" if one_grid else "regression_small"), contrasts=contrasts)
    voxel_step = try_steps(basis, BY, device).seconds / (BY[0] * BY[1])
    report(Event(1, 2, "trying a few training steps"))
    largest = asked.hours * 3600 * TRAINING / ENOUGH_STEPS / voxel_step
    preparation, why_so = choose_preparation(seen, largest, one_grid=one_grid)
    facts = _facts(listing, asked, contrasts, preparation=preparation, seen=seen, splits=splits, device=device)
    planned = plan(facts, device)
    report(Event(2, 2, "trying a few training steps"))
    config = replace(planned.config, seed=asked.seed)
    proposal = Proposal(
        asked=asked,
        listing=listing,
        preparation=preparation,
        why_so=why_so,
        split=counted(splits),
        config=config,
        lines=tuple(planned.lines()),
        unreadable=seen.unreadable,
        as_found=as_found,
    )
    if not proposal.generates:
        check_missing(listing, proposal.missing_images, asked.accept)
    return proposal


def with_split(listing: Listing, asked: Asked) -> Listing:
    """The subjects with a split: as the data states it, else drawn among those who have all targets and a source.

    Who lacks a target can hold out nothing: there is no truth. So the others train, with what they have.
    """
    subjects = listing.subjects
    targets = set(asked.targets or listing.contrasts)
    whole = {person_of(one.name) for one in subjects if targets <= one.scans.keys() and len(one.scans) > 1}
    if any(subject.split is not None for subject in subjects) or not whole:
        drawn = choose_splits({one.name: one.split for one in subjects}, asked.fractions, asked.seed)
    else:
        complete = {one.name: None for one in subjects if person_of(one.name) in whole}
        drawn = dict.fromkeys((one.name for one in subjects), "train")
        drawn |= choose_splits(complete, asked.fractions, asked.seed)
    return replace(listing, subjects=tuple(replace(one, split=drawn[one.name]) for one in subjects))


def plan_yaml(proposal: Proposal) -> str:
    """The settings file, reasons as comments."""
    return "\n".join(f"# {line}".rstrip() for line in proposal.text().splitlines()) + "\n" + to_yaml(proposal.config)


def counted(splits: dict[str, str]) -> dict[str, int]:
    """Subjects by split."""
    return {split: sum(one == split for one in splits.values()) for split in SPLITS}


def asked_of(
    data: Path,
    targets: Sequence[str],
    hours: float,
    *,
    seed: int,
    skip_bad: bool,
    fractions: tuple[float, float, float],
    accept: Sequence[str] = (),
    pattern: str | None = None,
    together: Raw = Raw(),  # noqa: B008 (frozen)
) -> Asked:
    """What was asked, in standard names; `all` stands for every contrast."""
    names = () if "all" in targets else tuple(dict.fromkeys(standard_name(name) for name in targets))
    return Asked(
        data=str(data.absolute()),
        targets=names,
        hours=hours,
        seed=seed,
        skip_bad=skip_bad,
        fractions=fractions,
        accept=check_accepted(accept),
        pattern=pattern,
        together=together,
    )


def _facts(
    listing: Listing, asked: Asked, contrasts: tuple[str, ...], *, preparation: Preparation, seen: Look,
    splits: dict[str, str], device: torch.device,
) -> Facts:  # fmt: skip
    train = [subject for subject in listing.subjects if splits.get(subject.name) == "train"]
    having = {name: sum(name in subject.scans for subject in train) for name in contrasts}
    several = {name: sum(name in subject.scans and len(subject.scans) > 1 for subject in train) for name in contrasts}
    height, width, _ = preparation.size
    assert height is not None, preparation
    assert width is not None, preparation
    factor = max(seen.spacing[:2])
    x, y = (mm or factor for mm in preparation.spacing[:2])
    return Facts(
        contrasts=contrasts,
        targets=asked.targets,
        size=(height, width),
        spacing=(x, y, preparation.spacing[2] or seen.spacing[2]),
        one_grid=None not in (*preparation.size, *preparation.spacing),
        subjects=counted(splits),
        having=having,
        paired={name: round(count * seen.paired) for name, count in several.items()},
        slices=round(seen.slices * sum(having.values()) / len(contrasts)),
        device=device.type,
        memory_gb=memory_there(device),
        hours=asked.hours * TRAINING,
    )


def _axes(values: Sequence[Any]) -> str:
    return "×".join("acquired" if value is None else f"{value:g}" for value in values)
