"""What a network may see of a subject: the one rule that stops leaks, for files, evaluation and validation alike.

What feeds a network is built from the sources alone. The target's channel is empty, its tissue too, and a contrast
that is left out is as if it had never been acquired.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def sources_for(
    target: str, contrasts: Sequence[str], *, reconstructs: bool = False, among: Sequence[str] | None = None
) -> Tensor:
    """Which contrasts may be read to make a target, (1, K) bool.

    Args:
        target: what is made.
        contrasts: names of the run's K contrasts.
        reconstructs: whether the target is made from itself (`Method.reconstructs`), and from nothing else.
        among: those that may be read, None for all.
    """
    readable = {target} if reconstructs else set(contrasts if among is None else among) - {target}
    return torch.tensor([[name in readable for name in contrasts]])


def given(
    subject: Mapping[str, Tensor], readable: Tensor, z: slice | Tensor | None = None, *, neighbours: int = 0
) -> dict[str, Tensor]:
    """A subject as a method gets it (`Method.translate`).

    Args:
        subject: a batch of one: `images` (1, K, X, Y, Z) in [−1, 1], `available` (1, K), and where the method wants it
            `tissue` (1, K, 4, X, Y, Z); whatever the channels hold that are not readable.
        readable: from `sources_for`, (1, K).
        z: which axial slices are made; None for all.
        neighbours: slices on each side of a slice that are given with it (`Slices.neighbours`).

    Returns:
        `images`, 0 where nothing is given; `available`, which contrasts are; `index` (1, n), which of the volume's
        slices these are, and `depth` (1,), how many it has; `tissue`, 0 where nothing is given; with neighbours
        `neighbours` (1, K, 2 neighbours, X, Y, n), those below first, background beyond the volume.
    """
    images = subject["images"]
    index = torch.arange(images.shape[4])
    index = index if z is None else index[z]
    shown = subject["available"] & readable
    batch = {
        "images": torch.where(shown[..., None, None, None], images[..., index], torch.zeros(())),
        "available": shown,
        "index": index[None],
        "depth": torch.tensor([images.shape[4]]),
    }
    if neighbours:
        beside = [beside_slices(images, index + away) for away in offsets(neighbours)]
        is_given = shown[..., None, None, None, None]
        batch["neighbours"] = torch.where(is_given, torch.stack(beside, dim=2), torch.zeros(()))
    if "tissue" in subject:
        is_given = shown[..., None, None, None, None]
        batch["tissue"] = torch.where(is_given, subject["tissue"][..., index], torch.zeros(()))
    return batch


def offsets(neighbours: int) -> list[int]:
    """Where the slices lie that are given beside one: below it, then above."""
    return [away for away in range(-neighbours, neighbours + 1) if away]


def beside_slices(images: Tensor, index: Tensor) -> Tensor:
    """Slices (…, X, Y, n) of images (…, X, Y, Z) in [−1, 1]; background where the index (n,) leaves the volume."""
    inside = (index >= 0) & (index < images.shape[-1])
    found = images[..., index.clamp(0, images.shape[-1] - 1)]
    return torch.where(inside.to(images.device), found, -torch.ones((), dtype=images.dtype))
