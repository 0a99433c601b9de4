"""cDPM: index sets, the loss of target slices, volumes made stage by stage, and what trains it."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

import scansynth
from scansynth.config import DataSettings, RunConfig, Training
from scansynth.data.prepare import find_preparation
from scansynth.data.samples import LABEL_WIDTH
from scansynth.diffusion.samplers import times
from scansynth.diffusion.stages import Stage, autoregressive_plan, hierarchical_plan
from scansynth.diffusion.windows import Whole
from scansynth.errors import InputError
from scansynth.method import Progress
from scansynth.methods import cdpm
from scansynth.methods.cdpm import (
    Cdpm,
    CdpmConfig,
    draw_index_sets,
    draw_training_sets,
    stages_of,
    target_mean,
)
from scansynth.noise import Noise
from scansynth.progress import Event
from scansynth.recipes import find_recipe
from scansynth.training.parts import make_method
from scansynth.training.train import train
from scansynth.training.validation import held_out_loss, held_out_samples
from test_stages import DEPTH, UnitDraws, autoregressive_field, conditional, implied

CPU = torch.device("cpu")
TRANSLATOR = CdpmConfig.tiny()
GENERATOR = replace(TRANSLATOR, translator=False)
KEYS = [(0, 0, 0), (0, 0, 1)]


def drawn(depth, count, largest=20):
    generator = torch.Generator().manual_seed(depth)
    return [draw_index_sets(depth, generator, largest) for _ in range(count)]


@pytest.mark.parametrize("depth", [1, 2, 7, 20, 128])
def test_index_sets_keep_their_bounds(depth):
    sizes = set()
    for index, is_target in drawn(depth, 300):
        assert len(index) == len(is_target) <= min(20, depth)
        assert 0 <= index.min() <= index.max() < depth
        assert (index.diff() > 0).all()
        assert is_target.any()
        sizes.add(len(index))
    assert sizes == set(range(1, min(20, depth) + 1))


def test_index_sets_are_often_empty_of_conditions(monkeypatch):
    def share():
        return np.mean([is_target.all().item() for _, is_target in drawn(128, 2000)])

    found = share()
    monkeypatch.setattr(cdpm, "EMPTY", 0.0)
    assert found > 0.1
    assert found == pytest.approx(0.1 + 0.9 * share(), abs=0.015)


def test_index_sets_lie_anywhere_from_neighbours_to_the_whole_volume():
    sets = [index for index, _ in drawn(128, 2000)]
    gaps = np.array([(index[1] - index[0]).item() for index in sets if len(index) == 2])
    assert (gaps <= 3).mean() > 0.1
    assert (gaps >= 60).mean() > 0.1
    assert any(len(index) >= 10 and (index.diff() == 1).all() for index in sets)
    assert any(len(index) == 20 and index.diff().max() <= 8 and index[-1] - index[0] > 110 for index in sets)
    both = [(index, is_target) for index, is_target in drawn(128, 500) if len(index) == 20 and not is_target.all()]
    assert 0.3 < np.mean([is_target.float().mean().item() for _, is_target in both]) < 0.75


def test_index_sets_depend_on_the_generator_alone():
    first, second = drawn(128, 20), drawn(128, 20)
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True))
    assert len({tuple(index.tolist()) for index, _ in first}) > 15


def drawn_stages(settings, depth=64, count=2000):
    """How often each stage of the plan comes in so many draws of a run's needs, and how many draws are none."""
    stages = dict.fromkeys(stages_of(settings, depth), 0)
    draw, generator = Cdpm.needs_of(settings, ("T1w",)).draw, torch.Generator().manual_seed(1)
    for _ in range(count):
        index, is_target = draw(depth, generator)
        assert (index.diff() > 0).all()
        stage = Stage(tuple(index[~is_target].tolist()), tuple(index[is_target].tolist()))
        if stage in stages:
            stages[stage] += 1
    return np.array([*stages.values()])


