"""Sources of a translation as they come: brought onto one grid, as those of the run's training were."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from scansynth.data.contrasts import standard_name
from scansynth.data.raw.settings import Raw
from scansynth.data.raw.together import Together, bring_together
from scansynth.data.readers import reading
from scansynth.data.volume import Volume
from scansynth.synthesis.image import Synthesis
from scansynth.synthesis.run import Run

KEY = "brought_together_key"
"""In a sidecar, what tells one way to bring sources together from another."""


def choose_raw(run: Run, asked: Raw | None) -> Raw:
    """How a run's sources are brought together: as is asked, else as the scans of its training were."""
    chosen = asked or run.record.raw or Raw()
    chosen.check()
    return chosen


def together_of(files: Mapping[str, Path], how: Raw, *, mask: Path | None = None) -> Together:
    """Scans in files, by contrast, on the grid of one of them; with a mask of the brain, where it is the subject's own.

    Raises:
        InputError: if one cannot be read, or they cannot be brought together.
    """
    volumes = {}
    for name, path in files.items():
        with reading(path):
            volumes[standard_name(name)] = Volume.read(path)
    return bring_together(volumes, how, mask=mask)


def with_raw(synthesis: Synthesis, together: Together, how: Raw) -> Synthesis:
    """A synthesis whose sidecar says how its sources were brought together."""
    told: dict[str, Any] = {**synthesis.provenance, "brought_together": together.told(how), KEY: how.key}
    return replace(synthesis, provenance=told)
