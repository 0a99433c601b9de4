"""Which recipes fit a cohort and a task, and why others do not: asked of the methods themselves, none is named here."""

from dataclasses import dataclass

from scansynth.data.samples import Samples
from scansynth.devices import Processes
from scansynth.errors import InputError
from scansynth.evaluation.tables import counted, listed
from scansynth.leaderboard.request import Request
from scansynth.methods import find_method
from scansynth.recipes import recipes_of
from scansynth.training.first_stage import FirstStage, LatentStage
from scansynth.training.parts import make_parts, needs_of, untrained_stage


@dataclass(frozen=True)
class Fit:
    """A recipe that can be trained on the task."""

    recipe: str
    stage: str | None
    """The recipe of what it builds on; None: it stands alone."""


def sorted_out(request: Request) -> tuple[list[Fit], dict[str, str]]:
    """The recipes that fit, and of the others the reason.

    Raises:
        InputError: if none fits, with the reasons, or the test subjects do not.
    """
    check_tested(request)
    fits, reasons = list[Fit](), dict[str, str]()
    for recipe in request.recipes:
        try:
            fits.append(fit(request, recipe))
        except InputError as error:
            reasons[recipe] = str(error)
    if not fits:
        told = "; ".join(f"{recipe}: {why}" for recipe, why in reasons.items())
        raise InputError(f"no recipe fits {request.direction} on {request.cohort.folder}: {told}")
    return fits, reasons


def check_tested(request: Request) -> None:
    """Raise InputError if test subjects lack what the task takes: rows must be of the same people and sources."""
    cohort, whole = request.cohort, {*request.sources, request.target}
    some = [name for name in cohort.subjects("test") if request.target in cohort.available(name)]
    some = [name for name in some if {*request.sources} & {*cohort.available(name)}]
    if not some:
        raise InputError(f"{cohort.folder}: no test subject has {request.target} together with a source")
    if lacking := [name for name in some if whole - {*cohort.available(name)}]:
        raise InputError(
            f"{cohort.folder}: {counted(lacking)} to test on lack a source ({listed(lacking)}): rows of a table must "
            "be made from the same contrasts; name those that all have, with --source"
        )


def fit(request: Request, recipe: str) -> Fit:
    """A recipe, if it fits.

    Raises:
        InputError: why it does not.
    """
    config = request.config(recipe)
    method = find_method(config.method)
    if method.reconstructs:
        raise InputError("it makes a contrast from itself, as a first stage of others, and translates nothing")
    if needs_of(config).generates:
        raise InputError("it makes volumes without a source, and translates nothing")
    stage = stage_of(request, recipe)
    samples_of(request, recipe, stage)
    return Fit(recipe, stage)


def stage_of(request: Request, recipe: str) -> str | None:
    """The recipe of what a method builds on, of its own size; None: it stands alone.

    Raises:
        InputError: if no recipe fits it.
    """
    config = request.config(recipe)
    method = find_method(config.method)
    if (wanted := method.builds_on(config.settings)) is None:
        return None
    latent, refused = needs_of(config).first_stage, list[str]()
    for name in recipes_of(wanted):
        if ("small" in name) != ("small" in recipe):
            continue
        stage = request.config(name)
        try:
            method.check_first_stage(config.settings, stage.method, stage.settings, name)
        except InputError as error:
            refused.append(str(error))
            continue
        made = untrained_stage(stage)
        if isinstance(made, LatentStage) and latent != (made.channels, made.factor):
            refused.append(f"{name} gives latents of {made.channels} channels, {made.factor} times smaller")
            continue
        return name
    raise InputError(
        f"it builds on a trained {wanted}, and no recipe of one fits: {'; '.join(refused) or 'none there'}"
    )


def samples_of(request: Request, recipe: str, stage: str | None) -> tuple[Samples, FirstStage | None]:
    """A recipe's training samples, and its first stage as it is before any training.

    Raises:
        InputError: if the cohort does not fit: too few scans, a wrong size, no tissue or acquisitions.
    """
    config, processes = request.config(recipe), Processes(request.device)
    untrained = untrained_stage(request.config(stage)) if stage else None
    if stage:
        make_parts(request.config(stage), request.cohort, processes)
    method, samples = make_parts(config, request.cohort, processes, first_stage=untrained)
    if request.target not in method.targets:
        raise InputError(f"it makes {', '.join(method.targets)}, not {request.target}")
    for subject in request.cohort.subjects("test"):
        for name in (*request.sources, request.target):
            if name in request.cohort.available(subject):
                method.needs.check_volume(request.cohort.shape(subject, name))
    return samples, untrained
