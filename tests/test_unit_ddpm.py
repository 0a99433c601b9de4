"""UNIT-DDPM against its equations: who sees which noise, which gradient goes where, and what the chain samples."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from chains import OneDrawAPixel
from scansynth.diffusion.gaussian import q_sample
from scansynth.diffusion.samplers import times
from scansynth.diffusion.schedule import Schedule
from scansynth.diffusion.windows import SliceWindows
from scansynth.errors import InputError
from scansynth.method import Progress
from scansynth.methods.unit_ddpm import UnitDdpm, UnitDdpmConfig, denoiser, translator
from scansynth.noise import Noise
from scansynth.recipes import find_recipe
from scansynth.reproduction.request import Request
from scansynth.reproduction.tables import TABLES
from scansynth.training.engine import Engine

CONTRASTS = ("T1w", "T2w")
PROGRESS = Progress(0, 100, 0.0)
SUBJECT = Noise([(0, "subject", 0)])


def make(**settings):
    """A tiny UNIT-DDPM, the same each time, whose every weight matters (some start at zero)."""
    torch.manual_seed(0)
    method = UnitDdpm(replace(UnitDdpmConfig.tiny(), **settings), CONTRASTS)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return method


def make_batch(count=2, size=16, seed=0):
    """T2w is T1w upside down in intensity, of smooth blobs."""
    images = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    images = nn.functional.interpolate(images, size=size, mode="bilinear")
    return {"images": torch.cat([images, -images], 1), "available": torch.ones(count, 2, dtype=torch.bool)}


def keyed(step=0, count=2):
    return Noise([(0, step, place) for place in range(count)])


def losses_of(method, batch=None, look=lambda player, losses: None):
    """The losses of one training step by player, in the order of the updates; nothing is trained."""
    seen = {}

    def update(player, losses):
        look(player, losses)
        seen[player] = {name: loss.item() for name, loss in losses.items()}

    method.training_step(batch or make_batch(), update, PROGRESS, keyed())
    return seen


def reaches(loss, net):
    found = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True, allow_unused=True)
    return any(part is not None and part.abs().max() > 0 for part in found)


# Training


def test_each_pair_has_one_time_and_each_contrast_one_noise(monkeypatch):
    """(x^A, x̃^B) at one t, (x^B, x̃^A) at another, ε^A in x^A and x̃^A; x̃ is held fixed for the denoisers alone."""
    method, batch, calls = make(), make_batch(), []

    def predict(target, x_t, c_t, t):
        calls.append((target, x_t, c_t, t))
        return x_t - x_t + 0.5

    monkeypatch.setattr(method, "predict_noise", predict)
    losses = losses_of(method, batch)
    assert [call[0] for call in calls] == [*CONTRASTS, *CONTRASTS]
    x0 = {contrast: batch["images"][:, [index]] for index, contrast in enumerate(CONTRASTS)}
    t = {contrast: keyed().integers(f"t {contrast}", 1, 31) for contrast in CONTRASTS}
    eps = {contrast: keyed().normal(f"eps {contrast}", (1, 16, 16)) for contrast in CONTRASTS}
    assert not torch.equal(t["T1w"], t["T2w"])
    made = {a: method.nets[f"translator_{a}"](x0[b]) for a, b in itertools.permutations(CONTRASTS)}
    for place, (target, source) in enumerate(itertools.permutations(CONTRASTS)):
        real = (x0[target], eps[target], made[source], eps[source], t[target])
        mirror = (made[target], eps[target], x0[source], eps[source], t[source])
        for pairs, (_, x_t, c_t, time), fixed in (
            ((real,), calls[place], True),
            ((real, mirror), calls[2 + place], False),
        ):
            x, e, c, d, expected = (torch.cat(parts) for parts in zip(*pairs, strict=True))
            assert torch.equal(time, expected)
            torch.testing.assert_close(x_t, q_sample(method.schedule, x, expected, e))
            torch.testing.assert_close(c_t, q_sample(method.schedule, c, expected, d))
            assert (x_t.requires_grad, c_t.requires_grad) == ((False, False) if fixed else (True, True))
        error = (0.5 - eps[target]).square().mean().item()
        assert losses["denoisers"][f"noise {target}"] == pytest.approx(error)
        assert losses["translators"][f"noise {target}"] == pytest.approx(error)
        assert losses["translators"][f"noise of made {target}"] == pytest.approx(error)


def test_each_loss_hangs_on_its_own_networks():
    """Of a target's pairs the real one teaches the translator of its condition, the made one the target's own."""
    method = make()

    def look(player, losses):
        for target, source in itertools.permutations(CONTRASTS):
            own, other = method.nets[f"translator_{target}"], method.nets[f"translator_{source}"]
            for kind in ("noise",) if player == "denoisers" else ("noise", "noise of made"):
                assert reaches(losses[f"{kind} {target}"], method.nets[f"denoiser_{target}"])
                assert not reaches(losses[f"{kind} {target}"], method.nets[f"denoiser_{source}"])
            expected = (False, False) if player == "denoisers" else (False, True)
            assert (reaches(losses[f"noise {target}"], own), reaches(losses[f"noise {target}"], other)) == expected
            if player == "translators":
                mirror, cycle = losses[f"noise of made {target}"], losses[f"cycle {target}"]
                assert (reaches(mirror, own), reaches(mirror, other)) == (True, False)
                assert (reaches(cycle, own), reaches(cycle, other)) == (True, True)

    assert list(losses_of(method, look=look)) == ["denoisers", "translators"]


@pytest.mark.parametrize("player", ["denoisers", "translators"])
def test_a_players_step_moves_its_own_networks_alone(player):
    method = make()
    engine = Engine(method, torch.device("cpu"), "float32")
    before = {name: [p.detach().clone() for p in net.parameters()] for name, net in method.nets.items()}
    method.training_step(
        make_batch(), lambda own, losses: engine.update(own, losses) if own == player else None, PROGRESS, keyed()
    )
    moved = {name for name, net in method.nets.items() if not all(map(torch.equal, net.parameters(), before[name]))}
    assert moved == {f"{player.removesuffix('s')}_{contrast}" for contrast in CONTRASTS}


def test_translators_learn_through_the_denoisers_just_updated():
    method, seen = make(), []
    engine = Engine(method, torch.device("cpu"), "float32")

    def update(player, losses):
        seen.append({name: loss.item() for name, loss in losses.items()})
        if player == "denoisers":
            engine.update(player, losses)

    method.training_step(make_batch(), update, PROGRESS, keyed())
    fixed = losses_of(make())
    assert seen[0] == fixed["denoisers"]
    for contrast in CONTRASTS:
        assert seen[1][f"noise {contrast}"] < seen[0][f"noise {contrast}"] == fixed["translators"][f"noise {contrast}"]


def test_translators_that_change_nothing_have_no_cycle_loss():
    method, batch = make(cycle_weight=3.0), make_batch()
    for contrast in CONTRASTS:
        method.nets[f"translator_{contrast}"] = nn.Identity()
    assert all(losses_of(method, batch)["translators"][f"cycle {contrast}"] == 0 for contrast in CONTRASTS)
    method.nets["translator_T2w"] = Times(0.0)
    size = 3 * batch["images"][:, 0].abs().mean().item()
    assert losses_of(method, batch)["translators"]["cycle T1w"] == pytest.approx(size)


class Times(nn.Module):
    """A translator that multiplies."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def test_which_images_meet_tells_nothing():
    """Every loss hangs on images of one contrast, whatever the other shows beside it."""
    batch, other = make_batch(), make_batch()
    other["images"][:, 1] = make_batch(seed=1)["images"][:, 1]
    first, second = losses_of(make(), batch), losses_of(make(), other)
    for player, name, own in (
        ("denoisers", "noise", "T1w"), ("translators", "noise", "T1w"), ("translators", "cycle", "T1w"),
        ("translators", "noise of made", "T2w"),
    ):  # fmt: skip
        foreign = "T2w" if own == "T1w" else "T1w"
        assert first[player][f"{name} {own}"] == second[player][f"{name} {own}"]
        assert first[player][f"{name} {foreign}"] != second[player][f"{name} {foreign}"]
    assert not make().needs.paired


