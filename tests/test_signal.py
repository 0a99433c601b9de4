"""Signal equations against hand-computed values, their limits and gradients; order of tissues in each contrast."""

import math

import pytest
import torch

from scansynth.errors import InputError
from scansynth.physics.acquisition import DEFAULTS, Acquisition, signal
from scansynth.physics.signal import MODULUS_EPSILON, inversion_recovery, spin_echo, spoiled_gradient_echo


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_spin_echo_by_hand():
    # TR = T1 and TE = T2: (1 - 1/e) / e of 2.
    value = spin_echo(f64(2), f64(1.0), f64(0.1), tr=1.0, te=0.1)
    assert value.item() == pytest.approx(2 * (1 - math.exp(-1)) * math.exp(-1), rel=1e-12)
    # 1 - e^-0.625 = 0.464739, e^-0.25 = 0.778801.
    assert spin_echo(f64(1), f64(0.8), f64(0.08), 0.5, 0.02).item() == pytest.approx(0.464739 * 0.778801, rel=1e-5)


def test_inversion_recovery_by_hand():
    # e^-0.5, e^-1.8 and e^-1.2: |1 - 1.21306 + 0.16530| 0.30119 = 0.01438, less the rounding of the modulus.
    value = inversion_recovery(f64(1), f64(5), f64(0.1), tr=9.0, te=0.12, ti=2.5)
    assert value.item() == pytest.approx(0.0477624 * 0.3011942, abs=MODULUS_EPSILON)


def test_spoiled_gradient_echo_by_hand():
    # 90 degrees: saturation recovery; E1 = 1/2 at 60 degrees: sin 60 (1/2) / (3/4).
    assert spoiled_gradient_echo(
        f64(1), f64(1), f64(1), tr=1.0, te=0.0, flip_angle=math.pi / 2
    ).item() == pytest.approx(1 - math.exp(-1), rel=1e-12)
    half = spoiled_gradient_echo(f64(1), f64(1), f64(1), tr=math.log(2), te=0.0, flip_angle=math.pi / 3)
    assert half.item() == pytest.approx(math.sqrt(3) / 3, rel=1e-12)


def test_gradient_echo_peaks_at_the_ernst_angle():
    t1, tr = f64(0.832), 0.00981
    angles = torch.linspace(0.01, 1.0, 5000, dtype=torch.float64)
    best = angles[spoiled_gradient_echo(f64(1), t1, f64(0.05), tr=tr, te=0.004, flip_angle=angles).argmax()]
    assert best.item() == pytest.approx(math.acos(math.exp(-tr / 0.832)), abs=5e-4)


def test_limits():
    s0, t1, t2 = f64(0.7, 1.0), f64(0.8, 4.0), f64(0.08, 2.0)
    torch.testing.assert_close(spin_echo(s0, t1, t2, tr=1e4, te=0.0), s0)
    torch.testing.assert_close(spin_echo(s0, t1, t2, tr=0.0, te=0.0), torch.zeros_like(s0))
    torch.testing.assert_close(inversion_recovery(s0, t1, t2, tr=1e4, te=0.0, ti=1e4), s0, rtol=0, atol=MODULUS_EPSILON)
    torch.testing.assert_close(inversion_recovery(s0, t1, t2, tr=1e4, te=0.0, ti=0.0), s0, rtol=0, atol=MODULUS_EPSILON)
    angle = math.radians(40)
    torch.testing.assert_close(
        spoiled_gradient_echo(s0, t1, t2, tr=1e4, te=0.0, flip_angle=angle), s0 * math.sin(angle)
    )


def test_inversion_recovery_is_null_and_smooth_at_the_null_point():
    t1, tr = 4.3, 9.0
    null = t1 * math.log(2 / (1 + math.exp(-tr / t1)))
    near = torch.tensor([null - 0.05, null, null + 0.05], dtype=torch.float64, requires_grad=True)
    values = inversion_recovery(f64(1), f64(t1), f64(2.0), tr=tr, te=0.1, ti=near)
    assert 0 <= values[1].item() < 1e-12
    assert values[0] > 1e-3
    assert values[2] > 1e-3
    (slope,) = torch.autograd.grad(values.sum(), near)
    assert slope[0] < 0 < slope[2]
    assert abs(slope[1].item()) < 1e-6


@pytest.mark.parametrize("name", DEFAULTS)
def test_gradients_are_right_and_finite(name):
    maps = [f64(*v).requires_grad_() for v in ((0.7, 0.83, 1.0), (832, 1331, 4300), (79.6, 110, 1800))]
    torch.autograd.gradcheck(lambda *m: signal(DEFAULTS[name], *m), maps, eps=1e-4, atol=1e-6)
    extreme = [torch.tensor(v, requires_grad=True) for v in ([0.0, 1.0], [1.0, 2e4], [1.0, 2e4])]
    for gradient in torch.autograd.grad(signal(DEFAULTS[name], *extreme).sum(), extreme):
        assert gradient.isfinite().all()


def test_signals_broadcast():
    assert spin_echo(torch.ones(2, 1, 4), torch.ones(3, 1), torch.ones(1), 1.0, torch.ones(5, 1, 1, 1)).shape == (
        5, 2, 3, 4,
    )  # fmt: skip


def test_signal_converts_milliseconds_and_degrees():
    s0, t1, t2 = f64(0.8), f64(1000), f64(80)
    acquisition = Acquisition("spoiled_gradient_echo", tr=10, te=5, flip_angle=30)
    expected = spoiled_gradient_echo(s0, f64(1.0), f64(0.08), tr=0.01, te=0.005, flip_angle=math.pi / 6)
    torch.testing.assert_close(signal(acquisition, s0, t1, t2), expected)


def test_contrasts_look_as_clinicians_expect():
    pd, t1, t2 = f64(0.70, 0.83, 1.0), f64(832, 1331, 4300), f64(79.6, 110, 1800)
    values = {name: signal(acquisition, pd, t1, t2).tolist() for name, acquisition in DEFAULTS.items()}
    white, grey, fluid = values["T1w"]
    assert white > 1.15 * grey > 2 * fluid
    white, grey, fluid = values["T2w"]
    assert fluid > 2 * grey > 2.4 * white
    white, grey, fluid = values["FLAIR"]
    assert grey > 1.2 * white > 5 * fluid
    white, grey, _ = values["PDw"]
    assert grey > 1.1 * white


def test_acquisitions_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="TR"):
        Acquisition("spin_echo", tr=0, te=10)
    with pytest.raises(InputError, match="TI"):
        Acquisition("inversion_recovery", tr=9000, te=120)
    with pytest.raises(InputError, match="flip angle"):
        Acquisition("spin_echo", tr=500, te=10, flip_angle=90)
