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
from scansynth.methods.mrdiff import MrDiff, MrDiffConfig, least_squares_gains
from scansynth.networks.mrdiff import FromBands
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


SPIN_ECHOES = torch.tensor([[[500.0, 15, 0, 90], [3000, 90, 0, 90], [3000, 15, 0, 90]]])
"""T1-, T2- and proton-density-weighted, of one sample."""
TISSUE = 2 * math.pi * torch.arange(64, dtype=torch.float64).reshape(1, 1, 8, 8) / 64


def true_maps():
    """T1, T2 and S0 of 64 voxels, with geometric means of T1 1 s and T2 0.1 s, which gains leave to convention."""
    return TISSUE.sin().mul(0.5).exp(), TISSUE.cos().mul(0.4).exp() / 10, 1 + 0.3 * (3 * TISSUE).sin()


class Free(nn.Module):
    """Maps that are parameters themselves, in place of those of features; they start as those of typical tissue."""

    def __init__(self):
        super().__init__()
        self.logs = nn.Parameter(torch.zeros(3, 1, 1, 8, 8, dtype=torch.float64))

    def forward(self, e):
        t1, t2, s0 = self.logs.exp()
        return t1, t2 / 10, s0


def phantom(one, gains=(0.4, 0.25, 0.3)):
    """Images of the true maps, each scan with a gain of its own, in [−1, 1]."""
    signals = one.signals(true_maps(), SPIN_ECHOES.double(), torch.ones(1, 3, dtype=torch.bool))
    brightness = signals[:, 0][None] * torch.tensor(gains, dtype=torch.float64).reshape(1, 3, 1, 1)
    assert brightness.max() < 2
    return brightness - 1


def fitted(available):
    """Maps that explain the available contrasts, found by the method's own loss, and the loss that is left."""
    one = method(rebuilds="all").double()
    free = one.nets["I"] = Free()
    images, acquisition = phantom(one), SPIN_ECHOES.double()
    found = {}
    optimizer = torch.optim.LBFGS(
        free.parameters(), lr=1, max_iter=4000, max_eval=8000, history_size=50, tolerance_grad=1e-14,
        tolerance_change=1e-18, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure():
        optimizer.zero_grad()
        found.update(one.explained(images, images, acquisition, torch.tensor([available])))
        total = found["decoder"] + found["level"]
        total.backward()
        return total

    optimizer.step(closure)
    with torch.no_grad():
        return free(None), found


def jacobian_of_a_voxel(available):
    """Of its brightnesses in (log T1, log T2, log S0), each scan's gain known."""
    one, logs = method(rebuilds="all").double(), torch.zeros(3, dtype=torch.float64)

    def brightness(logs):
        maps = [value.exp().reshape(1, 1, 1, 1) for value in logs]
        return one.signals((maps[0], maps[1] / 10, maps[2]), SPIN_ECHOES.double(), torch.tensor([available])).flatten()

    return torch.autograd.functional.jacobian(brightness, logs)


def test_three_contrasts_determine_three_maps_and_two_do_not():
    assert torch.linalg.matrix_rank(jacobian_of_a_voxel([True, True, True]), rtol=1e-3) == 3
    assert torch.linalg.matrix_rank(jacobian_of_a_voxel([True, True, False]), rtol=1e-3) == 2


def test_with_gains_of_their_own_all_that_is_open_is_the_level_of_t1_and_t2_and_the_scale_of_s0():
    """Of 3·64 numbers three are open; the level closes two, and the scale of S0 means nothing."""
    one = method(rebuilds="all").double()
    images, shown = phantom(one), torch.ones(3, 1, 8, 8, dtype=torch.float64)
    scans = (images + 1)[0, :, None]

    def rebuilt(logs):
        t1, t2, s0 = logs.exp()
        signals = one.signals((t1, t2, s0), SPIN_ECHOES.double(), torch.ones(1, 3, dtype=torch.bool))
        return (least_squares_gains(signals, scans, shown) * signals).flatten()

    at = torch.stack([value.log() for value in true_maps()])
    jacobian = torch.autograd.functional.jacobian(rebuilt, at).flatten(1)
    levels = torch.zeros(2, 3, 64, dtype=torch.float64)
    levels[0, 0], levels[1, 1] = 1 / 64, 1 / 64
    assert torch.linalg.matrix_rank(jacobian, rtol=1e-9) == 3 * 64 - 3
    assert torch.linalg.matrix_rank(torch.cat([jacobian, levels.flatten(1)]), rtol=1e-9) == 3 * 64 - 1


def test_fitting_three_contrasts_recovers_the_maps_and_two_contrasts_do_not():
    (t1, t2, s0), left = fitted([True, True, True])
    true_t1, true_t2, true_s0 = true_maps()
    assert left["decoder"] < 1e-12
    torch.testing.assert_close(t1, true_t1, rtol=1e-3, atol=0)
    torch.testing.assert_close(t2, true_t2, rtol=1e-3, atol=0)
    torch.testing.assert_close(s0 / s0.mean(), true_s0 / true_s0.mean(), rtol=1e-3, atol=0)
    (t1, t2, s0), left = fitted([True, True, False])
    assert left["decoder"] < 1e-9  # explained as well, by maps that are not those
    assert (t1 / true_t1).log().abs().max() > 0.1
    assert (t2 / true_t2).log().abs().max() > 0.1


def test_gains_are_those_of_least_squares_over_what_is_shown():
    generator = torch.Generator().manual_seed(0)
    signals, scans = (torch.rand(3, 1, 6, 5, dtype=torch.float64, generator=generator) for _ in range(2))
    shown = (torch.rand(3, 1, 6, 5, generator=generator) > 0.4).double()
    shown[2] = 0
    gains = least_squares_gains(signals, scans, shown)
    for number in range(2):
        where = shown[number].bool()
        wanted = torch.linalg.lstsq(signals[number][where][:, None], scans[number][where][:, None]).solution
        assert gains[number].item() == pytest.approx(wanted.item())
    assert gains[2] == 0


def test_all_contrasts_are_rebuilt_from_one_map_each_and_nothing_else():
    one = method(rebuilds="all")
    assert one.nets.keys() == {"E", "G", "I"}  # no convolution behind the physics
    assert [found.shape for found in one.nets["I"](torch.zeros(2, 16, 8, 8))] == 3 * [(2, 1, 16, 16)]
    found = losses_of(one)
    assert set(found) == {"generator", "decoder", "level", "consistency"}
    assert all(torch.isfinite(value) for value in found.values())
    sum(found.values()).backward()
    assert all(value.grad is not None and value.grad.any() for value in one.nets["I"].parameters())


@pytest.mark.parametrize(("rebuilds", "counts"), [("all", True), ("sources", False)])
def test_the_targets_acquisition_counts_where_it_is_rebuilt(rebuilds, counts):
    one, data = method(rebuilds=rebuilds, targets=("FLAIR",)), batch()
    other = {**data, "acquisition": data["acquisition"].clone()}
    other["acquisition"][:, 2, :2] = torch.tensor([2000.0, 30.0])
    assert (losses_of(one, data)["decoder"] != losses_of(one, other)["decoder"]) == counts


def test_translation_reads_nothing_of_a_target_that_is_rebuilt_in_training():
    one = method(rebuilds="all").eval()
    images = torch.rand(1, 3, 16, 16, 2) * 2 - 1
    other = images.clone()
    other[:, 2] = torch.rand(16, 16, 2)
    made = []
    for shown in (images, other):
        data = {"images": shown, "available": torch.ones(1, 3, dtype=torch.bool)}
        with torch.no_grad():
            found = one.translate(data, "FLAIR", SliceWindows(2), Noise([(0, "subject", 0)]))
            assert found.maps is not None
            made.append([found.image, *found.maps(SliceWindows(2)).values()])
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))


