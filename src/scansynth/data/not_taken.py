"""Image files of a data folder that no layout took: why, and which scan each may be.

All is said by names; nothing is opened but the JSON file beside an image, in which a synthesis leaves its mark.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scansynth.data.contrasts import contrasts_in
from scansynth.data.image_files import FORMATS, Folder, is_hidden
from scansynth.data.readers import ending_of
from scansynth.data.subject import Subject, is_synthetic, stem_of
from scansynth.data.subject_ids import SubjectIds

_TABLE = "or list the scans in a .csv table"
PATTERNS = {
    "BIDS": "sub-01[/ses-1]/anat/sub-01[_ses-1]_T1w.nii.gz",
    "BraTS": "X/X_t1.nii.gz or X/X-t1n.nii.gz",
    "IXI": "IXI012-HH-1211-T1.nii.gz",
    "nnU-Net": "imagesTr/CASE_0000.nii.gz, channels named in dataset.json",
}
"""Layout → how its files are named."""
PATTERN = "pattern"
"""The layout that a user's pattern states."""

HIDDEN = "hidden, as files are that macOS writes beside others: nothing to do"
SYNTHETIC = "made by scansynth: never read as a scan"
DERIVATIVE = f"derivative (desc-…, or below a folder derivatives), not acquired: to use it, rename or move it, {_TABLE}"
MASK = (
    "mask or segmentation: read are _seg, _tissue, _brain (BraTS), _dseg, _desc-brain_mask (BIDS) and labelsTr "
    "(nnU-Net), beside a scan"
)
PART = "phase, real or imaginary part: only the magnitude is read"
INVERSION = "single inversion of an MP2RAGE: its UNIT1 image is read, as T1w"
LOCALIZER = "localizer: no scan to work on"
MAP = f"map that was computed, not acquired: not read; to use it, {_TABLE[3:]}"
OTHER = f"another kind of image (functional, diffusion, field map, vessels …): not read; to use it, {_TABLE[3:]}"
SOURCE = "below sourcedata, from which other files are made: nothing to do if those are complete"
TEMPLATE = "template or atlas: no scan of a subject"
SECOND = f"further file of a contrast that was taken from another: keep one of them, {_TABLE}"
TWIN = f"named as a NIfTI file beside it, which counts: keep one of them, {_TABLE}"
ENHANCED = f"contrast-enhanced, which only T1w has a name for: {_TABLE[3:]}, under a name of its own"
DICOM = "DICOM: convert to NIfTI with dcm2niix"
AMBIGUOUS = f"named as several contrasts may be (SPACE, PDT2, T1 with an agent …): split or rename it, {_TABLE}"
UNNAMED = f"no contrast in its name: rename it to the one it is, {_TABLE}"
_NO_SCANS = (HIDDEN, SYNTHETIC, DERIVATIVE, MASK, PART, INVERSION, LOCALIZER, MAP, OTHER, SOURCE, TEMPLATE)
_CONVERTERS = {".mgz": "mri_convert", ".mgh": "mri_convert", ".mnc": "mnc2nii", ".hdr": "nibabel", ".img": "nibabel"}

_ENTITY = re.compile(r"(?<![a-z0-9])(sub|ses|space|dir|run|echo|res|den|rec|task|inv|mt|flip|desc|part)-[a-z0-9+]+")
"""BIDS entities whose values name no contrast, though they may look so (`space-MNI`, `task-T2`)."""
_BIDS_NAME = re.compile(r"(?P<sub>sub-[^_]+)(_(?P<ses>ses-[^_]+))?(_|$)", re.IGNORECASE)
_IXI_NAME = re.compile(r"IXI\d+-[A-Za-z]+-\d+(?=-)", re.IGNORECASE)
_MASKS = re.compile(r"masks?|\w*mask|\w*seg|segmentations?|labels?|rois?|aparc|parc(ellation)?|wmparc|ribbon|gt")
_TISSUES = re.compile(r"lesions?|tumou?rs?|wm|gm|csf|tissue")
_PARTS = re.compile(r"ph|phase|real|imag(inary)?")
LOCALIZERS = re.compile(r"locali[sz]er|scout|survey|(3|three).?plane|(?<![a-z])loc(?![a-z])")
_TEMPLATES = re.compile(r"mni152|icbm|atlas|template")
KINDS = (
    "bold", "sbref", "dwi", "dti", "adc", "fa", "md", "epi", "phasediff", "phase1", "phase2", "magnitude", "magnitude1",
    "magnitude2", "fieldmap", "asl", "m0scan", "cbf", "perf", "perfusion", "dsc", "dce", "pet", "swi", "swan", "qsm",
    "minip", "angio", "mra", "mrv", "tof", "mrs", "meg", "eeg", "t1rho",
)  # fmt: skip
"""Suffixes of BIDS and words of scanners for what is no anatomical contrast."""
_PLACES = ("func", "dwi", "fmap", "perf", "pet", "meg", "eeg", "ieeg", "micr", "mrs", "nirs")
"""Folders of BIDS for the same."""


