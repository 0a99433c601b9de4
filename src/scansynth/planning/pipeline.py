"""From a folder of scans to what it lacks: looked at, prepared, planned, trained, measured, translated, reported.

    request.json   what was asked: the same command goes on, another one is refused
    plan.yaml      settings to train with, reasons as comments; decided once
    cohort/        prepared scans
    run/           the training
    evaluation/    figures on held-out subjects, report.html
    translated/    what was missing, each file with a sidecar
    report.html    one page that says what was chosen and why, and links the rest

Each stage goes on where it was stopped.
"""

import json
import logging
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import torch

from scansynth.config import read_yaml
from scansynth.data.build_cohort import CENSUS, build_cohort
from scansynth.data.census import take
from scansynth.data.cohort import Cohort, StoredPreparation, read_settings
from scansynth.data.layouts import Listing
from scansynth.data.raw.folders import is_ours
from scansynth.data.raw.on_disk import register_listing
from scansynth.data.raw.settings import Raw
from scansynth.data.survey import survey
from scansynth.errors import InputError, shown
from scansynth.evaluation.evaluate import Evaluation, evaluate
from scansynth.evaluation.write import write_evaluation
from scansynth.files import write_text
from scansynth.planning.proposal import Asked, Proposal, counted, plan_yaml, with_split
from scansynth.progress import Report, named
from scansynth.records import read_json
from scansynth.report.report import write_report
from scansynth.report.subject_page import write_pages
from scansynth.report.summary import write_summary
from scansynth.synthesis.contrast_table import Entry
from scansynth.synthesis.folder import translate_cohort
from scansynth.synthesis.run import Run
from scansynth.synthesis.sampling import Sampling
from scansynth.training.train import train

log = logging.getLogger(__name__)

COHORT = "cohort"


def carry_out(
    proposal: Proposal, out: Path, device: torch.device, report: Report
) -> tuple[Path, Evaluation | None, list[Entry]]:
    """Do what was proposed; what is there already is kept.

    Returns:
        The report page, the figures, and what was made.

    Raises:
        InputError: for scans that cannot be read, or a stage that fails.
    """
    asked, folder = proposal.asked, out / "run"
    listing = proposal.listing
    census = take(
        listing, listing.contrasts, known=out / COHORT / CENSUS, keep=True,
        report=named(report, "reading"),
    )  # fmt: skip
    splits = {subject.name: subject.split or "train" for subject in listing.subjects}
    for line in survey(census, proposal.preparation, splits).lines(asked.accept)[1:]:
        log.warning("%s", line)
    cohort = build_cohort(
        listing, out / COHORT, proposal.preparation, fractions=asked.fractions, seed=asked.seed,
        report=named(report, "preparing"), skip_bad=asked.skip_bad,
        accept=asked.accept, census=census, raw=asked.together if proposal.as_found else None,
    )  # fmt: skip
    train(
        proposal.config, cohort, folder, device=device,
        report=named(report, "training"),
    )  # fmt: skip
    run = Run.load(folder, str(device))
    evaluation, entries = None, []
    if not proposal.generates:
        evaluation = _measure(proposal, run, cohort, out, report)
        entries = _translate(proposal, run, out, report)
    page = write_summary(proposal, run, evaluation, entries, out)
    return page, evaluation, entries


def begun(out: Path, asked: Asked) -> bool:
    """Whether this pipeline was begun in the folder.

    Raises:
        InputError: if another one was, or the folder holds something else.
    """
    path = out / "request.json"
    if not path.is_file():
        stopped = out.is_dir() and [one.name for one in out.iterdir()] == [COHORT] and is_ours(out / COHORT)
        if not stopped and out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out}: not empty, and not a folder of `scansynth run`; choose another -o")
        return False
    before, now = _remembered(out)["asked"], json.loads(json.dumps(asdict(asked)))
    before = {"accept": [], "pattern": None, "together": asdict(Raw())} | before  # older folders do not know them
    if before != now:
        differ = [
            f"{name} {shown(before.get(name))} there, {shown(now[name])} now"
            for name in now
            if before.get(name) != now[name]
        ]
        raise InputError(f"{out}: begun with other settings ({'; '.join(differ)}); give the same, or choose another -o")
    return True