@pytest.mark.parametrize("plan", ["autoregressive", "hierarchical"])
def test_a_share_of_the_training_sets_are_stages_of_the_plan_each_as_likely(plan):
    settings = CdpmConfig(plan=plan, plan_share=0.5)
    assert min(drawn_stages(replace(settings, plan_share=1.0))) > 0.6 * 2000 / len(stages_of(settings, 64))
    found = drawn_stages(settings)
    assert found.sum() / 2000 == pytest.approx(0.5, abs=0.04)
    assert found.min() > 0.5 * found.mean()
    assert drawn_stages(replace(settings, plan_share=0.0)).sum() <= 20  # any slices are hardly ever those of a stage


def test_without_stages_of_the_plan_the_sets_are_those_of_before():
    numbers = [torch.Generator().manual_seed(5) for _ in range(2)]
    for _ in range(20):
        index, is_target = draw_training_sets(128, numbers[0], CdpmConfig())
        before = draw_index_sets(128, numbers[1], 20)
        assert torch.equal(index, before[0])
        assert torch.equal(is_target, before[1])


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_of_stages_is_a_share(share):
    with pytest.raises(InputError, match=r"in \[0, 1\]"):
        replace(GENERATOR, plan_share=share)


def test_what_a_run_trains_on_is_known_without_a_network(monkeypatch):
    monkeypatch.setattr(cdpm, "SliceUNet", None)
    assert Cdpm.needs_of(replace(GENERATOR, plan_share=0.5), ("T1w",)).draw(64, torch.Generator())[1].any()


def test_the_mean_is_over_each_sets_target_slices():
    values = torch.arange(6.0).reshape(2, 1, 3, 1, 1).expand(2, 1, 3, 2, 2)
    is_target = torch.tensor([[True, True, False], [False, False, True]])
    assert target_mean(values, is_target).item() == (0.5 + 5.0) / 2


def sets_of_slices(contrasts=1, n=6):
    generator = torch.Generator().manual_seed(3)
    return {
        "slices": torch.rand(2, n, contrasts, 8, 8, generator=generator) * 2 - 1,
        "index": torch.tensor([[0, 1, 5, 6, 0, 0], [2, 3, 4, 9, 10, 11]]),
        "is_target": torch.tensor([[True, False, True, False, False, False], [False] * 5 + [True]]),
        "valid": torch.tensor([[True] * 4 + [False] * 2, [True] * 6]),
        "available": torch.ones(2, contrasts, dtype=torch.bool),
        "depth": torch.tensor([12, 12]),
    }


def loss_of(method, batch):
    found = {}
    method.training_step(batch, lambda player, losses: found.update(losses), Progress(0, 10, 0.0), Noise(KEYS))
    (loss,) = found.values()
    return loss


@pytest.mark.parametrize("output", ["noise", "velocity"])
def test_the_loss_counts_target_slices_only(output):
    torch.manual_seed(0)
    method, batch = Cdpm(replace(GENERATOR, output=output), ("T1w",)), sets_of_slices()
    others = ~batch["is_target"][..., None, None, None]
    loss = loss_of(method, batch)
    handle = method.nets["unet"].register_forward_hook(lambda net, inputs, out: torch.where(others, 1e3, out))
    assert torch.equal(loss_of(method, batch), loss)
    handle.remove()
    method.nets["unet"].register_forward_hook(lambda net, inputs, out: torch.where(others, out, out + 1))
    assert not torch.equal(loss_of(method, batch), loss)


def test_a_network_that_gives_the_velocity_learns_by_its_error():
    torch.manual_seed(0)
    method, batch, given = Cdpm(replace(GENERATOR, output="velocity"), ("T1w",)), sets_of_slices(), []
    method.nets["unet"].register_forward_hook(lambda net, inputs, out: given.append(out.transpose(1, 2)))
    loss = loss_of(method, batch)
    noise, x0 = Noise(KEYS), batch["slices"].transpose(1, 2)
    t = noise.integers("t", 1, method.config.steps + 1)
    alpha_bar = method.schedule.at(t, x0)
    velocity = alpha_bar.sqrt() * noise.normal("eps", x0.shape[1:]) - (1 - alpha_bar).sqrt() * x0
    torch.testing.assert_close(loss, target_mean((velocity - given[0]).square(), batch["is_target"]))


