"""`report.html` of `scansynth run`: what was asked, chosen and why; figures, pictures, and links to all the rest."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scansynth.evaluation.evaluate import Evaluation
from scansynth.evaluation.tables import COPIED_SOURCE
from scansynth.files import write_text
from scansynth.report.figures import main_table
from scansynth.report.page import pictures, render
from scansynth.report.subject_page import ENDING
from scansynth.synthesis.contrast_table import SYNTHETIC, Entry
from scansynth.synthesis.run import Run

if TYPE_CHECKING:
    from scansynth.planning.proposal import Proposal


def write_summary(
    proposal: "Proposal", run: Run, evaluation: Evaluation | None, entries: Sequence[Entry], out: Path
) -> Path:
    """Write the page beside the folders that it links.

    Args:
        proposal: what was asked and decided.
        run: the trained run.
        evaluation: its figures on held-out subjects, if there are any.
        entries: what was translated.
        out: the folder of the pipeline.

    Returns:
        The file.
    """
    made = [entry for entry in entries if entry.status == SYNTHETIC]
    shown = {}
    if evaluation:
        own = [result for result in evaluation.results if result.label != COPIED_SOURCE]
        for case in evaluation.shown:
            for result in own:
                if (result.subject, result.target) == (case.subject, case.target):
                    shown[case.montage(result.label)] = f"{result.subject}: {result.direction}"
    links = {
        "evaluation/report.html": "Figures, curves and a viewer", "evaluation/table.md": "Figures as a table",
        "translated/contrasts.tsv": "What is real and what is synthetic, file by file",
        "plan.yaml": "The settings, which `scansynth train` takes", "run/environment.json": "Machine and versions",
        "cohort/census.png": "All scans at a glance, odd ones framed", "cohort/census.tsv": "What each scan is like",
        "cohort/cohort.json": "The prepared cohort",
    }  # fmt: skip
    pages = [(subject, f"{subject}{ENDING}") for subject in dict.fromkeys(entry.subject for entry in made)]
    page = render(
        "summary.html.j2",
        title=f"Synthesis of {', '.join(proposal.asked.targets) or 'all contrasts'}",
        chosen=proposal.text().splitlines(),
        warnings=[*proposal.unreadable, *(() if evaluation or proposal.generates else ("nothing was measured",))],
        protocol=evaluation.protocol if evaluation else None,
        split=evaluation.split if evaluation else "",
        subjects=sorted({result.subject for result in evaluation.results}) if evaluation else [],
        table=main_table(evaluation.results, evaluation.protocol, evaluation.costs, None) if evaluation else None,
        montages=pictures(out / "evaluation", shown, smaller=True),
        run={
            "method": run.config.method, "step": run.weights["training_step"], "chosen": run.chosen,
            "steps": run.config.training.steps,
            "precision": run.precision, "weights": run.weights["sha256"][:16],
        },
        generates=proposal.generates,
        made=[(entry.subject, entry.contrast, Path(entry.path).name) for entry in made],
        counts=sorted(Counter(entry.contrast for entry in made).items()),
        pages=[(f"translated/{name}", subject) for subject, name in pages if (out / "translated" / name).is_file()],
        links=[(name, meaning) for name, meaning in links.items() if (out / name).is_file()],
    )  # fmt: skip
    path = out / "report.html"
    write_text(path, page)
    return path