def test_training_lowers_the_losses_on_a_fixed_batch():
    torch.manual_seed(0)
    method = UnitDdpm(replace(UnitDdpmConfig.tiny(), learning_rate=3e-3), CONTRASTS)
    engine = Engine(method, torch.device("cpu"), "float32")
    before = losses_of(method)
    for number in range(12):
        method.training_step(make_batch(), engine.update, PROGRESS, keyed(1 + number))
    after = losses_of(method)
    assert sum(after["denoisers"].values()) < 0.7 * sum(before["denoisers"].values())
    cycles = [sum(seen["translators"][f"cycle {contrast}"] for contrast in CONTRASTS) for seen in (before, after)]
    assert cycles[1] < 0.9 * cycles[0]
    assert all(math.isfinite(value) for value in engine.mean_losses().values())


# Synthesis


def watched(method, batch, windows=None, noise=SUBJECT):
    """The translation of T1w to T2w, and what each call of `predict_noise` was given, by contrast and time."""
    calls, own = {}, method.predict_noise

    def predict(target, x_t, c_t, t):
        assert (t == t[0]).all()
        calls.setdefault((target, int(t[0])), []).append((x_t, c_t))
        return own(target, x_t, c_t, t)

    method.predict_noise = predict
    with torch.no_grad():
        made = method.eval().translate(batch, "T2w", windows or SliceWindows(), noise).image
    del method.predict_noise
    return made, calls


