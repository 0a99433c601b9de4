"""A folder in, a folder out: a contrast for every subject of a cohort, and a list of what is real and what is not.

Several processes share the images that are still to be made: the first one looks what is there and deals the rest
out, each makes its part without a word to the others, and at the end the first one writes the list for all. Several
commands share them by claims in the folder (`sharing_out.py`); each writes the list once all is made.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch

from scansynth.data.census_rules import NOT_TAKEN
from scansynth.data.layouts import Listing
from scansynth.data.raw.settings import Raw
from scansynth.data.subject import BRAIN, Subject
from scansynth.data.tissue import OWN_MASK
from scansynth.devices import Processes
from scansynth.errors import InputError
from scansynth.files import LOCK
from scansynth.progress import Parts, Report
from scansynth.synthesis.contrast_table import NAME, Entry, Image, Named, list_contrasts, write_table
from scansynth.synthesis.image import Synthesis, is_made
from scansynth.synthesis.locking import locked
from scansynth.synthesis.pictures import picture_path, write_picture
from scansynth.synthesis.raw_sources import brought_together
from scansynth.synthesis.run import Run
from scansynth.synthesis.sampling import Sampling
from scansynth.synthesis.sharing_out import check_shared, shared_out
from scansynth.synthesis.what_to_make import OTHERS, Wanted, find_work, sources_of
from scansynth.synthesis.writers import WriteError, writing
from scansynth.synthesis.writers.bids import describe, output_path, place_of, sidecar_fields

log = logging.getLogger(__name__)

USUAL_SIDE = 128
"""Voxels along an axis that is kept as acquired, for the count of network calls before a scan is opened."""
SHARED = ".scansynth.shared"
"""In place of the name of a lock, where commands share a folder: they take turns for what they write for all."""
TURN = 600.0
"""Seconds that a command waits for its turn where others write the same table."""


def translate_cohort(
    run: Run,
    listing: Listing,
    out: Path,
    *,
    target: str | None = None,
    missing: bool = False,
    overwrite: bool = False,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    report: Report | None = None,
    processes: Processes | None = None,
    accept: Sequence[str] = (),
    lock: str = LOCK,
    raw: Raw | None = None,
    shared: bool = False,
    then: Callable[[Sequence[Entry]], object] | None = None,
) -> list[Entry]:
    """Make contrasts for all subjects; images that are there already are kept, so that a stopped command goes on.

    BIDS gives a BIDS derivative (`sub-01/anat/sub-01_desc-synthetic_T2w.nii.gz`), the other layouts a folder a
    subject (`case/case_T2w_synthetic.nii.gz`). `contrasts.tsv` lists what is real and what is synthetic. Nothing is
    replaced that is not marked synthetic; that is checked before the first image is made.

    Args:
        run: the trained run.
        listing: the subjects.
        out: folder to write into, not the one that is read.
        target: contrast to make; None for each that the run makes.
        missing: make only contrasts that a subject does not have. Otherwise those it has are made too, from the rest.
        overwrite: make images again that are there.
        sampling: as in `Run.translate`.
        report: told of the network calls that this process has done, and of which image ("subject contrast"). Volumes
            whose depth is not known yet count as much as the others.
        processes: that share the images; by default there is only this one.
        accept: as in `Run.translate`; `not-taken` lets `missing` make what a file that was not taken may be.
        lock: name of the lock in the folder. Commands that have each their own subjects may work side by side with
            names of their own, and take turns where they write for all.
        raw: how a subject's sources are brought onto one grid first; None: they lie on one.
        shared: with other such commands, which may run on other machines that see the same folders.
        then: given the rows of the list once it stands, also where some subjects failed; called by one process.

    Returns:
        What is listed in `contrasts.tsv`.

    Raises:
        InputError: if nothing can be made or something is in the way, before anything is; if another command writes
            into the folder, or it cannot be written; or (after all else is done) if some subjects failed.
    """
    check_shared(shared=shared, overwrite=overwrite)
    processes = processes or Processes(run.device)
    run.check_sampling(sampling)
    wanted = Wanted(
        target=target,
        missing=missing,
        overwrite=overwrite,
        accept=tuple(accept),
        sampling=sampling,
        raw=raw,
    )
    shape = [side or USUAL_SIDE for side in run.record.settings.size]
    calls = sampling.samples * run.calls(shape, sampling.at_once, realism=run.realism_of(sampling))
    work = processes.from_first(lambda: find_work(run, listing, out, wanted))
    if shared:
        lock = SHARED
    with nullcontext(False) if shared else locked(out, processes, lock) as waited:
        if waited:
            work = processes.from_first(lambda: find_work(run, listing, out, wanted))
        link = processes.from_first(lambda: _described(run, listing, out, lock))
        made: dict[Image, Path] = {}
        failures: dict[Image, str] = {}
        full: list[str] = []
        places = {(subject.name, name): output_path(out, listing.layout, subject.name, name)
                  for subject, name in work.left}  # fmt: skip

        def there(piece: tuple[Subject, str]) -> bool:
            path = places[piece[0].name, piece[1]]
            return is_made(path, wanted.drawn(run), OTHERS, images=sampling.images(path))

        dealt = work.left if shared else work.left[processes.rank :: processes.count]
        own: Iterable[tuple[Subject, str]] = dealt
        if shared:
            first = processes.rank * len(work.left) // processes.count
            own = shared_out(out, work.left, name=_claimed, there=there, first=first)
        parts = Parts(report, calls * len(dealt))
        for subject, name in own:
            path = places[subject.name, name]
            with parts.part(calls, f"{subject.name} {name}") as told:
                try:
                    synthesis = _translated(run, listing, subject, name, link=link, wanted=wanted, report=told)
                    with writing(path):  # before the image: one that is there is not made again, nor is its picture
                        write_picture(synthesis, picture_path(path))
                    synthesis.write(path)
                    made[subject.name, name] = path
                except WriteError as error:  # nor can the next one be
                    full.append(str(error))
                    break
                except InputError as error:
                    log.warning("%s %s: %s", subject.name, name, error)
                    failures[subject.name, name] = str(error)
        if shared:
            made = {(piece[0].name, piece[1]): places[piece[0].name, piece[1]] for piece in work.left if there(piece)}
        shares = [(work.there, work.failures, []), *processes.gather((made, failures, full))]
        if full := [why for *_, share in shares for why in share]:
            raise processes.error(full[0])
        made = {image: path for share, _, _ in shares for image, path in share.items()}
        failures = {image: why for _, share, _ in shares for image, why in share.items()}
        entries = processes.from_first(lambda: _listed(run, listing, out, made, failures, link=link, lock=lock))
        if then and processes.first:
            with writing(out):
                then(entries)
    if failures:
        (subject, name), first = next(iter(failures.items()))
        raise processes.error(
            f"{len(failures)} of {len(made) + len(failures)} images could not be made (see {out / NAME}); "
            f"the first, {subject} {name}: {first}"
        )
    return entries


def _claimed(piece: tuple[Subject, str]) -> str:
    """What a claim on an image is called; names of subjects are those of folders, contrasts those of files."""
    return hashlib.blake2b(repr((piece[0].name, piece[1])).encode(), digest_size=16).hexdigest()


def _translated(
    run: Run, listing: Listing, subject: Subject, name: str, *, link: str | None, wanted: Wanted, report: Report | None
) -> Synthesis:
    """One image of a folder, whose sidecar names its sources by their places in the data."""
    sources = sources_of(run, subject, name)
    brought = None
    if wanted.raw:
        brought = brought_together(
            run, sources, wanted.raw, mask=subject.masks.get(BRAIN), accept=wanted.accept
        )  # fmt: skip
    synthesis = run.translate(
        dict(brought.together.volumes if brought else sources),
        name,
        sampling=wanted.sampling,
        subject=subject.name,
        report=report,
        tissue=subject.masks.get(OWN_MASK) if run.method.needs.tissue else None,
        accept=wanted.accept,
    )
    if brought:
        synthesis = brought.told_in(synthesis)
    told = {**synthesis.provenance, "sources": {key: place_of(file, listing.root) for key, file in sources.items()}}
    if link:
        told |= sidecar_fields(told, sources, listing.root, link)
    if wanted.missing and listing.may_be(subject.name, name):
        told["accepted"] = [*told.get("accepted", ()), NOT_TAKEN]
    return replace(synthesis, provenance=told)


@contextmanager
def _for_all(out: Path, lock: str) -> Iterator[None]:
    """What several commands with locks of their own write one after the other."""
    with nullcontext() if lock == LOCK else locked(out, Processes(torch.device("cpu")), patience=TURN), writing(out):
        yield


def _described(run: Run, listing: Listing, out: Path, lock: str) -> str | None:
    """Describe the folder, where BIDS wants it; what it calls the data."""
    if listing.layout != "BIDS":
        return None
    with _for_all(out, lock):
        return describe(out, listing.root, run.method.targets)


def _listed(
    run: Run,
    listing: Listing,
    out: Path,
    made: Mapping[Image, Path],
    failures: Mapping[Image, str],
    *,
    link: str | None,
    lock: str,
) -> list[Entry]:
    """Write `contrasts.tsv`; returns its rows."""
    absent = {
        (subject.name, name): _why_absent(run, subject, name)
        for subject in listing.subjects
        for name in run.config.contrasts
    }
    named = Named(listing, link, (run.folder,))
    with _for_all(out, lock):
        entries = list_contrasts(named, out, made.values(), failures, absent)
        write_table(entries, out / NAME)
    return entries


def _why_absent(run: Run, subject: Subject, name: str) -> str:
    if name not in run.method.targets:
        return "not made by this run"
    return "not asked for" if sources_of(run, subject, name) else "no source"