def test_the_grid_is_smoothed_by_what_starts_as_nothing_and_learns():
    torch.manual_seed(0)
    net = FromBands(16, 8, 1, smooth_grid=True)
    features = torch.randn(2, 16, 6, 6)
    made = net(features)
    bands = net.last(nn.functional.silu(net.first(features)))[:, :4]
    assert torch.equal(made, iwt(bands))
    made.square().mean().backward()
    assert net.across.weight.grad.abs().min() > 0
    with torch.no_grad():
        net.across.weight.normal_()
    square = torch.zeros(1, 16, 6, 6)
    square[..., 3, 3] = 1  # reaches across the borders of its squares
    moved = (net(square) - net(torch.zeros(1, 16, 6, 6))).abs()[0, 0] > 1e-6
    plain = FromBands(16, 8, 1)
    before = (plain(square) - plain(torch.zeros(1, 16, 6, 6))).abs()[0, 0] > 1e-6
    assert moved.sum() > before.sum()


def test_without_it_the_generator_is_what_it_was():
    keys = {"first.weight", "first.bias", "last.weight", "last.bias"}
    assert FromBands(16, 8, 1).state_dict().keys() == keys
    assert not find_recipe("mrdiff").settings.smooth_grid
    smooth = find_recipe("mrdiff_small_smooth").settings
    assert (
        smooth
        == replace(find_recipe("mrdiff_small").settings, smooth_grid=True)
        != find_recipe("mrdiff_small").settings
    )
    torch.manual_seed(0)
    net = FromBands(16, 8, 1)
    features = torch.randn(1, 16, 4, 4)
    assert torch.equal(net(features), iwt(net.last(nn.functional.silu(net.first(features)))))


def test_the_identifiable_recipe_says_what_it_is():
    recipe = find_recipe("mrdiff_small_identifiable")
    assert (recipe.settings.rebuilds, len(recipe.contrasts)) == ("all", 3)
    assert recipe.settings == replace(find_recipe("mrdiff_small").settings, rebuilds="all")
    assert find_recipe("mrdiff").settings.rebuilds == "sources"


def test_unfit_settings_are_refused():
    with pytest.raises(InputError, match="T1w and T2w cannot determine three maps"):
        MrDiff(replace(MrDiffConfig.tiny(), rebuilds="all"), ("T1w", "T2w"))
    with pytest.raises(InputError, match="take the decoder physics"):
        replace(MrDiffConfig.tiny(), rebuilds="all", decoder="plain")
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