def subject(depth=3):
    images = (make_batch(1)["images"][..., None] * torch.linspace(0.5, 1, depth)).contiguous()
    images[:, 1] = 0
    return {"images": images, "available": torch.tensor([[True, False]])}


def noise_in(method, y_t, y, t):
    """What of a noisy source is noise, (Z, 1, H, W)."""
    a = method.schedule.alpha_bar[t].item()
    return (y_t - math.sqrt(a) * y[0].movedim(-1, 0)) / math.sqrt(1 - a)


def test_above_the_release_time_the_source_is_noised_afresh_at_each_step():
    method, batch = make(sampling_steps=5, release_time=12), subject()  # at 30, 24, 18, 12, 6
    y = batch["images"][:, :1]
    made, calls = watched(method, batch)
    assert set(calls) == {("T2w", t) for t in (30, 24, 18, 12, 6)} | {("T1w", 12)}
    for t in (30, 24, 18):
        ((_, y_t),) = calls["T2w", t]
        drawn = SUBJECT.normal(f"source t={t}", y.shape[1:])[0].movedim(-1, 0)
        torch.testing.assert_close(noise_in(method, y_t, y, t), drawn, rtol=0, atol=1e-5)
    seen = [noise_in(method, calls["T2w", t][0][1], y, t).flatten() for t in (30, 24, 18, 12)]
    correlation = np.corrcoef(torch.stack(seen).numpy())
    assert np.abs(correlation - np.eye(4)).max() < 0.15  # of 768 pixels
    assert all(0.9 < part.std() < 1.1 for part in seen)  # at 12 the chain's own path, of the same distribution

    # From there on each is the other's condition, and what the chain made of the source is what it goes on with.
    ((x_12, y_12),), ((own, other),) = calls["T2w", 12], calls["T1w", 12]
    assert torch.equal(own, y_12)
    assert torch.equal(other, x_12)

    # By subject and step: the same again, through any windows, and another for somebody else.
    again, cut = watched(method, batch, SliceWindows(1))
    torch.testing.assert_close(again, made, rtol=0, atol=1e-4)
    assert torch.equal(torch.cat([y_t for _, y_t in cut["T2w", 24]]), calls["T2w", 24][0][1])
    _, foreign = watched(method, batch, noise=Noise([(0, "other", 0)]))
    assert not torch.equal(foreign["T2w", 24][0][1], calls["T2w", 24][0][1])


def test_with_a_release_time_of_1_the_source_is_known_to_the_end():
    method, batch = make(sampling_steps=30, release_time=1), subject(1)
    method.nets["denoiser_T1w"] = nn.Module()  # which cannot be called
    _, calls = watched(method, batch)
    assert list(calls) == [("T2w", t) for t in range(30, 0, -1)]
    for t in range(30, 0, -1):
        drawn = noise_in(method, calls["T2w", t][0][1], batch["images"][:, :1], t)
        assert 0.85 < drawn.std() < 1.15, t
        assert drawn.mean().abs() < 0.25, t


@pytest.mark.parametrize(("steps", "release"), [(3, 20), (5, 12), (5, 30), (30, 1), (30, 9)])
def test_calls_are_counted(steps, release):
    method = make(sampling_steps=steps, release_time=release)
    _, calls = watched(method, subject(1))
    assert method.sampling_steps == sum(map(len, calls.values()))
    assert method.passes == steps


def test_translators_have_no_part_in_synthesis():
    method, batch = make(), subject(1)
    made, _ = watched(method, batch)
    assert method.averaged == ("denoiser_T1w", "denoiser_T2w")
    assert (method.stochastic, method.gives_mean) == (True, False)  # at t = T nothing of the source is left
    for contrast in CONTRASTS:
        method.nets[f"translator_{contrast}"] = nn.Module()
    assert torch.equal(watched(method, batch)[0], made)


