"""Hi-Net against its paper: sizes, the fusion block, its own branches, the losses, and patches of slices."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from scansynth.data.build_cohort import build_cohort
from scansynth.data.datasets import SliceDataset, from_network
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.data.settings import DataSettings
from scansynth.diffusion.windows import SliceWindows
from scansynth.errors import InputError
from scansynth.evaluation.tasks import choose_work
from scansynth.method import Progress
from scansynth.methods.hi_net import HiNet, HiNetConfig
from scansynth.metrics.protocols import find_protocol, measure
from scansynth.networks.batch_norm import BatchNorm
from scansynth.networks.hi_net import HiNetDiscriminator, MixedFusion
from scansynth.noise import Noise
from scansynth.recipes import find_recipe
from scansynth.reproduction.request import Request
from scansynth.reproduction.tables import TABLES
from scansynth.synthesis.run import Run
from scansynth.training.engine import Engine
from scansynth.training.parts import make_method, make_parts
from scansynth.training.train import train
from scansynth.training.validation import validation_targets
from scansynth.units import Slices

CPU = torch.device("cpu")
THREE = ("T1w", "PDw", "T2w")
START = Progress(0, 10, 0.0)


def make(contrasts=THREE, **settings):
    torch.manual_seed(0)
    return HiNet(replace(HiNetConfig.tiny(), **{"targets": (contrasts[-1],), **settings}), contrasts)


def make_batch(count=3, contrasts=3):
    """Smooth blobs; the last contrast is the mean of the others."""
    images = torch.rand(count, contrasts - 1, 3, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = nn.functional.interpolate(images, size=(24, 16), mode="bilinear")
    images = torch.cat([images, images.mean(1, keepdim=True)], 1)
    return {"images": images, "available": torch.ones(count, contrasts, dtype=torch.bool)}


def losses_of(method, batch):
    """Losses by player, in the order of the updates; nothing is trained."""
    seen = {}
    noise = Noise([(0, 0, place) for place in range(len(batch["images"]))])
    method.training_step(batch, lambda player, losses: seen.update({player: losses}), START, noise)
    return seen


def numbers(net):
    return sum(parameter.numel() for parameter in net.parameters()) / 1e6


def test_networks_have_the_releases_sizes():
    with torch.device("meta"):
        nets = HiNet(HiNetConfig(targets=("T2w",)), THREE).nets
    assert numbers(nets["generator"]) == pytest.approx(3.87, abs=0.005)
    assert numbers(nets["discriminator"]) == pytest.approx(0.39, abs=0.005)
    assert HiNetDiscriminator(2)(torch.zeros(2, 1, 128, 128)).shape == (2, 1, 6, 6)


def features(sources, seed=0):
    return torch.randn(2, sources, 4, 6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sources", [1, 2, 3])
def test_the_fusion_block_does_not_depend_on_the_order_of_its_sources(sources):
    torch.manual_seed(0)
    block, f = MixedFusion(4, 3, 8).double().eval(), features(sources)
    before = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    made = block(f, before)
    assert made.shape == (2, 8, 6, 5)
    for turn in range(sources):
        torch.testing.assert_close(block(f.roll(turn, 1), before), made, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(block(f.flip(1), before), made, rtol=1e-12, atol=1e-12)


def test_the_fusion_block_sees_sum_product_and_maximum_and_normalises_directly_behind():
    block, f = MixedFusion(4, 0, 8).double(), features(3)
    given = []
    block.fuse.register_forward_pre_hook(lambda net, inputs: given.append(inputs[0]))
    block(f)
    total, product, largest = given[0].chunk(3, dim=1)
    torch.testing.assert_close(total, f[:, 0] + f[:, 1] + f[:, 2])
    torch.testing.assert_close(product, f[:, 0] * f[:, 1] * f[:, 2])
    torch.testing.assert_close(largest, torch.maximum(torch.maximum(f[:, 0], f[:, 1]), f[:, 2]))
    assert [type(layer) for layer in block.fuse] == [type(block.join[0]), BatchNorm, nn.LeakyReLU]


def test_no_two_paths_share_weights_and_each_branch_rebuilds_its_own_source():
    method, batch = make(), make_batch()
    generator = method.nets["generator"]
    kept = [parameter.data_ptr() for parameter in generator.parameters()]
    assert len(set(kept)) == len(kept) == len(list(generator.named_parameters(remove_duplicate=False)))
    y, _ = method.split(batch)
    y.requires_grad_()
    made = generator(y, rebuild=True)
    for m in range(2):
        (gradient,) = torch.autograd.grad(made[:, 1 + m].square().sum(), y, retain_graph=True)
        assert gradient[:, m].any()
        assert not gradient[:, 1 - m].any()
    (gradient,) = torch.autograd.grad(made[:, 0].square().sum(), y)
    assert gradient.flatten(2).any(2).all()
    generator.eval()
    torch.testing.assert_close(generator(y, rebuild=True)[:, :1], generator(y))


def test_losses_by_hand():
    """G makes 0.5 everywhere, its branches 0.25 and −0.5, and D says 0.25; the images are constant."""
    method = make()
    generator, discriminator = method.nets["generator"], method.nets["discriminator"]
    with torch.no_grad():
        for parameter in method.nets.parameters():
            parameter.zero_()
        generator.last.bias.fill_(math.atanh(0.5))
        for branch, value in zip(generator.branches, (0.25, -0.5), strict=True):
            branch.last.bias.fill_(math.atanh(value))
        discriminator.layers[-1].bias.fill_(0.25)
    images = torch.tensor([0.1, 0.3, -0.2])[None, :, None, None].expand(2, -1, 24, 16)
    seen = losses_of(method, {"images": images, "available": torch.ones(2, 3, dtype=torch.bool)})
    assert list(seen) == ["D", "G"]
    assert seen["D"]["adversarial"].item() == pytest.approx(0.5 * (0.75**2 + 0.25**2))
    assert seen["G"]["adversarial"].item() == pytest.approx(0.75**2)
    assert seen["G"]["l1"].item() == pytest.approx(100 * 0.7)
    assert seen["G"]["rebuilt"].item() == pytest.approx(20 * (0.15 + 0.8))  # the sum over the sources


def test_real_and_made_images_are_normalised_apart():
    method, batch, seen = make(), make_batch(), []
    method.nets["discriminator"].register_forward_hook(lambda net, given, made: seen.append((given[0], made)))
    losses_of(method, batch)
    assert [len(given) for given, _ in seen] == [3, 3, 3]
    _, x = method.split(batch)
    assert torch.equal(seen[0][0], x)
    assert torch.equal(seen[0][1], method.judge(x))  # whatever was judged beside it
    assert not seen[1][0].requires_grad
    assert torch.equal(seen[1][0], seen[2][0])


def test_sources_are_all_contrasts_but_the_target_in_their_order():
    method = make(targets=("PDw",))
    batch = make_batch()
    y, x = method.split(batch)
    assert method.sources == ("T1w", "T2w")
    assert torch.equal(y, batch["images"][:, [0, 2]])
    assert torch.equal(x, batch["images"][:, 1:2])
    assert make(("T1w", "T2w"), targets=()).targets == ("T2w",)
    assert make(("T1w", "T2w"), targets=("T1w",)).sources == ("T2w",)


@torch.no_grad()
def test_the_whole_image_is_the_mean_of_its_patches_where_they_overlap():
    method = make().eval()
    images = torch.randn(1, 3, 32, 40, 2, generator=torch.Generator().manual_seed(0))
    batch = {"images": images, "available": torch.tensor([[True, True, False]])}
    made = method.translate(batch, "T2w", method.needs.windows(), Noise([(0, "a", 0)])).image
    total, count = torch.zeros(2, 32, 40), torch.zeros(32, 40)
    for x in (0, 8):
        for y in (0, 8, 16, 24):
            patch = images[0, :2, x : x + 24, y : y + 16].permute(3, 0, 1, 2)
            total[:, x : x + 24, y : y + 16] += method.nets["generator"](patch)[:, 0]
            count[x : x + 24, y : y + 16] += 1
    torch.testing.assert_close(made[0, 0].movedim(2, 0), total / count)


class Brighter(nn.Module):
    """The first source, brighter by 0.2 of [−1, 1]."""

    def forward(self, y):
        return y[:, :1] + 0.2


def test_no_patch_is_rescaled_before_it_is_measured():
    """An offset of a tenth of the range is 20 dB, and a rescaling by minimum and maximum would hide it."""
    method = make()
    method.nets["generator"] = Brighter()
    truth = torch.rand(1, 1, 32, 40, 3, generator=torch.Generator().manual_seed(0)) * 0.8
    batch = {"images": (2 * truth - 1).expand(-1, 3, -1, -1, -1), "available": torch.tensor([[True, True, False]])}
    made = method.translate(batch, "T2w", method.needs.windows(), Noise([(0, "a", 0)])).image
    found = measure(find_protocol("cola-diff"), from_network(made)[0, 0].numpy(), truth[0, 0].numpy())
    assert found.mean("psnr_db") == pytest.approx(20, abs=1e-3)


def test_a_batch_of_one_is_refused(cohort, tiny, tmp_path):
    with pytest.raises(InputError, match=r"hi_net normalises over the batch.*--training.batch-size 2 or more"):
        train(tiny("hi_net", batch_size=1), cohort, tmp_path / "run", device=CPU)
    one = SimpleNamespace(count=2)  # a process's own part may be one: the norm is over all of them
    method, _ = make_parts(tiny("hi_net", batch_size=2), cohort, one)
    assert isinstance(method, HiNet)
    other, _ = make_parts(tiny("bloch_gan", batch_size=1), cohort, SimpleNamespace(count=1))
    assert other.needs.least_batch == 1


def test_an_epoch_shows_every_patch_once_in_an_order_of_its_own(cohort, tiny):
    _, dataset = make_parts(tiny("hi_net"), cohort, SimpleNamespace(count=1))
    assert isinstance(dataset, SliceDataset)
    corners = [(rows.start, columns.start) for rows, columns in dataset.patches]
    assert corners == [(x, y) for x in (0, 8) for y in (0, 8, 16)]

    def epoch(turn):
        numbers = range(turn * len(dataset), (turn + 1) * len(dataset))
        return [(dataset.places(i)["T1w"], dataset.patches.index(dataset.patch(i))) for i in numbers]

    first, second = epoch(0), epoch(1)
    assert len(set(first)) == len(first) == 6 * len({place for place, _ in first})
    assert sorted(first) == sorted(second)
    assert len({tuple(first), tuple(second), tuple(sorted(first))}) == 3
    (subject, z), _ = first[5]
    rows, columns = dataset.patch(5)
    expected = torch.from_numpy(cohort.read(subject, "T2w", z))[rows, columns]
    torch.testing.assert_close(from_network(dataset[5]["images"][1]), expected)


@pytest.fixture(scope="module")
def lacking(tmp_path_factory):
    """Seven subjects of three contrasts; one of those that train, the one that validates and one of two that test lack
    a source.
    """
    folder = tmp_path_factory.mktemp("lacking")
    write_phantom_cohort(folder, 7, THREE, layout="table", shape=(24, 24, 8), spacing=8.0)
    listing = find_subjects(folder / "table.csv")
    splits = ("train", "train", "train", "train", "val", "test", "test")
    subjects = [replace(one, split=split) for one, split in zip(listing.subjects, splits, strict=True)]
    for number in (0, 4, 5):
        scans = {name: path for name, path in subjects[number].scans.items() if name != "PDw"}
        subjects[number] = replace(subjects[number], scans=scans)
    settings = Preparation(size=(24, 24, None))
    return build_cohort(replace(listing, subjects=tuple(subjects)), tmp_path_factory.mktemp("three"), settings)


@pytest.fixture(scope="module")
def run(lacking, tiny, tmp_path_factory):
    """A run of the three contrasts, one step old."""
    folder = tmp_path_factory.mktemp("run") / "run"
    settings = replace(HiNetConfig.tiny(), targets=("T2w",))
    config = replace(tiny("hi_net", settings, steps=1), contrasts=THREE)
    train(config, lacking, folder, device=CPU)
    return Run.load(folder, "cpu"), config


def test_who_lacks_a_source_is_neither_trained_nor_measured_on(lacking, run):
    run, config = run
    method = make_method(config)
    dataset = method.needs.samples(lacking, THREE, seed=0, data=DataSettings())
    shown = {name for i in range(len(dataset)) for name in dataset.shows(i)}
    assert shown == set(lacking.subjects("train")[1:])
    assert validation_targets(lacking, method, config) == []
    test = lacking.subjects("test")
    assert [task.subject for task in choose_work([run], lacking, "test", protocol="cola-diff", target=None)] == test[1:]
    assert Slices().suffice(["T1w"], "T2w", THREE)
    assert not Slices().suffice([], "T2w", THREE)
    assert not method.needs.suffice(["T1w"], "T2w", THREE)
    assert method.needs.suffice(["T1w", "PDw"], "T2w", THREE)
    batch = {"images": torch.zeros(1, 3, 24, 24, 2), "available": torch.tensor([[True, False, False]])}
    with pytest.raises(InputError, match=r"makes T2w from T1w, PDw, and PDw is not given"):
        method.translate(batch, "T2w", SliceWindows(), Noise([(0, "a", 0)]))


def test_a_cohort_without_a_whole_subject_says_so(lacking):
    needs = make().needs
    with pytest.raises(InputError, match="no val slices of T1w beside all other contrasts"):
        needs.samples(lacking, THREE, "val", seed=0, data=DataSettings())


def test_the_recipes():
    papers, small = find_recipe("hi_net"), find_recipe("hi_net_small")
    assert papers.settings == HiNetConfig()
    assert papers.training.batch_size == small.training.batch_size == 8
    method = make()
    shares = [method.lr_factor("G", Progress(step, 300, 0.0)) for step in (0, 99, 100, 200, 299)]
    assert shares == pytest.approx([1, 1, 1, 0.5, 1 / 200])
    assert {optimizer.defaults["betas"] for optimizer in method.optimizers().values()} == {(0.5, 0.999)}
    windows = make(patch=small.settings.patch).needs.windows()
    assert len(windows.patches((48, 64))) == 4
    discriminator = HiNetDiscriminator(2, small.settings.discriminator_halvings)
    assert discriminator(torch.zeros(2, 1, *small.settings.patch)).numel() > 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"targets": ()}, "makes one contrast from all others, none is named"),
        ({"targets": ("T2w", "PDw")}, "makes one contrast from all others, T2w, PDw is named"),
        ({"targets": ("FLAIR",)}, "target 'FLAIR' is not among"),
        ({"patch": (24, 20)}, "patch 24×20: the networks need multiples of 8"),
        ({"patch": (24, 8)}, "leaves no value after 2 halvings"),
    ],
)
def test_unfit_settings_are_refused(settings, says):
    with pytest.raises(InputError, match=says):
        make(**settings)


def test_images_that_do_not_fit_are_refused():
    method = make()
    with pytest.raises(InputError, match="pad to multiples of 8"):
        method.nets["generator"](torch.zeros(2, 2, 24, 20))
    with pytest.raises(InputError, match="sides of at least 9"):
        method.judge(torch.zeros(2, 1, 8, 16))
    with pytest.raises(InputError, match="multiples of 8"):
        method.needs.check_slices((20, 48))
    method.needs.check_slices((28, 37))  # through patches of 24×16


@pytest.mark.parametrize(("table", "row"), [("cola-diff-table1", "Hi-Net"), ("mrdiff-table1", "HiNet")])
def test_the_tables_train_it_on_as_many_samples_as_their_own_method(table, row, tmp_path):
    table = TABLES[table]
    rows = {one.name: one for one in table.present}
    request = Request(table=table, out=tmp_path)
    for task in table.tasks:
        own, other = (request.config(task, rows[name]) for name in (row, table.rows[-1].name))
        assert own.training.steps * own.training.batch_size == other.training.steps * other.training.batch_size
        assert own.settings == HiNetConfig(targets=task.targets)
        assert own.contrasts == other.contrasts
        assert own.data.defaults == "none"  # it reads no TR and TE


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_pixels_come_nearer(precision):
    method, batch = make(), make_batch(4)
    engine = Engine(method, CPU, precision)
    before = losses_of(method, batch)["G"]
    for step in range(30):
        method.training_step(batch, engine.update, Progress(step, 1000, 0.0), Noise([(0, step, k) for k in range(4)]))
    losses = engine.mean_losses()
    assert set(losses) == {"D/adversarial", "G/adversarial", "G/l1", "G/rebuilt"}
    assert all(math.isfinite(value) for value in losses.values())
    after = losses_of(method, batch)["G"]
    assert after["l1"] < 0.7 * before["l1"]
    assert after["rebuilt"] < 0.9 * before["rebuilt"]
