"""How a contrast is acquired: sequence and parameters, usual values of them, and the signal that follows."""

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from scansynth.errors import InputError
from scansynth.physics.signal import inversion_recovery, spin_echo, spoiled_gradient_echo

SequenceName = Literal["spin_echo", "inversion_recovery", "spoiled_gradient_echo"]


@dataclass(frozen=True)
class Acquisition:
    """Parameters of one MR acquisition. Times are in MILLISECONDS, the angle in DEGREES."""

    sequence: SequenceName
    """Which signal equation holds."""
    tr: float
    """Repetition time, ms."""
    te: float
    """(Effective) echo time, ms."""
    ti: float | None = None
    """Inversion time, ms; inversion recovery only."""
    flip_angle: float | None = None
    """Flip angle, degrees; spoiled gradient echo only."""

    def __post_init__(self) -> None:
        if not (self.tr > 0 and self.te >= 0):
            raise InputError(f"acquisition with TR {self.tr} ms and TE {self.te} ms: TR must be > 0 and TE >= 0")
        if (self.sequence == "inversion_recovery") != (self.ti is not None):
            raise InputError(f"{self.sequence}: give TI with an inversion recovery, and with nothing else")
        if (self.sequence == "spoiled_gradient_echo") != (self.flip_angle is not None):
            raise InputError(f"{self.sequence}: give a flip angle with a spoiled gradient echo, and with nothing else")


# T1w: TR and TE of the IXI T1 scans as SynDiff lists them (section on data sets). It gives no flip angle; 25 degrees
# is ours, well above the Ernst angle of white matter at that TR (9 degrees), where the contrast is T1's and not PD's.
_T1 = Acquisition("spoiled_gradient_echo", tr=9.81, te=4.6, flip_angle=25.0)

DEFAULTS: dict[str, Acquisition] = {
    "T1w": _T1,
    # IXI T2 and PD, as SynDiff lists them: the two echoes of one long-TR train.
    "T2w": Acquisition("spin_echo", tr=8178.34, te=100.0),
    "PDw": Acquisition("spin_echo", tr=8178.34, te=8.0),
    # Usual long-TR FLAIR at 3 T (Bernstein, King & Zhou 2004, section 14.2): TI nulls T1 = 4.36 s, about that of CSF.
    "FLAIR": Acquisition("inversion_recovery", tr=9000.0, te=120.0, ti=2500.0),
    # The same scan after the contrast agent: T1 changes, the acquisition does not.
    "T1ce": _T1,
}
"""Usual acquisition of each standard MR contrast. The order of brightness is the one clinicians expect (see tests)."""


@dataclass(frozen=True)
class Usual:
    """An acquisition that may stand for one that is not known."""

    acquisition: Acquisition
    source: str
    """Where it is from."""


_IXI = "the IXI scans, as SynDiff's paper lists them"
_ADNI = "middle of the range that MRDiff's paper gives for ADNI (section 3.1)"
_SPINE = "the spine scans of MRDiff's paper (section 3.1)"

USUAL: dict[str, dict[str, Usual]] = {
    "common": {
        "T1w": Usual(DEFAULTS["T1w"], _IXI),
        "T2w": Usual(DEFAULTS["T2w"], _IXI),
        "PDw": Usual(DEFAULTS["PDw"], _IXI),
        "FLAIR": Usual(DEFAULTS["FLAIR"], "a usual FLAIR at 3 T (Bernstein, King & Zhou 2004, section 14.2)"),
        "T1ce": Usual(DEFAULTS["T1ce"], f"T1w of {_IXI}"),
    },
    "adni": {
        # The TR of its MP-RAGE is the echo spacing; the paper puts it into the spin-echo equation.
        "T1w": Usual(Acquisition("spin_echo", tr=8.504, te=3.638), _ADNI),
        "T2w": Usual(Acquisition("spin_echo", tr=4175.0, te=98.53), _ADNI),
        "PDw": Usual(Acquisition("spin_echo", tr=4175.0, te=10.398), _ADNI),
    },
    "spine": {
        "T1w": Usual(Acquisition("spin_echo", tr=450.0, te=9.8), _SPINE),
        "T2w": Usual(Acquisition("spin_echo", tr=3760.0, te=100.0), _SPINE),
        "T2wFS": Usual(Acquisition("spin_echo", tr=4580.0, te=113.0), _SPINE),
    },
}
"""Tables of usual acquisitions by contrast."""


def signal(acquisition: Acquisition, s0: Tensor, t1: Tensor, t2: Tensor) -> Tensor:
    """Signal of an acquisition, by the equation of its sequence.

    The one place where the milliseconds and degrees of acquisitions and tissue maps meet the equations' seconds and
    radians.

    Args:
        acquisition: sequence and parameters.
        s0: signal at equilibrium, any shape.
        t1: longitudinal relaxation time, MILLISECONDS, > 0.
        t2: transverse relaxation time, MILLISECONDS, > 0. It stands for T2* too, since at the few ms of TE of a
            spoiled gradient echo the difference is small.

    Returns:
        The signal, in the unit of `s0`, of the broadcast shape.
    """
    t1, t2 = t1 / 1000, t2 / 1000
    tr, te = acquisition.tr / 1000, acquisition.te / 1000
    if acquisition.sequence == "spin_echo":
        return spin_echo(s0, t1, t2, tr, te)
    if acquisition.sequence == "inversion_recovery":
        assert acquisition.ti is not None
        return inversion_recovery(s0, t1, t2, tr=tr, te=te, ti=acquisition.ti / 1000)
    assert acquisition.flip_angle is not None
    return spoiled_gradient_echo(s0, t1, t2, tr=tr, te=te, flip_angle=math.radians(acquisition.flip_angle))