@dataclass(frozen=True)
class NotTaken:
    """An image file, or a folder of DICOM files, that was not taken."""

    path: Path
    why: str
    """The reason and the way on."""
    subject: str | None
    """The subject entry that it stands with, or the person where no visit is named; None where that is not clear."""
    contrasts: tuple[str, ...]
    """Which contrasts it may be; empty: any."""
    scan: bool
    """Whether it may be an acquired scan of its own: no mask, derivative, part, localizer or other kind of image."""


def find_not_taken(
    root: Folder, layout: str, subjects: Iterable[Subject], known: Iterable[NotTaken], *, form: str | None = None
) -> tuple[NotTaken, ...]:
    """All image files of a folder that are no subject's, by path.

    Args:
        root: the data folder.
        layout: that it has.
        subjects: found in it.
        known: what was not taken for a reason that its layout knows.
        form: how its files are named; None: as the layout's are.
    """
    subjects = list(subjects)
    judge = _Judge(root.path, layout, SubjectIds(subject.name for subject in subjects), form or PATTERNS[layout])
    found = {one.path: one for one in known}
    taken = {file for subject in subjects for file in (*subject.scans.values(), *subject.masks.values())}
    folders = list(root.all())
    linked = any(folder.linked for folder in folders)  # so that a file may be there a second time
    targets = {os.path.realpath(file) for file in taken} if linked else set()
    for folder in folders:
        if folder.closed:
            found[folder.path] = judge.closed(folder)
        if folder.dicom:
            found[folder.path] = judge.dicom(folder)
        for name in (*folder.readable, *folder.twins, *folder.others):
            file = folder.path / name
            if file not in taken and file not in found and not (targets and os.path.realpath(file) in targets):
                found[file] = judge.file(file, twin=name in folder.twins)
    return tuple(found[path] for path in sorted(found))