# What the chain samples: contrasts A and B (T1w and T2w here) of a joint normal distribution, and exact denoisers


class Exact(nn.Module):
    """ε of E[x_0 | x_t, c_t] for pixels of a joint normal distribution, own contrast first."""

    def __init__(self, schedule, mean, covariance):
        super().__init__()
        self.schedule = schedule
        self.mean, self.covariance = torch.tensor(mean).double(), torch.tensor(covariance).double()

    def forward(self, seen, t):
        a = self.schedule.alpha_bar[int(t[0])]
        gain = a.sqrt() * self.covariance @ (a * self.covariance + (1 - a) * torch.eye(2)).inverse()
        away = seen - a.sqrt() * self.mean[:, None, None]
        x0 = self.mean[0] + torch.einsum("c,bchw->bhw", gain[0], away)[:, None]
        return (seen[:, :1] - a.sqrt() * x0) / (1 - a).sqrt()


def moments(schedule, path, *, mean, covariance, y, release):
    """Mean and variance of B before each time of the path, and at its end, from the source y; B is first here."""
    state = np.array([0.0, math.sqrt(schedule.alpha_bar[path[0]]) * y])
    spread = np.diag([1.0, 1 - schedule.alpha_bar[path[0]].item()])
    found = []
    for t, s in itertools.pairwise([*path, 0]):
        found.append((state[0], spread[0, 0]))
        a, b = (schedule.alpha_bar[time].item() for time in (t, s))
        gain = math.sqrt(a) * covariance @ np.linalg.inv(a * covariance + (1 - a) * np.eye(2))
        of_x0 = math.sqrt(b) * (1 - a / b) / (1 - a)
        of_x_t = math.sqrt(a / b) * (1 - b) / (1 - a)
        added = (1 - a / b) * (1 - b) / (1 - a) * np.eye(2)
        step, offset = of_x0 * gain + of_x_t * np.eye(2), of_x0 * (mean - math.sqrt(a) * gain @ mean)
        if t > release:
            seen, of_seen = np.array([state[0], math.sqrt(a) * y]), np.diag([spread[0, 0], 1 - a])
            state, spread = step @ seen + offset, step @ of_seen @ step.T + added
            # Of the source the chain holds q(x_s | x_0), which what B saw of it tells nothing of.
            state[1], spread[1, 1] = math.sqrt(b) * y, 1 - b
            spread[0, 1] = spread[1, 0] = 0.0
        else:
            state, spread = step @ state + offset, step @ spread @ step.T + added
    return [*found, (state[0], spread[0, 0])]


@pytest.mark.parametrize(
    ("steps", "spacing", "release"),
    [(20, "even", 1), (20, "log-snr", 1), (20, "log-snr", 300), (12, "quadratic", 100), (5, "even", 1000)],
)
@pytest.mark.parametrize("noisy", [0.0, 0.1])
def test_the_chain_has_the_closed_forms_mean_and_variance(steps, spacing, release, noisy):
    """B = 0.1 − 0.8 A (+ something of its own): exact, in float64."""
    slope, deviation, y = -0.8, 0.3, 0.25
    mean = np.array([0.1 - 0.8 * 0.05, 0.05])
    covariance = np.array(
        [[slope**2 * deviation**2 + noisy**2, slope * deviation**2], [slope * deviation**2, deviation**2]]
    )
    method = UnitDdpm(
        replace(UnitDdpmConfig.tiny(), steps=1000, sampling_steps=steps, spacing=spacing, release_time=release),
        CONTRASTS,
    )
    method.nets["denoiser_T2w"] = Exact(method.schedule, mean, covariance)
    method.nets["denoiser_T1w"] = Exact(method.schedule, mean[::-1].copy(), covariance[::-1, ::-1].copy())
    noise = OneDrawAPixel(size=0.1)
    images = torch.full((1, 2, 8, 8, 2), y, dtype=torch.float64)
    batch = {"images": images, "available": torch.tensor([[True, False]])}
    made = method.translate(batch, "T2w", SliceWindows(1), noise).image
    expected = moments(method.schedule, method.path, mean=mean, covariance=covariance, y=y, release=release)[-1]
    assert noise.moments(made) == pytest.approx(expected, rel=1e-6, abs=1e-9)


