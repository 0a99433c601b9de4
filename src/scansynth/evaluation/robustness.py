"""What noise in the sources does to a synthesis (SynDiff, section V-E and Fig. 6).

Models that were trained without added noise are given sources with noise, and measured at each level.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from scansynth.data.cohort import Cohort
from scansynth.errors import InputError
from scansynth.evaluation.plots import COLUMNS, MARKERS
from scansynth.evaluation.samples import calls_left, draw
from scansynth.evaluation.tables import Result, Summary, csv_text, missing_notes, spread_text, summarise
from scansynth.evaluation.tasks import choose_work
from scansynth.files import write_text
from scansynth.metrics.protocols import Protocol, find_protocol
from scansynth.progress import Parts, Report
from scansynth.synthesis.run import Run


@dataclass(frozen=True)
class Robustness:
    """Figures by level of noise."""

    protocol: Protocol
    results: dict[float, list[Result]]
    """By level, the first of which is 0: no noise added."""

    def summaries(self) -> dict[float, list[Summary]]:
        """By level, a row a run and direction."""
        return {level: summarise(results) for level, results in self.results.items()}


def measure_robustness(
    runs: Sequence[Run],
    cohort: Cohort,
    levels: Sequence[float],
    *,
    split: str = "test",
    protocol: str | Protocol = "default",
    target: str | None = None,
    seed: int = 0,
    report: Report | None = None,
    kept: Path | None = None,
) -> Robustness:
    """Synthesise every target of a split from sources with noise, one sample each, and measure it.

    Args:
        runs: trained on this cohort; named by their folders.
        cohort: the prepared cohort.
        levels: of noise, each above 0 (`noisy`); without noise is measured in any case.
        split: which subjects.
        protocol: how to measure: a name, or a protocol with a further figure.
        target: one contrast, or None for all that the runs make.
        seed: of the noise, in the sources and in the sampling.
        report: told of the network calls that are done, and of which image.
        kept: folder of samples; those that are there are read, others put there.

    Raises:
        InputError: for a level that is not a positive number, or as `evaluate`.
    """
    check_levels(levels)
    protocol = find_protocol(protocol)
    work = choose_work(runs, cohort, split, protocol=protocol, target=target)
    results: dict[float, list[Result]] = {level: [] for level in (0.0, *sorted(set(levels)))}
    calls = {
        (number, run.folder, level): calls_left(run, task, 0, kept=kept, level=level)
        for number, task in enumerate(work)
        for run in task.runs
        for level in results
    }
    parts = Parts(report, sum(calls.values()))
    for number, task in enumerate(work):
        take = task.measuring()
        for run in task.runs:
            for level, found in results.items():
                what = f"{run.folder.name} {task.subject} {task.target} noise {level:g}"
                with parts.part(calls[number, run.folder, level], what) as told:
                    drawn = draw(run, task, seed, sample=0, kept=kept, level=level, report=told)
                found.append(Result(run.folder.name, drawn.sources, task.target, task.subject, take(drawn.image)))
    return Robustness(protocol, results)


def check_levels(levels: Sequence[float]) -> None:
    """Whether these are levels of noise.

    Raises:
        InputError: if there is none, or one is not a positive number.
    """
    if not levels or not all(0 < level < math.inf for level in levels):
        raise InputError(f"noise {', '.join(map(str, levels))}: give levels above 0, such as 0.03 0.09 0.15 0.21")


def write_robustness(robustness: Robustness, folder: Path) -> None:
    """Write `noise.md`, `noise.csv` (a line a subject) and `noise.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "noise.md", markdown(robustness))
    write_text(folder / "noise.csv", csv_text(_records(robustness)))
    _plot(robustness, folder / "noise.png")


def markdown(robustness: Robustness) -> str:
    """A row a run, direction and level: mean ± standard deviation over subjects."""
    protocol = robustness.protocol
    lines = [
        f"Noise in the sources; protocol `{protocol.name}`, version {protocol.version}; mask: {protocol.mask}. Level: "
        "standard deviation in each of the two channels over the scan's mean. Mean ± standard deviation over subjects.",
        "",
        f"| method | direction | noise | n | {' | '.join(map(protocol.heading, protocol.columns))} |",
        f"| --- | --- | ---: | ---: |{' ---: |' * len(protocol.columns)}",
    ]
    for level, rows in robustness.summaries().items():
        for row in rows:
            cells = [spread_text(row.subjects[column], metric.digits) for column, metric in protocol.columns.items()]
            label = row.label.replace("|", "\\|")
            lines.append(f"| {label} | {row.direction} | {level:g} | {row.n_subjects} | {' | '.join(cells)} |")
    every = [one for results in robustness.results.values() for one in results]
    notes = [*([f"{protocol.caution}."] if protocol.caution else []), *missing_notes(every, protocol)]
    return "\n".join([*lines, *(["", *(f"- {note}" for note in notes)] if notes else [])]) + "\n"


def _records(robustness: Robustness) -> list[dict[str, object]]:
    protocol = robustness.protocol
    return [
        {
            "protocol": protocol.name,
            "protocol_version": protocol.version,
            "method": one.label,
            "direction": one.direction,
            "noise": level,
            "subject": one.subject,
            **{column: one.measurement.mean(column) for column in protocol.columns},
        }
        for level, results in robustness.results.items()
        for one in results
    ]


def _plot(robustness: Robustness, path: Path) -> None:
    """A panel a figure, a line a run and direction, told apart by its marker too."""
    protocol = robustness.protocol
    summaries = robustness.summaries()
    rows = -(-len(protocol.columns) // COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 3.2 * rows + 0.8), layout="constrained")
    FigureCanvasAgg(figure)
    for place, column in enumerate(protocol.columns):
        axes = figure.add_subplot(rows, COLUMNS, place + 1)
        for number, row in enumerate(next(iter(summaries.values()))):
            means = [found[number].subjects[column].mean for found in summaries.values()]
            marker = MARKERS[number % len(MARKERS)]
            axes.plot(list(summaries), means, marker=marker, linewidth=1.2, label=f"{row.label}, {row.direction}")
        axes.set_xlabel("noise in the source (of its mean)", fontsize=8)
        axes.set_ylabel(protocol.heading(column), fontsize=9)
        axes.grid(alpha=0.3)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    count = max(row.n_subjects for row in next(iter(summaries.values())))
    figure.suptitle(f"{count} subjects, protocol {protocol.name} {protocol.version}", fontsize=11)
    figure.savefig(path, dpi=120)
