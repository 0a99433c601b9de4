"""Consistency distillation (`scansynth distill`): its equations on Gaussians, and what a distilled run is."""

import copy
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch import nn

from scansynth.cli import main
from scansynth.config import read_yaml
from scansynth.diffusion.distillation import (
    consistency,
    consistent,
    distillation_loss,
    distillation_times,
    few_times,
    heun,
    sigma,
)
from scansynth.diffusion.gaussian import q_sample
from scansynth.diffusion.samplers import ddim
from scansynth.diffusion.schedule import expand, make_schedule
from scansynth.errors import InputError
from scansynth.method import Progress
from scansynth.methods import METHODS
from scansynth.methods.ddpm import Ddpm, DdpmConfig
from scansynth.methods.mrdiff import MrDiff, MrDiffConfig
from scansynth.networks.lagging import Lagging
from scansynth.noise import Noise
from scansynth.synthesis.run import Run
from scansynth.training.checkpoint import current, load, load_weights
from scansynth.training.distill import distilled_config
from scansynth.training.train import train

CPU = torch.device("cpu")
SCHEDULE = make_schedule("linear", 1000)
M, S = 0.3, 0.4
"""Mean and deviation of Gaussian images."""
SLICES = replace(DdpmConfig.tiny(), patch=None, window_levels=(), variance="fixed", output="x0")


def exact(x_t, t):
    """E[x_0 | x_t] of Gaussian images."""
    alpha_bar = expand(SCHEDULE.lookup(t), x_t)
    return M + S**2 * alpha_bar.sqrt() / (alpha_bar * S**2 + 1 - alpha_bar) * (x_t - alpha_bar.sqrt() * M)


def on_path(x_t, t, s):
    """x_σ at s on the path through x_t: (x_σ − m)/√(s² + σ²) is the same all along it."""
    left = (S**2 + sigma(SCHEDULE, s).square()) / (S**2 + sigma(SCHEDULE, t).square())
    return M + expand(left.sqrt(), x_t) * (x_t * expand(SCHEDULE.lookup(t).rsqrt(), x_t) - M)


def perfect(x_t, t):
    """The x̂_0 of which f is the end of the path."""
    kept = expand(sigma(SCHEDULE, torch.ones_like(t)) / sigma(SCHEDULE, t), x_t)
    end, x = on_path(x_t, t, torch.ones_like(t)), x_t * expand(SCHEDULE.lookup(t).rsqrt(), x_t)
    return torch.where(kept == 1, x, (end - kept * x) / (1 - kept).clamp_min(1e-9))


