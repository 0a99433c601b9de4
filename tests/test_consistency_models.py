"""Consistency models against their papers: the boundary, levels, the loss, targets, and samples of Gaussians."""

import math
from dataclasses import replace

import pytest
import torch

from scansynth.diffusion.consistency import (
    boundary,
    decay_2023,
    level_weights,
    levels_2023,
    levels_improved,
    pseudo_huber,
    sigmas,
)
from scansynth.errors import InputError
from scansynth.method import Progress
from scansynth.methods.any_to_any import as_factors, draw_task
from scansynth.methods.consistency import Consistency, ConsistencyConfig
from scansynth.noise import Noise
from scansynth.recipes import find_recipe
from scansynth.reproduction.tables import TABLES
from scansynth.training.checkpoint import current, load
from scansynth.training.engine import Engine
from scansynth.training.train import train

CPU = torch.device("cpu")
CONTRASTS = ("T1w", "T2w", "FLAIR")
LATE = Progress(999, 1000, 0.0)


def make(**settings):
    torch.manual_seed(0)
    method = Consistency(replace(ConsistencyConfig.tiny(), **settings), CONTRASTS)
    for parameter in method.parameters():  # the last convolution as the others: else F is next to 0
        torch.nn.init.normal_(parameter, std=0.2)
    return method


def a_batch(count=2, side=8, deviation=0.5):
    images = deviation * torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))
    return {"images": images, "available": torch.ones(count, 3, dtype=torch.bool)}


def keyed(count=2, step=0):
    return Noise([(0, step, place) for place in range(count)])


def loss_of(method, batch, progress=LATE, noise=None):
    seen = {}
    method.training_step(
        batch, lambda player, losses: seen.update(losses), progress, noise or keyed(len(batch["images"]))
    )
    assert seen.keys() == {"consistency"}
    return seen["consistency"]


def target_of(batch, noise):
    _, is_target = draw_task(batch["available"], CONTRASTS, CONTRASTS, noise)
    return (batch["images"] * as_factors(is_target, batch["images"])).sum(1, keepdim=True)


def test_levels_fall_by_the_seventh_root_from_80_to_0_002():
    found = sigmas(18)
    assert (found[0], found[-1]) == (80.0, 0.002)
    roots = found ** (1 / 7)
    torch.testing.assert_close(roots.diff(), (roots[-1] - roots[0]).expand(17) / 17)


def test_f_is_the_identity_at_the_least_noise():
    """c_skip = 1 and c_out = 0 there, whatever the network gives; the rest of the coefficients is CM's."""
    skip, out, _ = boundary(torch.tensor([0.002], dtype=torch.float64), 0.7)
    assert (skip.item(), out.item()) == (1.0, 0.0)
    skip, out, scale = boundary(torch.tensor([3.0], dtype=torch.float64), 0.5)
    assert skip.item() == pytest.approx(0.25 / (2.998**2 + 0.25))
    assert out.item() == pytest.approx(2.998 * 0.5 / math.sqrt(9.25))
    assert scale.item() == pytest.approx(1 / math.sqrt(9.25))
    method, x = make(), torch.randn(2, 1, 8, 8)
    y, planes = torch.randn(2, 3, 8, 8), torch.ones(2, 6, 1, 1)
    with torch.no_grad():
        assert torch.equal(method.predict(x, y, planes, sigmas(9)[-1:].expand(2)), x)
        assert (method.predict(x, y, planes, sigmas(9)[4:5].expand(2)) - x).abs().max() > 0.1


def test_the_schedules_of_both_papers():
    assert [levels_2023(done) for done in (0, 0.25, 0.5, 1)] == [2, 76, 107, 151]
    assert decay_2023(2) == pytest.approx(0.95)
    assert decay_2023(151) == pytest.approx(0.95 ** (2 / 151))
    assert [levels_improved(eighth / 8) for eighth in range(8)] == [10 * 2**n + 1 for n in range(8)]
    assert levels_improved(0.9999) == 1281
    assert [levels_improved(fifth / 5, 160) for fifth in range(5)] == [11, 21, 41, 81, 161]
    with pytest.raises(InputError, match="most_pairs 5"):
        ConsistencyConfig(most_pairs=5)


