"""What every method owes the engine and the synthesis (`method.py`)."""

import json
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch

from conftest import first_stage_if
from scansynth.data.datasets import whole_subject
from scansynth.devices import Processes
from scansynth.errors import InputError
from scansynth.method import Progress
from scansynth.methods import find_method
from scansynth.noise import Noise
from scansynth.training.checkpoint import load_weights, restore
from scansynth.training.engine import Engine
from scansynth.training.first_stage import FOLDER, FirstStage
from scansynth.training.parts import make_method, make_parts
from scansynth.training.train import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(case, cohort, tiny, first_stage, tmp_path_factory):
    """Configuration and folder of a run of each case."""
    config = tiny(*case, steps=4)
    run = tmp_path_factory.mktemp("runs") / "run"
    return train(config, cohort, run, device=CPU, first_stage=first_stage_if(case[0], first_stage)), run


def engine_of(config, run):
    """The run's weights, in an engine of its own."""
    method = make_method(config)
    restore(dict(method.nets.items()), *load_weights(run))
    if method.needs.first_stage:
        method.first_stage = FirstStage.read(run / FOLDER)
    return Engine(method, CPU, "float32")


@pytest.fixture
def engine(trained):
    return engine_of(*trained)


class Like(Noise):
    """The noise of a subject, in the images' precision."""

    def __init__(self, images, seed):
        super().__init__([(seed, "subject", 0)])
        self.dtype = images.dtype

    def normal(self, name, shape):
        return super().normal(name, shape).to(self.dtype)


def translation(method, cohort, part=()):
    """`translate(...)` of the test subject's T1w to T2w, or to itself; of a part of the image plane if one is given."""
    method.eval()
    batch = whole_subject(cohort, cohort.subjects("test")[0], ("T1w", "T2w"), tissue=method.needs.tissue)
    part = (..., *part, slice(None)) if part else ...
    available = torch.tensor([[True, False]])
    sources = batch["images"][part] * available[..., None, None, None]
    target = "T1w" if method.reconstructs else "T2w"

    def translate(images=sources, available=available, seed=0, at_once=16, tick=None):
        given = {"images": images, "available": available}
        if "tissue" in batch:
            given["tissue"] = batch["tissue"][part].to(images)
        with torch.no_grad():
            return method.translate(given, target, method.needs.windows(at_once, tick), Like(images, seed)).image

    translate.sources = sources
    return translate


@pytest.fixture
def translate(engine, cohort):
    return translation(engine.method, cohort)


@pytest.fixture(scope="module")
def made(trained, cohort):
    """What `translate()` makes; each test has nets of its own."""
    return translation(engine_of(*trained).method, cohort)()


@pytest.fixture(scope="module")
def exact(trained, cohort):
    """`translate` in float64 on a part of the image that has several windows, and what it makes.

    A sampler that predicts noise divides by √ᾱ_T, which makes single precision's rounding visible.
    """
    translate = translation(engine_of(*trained).method.double(), cohort, (slice(8, 24), slice(4, 28)))
    images = translate.sources.double()
    return lambda **how: translate(images, **how), translate(images)


def test_trains_with_finite_losses(trained):
    config, run = trained
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == config.training.steps
    losses = {name: value for line in lines for name, value in line.items() if "/" in name}
    assert {name.split("/")[0] for name in losses} == {*make_method(config).players, "validation"}
    assert all(math.isfinite(value) for value in losses.values())


def test_every_net_and_parameter_belongs_to_one_player(engine):
    method = engine.method
    owned = Counter(name for names in method.players.values() for name in names)
    assert owned == Counter(method.nets.keys())
    assert set(method.averaged) <= owned.keys()
    assert engine.optimizers.keys() == method.players.keys()
    for player, optimizer in engine.optimizers.items():
        trained = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
        assert sorted(trained) == sorted(map(id, engine.parameters_of(player)))