def remember(proposal: Proposal, out: Path) -> None:
    """Write down what was asked and decided, before it is done."""
    write_text(out / "plan.yaml", plan_yaml(proposal))
    content = {
        "asked": asdict(proposal.asked), "preparation": asdict(proposal.preparation), "why_so": proposal.why_so,
        "lines": list(proposal.lines),
    }  # fmt: skip
    write_text(out / "request.json", json.dumps(content, indent=1))


class _Remembered(TypedDict):
    asked: dict[str, Any]
    preparation: StoredPreparation
    why_so: str
    lines: list[str]


def _remembered(out: Path) -> _Remembered:
    return read_json(out / "request.json", _Remembered, "restore it, or choose another -o")


def brought_together(listing: Listing, asked: Asked, out: Path, report: Report) -> Listing:
    """The scans of subjects, each subject's on one grid, in the folder of the cohort; what is there already is kept.

    Raises:
        InputError: if some subject's cannot be, unless bad scans are left out.
    """
    found = register_listing(listing, out / COHORT, asked.together, report=named(report, "registering"))
    if found.bad and not asked.skip_bad:
        raise InputError(f"{len(found.bad)} subjects cannot be brought together: {'; '.join(found.bad)}; mend them, or "
                         "leave them out with --skip-bad")  # fmt: skip
    for line in found.bad:
        log.warning("left out: %s", line)
    for line in found.odd:
        log.warning("look at the registration of %s", line)
    return found.listing


def recall(listing: Listing, asked: Asked, out: Path, *, as_found: Listing | None = None) -> Proposal:
    """The proposal that a pipeline was begun with: nothing is decided anew, though the machine is busier now."""
    content = _remembered(out)
    preparation = read_settings(content["preparation"])
    listing = with_split(listing, asked)
    splits = {subject.name: subject.split or "train" for subject in listing.subjects}
    config = read_yaml(out / "plan.yaml")
    return Proposal(
        asked=asked,
        listing=listing,
        preparation=preparation,
        why_so=content["why_so"],
        split=counted(splits),
        config=config,
        lines=tuple(content["lines"]),
        unreadable=(),
        as_found=as_found,
    )


def _measure(proposal: Proposal, run: Run, cohort: Cohort, out: Path, report: Report) -> Evaluation | None:
    split = "test" if proposal.split["test"] else "val"
    if not proposal.split[split]:
        return None
    try:
        found = evaluate(
            [run], cohort, split=split, target=_target(proposal), seed=proposal.asked.seed,
            report=named(report, "measuring"), kept=out / "kept",
        )  # fmt: skip
    except InputError as error:  # what cannot be measured must not keep the images back
        log.warning("not measured: %s", error)
        return None
    write_evaluation(found, out / "evaluation")
    write_report(found, [run], out / "evaluation", links={"../report.html": "What was asked, chosen and made"})
    return found


def _translate(proposal: Proposal, run: Run, out: Path, report: Report) -> list[Entry]:
    if not proposal.missing:
        return []
    return translate_cohort(
        run,
        proposal.as_found or proposal.listing,
        out / "translated",
        target=_target(proposal),
        missing=True,
        sampling=Sampling(seed=proposal.asked.seed),
        accept=proposal.asked.accept,
        report=named(report, "making what is missing"),
        raw=proposal.asked.together if proposal.as_found else None,
        then=partial(write_pages, out / "translated", proposal.as_found or proposal.listing),
    )


def _target(proposal: Proposal) -> str | None:
    """The one contrast that is asked for; None: all that the run makes, those asked for if several were."""
    return proposal.asked.targets[0] if len(proposal.asked.targets) == 1 else None