def test_levels_are_drawn_as_ln_sigma_is_normal():
    sigma = sigmas(161)
    found = level_weights(sigma)
    normal = torch.distributions.Normal(-1.1, 2.0)
    between = normal.cdf(sigma[:-1].log().float()) - normal.cdf(sigma[1:].log().float())
    torch.testing.assert_close(found.float(), between / between.sum(), atol=1e-5, rtol=1e-3)
    assert found.sum().item() == pytest.approx(1)
    seen = []
    method = make(form="improved", most_pairs=10)
    method.predict = lambda x, y, planes, level: seen.append(level) or x
    noise = keyed(1500)
    loss_of(method, a_batch(1500, side=1), noise=noise)
    low, high = seen
    counts = torch.stack([(high == level).double().mean() for level in sigmas(11)[:-1]])
    torch.testing.assert_close(counts, level_weights(sigmas(11)), atol=0.04, rtol=0)
    assert set(zip(high.tolist(), low.tolist(), strict=True)) <= set(
        zip(sigmas(11)[:-1].tolist(), sigmas(11)[1:].tolist(), strict=True)
    )


def test_the_distance_is_of_a_whole_sample():
    a, b = torch.zeros(2, 1, 5, 5), torch.zeros(2, 1, 5, 5)
    a[1, 0, 0, :2] = torch.tensor([3.0, 4.0])
    c = 0.00054 * 5
    torch.testing.assert_close(pseudo_huber(a, b), torch.tensor([0.0, math.sqrt(25 + c**2) - c]))


@pytest.mark.parametrize("form", ["improved", "2023"])
def test_both_calls_see_one_noise_and_sources_without_any(form):
    """c_in is of x_σ alone; what F is told of σ is 250 ln σ; the target has no gradient."""
    method, batch, calls, made = make(form=form), a_batch(), [], []
    net, predict = method.nets["unet"], method.predict
    method.predict = lambda *given: made.append(predict(*given)) or made[-1]
    net.register_forward_pre_hook(lambda module, given: calls.append(given))
    loss = loss_of(method, batch)
    assert [one.requires_grad for one in made] == [False, True]
    noise, x = keyed(), target_of(batch, keyed())
    eps = noise.normal("eps", x.shape[1:])
    is_source, is_target = draw_task(batch["available"], CONTRASTS, CONTRASTS, noise)
    levels = []
    for seen, t in calls:
        sigma = (t.double() / 250).exp()
        scale = (sigma.square() + method.sigma_data.item() ** 2).rsqrt().float().reshape(-1, 1, 1, 1)
        torch.testing.assert_close(
            seen[:, :1] / scale, x + sigma.float().reshape(-1, 1, 1, 1) * eps, rtol=1e-3, atol=1e-3
        )
        assert torch.equal(seen[:, 1:4], batch["images"] * as_factors(is_source, batch["images"]))
        planes = torch.cat([is_source, is_target], 1).float()
        assert torch.equal(seen[:, 4:], planes.reshape(2, 6, 1, 1).expand(-1, -1, 8, 8))
        levels.append(sigma)
    low, high = levels
    assert (low < high).all()
    distance = (made[1] - made[0]).square().mean()
    if form == "improved":
        distance = (pseudo_huber(made[1], made[0]) / (high - low).float()).mean()
    torch.testing.assert_close(loss, distance, rtol=1e-3, atol=1e-6)


def test_targets_of_2023_lag_behind_and_those_of_the_improved_form_do_not():
    method, batch = make(), a_batch()
    engine = Engine(method, CPU, "float32")
    assert method.memory() == {}
    expected, mu = None, decay_2023(levels_2023(LATE.fraction))
    for number in range(3):
        now = method.nets["unet"].get_parameter("first.weight").detach().clone()
        expected = now if expected is None else mu * expected + (1 - mu) * now
        engine.progress = replace(LATE, step=number, share=LATE.fraction)
        method.training_step(batch, engine.update, engine.progress, keyed(step=number))
        torch.testing.assert_close(method.memory()["unet.first.weight"], expected)
    assert not torch.equal(expected, method.nets["unet"].get_parameter("first.weight"))
    other = make()
    other.remember(method.memory())
    assert torch.equal(other.memory()["unet.first.weight"], method.memory()["unet.first.weight"])
    with pytest.raises(InputError, match="not those of these networks"):
        make(channels=16).remember(method.memory())
    improved = make(form="improved")
    loss_of(improved, batch)
    assert improved.memory() == {}
    with pytest.raises(InputError, match="remembers nothing"):
        improved.remember(method.memory())


def test_sigma_data_is_measured_once_and_kept_with_the_weights():
    method, batch = make(), a_batch(deviation=0.3)
    engine = Engine(method, CPU, "float32")
    assert method.sigma_data == 0.5
    for step in range(2):
        engine.progress = Progress(step, 10, 0.0)
        method.training_step(batch, engine.update, engine.progress, keyed(step=step))
        if step == 0:
            expected = target_of(batch, keyed()).square().mean().sqrt()
        torch.testing.assert_close(method.sigma_data, expected)
    assert engine.synthesis_weights()["unet/sigma_data"] == method.sigma_data
    method.training_step(a_batch(deviation=0.1), engine.update, Progress(0, 10, 0.0), keyed())  # --init: it stays
    torch.testing.assert_close(method.sigma_data, expected)


