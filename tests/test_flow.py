"""The flow (`methods/flow.py`): its one step, its start, its noise, and what it builds on."""

from dataclasses import replace

import pytest
import torch

from scansynth.data.datasets import whole_subject
from scansynth.errors import InputError
from scansynth.method import Progress
from scansynth.methods.any_to_any import as_factors, draw_task, task_planes
from scansynth.methods.flow import Flow, FlowConfig
from scansynth.methods.regression import RegressionConfig
from scansynth.noise import Noise
from scansynth.synthesis.run import Run
from scansynth.training.train import train

CPU = torch.device("cpu")
CONTRASTS = ("T1w", "T2w", "FLAIR")
UNITS = {
    "slices": {}, "neighbours": {"neighbours": 1}, "patches": {"patch": (8, 8, 8)},
    "volumes": {"patch": (8, 8, 8), "wavelets": 1},
}  # fmt: skip


def flow(**settings):
    torch.manual_seed(0)
    return Flow(replace(FlowConfig.tiny(), **settings), CONTRASTS).eval()


def subject(flow, available=(True, False, True), shape=(8, 12, 8)):
    images = torch.rand((1, 3, *shape), generator=torch.Generator().manual_seed(1)) * 2 - 1
    available = torch.tensor([available])
    batch = {"images": images * available[..., None, None, None], "available": available}
    if n := flow.needs.neighbours:
        batch["neighbours"] = batch["images"][:, :, None].expand(-1, -1, 2 * n, -1, -1, -1)
    return batch


def made(flow, batch, *, seed=0, **how):
    with torch.no_grad():
        return flow.translate(batch, "T2w", flow.needs.windows(), Noise([(seed, "subject", 0)]), **how).image


def mean(flow, batch):
    with torch.no_grad():
        return flow.mean(batch, "T2w", flow.needs.windows(), Noise([(0, "subject", 0)])).image


