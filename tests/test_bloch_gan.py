"""BlochGAN by mathematics: the physics between features and rebuilt sources, the losses, and what is told of it."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import scansynth.methods.bloch_gan as module
from scansynth.diffusion.windows import SliceWindows
from scansynth.errors import InputError
from scansynth.method import Progress
from scansynth.methods import METHODS
from scansynth.methods.bloch_gan import BlochGan, BlochGanConfig
from scansynth.noise import Noise
from scansynth.physics.signal import inversion_recovery, spin_echo, spoiled_gradient_echo
from scansynth.recipes import RECIPES, find_recipe
from scansynth.reproduction.request import Request
from scansynth.reproduction.tables import TABLES
from scansynth.training.engine import Engine

CPU = torch.device("cpu")
K = ("T1w", "FLAIR", "T2w", "T2wFS")
PARAMETERS = torch.tensor([
    [[450, 9.8, 0, 15], [9000, 120, 2500, 90], [3760, 100, 0, 90], [0, 0, 0, 0]],
    [[900, 9.8, 0, 15], [9000, 120, 2500, 90], [3760, 80, 0, 90], [0, 0, 0, 0]],
])  # fmt: skip
"""Of two samples, the target's unknown."""


def make(contrasts=K, **settings):
    torch.manual_seed(0)
    return BlochGan(replace(BlochGanConfig.tiny(), **{"targets": (contrasts[-1],), **settings}), contrasts)


