"""Downstream use: how well a segmenter does when one of its contrasts is synthetic (the idea of the BraSyn challenge).

A segmenter is trained on acquired contrasts of the training subjects, and segments the test subjects three times over:
with all contrasts acquired, with the target replaced by a run's synthesis, and (a second segmenter, trained so) without
the target. A synthesis is of use where its Dice lies above that of leaving the contrast out; the first is its ceiling.
A user's own segmenter, a command, can stand in its place.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scansynth.data.cohort import Cohort
from scansynth.errors import InputError
from scansynth.evaluation.samples import made_so
from scansynth.evaluation.segmenter import STEPS, Segment, command_segmenter, train_segmenter, with_mask
from scansynth.evaluation.tables import Further, csv_text, listed, spread_of
from scansynth.evaluation.tasks import Task, choose_work
from scansynth.files import write_text
from scansynth.progress import Event, Report
from scansynth.synthesis.run import Run

ACQUIRED = "acquired"
WITHOUT = "left out"
WHOLE = "any label"
SHARE = 0.1
"""Of an evaluation's time that Dice may take without being asked for."""
NO_LABELS = ("brain", "body")
"""Masks that say where to measure, and nothing of what is inside."""
TRIAL = 5
"""Steps by which a segmenter's time is foretold."""


@dataclass(frozen=True)
class Dice:
    """Overlap of a segmentation with the expert's in one subject."""

    label: str
    """The run whose synthesis stood in the target's place; `ACQUIRED` or `WITHOUT`."""
    target: str
    subject: str
    dice: Mapping[str, float]
    """By label of the mask and `WHOLE`: 2|A ∩ B| / (|A| + |B|) in [0, 1]; NaN where neither has a voxel."""


def dice(found: np.ndarray, truth: np.ndarray, labels: Sequence[int]) -> dict[str, float]:
    """Dice of each label, and of all labels taken together."""

    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        size = int(a.sum()) + int(b.sum())
        return 2 * int((a & b).sum()) / size if size else float("nan")

    single = {str(label): overlap(found == label, truth == label) for label in labels}
    return {WHOLE: overlap(found > 0, truth > 0), **(single if len(labels) > 1 else {})}


def measure_downstream(
    runs: Sequence[Run],
    cohort: Cohort,
    mask: str,
    *,
    split: str = "test",
    target: str | None = None,
    seed: int = 0,
    command: str | None = None,
    steps: int = STEPS,
    realism: float = 1.0,
    kept: Path | None = None,
    report: Report | None = None,
) -> list[Dice]:
    """Dice of a segmenter with each target acquired, synthetic and left out.

    Args:
        runs: trained on this cohort; named by their folders.
        cohort: the prepared cohort.
        mask: name of the subjects' expert mask, `seg` in BraTS.
        split: which subjects; those with the mask and all contrasts count.
        target: one contrast, or None for all that the runs make.
        seed: of segmenter and synthesis (one sample).
        command: the user's own segmenter (`command_segmenter`); it is not run without the target.
        steps: of the segmenters trained here.
        realism: how far from the mean to a draw the syntheses lie, of runs that have both.
        kept: folder of samples; those that are there are read, others are put there.
        report: told of every step and subject.

    Raises:
        InputError: if a subject with mask and contrasts is missing in the training or the measured split, as
            `evaluate`, or as the user's segmenter.
    """
    contrasts = tuple(dict.fromkeys(name for run in runs for name in run.config.contrasts))
    work = choose_work(runs, cohort, split, protocol="default", target=target)
    subjects = set(with_mask(cohort, split, contrasts, mask))
    work = [task for task in work if task.subject in subjects]
    values = {int(value) for task in work for value in np.unique(task.masks()[mask])} - {0}
    segment: Segment
    if command is not None:
        segment, labels = command_segmenter(command), sorted(values)
    else:
        device, acceleration = runs[0].device, work[0].acceleration
        segment = train_segmenter(
            cohort, contrasts, mask, steps=steps, seed=seed, device=device, acceleration=acceleration, report=report
        )
        labels = sorted(values | set(segment.labels))
    found: list[Dice] = []
    for name in dict.fromkeys(task.target for task in work):
        own = [task for task in work if task.target == name]
        for number, task in enumerate(own):
            found += _segmented(
                task, segment, mask, labels=labels, contrasts=contrasts, seed=seed, realism=realism, kept=kept
            )
            if report:
                report(Event(number + 1, len(own), f"segmenting, {name}"))
        rest = tuple(other for other in contrasts if other != name)
        if command is None:
            without = train_segmenter(
                cohort,
                rest,
                mask,
                steps=steps,
                seed=seed,
                device=runs[0].device,
                acceleration=work[0].acceleration,
                report=report,
            )
            for task in own:
                images = {other: task.read(other) for other in rest}
                truth = task.masks()[mask]
                values_of = dice(without(images, np.eye(4)), truth, labels)
                found.append(Dice(WITHOUT, name, task.subject, values_of))
    return found


def _segmented(
    task: Task,
    segment: Segment,
    mask: str,
    *,
    labels: Sequence[int],
    contrasts: Sequence[str],
    seed: int,
    realism: float,
    kept: Path | None,
) -> list[Dice]:
    """A subject with its target acquired, and as each run makes it."""
    truth, affine = task.masks()[mask], task.cohort.affine(task.subject, task.target, crop=task.crop)
    acquired = {name: task.read(name) for name in contrasts}
    versions = {ACQUIRED: acquired}
    for run in task.runs:
        made = made_so(run, task, seed, realism=realism, kept=kept)
        versions[run.folder.name] = {**acquired, task.target: made.image}
    return [
        Dice(label, task.target, task.subject, dice(segment(images, affine), truth, labels))
        for label, images in versions.items()
    ]


