"""CoLa-Diff: its weights of the bound, its network, its conditions, and what they may read."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

import scansynth
from scansynth.cli import main
from scansynth.data.build_cohort import build_cohort
from scansynth.data.prepare import Preparation, grid_for
from scansynth.data.tissue import segment
from scansynth.data.volume import Volume
from scansynth.diffusion.parameterisation import eps_from_velocity, mean_from_eps
from scansynth.diffusion.schedule import Schedule
from scansynth.diffusion.variational import normal_kl
from scansynth.errors import InputError
from scansynth.evaluation.samples import draw
from scansynth.evaluation.tasks import choose_work, synthesise
from scansynth.method import Progress
from scansynth.methods import find_method
from scansynth.methods.autoencoder import Autoencoder
from scansynth.methods.cola_diff import ColaDiff, ColaDiffConfig, kl_weight
from scansynth.networks.cola import BottleneckBlock, ColaUnet, ConditionPath, Size, TissueEncoder, TransformerBlock
from scansynth.noise import Noise
from scansynth.recipes import find_recipe
from scansynth.recipes.cola_diff import ABLATIONS, RECIPES
from scansynth.synthesis.folder import translate_cohort
from scansynth.synthesis.run import Run
from scansynth.training.train import train

CONTRASTS = ("T1w", "T2w", "FLAIR")
SIZE = Size(8, (1, 2, 2), 2, (0, 2))


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return {
        "latents": torch.randn(2, 3, 3, 16, 16, generator=generator),
        "available": torch.ones(2, 3, dtype=torch.bool),
        "tissue": torch.rand(2, 3, 4, 32, 32, generator=generator) / 4,
    }


def losses_of(method, batch):
    found = {}
    noise = Noise([(0, 0, 0), (0, 0, 1)])
    method.training_step(batch, lambda player, losses: found.update(losses), Progress(0, 10, 0.0), noise)
    return found


def test_the_weights_of_the_bound_are_those_of_the_divergence():
    schedule = Schedule.linear(50, 1e-3, 0.2)
    t = torch.tensor([2, 3, 10, 49, 50])
    eps, other, x_t = torch.randn(3, 5, 2, 4, 4, dtype=torch.float64)
    means = [mean_from_eps(schedule, x_t, noise, t, t - 1) for noise in (eps, other)]
    alpha_bar = schedule.alpha_bar
    beta = 1 - alpha_bar[t] / alpha_bar[t - 1]
    log_variance = (beta * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])).log()[:, None, None, None]
    divergence = normal_kl(means[0], log_variance, means[1], log_variance)
    weighted = kl_weight(schedule, t).double()[:, None, None, None] * (eps - other).square()
    torch.testing.assert_close(weighted, divergence, rtol=1e-6, atol=1e-9)
    assert kl_weight(schedule, torch.tensor([1])).item() == 0


def test_losses_are_the_errors_of_the_noise(batch):
    method = ColaDiff(ColaDiffConfig.tiny(), CONTRASTS)
    eps, eps_theta, t = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.tensor([1, 30])
    losses = method.losses(eps_theta, eps, t)
    square = (eps - eps_theta).square().flatten(1).mean(1)
    assert losses["noise"].item() == pytest.approx(square.mean().item(), rel=1e-6)
    expected = (kl_weight(method.schedule, t) * square).mean().item()
    assert losses["kl"].item() == pytest.approx(expected, rel=1e-5)


def test_a_network_that_gives_the_velocity_learns_by_its_error():
    method = ColaDiff(replace(ColaDiffConfig.tiny(), output="velocity"), CONTRASTS)
    v, v_theta, x_t, t = *torch.randn(3, 2, 3, 8, 8), torch.tensor([1, 30])
    eps, eps_theta = (eps_from_velocity(method.schedule, velocity, x_t, t) for velocity in (v, v_theta))
    losses = method.losses(eps_theta, eps, t)
    assert losses["noise"].item() == pytest.approx((v - v_theta).square().mean().item(), rel=1e-4)
    expected = (kl_weight(method.schedule, t) * (eps - eps_theta).square().flatten(1).mean(1)).mean().item()
    assert losses["kl"].item() == pytest.approx(expected, rel=1e-5)


def test_every_parameter_learns(batch):
    torch.manual_seed(1)  # one start in six has a rectifier of a narrow bottleneck shut from the first
    method = ColaDiff(replace(ColaDiffConfig.tiny(), multipliers=(1, 2, 2), attention_levels=(0, 1, 2)), CONTRASTS)
    torch.nn.init.constant_(method.nets["path"].weigh.nu, 0.5)  # at its start, 0, it hides μ
    sum(losses_of(method, batch).values()).backward()
    idle = [name for name, value in method.named_parameters() if value.grad is None or not value.grad.any()]
    # Thresholds that nothing exceeds have no gradient; all else must have one.
    assert [name for name in idle if "threshold" not in name] == []


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_component_is_a_switch(name, batch):
    whole = ColaDiff(ColaDiffConfig.tiny(), CONTRASTS)
    without = ColaDiff(replace(ColaDiffConfig.tiny(), **ABLATIONS[name]), CONTRASTS)
    kinds = {
        "no_network": BottleneckBlock,
        "no_structure": TissueEncoder,
        "no_weighting": type(whole.nets["path"].weigh),
        "no_filter": type(whole.nets["unet"].filters[0]),
    }
    assert any(isinstance(module, kinds[name]) for module in whole.modules())
    assert not any(isinstance(module, kinds[name]) for module in without.modules())
    for other, kind in kinds.items():
        assert any(isinstance(module, kind) for module in without.modules()) == (other != name)
    assert losses_of(without, batch)["noise"] > 0


SMALL = [name for name in RECIPES if "_small" in name and not name.startswith("autoencoder")]


@pytest.mark.parametrize("name", SMALL)
def test_small_recipes_work_on_the_latents_of_the_small_first_stage(name):
    stage = Autoencoder(find_recipe("autoencoder_small").settings, CONTRASTS)
    settings = find_recipe(name).settings
    assert (settings.latent_channels, settings.factor) == (stage.config.latent_channels, stage.factor) == (4, 2)
    method = find_method(find_recipe(name).method)
    assert method.needs_of(settings, CONTRASTS).size_multiple == 16


def test_conditions_hold_nothing_of_the_target(batch):
    method = ColaDiff(ColaDiffConfig.tiny(), CONTRASTS)
    is_source = torch.tensor([[True, True, False], [True, False, False]])
    changed = {**batch, "tissue": torch.where(is_source[..., None, None, None], batch["tissue"], torch.nan)}
    whole, other = (method.tissue_of_sources(one, is_source) for one in (batch, changed))
    assert torch.equal(whole, other)


def test_the_conditions_path_keeps_levels_and_size():
    path = ConditionPath(5, 2, SIZE, "sigmoid")
    found = path(torch.randn(2, 5, 12, 16), torch.ones(2, 2, 12, 16))
    assert [tuple(one.shape) for one in found] == [(2, 7, 12, 16), (2, 8, 12, 16), (2, 16, 3, 4)]


@pytest.mark.parametrize("modified", [True, False])
@pytest.mark.parametrize("filtered", [True, False])
def test_the_network_reads_time_latent_and_every_condition(modified, filtered):
    torch.manual_seed(0)
    unet, path = ColaUnet(3, 7, SIZE, modified=modified, filtered=filtered), ConditionPath(5, 2, SIZE, "none")
    # Residual branches start near zero; what they read must show all the same.
    for module in (unet, path):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    kappa_t, t = torch.randn(1, 3, 12, 16), torch.tensor([5])
    condition = path(torch.randn(1, 5, 12, 16), torch.ones(1, 2, 12, 16))
    made = unet(kappa_t, t, *condition)
    assert made.shape == kappa_t.shape
    assert not torch.allclose(unet(-kappa_t, t, *condition), made)
    assert not torch.allclose(unet(kappa_t, t + 9, *condition), made)
    for number in range(len(condition)):
        other = [torch.roll(one, 1, 1) if k == number else one for k, one in enumerate(condition)]
        assert not torch.allclose(unet(kappa_t, t, *other), made), number


def test_a_transformer_block_joins_all_places_and_knows_no_order():
    torch.manual_seed(0)
    block = TransformerBlock(8)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(1, 8, 4, 6)
    order = torch.randperm(24)

    def moved(one):
        return one.flatten(2)[..., order].reshape(one.shape)

    torch.testing.assert_close(block(moved(x)), moved(block(x)), rtol=1e-4, atol=1e-4)
    other = x.clone()
    other[:, :3, -1, -1] += 3  # not all channels: a layer norm takes that out
    assert not torch.allclose(block(other)[..., 0, 0], block(x)[..., 0, 0])


def test_masks_are_where_a_tissue_is_the_densest():
    encoder, seen = TissueEncoder(4, 4), []
    encoder.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tissue = torch.zeros(1, 4, 8, 8)
    tissue[:, :, 0, 0] = torch.tensor([0.5, 0.3, 0.2, 0.0])
    tissue[:, :, 0, 1] = torch.tensor([0.1, 0.1, 0.1, 0.7])
    tissue[:, :, 0, 2] = torch.tensor([0.2, 0.1, 0.1, 0.1])  # half of it is background
    assert encoder(tissue).shape == (1, 4, 2, 2)
    masks, densities = seen[0].chunk(2, dim=1)
    assert torch.equal(densities, tissue)
    assert masks[0, :, 0, 0].tolist() == [1, 0, 0, 0]
    assert masks[0, :, 0, 1].tolist() == [0, 0, 0, 1]
    assert not masks[0, :, 0, 2:].any()


def test_what_depends_on_the_conditions_alone_is_computed_once(monkeypatch):
    method = ColaDiff(replace(ColaDiffConfig.tiny(), factor=1, latent_channels=1), CONTRASTS).eval()
    method.first_stage = type("Same", (), {"encode": staticmethod(lambda x: x), "decode": staticmethod(lambda z: z)})()
    calls = {"path": 0, "tissue": 0, "unet": 0}
    for name in calls:
        method.nets[name].register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    from scansynth.diffusion.windows import SliceWindows

    images = torch.randn(1, 3, 16, 16, 5)
    batch = {
        "images": images,
        "available": torch.tensor([[True, False, True]]),
        "tissue": torch.rand(1, 3, 4, 16, 16, 5) / 4,
    }
    with torch.no_grad():
        method.translate(batch, "T2w", SliceWindows(3), Noise([(0, "subject", 0)]))
    assert calls == {"path": 2, "tissue": 2, "unet": 2 * method.config.sampling_steps}  # two windows of slices


def test_an_attention_level_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="no attention level 3"):
        Size(8, (1, 2), 1, (0, 3))


@pytest.fixture(scope="module")
def trained(cohort, tiny, first_stage, tmp_path_factory):
    run = tmp_path_factory.mktemp("runs") / "cola"
    train(tiny("cola_diff", steps=3), cohort, run, device=torch.device("cpu"), first_stage=first_stage)
    return scansynth.load(run, "cpu")


def test_files_are_translated_with_tissue_of_the_sources_alone(trained, phantoms, cohort, monkeypatch):
    subject = cohort.subjects("test")[0]
    scan = next(one for one in phantoms.subjects if one.name == subject).scans["T1w"]
    asked = []

    def watched(image, contrast, voxel):
        asked.append((contrast, voxel))
        return segment(image, contrast, voxel)

    monkeypatch.setattr("scansynth.synthesis.run.segment", watched)
    made = trained.translate({"T1w": scan}, "T2w", subject=subject)
    assert asked == [("T1w", [6.0, 6.0, 6.0])]
    assert made.array.shape == (32, 32, 16)
    assert made.array.std() > 0
    from_cohort, _ = synthesise(trained, cohort, subject, target="T2w", seed=0)
    statistics = trained.record.statistics["T2w"]
    np.testing.assert_allclose(made.array, statistics.to_units(from_cohort[0].image), atol=0.02 * made.array.max())


def test_the_users_own_tissue_is_read_on_the_sources_grid(trained, phantoms, cohort, tmp_path, monkeypatch):
    subject = cohort.subjects("test")[0]
    scan = next(one for one in phantoms.subjects if one.name == subject).scans["T1w"]
    monkeypatch.setattr("scansynth.synthesis.run.segment", None)
    seen = []
    condition = trained.method.tissue_of_sources
    monkeypatch.setattr(trained.method, "tissue_of_sources", lambda *some: seen.append(condition(*some)) or seen[-1])
    like = nib.load(scan)
    labels = np.random.default_rng(0).choice([0, 1, 2, 3, 7], size=like.shape).astype(np.uint8)
    file = tmp_path / "tissue.nii.gz"
    nib.save(nib.Nifti1Image(labels, like.affine), file)
    made = trained.translate({"T1w": scan}, "T2w", subject=subject, tissue=file)
    assert made.provenance["tissue"] == file.name
    grid = grid_for({"T1w": Volume.read(scan)}, trained.record.settings)
    assert grid.step == (1, 1, 1)  # preparing is cropping and padding
    x, y, z = (round(start) + 32 for start in grid.start)
    prepared = np.pad(labels, 32)[x : x + 32, y : y + 32, z : z + grid.shape[2]]
    places = np.flatnonzero((cohort.read(subject, "T1w") > 0).any((0, 1)))
    prepared = prepared[..., places[0] : places[-1] + 1]
    for index, label in enumerate((2, 1, 3, 7)):
        np.testing.assert_array_equal(seen[0][0, index].numpy(), prepared == label)
    nib.save(nib.Nifti1Image(np.zeros((8, 8, 8), np.uint8), like.affine), file)
    with pytest.raises(InputError, match="lies on no scan's grid"):
        trained.translate({"T1w": scan}, "T2w", tissue=file)


def test_a_folders_own_tissue_is_found_where_a_run_reads_it(trained, phantoms, cohort, tiny, tmp_path, monkeypatch):
    subject = next(one for one in phantoms.subjects if one.name == cohort.subjects("test")[0])
    own = replace(subject, masks={"tissue": tmp_path / "mask.nii.gz"})
    asked = []
    translate = Run.translate

    def watched(*some, tissue, **others):
        asked.append(tissue)
        return translate(*some, **others)

    monkeypatch.setattr(Run, "translate", watched)
    translate_cohort(trained, replace(phantoms, subjects=[own]), tmp_path / "out", target="T2w")
    assert asked == [tmp_path / "mask.nii.gz"]
    train(tiny("regression"), cohort, tmp_path / "regression", device=torch.device("cpu"))
    regression = scansynth.load(tmp_path / "regression", "cpu")
    translate_cohort(regression, replace(phantoms, subjects=[own]), tmp_path / "out-regression", target="T2w")
    assert asked[1:] == [None]
    with pytest.raises(InputError, match="reads no tissue labels"):
        translate(regression, {"T1w": subject.scans["T1w"]}, "T2w", tissue=tmp_path / "mask.nii.gz")
    arguments = ["translate", "--run", str(trained.folder), "-i", str(tmp_path), "-o", str(tmp_path / "x")]
    assert main([*arguments, "--tissue", "mask.nii.gz"]) == 1


def test_evaluation_reads_the_stored_tissue_and_segments_noisy_sources(trained, cohort, monkeypatch):
    task = next(task for task in choose_work([trained], cohort, "test", protocol="cola-diff", target="T2w"))
    monkeypatch.setattr("scansynth.synthesis.run.segment", None)
    assert draw(trained, task, 0, sample=0).image.std() > 0
    with pytest.raises(TypeError):  # the segmentation, which is not there
        draw(trained, task, 0, sample=0, level=0.1)


def test_noise_in_the_sources_reaches_their_tissue(trained, cohort, monkeypatch):
    images, nothing = [], np.zeros((4, 32, 32, 16))
    monkeypatch.setattr("scansynth.synthesis.run.segment", lambda image, *_: images.append(image) or nothing)
    synthesise(trained, cohort, cohort.subjects("test")[0], target="T2w", seed=0, change=lambda images: images * 0.5)
    assert len(images) == 1  # T1w, and not the target
    prepared = cohort.read(cohort.subjects("test")[0], "T1w")
    np.testing.assert_allclose(images[0], 0.5 * prepared, atol=1e-6)


def test_a_cohort_without_tissue_is_refused(phantoms, tiny, tmp_path):
    bare = build_cohort(phantoms, tmp_path / "cohort", Preparation(size=(32, 32, None)))
    first_stage, run, device = tmp_path / "ae", tmp_path / "run", torch.device("cpu")
    train(tiny("autoencoder", steps=2), bare, first_stage, device=device)
    with pytest.raises(InputError, match="prepare --tissue segment"):
        train(tiny("cola_diff"), bare, run, device=device, first_stage=first_stage)
    assert not run.exists()
    settings = replace(tiny("cola_diff").settings, structural_guidance=False)
    train(tiny("cola_diff", settings, steps=1), bare, run, device=device, first_stage=first_stage)