def chain(*, path, schedule, deviation, noisy=0.0, slope=1.0):
    """`moments` from a source of 1, both contrasts of mean 0."""
    covariance = deviation**2 * np.array([[slope**2, slope], [slope, 1.0]]) + np.diag([noisy**2, 0.0])
    return moments(schedule, path, mean=np.zeros(2), covariance=covariance, y=1.0, release=1)


def test_ever_shorter_steps_end_at_the_true_map():
    """x^B = x^A: with k = (1 − ᾱ)/ᾱ over A's variance τ², x_t^B/√ᾱ has the mean (1 + k − √(k(k + 2))) x^A and the
    variance τ² k(k + 2) log(1 + 2/k)/2, which go to x^A and 0."""
    schedule, deviation = Schedule.cosine(8000), 0.4
    path = times(schedule, 8000)
    found = chain(path=path, schedule=schedule, deviation=deviation)
    for t in (6000, 3000, 1000, 300, 50):
        a = schedule.alpha_bar[t].item()
        k = (1 - a) / a / deviation**2
        mean, variance = found[path.index(t)]
        assert mean / math.sqrt(a) == pytest.approx(1 + k - math.sqrt(k * (k + 2)), rel=0.01)
        assert variance / a == pytest.approx(deviation**2 * k * (k + 2) * math.log1p(2 / k) / 2, rel=0.01)
    assert found[-1] == pytest.approx((1, 0), abs=0.006)


def test_how_much_of_the_source_comes_through():
    """What `unit_ddpm.py` says of few steps, and of contrasts that do not follow from each other."""
    schedule = Schedule.cosine(1000)
    kept = {}
    for steps, spacing in ((1000, "even"), (20, "even"), (20, "log-snr")):
        path = times(schedule, steps, spacing=spacing)
        kept[steps, spacing] = chain(path=path, schedule=schedule, deviation=0.4)[-1][0]
    assert kept == {
        (1000, "even"): pytest.approx(0.99, abs=0.005), (20, "even"): pytest.approx(0.79, abs=0.005),
        (20, "log-snr"): pytest.approx(0.95, abs=0.005),
    }  # fmt: skip
    noisy = chain(path=times(schedule, 1000), schedule=schedule, deviation=0.3, noisy=0.1)[-1]
    assert noisy[0] < 0.8  # of p(x^B | x^A) it is 1
    assert math.sqrt(noisy[1]) > 0.13  # 0.1


# Recipes


def test_what_cannot_be_is_named():
    with pytest.raises(InputError, match="two contrasts, got 3"):
        UnitDdpm(UnitDdpmConfig.tiny(), ("T1w", "T2w", "FLAIR"))
    with pytest.raises(InputError, match="makes T1w from T2w, which is not given"):
        make().translate(subject(1), "T1w", SliceWindows(), SUBJECT)


def test_recipes_are_syndiffs_comparison_and_a_small_one():
    own, small = find_recipe("unit_ddpm"), find_recipe("unit_ddpm_small")
    assert own.settings == UnitDdpmConfig()
    settings = own.settings
    assert (settings.steps, settings.sampling_steps, settings.release_time) == (1000, 1000, 1)
    assert (settings.cycle_weight, settings.learning_rate, settings.output) == (1, 1e-4, "noise")
    assert {optimizer.defaults["betas"] for optimizer in make().optimizers().values()} == {(0.5, 0.9)}
    changed = {name for name, value in vars(settings).items() if vars(small.settings)[name] != value}
    assert changed == {
        "sampling_steps", "spacing", "output", "channels", "multipliers", "blocks", "attention_levels",
        "translator_channels", "learning_rate",
    }  # fmt: skip


def test_networks_of_full_size():
    with torch.device("meta"):
        nets = denoiser(UnitDdpmConfig()), translator(UnitDdpmConfig())
    counts = [sum(parameter.numel() for parameter in net.parameters()) for net in nets]
    assert counts == [30_765_505, 8_115_585]


@pytest.mark.parametrize("table", ["syndiff-table2", "syndiff-table3", "syndiff-table4"])
def test_syndiffs_tables_run_it_for_fifty_epochs(table, tmp_path):
    request = Request(table=TABLES[table], out=tmp_path)
    row = next(row for row in request.table.present if row.name == "UNIT-DDPM")
    for task in request.table.tasks:
        config = request.config(task, row)
        slices = 9 * 90 if table == "syndiff-table4" else 25 * 100
        assert config.method == "unit_ddpm"
        assert config.training.steps * config.training.batch_size == 50 * slices