@pytest.mark.parametrize("output", ["noise", "velocity"])
def test_the_loss_may_be_weighted_by_min_snr(output):
    """Two sets at two times, so that a factor for all would not pass."""
    batch, given = sets_of_slices(), []
    torch.manual_seed(0)
    method = Cdpm(replace(GENERATOR, output=output, weighting="min-snr"), ("T1w",))
    method.nets["unet"].register_forward_hook(lambda net, inputs, out: given.append(out.transpose(1, 2)))
    loss = loss_of(method, batch)
    noise, x0 = Noise(KEYS), batch["slices"].transpose(1, 2)
    t = noise.integers("t", 1, method.config.steps + 1)
    assert t.unique().numel() == 2
    alpha_bar, eps = method.schedule.at(t, x0), noise.normal("eps", x0.shape[1:])
    snr = alpha_bar / (1 - alpha_bar)
    wanted = eps if output == "noise" else alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x0
    weight = snr.clamp(max=5) / (snr if output == "noise" else snr + 1)
    torch.testing.assert_close(loss, target_mean(weight * (wanted - given[0]).square(), batch["is_target"]))


@pytest.mark.parametrize("settings", [GENERATOR, TRANSLATOR])
def test_networks_see_clean_conditions_noisy_targets_and_which_is_which(settings):
    contrasts = ("T1w", "T2w")[: 1 + settings.translator]
    method, batch, seen = Cdpm(settings, contrasts), sets_of_slices(len(contrasts)), []
    method.nets["unet"].register_forward_pre_hook(
        lambda net, inputs, named: seen.append((*inputs, named["valid"])), with_kwargs=True
    )
    loss_of(method, batch)
    x, _, index, depth, valid = seen[0]
    assert (index is batch["index"], depth is batch["depth"], valid is batch["valid"]) == (True, True, True)
    assert torch.equal(x[:, :, 1, 0, 0] > 0, batch["is_target"])
    noisy = batch["is_target"]
    if settings.translator:
        sources, given, asked = x[:, :, 2:4], x[:, 0, 4:6, 0, 0], x[:, 0, 6:8, 0, 0]
        assert (given.sum(1) == 1).all()
        assert torch.equal(given + asked, torch.ones(2, 2))
        assert torch.equal(sources, batch["slices"] * given[:, None, :, None, None])
        clean = (batch["slices"] * asked[:, None, :, None, None]).sum(2)
    else:
        assert x.shape[2] == 2
        clean = batch["slices"][:, :, 0]
    assert torch.equal(x[:, :, 0][~noisy], clean[~noisy])
    assert (x[:, :, 0][noisy] - clean[noisy]).abs().amax((1, 2)).min() > 1e-3


class Exact(nn.Module):
    """E[ε given X̃_t] of a Gaussian field along the slices: what a trained network tends to."""

    def __init__(self, schedule, covariance):
        super().__init__()
        self.schedule, self.covariance = schedule, covariance

    def forward(self, x, t, index, depth, valid, labels):
        assert valid.all()
        assert labels is None
        assert (len(x), depth.item()) == (1, DEPTH)
        is_target = x[0, :, 1, 0, 0] > 0
        values, a = x[0, :, 0, :, 0].T, self.schedule.alpha_bar[t[0]]  # (rows, n)
        gain, left = conditional(
            self.covariance, Stage(tuple(index[0, ~is_target].tolist()), tuple(index[0, is_target].tolist()))
        )
        away = values[:, is_target] - a.sqrt() * values[:, ~is_target] @ gain.T
        total = a * left + (1 - a) * torch.eye(len(left), dtype=torch.float64)
        eps = torch.zeros_like(values)
        eps[:, is_target] = (1 - a).sqrt() * torch.linalg.solve(total, away.T).T
        return eps.T[None, :, None, :, None]


