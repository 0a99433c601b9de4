"""Which contrasts are given and which one is asked for, in methods that take any subset of them."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scansynth.method import Noise


def draw_task(
    available: Tensor, targets: Sequence[str], contrasts: Sequence[str], noise: Noise
) -> tuple[Tensor, Tensor]:
    """Any available target, and any non-empty subset of the other available contrasts.

    Args:
        available: (B, K) bool, at least two true a row.
        targets: contrasts that may be asked for.
        contrasts: names of the K contrasts.
        noise: random numbers.

    Returns:
        is_source, is_target: (B, K) bool, never both true.
    """
    allowed = torch.tensor([contrast in targets for contrast in contrasts], device=available.device)
    score = noise.uniform("target", available.shape[1:]).masked_fill(~(available & allowed), -1.0)
    is_target = torch.zeros_like(available).scatter_(1, score.argmax(1, keepdim=True), True)
    score = noise.uniform("sources", available.shape[1:]).masked_fill(~available | is_target, -1.0)
    # Each other contrast is given with probability 1/2; the one that scores highest always is.
    best = torch.zeros_like(available).scatter_(1, score.argmax(1, keepdim=True), True)
    return (score > 0.5) | best, is_target


def spread(mask: Tensor, images: Tensor) -> Tensor:
    """A mask (B, K) as factors for images (B, K, *S)."""
    return mask.reshape(*mask.shape, *[1] * (images.ndim - 2)).to(images.dtype)
