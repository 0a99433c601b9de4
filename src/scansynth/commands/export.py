"""`export`: a run handed on, with a card that says what it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from scansynth.commands.console import Output, err, out
from scansynth.commands.next_step import command
from scansynth.training.selection import Which


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a run for others: weights, settings, what it wants of sources, and a card that says all of it.

    No scan, picture or name of a person goes along. The folder or archive is a --run for every verb, and a bundle that
    MONAI runs.
    """

    run_folder: Annotated[Positional[Path], "RUN"]
    """A trained run."""
    output: Output
    """A new folder, or a new file FILE.zip."""
    name: str = ""
    """What it is called; by default as its folder."""
    data: str = "not stated"
    """What it was trained on: cohort, site, disease, as far as may be told."""
    data_licence: str = "not stated"
    """Licence of the training data, or the terms that were agreed to."""
    licence: str = "not stated"
    """Licence of the weights (CC-BY-4.0, say); that of the data may not leave it to you."""
    limits: tuple[str, ...] = ()
    """What it is not for, a sentence each, beside what holds for every run."""
    evaluation: tuple[Path, ...] = ()
    """Folders of `scansynth evaluate`, whose figures of these weights go onto the card."""
    cohort: Path | None = None
    """The cohort that it was trained on: ages and sex of its training subjects go onto the card, in numbers."""
    weights: Which = "auto"
    """Which of the training: last (averages), best (of those validated), or auto: the best where at least five subjects
    validate, else the last."""

    def run(self) -> None:
        """Export it."""
        from scansynth.data.cohort import Cohort
        from scansynth.files import sha256_of
        from scansynth.sharing.export import NOT_STATED, Statement, export_run
        from scansynth.synthesis.card import FILE as CARD
        from scansynth.synthesis.places import find_run

        statement = Statement(
            name=self.name, data=self.data, data_licence=self.data_licence, licence=self.licence, limits=self.limits
        )
        cohort = Cohort.open(self.cohort) if self.cohort else None
        folder = find_run(self.run_folder)
        written = export_run(
            folder, self.output, statement, weights=self.weights, evaluations=self.evaluation,
            cohort=cohort,
        )  # fmt: skip
        out.print(f"{written}", markup=False)
        if written.is_file():
            out.print(f"SHA-256 {sha256_of(written)}: tell it another way than the file, so that others can check it.")
        for flag, value in (("--data", self.data), ("--data-licence", self.data_licence), ("--licence", self.licence)):
            if value == NOT_STATED and not (folder / CARD).exists():  # whose card goes on
                err.print(f"warning: the card says that it is not stated: {flag}", markup=False)
        if not self.evaluation and not (folder / CARD).exists():
            err.print("warning: the card has no figures: --evaluation FOLDER of a `scansynth evaluate`", markup=False)
        out.print(f"Next, as whoever gets it: {command('inspect', written)}", markup=False)