@dataclass(frozen=True)
class _Judge:
    """What is said of one file."""

    root: Path
    layout: str
    ids: SubjectIds
    form: str
    """How files of the layout are named."""

    def file(self, file: Path, *, twin: bool) -> NotTaken:
        """An image file, maybe a twin of one that is read."""
        folders, name, ending = file.relative_to(self.root).parts[:-1], _stem(file.name), _ending(file.name)
        subject, rest = self._subject(folders, name)
        contrasts = self._contrasts(folders, rest)
        why = _no_scan(file, folders, name, rest)
        if not why and subject is None and _TEMPLATES.search(rest):
            why = TEMPLATE
        if not why and twin:
            why = TWIN
        if not why and ending in FORMATS and not ending_of(file.name):
            why = f"{ending} is not read: convert to NIfTI (with {_CONVERTERS.get(ending, 'SimpleITK')}, for example)"
        if not why and contrasts and re.search(r"(^|_)ce-", rest) and not {"T1w", "T1ce"} & set(contrasts):
            why = ENHANCED
        return self._said(file, why or self._name(contrasts), subject, contrasts, folders)

    def dicom(self, folder: Folder) -> NotTaken:
        """A folder of DICOM files."""
        parts = folder.path.relative_to(self.root).parts
        name = parts[-1].lower() if parts else ""
        subject, rest = self._subject(parts, name)
        contrasts = self._contrasts(parts, rest)
        why = _no_scan(folder.path, parts, name, rest) or DICOM
        return self._said(folder.path, why, subject, contrasts, parts)

    def closed(self, folder: Folder) -> NotTaken:
        """A folder that was not looked into."""
        parts = folder.path.relative_to(self.root).parts
        subject, rest = self._subject(parts, parts[-1].lower())
        why = f"folder {folder.closed}, so that it was not looked into: move up or give as -i what it holds"
        return self._said(folder.path, why, subject, self._contrasts(parts, rest), parts)

    def _said(
        self, path: Path, why: str, subject: str | None, contrasts: tuple[str, ...], folders: tuple[str, ...]
    ) -> NotTaken:
        if not contrasts and why not in _NO_SCANS and "sourcedata" in map(str.lower, folders):
            why = SOURCE  # one that says its contrast may be a scan that was never converted
        return NotTaken(path, why, subject, contrasts, why not in _NO_SCANS)

    def _name(self, contrasts: tuple[str, ...]) -> str:
        """What is wrong with a name that says these contrasts."""
        if len(contrasts) == 1:
            return f"name or place unlike {self.layout} ({self.form}): rename or move it, {_TABLE}"
        return AMBIGUOUS if contrasts else UNNAMED

    def _contrasts(self, folders: tuple[str, ...], rest: str) -> tuple[str, ...]:
        """By the file's name, else by the folder that it stands in, unless that is named after a subject."""
        found = contrasts_in(_ENTITY.sub("", rest))
        for folder in () if found else reversed(folders[-2:]):
            if self.ids.find(folder) or _BIDS_NAME.match(folder):
                break
            if found := contrasts_in(folder):
                break
        return found

    def _subject(self, folders: tuple[str, ...], name: str) -> tuple[str | None, str]:
        """The subject that a file stands with, and the file's name without it."""
        subject = self._by_folders(folders) if self.layout == "BIDS" else None
        if (match := _BIDS_NAME.match(name)) and self.layout == "BIDS":
            named = match["sub"] + (f"_{match['ses']}" if match["ses"] else "")
            # A folder of a person and a name with the visit are the visit; folders alone count before a name alone.
            if subject is None or named.startswith(f"{subject.lower()}_"):
                subject = self._known(named)
            return subject, name[match.end() :]
        if match := _IXI_NAME.match(name):
            return self._known(match[0]), name[match.end() :]
        ends = [mark.start() for mark in re.finditer(r"[_-]", name)]
        for end in (len(name), *reversed(ends)):
            if known := self._known(name[:end], certain=True):
                return subject or known, name[end:]
        for folder in reversed(folders):
            if subject is None:
                subject = self._known(folder, certain=True)
            if self.layout == "BraTS" and name.startswith((f"{folder.lower()}_", f"{folder.lower()}-")):
                return subject or folder, name[len(folder) :]
        return subject, name

    def _by_folders(self, folders: tuple[str, ...]) -> str | None:
        """The subject entry of BIDS that folders are of."""
        found = [folder for folder in folders if _BIDS_NAME.fullmatch(folder) or folder.lower().startswith("ses-")]
        if not found or not found[0].lower().startswith("sub-"):
            return None
        visit = [folder for folder in found[1:] if folder.lower().startswith("ses-")]
        return self._known("_".join((found[0], *visit[:1])))

    def _known(self, written: str, *, certain: bool = False) -> str | None:
        """As the data spells it; a name that nobody has stands as it is written, unless it must be a `certain` one.

        Lost zeros count: better to ask about one file too many than to make up a scan that is there.
        """
        meant = self.ids.probably(written)
        known = self.ids.find(written) or (meant[0] if len(meant) == 1 else None)
        return known if certain else known or written


def _no_scan(path: Path, folders: tuple[str, ...], name: str, rest: str) -> str:
    """Why a file surely is no acquired scan of its own; empty where it may be one."""
    lower = [folder.lower() for folder in folders]
    words = [word for word in re.split(r"[_.+ -]+", rest) if word] or [""]
    named = bool(contrasts_in(_ENTITY.sub("", rest)))
    if is_hidden(path.name) or "__macosx" in lower:
        return HIDDEN
    if "derivatives" in lower or re.search(r"(^|_)desc-(?!synthetic)", name):
        return DERIVATIVE
    if "desc-synthetic" in name or is_synthetic(path):
        return SYNTHETIC
    if any(map(_MASKS.fullmatch, words)) or (not named and any(map(_TISSUES.fullmatch, words))):
        return MASK
    if re.search(r"part-(?!mag)", rest) or _PARTS.fullmatch(words[-1]):
        return PART
    if "mp2rage" in words and re.search(r"(^|_)inv-", rest):
        return INVERSION
    if LOCALIZERS.search(rest):
        return LOCALIZER
    if words[-1] in KINDS or any(folder in _PLACES for folder in lower):
        return OTHER
    if words[-1].endswith("map"):
        return MAP
    return OTHER if not named and any(word in KINDS for word in words) else ""


def _stem(name: str) -> str:
    """File name in lower case, without the ending of an image."""
    name = stem_of(name).lower()
    ending = _ending(name)
    return name.removesuffix(".gz").removesuffix(ending) if ending in FORMATS else name


def _ending(name: str) -> str:
    return os.path.splitext(name.lower().removesuffix(".gz"))[1]
