"""Signals of a batch's scans, each by its equation and its acquisition parameters (MRDiff, Eq. 6).

Here the milliseconds and degrees of batches meet the equations' seconds and radians.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from scansynth.errors import InputError
from scansynth.physics.acquisition import SequenceName
from scansynth.physics.signal import inversion_recovery, spin_echo, spoiled_gradient_echo

T1_TYPICAL, T2_TYPICAL = 1.0, 0.1
"""Seconds of brain tissue."""
LEAST_SIGNAL = 1e-4
"""Of typical tissue, that signals are divided by: an inversion recovery may null it."""


def equations_of(named: Sequence[tuple[str, SequenceName]], contrasts: Sequence[str]) -> dict[str, SequenceName]:
    """The signal equation of each contrast: the one that is named for it, or the spin echo's."""
    own = dict(named)
    return {name: own.get(name, "spin_echo") for name in contrasts}


def check_once(named: Sequence[tuple[str, SequenceName]]) -> None:
    """Raise InputError if equations are named for a contrast twice."""
    names = [contrast for contrast, _ in named]
    if len(set(names)) < len(names):
        raise InputError(f"equations name a contrast twice: {', '.join(names)}")


def relative_signals(
    maps: tuple[Tensor, Tensor, Tensor], acquisition: Tensor, given: Tensor, equations: Mapping[str, SequenceName]
) -> Tensor:
    """Signals of the scans that are given, over that of typical tissue in the same acquisition.

    Images are scaled one by one, and the TR of an MP-RAGE alone makes the spin-echo signal a hundred times smaller.

    Args:
        maps: T1 and T2 in seconds, and S0, (B, c, H, W) each.
        acquisition: TR, TE, TI in ms and flip angle in degrees, (B, K, 4).
        given: which contrasts are, (B, K) bool.
        equations: of the K contrasts, in the order of the channels.

    Returns:
        Of the P scans in the order of `given.nonzero()`, (P, c, H, W), over the signal of tissue of T1 1 s, T2 0.1 s
        and S0 1.
    """
    found, order = [], []
    for k, equation in enumerate(equations.values()):
        rows = given[:, k].nonzero()[:, 0]
        t1, t2, s0 = (one[rows] for one in maps)
        one = torch.ones_like(t1[:, :1, :1, :1])
        typical = signal_by(equation, T1_TYPICAL * one, T2_TYPICAL * one, one, acquisition[rows, k])
        found.append(signal_by(equation, t1, t2, s0, acquisition[rows, k]) / typical.clamp_min(LEAST_SIGNAL))
        order.append(rows * len(equations) + k)
    return torch.cat(found)[torch.cat(order).argsort()]


def signal_by(equation: SequenceName, t1: Tensor, t2: Tensor, s0: Tensor, parameters: Tensor) -> Tensor:
    """The signal of an equation.

    Args:
        equation: which.
        t1: seconds, (B, C, *S).
        t2: seconds, of the same shape.
        s0: of the same shape.
        parameters: TR, TE, TI in ms and flip angle in degrees, (B, 4).

    Returns:
        (B, C, *S).
    """
    tr, te, ti, angle = (value[:, None, None, None] for value in parameters.unbind(1))
    tr, te = tr / 1000, te / 1000
    if equation == "spin_echo":
        return spin_echo(s0, t1, t2, tr, te)
    if equation == "inversion_recovery":
        return inversion_recovery(s0, t1, t2, tr=tr, te=te, ti=ti / 1000)
    return spoiled_gradient_echo(s0, t1, t2, tr=tr, te=te, flip_angle=angle * math.pi / 180)
