"""Writers of synthetic images, one module a format or a way of naming; what they write, `image.py` says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Part:
    """One of a translation's images, of any format."""

    array: np.ndarray
    """(X, Y, Z) float32, RAS+."""
    mark: str
    """What its header says of it."""
    content: Mapping[str, Any]
    """What its sidecar says beside the provenance."""
