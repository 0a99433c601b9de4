"""The engine: averages, clipping, learning rates, precision."""

import copy

import pytest
import torch

from scansynth.errors import InputError
from scansynth.method import Progress
from scansynth.methods.regression import Regression, RegressionConfig
from scansynth.noise import Noise
from scansynth.training.engine import Engine

CPU = torch.device("cpu")


def make_engine(precision="float32", gradient_clip=0.0):
    torch.manual_seed(0)
    return Engine(Regression(RegressionConfig.tiny(), ("T1w", "T2w")), CPU, precision, gradient_clip=gradient_clip)


def random_batch(size=16):
    images = torch.rand(2, 2, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return {"images": images, "available": torch.ones(2, 2, dtype=torch.bool)}


def step(engine, number, steps=100):
    engine.progress = Progress(number, steps, 0.0)
    noise = Noise([(0, number, place) for place in range(2)])
    engine.method.training_step(random_batch(), engine.update, engine.progress, noise)


def flat(net):
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()]).double()


def watch(engine):
    """What each update of G steps with: its gradient, (n,), and its learning rate."""
    seen = []

    def hook(optimizer, *_):
        gradient = torch.cat([parameter.grad.flatten() for parameter in engine.parameters_of("G")])
        seen.append((gradient, optimizer.param_groups[0]["lr"]))

    engine.optimizers["G"].register_step_pre_hook(hook)
    return seen


@pytest.mark.processor
def test_averages_follow_their_closed_form():
    engine = make_engine()
    engine.method.average_decay = 0.3  # reached after a few steps
    weights = [flat(engine.method.nets["unet"])]
    decays = []
    for number in range(6):
        step(engine, number)
        weights.append(flat(engine.method.nets["unet"]))
        decays.append(min(0.3, (1 + number) / (10 + number)))
    assert decays[0] == 0.1
    assert decays[-1] == 0.3
    # Σ_k (1 − d_k) Π_{j>k} d_j θ_k, and Π_j d_j of the start
    expected, remaining = torch.zeros_like(weights[0]), 1.0
    for decay, theta in zip(reversed(decays), reversed(weights[1:]), strict=True):
        expected += remaining * (1 - decay) * theta
        remaining *= decay
    expected += remaining * weights[0]
    torch.testing.assert_close(flat(engine.averages["unet"]), expected, rtol=0, atol=1e-6)
    assert (expected - weights[-1]).abs().max() > 1e-4


def test_averages_of_networks_that_begin_late_forget_their_start_as_quickly():
    early, late = make_engine(), make_engine()
    for engine, first in ((early, 0), (late, 500)):
        for number in range(3):
            step(engine, first + number, steps=1000)
    fresh = flat(make_engine().method.nets["unet"])
    moved = [(flat(engine.averages["unet"]) - fresh).norm() for engine in (early, late)]
    assert moved[1] > 0.3 * moved[0]  # by the step of the run it were a hundredth


def test_a_resumed_average_goes_on_where_it_was(tmp_path):
    whole, first, second = make_engine(), make_engine(), make_engine()
    for number in range(6):
        step(whole, 500 + number, steps=1000)
    for number in range(3):
        step(first, 500 + number, steps=1000)
    first.save(tmp_path / "last", 503, {})
    second.load(tmp_path / "last" / "step-00000503")
    for number in range(3, 6):
        step(second, 500 + number, steps=1000)
    assert torch.equal(flat(whole.averages["unet"]), flat(second.averages["unet"]))


@pytest.mark.parametrize(
    ("decay", "number", "factor"),
    [
        ("constant", 50, 1.0), ("cosine", 50, 0.5), (None, 50, 0.75), ("cooldown", 79, 1.0), ("cooldown", 90, 0.5),
    ],
)  # fmt: skip
def test_the_decay_of_a_run_stands_above_the_methods_own(decay, number, factor, monkeypatch):
    monkeypatch.setattr(Regression, "lr_factor", lambda self, player, progress: 0.75)
    engine = Engine(Regression(RegressionConfig.tiny(), ("T1w", "T2w")), CPU, "float32", decay=decay)
    seen = watch(engine)
    step(engine, number)
    assert seen[0][1] == pytest.approx(factor * RegressionConfig.tiny().learning_rate)


