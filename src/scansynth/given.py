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


def given(subject: Mapping[str, Tensor], readable: Tensor, z: slice | Tensor | None = None) -> dict[str, Tensor]:
    """A subject as a method gets it (`Method.translate`).

    Args:
        subject: a batch of one: `images` (1, K, X, Y, Z) in [−1, 1], `available` (1, K), and where the method wants it
            `tissue` (1, K, 4, X, Y, Z); whatever the channels hold that are not readable.
        readable: from `sources_for`, (1, K).
        z: which axial slices are made; None for all.

    Returns:
        `images`, 0 where nothing is given; `available`, which contrasts are; `index` (1, n), which of the volume's
        slices these are, and `depth` (1,), how many it has; `tissue`, 0 where nothing is given.
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
    if "tissue" in subject:
        is_given = shown[..., None, None, None, None]
        batch["tissue"] = torch.where(is_given, subject["tissue"][..., index], torch.zeros(()))
    return batch
