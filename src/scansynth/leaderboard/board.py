"""The figures of a leaderboard: distortion, perception, downstream use, coherence, uncertainty and cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scansynth.errors import InputError
from scansynth.evaluation.arms import Arm
from scansynth.evaluation.comparison import Comparison, Row, compare
from scansynth.evaluation.downstream import WHOLE, Dice, as_column, left_out, mask_of, measure_downstream
from scansynth.evaluation.evaluate import Evaluation, evaluate
from scansynth.evaluation.figures import Key
from scansynth.evaluation.tables import Spread, spread_of
from scansynth.evaluation.uncertainty import UncertaintyFigures
from scansynth.leaderboard.plan import Plan, Training
from scansynth.leaderboard.request import SEED
from scansynth.metrics.image_metrics import GRADIENT_ENERGY, PSNR, SSIM, TEXTURE
from scansynth.metrics.protocols import find_protocol
from scansynth.metrics.uncertainty import LEVELS
from scansynth.progress import Report, named
from scansynth.synthesis.run import Run
from scansynth.training.costs import Cost

PROTOCOL = "default"
MEASURED = (PSNR, SSIM, TEXTURE, GRADIENT_ENERGY)
"""Of the protocol: two of distortion, two of perception."""
NOMINAL = 0.9
DICE, JUMPS, COVERAGE = "dice", "slice_jumps", "coverage_of_90"
OWN = {DICE: ("Dice", 3), JUMPS: ("jumps between slices", 3), COVERAGE: ("coverage of 90 % (%)", 1)}
"""Figures beside the protocol's: heading and digits."""

Values = Mapping[tuple[str, str], Mapping[str, float]]
"""Run and direction → subject → figure."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A recipe, one of its trainings, or a copied source."""

    label: str
    seed: int | None
    """None: of the recipe, the mean over its trainings."""
    direction: str
    trainings: int
    figures: Mapping[str, Spread]
    """Over subjects, by column; a column that it has no figure of is left out."""
    best: frozenset[str] = frozenset()
    marks: Mapping[str, str]
    """Stars of differences to the best, by column."""
    cost: Cost | None = None
    steps: int | None = None
    stage_steps: int | None = None
    """Of the first stage."""


@dataclass(frozen=True, kw_only=True)
class Board:
    """A leaderboard."""

    plan: Plan
    evaluation: Evaluation
    comparison: Comparison
    lines: tuple[Line, ...]
    headings: Mapping[str, tuple[str, int]]
    """Column → heading and digits, of the figures that some line has."""
    notes: tuple[str, ...]
    dice: tuple[Dice, ...] = ()
    mask: str | None = None
    failed: Mapping[str, str]
    """Training → why it has no figures."""


def measured(plan: Plan, trainings: Sequence[Training], failed: Mapping[str, str], report: Report) -> Board:
    """Measure what was drawn of the test subjects.

    Args:
        plan: of all trainings.
        trainings: those that have been trained and drawn.
        failed: of the others, why they were not.
        report: told of what is measured.

    Raises:
        InputError: if there are none.
    """
    request = plan.request
    if not trainings:
        told = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise InputError(
            f"{request.out}: nothing came to its end ({told}); delete {request.out / 'failed'} to try again"
        )
    runs = [Run.load(one.folder, str(request.device), weights="last") for one in trainings]
    kept = request.out / "kept"
    found = evaluate(
        runs, request.cohort, protocol=PROTOCOL, target=request.target, seed=SEED, pictures=1, kept=kept,
        report=named(report, "measuring"),
    )  # fmt: skip
    recipes = list(dict.fromkeys(one.recipe for one in trainings))
    arms = [Arm(recipe, tuple(one.name for one in trainings if one.recipe == recipe)) for recipe in recipes]
    comparison = compare(
        found.results, found.protocol, arms=arms, costs=found.costs, acceleration=found.acceleration, notes=found.notes
    )
    values = {JUMPS: _by_run({key: one.slices for key, one in found.coherence.items()})}
    notes = list[str]()
    spread = _uncertainty(plan, runs, report)
    if not spread.empty:
        at = LEVELS.index(NOMINAL)
        values[COVERAGE] = _by_run({key: 100 * one.coverage[at] for key, one in spread.found.items()})
        found = replace(found, figures=[spread, *(one for one in found.figures if type(one) is not type(spread))])
    dice, mask = list[Dice](), mask_of(runs, request.cohort, "test")
    if mask:
        try:
            dice = measure_downstream(
                runs, request.cohort, mask, target=request.target, seed=SEED, kept=kept, report=report
            )
            notes.append(as_column(dice, mask, None, left_out(runs, request.cohort, mask, "test")).note)
            values[DICE] = _by_run({(one.label, request.direction, one.subject): one.dice[WHOLE] for one in dice})
        except InputError as error:
            notes.append(f"Dice of `{mask}`: none ({error}).")
    columns = {metric.column: (found.protocol.heading(metric.column), metric.digits) for metric in MEASURED}
    headings = {**columns, **{name: OWN[name] for name in OWN if name in values}}
    return Board(
        plan=plan,
        evaluation=found,
        comparison=comparison,
        lines=tuple(_lines(plan, trainings, found, comparison, values=values)),
        headings=headings,
        notes=tuple(notes),
        dice=tuple(dice),
        mask=mask if dice else None,
        failed=failed,
    )


