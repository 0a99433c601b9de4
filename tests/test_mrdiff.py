"""MRDiff by mathematics: the physics between encoder and decoder, the losses, the arms, and the sampler."""

import json
import math
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from scansynth.cli import main
from scansynth.diffusion.windows import SliceWindows
from scansynth.errors import InputError
from scansynth.method import Progress
from scansynth.methods.mrdiff import MrDiff, MrDiffConfig
from scansynth.noise import Noise
from scansynth.physics.signal import inversion_recovery, spin_echo, spoiled_gradient_echo
from scansynth.physics.wavelet import dwt, iwt
from scansynth.recipes import find_recipe
from scansynth.training.train import train

K = ("T1w", "T2w", "FLAIR")
PARAMETERS = torch.tensor([[[450, 9.8, 0, 15], [3760, 100, 0, 90], [9000, 120, 2500, 90]]]).repeat(2, 1, 1)
ALL = torch.ones(2, 3, dtype=torch.bool)


def method(**settings):
    torch.manual_seed(0)
    return MrDiff(replace(MrDiffConfig.tiny(), **settings), K)


def batch():
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    available = torch.tensor([[True, True, True], [True, False, True]])
    return {
        "images": images * available[..., None, None],
        "available": available,
        "acquisition": PARAMETERS * available[..., None],
    }


def losses_of(one, data=None):
    found = {}
    noise = Noise([(0, 0, 0), (0, 0, 1)])
    one.training_step(data or batch(), lambda player, losses: found.update(losses), Progress(0, 10, 0.0), noise)
    return found


def maps():
    generator = torch.Generator().manual_seed(0)
    t1, t2, s0 = (torch.rand(2, 4, 8, 8, generator=generator) + 0.05 for _ in range(3))
    return t1, t2 / 10, s0


def over_tissue(equation, s0, t1, t2, **parameters):
    """A signal over that of T1 1 s, T2 0.1 s and S0 1."""
    one = torch.tensor(1.0)
    return equation(s0, t1, t2, **parameters) / equation(one, one, one / 10, **parameters)


def test_each_contrast_follows_its_equation_in_seconds():
    t1, t2, s0 = maps()
    plain = method().signals((t1, t2, s0), PARAMETERS, ALL).unflatten(0, (2, 3))
    assert plain.shape == (2, 3, 4, 8, 8)
    torch.testing.assert_close(plain[:, 0], over_tissue(spin_echo, s0, t1, t2, tr=0.45, te=0.0098))
    torch.testing.assert_close(plain[:, 1], over_tissue(spin_echo, s0, t1, t2, tr=3.76, te=0.1))
    torch.testing.assert_close(plain[:, 2], over_tissue(spin_echo, s0, t1, t2, tr=9.0, te=0.12))
    own = (("T1w", "spoiled_gradient_echo"), ("FLAIR", "inversion_recovery"))
    named = method(equations=own).signals((t1, t2, s0), PARAMETERS, ALL).unflatten(0, (2, 3))
    flash = over_tissue(spoiled_gradient_echo, s0, t1, t2, tr=0.45, te=0.0098, flip_angle=math.radians(15))
    torch.testing.assert_close(named[:, 0], flash)
    torch.testing.assert_close(named[:, 1], plain[:, 1])
    torch.testing.assert_close(named[:, 2], over_tissue(inversion_recovery, s0, t1, t2, tr=9.0, te=0.12, ti=2.5))


def test_only_sources_have_signals_in_their_order():
    t1, t2, s0 = maps()
    given = torch.tensor([[True, False, True], [False, True, False]])
    one = method(equations=(("FLAIR", "inversion_recovery"),))
    whole = one.signals((t1, t2, s0), PARAMETERS, ALL).unflatten(0, (2, 3))
    # What is not available has no parameters, and is not asked for.
    known = PARAMETERS * given[..., None]
    torch.testing.assert_close(one.signals((t1, t2, s0), known, given), whole[given])


