"""`report.html` of generated sets: tables, pictures and verdicts in one file, which a browser opens from disk."""

from pathlib import Path

from scansynth.evaluation.sections import Cell, Line, Table
from scansynth.files import write_text
from scansynth.metrics.protocols import PROTOCOLS
from scansynth.report.page import pictures, render
from scansynth.sets.coherence import Coherence
from scansynth.sets.measure import MeasuredSets
from scansynth.sets.memorisation import ALARMING, MEANING, Memorisation
from scansynth.sets.memorisation_tables import closest, notes, shown
from scansynth.sets.set_measures import SetMeasures
from scansynth.sets.set_pictures import picture_name

SHOWN = 20
"""Volumes in a table of nearest ones."""


def write_set_report(found: MeasuredSets, out: Path) -> Path:
    """Write `report.html` beside the tables and pictures of `measure_generated`, which it takes up.

    Args:
        found: what was measured.
        out: the folder that it was written into.

    Returns:
        The file.
    """
    searched = [
        {
            "label": label,
            "verdict": one.verdict(),
            "alarming": one.alarming,
            "table": nearest_table(one),
            "pairs": pictures(out / label, {"memorisation.png": "closest pairs"}, smaller=True),
            "embedding": pictures(out / label, {"embedding.png": "t-SNE"}),
        }
        for label, one in found.memorisation.items()
    ]
    page = render(
        "sets.html.j2",
        title=f"Generated {found.contrast}: {', '.join(found.labels)}",
        contrast=found.contrast,
        cohort=found.cohort,
        protocol=PROTOCOLS["cdpm"],
        table=set_table(found.rows),
        volumes=pictures(out, {picture_name(label): label for label in found.labels}, smaller=True),
        searched=searched,
        coherence=pictures(out, {"coherence.png": "coherence"}),
        coherence_table=coherence_table(found.coherence),
    )
    path = out / "report.html"
    write_text(path, page)
    return path


def set_table(rows: tuple[SetMeasures, ...]) -> Table:
    """A line a figure, a column a set; sets of real volumes, too."""
    columns = {figure.column: figure for row in rows for figure in row.figures}
    lines = []
    for column, heading in columns.items():
        cells = []
        for row in rows:
            figure = next((one for one in row.figures if one.column == column), None)
            if figure is None:
                cells.append(Cell(""))
            else:
                known = figure.std == figure.std
                spread = f"± {figure.std:.{figure.digits}f}" if known else ""
                cells.append(Cell(f"{figure.value:.{figure.digits}f}", spread))
        lines.append(Line((heading.heading,), tuple(cells)))
    notes = dict.fromkeys(note for row in rows for note in row.notes)
    return Table(
        "figures of sets",
        ("figure",),
        tuple(f"{row.label} ({row.volumes})" for row in rows),
        tuple(lines),
        (
            f"MS-SSIM: mean ± standard deviation over {', '.join(dict.fromkeys(str(row.pairs.pairs) for row in rows))} "
            "pairs of a set; best is what the real set has.",
            "MMD² and Fréchet distances: 0 is best, but finite sets of one distribution have more; the real training "
            "volumes show how much more. Fréchet distances can be compared between sets of equal numbers only.",
            *notes,
        ),
    )


def nearest_table(found: Memorisation) -> Table:
    """The generated volumes that are nearest to a training volume."""
    lines = []
    for one in closest(found, SHOWN):
        grade = found.grade(one)
        figures = (one.match.unexplained, one.by_two, one.others)
        lines.append(
            Line(
                (one.name, MEANING[grade], shown(found, one)),
                tuple(
                    Cell(f"{100 * figure:.1f}", mark="!" * (grade in ALARMING and place == 0))
                    for place, figure in enumerate(figures)
                ),
            )
        )
    return Table(
        f"nearest training volumes of {found.label}",
        ("synthetic", "verdict", "nearest training volume"),
        ("unexplained (%)", "by the nearest two (%)", "by others (%)"),
        tuple(lines),
        ("! copy, blend, or closer than held-out people are.", *notes(found)),
    )


def coherence_table(found: tuple[Coherence, ...]) -> Table:
    """Verdicts on slices."""
    lines = []
    for one in found:
        borders = one.at_borders
        excess = (
            Cell("") if borders is None else Cell(f"{borders.excess.value:.3f}", _interval(borders.excess.interval))
        )
        lines.append(Line((one.label,), (Cell(f"{one.overall.value:.3f}", _interval(one.overall.interval)), excess)))
    return Table(
        "slice coherence",
        ("set",),
        ("differences of neighbouring slices, over real", "more at stage borders than inside, over real"),
        tuple(lines),
        tuple(f"{one.label}: {one.verdict()}" for one in found),
    )


def _interval(ends: tuple[float, float]) -> str:
    low, high = ends
    return f"{low:.3f} to {high:.3f}" if low == low else ""
