"""What to type next: a verb ends with a command that has the user's own paths in it."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scansynth.needs import Needs
    from scansynth.synthesis.run import Run


def command(*words: str | Path | int) -> str:
    """A command of scansynth, quoted for a shell."""
    return shlex.join(["scansynth", *map(str, words)])


def after_preparing(cohort: Path) -> str:
    """A recipe is to be chosen."""
    by_name = command("train", "RECIPE", "--cohort", cohort, "--run", "runs/RECIPE")
    return (
        f"Next: {command('plan', cohort)}\n"
        f"or a recipe by name: {by_name} (`scansynth methods` tells which, and when to take it)"
    )


def after_training(needs: "Needs", run: Path, cohort: Path) -> str:
    """A trained run is measured; of one that generates, volumes are made first."""
    if needs.generates:
        return f"Next: {command('generate', '--run', run, '-n', 10, '-o', Path('generated') / run.name)}"
    return f"Next: {command('evaluate', '--run', run, '--cohort', cohort, '-o', Path('evaluation') / run.name)}"


def after_evaluating(runs: Sequence["Run"], cohort: Path, options: Sequence[str | Path]) -> str:
    """Several runs are compared, with the same options; one is put to work."""
    if len(runs) == 1:
        return at_work(runs[0], cohort)
    folders = [run.folder for run in runs]
    return f"Next: {command('compare', '--run', *folders, '--cohort', cohort, '-o', 'comparison', *options)}"


def at_work(run: "Run", cohort: Path) -> str:
    """What a run is good for."""
    if run.method.reconstructs:
        words = ("train", "RECIPE", "--cohort", cohort, "--run", "runs/RECIPE", "--first-stage", run.folder)
        return f"Next: {command(*words)} (recipes of ldm or cola_diff: scansynth methods --recipes ldm)"
    return to_translate(run.folder)


def to_translate(run: Path) -> str:
    """A run makes what is missing."""
    return f"Next: {command('translate', '--run', run, '-i', 'DATA', '-o', 'translated', '--missing')}"


def after_calibrating(run: Path, cohort: Path, words: Sequence[str | int]) -> str:
    """How often the intervals hold, and what they are for."""
    measured = command("evaluate", "--run", run, "--cohort", cohort, "-o", Path("evaluation") / run.name, *words)
    made = command("translate", "--run", run, "-i", "DATA", "-o", "translated", "--intervals", *words)
    return f"Next, how often they hold: {measured}\nand beside images: {made}"


def after_translating(run: Path) -> str:
    """How far its images may be trusted."""
    words = ("evaluate", "--run", run, "--cohort", "COHORT", "-o", Path("evaluation") / run.name)
    return f"Next, for how good they are: {command(*words)}"


def after_generating(volumes: Path) -> str:
    """A set is measured."""
    words = ("measure", "--set", volumes, "--cohort", "COHORT", "-o", Path("measured") / volumes.name)
    return f"Next: {command(*words)}"
