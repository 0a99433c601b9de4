"""M2DN: sizes, which contrasts are noisy, what the network may see of a target, the loss, and the sampler's state."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from scansynth.config import RunConfig
from scansynth.diffusion.schedule import Schedule
from scansynth.diffusion.windows import SliceWindows
from scansynth.errors import InputError
from scansynth.method import Progress
from scansynth.methods.any_to_any import draw_missing
from scansynth.methods.m2dn import M2DN, M2DNConfig, inpaint
from scansynth.network_precision import compute_in
from scansynth.networks.m2dn import bilinear_upsample
from scansynth.noise import Noise
from scansynth.recipes import find_recipe
from scansynth.recipes.m2dn import ABLATIONS
from scansynth.reproduction.request import Request
from scansynth.reproduction.tables import TABLES
from scansynth.training.engine import Engine

CONTRASTS = ("T1w", "T2w", "PDw", "FLAIR")


class Spy(nn.Module):
    """In the network's place: keeps what it is asked, M_t, t and v, and answers by a function of them."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.asked = answer, []

    def forward(self, M_t, t, v):
        self.asked.append((M_t, t, v))
        return self.answer(M_t, t, v)


def make(contrasts=CONTRASTS, **settings):
    """A tiny M2DN, the same each time."""
    torch.manual_seed(0)
    return M2DN(replace(M2DNConfig.tiny(), **settings), contrasts)


def spied(answer=lambda M_t, t, v: 0 * M_t, **settings):
    """A tiny M2DN whose network is a `Spy`, and the spy."""
    method = make(**settings)
    method.nets["network"] = spy = Spy(answer)
    return method, spy