def points(t, count=500):
    x0 = M + S * torch.randn(len(t), 1, count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return q_sample(SCHEDULE, x0, t, torch.randn(x0.shape, dtype=torch.float64))


def test_times_of_a_path_end_at_1_and_few_times_are_shares_of_them():
    path = distillation_times(SCHEDULE)
    assert (len(path), path[0], path[-1]) == (40, 1000, 1)
    assert [few_times(SCHEDULE, calls) for calls in (1, 2, 4)] == [
        [1000], [1000, path[20]], [1000, path[10], path[20], path[30]],
    ]  # fmt: skip
    assert distillation_times(make_schedule("cosine", 4)) == [4, 3, 2, 1]


def test_f_is_the_identity_at_the_least_noise_and_a_step_of_ddim_elsewhere():
    t = torch.tensor([1, 1, 700])
    x_t, anything = points(t), lambda x, t: torch.sin(7 * x)
    made = consistent(SCHEDULE, anything, x_t, t)
    x = x_t * expand(SCHEDULE.lookup(t).rsqrt(), x_t)
    torch.testing.assert_close(made[:2], x[:2], rtol=1e-15, atol=1e-15)
    assert (made[2] - x[2]).abs().max() > 0.1
    seen = {}
    ddim(
        SCHEDULE, anything, x_t[2:], [700, 1], Noise([(0,)]),
        after_step=lambda x, s: seen.update({s: x}),
    )  # fmt: skip
    torch.testing.assert_close(made[2:] * SCHEDULE.alpha_bar[1].sqrt(), seen[1])


def test_the_teachers_step_stays_on_the_path():
    """Heun's error falls by 8 where a step is halved, and is far below that of DDIM."""
    t, errors = torch.tensor([300]), []
    for s in (260, 280):
        s = torch.tensor([s])
        x_t = points(t)
        found = heun(SCHEDULE, exact, x_t, t, s) * expand(SCHEDULE.lookup(s).rsqrt(), x_t)
        errors.append(
            ((found - on_path(x_t, t, s)).abs().max() / (sigma(SCHEDULE, t) - sigma(SCHEDULE, s)) ** 3).item()
        )
    assert 0.5 < errors[0] / errors[1] < 2
    assert errors[0] < 1


def test_the_loss_is_0_at_the_exact_function_of_gaussian_images():
    noise = Noise([(0, 0, place) for place in range(200)])
    x0 = M + S * torch.randn(200, 1, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def loss(student):
        return distillation_loss(SCHEDULE, student, teacher=exact, lagging=nullcontext, x0=x0, noise=noise).item()

    assert loss(perfect) < 0.01 * loss(exact)  # whose end is the mean
    assert loss(perfect) < 1e-3  # of a norm over 64 voxels


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_samples_of_the_exact_function_have_the_images_mean_and_variance(calls):
    x_T = torch.randn(1, 1, 200_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = consistency(SCHEDULE, perfect, x_T, few_times(SCHEDULE, calls), Noise([(0,)]))
    assert made.mean().item() == pytest.approx(M, abs=0.004)
    assert made.std().item() == pytest.approx((S**2 + sigma(SCHEDULE, torch.tensor([1])).item() ** 2) ** 0.5, rel=0.01)


def test_lagging_weights_compute_targets_and_leave_the_networks_as_they_are():
    torch.manual_seed(0)
    net = nn.Linear(2, 1)
    lagging, x = Lagging(net), torch.randn(3, 2)
    first = copy.deepcopy(net)
    lagging.follow(0.9, 0)
    with torch.no_grad():
        net.weight.add_(1)
    for _ in range(3):  # a batch in three parts
        lagging.follow(0.9, 1)
    with lagging.in_place():
        aim = net(x)
    torch.testing.assert_close(aim, first(x) + 0.1 * x.sum(1, keepdim=True))
    assert not aim.requires_grad
    made = net(x)
    torch.testing.assert_close(made, first(x) + x.sum(1, keepdim=True))
    with lagging.in_place():  # between forward and backward, too
        pass
    (gradient,) = torch.autograd.grad(made.sum(), net.weight)
    torch.testing.assert_close(gradient[0], x.sum(0))


class Stage:
    """A first stage of a method that a test has at hand."""

    def __init__(self, method):
        self.method = method


UNITS = {
    "slices": {"patch": None, "window_levels": (), "neighbours": 1},
    "patches": {},
    "volumes": {"wavelets": 1, "window_levels": (), "output": "velocity", "patch": (8, 8, 8)},
}


@pytest.mark.parametrize("unit", UNITS)
def test_a_ddpm_is_distilled_on_every_unit(unit):
    """A student with its teacher's weights is one step of its teacher; it draws in as many calls as were said."""
    torch.manual_seed(0)
    settings = replace(DdpmConfig.tiny(), **UNITS[unit])
    teacher = Ddpm(settings, ("T1w", "T2w")).eval().requires_grad_(False)
    student = Ddpm(Ddpm.distilled_settings(settings, 2), ("T1w", "T2w"))
    student.load_state_dict(teacher.state_dict())
    student.first_stage = Stage(teacher)
    shape = (8, 8) if unit == "slices" else (8, 8, 8)
    batch = {"images": torch.rand(2, 2, *shape) * 2 - 1, "available": torch.ones(2, 2, dtype=torch.bool)}
    if unit == "slices":
        batch["neighbours"] = torch.rand(2, 2, 2, *shape)
    seen = {}
    student.training_step(
        batch, lambda player, losses: seen.update(losses), Progress(0, 1, 0.0), Noise([(0, 0), (0, 1)])
    )
    gradients = torch.autograd.grad(seen["consistency"], student.parameters(), allow_unused=True)
    assert sum(gradient is not None and bool(gradient.abs().sum() > 0) for gradient in gradients) > 0.8 * len(gradients)
    whole = {"images": torch.rand(1, 2, 8, 8, 8), "available": torch.tensor([[True, False]])}
    if unit == "slices":
        whole["neighbours"] = torch.rand(1, 2, 2, 8, 8, 8)
    ticks, noise = [], Noise([(0, "subject", 0)])
    with torch.no_grad():
        made = (
            student.eval().translate(whole, "T2w", student.needs.windows(99, lambda: ticks.append(None)), noise).image
        )
        assert len(ticks) == 2 * student.needs.windows(99).ticks((8, 8, 8))
        once = Ddpm(Ddpm.distilled_settings(settings, 1), ("T1w", "T2w")).eval()
        once.load_state_dict(teacher.state_dict())
        jump = once.translate(whole, "T2w", once.needs.windows(), noise).image
        least, most = (sigma(teacher.schedule, torch.tensor([t])).item() for t in (1, 40))
        x0 = teacher.translate(whole, "T2w", teacher.needs.windows(), noise, path=[40]).image
        x = noise.normal("x_T", (1, 8, 8, 8)) * (1 + most**2) ** 0.5
        torch.testing.assert_close(jump, (x0 + least / most * (x - x0)).clamp(-1, 1), atol=1e-4, rtol=0)
    assert made.shape == (1, 1, 8, 8, 8)
    assert torch.isfinite(made).all()
    assert not student.gives_mean


def test_of_mrdiff_the_encoder_and_the_generator_learn():
    torch.manual_seed(0)
    settings, contrasts = MrDiffConfig.tiny(), ("T1w", "T2w")
    student = MrDiff(MrDiff.distilled_settings(settings, 1), contrasts)
    student.first_stage = Stage(MrDiff(settings, contrasts).requires_grad_(False))
    batch = {"images": torch.rand(2, 2, 16, 16) * 2 - 1, "available": torch.ones(2, 2, dtype=torch.bool)}
    seen = {}
    student.training_step(
        batch, lambda player, losses: seen.update(losses), Progress(0, 1, 0.0), Noise([(0, 0), (0, 1)])
    )
    assert seen.keys() == {"consistency"}
    learns = {
        name: any(one is not None for one in torch.autograd.grad(
            seen["consistency"], list(net.parameters()), allow_unused=True, retain_graph=True
        ))
        for name, net in student.nets.items()
    }  # fmt: skip
    assert learns == {"E": True, "G": True, "I": False, "M": False, "D": False}
    assert student.sampling_steps == 1
    student.first_stage = Stage(MrDiff(settings, ("T2w", "T1w")))
    with pytest.raises(InputError, match="leave --contrasts out"):
        student.teacher  # noqa: B018


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_distilled_says_why(method):
    kind = METHODS[method].load()
    if method in ("ddpm", "mrdiff"):
        assert kind.distilled_settings(kind.Config.tiny(), 4).distilled == 4
        return
    with pytest.raises(InputError) as why:
        kind.distilled_settings(kind.Config.tiny(), 4)
    own = {"cola_diff": "autoencoder", "ldm": "autoencoder", "cdpm": "sets of slices", "flow": "few calls as it is"}
    assert own.get(method, "") in str(why.value)


@pytest.fixture(scope="module")
def teacher(cohort, tiny, tmp_path_factory):
    run = tmp_path_factory.mktemp("teacher") / "teacher"
    train(tiny("ddpm", SLICES, steps=3), cohort, run, device=CPU)
    return run


def test_a_distilled_run_begins_as_its_teacher_and_is_a_run_like_any_other(teacher, cohort, tmp_path, capsys):
    new = tmp_path / "student"
    words = ["distill", str(teacher), "--cohort", str(cohort.folder), "--run", str(new), "--steps", "2"]
    assert main([*words, "--training.steps", "2", "--settings.learning-rate", "0"]) == 0
    averaged, _ = load_weights(teacher)
    weights = load(current(new / "last"), "weights")[0]["weights"]
    assert all(torch.equal(weights[name], tensor) for name, tensor in averaged.items())
    run = Run.load(new, "cpu")
    assert run.method.sampling_steps == 2
    assert not run.method.gives_mean
    assert main([*words, "--training.steps", "2"]) == 1  # other settings
    assert main(["inspect", str(new)]) == 0
    assert main(["export", str(new), "-o", str(tmp_path / "given.zip")]) == 0
    capsys.readouterr()
    assert main(["distill", str(new), *words[2:], "--run", str(tmp_path / "again")]) == 1
    assert "it is distilled already, to 2 calls" in " ".join(capsys.readouterr().err.split())
    out = ["-o", str(tmp_path / "figures"), "--device", "cpu"]
    assert main(["evaluate", "--run", str(tmp_path / "given.zip"), "--cohort", str(cohort.folder), *out]) == 0


def test_a_killed_distillation_goes_on_as_if_nothing_had_been(teacher, cohort, tmp_path):
    config = distilled_config(teacher, 4)
    training = replace(config.training, steps=3, checkpoint_every=2, validate_every=1000, precision="float32")
    config = replace(config, training=training)

    def die(event):
        if event.done == 3:
            raise MemoryError

    def files(name):
        return load(current(tmp_path / name / "last"), "weights", "averages", "optimizers", "memory")[0]

    def distil(name, report=None):
        train(config, cohort, tmp_path / name, device=CPU, init=teacher, first_stage=teacher, report=report)

    distil("whole")
    with pytest.raises(MemoryError):
        distil("parts", die)
    distil("parts")
    whole, parts = files("whole"), files("parts")
    for file, tensors in whole.items():
        assert tensors.keys() == parts[file].keys()
        assert all(torch.equal(tensor, parts[file][name]) for name, tensor in tensors.items()), file


def test_a_teacher_of_other_settings_is_refused(teacher, cohort, tiny, tmp_path, capsys):
    other = replace(SLICES, distilled=2, blocks=2)
    with pytest.raises(InputError, match="its settings are others"):
        train(tiny("ddpm", other, steps=1), cohort, tmp_path / "other", device=CPU, first_stage=teacher)
    with pytest.raises(InputError, match="builds on a trained ddpm"):
        train(tiny("ddpm", replace(SLICES, distilled=2), steps=1), cohort, tmp_path / "alone", device=CPU)
    with pytest.raises(InputError, match="volumes without a source"):
        Ddpm.distilled_settings(replace(DdpmConfig.tiny(), unconditional=True), 1)
    train(tiny("regression", steps=1, validate_every=1000), cohort, tmp_path / "regression", device=CPU)
    words = ["--cohort", str(cohort.folder), "--run", str(tmp_path / "new"), "--steps", "1"]
    assert main(["distill", str(tmp_path / "regression"), *words]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "a run of regression, which is not distilled: it makes an image in one network call" in said
    with pytest.raises(InputError, match=r"no config\.yaml"):
        distilled_config(tmp_path, 1)
    known = read_yaml(teacher / "config.yaml").settings
    assert distilled_config(teacher, 1).settings == replace(known, distilled=1, learning_rate=known.learning_rate / 5)
