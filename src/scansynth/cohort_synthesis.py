"""A folder in, a folder out: a contrast for every subject of a cohort, and a list of what is real and what is not.

Several processes share the images that are still to be made: the first one looks what is there and deals the rest
out, each makes its part without a word to the others, and at the end the first one writes the list for all.
"""

import csv
import io
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import scansynth
from scansynth.data.layouts import Listing, Subject
from scansynth.data.tissue import OWN_MASK
from scansynth.errors import InputError
from scansynth.files import write_text
from scansynth.processes import Processes
from scansynth.progress import Parts, ReportPart
from scansynth.synthesis import Run
from scansynth.synthetic_image import NOTICE, is_made

log = logging.getLogger(__name__)

Image = tuple[str, str]
"""Subject and contrast."""

OTHERS = "from another run, seed or number of samples, or with other --maps"
USUAL_SIDE = 128
"""Voxels along an axis that is kept as acquired, for the count of network calls before a scan is opened."""
REAL, SYNTHETIC, ABSENT = "real", "synthetic", "absent"


@dataclass(frozen=True)
class Entry:
    """One contrast of one subject, in `contrasts.tsv`."""

    subject: str
    contrast: str
    status: str
    """real, synthetic or absent."""
    path: str
    """File, or why there is none."""


def translate_cohort(
    run: Run,
    listing: Listing,
    out: Path,
    target: str | None = None,
    missing: bool = False,
    samples: int = 1,
    seed: int = 0,
    shared_noise: bool = False,
    overwrite: bool = False,
    report: ReportPart | None = None,
    processes: Processes | None = None,
    windows: int | None = None,
    maps: bool = False,
    moments_only: bool = False,
) -> list[Entry]:
    """Make contrasts for all subjects; images that are there already are kept, so that a stopped command goes on.

    BIDS gives a BIDS derivative (`sub-01/anat/sub-01_desc-synthetic_T2w.nii.gz`), the other layouts a folder a
    subject (`case/case_T2w_synthetic.nii.gz`). `contrasts.tsv` lists what is real and what is synthetic.

    Args:
        run: the trained run.
        listing: the subjects.
        out: folder to write into, not the one that is read.
        target: contrast to make; None for each that the run makes.
        missing: make only contrasts that a subject does not have. Otherwise those it has are made too, from the rest.
        samples: as in `Run.translate`.
        seed: of the noise.
        shared_noise: as in `Run.translate`.
        overwrite: make images again that are there.
        report: told of the network calls that this process has done, and of which image ("subject contrast"). Volumes
            whose depth is not known yet count as much as the others.
        processes: that share the images; by default there is only this one.
        windows: as in `Run.translate`.
        maps: as in `Run.translate`.
        moments_only: as in `Run.translate`.

    Returns:
        What is listed in `contrasts.tsv`.

    Raises:
        InputError: if nothing can be made, or (after all else is done) some subjects failed.
    """
    processes = processes or Processes(run.device)
    drawn = {"samples": samples, "seed": seed, "shared_noise": shared_noise, "maps": maps}
    plan = processes.from_first(lambda: make_plan(run, listing, out, target, missing, overwrite, drawn))
    made: dict[Image, Path] = {}
    failures: dict[Image, str] = {}
    own = plan.left[processes.rank :: processes.count]
    calls = samples * run.calls([side or USUAL_SIDE for side in run.record.settings.size], windows)
    parts = Parts(report, calls * len(own))
    for subject, name in own:
        path = output_path(out, listing.layout, subject.name, name)
        with parts.part(calls, f"{subject.name} {name}") as told:
            try:
                run.translate(
                    _sources(run, subject, name),
                    name,
                    samples,
                    seed,
                    subject.name,
                    shared_noise,
                    told,
                    windows,
                    maps,
                    moments_only,
                    subject.masks.get(OWN_MASK) if run.method.needs.tissue else None,
                ).write(path)
                made[subject.name, name] = path
            except InputError as error:
                log.warning("%s %s: %s", subject.name, name, error)
                failures[subject.name, name] = str(error)
    parts = [(plan.there, plan.failures), *processes.gather((made, failures))]
    made = {image: path for part, _ in parts for image, path in part.items()}
    failures = {image: why for _, part in parts for image, why in part.items()}
    entries = _entries(run, listing.subjects, made, failures)
    processes.from_first(lambda: _write_entries(entries, out / "contrasts.tsv"))
    if failures:
        (subject, name), first = next(iter(failures.items()))
        raise processes.error(
            f"{len(failures)} of {len(made) + len(failures)} images could not be made (see {out / 'contrasts.tsv'}); "
            f"the first, {subject} {name}: {first}"
        )
    return entries