@pytest.mark.parametrize("unit", UNITS)
def test_one_step_is_the_regression_of_the_residual(unit):
    """s + v(s, t = 0), whatever the solver: to 1e−6."""
    for solver in ("euler", "heun", "dpm-solver"):
        net = flow(sampling_steps=1, solver=solver, **UNITS[unit])
        batch = subject(net)
        s = batch["images"][:, [0, 2]].mean(1, keepdim=True)
        y = torch.cat([batch["images"], batch["neighbours"].flatten(1, 2)], 1) if unit == "neighbours" else None
        y = batch["images"] if y is None else y
        planes = torch.tensor([[1.0, 0, 1, 0, 1, 0]]).reshape(1, 6, 1, 1, 1)

        def regression(s, y, net=net, planes=planes):
            return net.predict(s, torch.zeros(len(s)), s=s, y=y, planes=planes.expand(len(s), *planes.shape[1:]))

        with torch.no_grad():
            expected = (s + net.needs.windows().map(regression, s, y)).clamp(-1, 1)
        torch.testing.assert_close(made(net, batch), expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(mean(net, batch), expected, atol=1e-6, rtol=0)
        assert torch.equal(made(net, batch, seed=5), made(net, batch))


def test_at_t_0_the_loss_is_that_of_a_regression_of_the_residual():
    net = flow(at_start=1.0)
    batch = {"images": torch.rand(2, 3, 8, 8) * 2 - 1, "available": torch.ones(2, 3, dtype=torch.bool)}
    noise, seen = Noise([(0, 0, 0), (0, 0, 1)]), {}
    net.training_step(batch, lambda player, losses: seen.update(losses), Progress(0, 1, 0.0), noise)
    is_source, is_target = draw_task(batch["available"], CONTRASTS, CONTRASTS, noise)
    x = (batch["images"] * as_factors(is_target, batch["images"])).sum(1, keepdim=True)
    y = batch["images"] * as_factors(is_source, batch["images"])
    s = net.start(batch["images"], is_source)
    planes = task_planes(is_source, is_target, batch["images"])
    residual = net.predict(s, torch.zeros(2), s=s, y=y, planes=planes)
    torch.testing.assert_close(seen["direction"], (residual - (x - s)).square().mean())
    x_hat = s + residual
    torch.testing.assert_close(seen["direction"], (x_hat - x).square().mean())


def test_the_start_is_the_mean_of_what_is_given():
    images = torch.rand(2, 3, 4, 4)
    found = flow().start(images, torch.tensor([[True, False, False], [True, False, True]]))
    torch.testing.assert_close(found[:, 0], torch.stack([images[0, 0], images[1, [0, 2]].mean(0)]))


def test_without_noise_there_is_one_path():
    certain, batch = flow(sigma=0.0, solver="euler"), subject(flow())
    assert not certain.stochastic
    assert torch.equal(made(certain, batch, seed=1), made(certain, batch, seed=2))
    for settings in ({}, {"start": "noise"}):
        noisy = flow(**settings)
        assert noisy.stochastic
        assert not torch.equal(made(noisy, batch, seed=1), made(noisy, batch, seed=2))
    with pytest.raises(InputError, match="dpm-solver no noise"):
        flow(sigma=0.0)
    with pytest.raises(InputError, match="at_start 2"):
        flow(at_start=2)


def test_a_target_is_not_read():
    net = flow()
    batch = subject(net)
    other = {**batch, "images": batch["images"].clone()}
    other["images"][:, 1] = 0.7
    assert torch.equal(made(net, batch), made(net, other))


def test_calls_are_counted():
    assert flow(sampling_steps=4).sampling_steps == 4
    assert flow(sampling_steps=4, solver="heun").sampling_steps == 7


def test_a_flow_from_a_regression(cohort, tiny, tmp_path):
    settings = replace(FlowConfig.tiny(), start="regression")
    config = tiny("flow", settings, steps=3)
    with pytest.raises(InputError, match="builds on a trained regression"):
        train(config, cohort, tmp_path / "alone", device=CPU)
    train(tiny("regression", steps=3), cohort, tmp_path / "regression", device=CPU)
    run = tmp_path / "flow"
    train(config, cohort, run, device=CPU, first_stage=tmp_path / "regression")
    (tmp_path / "regression").rename(tmp_path / "gone")  # the run is whole by itself
    loaded, first = Run.load(run, "cpu"), Run.load(tmp_path / "gone", "cpu")
    batch = whole_subject(cohort, cohort.subjects("test")[0], ("T1w", "T2w"))
    batch["available"][:, 1] = False
    batch["images"][:, 1] = 0
    noise = Noise([(0, "subject", 0)])
    with torch.no_grad():
        s = first.method.translate(batch, "T2w", first.method.needs.windows(), noise).image
        loaded.method.nets["unet"].requires_grad_(False)
        for parameter in loaded.method.nets["unet"].get_submodule("last").parameters():
            parameter.zero_()  # v = 0: the path stays where it starts, but for noise that x̂ = s takes away
        found = loaded.method.translate(batch, "T2w", loaded.method.needs.windows(), noise).image
    torch.testing.assert_close(found, s, atol=1e-5, rtol=0)
    # goes on by itself
    train(replace(config, training=replace(config.training, steps=4)), cohort, run, device=CPU)


@pytest.mark.parametrize("other", [{"neighbours": 1}, {"patch": (16, 16, 8)}])
def test_a_regression_that_sees_something_else_is_refused(other, cohort, tiny, tmp_path):
    run = tmp_path / "regression"
    train(tiny("regression", replace(RegressionConfig.tiny(), **other), steps=1), cohort, run, device=CPU)
    config = tiny("flow", replace(FlowConfig.tiny(), start="regression"), steps=1)
    with pytest.raises(InputError, match="the flow slices: give it the same patch"):
        train(config, cohort, tmp_path / "flow", device=CPU, first_stage=run)
    with pytest.raises(InputError, match="a run of regression; one of autoencoder is needed"):
        train(tiny("ldm", steps=1), cohort, tmp_path / "ldm", device=CPU, first_stage=run)