def test_maps_start_as_those_of_tissue_and_stay_above_zero():
    net = method().nets["I"]
    t1, t2, s0 = net(torch.zeros(1, 16, 8, 8))
    for found, start in ((t1, 1.0), (t2, 0.1), (s0, 1.0)):
        torch.testing.assert_close(found, torch.full_like(found, start))
    t1, t2, s0 = net(1e4 * torch.randn(1, 16, 8, 8))
    assert t1.min() >= 0.05
    assert t2.min() >= 0.005
    assert s0.min() >= 0


def test_different_repetition_times_tell_samples_apart():
    """TR and TE are those of each sample, not of the batch."""
    t1, t2, s0 = (one[:1].repeat(2, 1, 1, 1) for one in maps())
    two = PARAMETERS.clone()
    two[1, 0, 0] = 900
    signals = method().signals((t1, t2, s0), two, ALL).unflatten(0, (2, 3))
    torch.testing.assert_close(signals[1, 0], over_tissue(spin_echo, s0, t1, t2, tr=0.9, te=0.0098)[1])
    assert not torch.allclose(signals[0, 0], signals[1, 0])


def test_the_decoder_sees_nothing_but_the_signals_of_the_sources():
    one = method()
    seen = {}
    one.nets["D"].register_forward_pre_hook(lambda _, inputs: seen.update(features=inputs[0]))
    losses_of(one)
    assert seen["features"].shape == (3 * 2, 3 * 16, 8, 8)
    # A contrast that is no source leaves zeros: the target, and what is not available.
    silent = seen["features"].unflatten(1, (3, 16)).abs().sum((2, 3, 4)) == 0
    assert silent.any(1).all()
    # Without the physics in between the decoder reads the features themselves.
    plain = method(decoder="plain")
    plain.nets["D"].register_forward_pre_hook(lambda _, inputs: seen.update(plain=inputs[0]))
    losses_of(plain)
    assert seen["plain"].shape == (3 * 2, 16, 8, 8)
    assert "I" not in plain.nets
    assert plain.needs.sequences is None


def test_arms_of_the_ablation():
    for name, parts in (
        ("generator_only", {"generator"}),
        ("plain_decoder", {"generator", "decoder"}),
        ("no_consistency", {"generator", "decoder"}),
    ):
        settings = find_recipe(f"mrdiff_small_{name}").settings
        arm = {field: getattr(settings, field) for field in ("decoder", "consistency_weight")}
        found = losses_of(method(**arm))
        assert set(found) == parts, name
    found = losses_of(method())
    assert set(found) == {"generator", "decoder", "consistency"}
    assert all(torch.isfinite(value) for value in found.values())


class Bands(nn.Module):
    """An encoder whose features are the sub-bands of x_t."""

    def forward(self, x, t):
        return x[:, :4]


def test_consistency_is_the_variance_of_the_noisy_versions():
    """e_t = DWT(x_t): E‖e − ē‖² is (1 − ᾱ_t)(1 − 1/N) for each value, since the Haar transform is orthonormal."""
    for copies in (1, 2, 3):
        one = method(features=1, copies=copies, consistency_weight=1.0, decoder="none")
        one.nets["E"] = Bands()
        data = {"images": torch.zeros(2, 3, 256, 256), "available": torch.ones(2, 3, dtype=torch.bool)}
        found = losses_of(one, data)
        t = Noise([(0, 0, 0), (0, 0, 1)]).integers("t", 1, 41)
        expected = ((1 - one.schedule.lookup(t)) * (1 - 1 / copies)).mean().item()
        assert found["consistency"].item() == pytest.approx(expected, rel=0.02, abs=1e-9)


class Knows(nn.Module):
    """A generator that knows the target: what the sources say, read from the encoder's features."""

    def forward(self, e):
        return iwt(0.5 * e)


class Sources(nn.Module):
    """An encoder that hands on the sub-bands of the first contrast."""

    def forward(self, x, t):
        return x[:, 4:8]


def test_an_exact_network_is_sampled_exactly():
    one = method(features=1, decoder="none").double().eval()
    one.nets["E"], one.nets["G"] = Sources(), Knows()
    images = torch.rand(1, 3, 16, 16, 5, dtype=torch.float64) * 2 - 1
    data = {"images": images, "available": torch.tensor([[True, True, False]])}
    with torch.no_grad():
        made = one.translate(data, "FLAIR", SliceWindows(2), Noise([(0, "subject", 0)])).image
    torch.testing.assert_close(made, 0.5 * images[:, :1], atol=1e-12, rtol=0)