def by_ddim(schedule, path):
    """What DDIM with η = 0 makes of a stage, as `conditional`: each direction of the covariance is scaled apart."""

    def of_stage(covariance, stage):
        gain, left = conditional(covariance, stage)
        variance, directions = torch.linalg.eigh(left)
        a, scale = schedule.alpha_bar, torch.ones_like(variance)
        for t, s in pairwise([*path, 0]):
            to_s = (a[s] * a[t]).sqrt() * variance + ((1 - a[s]) * (1 - a[t])).sqrt()
            scale = scale * to_s / (a[t] * variance + 1 - a[t])
        kept = directions @ torch.diag(scale) @ directions.T
        return gain - a[path[0]].sqrt() * kept @ gain, kept @ kept

    return of_stage


@pytest.mark.parametrize("plan", [autoregressive_plan, hierarchical_plan])
def test_generation_has_the_covariance_of_its_sampler_and_plan(plan):
    """A field of memory 10, stages of 10: across all stages, in closed form."""
    settings = CdpmConfig(channels=8, multipliers=(1,), blocks=1, attention_levels=(), sampler="ddim", sampling_steps=8)
    method, covariance = Cdpm(settings, ("T1w",)), autoregressive_field(10)
    method.nets["unet"] = Exact(method.schedule, covariance)
    stages = plan(DEPTH)
    volume = method.generate((DEPTH, 1, DEPTH), Whole(), UnitDraws(), plan=stages)
    made = volume[0, 0, :, 0].T @ volume[0, 0, :, 0]
    expected = implied(stages, covariance, by_ddim(method.schedule, method.path))
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-9)
    if plan is autoregressive_plan:  # the configured one; right but for the steps, which are too long at T = 1000 still
        assert torch.equal(method.generate((DEPTH, 1, DEPTH), Whole(), UnitDraws()), volume)
        fine = implied(stages, covariance, by_ddim(method.schedule, times(method.schedule, 1000)))
        errors = [(one - covariance).abs().max() / covariance.max() for one in (fine, expected)]
        assert errors[0] < 0.03 < errors[1]


@pytest.mark.parametrize("settings", [{}, {"plan": "hierarchical", "sampler": "ddim"}, {"output": "velocity"}])
def test_a_generator_makes_a_volume(settings):
    torch.manual_seed(0)
    method = Cdpm(replace(GENERATOR, **settings), ("T1w",)).eval()
    ticks = []
    windows = method.needs.windows(tick=lambda: ticks.append(0))
    with torch.no_grad():
        made = method.generate((8, 4, 11), windows, Noise([(0, "new", 0)]))
    assert made.shape == (1, 1, 8, 4, 11)
    assert torch.isfinite(made).all()
    assert made.abs().max() <= 1
    assert len(made[0, 0].flatten(0, 1).T.unique(dim=0)) == 11
    assert len(ticks) == method.sampling_steps * windows.ticks((8, 4, 11)) == 3 * len(method.plan(11))


def test_a_generator_and_a_translator_are_told_apart(tmp_path):
    generator, translator = Cdpm(GENERATOR, ("T1w",)), Cdpm(TRANSLATOR, ("T1w", "T2w"))
    assert (generator.needs.generates, translator.needs.generates) == (True, False)
    batch = {"images": torch.zeros(1, 1, 8, 8, 4), "available": torch.tensor([[True]])}
    with pytest.raises(InputError, match="generate with it"):
        generator.translate(batch, "T1w", Whole(), Noise([(0,)]))
    with pytest.raises(InputError, match="translate with it"):
        translator.generate((8, 8, 4), Whole(), Noise([(0,)]))
    with pytest.raises(InputError, match="generates one contrast, got T1w, T2w"):
        Cdpm(GENERATOR, ("T1w", "T2w"))
    with pytest.raises(InputError, match="lacks slice 3"):
        generator.generate((8, 8, 4), Whole(), Noise([(0,)]), plan=[Stage((), (0, 1, 2))])
    for stage, largest in ((1, 20), (11, 20)):
        with pytest.raises(InputError, match=f"stages of {stage} slices"):
            replace(GENERATOR, stage=stage, largest=largest)


