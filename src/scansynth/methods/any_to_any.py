"""Which contrasts are given and which one is asked for, in methods that take any subset of them, or all but one."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from scansynth.errors import InputError
from scansynth.method import Batch, Method
from scansynth.noise import Noise


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


def draw_missing(
    available: Tensor, targets: Sequence[str], contrasts: Sequence[str], most: int, noise: Noise
) -> Tensor:
    """Which of the available contrasts are to be made: all sets allowed are alike likely, one contrast stays given.

    Args:
        available: (B, K) bool, at least two true a row.
        targets: contrasts of which a set lacks one at least, where the subject has any of them.
        contrasts: names of the K contrasts.
        most: how many may be missing.
        noise: random numbers.

    Returns:
        (B, K) bool, within `available`.
    """
    either = torch.tensor([False, True], device=available.device)
    sets = torch.cartesian_prod(*[either] * len(contrasts))  # (2^K, K)
    size = sets.sum(1)
    largest = (available.sum(1, keepdim=True) - 1).clamp(max=most)
    allowed = ~(sets & ~available[:, None]).any(2) & (size > 0) & (size <= largest)  # (B, 2^K)
    is_target = torch.tensor([contrast in targets for contrast in contrasts], device=available.device)
    score = noise.uniform("missing", size.shape) + (sets & is_target).any(1)
    return sets[score.masked_fill(~allowed, -1.0).argmax(1)]


def channel_mean(values: Tensor, of: Tensor, among: Tensor) -> Tensor:
    """Sum over some channels' means, over the number of channels in question, averaged over the batch.

    Each sample counts alike, however many contrasts it has; what other channels hold has no part in it.

    Args:
        values: (B, K, *S).
        of: channels that are summed over, (B, K) bool.
        among: channels that are counted, (B, K) bool, at least one a row.
    """
    means = values.flatten(2).mean(2).masked_fill(~of, 0.0)
    return (means.sum(1) / among.sum(1)).mean()


def as_factors(mask: Tensor, images: Tensor) -> Tensor:
    """A mask (B, K) as factors for images (B, K, *S)."""
    return mask.reshape(*mask.shape, *[1] * (images.ndim - 2)).to(images.dtype)


def with_neighbours(images: Tensor, neighbours: Tensor | None, is_source: Tensor) -> Tensor:
    """Sources, and the slices beside them as further channels (2.5D); what is no source shows nothing, nor beside it.

    Args:
        images: slices, a volume of them, or their latents, (B, K, *S).
        neighbours: the batch's, (B, K, 2n, *S), where the method asks for them (`Slices.neighbours`); None: without.
        is_source: (B, K) bool.

    Returns:
        (B, K (1 + 2n), *S): the sources first, then each one's neighbours; 0 where not given.
    """
    y = images * as_factors(is_source, images)
    if neighbours is None:
        return y
    return torch.cat([y, (neighbours * as_factors(is_source, neighbours)).flatten(1, 2)], dim=1)


def sources_of(batch: Batch, is_source: Tensor) -> Tensor:
    """What is given, and the slices beside it (`with_neighbours`); in training with the intensities it may have.

    Args:
        batch: `images` (B, K, *S), or `sources` (`Needs.sources`) in their place, and `neighbours` if there are some.
        is_source: (B, K) bool.
    """
    return with_neighbours(batch.get("sources", batch["images"]), batch.get("neighbours"), is_source)


class AnyToAny(Method):
    """A method that makes any configured target from any subset of a run's other contrasts.

    Its settings have `targets`: the contrasts to make, or nothing for every one.

    Args:
        config: the method's settings.
        contrasts: of a batch.

    Raises:
        InputError: if there are fewer than two contrasts, a target is not among them, or a generator has several.
    """

    name: str
    """In the table of methods."""

    def __init__(self, config: Any, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        generates = self.needs.generates
        if generates and len(self.contrasts) != 1:
            raise InputError(
                f"{self.name} without sources generates one contrast, got {', '.join(self.contrasts) or 'none'}: name "
                "one with --contrasts, or choose a recipe that translates"
            )
        if not generates and len(self.contrasts) < 2:
            raise InputError(f"{self.name} needs at least two contrasts, got {', '.join(self.contrasts) or 'none'}")
        if unknown := [target for target in config.targets if target not in self.contrasts]:
            raise InputError(f"{self.name}: target {unknown[0]!r} is not among {', '.join(self.contrasts)}")

    @property
    def targets(self) -> tuple[str, ...]:
        """The configured targets, or every contrast."""
        return self.config.targets or self.contrasts

    @property
    def players(self) -> Mapping[str, tuple[str, ...]]:
        """One player."""
        return {"G": tuple(self.nets)}

    def task(self, available: Tensor, target: str) -> tuple[Tensor, Tensor]:
        """What a subject's synthesis starts from: is_source and is_target, (1, K) bool.

        Args:
            available: (1, K) bool.
            target: name of the contrast to make.

        Raises:
            InputError: if there is no source.
        """
        index = self.contrasts.index(target)
        is_source = available.clone()
        is_source[:, index] = False
        if not is_source.any():
            raise InputError(f"{self.name}: no source is given for {target}; give at least one other contrast")
        is_target = torch.zeros_like(available)
        is_target[:, index] = True
        return is_source, is_target


def all_but_target(targets: Sequence[str], contrasts: Sequence[str]) -> tuple[str, ...]:
    """The sources of a method that makes one contrast of all others: the target is named, or the last."""
    return tuple(name for name in contrasts if name not in (targets or contrasts[-1:]))


class AllToOne(AnyToAny):
    """A method that makes one target from all other contrasts of a run, never from fewer: its sources are fixed.

    Its settings' `targets` name one contrast; of two contrasts the second is made where they name none.

    Raises:
        InputError: for several targets, or none of more than two contrasts.
    """

    def __init__(self, config: Any, contrasts: Sequence[str]):
        super().__init__(config, contrasts)
        if len(config.targets) > 1 or (not config.targets and len(self.contrasts) > 2):
            raise InputError(
                f"{self.name} makes one contrast from all others, {', '.join(config.targets) or 'none'} is named as "
                f"target: name one of {', '.join(self.contrasts)} (--settings.targets)"
            )
        self.target = self.contrasts.index(config.targets[0]) if config.targets else len(self.contrasts) - 1
        """Place of the target among the contrasts."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The one that is made."""
        return (self.contrasts[self.target],)

    @property
    def sources(self) -> tuple[str, ...]:
        """The M others, in the order of the channels."""
        return all_but_target(self.config.targets, self.contrasts)

    def split(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Sources and target of a training batch, of which no sample lacks a contrast (`Needs.complete`).

        Returns:
            y, (B, M, *S), with the intensities that they may have, and x, (B, 1, *S).
        """
        assert batch["available"].all(), f"{self.name} trains on samples of all contrasts"
        return self.without_target(sources_of(batch, batch["available"])), batch["images"].narrow(1, self.target, 1)

    def without_target(self, channels: Tensor) -> Tensor:
        """(B, K, …) → those of the sources, (B, M, …)."""
        return torch.cat([channels[:, : self.target], channels[:, self.target + 1 :]], dim=1)

    def given(self, batch: Batch, target: str) -> Tensor:
        """The sources of a subject's synthesis, (1, M, X, Y, Z).

        Raises:
            InputError: if one is not given.
        """
        if lacking := [name for name in self.sources if not batch["available"][0, self.contrasts.index(name)]]:
            raise InputError(
                f"{self.name} makes {target} from {', '.join(self.sources)}, and {', '.join(lacking)} is not given; a "
                "method that takes any sources is regression"
            )
        return self.without_target(batch["images"])


def task_planes(is_source: Tensor, is_target: Tensor, images: Tensor) -> Tensor:
    """Which contrasts are given and which one is asked for, as constant images (B, 2K, 1, …) of 0 and 1."""
    return torch.cat([as_factors(is_source, images), as_factors(is_target, images)], dim=1)
