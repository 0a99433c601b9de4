"""All trainings of a leaderboard, each with its steps."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scansynth.config import RunConfig
from scansynth.errors import InputError, why
from scansynth.leaderboard.fitting import Fit, sorted_out
from scansynth.leaderboard.rates import Rate, find_rate, measured_yardstick
from scansynth.leaderboard.request import Request
from scansynth.progress import Event, Report
from scansynth.training import checkpoint

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training."""

    recipe: str
    seed: int
    folder: Path
    config: RunConfig[Any]
    minutes: float
    """Of itself, without its first stage."""
    stage: "Training | None" = None
    """What it builds on, trained first."""

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name

    @property
    def finished(self) -> int:
        """Steps that are done and saved."""
        newest = checkpoint.current(self.folder / "last")
        return checkpoint.step_of(newest) if newest else 0

    @property
    def done(self) -> bool:
        """Whether it has come to its end."""
        return self.finished >= self.config.training.steps


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is trained, and what does not fit."""

    request: Request
    fits: tuple[Fit, ...]
    unfit: Mapping[str, str]
    """Recipe → why it is not trained."""
    rates: Mapping[str, Rate]
    """Of all recipes that fit, and of their first stages."""

    @cached_property
    def trainings(self) -> list[Training]:
        """Of every recipe and seed, seed by seed: a whole table of the first seed stands before the second begins."""
        return [self._training(one, seed) for seed in self.request.seeds for one in self.fits]

    @cached_property
    def stages(self) -> list[Training]:
        """What trainings build on, each once: those of one seed share it."""
        found = {one.stage.name: one.stage for one in self.trainings if one.stage}
        return list(found.values())

    def _training(self, fit: Fit, seed: int) -> Training:
        request, rate = self.request, self.rates[fit.recipe]
        stage = None
        if fit.stage:
            stage = Training(
                recipe=fit.stage,
                seed=seed,
                folder=request.run_folder(fit.stage, seed, as_stage=True),
                config=request.config(fit.stage, seed, self.rates[fit.stage].steps_of_half),
                minutes=request.minutes / 2,
            )
        return Training(
            recipe=fit.recipe,
            seed=seed,
            folder=request.run_folder(fit.recipe, seed),
            config=request.config(fit.recipe, seed, rate.steps_of_half if stage else rate.steps),
            minutes=request.minutes / 2 if stage else request.minutes,
            stage=stage,
        )


def foresee(request: Request, report: Report, keep: Callable[[str, Rate], None] | None = None) -> Plan:
    """Work out the trainings; what a step costs is read where it is written down, and measured elsewhere.

    Args:
        request: what is asked.
        report: told of each recipe.
        keep: given each recipe's rate; None: nothing is written.

    Raises:
        InputError: if nothing fits, or the folder holds something else.
    """
    begun = request.begun()
    seconds = begun["yardstick"] if begun else measured_yardstick(request.device)
    fits, unfit = sorted_out(request)
    rates, faults, wanted = dict[str, Rate](), dict[str, str](), list(_wanted(fits))
    for number, (recipe, stage) in enumerate(wanted):
        report(Event(number, len(wanted), "measuring what a step costs"))
        try:
            rates[recipe] = find_rate(request, recipe, stage, seconds)
        except InputError as error:
            faults[recipe] = str(error)
        except OSError:
            raise
        except Exception as error:  # one method's fault is told in its row, and keeps no other back
            log.warning("%s: not one training step can be made", recipe, exc_info=True)
            faults[recipe] = f"a training step ends with {why(error)}"
        if keep and recipe in rates:
            keep(recipe, rates[recipe])
    report(Event(len(wanted), len(wanted), "measuring what a step costs"))
    for one in fits:
        if one.recipe in faults:
            unfit[one.recipe] = faults[one.recipe]
        elif one.stage in faults:
            unfit[one.recipe] = f"its first stage {one.stage}: {faults[one.stage]}"
    left = tuple(one for one in fits if one.recipe not in unfit)
    if not left:
        raise InputError("; ".join(f"{recipe}: {reason}" for recipe, reason in unfit.items()))
    return Plan(request=request, fits=left, unfit=unfit, rates=rates)


def _wanted(fits: list[Fit]) -> Iterator[tuple[str, str | None]]:
    """Recipes whose rates are asked for, each once, with their first stages' recipes."""
    found = {one.stage: None for one in fits if one.stage} | {one.recipe: one.stage for one in fits}
    yield from found.items()


def text(plan: Plan) -> str:
    """The plan for people."""
    request = plan.request
    lines = [
        f"{request.direction} on {request.cohort.folder}: {len(request.cohort.subjects('train'))} subjects train, "
        f"{len(request.cohort.subjects('test'))} test; seeds {', '.join(map(str, request.seeds))}.",
        "",
        "| recipe | s a step | steps | first stage, its steps | trainings done |",
        "| --- | ---: | ---: | --- | ---: |",
    ]
    trainings = plan.trainings
    for fit in plan.fits:
        own = [one for one in trainings if one.recipe == fit.recipe]
        stage = own[0].stage
        cells = [fit.recipe, f"{plan.rates[fit.recipe].seconds:.3g}", f"{own[0].config.training.steps:,}"]
        cells += [f"{stage.recipe}, {stage.config.training.steps:,}" if stage else "–"]
        lines.append(f"| {' | '.join(cells)} | {sum(one.done for one in own)} of {len(own)} |")
    all_of_them = [*trainings, *plan.stages]
    minutes = sum(one.minutes for one in all_of_them)
    left = sum(one.minutes * max(0.0, 1 - one.finished / one.config.training.steps) for one in all_of_them)
    what = "processor hours of one thread" if request.device.type == "cpu" else f"hours on {request.device.type}"
    lines += [
        "",
        f"In all {len(trainings)} trainings of {request.minutes:g} minutes, first stages included, which recipes of "
        f"one seed share: {minutes / 60:.2f} {what}, {left / 60:.2f} of them left. Drawing and measuring come on top.",
    ]
    if plan.unfit:
        lines += ["", "Not trained:", *(f"- {recipe}: {reason}" for recipe, reason in plan.unfit.items())]
    return "\n".join(lines) + "\n"
