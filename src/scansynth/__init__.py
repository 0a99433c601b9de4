"""scansynth makes the medical scans nobody acquired; every image it writes is synthetic and marked so.

The names of `__all__` are the library's front door (docs/library.md). They are imported when they are asked for:
`import scansynth` loads neither torch nor numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scansynth.lazy import names_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from scansynth.data.volume import Volume
    from scansynth.errors import InputError
    from scansynth.evaluation.pair import measure
    from scansynth.methods import METHODS
    from scansynth.metrics.protocols import PROTOCOLS
    from scansynth.planning.plan import Plan
    from scansynth.recipes import RECIPES
    from scansynth.synthesis.run import Run
    from scansynth.synthesis.sampling import Sampling
    from scansynth.training.selection import Which

__version__ = "0.1.0"

__all__ = ["METHODS", "PROTOCOLS", "RECIPES", "InputError", "Sampling", "Volume", "load", "measure", "plan"]

__getattr__, __dir__ = names_of(
    __name__,
    {
        "data.volume": ("Volume",),
        "errors": ("InputError",),
        "methods": ("METHODS",),
        "evaluation.pair": ("measure",),
        "metrics.protocols": ("PROTOCOLS",),
        "recipes": ("RECIPES",),
        "synthesis.sampling": ("Sampling",),
    },
)


def load(run: str | Path, device: str = "auto", *, weights: Which = "auto") -> Run:
    """Load a trained run for synthesis.

    Args:
        run: a run folder, as `scansynth train` makes it.
        device: auto, cpu, cuda or mps.
        weights: the last averages of the training, the best that were validated, or by rule (auto): the best where at
            least five subjects validate, else the last.

    Raises:
        InputError: if the folder holds no trained run, or not the weights that are asked for.
    """
    from scansynth.synthesis.run import Run  # torch is imported here, not with the package

    return Run.load(run, device, weights=weights)


def plan(cohort: str | Path, targets: Sequence[str] = (), *, hours: float = 1.0, device: str = "auto") -> Plan:
    """Choose what to train on a prepared cohort, on this machine, as `scansynth plan` does: with reasons.

    Args:
        cohort: a folder that `scansynth prepare` has written.
        targets: contrasts to make; by default all.
        hours: for the training.
        device: auto, cpu, cuda or mps.

    Returns:
        The plan: its `config` trains, `yaml()` is the file that `scansynth train` takes, `lines()` says why.

    Raises:
        InputError: if the folder is no cohort, lacks a target, or nothing can be trained on it.
    """
    from scansynth.data.cohort import Cohort
    from scansynth.devices import find_device
    from scansynth.planning import plan as planning

    place = find_device(device)
    return planning.plan(planning.facts_of_cohort(Cohort.open(cohort), targets, place, hours), place)
