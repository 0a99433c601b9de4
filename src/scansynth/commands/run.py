"""`run`: a folder of scans into what it lacks, in one command."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import UseAppendAction, arg

from scansynth.commands.console import Input, Output, err, out, stage_bars
from scansynth.commands.next_step import command
from scansynth.data.raw.settings import Raw
from scansynth.progress import named
from scansynth.ranges import Positive, Seed


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Do all of it: look, prepare, choose, train, measure, make what is missing, and report on one page."""

    input: Input
    """Folder (BIDS, BraTS, IXI, nnU-Net) or CSV/TSV table of subject, contrast, path and split; DICOM, a folder a
    subject, or a zip archive of it."""
    output: Output
    """Folder to write into; stopped, the same command goes on in it."""
    pattern: str | None = None
    """How files are named, from the data folder on, where no layout that is known names them so:
    '{subject}/{contrast}.nii.gz', '{subject}_{session}_*_{contrast}.nii'."""
    target: Annotated[UseAppendAction[tuple[str, ...]], arg()] = ()
    """Contrast to make; may be given several times; `all` for every one."""
    hours: Positive = 1.0
    """Wall time for all of it, about."""
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Train, val and test, drawn by subject where the data gives no split."""
    skip_bad: bool = False
    """Leave scans out that cannot be read."""
    accept: tuple[str, ...] = ()
    """Rules of the census that may be broken, by name; written down in the cohort and in each sidecar."""
    together: Annotated[Raw, arg(name="")] = Raw()  # noqa: RUF009 (frozen)
    """Where a subject's scans lie on several grids, and for DICOM: how they are registered first (`prepare --raw`)."""
    series: Path | None = None
    """For DICOM: CSV/TSV table of subject, series and contrast, where scanners do not say clearly which is which."""
    dry_run: bool = False
    """Print the plan and write it beside the output folder, as OUT.yaml, which `train` takes; do nothing else."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    seed: Seed = 0
    """Seed of splits, weights and noise."""

    def run(self) -> None:
        """Do all of it, or what is left of it."""
        from scansynth.data.choose_preparation import look
        from scansynth.data.layouts import chosen_contrasts, find_subjects, told
        from scansynth.data.raw.dicom_series import convert, is_dicom
        from scansynth.data.raw.folders import REGISTERED
        from scansynth.devices import find_device
        from scansynth.errors import InputError
        from scansynth.files import write_text
        from scansynth.planning.pipeline import COHORT, begun, brought_together, carry_out, recall, remember
        from scansynth.planning.proposal import asked_of, plan_yaml, propose

        self.together.check()
        raw = is_dicom(self.input)
        if raw and self.dry_run:
            raise InputError(f"{self.input}: DICOM is converted and registered first, which takes long: no --dry-run")
        if self.series and not raw:
            raise InputError("--series goes with DICOM")
        if raw and self.pattern:
            raise InputError("--pattern is of files that are no DICOM: leave it out")
        if raw:
            with stage_bars() as report:
                listing = convert(
                    self.input, self.output / COHORT, table=self.series, report=named(report, "converting")
                )  # fmt: skip
        else:
            listing = find_subjects(self.input, self.pattern)
        for line in told(listing):
            err.print(f"warning: {line}", markup=False)
        if not self.target:
            found = ", ".join(listing.contrasts)
            raise InputError(
                f"run: name the --target to make, several times for several, or --target all (found: {found})"
            )
        device = find_device(self.device)
        asked = asked_of(
            self.input,
            self.target,
            self.hours,
            seed=self.seed,
            skip_bad=self.skip_bad,
            fractions=self.fractions,
            accept=self.accept,
            pattern=self.pattern,
            together=self.together,
        )
        with stage_bars() as report:
            there, seen = begun(self.output, asked), None
            if (self.output / COHORT / REGISTERED).is_dir():
                raw = True
            elif not (raw or there):
                seen = look(listing, chosen_contrasts(listing, None), named(report, "looking at scans"))
                raw = seen.apart
            if raw and self.dry_run:
                raise InputError(f"{self.input}: the scans of a subject lie on several grids and are registered first, "
                                 "which takes long: no --dry-run")  # fmt: skip
            if not raw and self.together != Raw():
                raise InputError("--reference, --bias and --brain are of scans that lie on several grids, and these "
                                 "do not: leave them out")  # fmt: skip
            as_found = listing if raw else None
            if raw:
                listing, seen = brought_together(listing, asked, self.output, report), None
            if there:
                proposal = recall(listing, asked, self.output, as_found=as_found)
            else:
                proposal = propose(listing, asked, device, report, as_found=as_found, seen=seen)
        out.print(proposal.text(), markup=False)
        if self.dry_run:
            path = self.output.with_name(f"{self.output.name}.yaml")
            write_text(path, plan_yaml(proposal))
            out.print(f"Dry run: only {path} was written, which `train` takes.", markup=False)
            return
        if not begun(self.output, asked):
            remember(proposal, self.output)
        with stage_bars() as report:
            page, _, _ = carry_out(proposal, self.output, device, report)
        out.print(f"Report, for a browser: {page}", markup=False)
        run = self.output / "run"
        if proposal.missing and not proposal.generates:
            out.print(f"Synthetic images: {self.output / 'translated'}. They are not scans.", markup=False)
        if proposal.generates:
            words = ("generate", "--run", run, "-n", 10, "-o", self.output / "generated")
        else:
            words = ("translate", "--run", run, "-i", "MORE_DATA", "-o", "translated", "--missing")
        out.print(f"Next: {command(*words)}", markup=False)