LABELLED = replace(GENERATOR, labels=("age", "sex"))


def test_networks_without_labels_are_as_they_were():
    """Same parameters, same first weights, same draws: labels are a part that is not there."""
    torch.manual_seed(0)
    without = Cdpm(GENERATOR, ("T1w",))
    torch.manual_seed(0)
    labelled = Cdpm(LABELLED, ("T1w",))
    weights, more = without.nets.state_dict(), labelled.nets.state_dict()
    assert more.keys() - weights.keys() == {"unet.labels.weight"}
    assert not any("labels" in name for name in weights)
    assert all(torch.equal(weights[name], more[name]) for name in weights)
    assert (without.needs.labels, labelled.needs.labels) == ((), ("age", "sex"))
    batch = sets_of_slices()
    unknown = {**batch, "labels": torch.zeros(2, 2 * LABEL_WIDTH)}
    assert torch.equal(loss_of(labelled, unknown), loss_of(without, batch))


def test_labels_reach_the_network_and_are_dropped_at_random():
    """Of each sample all with probability 0.1, and each by itself with 0.1 of the rest."""
    method, count, seen = Cdpm(LABELLED, ("T1w",)), 4000, []
    method.nets["unet"].register_forward_pre_hook(
        lambda net, inputs, named: seen.append(named["labels"]), with_kwargs=True
    )
    batch = {key: value[:1].expand(2, *value.shape[1:]) for key, value in sets_of_slices().items()}
    c = torch.rand(2, 2 * LABEL_WIDTH) + 1
    for step in range(3):
        noise = Noise([(0, step, 0), (0, step, 1)])
        method.training_step({**batch, "labels": c}, lambda player, losses: None, Progress(0, 10, 0.0), noise)
        assert torch.equal(seen[-1], cdpm.drop_labels(c, noise))
    c = torch.rand(count, 2 * LABEL_WIDTH) + 1
    left = cdpm.drop_labels(c, Noise([(0, place) for place in range(count)])).unflatten(1, (2, -1))
    kept = (left != 0).all(-1)
    assert torch.equal(left[kept], c.unflatten(1, (2, -1))[kept])
    assert not left[~kept].any()
    assert (~kept).all(1).float().mean() == pytest.approx(0.1 + 0.9 * 0.1**2, abs=0.02)
    assert (kept[:, 0] & ~kept[:, 1]).float().mean() == pytest.approx(0.9 * 0.9 * 0.1, abs=0.02)


def test_labels_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="a translator has sources"):
        replace(TRANSLATOR, labels=("age",))
    with pytest.raises(InputError, match="name each one once"):
        replace(GENERATOR, labels=("age", "age"))
    shape, noise = (8, 8, 4), Noise([(0,)])
    with pytest.raises(InputError, match=r"trained with \(age, sex\)"):
        Cdpm(LABELLED, ("T1w",)).generate(shape, Whole(), noise, labels=torch.zeros(1, LABEL_WIDTH))
    with pytest.raises(InputError, match=r"trained with \(none\)"):
        Cdpm(GENERATOR, ("T1w",)).generate(shape, Whole(), noise, labels=torch.zeros(1, LABEL_WIDTH))
    method = Cdpm(GENERATOR, ("T1w",))
    with torch.no_grad():
        unlabelled, empty = (method.generate(shape, Whole(), noise, labels=c) for c in (None, torch.zeros(1, 0)))
    assert torch.equal(unlabelled, empty)


@pytest.fixture(scope="module")
def generator_run(gridded, tmp_path_factory):
    run = tmp_path_factory.mktemp("generator") / "run"
    training = Training(steps=4, batch_size=2, log_every=2, validate_every=2, validation_slices=3)
    return train(RunConfig("cdpm", GENERATOR, ("T1w",), training=training), gridded, run, device=CPU), run