def test_an_update_changes_its_own_players_nets_only(engine, trained, cohort):
    method = engine.method
    _, dataset = make_parts(trained[0], cohort, Processes(CPU), first_stage=method.first_stage)
    items = [dataset[place] for place in range(2)]
    batch = {key: torch.stack([item[key] for item in items]) for key in items[0]}
    updated = []

    def copies(nets):
        return {name: [tensor.clone() for tensor in net.state_dict().values()] for name, net in nets.items()}

    def changed(nets, before):
        return {
            name for name, net in nets.items() if not all(map(torch.equal, net.state_dict().values(), before[name]))
        }

    def update(player, losses):
        nets, averages = copies(method.nets), copies(engine.averages)
        engine.update(player, losses)
        own = set(method.players[player])
        assert changed(method.nets, nets) == own
        assert changed(engine.averages, averages) == own & set(method.averaged)
        assert all(parameter.grad is None for parameter in method.parameters())
        updated.append(player)

    for number in range(2):  # at the second step the averages have left the nets
        engine.progress = Progress(number, 10, 0.0)
        method.training_step(batch, update, engine.progress, Noise([(0, number, 0), (0, number, 1)]))
    assert set(updated) == set(method.players)


def test_translate_makes_the_whole_volume(translate, made):
    assert made.shape == (1, 1, *translate.sources.shape[2:])
    assert made.dtype == torch.float32
    assert torch.isfinite(made).all()
    assert made.abs().max() <= 1
    assert made.std() > 0


def test_noise_keys_decide_the_sample(translate, made, engine):
    assert torch.equal(made, translate())
    assert torch.equal(made, translate(seed=1)) != engine.method.stochastic


@pytest.mark.parametrize("at_once", [1, 5, 64])
def test_windows_at_once_do_not_change_the_result(exact, at_once):
    translate, made = exact
    torch.testing.assert_close(translate(at_once=at_once), made, rtol=0, atol=1e-9)


def test_progress_is_told_as_often_as_was_said(engine, translate):
    ticks = []
    translate(at_once=5, tick=lambda: ticks.append(None))
    through = engine.method.needs.windows(5).ticks(translate.sources.shape[2:])
    assert len(ticks) == engine.method.passes * through > 0


def test_what_is_not_given_is_never_read(translate, made):
    images = translate.sources.clone()
    images[:, 1] = 100 * torch.randn(images[:, 1].shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(translate(images), made)


def test_the_source_is_read(translate, made):
    assert not torch.equal(translate(-translate.sources), made)


def test_a_missing_source_is_the_users_fault(translate):
    with pytest.raises(InputError, match=r"T[12]w"):
        translate(torch.zeros_like(translate.sources), torch.tensor([[False, False]]))


def test_one_contrast_is_too_few_to_translate(case, tiny):
    if find_method(case[0]).reconstructs:
        assert make_method(replace(tiny(*case), contrasts=("T1w",))).targets == ("T1w",)
        return
    with pytest.raises(InputError, match="two"):
        make_method(replace(tiny(*case), contrasts=("T1w",)))


def test_the_mean_is_one_pass_and_no_draw(engine, cohort):
    """It hardly depends on the noise, where the networks are asked at t = T."""
    method, ticks = engine.method, []
    if not method.gives_mean:
        assert method.stochastic
        return
    method.eval()
    batch = whole_subject(cohort, cohort.subjects("test")[0], ("T1w", "T2w"), tissue=method.needs.tissue)
    target, available = "T1w" if method.reconstructs else "T2w", torch.tensor([[True, False]])
    given = {"images": batch["images"] * available[..., None, None, None], "available": available}
    if "tissue" in batch:
        given["tissue"] = batch["tissue"]

    def mean(seed):
        with torch.no_grad():
            windows = method.needs.windows(16, lambda: ticks.append(None))
            return method.mean(given, target, windows, Noise([(seed, "subject", 0)])).image

    first = mean(0)
    assert len(ticks) == method.needs.windows(16).ticks(batch["images"].shape[2:])
    assert first.shape == batch["images"][:, :1].shape
    assert torch.isfinite(first).all()
    assert torch.equal(mean(0), first)
    if not method.stochastic:
        assert torch.equal(mean(1), first)
