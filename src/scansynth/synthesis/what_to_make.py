"""What a folder of translations still lacks, and whether it may be made: all is checked before the first image is.

Nothing acquired is overwritten, nothing is made up that may be there under another name, and synthetic files do not
come among those of somebody else's data set.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from scansynth.data.census_rules import NOT_TAKEN, check_accepted
from scansynth.data.layouts import Listing, told
from scansynth.data.raw.settings import Raw
from scansynth.data.subject import Subject
from scansynth.errors import InputError
from scansynth.synthesis.contrast_table import NAME, Image, check_table
from scansynth.synthesis.image import check_replaceable, is_made
from scansynth.synthesis.raw_sources import KEY
from scansynth.synthesis.run import Run
from scansynth.synthesis.sampling import Sampling
from scansynth.synthesis.writers import bids
from scansynth.synthesis.writers.bids import output_path

log = logging.getLogger(__name__)

OTHERS = "from another run, seed or number of samples, with other --maps, or from sources brought together otherwise"
SHOWN = 3
"""Examples that a message names."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked of a folder of subjects."""

    target: str | None
    """Contrast to make; None for each that the run makes."""
    missing: bool
    """Whether only what a subject lacks is made."""
    overwrite: bool
    """Whether images are made again that are there."""
    accept: tuple[str, ...]
    """Rules whose warning or refusal is known and accepted."""
    sampling: Sampling
    """As in `Run.translate`."""
    raw: Raw | None = None
    """How sources are brought together, where they are taken as they come."""

    def drawn(self, run: Run) -> dict[str, object]:
        """What of a sidecar tells one translation from another."""
        together = {KEY: self.raw.key if self.raw else None}
        return {"weights": dict(run.weights), **self.sampling.told, **together}


@dataclass(frozen=True)
class Work:
    """What of a cohort's images is there, and what is left to do."""

    there: dict[Image, Path]
    failures: dict[Image, str]
    """Images that are not to be made, and why."""
    left: list[tuple[Subject, str]]
    """Subject and contrast of the images to make."""


def find_work(run: Run, listing: Listing, out: Path, wanted: Wanted) -> Work:
    """Find out what is to be made, and check that it may be; nothing is written.

    Raises:
        InputError: if nothing can be made, if something stands in its way that is not marked synthetic, if what is
            missing may be there under another name, or for a rule that there is none of.
    """
    check_accepted(wanted.accept)
    targets = (run.choose_target(wanted.target, {}),) if wanted.target else run.method.targets
    if out.resolve() == listing.root.resolve():
        raise InputError(f"{out}: input and output are one folder; choose another -o, synthetic files stand apart")
    work = [
        (subject, name)
        for subject in listing.subjects
        for name in targets
        if not (wanted.missing and name in subject.scans) and sources_of(run, subject, name)
    ]
    if lines := told(listing):
        log.warning("%s", "\n".join(lines))
    if not work:
        kind = "lacks" if wanted.missing else "has sources for"
        raise InputError(
            f"{listing.root}: no subject {kind} {', '.join(targets)} (found {', '.join(listing.contrasts)})"
        )
    found = Work({}, {}, [])
    for subject, name in work:
        path = output_path(out, listing.layout, subject.name, name)
        try:
            if wanted.overwrite or not is_made(path, wanted.drawn(run), OTHERS, images=wanted.sampling.images(path)):
                found.left.append((subject, name))
            else:
                found.there[subject.name, name] = path
        except InputError as error:
            log.warning("%s %s: %s", subject.name, name, error)
            found.failures[subject.name, name] = str(error)
    _check(listing, out, wanted, [(subject.name, name) for subject, name in found.left])
    return found


def check_missing(listing: Listing, images: Iterable[Image], accept: Sequence[str]) -> None:
    """Check that no image which is to be made for being missing may be there, in a file that was not taken.

    Args:
        listing: the subjects.
        images: to be made.
        accept: rules that are accepted; `not-taken` lets all pass.

    Raises:
        InputError: naming how many files there are, examples with their reasons, and the ways on.
    """
    doubtful = {one: image for image in images for one in listing.may_be(*image)}
    if not doubtful or NOT_TAKEN in accept:
        return
    shown = "; ".join(
        f"{one.path.relative_to(listing.root)} may be {' '.join(image)} ({one.why})"
        for one, image in list(doubtful.items())[:SHOWN]
    )
    raise InputError(
        f"{listing.root}: --missing would make up what may be there; files that were not taken and may be it: "
        f"{len(doubtful)}, {shown}; rename the scans, list them in a table, or --accept {NOT_TAKEN}"
    )


def _check(listing: Listing, out: Path, wanted: Wanted, images: Sequence[Image]) -> None:
    """Raise InputError if something must not be written."""
    if wanted.missing:
        check_missing(listing, images, wanted.accept)
    given = [path for subject in listing.subjects for path in (*subject.scans.values(), *subject.masks.values())]
    paths = [output_path(out, listing.layout, *image) for image in images]
    check_replaceable([image for path in paths for image in wanted.sampling.images(path)], given)
    check_table(out / NAME)
    if listing.layout == "BIDS":
        bids.check_describable(out)


def sources_of(run: Run, subject: Subject, target: str) -> dict[str, Path]:
    """Scans that a target can be made of, by contrast; none where they do not suffice."""
    found = {name: subject.scans[name] for name in run.config.contrasts if name in subject.scans and name != target}
    return found if run.method.needs.suffice(found, target, run.config.contrasts) else {}