@dataclass(frozen=True)
class Plan:
    """What of a cohort's images is there, and what is left to do."""

    there: dict[Image, Path]
    failures: dict[Image, str]
    """Images that are not to be made, and why."""
    left: list[tuple[Subject, str]]
    """Subject and contrast of the images to make."""


def make_plan(
    run: Run,
    listing: Listing,
    out: Path,
    target: str | None,
    missing: bool,
    overwrite: bool,
    drawn: dict[str, int | bool],
) -> Plan:
    """Find out what is to be made, and make the folder for it.

    Raises:
        InputError: if nothing can be made.
    """
    targets = (run.choose_target(target, {}),) if target else run.method.targets
    if out.resolve() == listing.root.resolve():
        raise InputError(f"{out}: input and output are one folder; choose another -o, synthetic files stand apart")
    work = [
        (subject, name)
        for subject in listing.subjects
        for name in targets
        if not (missing and name in subject.scans) and _sources(run, subject, name)
    ]
    if not work:
        kind = "lacks" if missing else "has sources for"
        raise InputError(
            f"{listing.root}: no subject {kind} {', '.join(targets)} (found {', '.join(listing.contrasts)})"
        )
    out.mkdir(parents=True, exist_ok=True)
    if listing.layout == "BIDS":
        write_text(out / "dataset_description.json", json.dumps(_description(), indent=1))
    plan = Plan({}, {}, [])
    for subject, name in work:
        path = output_path(out, listing.layout, subject.name, name)
        try:
            if overwrite or not is_made(path, {"weights": dict(run.weights), **drawn}, OTHERS):
                plan.left.append((subject, name))
            else:
                plan.there[subject.name, name] = path
        except InputError as error:
            log.warning("%s %s: %s", subject.name, name, error)
            plan.failures[subject.name, name] = str(error)
    return plan


def output_path(out: Path, layout: str, subject: str, contrast: str) -> Path:
    """Where a synthetic image goes."""
    if layout != "BIDS":
        return out / subject / f"{subject}_{contrast}_synthetic.nii.gz"
    contrast_entity, suffix = ("_ce-gadolinium", "T1w") if contrast == "T1ce" else ("", contrast)
    return out.joinpath(*subject.split("_"), "anat", f"{subject}{contrast_entity}_desc-synthetic_{suffix}.nii.gz")


def _sources(run: Run, subject: Subject, target: str) -> dict[str, Path]:
    return {name: subject.scans[name] for name in run.config.contrasts if name in subject.scans and name != target}


def _description() -> dict[str, object]:
    """`dataset_description.json` of a BIDS derivative."""
    return {
        "Name": "Synthetic contrasts",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "scansynth", "Version": scansynth.__version__, "Description": NOTICE}],
    }


def _entries(
    run: Run,
    subjects: Sequence[Subject],
    made: dict[tuple[str, str], Path],
    failures: dict[tuple[str, str], str],
) -> list[Entry]:
    entries = []
    for subject in subjects:
        for name in run.config.contrasts:
            key = (subject.name, name)
            if name in subject.scans:
                entries.append(Entry(*key, REAL, str(subject.scans[name])))
            if key in made:
                entries.append(Entry(*key, SYNTHETIC, str(made[key])))
            elif key in failures or name not in subject.scans:
                entries.append(Entry(*key, ABSENT, failures.get(key, "not asked for, or no source")))
    return entries


def _write_entries(entries: Sequence[Entry], path: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(["subject", "contrast", "status", "path"])
    writer.writerows([entry.subject, entry.contrast, entry.status, entry.path] for entry in entries)
    write_text(path, text.getvalue())
