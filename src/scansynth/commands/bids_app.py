"""`scansynth-bids`: `translate -i` with the arguments of a BIDS App (Gorgolewski et al., PLOS Comput Biol 13(3), 2017).

scansynth-bids BIDS OUT participant --participant-label 01 02 --run RUN
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

import scansynth
from scansynth.commands.console import bars, out
from scansynth.errors import InputError, did_you_mean
from scansynth.synthesis.sampling import Sampling
from scansynth.training.selection import Which

if TYPE_CHECKING:
    from scansynth.data.layouts import Listing


@dataclass(frozen=True, kw_only=True)
class BidsApp:
    """Make the contrasts that participants of a BIDS data set lack, as a BIDS derivative."""

    bids_dir: Positional[Path]
    """The BIDS data set."""
    output_dir: Positional[Path]
    """Folder of the derivative."""
    analysis_level: Positional[Literal["participant"]]
    """Each participant by themselves."""
    run_folder: Annotated[Path, arg(name="run")]
    """A trained run."""
    participant_label: tuple[str, ...] = ()
    """Participants, with or without `sub-`; all by default. Commands with other participants may run side by side."""
    target: str | None = None
    """Contrast to make; by default each that the run makes."""
    sampling: Annotated[Sampling, arg(name="")] = Sampling()  # noqa: RUF009 (frozen)
    """How it is drawn."""
    weights: Which = "auto"
    """last, best or auto, as in `scansynth translate`."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    accept: tuple[str, ...] = ()
    """Rules whose warning or refusal is known and accepted, by name; written down in the sidecar."""

    def run(self) -> None:
        """Translate each participant under a lock of their own."""
        from scansynth.data.layouts import find_subjects
        from scansynth.files import LOCK
        from scansynth.report.subject_page import write_pages
        from scansynth.synthesis.folder import translate_cohort
        from scansynth.synthesis.what_to_make import sources_of

        listing = find_subjects(self.bids_dir)
        if listing.layout != "BIDS":
            raise InputError(f"{self.bids_dir}: no BIDS data set ({listing.layout}): use `scansynth translate -i`")
        parts = {LOCK: listing}
        if self.participant_label:
            parts = {f".scansynth-{one}.lock": _only(listing, one) for one in _known(listing, self.participant_label)}
        run = scansynth.load(self.run_folder, self.device, weights=self.weights)
        targets = (run.choose_target(self.target, {}),) if self.target else run.method.targets
        for lock, part in parts.items():
            lacking = [
                (subject, target)
                for subject in part.subjects
                for target in targets
                if target not in subject.scans and sources_of(run, subject, target)
            ]
            if not lacking:
                out.print(
                    f"{', '.join(one.name for one in part.subjects)}: nothing to make: all is there, or no source"
                )
                continue
            with bars() as move:
                entries = translate_cohort(
                    run,
                    part,
                    self.output_dir,
                    target=self.target,
                    missing=True,
                    sampling=self.sampling,
                    report=partial(move, "translating"),
                    accept=self.accept,
                    lock=lock,
                    then=partial(write_pages, self.output_dir, part),
                )
            asked = {subject.name for subject in part.subjects}
            for entry in entries:
                if entry.subject in asked:
                    out.file.write("\t".join(astuple(entry)) + "\n")
        out.print("Synthetic, for research: not scans.")


def _known(listing: "Listing", labels: Sequence[str]) -> list[str]:
    """The participants of these labels, as `sub-01`, each once.

    Raises:
        InputError: if somebody has no scan.
    """
    there = {subject.name.split("_")[0] for subject in listing.subjects}
    asked = list(dict.fromkeys(f"sub-{label.removeprefix('sub-')}" for label in labels))
    for one in asked:
        if one not in there:
            raise InputError(f"{listing.root}: no scans of participant {one}; {did_you_mean(one, there)}it has "
                             f"{len(there)} participants")  # fmt: skip
    return asked


def _only(listing: "Listing", participant: str) -> "Listing":
    """The listing of one participant, all sessions."""
    found = tuple(subject for subject in listing.subjects if subject.name.split("_")[0] == participant)
    return replace(listing, subjects=found)
