"""`runs`: what there is under a folder, how far it is, and how good."""

import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from tyro.conf import Positional

from scansynth.commands.console import out

if TYPE_CHECKING:
    from scansynth.training.listing import Evaluated, ListedRun


@dataclass(frozen=True)
class Runs:
    """List the runs under a folder: method, steps, state, newest figures, size and date.

    Figures of a `scansynth evaluate` stand beside a run where its folder lies there, too, and names the run's weights.
    Nothing is written, and a damaged run is a line that says so.
    """

    folder: Positional[Path]
    """Where to look, at any depth."""
    json: bool = False
    """Print all of it as JSON."""

    def run(self) -> None:
        """Print the list."""
        from scansynth.training.listing import list_runs

        found = list_runs(self.folder)
        if self.json:
            out.out(json.dumps([plain(asdict(one)) for one in found], indent=1, allow_nan=False))
            return
        rows = [cells(one) for one in found]
        named = [heading for heading in HEADINGS if any(row[heading] for row in rows)]
        for line in aligned([named, *([row[heading] for heading in named] for row in rows)] if rows else []):
            out.print(line, markup=False)
        if not rows:
            out.print(f"{one_line(str(self.folder))}: no runs here; `scansynth train` makes one", markup=False)
        out.print("Next, for all of one: scansynth inspect RUN")


HEADINGS = ("run", "method", "contrasts", "steps", "state", "validation", "evaluation", "size", "changed", "damaged")


UNITS = ("B", "kB", "MB", "GB")


def cells(run: "ListedRun") -> dict[str, str]:
    """A run's row, by heading."""
    steps = [str(one) for one in (run.done, run.steps) if one is not None]
    psnr = ", ".join(f"{target} {value:.2f}" for target, value in (run.psnr or {}).items())
    texts = {
        "run": str(run.folder), "method": run.method or "", "contrasts": ", ".join(run.contrasts),
        "steps": "/".join(steps) if len(steps) == 2 else "", "state": run.state,
        "validation": f"{psnr} dB" if psnr else f"loss {run.loss:.4f}" if run.loss is not None else "",
        "evaluation": evaluation_text(run.evaluations), "size": size_text(run.size),
        "changed": time.strftime("%Y-%m-%d %H:%M", time.localtime(run.changed)), "damaged": run.fault or "",
    }  # fmt: skip
    return {heading: one_line(text) for heading, text in texts.items()}


def evaluation_text(evaluations: Sequence["Evaluated"]) -> str:
    """PSNR of the newest evaluation that has one, by direction."""
    measured = [(one, figure) for one in evaluations if isinstance(figure := one.figures.get("psnr_db"), int | float)]
    parts = [f"{one.direction} {figure:.2f}" for one, figure in measured if one.folder == measured[0][0].folder]
    newest = measured[0][0] if measured else None
    return f"{', '.join(parts)} dB ({newest.protocol}, n = {newest.subjects})" if newest else ""


def size_text(size: int) -> str:
    """Bytes as people count them."""
    power = min(len(UNITS) - 1, (len(str(size)) - 1) // 3)
    return f"{size / 1000**power:.{power // 3}f} {UNITS[power]}"


def one_line(text: str) -> str:
    """A text as one line that can be printed: what cannot be seen is written as an escape (a line's end as `\\n`)."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines whose columns stand under each other, two spaces apart."""
    rows = list(rows)
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def plain(value: Any) -> Any:
    """A value for JSON: paths as text, no infinity and no NaN."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value