S = 0.2
"""Deviation of Gaussian images; their mean is 0."""


def exact(x, sigma):
    """The end at σ_min of the path through x_σ: √((s² + σ_min²)/(s² + σ²)) x_σ."""
    gain = ((S**2 + 0.002**2) / (S**2 + sigma.square())).sqrt()
    return gain.to(x).reshape(-1, *[1] * (x.ndim - 1)) * x


def denoiser(x, sigma):
    return (S**2 / (S**2 + sigma.square())).to(x).reshape(-1, *[1] * (x.ndim - 1)) * x


@pytest.mark.parametrize("form", ["improved", "2023"])
def test_the_loss_rests_at_the_exact_function_of_gaussian_images(form):
    """Its pairs are one image and one noise, not two points of a path: it is no 0 there, but its gradient is."""
    slopes = {}
    for f in (exact, denoiser):
        method, gain = make(form=form), torch.ones((), requires_grad=True)
        method.predict = lambda x, y, planes, sigma, f=f, gain=gain: gain * f(x, sigma)
        (slope,) = torch.autograd.grad(loss_of(method, a_batch(64, side=32, deviation=S)), gain)
        slopes[f] = slope.abs().item()
    assert slopes[exact] < 0.05 * slopes[denoiser]


@pytest.mark.parametrize("calls", [1, 2, 4])
def test_samples_of_the_exact_function_have_the_images_mean_and_variance(calls):
    method = make(sampling_steps=calls)
    asked = []
    method.predict = lambda x, y, planes, sigma: asked.append(sigma[0].item()) or exact(x, sigma)
    batch = {"images": torch.zeros(1, 3, 32, 32, 16), "available": torch.tensor([[True, False, True]])}
    made = method.translate(batch, "T2w", method.needs.windows(), Noise([(0, "subject", 0)])).image
    assert made.mean().abs() < 0.01
    assert made.std().item() == pytest.approx(S, rel=0.02)
    assert method.sampling_steps == calls
    assert asked == pytest.approx(sigmas(calls + 1)[:-1].tolist())


def test_a_killed_run_of_2023_goes_on_as_if_nothing_had_been(cohort, tiny, tmp_path):
    """θ⁻ is part of the checkpoint, in last/ alone."""
    config = tiny("consistency", steps=4, checkpoint_every=2, validate_every=1000)

    def die(event):
        if event.done == 3:
            raise MemoryError

    def files(name):
        return load(current(tmp_path / name / "last"), "weights", "averages", "optimizers", "memory")[0]

    train(config, cohort, tmp_path / "whole", device=CPU)
    with pytest.raises(MemoryError):
        train(config, cohort, tmp_path / "parts", device=CPU, report=die)
    train(config, cohort, tmp_path / "parts", device=CPU)
    whole, parts = files("whole"), files("parts")
    for file, tensors in whole.items():
        assert tensors.keys() == parts[file].keys()
        assert all(torch.equal(tensor, parts[file][name]) for name, tensor in tensors.items()), file
    assert any(not torch.equal(one, whole["weights"][f"unet/{name[5:]}"]) for name, one in whole["memory"].items())
    assert not list((tmp_path / "whole/best").rglob("memory*"))


def test_recipes():
    """MRDiff's table runs it with that method's batch and number of steps, and without TR and TE."""
    recipe = find_recipe("consistency")
    with torch.device("meta"):
        net = Consistency(recipe.settings, ("T1w", "T2w", "PDw")).nets["unet"]
    assert sum(parameter.numel() for parameter in net.parameters()) == 95_292_673
    small = Consistency(find_recipe("consistency_small").settings, CONTRASTS)
    assert isinstance(small.optimizers()["G"], torch.optim.RAdam)
    assert find_recipe("consistency_2023").settings == replace(recipe.settings, form="2023")
    assert (recipe.settings.learning_rate, recipe.training.batch_size, recipe.training.steps) == (5e-5, 8, 350_000)
    table = TABLES["mrdiff-table1"]
    (row,) = [row for row in table.rows if row.name == "CM"]
    assert (row.recipe, row.small) == ("consistency", "consistency_small")
    for task in table.tasks:
        config = row.change(task.change(recipe))
        assert (config.contrasts, config.settings.targets) == (task.contrasts, task.targets)
        assert (config.data.defaults, config.training.batch_size) == ("none", 8)
