"""What a run keeps of the cohort it was trained on, so that synthesis needs the run folder alone."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from scansynth.data.cohort import Cohort, StoredPreparation, read_settings
from scansynth.data.intensity import ContrastStatistics
from scansynth.data.labels import Label, fit_labels
from scansynth.data.prepare import Preparation
from scansynth.data.raw.settings import Raw
from scansynth.data.usual import Usual
from scansynth.errors import InputError
from scansynth.files import write_text
from scansynth.ranges import Finite, Positive
from scansynth.records import read_json, sealed

FILE = "preparation.json"


class _Label(TypedDict):
    name: str
    mean: NotRequired[Finite]
    deviation: NotRequired[Positive]
    classes: list[str]


class _Stored(TypedDict):
    settings: StoredPreparation
    statistics: dict[str, ContrastStatistics]
    splits: dict[str, str]
    fingerprint: str
    labels: NotRequired[list[_Label]]
    usual: NotRequired[dict[str, Usual]]
    raw: NotRequired[Raw | None]
    seen: NotRequired[list[str]]


@dataclass(frozen=True, kw_only=True)
class PreparationRecord:
    """Preparation, training statistics, splits and labels of a run's cohort."""

    settings: Preparation
    statistics: dict[str, ContrastStatistics]
    """By contrast of the run."""
    splits: dict[str, str]
    """Subject → train, val or test."""
    fingerprint: str
    """Of the cohort."""
    labels: tuple[Label, ...] = ()
    """Of the run, in their order: what its training subjects have of each; no subject's own."""
    usual: dict[str, Usual] = field(default_factory=dict)
    """By contrast, what the training scans are like: sources of a translation are held against it."""
    raw: Raw | None = None
    """How the scans were brought together before they were prepared, if they were: so are sources as they come."""
    seen: tuple[str, ...] = ()
    """Hashes of the voxels of the scans that trained or validated: they are no external test."""

    @classmethod
    def of(cls, cohort: Cohort, contrasts: Sequence[str], labels: Sequence[str] = ()) -> "PreparationRecord":
        """The record of a cohort for a run of these contrasts and labels.

        Raises:
            InputError: if the cohort lacks a label.
        """
        return cls(
            settings=cohort.settings,
            statistics={contrast: cohort.statistics[contrast] for contrast in contrasts},
            splits={subject: cohort.split_of(subject) for subject in cohort.subjects()},
            fingerprint=cohort.fingerprint,
            labels=fit_labels(cohort, labels, contrasts),
            usual={name: one for name, one in cohort.usual.items() if name in contrasts},
            raw=cohort.raw,
            seen=cohort.seen,
        )

    def write(self, run: Path) -> None:
        """Write `preparation.json` into a run folder."""
        write_text(run / FILE, json.dumps(sealed(dataclasses.asdict(self)), indent=1))

    @classmethod
    def read(cls, run: Path) -> "PreparationRecord":
        """Read it back.

        Raises:
            InputError: if the folder has none, or it is damaged.
        """
        cure = f"restore it or train anew (is {run} a run folder?)"
        values: Any = read_json(run / FILE, _Stored, cure)  # whose form is checked, and whose values are plain
        try:
            settings = read_settings(values["settings"])
            usual = {name: Usual.read(found) for name, found in values.get("usual", {}).items()}
        except InputError as error:
            raise InputError(f"{run / FILE}: damaged ({error}): {cure}") from None
        return cls(
            settings=settings,
            statistics={name: ContrastStatistics(**numbers) for name, numbers in values["statistics"].items()},
            splits=values["splits"],
            fingerprint=values["fingerprint"],
            labels=tuple(  # older runs have none
                Label(**{**label, "classes": tuple(label["classes"])}) for label in values.get("labels", ())
            ),
            usual=usual,
            raw=Raw(**values["raw"]) if values.get("raw") else None,
            seen=tuple(values.get("seen", ())),
        )

    def check_measurable(self, cohort: Cohort, run: Path) -> None:
        """Raise InputError for a cohort that is neither the run's nor prepared like it (`prepare --like`)."""
        if cohort.like is None:
            self.check_same(cohort, run)
        elif cohort.like != self.fingerprint:
            raise InputError(
                f"{cohort.folder}: prepared like another run than {run}: `prepare --like {run}` into another folder"
            )
        elif missing := sorted(set(cohort.contrasts) - self.statistics.keys()):
            raise InputError(f"{cohort.folder}: {run} does not know its {', '.join(missing)}")

    def check_same(self, cohort: Cohort, run: Path) -> None:
        """Raise InputError if another cohort is given than the run was trained on."""
        if cohort.fingerprint == self.fingerprint:
            if fit_labels(cohort, [label.name for label in self.labels], list(self.statistics)) != self.labels:
                names = ", ".join(label.name for label in self.labels)
                raise InputError(f"{cohort.folder}: the labels ({names}) are not those that {run} was trained with: "
                                 "prepare it from the former participants.tsv, or train another run")  # fmt: skip
            return
        here, there = {name: cohort.split_of(name) for name in cohort.subjects()}, self.splits
        moved = sorted(name for name in here.keys() & there.keys() if here[name] != there[name])
        settings = {
            field.name: (getattr(cohort.settings, field.name), getattr(self.settings, field.name))
            for field in dataclasses.fields(Preparation)
        }
        differ = [f"{name} ({a} here, {b} there)" for name, (a, b) in settings.items() if a != b]
        if apart := sorted(here.keys() ^ there.keys()):
            differ.append(f"subjects ({_some(apart)} only in one)")
        if moved:
            differ.append(
                f"splits ({_some([f'{name} is {here[name]} here and {there[name]} there' for name in moved])})"
            )
        raise InputError(
            f"{cohort.folder}: not the cohort that {run} was trained on: they differ in "
            f"{'; '.join(differ) or 'scans or training statistics'}. Give that one, train another run, or, to "
            f"test this one on other people, prepare them with --like {run}"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