def test_encoder_reads_sub_bands_and_planes():
    seen = {}
    one = method()
    one.nets["E"].register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    data = batch()
    losses_of(one, data)
    assert seen["x"].shape == (6, 4 * 4 + 6, 8, 8)
    given = seen["x"][:2, 16:19, 0, 0].bool()
    asked = seen["x"][:2, 19:, 0, 0].bool()
    assert not (given & asked).any()
    assert (asked.sum(1) == 1).all()
    y = data["images"] * given[..., None, None]
    torch.testing.assert_close(seen["x"][:2, 4:16], dwt(y))


def test_unfit_settings_are_refused():
    with pytest.raises(InputError, match="leave CT out"):
        MrDiff(MrDiffConfig.tiny(), ("T1w", "CT"))
    with pytest.raises(InputError, match="equations name 'PDw'"):
        method(equations=(("PDw", "spin_echo"),))
    with pytest.raises(InputError, match="target 'PDw'"):
        method(targets=("PDw",))
    with pytest.raises(InputError, match="copies 0"):
        method(copies=0)
    with pytest.raises(InputError, match="name a contrast twice"):
        method(equations=(("T1w", "spin_echo"), ("T1w", "inversion_recovery")))


@pytest.fixture(scope="module")
def trained(cohort, tiny, tmp_path_factory):
    """Run folders: MRDiff, and its arm without physics."""
    folder = tmp_path_factory.mktemp("runs")
    train(tiny("mrdiff", steps=2), cohort, folder / "physics", device=torch.device("cpu"))
    plain = replace(MrDiffConfig.tiny(), decoder="plain")
    train(tiny("mrdiff", plain, steps=2), cohort, folder / "plain", device=torch.device("cpu"))
    return folder


def test_maps_are_written_on_request_and_say_what_they_are(trained, phantoms, tmp_path, capfd):
    scan = phantoms.subjects[-1].scans["T1w"]
    command = ["translate", "--run", str(trained / "physics"), "--t1w", str(scan), "--target", "T2w", "--device", "cpu"]
    assert main([*command, "-o", str(tmp_path / "without.nii.gz")]) == 0
    assert len(list(tmp_path.iterdir())) == 2
    assert main([*command, "-o", str(tmp_path / "t2.nii.gz"), "--maps", "--samples", "2"]) == 0
    source = nib.load(scan)
    for name, unit in (("T1", "s"), ("T2", "s"), ("S0", "arbitrary")):
        image = nib.load(tmp_path / f"t2_{name}map.nii.gz")
        np.testing.assert_allclose(image.affine, source.affine)
        assert image.shape == source.shape
        values = image.get_fdata()
        assert values.max() > 0
        assert "HYPOTHETICAL" in bytes(image.header["descrip"]).decode()
        content = json.loads((tmp_path / f"t2_{name}map.json").read_text())
        assert content["synthetic"]
        assert content["hypothetical"]
        assert content["unit"] == unit
    assert main([*command, "-o", str(tmp_path / "again.nii.gz"), "--maps"]) == 0
    first = nib.load(tmp_path / "t2_T1map.nii.gz").get_fdata()
    np.testing.assert_array_equal(nib.load(tmp_path / "again_T1map.nii.gz").get_fdata(), first)
    command[2] = str(trained / "plain")
    assert main([*command, "-o", str(tmp_path / "none.nii.gz"), "--maps"]) == 1
    assert "has no maps" in capfd.readouterr().err


def test_a_folder_gets_maps_too_and_is_not_mixed(trained, phantoms, tmp_path, capfd):
    command = [
        "translate",
        "--run",
        str(trained / "physics"),
        "-i",
        str(phantoms.root / "table.csv"),
        "-o",
        str(tmp_path),
    ]
    command += ["-o", str(tmp_path), "--target", "T2w", "--device", "cpu"]
    assert main([*command, "--maps"]) == 0
    count = len(phantoms.subjects)
    assert len(list(tmp_path.rglob("*_T1map.nii.gz"))) == count
    assert main(command) == 1
    assert "with other --maps" in capfd.readouterr().err