def make_batch(contrasts=4):
    images = torch.rand(2, contrasts, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = nn.functional.interpolate(images, size=24, mode="bilinear")
    available = torch.ones(2, contrasts, dtype=torch.bool)
    return {"images": images, "available": available, "acquisition": PARAMETERS[:, -contrasts:]}


def losses_of(method, batch):
    seen = {}
    noise = Noise([(0, 0, 0), (0, 0, 1)])
    method.training_step(batch, lambda player, losses: seen.update({player: losses}), Progress(0, 10, 0.0), noise)
    return seen


def maps():
    generator = torch.Generator().manual_seed(0)
    t1, t2, s0 = (torch.rand(2, 4, 8, 8, generator=generator) + 0.05 for _ in range(3))
    return t1, t2 / 10, s0


def over_tissue(equation, s0, t1, t2, **parameters):
    """A signal over that of T1 1 s, T2 0.1 s and S0 1."""
    one = torch.tensor(1.0)
    return equation(s0, t1, t2, **parameters) / equation(one, one, one / 10, **parameters)


def test_each_source_follows_its_equation_in_seconds_with_the_times_of_its_own_sample():
    t1, t2, s0 = maps()
    seen = []
    for own in ((), (("T1w", "spoiled_gradient_echo"), ("FLAIR", "inversion_recovery"))):
        method = make(equations=own)
        method.nets["M"].register_forward_pre_hook(lambda net, given: seen.append(given[0].unflatten(0, (2, 3))))
        assert method.rebuild((t1, t2, s0), PARAMETERS[:, :3]).shape == (2, 3, 8, 8)
    plain, named = seen
    assert plain.shape == (2, 3, 4, 8, 8)
    for b, (tr, te) in enumerate(((0.45, 0.1), (0.9, 0.08))):
        own = {"s0": s0[b], "t1": t1[b], "t2": t2[b]}
        torch.testing.assert_close(plain[b, 0], over_tissue(spin_echo, **own, tr=tr, te=0.0098))
        torch.testing.assert_close(plain[b, 2], over_tissue(spin_echo, **own, tr=3.76, te=te))
        torch.testing.assert_close(
            named[b, 1], over_tissue(inversion_recovery, **own, tr=9.0, te=0.12, ti=2.5), atol=1e-5, rtol=1e-4
        )
        flash = over_tissue(
            spoiled_gradient_echo, s0[b], t1[b], t2[b], tr=tr, te=0.0098, flip_angle=math.radians(15)
        )  # fmt: skip
        torch.testing.assert_close(named[b, 0], flash)
    torch.testing.assert_close(named[:, 2], plain[:, 2])


def test_maps_are_of_full_size_start_as_those_of_tissue_and_stay_above_zero():
    net = make().nets["I"]
    for found, start in zip(net(torch.zeros(1, 4, 8, 8)), (1.0, 0.1, 1.0), strict=True):
        torch.testing.assert_close(found, torch.full((1, 4, 8, 8), start))
    t1, t2, s0 = net(1e4 * torch.randn(1, 4, 8, 8))
    assert t1.min() >= 0.05
    assert t2.min() >= 0.005
    assert s0.min() >= 0


def test_the_gradient_of_the_sources_reaches_what_is_rebuilt_through_the_maps_alone():
    method, batch = make(), make_batch()
    y, _ = method.split(batch)
    y.requires_grad_()
    acquisition = method.without_target(batch["acquisition"])
    h = method.nets["I"](method.nets["E"](y))
    y_hat = method.rebuild(h, acquisition)
    (whole,) = torch.autograd.grad(y_hat.square().sum(), y, retain_graph=True)
    assert whole.flatten(2).any(2).all()
    through = torch.autograd.grad(y_hat.square().sum(), h, retain_graph=True)
    (chained,) = torch.autograd.grad(h, y, through)
    torch.testing.assert_close(chained, whole)  # nothing goes round the maps
    held = tuple(one.detach() for one in h)
    with pytest.raises(RuntimeError, match="not have been used"):
        torch.autograd.grad(method.rebuild(held, acquisition).square().sum(), y)


def test_the_decoder_sees_the_signals_and_no_features():
    method, seen = make(), []
    method.nets["decoder"].register_forward_pre_hook(lambda net, given: seen.append(given[0].shape))
    method.nets["G"].register_forward_pre_hook(lambda net, given: seen.append(given[0].shape))
    losses_of(method, make_batch())
    assert seen == [(2, 4, 24, 24), (2, 3 * 4, 24, 24)]


class Constant(nn.Module):
    def __init__(self, *values):
        super().__init__()
        self.values = nn.Parameter(torch.tensor(values))

    def forward(self, x):
        return self.values[None, :, None, None].expand(len(x), -1, *x.shape[2:])


def test_losses_by_hand():
    """G makes 0.5 everywhere, D_ξ 0, 0.25 and −0.5, and D says 0.25; the images are constant."""
    method = make()
    method.nets["G"], method.nets["decoder"] = Constant(0.5), Constant(0.0, 0.25, -0.5)
    method.nets["discriminator"] = Constant(0.25)
    batch = make_batch()
    batch["images"] = torch.tensor([0.1, 0.3, 0.7, -0.2])[None, :, None, None].expand(2, -1, 24, 24)
    seen = losses_of(method, batch)
    assert list(seen) == ["D", "G"]
    assert seen["D"]["adversarial"].item() == pytest.approx(0.5 * (0.75**2 + 0.25**2))
    assert seen["G"]["adversarial"].item() == pytest.approx(0.75**2)
    assert seen["G"]["l1"].item() == pytest.approx(100 * 0.7)
    assert seen["G"]["rebuilt"].item() == pytest.approx(10 * (0.1 + 0.05 + 1.2) / 3)


def test_each_loss_hangs_on_its_own_networks():
    method = make()
    seen = losses_of(method, make_batch())
    parameters = {name: list(net.parameters()) for name, net in method.nets.items()}

    def reached(loss):
        return {
            name
            for name, own in parameters.items()
            if any(one is not None for one in torch.autograd.grad(loss, own, retain_graph=True, allow_unused=True))
        }

    assert reached(seen["D"]["adversarial"]) == {"discriminator"}
    assert reached(seen["G"]["l1"]) == {"E", "G"}
    assert reached(seen["G"]["rebuilt"]) == {"E", "I", "M", "decoder"}
    assert reached(seen["G"]["adversarial"]) == {"E", "G", "discriminator"}


def test_the_targets_acquisition_is_neither_read_nor_asked_for(cohort, tiny):
    method, batch = make(), make_batch()
    assert tuple(method.needs.sequences) == K[:3]
    other = {**batch, "acquisition": batch["acquisition"].clone()}
    other["acquisition"][:, 3] = math.nan
    assert losses_of(method, other)["G"]["rebuilt"] == losses_of(method, batch)["G"]["rebuilt"]
    other["acquisition"][:, 0, 0] *= 3
    assert losses_of(method, other)["G"]["rebuilt"] != losses_of(method, batch)["G"]["rebuilt"]
    config = tiny("bloch_gan")
    sample = method.needs_of(config.settings, ("T1w", "T2w")).samples(cohort, ("T1w", "T2w"), seed=0, data=config.data)[
        0
    ]
    assert sample["acquisition"][0].any()
    assert not sample["acquisition"][1].any()


def test_decoder_physics_and_discriminator_serve_training_alone():
    method = make().eval()
    images = torch.rand(1, 4, 16, 16, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    batch = {"images": images, "available": torch.tensor([[True, True, True, False]])}

    def made():
        with torch.no_grad():
            return method.translate(batch, "T2wFS", SliceWindows(2), Noise([(0, "a", 0)])).image

    before = made()
    for name in ("I", "M", "decoder", "discriminator"):
        for parameter in method.nets[name].parameters():
            nn.init.constant_(parameter, math.nan)
    assert torch.equal(made(), before)
    assert not method.stochastic


def test_the_patent_and_the_settled_weights_are_told():
    assert "US 11,874,357 B2" in module.__doc__
    assert "settled by this project" in module.__doc__
    assert "US patent 11,874,357 B2" in METHODS["bloch_gan"].when
    assert "every weight is settled here" in METHODS["bloch_gan"].when
    assert "settled here" in (RECIPES["bloch_gan"].__doc__ or "")
    assert any("every weight is settled by" in note for note in TABLES["mrdiff-table1"].notes)


@pytest.mark.parametrize(
    ("contrasts", "settings", "says"),
    [
        (("CT", "T2w"), {}, "leave CT out"),
        (K, {"equations": (("T2wFS", "spin_echo"),)}, "'T2wFS', which is not among the sources T1w, FLAIR, T2w"),
        (K, {"targets": ()}, "makes one contrast from all others"),
        (K, {"equations": (("T1w", "spin_echo"), ("T1w", "inversion_recovery"))}, "name a contrast twice"),
    ],
)
def test_unfit_settings_are_refused(contrasts, settings, says):
    with pytest.raises(InputError, match=says):
        make(contrasts, **settings)


def test_a_target_may_follow_no_equation():
    assert make(("T1w", "CT")).sources == ("T1w",)


def test_recipes_and_table():
    assert find_recipe("bloch_gan").settings == BlochGanConfig()
    assert find_recipe("bloch_gan").training.batch_size == 8
    method = make()
    assert {optimizer.defaults["betas"] for optimizer in method.optimizers().values()} == {(0.5, 0.999)}
    assert {method.lr_factor(player, Progress(99, 100, 0.0)) for player in method.players} == {1.0}


def test_mrdiffs_table_gives_it_the_papers_times_and_as_many_samples(tmp_path):
    table = TABLES["mrdiff-table1"]
    rows = {row.name: row for row in table.present}
    request = Request(table=table, out=tmp_path)
    for task in table.tasks:
        own, other = (request.config(task, rows[name]) for name in ("BlochGAN", "mrdiff"))
        assert own.training.steps * own.training.batch_size == other.training.steps * other.training.batch_size
        assert own.data.defaults == other.data.defaults == task.name
        assert own.settings == BlochGanConfig(targets=task.targets)


def test_the_pixels_and_the_sources_come_nearer():
    method, batch = make(("FLAIR", "T2w", "T2wFS")), make_batch(3)
    engine = Engine(method, CPU, "float32")
    before = losses_of(method, batch)["G"]
    for step in range(25):
        noise = Noise([(0, step, 0), (0, step, 1)])
        method.training_step(batch, engine.update, Progress(step, 1000, 0.0), noise)
    assert all(math.isfinite(value) for value in engine.mean_losses().values())
    after = losses_of(method, batch)["G"]
    assert after["l1"] < 0.8 * before["l1"]
    assert after["rebuilt"] < 0.9 * before["rebuilt"]
