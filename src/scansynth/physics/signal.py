"""MR signal equations: what a voxel of one tissue emits in three kinds of sequence.

All equations are elementwise, broadcast their arguments and are differentiable with finite gradients. Times are in
seconds by the convention of this house; any unit will do as long as all of one call share it.

Sources: M. A. Bernstein, K. F. King, X. J. Zhou, *Handbook of MRI Pulse Sequences*, Elsevier 2004 (sections 14.1,
14.2 and 14.3: gradient echo, inversion recovery, spin echo); E. M. Haacke, R. W. Brown, M. R. Thompson,
R. Venkatesan, *Magnetic Resonance Imaging: Physical Principles and Sequence Design*, Wiley 1999 (chapters 8 and 18).
"""

import torch
from torch import Tensor

MODULUS_EPSILON = 1e-4
"""Share of S0 at which |m| = sqrt(m² + ε²) − ε is rounded off near m = 0; the error is below ε everywhere."""


def spin_echo(s0: Tensor, t1: Tensor, t2: Tensor, tr: Tensor | float, te: Tensor | float) -> Tensor:
    """Spin echo: S0 (1 − exp(−TR/T1)) exp(−TE/T2).

    Holds for TE ≪ TR, where the refocusing pulse costs no longitudinal magnetisation; also used for fast spin echo
    with TE the effective echo time. It is Eq. 6 of MRDiff.

    Args:
        s0: signal at equilibrium (proton density times gain), any shape.
        t1: longitudinal relaxation time, s, > 0.
        t2: transverse relaxation time, s, > 0.
        tr: repetition time, s.
        te: echo time, s.

    Returns:
        The signal, in the unit of `s0`, of the broadcast shape.
    """
    return s0 * -torch.expm1(-tr / t1) * torch.exp(-te / t2)


def inversion_recovery(
    s0: Tensor, t1: Tensor, t2: Tensor, *, tr: Tensor | float, te: Tensor | float, ti: Tensor | float
) -> Tensor:
    """Magnitude of an inversion-recovery spin echo: S0 |1 − 2 exp(−TI/T1) + exp(−TR/T1)| exp(−TE/T2).

    The modulus has no derivative at the null point, so |m| is sqrt(m² + ε²) − ε with ε = `MODULUS_EPSILON`: zero
    at the null, never negative, and below |m| by less than ε.

    Args:
        s0: signal at equilibrium, any shape.
        t1: longitudinal relaxation time, s, > 0.
        t2: transverse relaxation time, s, > 0.
        tr: repetition time, s.
        te: echo time, s.
        ti: inversion time, s.

    Returns:
        The signal, in the unit of `s0`, of the broadcast shape.
    """
    longitudinal = 1 - 2 * torch.exp(-ti / t1) + torch.exp(-tr / t1)
    modulus = torch.sqrt(longitudinal.square() + MODULUS_EPSILON**2) - MODULUS_EPSILON
    return s0 * modulus * torch.exp(-te / t2)


def spoiled_gradient_echo(
    s0: Tensor, t1: Tensor, t2_star: Tensor, *, tr: Tensor | float, te: Tensor | float, flip_angle: Tensor | float
) -> Tensor:
    """Steady state of a spoiled gradient echo: S0 sin a (1 − E1) / (1 − cos a E1) exp(−TE/T2*), E1 = exp(−TR/T1).

    Args:
        s0: signal at equilibrium, any shape.
        t1: longitudinal relaxation time, s, > 0.
        t2_star: effective transverse relaxation time, s, > 0.
        tr: repetition time, s.
        te: echo time, s.
        flip_angle: a, radians, in (0, π).

    Returns:
        The signal, in the unit of `s0`, of the broadcast shape.
    """
    angle = torch.as_tensor(flip_angle, dtype=t1.dtype, device=t1.device)
    recovered = -torch.expm1(-tr / t1)
    # 1 − cos a E1 = (1 − E1) + (1 − cos a) E1, where nothing cancels at small angles and short TR.
    saturation = recovered + 2 * torch.sin(angle / 2).square() * torch.exp(-tr / t1)
    return s0 * torch.sin(angle) * recovered / saturation * torch.exp(-te / t2_star)
