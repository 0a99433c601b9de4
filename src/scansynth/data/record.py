"""What a run keeps of the cohort it was trained on, so that synthesis needs the run folder alone."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scansynth.data.cohort import Cohort, read_settings
from scansynth.data.intensity import ContrastStatistics
from scansynth.data.prepare import Preparation
from scansynth.errors import InputError
from scansynth.files import write_text

FILE = "preparation.json"


@dataclass(frozen=True)
class PreparationRecord:
    """Preparation, training statistics and splits of a run's cohort."""

    settings: Preparation
    statistics: dict[str, ContrastStatistics]
    """By contrast of the run."""
    splits: dict[str, str]
    """Subject → train, val or test."""
    fingerprint: str
    """Of the cohort."""

    @classmethod
    def of(cls, cohort: Cohort, contrasts: Sequence[str]) -> "PreparationRecord":
        """The record of a cohort for a run of these contrasts."""
        return cls(
            settings=cohort.settings,
            statistics={contrast: cohort.statistics[contrast] for contrast in contrasts},
            splits={subject: cohort.split_of(subject) for subject in cohort.subjects()},
            fingerprint=cohort.fingerprint,
        )

    def write(self, run: Path) -> None:
        """Write `preparation.json` into a run folder."""
        write_text(run / FILE, json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def read(cls, run: Path) -> "PreparationRecord":
        """Read it back.

        Raises:
            InputError: if the folder has none.
        """
        try:
            values = json.loads((run / FILE).read_text())
            return cls(
                settings=read_settings(values["settings"]),
                statistics={name: ContrastStatistics(**numbers) for name, numbers in values["statistics"].items()},
                splits=values["splits"],
                fingerprint=values["fingerprint"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{run / FILE}: missing or damaged ({error}); is {run} a run folder?") from error

    def check_same(self, cohort: Cohort, run: Path) -> None:
        """Raise InputError if another cohort is given than the run was trained on."""
        if cohort.fingerprint == self.fingerprint:
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
            f"{'; '.join(differ) or 'scans or training statistics'}. Give that one, or train another run"
        )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
