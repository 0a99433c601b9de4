"""scansynth makes the medical scans nobody acquired; every image it writes is synthetic and marked so."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from scansynth.synthesis.run import Run

__version__ = "0.1.0"


def load(run: str | Path, device: str = "auto") -> Run:
    """Load a trained run for synthesis.

    Args:
        run: a run folder, as `scansynth train` makes it.
        device: auto, cpu, cuda or mps.

    Raises:
        InputError: if the folder holds no trained run.
    """
    from scansynth.synthesis.run import Run  # torch is imported here, not with the package

    return Run.load(run, device)