def make_batch(count=3, size=16, *, lacks=()):
    """Images of noise in [-1, 1]; `lacks` names pairs (place, contrast) that a sample does not have."""
    images = torch.rand(count, 4, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    available = torch.ones(count, 4, dtype=torch.bool)
    for place, k in lacks:
        images[place, k], available[place, k] = 0.0, False
    return {"images": images, "available": available}


def keyed(count=3, step=0):
    return Noise([(0, step, place) for place in range(count)])


class At(Noise):
    """Noise of a training step whose time is given."""

    def __init__(self, count, t):
        super().__init__(keyed(count).keys)
        self.t = t

    def integers(self, name, low, high, *, shape=()):
        assert (name, low <= self.t < high) == ("t", True)
        return torch.full((len(self.keys),), self.t)


def losses_of(method, batch, noise):
    """The losses of one training step; nothing is trained."""
    seen = {}
    method.training_step(batch, lambda player, losses: seen.update(losses), Progress(0, 10, 0.0), noise)
    return seen


def asked_for(batch, noise, targets=CONTRASTS):
    return draw_missing(batch["available"], targets, CONTRASTS, 4, noise)


def volume(missing, depth=3, size=16):
    """A subject's volume that lacks some contrasts."""
    images = torch.rand(1, 4, size, size, depth, generator=torch.Generator().manual_seed(1)) * 2 - 1
    available = torch.tensor([[k not in missing for k in range(4)]])
    return {"images": images * available[..., None, None, None], "available": available}


@torch.no_grad()
def test_the_bottleneck_is_the_papers_and_v_is_joined_there():
    """128×16×16 of 256×256 images, and K×16×16 of v; no parameter count of the paper is known."""
    network, seen = M2DN(M2DNConfig(), CONTRASTS[:3]).nets["network"], []
    network.fusion.bottleneck.register_forward_hook(lambda net, given, made: seen.append((given[0], made)))
    made = network(torch.zeros(1, 3, 256, 256), torch.ones(1), torch.ones(1, 3))
    assert made.shape == (1, 3, 256, 256)
    assert seen[0][0].shape == (1, 128 + 3, 16, 16)
    assert seen[0][1].shape == (1, 128, 16, 16)
    assert [len(network.encoders), len(network.decoders)] == [3, 3]
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_456_033


@torch.no_grad()
def test_v_is_spread_over_the_bottleneck():
    method, seen = make(), []
    network = method.nets["network"]
    network.fusion.bottleneck.register_forward_hook(lambda net, given, made: seen.append(given[0]))
    v = torch.tensor([[True, False, False, True], [False, True, False, False]])
    method.predict(torch.zeros(2, 4, 16, 24), v, torch.tensor([3, 40]))
    assert torch.equal(seen[0][:, -4:], v[..., None, None].float().expand(-1, -1, 2, 3))


@torch.no_grad()
@pytest.mark.parametrize("knows", [True, False])
def test_the_network_reads_time_and_v_but_the_ablation(knows):
    method = make(knows_missing=knows)
    M_t = torch.randn(1, 4, 16, 16)

    def made(v, t):
        return method.predict(M_t, torch.tensor([v]), torch.tensor([t]))

    first = made([True, False, False, False], 5)
    assert torch.equal(first, made([False, True, False, False], 5)) != knows
    assert not torch.equal(first, made([True, False, False, False], 30))


@torch.no_grad()
@pytest.mark.parametrize("cut", ["fusion", "skips"])
def test_every_image_reads_every_contrast_by_the_fusion_and_beside_it(cut):
    """What is fine in a missing contrast comes from the others' encoders."""
    network = make().nets["network"]
    for net in [network.fusion] if cut == "fusion" else network.skips:
        net.register_forward_hook(lambda net, given, made: 0 * made)
    M_t, t, v = torch.randn(1, 4, 16, 16), torch.tensor([5]), torch.zeros(1, 4)
    first = network(M_t, t, v)
    for k in range(4):
        other = M_t.clone()
        other[:, k] += torch.randn(16, 16)
        assert (network(other, t, v) != first).flatten(2).any(2).all()


def test_bilinear_halving_is_the_mean_of_four_pixels_and_doubling_keeps_planes():
    h = torch.randn(1, 2, 6, 8)
    half = nn.functional.interpolate(h, scale_factor=0.5, mode="bilinear", align_corners=False)
    torch.testing.assert_close(nn.functional.avg_pool2d(h, 2), half)  # `blocks.downsample`
    ramp = torch.arange(6.0)[:, None] + 2 * torch.arange(5.0)
    inner = bilinear_upsample(ramp[None, None])[0, 0, 1:-1, 1:-1]
    torch.testing.assert_close(inner[1:] - inner[:-1], torch.full((9, 8), 0.5))
    torch.testing.assert_close(inner[:, 1:] - inner[:, :-1], torch.full((10, 7), 1.0))


def test_the_network_says_what_does_not_fit():
    with pytest.raises(InputError, match="at least 3"):
        make(multipliers=(1, 2))
    with pytest.raises(InputError, match="multiple of 8"):
        make().predict(torch.zeros(1, 4, 16, 20), torch.ones(1, 4, dtype=torch.bool), torch.tensor([1]))
    assert make().needs.size_multiple == 8


def test_all_patterns_are_drawn_alike():
    """All 2^K − 2 of them, as the network is told them."""
    method, spy = spied()
    losses_of(method, make_batch(7000, size=1), keyed(7000))
    patterns, counts = spy.asked[0][2].unique(dim=0, return_counts=True)
    assert len(patterns) == 2**4 - 2
    assert not (patterns.sum(1) % 4 == 0).any()  # never none, never all
    assert counts.min() > 400  # 500 expected, deviation 22
    assert counts.max() < 600


def test_a_target_is_always_missing_where_it_is_named():
    method, spy = spied(targets=("PDw",))
    losses_of(method, make_batch(200, size=1), keyed(200))
    v = spy.asked[0][2]
    assert v[:, 2].all()
    assert len(v.unique(dim=0)) == 2**3 - 1


@pytest.mark.parametrize("t", [1, 20, 40])
def test_given_contrasts_are_clean_at_every_time_and_missing_ones_noisy(t):
    method, spy = spied()
    batch = make_batch(8)
    losses_of(method, batch, At(8, t))
    missing = asked_for(batch, keyed(8))
    M_t, times, v = spy.asked[0]
    assert torch.equal(v.bool(), missing)
    assert (times == t).all()
    assert torch.equal(M_t[~missing], batch["images"][~missing])  # bit-equal
    alpha_bar = method.schedule.alpha_bar[t]
    eps = keyed(8).normal("eps", (4, 16, 16))
    noisy = alpha_bar.sqrt() * batch["images"] + (1 - alpha_bar).sqrt() * eps
    torch.testing.assert_close(M_t[missing], noisy[missing].float())
    assert len(missing.unique(dim=0)) > 1  # a batch mixes patterns


def test_at_the_last_time_the_network_sees_nothing_of_the_target():
    """With an ᾱ_T that float32 cannot tell from 0, whatever the missing contrasts hold is bit-equal to it.

    With the schedule as it is, √ᾱ_T = 0.6 % of a pixel is left there, under noise of 1; no other way leads to it.
    """
    method, spy = spied(steps=1000)
    batch, noise = make_batch(8), At(8, 1000)
    missing = asked_for(batch, keyed(8))[..., None, None]
    images = batch["images"].clone().requires_grad_()
    losses_of(method, {**batch, "images": images}, noise)
    (gradient,) = torch.autograd.grad(spy.asked[-1][0].sum(), images)
    left = method.schedule.alpha_bar[1000].sqrt().item()
    assert left < 0.0064
    torch.testing.assert_close(gradient, torch.where(missing, left, 1.0).expand_as(gradient))

    method.schedule = Schedule(torch.cat([method.schedule.alpha_bar[:-1], torch.tensor([1e-40], dtype=torch.float64)]))
    seen = []
    for value in (0.0, 0.9, -0.9):
        other = torch.where(missing, value, batch["images"])
        losses_of(method, {**batch, "images": other}, noise)
        seen.append(torch.cat([part.flatten() for part in spy.asked[-1]]))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


@pytest.mark.parametrize("joint", [True, False])
def test_losses_by_hand(joint):
    """The network gives 0.5 everywhere; each contrast is constant. The second sample lacks one."""
    method, _ = spied(lambda M_t, t, v: torch.full_like(M_t, 0.5), joint_loss=joint)
    truth = torch.tensor([[0.1, -0.2, 0.3, -0.4], [0.5, 0.6, -0.7, 0.0]])
    batch = {"images": truth[..., None, None].expand(-1, -1, 8, 8), "available": torch.ones(2, 4, dtype=torch.bool)}
    batch["available"][1, 3] = False
    missing = asked_for(batch, keyed(2))
    square = (truth - 0.5).square()
    losses = losses_of(method, batch, keyed(2))
    if joint:
        assert torch.stack(list(losses.values())).sum().item() == pytest.approx(
            (square[0].mean() + square[1, :3].mean()).item() / 2
        )
        of_missing = (square * missing).sum(1) / torch.tensor([4, 3])
        assert losses["missing"].item() == pytest.approx(of_missing.mean().item())
    else:
        assert losses.keys() == {"missing"}
        of_missing = (square * missing).sum(1) / missing.sum(1)
        assert losses["missing"].item() == pytest.approx(of_missing.mean().item())


def test_an_absent_contrast_counts_as_missing_and_has_no_influence():
    """Neither what stands in its channel nor what the network makes of it; it learns nothing of it."""
    batch = make_batch(lacks=[(0, 2), (1, 2), (2, 2)])
    method = make()
    last = method.nets["network"].decoders[2].last
    before = losses_of(method, batch, keyed())
    gradient = torch.autograd.grad(sum(before.values()), [last.bias, method.nets["network"].decoders[0].last.bias])
    assert not gradient[0].any()
    assert gradient[1].any()
    other = {**batch, "images": batch["images"].clone()}
    other["images"][:, 2] = 77.0
    with torch.no_grad():
        last.bias += 3
    after = losses_of(method, other, keyed())
    assert all(torch.equal(before[name], after[name]) for name in ("missing", "given"))
    method, spy = spied()
    losses_of(method, other, keyed())
    assert spy.asked[0][2][:, 2].all()


def test_given_contrasts_are_reconstructed_as_they_are_given():
    """`Needs.sources`: with their changed intensities, the missing ones with their own."""
    method, spy = spied(lambda M_t, t, v: M_t)
    batch = make_batch()
    batch["sources"] = 0.5 * batch["images"]
    losses = losses_of(method, batch, At(3, 1))
    missing = asked_for(batch, keyed())
    assert torch.equal(spy.asked[0][0][~missing], batch["sources"][~missing])
    assert losses["given"].item() == 0
    noisy = math.sqrt(method.schedule.alpha_bar[1]) * batch["images"][missing]
    assert (spy.asked[0][0][missing] - noisy).std().item() == pytest.approx(
        math.sqrt(1 - method.schedule.alpha_bar[1]), rel=0.1
    )


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver", "ancestral"])
def test_given_contrasts_of_the_samplers_state_never_change(sampler):
    """Whatever the network makes of them: every call sees them as they are, bit by bit, and the others move."""
    wild = torch.Generator().manual_seed(2)
    method, spy = spied(lambda M_t, t, v: torch.randn(M_t.shape, generator=wild), sampler=sampler, sampling_steps=5)
    given = volume([1, 3])
    method.translate(given, "T2w", SliceWindows(2), keyed(1))
    steps = [torch.cat([M_t for M_t, _, _ in pair]) for pair in zip(spy.asked[::2], spy.asked[1::2], strict=True)]
    clean = given["images"][0].movedim(-1, 0)
    assert len(steps) == 5
    for M_t, later in zip(steps, [*steps[1:], None], strict=True):
        assert torch.equal(M_t[:, [0, 2]], clean[:, [0, 2]])
        assert later is None or (M_t[:, [1, 3]] != later[:, [1, 3]]).all()
    assert all((v == torch.tensor([0.0, 1.0, 0.0, 1.0])).all() for _, _, v in spy.asked)
    assert [int(t[0]) for _, t, _ in spy.asked[::2]] == method.path


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver", "ancestral"])
def test_an_exact_network_is_sampled_exactly_and_gives_the_targets_channel(sampler):
    """It knows that the k-th contrast is k tenths of the first."""
    tenths = torch.tensor([1.0, 0.2, 0.3, 0.4])[:, None, None]
    method, _ = spied(lambda M_t, t, v: tenths * M_t[:, :1], sampler=sampler)
    given = volume([1, 2, 3])
    for k, name in enumerate(CONTRASTS[1:], start=1):
        for make_one in (method.translate, method.mean):
            made = make_one(given, name, SliceWindows(), keyed(1)).image
            torch.testing.assert_close(made, tenths[k] * given["images"][:, :1], atol=1e-5, rtol=0)
    with pytest.raises(InputError, match="no source is given for T1w"):
        method.translate(volume([0, 1, 2, 3]), "T1w", SliceWindows(), keyed(1))


@torch.no_grad()
def test_the_mean_is_one_call_at_the_last_time_and_hardly_depends_on_the_noise():
    """x_0 = y/2 + N(0, 0.1²), and a network that knows E[x_0 | x_t, y]; a draw has that deviation."""
    method, spy = spied(
        contrasts=CONTRASTS, steps=1000, sampling_steps=25, sampler="dpm-solver", spacing="log-snr"
    )  # fmt: skip

    def exact(M_t, t, v):
        a = method.schedule.at(t, M_t)
        mean = M_t[:, :1] / 2
        return mean + a.sqrt() * 0.01 / (a * 0.01 + 1 - a) * (M_t - a.sqrt() * mean)

    spy.answer = exact
    given = volume([1, 2, 3], depth=8)
    truth = given["images"][:, :1] / 2
    mean = method.mean(given, "PDw", SliceWindows(), keyed(1)).image
    assert [t.unique().tolist() for _, t, _ in spy.asked] == [[1000]]
    assert (mean - truth).abs().max() < 5e-3
    draw = method.translate(given, "PDw", SliceWindows(), keyed(1)).image
    assert (draw - truth).std().item() == pytest.approx(0.1, rel=0.05)
    assert method.gives_mean


@torch.no_grad()
def test_targets_of_one_subject_are_of_one_draw():
    """All that is missing is made together, and a contrast's noise does not depend on which others are missing."""
    method, spy = spied()
    for missing, target in (([1, 2], "T2w"), ([1, 2], "PDw"), ([2], "PDw")):
        method.translate(volume(missing), target, SliceWindows(), keyed(1))
    first, second, alone = (M_t for M_t, t, _ in spy.asked if int(t[0]) == 40)
    assert torch.equal(first, second)
    assert torch.equal(alone[:, 2], first[:, 2])


def test_inpainting_by_hand():
    M, noisy = torch.zeros(1, 3, 2, 2), torch.ones(1, 3, 2, 2)
    made = inpaint(M, noisy, torch.tensor([[True, False, True]]))
    assert made[0].flatten(1).tolist() == [[1.0] * 4, [0.0] * 4, [1.0] * 4]


def test_it_learns_beside_subjects_that_lack_contrasts():
    method = make(learning_rate=5e-3)
    batch = make_batch(4, lacks=[(0, 0), (1, 1), (1, 2), (2, 3)])
    batch["images"] = batch["images"].mean((2, 3), keepdim=True).expand(-1, -1, 16, 16) * 4
    engine = Engine(method, torch.device("cpu"), "float32")
    before = losses_of(method, batch, At(4, 40))["missing"].item()
    for step in range(12):
        method.training_step(batch, engine.update, Progress(step, 12, 0.0), keyed(4, step))
    assert set(engine.mean_losses()) == {"G/missing", "G/given"}
    assert losses_of(method, batch, At(4, 40))["missing"].item() < 0.5 * before


@torch.no_grad()
def test_it_computes_in_bfloat16():
    M_t, v, t = torch.randn(2, 4, 16, 16), torch.tensor([[True, False, True, False]] * 2), torch.tensor([3, 40])
    method = make()
    exact = method.predict(M_t, v, t)
    compute_in(dict(method.nets.items()), "bfloat16", torch.device("cpu"))
    near = method.predict(M_t, v, t)
    assert near.dtype == torch.float32
    assert 0 < (near - exact).square().mean() < 1e-3 * exact.square().mean()


def test_the_recipes():
    papers, small = find_recipe("m2dn"), find_recipe("m2dn_small")
    assert papers.settings == M2DNConfig()
    assert (papers.training.batch_size, small.training.decay) == (8, "cooldown")
    method = make()
    assert method.lr_factor("G", Progress(99, 100, 0.0)) == 1.0
    assert method.average_decay == 0.9999
    for name, changed in ABLATIONS.items():
        for base in (papers, small):
            recipe = find_recipe(f"{'m2dn' if base is papers else 'm2dn_small'}_{name}")
            assert recipe == RunConfig("m2dn", replace(base.settings, **changed), training=base.training)


def test_mrdiffs_table_trains_it_on_as_many_samples(tmp_path):
    table = TABLES["mrdiff-table1"]
    rows = {row.name: row for row in table.present}
    request = Request(table=table, out=tmp_path)
    for task in table.tasks:
        own, other = (request.config(task, rows[name]) for name in ("M2DN", "mrdiff"))
        assert own.training == other.training
        assert own.settings == M2DNConfig(targets=task.targets)
        assert own.contrasts == other.contrasts
        assert own.data.defaults == "none"  # it reads no TR and TE