def mask_of(runs: Sequence[Run], cohort: Cohort, split: str) -> str | None:
    """The mask that Dice can be had of without being asked for one: `seg`, `dseg`, or the first; None without any.

    Subjects who train and who are measured must have it, together with all contrasts.
    """
    contrasts = tuple(dict.fromkeys(name for run in runs for name in run.config.contrasts))
    if len(contrasts) < 2 or any(run.method.reconstructs for run in runs):
        return None
    names = sorted({name for subject in cohort.subjects(split) for name in cohort.masks(subject)} - {*NO_LABELS})
    for name in sorted(names, key=lambda name: (name != "seg", name != "dseg")):
        try:
            with_mask(cohort, "train", contrasts, name)
            with_mask(cohort, split, contrasts, name)
        except InputError:
            continue
        return name
    return None


def forecast(runs: Sequence[Run], cohort: Cohort, mask: str, targets: int) -> float:
    """Seconds that training the segmenters takes, by a few steps: one, and one more for each target that is left out.

    Raises:
        InputError: if none can be trained (an empty mask, too many labels).
    """
    contrasts = tuple(dict.fromkeys(name for run in runs for name in run.config.contrasts))
    ends: list[float] = []
    train_segmenter(
        cohort, contrasts, mask, steps=TRIAL, device=runs[0].device, report=lambda _: ends.append(time.perf_counter())
    )
    return float(np.median(np.diff(ends))) * STEPS * (1 + targets)


def left_out(runs: Sequence[Run], cohort: Cohort, mask: str, split: str) -> list[str]:
    """Subjects of the split that have no such mask, or not all contrasts."""
    contrasts = tuple(dict.fromkeys(name for run in runs for name in run.config.contrasts))
    return [name for name in cohort.subjects(split) if name not in with_mask(cohort, split, contrasts, mask)]


def as_column(
    found: Sequence[Dice], mask: str, command: str | None, missing: Sequence[str] = (), *, realism: float = 1.0
) -> Further:
    """Dice of all labels as a column of the main table: of each run, and of the target acquired and left out."""
    groups: dict[tuple[str, str], list[float]] = {}
    for one in found:
        groups.setdefault((one.label, one.target), []).append(one.dice[WHOLE])
    spreads = {key: spread_of(values) for key, values in groups.items()}
    marks = [
        f"{target}: " + ", ".join(f"{label} {spreads[label, target].mean:.3f}" for label in (ACQUIRED, WITHOUT))
        for target in dict.fromkeys(one.target for one in found)
        if (WITHOUT, target) in spreads
    ]
    what = "one sample" if realism == 1 else f"realism {realism:g}"
    note = (
        f"Dice of `{mask}`: what {'your segmenter' if command else 'a small U-Net'} finds with the run's synthesis in "
        f"the target's place ({what}; dice.md has all labels){'; ' * bool(marks)}{'; '.join(marks)}"
    )
    if missing:
        note += f"; without {listed(missing)}, who lack the mask or a contrast"
    return Further(heading=f"Dice, {mask}", values=spreads, digits=3, note=f"{note}.")


def write_downstream(
    found: Sequence[Dice], mask: str, command: str | None, folder: Path, *, missing: Sequence[str] = ()
) -> None:
    """Write `dice.md` and `dice.csv` (a line a subject).

    Args:
        found: of all runs.
        mask: name of the expert mask.
        command: the user's segmenter, if it was one.
        folder: where to.
        missing: subjects of the split who are left out.
    """
    records = [
        {"mask": mask, "target": one.target, "contrast": one.label, "subject": one.subject, **one.dice} for one in found
    ]
    write_text(folder / "dice.csv", csv_text(records))
    write_text(folder / "dice.md", markdown(found, mask, command, missing))


def markdown(found: Sequence[Dice], mask: str, command: str | None, missing: Sequence[str] = ()) -> str:
    """A row a target and what stood in its place: mean ± standard deviation over the subjects that have the label."""
    columns = list(found[0].dice)
    subjects = len({one.subject for one in found})
    heads = [column if column == WHOLE else f"label {column}" for column in columns]
    own = "a small U-Net trained on the acquired contrasts of the training subjects"
    left_out = " (left out: a U-Net trained without the target)" if command is None else ""
    lines = [
        f"Dice of mask `{mask}` in {subjects} subjects, by {f'`{command}`' if command else own}, with the target "
        f"acquired and synthetic{left_out}. Mean ± standard deviation over subjects; n where not all have the label.",
        "",
        f"| target | as | {' | '.join(heads)} |",
        f"| --- | --- |{' ---: |' * len(columns)}",
    ]
    for target, label in dict.fromkeys((one.target, one.label) for one in found):
        own = [one for one in found if (one.target, one.label) == (target, label)]
        cells = []
        for column in columns:
            values = np.array([one.dice[column] for one in own])
            values = values[~np.isnan(values)]
            text = f"{values.mean():.3f}" if values.size else "–"
            text += f" ± {values.std(ddof=1):.3f}" if values.size > 1 else ""
            cells.append(text + (f" (n = {values.size})" if 0 < values.size < subjects else ""))
        name = label.replace("|", "\\|")
        lines.append(f"| {target} | {name} | {' | '.join(cells)} |")
    if missing:
        lines += ["", f"Left out, for they lack the mask or a contrast: {listed(missing)}."]
    if command is not None:
        lines += ["", "Your segmenter is not asked without the target: no row says what leaving it out costs."]
    return "\n".join(lines) + "\n"
