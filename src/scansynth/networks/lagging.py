"""Weights that follow a network's as a moving average, of which a training takes its targets."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from scansynth.errors import InputError


class Lagging:
    """θ⁻ of networks with weights θ (Song et al., "Consistency Models", ICML 2023, Eq. 8).

    They are no networks of their own, so that they compute in the networks' precision; they begin as θ.

    Args:
        nets: whose parameters are followed.
    """

    def __init__(self, nets: nn.Module):
        self._nets = nets
        self.weights: dict[str, Tensor] = {}
        """By name of the parameter; empty until the first step."""
        self._step: int | None = None

    @torch.no_grad()
    def follow(self, decay: float, step: int) -> None:
        """θ⁻ ← μ θ⁻ + (1 − μ) θ, once a step, in however many parts its batch comes; the first time θ⁻ ← θ.

        Args:
            decay: μ.
            step: of the training.
        """
        if step == self._step:
            return
        self._step = step
        own = dict(self._nets.named_parameters())
        if not self.weights:
            self.weights = {name: parameter.detach().clone() for name, parameter in own.items()}
        for name, parameter in own.items():
            self.weights[name].lerp_(parameter, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the networks compute with θ⁻, without gradients; what they kept for gradients stays as it was."""
        own = dict(self._nets.named_parameters())
        kept = {name: own[name].data for name in self.weights}
        try:
            for name, weight in self.weights.items():
                own[name].data = weight
            with torch.no_grad():
                yield
        finally:
            for name, data in kept.items():
                own[name].data = data

    def remember(self, weights: Mapping[str, Tensor]) -> None:
        """Take weights back that were kept (`Method.remember`).

        Raises:
            InputError: if they are not these networks'.
        """
        shapes = {name: parameter.shape for name, parameter in self._nets.named_parameters()}
        if {name: weight.shape for name, weight in weights.items()} != shapes:
            raise InputError("the weights of the targets are not those of these networks; train the run anew")
        self.weights = {name: weight.clone() for name, weight in weights.items()}