def _uncertainty(plan: Plan, runs: Sequence[Run], report: Report) -> UncertaintyFigures:
    """Of the runs that draw, of which several samples were."""
    request, drawing = plan.request, [run for run in runs if run.method.stochastic]
    if not drawing or request.samples == 1:
        return UncertaintyFigures()
    return evaluate(
        drawing, request.cohort, protocol=find_protocol(PROTOCOL).only(PSNR.column), target=request.target, seed=SEED,
        samples=request.samples, pictures=0, kept=request.out / "kept", kinds=(UncertaintyFigures,),
        report=named(report, "measuring uncertainty"),
    ).of(UncertaintyFigures)  # fmt: skip


def _by_run(found: Mapping[Key, float]) -> dict[tuple[str, str], dict[str, float]]:
    values: dict[tuple[str, str], dict[str, float]] = {}
    for (label, direction, subject), value in found.items():
        values.setdefault((label, direction), {})[subject] = value
    return values


def _lines(
    plan: Plan,
    trainings: Sequence[Training],
    found: Evaluation,
    comparison: Comparison,
    *,
    values: Mapping[str, Values],
) -> list[Line]:
    """Recipes by the protocol's first figure, the best first, each with its trainings; copied sources last."""
    by_name = {one.name: one for one in trainings}
    first = PSNR.column

    def place(row: Row) -> tuple[bool, float]:
        mean = row.figures[first].mean
        return not row.runs, -mean if np.isfinite(mean) else np.inf

    lines = []
    for row in sorted(comparison.rows, key=place):
        own = [by_name[name] for name in row.runs]
        marks = {metric.column: comparison.mark(row, metric.column) for metric in MEASURED}
        lines.append(
            Line(
                label=row.label,
                seed=own[0].seed if len(own) == 1 else None,
                direction=row.direction,
                trainings=len(own),
                figures={metric.column: row.figures[metric.column] for metric in MEASURED}
                | _further(row.runs or (row.label,), row.direction, values),
                best=row.best,
                marks=marks,
                cost=row.cost,
                **_steps(own[:1]),
            )
        )
        for one in own if len(own) > 1 else ():
            results = [
                result for result in found.results if (result.label, result.direction) == (one.name, row.direction)
            ]
            lines.append(
                Line(
                    label=row.label,
                    seed=one.seed,
                    direction=row.direction,
                    trainings=1,
                    figures={
                        metric.column: spread_of([result.measurement.mean(metric.column) for result in results])
                        for metric in MEASURED
                    }
                    | _further((one.name,), row.direction, values),
                    marks={},
                    cost=found.costs.get(one.name),
                    **_steps([one]),
                )
            )
    return lines


def _steps(trainings: Sequence[Training]) -> dict[str, Any]:
    """Steps of a recipe, all of whose trainings have as many."""
    if not trainings:
        return {}
    (one,) = trainings
    stage = one.stage.config.training.steps if one.stage else None
    return {"steps": one.config.training.steps, "stage_steps": stage}


def _further(runs: Sequence[str], direction: str, values: Mapping[str, Values]) -> dict[str, Spread]:
    """Figures beside the protocol's, over subjects, of the means over some trainings."""
    found = {}
    for column, by_run in values.items():
        own = [by_run[name, direction] for name in runs if (name, direction) in by_run]
        if own:
            subjects = [name for name in own[0] if all(name in one for one in own)]
            found[column] = spread_of([float(np.mean([one[name] for one in own])) for name in subjects])
    return found
