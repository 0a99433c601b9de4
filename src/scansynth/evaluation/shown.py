"""What pictures and the report show of one subject."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One subject's target on one grid: volumes (X, Y, Z) float32, RAS+, from 0 on."""

    subject: str
    target: str
    affine: np.ndarray
    """Voxel indices to mm, RAS+, (4, 4)."""
    truth: np.ndarray | None
    """None where nobody acquired it."""
    sources: Mapping[str, np.ndarray]
    """By contrast, as the runs see them."""
    syntheses: Mapping[str, np.ndarray]
    """By run; of several samples, the mean."""
    deviations: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Standard deviation of the samples by run, where several were drawn."""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Of the voxels along X, Y and Z, mm."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    def montage(self, run: str) -> str:
        """Name of the file of a run's montage."""
        return f"montage_{run}_{self.subject}_{self.target}.png"