def test_a_generator_is_watched_by_its_loss_on_held_out_sets(generator_run, gridded):
    config, run = generator_run
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    watched = [line["validation/loss"] for line in lines if "validation/loss" in line]
    assert len(watched) == 2
    best = scansynth.load(run, "cpu")
    sets = held_out_samples(gridded, best.method, config)
    assert sets is not None
    assert sets.subjects == gridded.subjects("val")
    assert held_out_loss(best.method, sets, config, CPU) == pytest.approx(min(watched), rel=1e-4)
    translator = replace(config, settings=TRANSLATOR, contrasts=("T1w", "T2w"))
    assert held_out_samples(gridded, make_method(translator), translator) is None


def test_a_part_of_a_volume_keeps_its_place_in_it(cohort, tiny, tmp_path):
    """Slices without tissue are not translated; the others are still the fifth to the ninth of twelve."""
    train(tiny("cdpm", steps=2), cohort, tmp_path / "run", device=CPU)
    run = scansynth.load(tmp_path / "run", "cpu")
    seen, reports = [], []
    run.method.nets["unet"].register_forward_pre_hook(lambda net, inputs: seen.append(inputs))
    images = torch.zeros(1, 2, 16, 16, 12)
    images[..., 5:10] = 0.5
    available = torch.tensor([[True, False]])
    run.make(
        images,
        available,
        "T2w",
        noise=Noise([(0, "a", 0)]),
        at_once=None,
        report=reports.append,
    )
    assert {tuple(index[0].tolist()) for _, _, index, _ in seen} == {(5, 6, 7), (5, 6, 7, 8, 9)}
    assert {depth.item() for _, _, _, depth in seen} == {12}
    assert reports == [Event(done, 6) for done in range(1, 7)]  # two stages of three steps


def test_settings_of_single_slices_are_refused_with_sets(cohort, tiny, tmp_path):
    config = replace(tiny("cdpm"), data=DataSettings(slices_per_subject=4))
    with pytest.raises(InputError, match="sets of slices: of the settings under data, only acceleration counts"):
        train(config, cohort, tmp_path / "run", device=CPU)


def test_recipes_say_what_the_paper_says():
    paper = find_recipe("cdpm")
    assert paper.contrasts == ("T1w",)
    assert (paper.training.steps, paper.training.batch_size) == (200_000, 3)
    settings = paper.settings
    assert (settings.weighting, settings.plan_share) == ("uniform", 0.0)
    assert (settings.learning_rate, settings.largest, settings.stage, settings.steps) == (1e-4, 20, 10, 1000)
    assert len(make_method(paper).plan(128)) == 13
    preparation = find_preparation("cdpm")
    assert (preparation.size, preparation.spacing) == ((128, 128, 128), (1.375, 1.375, 1.0))
    for name in (
        "cdpm_small",
        "cdpm_hierarchical_small",
        "cdpm_relative_small",
        "cdpm_translator_small",
        "cdpm_small_labelled",
    ):
        config = find_recipe(name)
        small = make_method(replace(config, contrasts=config.contrasts or ("T1w", "T2w")))
        assert (small.needs.generates, small.needs.size_multiple) == (not config.settings.translator, 8)
        assert config.settings.absolute == ("relative" not in name)
        assert (config.settings.plan == "hierarchical") == ("hierarchical" in name)
        assert small.needs.labels == (("age", "sex") if "labelled" in name else ())
        assert (config.settings.weighting, config.settings.plan_share) == ("min-snr", 0.5)


def test_the_baseline_makes_whole_volumes():
    for name in ("ddpm_3d", "ddpm_3d_small"):
        config = find_recipe(name)
        assert config.contrasts == ("T1w",)
        method = make_method(config)
        assert method.needs.generates
        assert all(side % method.needs.size_multiple == 0 for side in method.needs.size)
    assert find_recipe("ddpm_3d").settings.patch == (128, 128, 32)  # 32 slices at a time (section 3.3)
