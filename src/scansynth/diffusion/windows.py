"""Windows: how a volume is cut up for the networks and put together again."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scansynth.errors import InputError


@dataclass(frozen=True)
class SliceWindows:
    """Axial slices of a volume, several at a time. The windows do not overlap: nothing is blended.

    Raises:
        InputError: if `batch` is below 1.
    """

    batch: int = 16
    """Slices that go through the networks at once. It changes memory and speed, not the result."""

    def __post_init__(self):
        if self.batch < 1:
            raise InputError(f"slices at once {self.batch}: must be at least 1")

    def map(self, function: Callable[..., Tensor], *volumes: Tensor) -> Tensor:
        """Apply `function` to the slices of volumes.

        Args:
            function: takes one (N, C, X, Y) tensor a volume, N ≤ `batch` slices, and returns (N, C', X', Y'). It must
                treat each slice on its own.
            *volumes: (1, C, X, Y, Z) each. One with Z = 1 is given to every slice; X and Y may differ (1×1 stays so).

        Returns:
            (1, C', X', Y', Z).
        """
        assert all(volume.ndim == 5 and len(volume) == 1 for volume in volumes), "volumes are (1, C, X, Y, Z)"
        depth = max(volume.shape[4] for volume in volumes)
        assert all(volume.shape[4] in (1, depth) for volume in volumes), "volumes differ in depth"
        stacks = [volume[0].movedim(3, 0).expand(depth, -1, -1, -1) for volume in volumes]  # (Z, C, X, Y)
        results = []
        for start in range(0, depth, self.batch):
            slices = [stack[start : start + self.batch].contiguous() for stack in stacks]
            result = function(*slices)
            assert len(result) == len(slices[0]), f"{len(slices[0])} slices in, {len(result)} out"
            results.append(result)
        return torch.cat(results).movedim(0, 3)[None].contiguous()
