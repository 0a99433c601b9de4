"""`prepare`: scans into a cohort."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import arg

from scansynth.commands.console import Input, Output, err, out, stage_bars
from scansynth.commands.next_step import after_preparing
from scansynth.data.contrasts import standard_name
from scansynth.data.raw.settings import Raw
from scansynth.errors import InputError
from scansynth.progress import named
from scansynth.ranges import Seed


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Prepare a folder or table of scans once, for training and evaluation."""

    input: Input
    """Folder (BIDS, BraTS, IXI, nnU-Net) or CSV/TSV table of subject, contrast, path and split; with --raw also DICOM,
    a folder a subject, or a zip archive of it."""
    output: Output
    """Folder of the prepared cohort."""
    pattern: str | None = None
    """How files are named, from the data folder on, where no layout that is known names them so:
    '{subject}/{contrast}.nii.gz', '{subject}_{session}_*_{contrast}.nii'."""
    contrasts: tuple[str, ...] = ()
    """Which contrasts; empty for all that are found."""
    recipe: str | None = None
    """A paper's spacing, size and intensity, where those are not given: syndiff (as acquired, 256×256, syndiff),
    cg-ddpm (1×1×6 mm, 256×256×32, percentile) or cdpm (1.375×1.375×1 mm, 128×128×128, percentile). Without one: as
    acquired, a box that holds all heads, robust."""
    spacing: tuple[float | None, float | None, float | None] | None = None
    """Voxel size in mm (right, anterior, superior); None keeps an axis as acquired."""
    size: tuple[int | None, int | None, int | None] | None = None
    """Voxels after resampling, centred on the foreground; None keeps an axis. Where neither this nor a recipe is given,
    the box holds the largest head, in multiples of 16."""
    intensity: str | None = None
    """robust, syndiff, percentile, z-score or hu-window (CT only)."""
    acquisition: Path | None = None
    """CSV/TSV table of contrast, RepetitionTime, EchoTime … (BIDS: seconds, degrees) and, if need be, subject; it
    counts before the JSON files beside the images."""
    tissue: Literal["none", "segment"] = "none"
    """segment: densities of white matter, grey matter, CSF and tumour of each MR scan, from that scan alone; scans must
    be skull-stripped. A subject's own tissue mask is taken first."""
    expert_tumour: bool = False
    """With --tissue segment: the mask seg in place of the segmented tumour. It was drawn with all contrasts in sight,
    the target's too, so that figures become too good."""
    raw: bool = False
    """Scans as they come: free them of bias fields and register each subject's to one of them. Look at
    OUTPUT/registered: quality.tsv, and quality.png of each subject. Needs scansynth[raw]."""
    together: Annotated[Raw, arg(name="")] = Raw()  # noqa: RUF009 (frozen)
    """With --raw: how."""
    like: Path | None = None
    """A trained run: prepare these scans as its cohort was, with its training statistics, to test it on people it never
    saw (`evaluate` says that it is an external test). All of them test. With --raw, also brought together like them."""
    series: Path | None = None
    """With --raw and a folder of DICOM, a folder a subject: CSV/TSV table of subject, series and contrast (none: leave
    out), where scanners do not say clearly which series is which."""
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Train, val and test, drawn by subject where the data gives no split."""
    seed: Seed = 0
    """Seed of the split, where it is drawn."""
    dry_run: bool = False
    """Show subjects, contrasts, grids and problems; write nothing."""
    skip_bad: bool = False
    """Leave scans out that cannot be read."""
    accept: tuple[str, ...] = ()
    """Rules of the census that may be broken, by name; written down in the cohort."""
    overwrite: bool = False
    """Throw away a cohort prepared with other settings."""

    def run(self) -> None:
        """Prepare, or show what would be done."""
        from scansynth.data.build_cohort import check_folder
        from scansynth.data.census_rules import check_accepted
        from scansynth.files import check_place, only_one

        if self.together != Raw() and not self.raw:
            raise InputError("--reference, --bias and --brain go with --raw")
        if self.raw and self.dry_run:
            raise InputError("--raw registers first, which takes long: --dry-run without it shows scans as they come")
        if self.expert_tumour and self.tissue == "none":
            raise InputError("--expert-tumour is a setting of --tissue segment: give both or neither")
        check_accepted(self.accept)
        if not self.dry_run:
            check_place(self.output)
            check_folder(self.output)
        like = self.record()
        how = self.brought(like)
        with only_one(self.output) if self.raw else nullcontext():  # converted and registered scans come first
            self.prepare(like, how)

    def prepare(self, like: Any, how: Any) -> None:
        """What `run` does, once it is clear that it may.

        Args:
            like: what the run keeps that these scans are to test, or None.
            how: raw scans are brought together, or None.
        """
        from scansynth.data.acquisitions import read_table
        from scansynth.data.build_cohort import CENSUS, build_cohort
        from scansynth.data.build_tissue import TissueSettings
        from scansynth.data.census import take
        from scansynth.data.dry_run import dry_run
        from scansynth.data.prepare import Preparation, find_preparation

        given = {"spacing": self.spacing, "size": self.size, "intensity": self.intensity}
        basis = find_preparation(self.recipe) if self.recipe else Preparation(intensity="robust")
        settings = replace(basis, **{name: value for name, value in given.items() if value is not None})
        settings = like.settings if like else settings
        listing = self.found()
        if how:
            listing = self.registered(listing, how, like)
        contrasts = self.chosen(listing, like)
        with stage_bars() as report:
            census = take(
                listing, contrasts, known=self.output / CENSUS, keep=not self.dry_run,
                report=named(report, "reading"),
            )  # fmt: skip
        foreseen = dry_run(
            listing,
            settings,
            census=census,
            contrasts=contrasts,
            fractions=self.fractions,
            seed=self.seed,
            fit=not (self.recipe or self.size or like),
            tissue=self.tissue == "segment",
            accept=self.accept,
            beside=self.dry_run,
            like=like,
        )
        if self.dry_run:
            self.show(foreseen)
            return
        settings = foreseen.survey.settings
        for line in (foreseen.splits, foreseen.box, *foreseen.survey.screen()):
            if line:
                out.print(line, markup=False)
        for warning in (*foreseen.warnings, *foreseen.unreadable):
            err.print(f"warning: {warning}", markup=False)
        acquisitions = read_table(self.acquisition) if self.acquisition else None
        with stage_bars() as report:
            cohort = build_cohort(
                listing,
                self.output,
                settings,
                contrasts=contrasts,
                fractions=self.fractions,
                seed=self.seed,
                report=named(report, "preparing"),
                overwrite=self.overwrite,
                skip_bad=self.skip_bad,
                acquisitions=acquisitions,
                tissue=TissueSettings(self.expert_tumour) if self.tissue == "segment" else None,
                accept=self.accept,
                census=census,
                raw=how,
                like=like,
            )
        counts = ", ".join(f"{len(cohort.subjects(split))} {split}" for split in ("train", "val", "test"))
        told = f"{self.output}: {len(cohort.subjects())} subjects ({counts}), {', '.join(cohort.contrasts)}"
        seen = f"census: {self.output / 'census.tsv'}, all scans at a glance: {self.output / 'census.png'}"
        out.print(f"{told}\n{seen}\n{after_preparing(self.output)}", markup=False)

    def found(self) -> Any:
        """The subjects, DICOM converted."""
        from scansynth.data.layouts import find_subjects
        from scansynth.data.raw.dicom_series import convert, is_dicom

        if self.raw and is_dicom(self.input):
            if self.pattern:
                raise InputError("--pattern is of files that are no DICOM: leave it out")
            with stage_bars() as report:
                return convert(self.input, self.output, table=self.series, report=named(report, "converting"))
        if self.series:
            raise InputError("--series goes with --raw and a folder of DICOM")
        return find_subjects(self.input, self.pattern)

    def record(self) -> Any:
        """What the run keeps that these scans are to test; None without one."""
        from scansynth.data.record import PreparationRecord
        from scansynth.synthesis.places import checked

        if self.like is None:
            return None
        if self.recipe or self.spacing or self.size or self.intensity or self.fractions != (0.7, 0.1, 0.2):
            raise InputError("--like prepares as the run's cohort was: leave --recipe, --spacing, --size, --intensity "
                             "and --fractions out")  # fmt: skip
        return PreparationRecord.read(checked(self.like))

    def brought(self, like: Any) -> Raw | None:
        """How scans are brought together; None where they are taken as they lie."""
        if not self.raw:
            return None
        how = like.raw if like and like.raw and self.together == Raw() else self.together
        how.check()
        return how

    def chosen(self, listing: Any, like: Any) -> tuple[str, ...]:
        """The contrasts that are prepared: those named, else all that are found, or of them those that a run knows."""
        from scansynth.data.layouts import chosen_contrasts

        named = [standard_name(name) for name in self.contrasts]
        if like:
            if strangers := [name for name in named if name not in like.statistics]:
                raise InputError(f"{self.like}: the run knows {', '.join(like.statistics)}, not {strangers[0]}")
            named = named or [name for name in listing.contrasts if name in like.statistics]
            if not named:
                raise InputError(f"{self.input}: the run knows {', '.join(like.statistics)}, and no scan is of them")
        return chosen_contrasts(listing, named or None)

    def registered(self, listing: Any, how: Raw, like: Any) -> Any:
        """The listing with its scans brought together."""
        from scansynth.data.raw.folders import REGISTERED
        from scansynth.data.raw.on_disk import register_listing

        contrasts = self.chosen(listing, like)
        kept = [
            replace(one, scans={name: file for name, file in one.scans.items() if name in contrasts})
            for one in listing.subjects
        ]
        listing = replace(listing, subjects=tuple(one for one in kept if one.scans))
        with stage_bars() as report:
            found = register_listing(
                listing, self.output, how, overwrite=self.overwrite, report=named(report, "registering")
            )
        if found.bad and not self.skip_bad:
            raise InputError(f"{len(found.bad)} subjects cannot be brought together: {'; '.join(found.bad)}; mend "
                             "them, or leave them out with --skip-bad")  # fmt: skip
        for line in found.bad:
            err.print(f"warning: left out: {line}", markup=False)
        for line in found.odd:
            err.print(f"warning: look at the registration of {line}", markup=False)
        out.print(
            f"registered: {self.output / REGISTERED / 'quality.tsv'}, and quality.png of each subject", markup=False
        )
        return found.listing

    def show(self, foreseen: Any) -> None:
        """Show what would be done.

        Raises:
            InputError: if there are problems that preparing would stop at.
        """
        out.print(foreseen.text, markup=False)
        left = len(foreseen.problems) - (len(foreseen.unreadable) if self.skip_bad else 0)
        if left:
            what = f"{left} problem{'s' if left > 1 else ''}, named above"
            raise InputError(f"{what}: mend them{'' if self.skip_bad else ', or leave bad scans out with --skip-bad'}")
        out.print("Next: the same command without --dry-run")