@pytest.mark.processor
def test_averaged_weights_are_put_in_and_taken_out_again():
    engine = make_engine()
    for number in range(3):
        step(engine, number)
    live, average = flat(engine.method.nets["unet"]), flat(engine.averages["unet"])
    with engine.averaged_weights():
        assert torch.equal(flat(engine.method.nets["unet"]), average)
        assert not engine.method.training
    assert torch.equal(flat(engine.method.nets["unet"]), live)
    assert engine.method.training


@pytest.mark.processor
def test_gradients_are_clipped_to_the_norm_and_keep_their_direction():
    free, clipped = make_engine(), make_engine(gradient_clip=1e-3)
    seen_free, seen_clipped = watch(free), watch(clipped)
    step(free, 0)
    step(clipped, 0)
    (whole, _), (cut, _) = seen_free[0], seen_clipped[0]
    assert whole.norm() > 2e-3
    assert cut.norm().item() == pytest.approx(1e-3, rel=1e-3)
    torch.testing.assert_close(cut / cut.norm(), whole / whole.norm(), rtol=0, atol=1e-5)


@pytest.mark.processor
def test_small_gradients_are_not_clipped():
    free, loose = make_engine(), make_engine(gradient_clip=1e6)
    seen_free, seen_loose = watch(free), watch(loose)
    step(free, 0)
    step(loose, 0)
    assert torch.equal(seen_free[0][0], seen_loose[0][0])


@pytest.mark.processor
def test_a_gradient_of_another_memory_layout_moves_its_own_weights():
    """`torch.autograd.grad` may return one, and fused optimisers pair numbers by their place in memory."""
    engine = make_engine()
    weight = next(parameter for parameter in engine.method.parameters() if min(parameter.shape[:2]) > 1)
    before, direction = weight.detach().clone(), torch.randn(weight.transpose(0, 1).shape)
    engine.update("G", {"loss": (weight.transpose(0, 1).contiguous() * direction).sum()})
    rate = engine.method.config.learning_rate
    expected = before * (1 - 1e-4 * rate) - rate * direction.transpose(0, 1).sign()  # AdamW's first step
    torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-6)


def test_the_learning_rate_is_the_base_rate_times_the_methods_factor():
    engine = make_engine()
    seen = watch(engine)
    for number in (0, 25, 50, 99):
        step(engine, number)
    base = engine.method.config.learning_rate
    factors = [engine.method.lr_factor("G", Progress(number, 100, 0.0)) for number in (0, 25, 50, 99)]
    assert [rate for _, rate in seen] == [base * factor for factor in factors]
    assert seen[0][1] == base
    assert seen[2][1] == pytest.approx(base / 2)
    assert seen[3][1] < base / 1000


@pytest.mark.processor
def test_bfloat16_stays_inside_the_networks():
    exact, rounded = make_engine(), make_engine("bfloat16")
    y, is_source, is_target = random_batch()["images"], torch.tensor([[True, False]]), torch.tensor([[False, True]])
    with torch.no_grad():
        outputs = [
            engine.method.predict(y, is_source.expand(2, -1), is_target.expand(2, -1)) for engine in (exact, rounded)
        ]
    assert outputs[1].dtype == torch.float32
    assert not torch.equal(*outputs)
    torch.testing.assert_close(*outputs, rtol=0, atol=0.05)
    for number in range(3):
        step(exact, number)
        step(rounded, number)
    kept = [
        *rounded.method.parameters(),
        *rounded.averages.parameters(),
        *(value for state in rounded.optimizers["G"].state.values() for value in state.values()),
    ]
    assert {tensor.dtype for tensor in kept} == {torch.float32}
    assert rounded.mean_losses()["G/l1"] == pytest.approx(exact.mean_losses()["G/l1"], rel=0.02)


def test_losses_are_means_since_the_last_call():
    engine = make_engine()
    parameter = next(engine.method.parameters())
    for value in (1.0, 2.0, 6.0):
        engine.update("G", {"a": parameter.sum() * 0 + value, "b": parameter.sum() * 0 - value})
    assert engine.mean_losses() == {"G/a": 3.0, "G/b": -3.0}
    assert engine.mean_losses() == {}


@pytest.mark.processor
def test_a_loss_that_is_not_finite_changes_nothing():
    engine = make_engine()
    before = copy.deepcopy(engine.method.state_dict())
    parameter = next(engine.method.parameters())
    with pytest.raises(InputError, match=r"loss of player 'G' is not finite .*fine 0.*broken nan"):
        engine.update("G", {"fine": (parameter * 0).square().sum(), "broken": parameter.sum() * float("nan")})
    assert all(torch.equal(before[name], tensor) for name, tensor in engine.method.state_dict().items())
