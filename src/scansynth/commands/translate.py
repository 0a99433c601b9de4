"""`translate`: scans into contrasts that were not acquired."""

from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from tyro.conf import arg

import scansynth
from scansynth.commands.console import Output, bars, err, out, stage_bars
from scansynth.commands.next_step import after_translating
from scansynth.data.contrasts import standard_name
from scansynth.data.raw.settings import OWN, Raw
from scansynth.errors import InputError
from scansynth.progress import named
from scansynth.ranges import Count
from scansynth.synthesis.sampling import Sampling
from scansynth.training.selection import Which


@dataclass(frozen=True, kw_only=True)
class Translate:
    """Make a contrast that was not acquired: for one subject (files by contrast) or a folder (-i)."""

    run_folder: Annotated[Path, arg(name="run")]
    """A trained run."""
    output: Output
    """File (.nii.gz) for one subject, folder for many."""
    input: Annotated[Path | None, arg(aliases=["-i"])] = None
    """Folder or table of many subjects; with --raw also DICOM, a folder a subject, or a zip archive of it."""
    pattern: str | None = None
    """With -i: how files are named, from the data folder on, where no layout that is known names them so:
    '{subject}/{contrast}.nii.gz', '{subject}_{session}_*_{contrast}.nii'."""
    target: str | None = None
    """Contrast to make; may be left out where only one is missing."""
    t1w: Path | None = None
    """T1-weighted source: a file, or a folder or zip archive of one DICOM series (so the others, too)."""
    t2w: Path | None = None
    """T2-weighted source."""
    pdw: Path | None = None
    """Proton-density-weighted source."""
    flair: Path | None = None
    """FLAIR source."""
    t1ce: Path | None = None
    """Contrast-enhanced T1-weighted source."""
    ct: Path | None = None
    """CT source."""
    source: tuple[str, ...] = ()
    """Further sources as NAME=FILE."""
    missing: bool = False
    """With -i: make only what a subject does not have."""
    sampling: Annotated[Sampling, arg(name="")] = Sampling()  # noqa: RUF009 (frozen)
    """How it is drawn."""
    tissue: Path | None = None
    """For one subject: your label image of its tissues (1 grey matter, 2 white matter, 3 CSF, 7 tumour) on the grid of
    the sources, for a run that wants tissue (cola_diff). Without it each source is segmented. With -i it is found."""
    raw: bool = False
    """Sources as they come, on grids of their own: register them to one of them, as those of the run's training were
    brought together, or by the settings below. Needs scansynth[raw]."""
    together: Annotated[Raw, arg(name="")] = Raw()  # noqa: RUF009 (frozen)
    """With --raw: how, where it is not as in the run's training."""
    brain_mask: Path | None = None
    """With --raw --brain own, of one subject's files: the mask of its brain, on the grid of one of the sources."""
    series: Path | None = None
    """With --raw and -i of DICOM: CSV/TSV table of subject, series and contrast (none: leave out), where scanners do
    not say clearly which series is which."""
    page: Path | None = None
    """For one subject: also write a page (.html) of sources, synthesis, checks and methods text. With -i each subject
    gets one, <subject>_synthetic.html."""
    dicom: Path | None = None
    """For one subject: also write the image as a DICOM series into this new folder, its deviation and intervals as
    Parametric Maps. Needs scansynth[dicom]."""
    dicom_source: Path | None = None
    """With --dicom: folder of the DICOM series that the first source (with --raw: the one that the others were
    registered to) was converted from, which is known where it is such a folder. The new series joins its study and
    frame of reference; without it, it is of a new study of nobody."""
    weights: Which = "auto"
    """Which of the training: last (averages), best (of those validated), or auto: the best where at least five subjects
    validate, else the last."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    devices: Count = 1
    """With -i: devices on each machine, a process each; they share the subjects (docs/clusters.md)."""
    shared: bool = False
    """With -i: other such commands, on machines that see the same folders, work on it too: each image is made once, by
    one of them; a dead one's share is taken over (docs/clusters.md)."""
    nodes: Count = 1
    """With -i: machines; with several, start the command by torchrun or srun."""
    overwrite: bool = False
    """Make again what is there, if it is marked synthetic; nothing else is ever replaced."""
    accept: tuple[str, ...] = ()
    """Rules whose warning or refusal is known and accepted, by name; written down in the sidecar."""

    def run(self) -> None:
        """Translate a subject or a folder."""
        sources = self.sources()
        if self.together != Raw() and not self.raw:
            raise InputError("--reference, --bias and --brain go with --raw")
        if (self.input is None) == (not sources):
            raise InputError("translate: give either source files (--t1w FILE …) or a folder (-i FOLDER)")
        if self.input is not None:
            self.many(self.input)
            return
        if self.series:
            raise InputError("--series goes with --raw and -i of DICOM")
        if self.brain_mask and self.together.brain != OWN:
            raise InputError("--brain-mask goes with --raw --brain own")
        with TemporaryDirectory(prefix="scansynth-") as place:
            files = _converted(sources, Path(place))
            self.one(files, {standard_name(name): path for name, path in sources.items() if files[name] != path})

    def sources(self) -> dict[str, Path]:
        """Source files by contrast."""
        named = {
            "T1w": self.t1w,
            "T2w": self.t2w,
            "PDw": self.pdw,
            "FLAIR": self.flair,
            "T1ce": self.t1ce,
            "CT": self.ct,
        }
        sources = {name: path for name, path in named.items() if path is not None}
        for item in self.source:
            name, found, path = item.partition("=")
            if not found:
                raise InputError(f"--source {item}: write NAME=FILE")
            sources[name] = Path(path)
        return sources

    def one(self, sources: dict[str, Path], series: dict[str, Path]) -> None:
        """One subject's files.

        Args:
            sources: by contrast.
            series: folders and archives of DICOM that some of them were converted from.
        """
        if self.pattern:
            raise InputError("--pattern goes with a folder (-i)")
        if self.missing or self.devices > 1 or self.nodes > 1 or self.shared:
            raise InputError("--missing, --devices, --nodes and --shared go with a folder (-i)")
        if self.dicom_source and not self.dicom:
            raise InputError("--dicom-source goes with --dicom FOLDER")
        from scansynth.data.subject import sidecar_of, stem_of
        from scansynth.synthesis.image import check_replaceable, content_of
        from scansynth.synthesis.raw_sources import brought_together
        from scansynth.synthesis.writers import writing

        given = [*sources.values(), *([self.tissue] if self.tissue else [])]
        check_replaceable(self.sampling.images(self.output), given, overwrite=self.overwrite)
        if self.page:
            from scansynth.report.subject_page import check_page

            check_page(self.page)
        if self.dicom:
            from scansynth.synthesis.writers.dicom import check_dicom

            check_dicom(self.dicom, self.dicom_source)
        run = scansynth.load(self.run_folder, self.device, weights=self.weights)
        run.check_sampling(self.sampling)
        how, brought = self.brought(run), None
        if how:
            if self.tissue:
                raise InputError("--tissue lies on the grid of sources that share one: leave out --raw")
            brought = brought_together(run, sources, how, mask=self.brain_mask, accept=self.accept)
        with bars() as move:
            synthesis = run.translate(
                dict(brought.together.volumes if brought else sources),
                self.target,
                sampling=self.sampling,
                report=partial(move, "translating"),
                tissue=self.tissue,
                accept=self.accept,
            )
        if brought:
            synthesis = brought.told_in(synthesis)
        if self.dicom:  # first: it may refuse
            from scansynth.synthesis.writers.dicom import write_dicom

            stays = brought.together.reference if brought else standard_name(next(iter(sources)))
            there = series.get(stays)
            write_dicom(
                synthesis, self.dicom, source=self.dicom_source or (there if there and there.is_dir() else None)
            )  # fmt: skip
        for path in synthesis.write(self.output, overwrite=self.overwrite):
            out.print(f"{path}", markup=False)
        if self.page:
            from scansynth.report.subject_page import picture_bytes, write_page

            images = [(content_of(sidecar_of(self.output)), picture_bytes(synthesis))]
            with writing(self.page):
                write_page(self.page, stem_of(self.output.name), images, layout="DICOM" if series else "")
        for extra in (self.dicom, self.page):
            if extra:
                out.print(f"{extra}", markup=False)
        out.print("Synthetic, for research: not a scan.")
        out.print(after_translating(self.run_folder), markup=False)

    def brought(self, run: Any) -> Raw | None:
        """How sources are brought together; None where they share a grid."""
        from scansynth.synthesis.raw_sources import choose_raw

        if not self.raw:
            if run.record.raw:
                err.print(
                    "warning: the run's training scans were freed of bias fields and registered (prepare --raw); if "
                    "these sources are as they come, give --raw", markup=False,
                )  # fmt: skip
            return None
        return choose_raw(run, None if self.together == Raw() else self.together)

    def listed(self, folder: Path, processes: Any) -> Any:
        """The subjects of a folder, their DICOM converted by one process."""
        from scansynth.data.layouts import find_subjects
        from scansynth.data.raw.dicom_series import convert, is_dicom

        if self.raw and is_dicom(folder):
            if self.pattern:
                raise InputError("--pattern is of files that are no DICOM: leave it out")
            with stage_bars() as report:
                told = named(report, "converting")
                return processes.from_first(lambda: convert(folder, self.output, table=self.series, report=told))
        if self.series:
            raise InputError("--series goes with --raw and -i of DICOM")
        return find_subjects(folder, self.pattern)

    def many(self, folder: Path) -> None:
        """A cohort."""
        if self.tissue:
            raise InputError("--tissue goes with one subject's files; in a folder each subject's own is found")
        if self.brain_mask:
            raise InputError("--brain-mask goes with one subject's files; in a folder each subject's own is found")
        if self.dicom or self.dicom_source or self.page:
            raise InputError("--dicom, --dicom-source and --page go with one subject's files; each subject of a folder "
                             "gets a page")  # fmt: skip
        from scansynth.devices import start_processes
        from scansynth.report.subject_page import write_pages
        from scansynth.synthesis.folder import translate_cohort

        with start_processes(self.device, self.devices, self.nodes) as processes, bars(show=processes.first) as move:
            with processes.agreeing():
                run = scansynth.load(self.run_folder, str(processes.device), weights=self.weights)
                run.check_sampling(self.sampling)  # before anything is converted
                listing = self.listed(folder, processes)
            entries = translate_cohort(
                run,
                listing,
                self.output,
                target=self.target,
                missing=self.missing,
                overwrite=self.overwrite,
                sampling=self.sampling,
                report=partial(move, "translating"),
                processes=processes,
                accept=self.accept,
                raw=self.brought(run),
                shared=self.shared,
                then=partial(write_pages, self.output, listing),
            )
        for entry in entries if processes.first else ():
            out.file.write("\t".join(astuple(entry)) + "\n")  # the console would make spaces of the tabs
        if processes.first:  # beside the list, which other programs may read
            err.print(after_translating(self.run_folder), markup=False)


def _converted(sources: dict[str, Path], place: Path) -> dict[str, Path]:
    """The sources as image files: of folders and archives of DICOM, what dcm2niix makes of them."""
    from scansynth.data.raw.archives import is_archive
    from scansynth.data.raw.dicom_series import one_series

    found, people = {}, {}
    for name, path in sources.items():
        if path.is_dir() or is_archive(path):
            (place / name).mkdir()
            series, people[name] = one_series(path, place / name)
            path = series
        found[name] = path
    if len(set(people.values())) > 1:
        raise InputError(f"the DICOM of {' and '.join(people)} is of different people (by their IDs and names): give "
                         "one subject's")  # fmt: skip
    return found
