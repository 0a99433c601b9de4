"""What preparing a cohort would do: subjects, census, grids, splits, warnings and problems."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from scansynth.data.acquisitions import read_sidecar
from scansynth.data.census import Census, take
from scansynth.data.census_rules import refusals
from scansynth.data.layouts import Listing, chosen_contrasts, describe, told
from scansynth.data.prepare import Preparation, check_labels, prepared_axis
from scansynth.data.record import PreparationRecord
from scansynth.data.scan_facts import ScanFacts
from scansynth.data.splits import FRACTIONS, check_own_files, foresee, without_training
from scansynth.data.survey import Survey, one_grid, survey
from scansynth.errors import InputError

NAMED = 5
"""Subjects that a warning names at most."""


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What preparing would do, without doing it."""

    text: str
    """All of it: subjects, contrasts, grids, splits, warnings and problems."""
    survey: Survey
    """The census, and the settings with the box."""
    box: str
    """How the box was chosen; empty where it was given."""
    splits: str
    """The numbers by split; empty where there can be none."""
    warnings: tuple[str, ...]
    """What may be meant so, and what follows from it."""
    unreadable: tuple[str, ...]
    """Scans that cannot be read, or whose sidecars or masks cannot be; `skip_bad` leaves them out."""
    problems: tuple[str, ...]
    """Those, and all else that preparing would stop at."""


def dry_run(
    listing: Listing,
    settings: Preparation,
    *,
    census: Census | None = None,
    contrasts: Sequence[str] | None = None,
    fractions: tuple[float, float, float] = FRACTIONS,
    seed: int = 0,
    fit: bool = False,
    tissue: bool = False,
    accept: Sequence[str] = (),
    beside: bool = True,
    like: PreparationRecord | None = None,
) -> DryRun:
    """Foresee what `build_cohort` would do, by the same reader and the same rules. Nothing is written.

    Args:
        listing: the subjects.
        settings: how the scans would be prepared.
        census: of these scans, where it is taken already.
        contrasts: which; None: all.
        fractions: of train, val and test.
        seed: of their draw.
        fit: whether the size is chosen so that the box holds all heads.
        tissue: whether tissue would be segmented.
        accept: names of rules that may be broken.
        beside: whether sidecars and masks are read, too; preparing itself reads them next.
        like: of a run that the scans are to test (`build_cohort`).

    Raises:
        InputError: for contrasts that nobody has.
    """
    contrasts = chosen_contrasts(listing, contrasts)
    census = census or take(listing, contrasts)
    splits, counted, warnings, problems = _splits(listing, contrasts, fractions, seed, like=like)
    usual = like.usual if like else {}
    found = survey(census, settings, splits, fit=fit and bool(census.scans), tissue=tissue, usual=usual)
    box = ""
    if fit and census.scans:
        box = f"box: {_times([side for side in found.settings.size if side])} voxels in the plane hold the largest head"
    grids: dict[str, Counter[str]] = {}
    for scan in census.scans:
        grids.setdefault(_grid(scan, found.settings), Counter())[scan.contrast] += 1
    groups = Counter(group[0].subject for group in one_grid(census.scans))
    if unregistered := [name for name, count in groups.items() if count > 1]:
        names = ", ".join(unregistered[:NAMED]) + (" …" if len(unregistered) > NAMED else "")
        warnings.insert(
            0,
            f"contrasts of {len(unregistered)} subjects lie on different grids ({names}): for unpaired training only; "
            "for any other --raw registers each one's scans to one of them",
        )
    unreadable = [why for _, _, why in census.unreadable]
    unreadable += _beside(listing, census, contrasts) if beside else []
    impossible = {one.rule.name for one in refusals(found.findings, accept)}
    head, *lines = found.lines(accept)
    broken = [line for line in lines if any(f"[{name}]" in line for name in impossible)]
    warnings += [*told(listing), *(line for line in lines if line not in broken)]
    problems = [*unreadable, *broken, *problems]
    text = [
        describe(listing),
        "",
        "grids (right, anterior, superior axes):",
        *(f"  {grid}: {', '.join(f'{n[name]} {name}' for name in contrasts if n[name])}" for grid, n in grids.items()),
        *([box] if box else []),
        *([counted] if counted else []),
        "",
        *found.screen(),
        "",
        head,
        *(f"warning: {warning}" for warning in warnings),
        *(f"problem: {problem}" for problem in problems),
    ]
    return DryRun(
        text="\n".join(text),
        survey=found,
        box=box,
        splits=counted,
        warnings=tuple(warnings),
        unreadable=tuple(unreadable),
        problems=tuple(problems),
    )


def _beside(listing: Listing, census: Census, contrasts: Sequence[str]) -> list[str]:
    """What is wrong with sidecars and masks of the scans that can be read."""
    problems: list[str] = []
    for subject in listing.subjects:
        scans = {scan.contrast: scan.space for scan in census.scans if scan.subject == subject.name}
        sidecars = [subject.sidecars[name] for name in contrasts if name in scans and name in subject.sidecars]
        on_grid = partial(check_labels, spaces=list(scans.values()))
        masks = subject.masks.values() if scans else ()
        for file, read in [*((file, read_sidecar) for file in sidecars), *((mask, on_grid) for mask in masks)]:
            try:
                read(file)
            except InputError as error:
                problems.append(str(error))
    return problems


def _grid(scan: ScanFacts, settings: Preparation) -> str:
    """A scan's grid, and what becomes of it."""
    axes = [
        prepared_axis(*axis, 0.0)
        for axis in zip(scan.shape, scan.spacing, settings.spacing, settings.size, strict=True)
    ]
    prepared = [size * step for size, (_, step, _) in zip(scan.spacing, axes, strict=True)]
    return (
        f"{_times(scan.shape)} at {_times(scan.spacing)} mm, stored {scan.stored}, "
        f"becomes {_times([voxels for _, _, voxels in axes])} at {_times(prepared)} mm"
    )


def _splits(
    listing: Listing,
    contrasts: Sequence[str],
    fractions: tuple[float, float, float],
    seed: int,
    *,
    like: PreparationRecord | None,
) -> tuple[dict[str, str], str, list[str], list[str]]:
    """Splits, their numbers, warnings, and problems, of the subjects that have one of the contrasts."""
    subjects = [subject for subject in listing.subjects if any(name in subject.scans for name in contrasts)]
    try:
        check_own_files(subjects)
        if like:
            return {one.name: "test" for one in subjects}, f"splits: {len(subjects)} test (prepared like a run)", [], []
        found = foresee({subject.name: subject.split for subject in subjects}, fractions, seed)
    except InputError as error:
        return {}, "", [], [str(error)]
    untrained = without_training({subject.name: subject.scans for subject in subjects}, found.splits, contrasts)
    return found.splits, found.line, list(found.warnings), untrained


def _times(numbers: Sequence[float]) -> str:
    return "×".join(f"{number:g}" for number in np.round(numbers, 3))
