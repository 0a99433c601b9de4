"""Random numbers of a sample, keyed by what is sampled: what training, methods and synthesis draw from."""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class Noise:
    """Random numbers of a batch, keyed by what is sampled and never by when or where.

    Each sample has a key of its own: in training (seed, step, place in the global batch), in synthesis (seed,
    subject, sample number). With the name of the draw it seeds a generator, so that batch size, processes,
    windows, device and resume do not change a number. Two draws of one name are equal.

    Args:
        keys: one key a sample of the batch; any tuple of strings and integers.
        device: where the numbers are put. They are always drawn on the CPU.
    """

    def __init__(self, keys: Sequence[tuple[str | int, ...]], device: torch.device | str = "cpu"):
        self.keys = list(keys)
        self.device = torch.device(device)

    def _draw(self, name: str, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        samples = []
        for key in self.keys:
            digest = hashlib.blake2b(repr((*key, name)).encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
            samples.append(draw(generator))
        return torch.stack(samples).to(self.device)

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, (B, *shape) float32."""
        return self._draw(name, lambda generator: torch.randn(tuple(shape), generator=generator))

    def uniform(self, name: str, shape: Sequence[int] = ()) -> Tensor:
        """Uniform numbers in [0, 1), (B, *shape) float32."""
        return self._draw(name, lambda generator: torch.rand(tuple(shape), generator=generator))

    def integers(self, name: str, low: int, high: int, *, shape: Sequence[int] = ()) -> Tensor:
        """Uniform integers in [low, high), (B, *shape) int64."""
        return self._draw(name, lambda generator: torch.randint(low, high, tuple(shape), generator=generator))


class SharedAlongSlices(Noise):
    """The same random numbers in every slice (the last axis) of a volume: neighbouring slices agree better."""

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, (B, *shape): equal along the last axis."""
        return super().normal(name, (*shape[:-1], 1)).expand(-1, *shape)
