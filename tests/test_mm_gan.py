"""MM-GAN against its paper: sizes, what is missing, implicit conditioning, the losses, and absent contrasts."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from scansynth.config import RunConfig
from scansynth.diffusion.windows import SliceWindows
from scansynth.errors import InputError
from scansynth.method import Progress
from scansynth.methods.any_to_any import channel_mean, draw_missing
from scansynth.methods.mm_gan import MmGan, MmGanConfig, most_missing
from scansynth.networks.pix2pix import EnlargedConvolution, Pix2PixUNet
from scansynth.networks.public_syndiff import PatchDiscriminator
from scansynth.noise import Noise
from scansynth.recipes import find_recipe
from scansynth.reproduction.request import Request
from scansynth.reproduction.tables import TABLES
from scansynth.training.engine import Engine
from scansynth.training.train import train

CPU = torch.device("cpu")
CONTRASTS = ("T1w", "T2w", "PDw", "FLAIR")
LATE = Progress(90, 100, 0.0)
"""When any number may be missing."""


def make(contrasts=CONTRASTS, **settings):
    """A tiny MM-GAN, the same each time."""
    torch.manual_seed(0)
    return MmGan(replace(MmGanConfig.tiny(), **settings), contrasts)


def make_batch(count=3, size=32, seed=0):
    """Smooth blobs; the last contrast is the mean of the others."""
    images = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    images = nn.functional.interpolate(images, size=size, mode="bilinear")
    images = torch.cat([images, images.mean(1, keepdim=True)], 1)
    return {"images": images, "available": torch.ones(count, 4, dtype=torch.bool)}


def keyed(count=3, step=0):
    return Noise([(0, step, place) for place in range(count)])


def missing_of(batch, noise, targets=CONTRASTS, most=4):
    return draw_missing(batch["available"], targets, CONTRASTS, most, noise)


def losses_of(method, batch, noise=None, progress=LATE):
    """The losses of one training step, by player, in the order of the updates; nothing is trained."""
    seen = {}
    noise = noise or keyed(len(batch["images"]))
    method.training_step(batch, lambda player, losses: seen.update({player: losses}), progress, noise)
    return seen


def spied(method, name, of):
    """What a network is given or makes from now on, one entry a call."""
    seen = []
    net = method.nets[name]
    net.register_forward_hook(lambda net, given, made: seen.append(given[0].detach() if of == "given" else made))
    return seen


def lacking(batch, *lacks):
    """A batch in which some samples lack a contrast: pairs (place, contrast)."""
    images, available = batch["images"].clone(), batch["available"].clone()
    for place, k in lacks:
        images[place, k], available[place, k] = 0.0, False
    return {"images": images, "available": available}


def test_networks_have_the_releases_sizes():
    with torch.device("meta"):
        nets = MmGan(MmGanConfig(), CONTRASTS).nets
    counts = {name: sum(parameter.numel() for parameter in net.parameters()) / 1e6 for name, net in nets.items()}
    assert counts["generator"] == pytest.approx(54.4, abs=0.05)
    assert counts["discriminator"] == pytest.approx(2.8, abs=0.05)


def test_dropout_and_the_last_layer_are_where_the_paper_has_them():
    unet = Pix2PixUNet(4, 4, 2, dropout=0.2, dropped_up=4, dropped_from=3, enlarged=True)
    shapes = unet.dropped((256, 256))
    encoder = [(16, side, side) for side in (16, 8, 4, 2, 1)]  # levels 4 to 8
    decoder = [(16, side, side) for side in (2, 4, 8, 16)]  # the first four
    assert shapes == encoder + decoder
    assert isinstance(unet.up[0], EnlargedConvolution)
    assert [isinstance(up, nn.ConvTranspose2d) for up in unet.up] == [False, *[True] * 7]
    x, seen = torch.randn(1, 4, 256, 256), []
    unet.down[4].register_forward_hook(lambda net, given, made: seen.append(given[0]))
    z = [torch.full((1, *shape), -5.0) for shape in shapes]  # everything is dropped
    unet(x, z)
    assert not seen[0].any()
    unet(x)
    assert seen[1].any()


def test_the_last_layer_keeps_odd_sides_and_repeats_before_it_convolves():
    layer = EnlargedConvolution(1, 1)
    with torch.no_grad():
        layer.convolution.weight.copy_(torch.zeros(1, 1, 4, 4)).index_fill_(3, torch.tensor(1), 0.25)
        layer.convolution.bias.zero_()
    h = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    # The mean of four rows around a pixel of the enlarged image, in its own column; 0 beyond the image.
    rows = torch.tensor([[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0], [3.0, 3.0, 4.0, 4.0], [3.0, 3.0, 4.0, 4.0]])
    padded = torch.cat([torch.zeros(1, 4), rows, torch.zeros(2, 4)])
    torch.testing.assert_close(layer(h, (4, 4))[0, 0], padded.unfold(0, 4, 1).mean(2))
    assert layer(h, (5, 4)).shape == (1, 1, 5, 4)


def test_d_gives_a_value_a_contrast_for_patches_of_94_pixels():
    net = PatchDiscriminator(8, channels=4, logits=4, halvings=4).double()
    assert net(torch.randn(2, 8, 256, 256).double()).shape == (2, 4, 15, 15)
    assert net(torch.randn(1, 8, 32, 48).double()).shape == (1, 4, 1, 2)
    with pytest.raises(InputError, match="sides of at least 32"):
        net(torch.zeros(1, 8, 31, 64).double())
    layers = [layer for layer in net.layers if isinstance(layer, nn.Conv2d)]
    assert [layer.stride[0] for layer in layers] == [2, 2, 2, 2, 1]
    field = 1
    for layer in reversed(layers):
        field = (field - 1) * layer.stride[0] + layer.kernel_size[0]
    assert field == 94


def test_the_curriculum_goes_by_number_and_sixths():
    fractions = (0.0, 0.16, 1 / 6, 0.33, 2 / 6, 0.49, 0.5, 0.99)
    assert [most_missing(fraction, 6) for fraction in fractions] == [1, 1, 2, 2, 3, 3, 6, 6]
    batch = make_batch(256)
    method, sizes = make(), {}
    for step in (0, 20, 40, 60):
        given = spied(method, "generator", "given")
        losses_of(method, batch, keyed(256), Progress(step, 100, 0.0))
        hidden = ~given[0].flatten(2).any(2)
        sizes[step] = set(hidden.sum(1).tolist())
        method.nets["generator"]._forward_hooks.clear()
    assert sizes == {0: {1}, 20: {1, 2}, 40: {1, 2, 3}, 60: {1, 2, 3}}


def test_every_allowed_set_is_drawn_alike_and_one_contrast_stays():
    batch = make_batch(7000, size=1)
    drawn = missing_of(batch, keyed(7000))
    sets, counts = drawn.unique(dim=0, return_counts=True)
    assert len(sets) == 2**4 - 2
    assert counts.min() > 400  # 500 expected, deviation 22
    assert counts.max() < 600
    few = missing_of(batch, keyed(7000), most=2)
    assert len(few.unique(dim=0)) == 4 + 6


def test_only_what_is_available_can_be_missing_and_a_target_is_among_it():
    batch = lacking(make_batch(600, size=1), *[(place, 1) for place in range(0, 600, 2)])
    batch["available"][::3, 3] = False
    drawn = missing_of(batch, keyed(600), targets=("T2w",))
    assert not (drawn & ~batch["available"]).any()
    assert drawn.any(1).all()
    assert (batch["available"] & ~drawn).any(1).all()
    has_it = batch["available"][:, 1]
    assert drawn[has_it, 1].all()
    assert len(drawn[has_it & batch["available"][:, 3]].unique(dim=0)) == 2**3 - 1  # with any of the others but all


def test_channel_means_by_hand():
    values = torch.tensor([[[1.0, 3.0], [5.0, 7.0], [math.nan, 9.0]], [[2.0, 2.0], [4.0, 8.0], [1.0, 1.0]]])
    of = torch.tensor([[True, False, False], [True, True, False]])
    among = torch.tensor([[True, True, False], [True, True, True]])
    assert channel_mean(values, of, among).item() == pytest.approx((2 / 2 + (2 + 6) / 3) / 2)
    assert channel_mean(values, of, of).item() == pytest.approx((2 + (2 + 6) / 2) / 2)


@pytest.mark.parametrize("share", [0.9, 0.6])
def test_losses_by_hand(share):
    """D is set to 0.25 everywhere and G to 0.5; the truth is constant in each contrast."""
    method = make(l1_share=share, dropout=0.0)
    with torch.no_grad():
        for parameter in method.nets.parameters():
            parameter.zero_()
        method.nets["discriminator"].layers[-1].bias.fill_(0.25)
        method.generator.up[0].get_submodule("convolution").bias.fill_(math.atanh(0.5))
    truth = torch.tensor([[0.1, -0.2, 0.3, -0.4], [0.5, 0.6, -0.7, 0.0]])
    batch = {"images": truth[..., None, None].expand(-1, -1, 32, 32), "available": torch.ones(2, 4, dtype=torch.bool)}
    batch["available"][1, 3] = False
    noise = keyed(2)
    missing = missing_of(batch, noise)
    shares = [missing[0].sum().item() / 4, missing[1].sum().item() / 3]
    seen = losses_of(method, batch, noise)
    assert seen["D"]["truth"].item() == pytest.approx(0.5 * 0.75**2)
    assert seen["D"]["missing"].item() == pytest.approx(0.5 * 0.25**2 * sum(shares) / 2)
    assert seen["D"]["given"].item() == pytest.approx(0.5 * 0.75**2 * (1 - sum(shares) / 2))
    adversarial = seen["G"]["adversarial_given"] + seen["G"]["adversarial_missing"]
    assert adversarial.item() == pytest.approx((1 - share) * 0.75**2)
    assert seen["G"]["adversarial_missing"].item() == pytest.approx((1 - share) * 0.75**2 * sum(shares) / 2)
    errors = [(0.5 - truth[place][missing[place]]).abs().mean().item() for place in range(2)]
    assert seen["G"]["l1"].item() == pytest.approx(share * sum(errors) / 2)


def test_g_sees_zeros_and_d_the_truth_beside_what_was_made():
    method, batch, noise = make(), make_batch(), keyed()
    given, judged = spied(method, "generator", "given"), spied(method, "discriminator", "given")
    raw = spied(method, "generator", "made")
    losses_of(method, batch, noise)
    missing = missing_of(batch, noise)
    assert torch.equal(given[0], batch["images"] * ~missing[..., None, None])
    real, fake = judged[0].chunk(2)
    assert torch.equal(real, torch.cat([batch["images"], batch["images"]], 1))
    assert torch.equal(fake[:, 4:], batch["images"])
    assert torch.equal(judged[1], fake)
    assert torch.equal(fake[:, :4][~missing], batch["images"][~missing])  # bit-equal
    assert torch.equal(fake[:, :4][missing], raw[0][missing])
    assert len(missing.unique(dim=0)) > 1  # a batch mixes sets


def test_available_contrasts_come_back_bit_equal():
    method, batch = make(), make_batch()
    missing = missing_of(batch, keyed())
    made = torch.full_like(batch["images"], math.nan)
    x_hat = method.impute(made, batch["images"], missing)
    assert torch.equal(x_hat[~missing], batch["images"][~missing])
    assert x_hat[missing].isnan().all()


def test_no_gradient_of_g_goes_through_what_is_given():
    method, batch, noise = make(), make_batch(), keyed()
    raw = spied(method, "generator", "made")
    losses = losses_of(method, batch, noise)["G"]
    missing = missing_of(batch, noise)
    for name, loss in losses.items():
        (gradient,) = torch.autograd.grad(loss, raw[0], retain_graph=True)
        assert not gradient[~missing].any(), name
    (gradient,) = torch.autograd.grad(sum(losses.values()), raw[0])
    assert gradient[missing].flatten(1).any(1).all()


def test_each_loss_hangs_on_its_own_networks_and_d_comes_first():
    method = make()
    seen = losses_of(method, make_batch())
    assert list(seen) == ["D", "G"]
    reached = {
        (player, name): torch.autograd.grad(
            sum(seen[player].values()), list(net.parameters()), retain_graph=True, allow_unused=True
        )
        for player in seen
        for name, net in method.nets.items()
    }
    assert all(part is not None for part in reached["D", "discriminator"])
    assert all(part is None for part in reached["D", "generator"])
    assert all(part is not None for part in reached["G", "generator"])


def test_samples_count_alike_whatever_their_sets():
    method, batch, noise = make().double(), lacking(make_batch(), (1, 2)), keyed()
    batch["images"] = batch["images"].double()
    together = losses_of(method, batch, noise)
    apart = [
        losses_of(method, {key: value[place : place + 1] for key, value in batch.items()}, Noise([(0, 0, place)]))
        for place in range(3)
    ]
    for player, losses in together.items():
        for name, loss in losses.items():
            mean = sum(one[player][name] for one in apart) / 3
            torch.testing.assert_close(loss, mean)


def test_an_absent_contrast_has_no_influence():
    """Neither what stands in its channel, nor what the networks make of it; nor does it learn anything."""
    method = make()
    batch = lacking(make_batch(2), (0, 2), (1, 2))
    parameters = list(method.nets.parameters())

    def told(batch):
        losses = losses_of(method, batch)
        found = []
        for player in losses.values():
            total = torch.stack(list(player.values()))
            found += [total, *torch.autograd.grad(total.sum(), parameters, retain_graph=True, allow_unused=True)]
        return found

    before = told(batch)
    other = {**batch, "images": batch["images"].clone()}
    other["images"][:, 2] = 77.0
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(before, told(other), strict=True))
    last = method.nets["discriminator"].layers[-1], method.generator.up[0].get_submodule("convolution")
    with torch.no_grad():
        for layer in last:
            layer.weight[2] += 1
            layer.bias[2] -= 3
    after = told(batch)
    assert torch.equal(before[0], after[0])
    gradients = dict(zip([id(parameter) for parameter in parameters], after[1 : 1 + len(parameters)], strict=True))
    assert not gradients[id(last[0].bias)][2]
    assert gradients[id(last[0].bias)][[0, 1, 3]].all()


def test_subjects_that_lack_contrasts_train_beside_others():
    """Each contrast is lacking somewhere; of a subject with two, one is made of the other."""
    method = make()
    batch = lacking(make_batch(4), (0, 0), (1, 1), (1, 2), (2, 3), (3, 0), (3, 3))
    engine = Engine(method, CPU, "float32")
    for step in range(25):
        method.training_step(batch, engine.update, Progress(step, 25, 0.0), keyed(4, step))
    assert all(math.isfinite(value) for value in engine.mean_losses().values())


def test_dropout_is_drawn_from_the_noise_and_off_in_synthesis():
    method, batch = make(), make_batch()
    raw = spied(method, "generator", "made")
    state = torch.get_rng_state()
    for step in (0, 0):
        losses_of(method, batch, keyed(3, step))
    assert torch.equal(raw[0], raw[1])
    assert torch.equal(torch.get_rng_state(), state)
    plain = make(dropout=0.0)
    undropped = spied(plain, "generator", "made")
    losses_of(plain, batch, keyed())
    assert not torch.equal(raw[0], undropped[0])

    class Silent(Noise):
        def normal(self, name, shape):
            raise AssertionError("drawn")

        uniform = integers = normal

    whole = volume(make_batch(1))
    with torch.no_grad():
        made = method.translate(whole, "PDw", SliceWindows(), Silent([(0, "a", 0)])).image
        same = plain.translate(whole, "PDw", SliceWindows(), Silent([(1, "b", 0)])).image
    assert not method.stochastic
    assert torch.equal(made, same)


def volume(batch, *missing, depth=5):
    """A subject's volume of a batch's first sample, which lacks some contrasts."""
    images = batch["images"][:1, ..., None] * torch.linspace(0.5, 1, depth)
    available = torch.tensor([[k not in missing for k in range(4)]])
    return {"images": images * available[..., None, None, None], "available": available}


@torch.no_grad()
def test_one_call_makes_all_that_is_missing_and_translate_gives_the_targets_channel():
    method, whole = make(), volume(make_batch(1), 1, 2)
    calls = spied(method, "generator", "made")
    made = {name: method.translate(whole, name, SliceWindows(), keyed(1)).image for name in ("T2w", "PDw")}
    assert len(calls) == 2
    assert torch.equal(calls[0], calls[1])  # (slices, K, H, W)
    for name, image in made.items():
        assert torch.equal(image[0, 0].movedim(-1, 0), calls[0][:, CONTRASTS.index(name)])


@torch.no_grad()
def test_planes_tell_apart_what_is_missing_and_what_is_grey():
    """Without them a contrast of zeros is as one that is missing."""
    for planes in (False, True):
        method = make(availability_planes=planes)
        entry = method.generator.down[0]
        assert entry.in_channels == 4 * (1 + planes)
        grey, hidden = volume(make_batch(1)), volume(make_batch(1), 0)
        grey["images"][:, 0] = 0.0
        images = [method.translate(one, "FLAIR", SliceWindows(), keyed(1)).image for one in (grey, hidden)]
        assert torch.equal(*images) != planes
        y = method.condition(hidden, torch.tensor([[False, True, True, False]]))
        if planes:
            assert y[0, 4:, 0, 0, 0].tolist() == [0, 1, 1, 0]


def test_training_never_reads_beside_what_is_missing_or_absent():
    method = make(neighbours=1)
    assert method.generator.down[0].in_channels == 12
    batch = method.needs.random_batch(4, 3, (32, 32), seed=0)
    batch["available"][1, 2] = False
    noise = keyed()
    given = batch["available"] & ~missing_of(batch, noise)

    def told(batch):
        return torch.stack([loss for losses in losses_of(method, batch, noise).values() for loss in losses.values()])

    before = told(batch)
    other = {**batch, "neighbours": batch["neighbours"].clone()}
    other["neighbours"][~given] = 77.0
    assert torch.equal(told(other), before)
    other["neighbours"][given] *= -1
    assert not torch.equal(told(other), before)


def test_sources_may_have_other_intensities_than_the_truth():
    """`Needs.sources`: G sees the changed images, x̂ and D the true ones."""
    method, batch, noise = make(), make_batch(), keyed()
    batch["sources"] = 0.5 * batch["images"]
    given, judged = spied(method, "generator", "given"), spied(method, "discriminator", "given")
    losses_of(method, batch, noise)
    missing = missing_of(batch, noise)
    assert torch.equal(given[0][~missing], batch["sources"][~missing])
    assert torch.equal(judged[1][:, :4][~missing], batch["images"][~missing])


def test_the_recipes():
    papers, small = find_recipe("mm_gan"), find_recipe("mm_gan_small")
    assert papers.settings == MmGanConfig()
    assert papers.training.batch_size == small.training.batch_size == 4
    method = make()
    assert {method.lr_factor(player, Progress(99, 100, 0.0)) for player in method.players} == {1.0}
    assert {optimizer.defaults["betas"] for optimizer in method.optimizers().values()} == {(0.5, 0.999)}
    with torch.device("meta"):
        generator = MmGan(small.settings, CONTRASTS).generator
    assert generator.dropped((64, 80))[1] == (256, 2, 2)  # the bottleneck has pixels
    with pytest.raises(InputError, match=r"dropout 1"):
        MmGanConfig(dropout=1.0)
    with pytest.raises(InputError, match="not among"):
        make(targets=("T1ce",))


def test_cola_diffs_table_trains_it_on_as_many_samples(tmp_path):
    table = TABLES["cola-diff-table1"]
    rows = {row.name: row for row in table.present}
    request = Request(table=table, out=tmp_path)
    for task in table.tasks:
        own, other = (request.config(task, rows[name]) for name in ("MM-GAN", "cola_diff"))
        assert own.training.steps * own.training.batch_size == other.training.steps * other.training.batch_size
        assert own.settings == MmGanConfig(targets=task.targets)
        assert own.contrasts == other.contrasts


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_pixels_come_nearer(precision):
    method = make(targets=("FLAIR",), dropout=0.0)
    engine, batch = Engine(method, CPU, precision), make_batch(2)
    first = Progress(0, 1000, 0.0)  # FLAIR alone is missing
    before = losses_of(method, batch, keyed(2), first)["G"]["l1"].item()
    for step in range(40):
        method.training_step(batch, engine.update, first, keyed(2, step))
    losses = engine.mean_losses()
    assert set(losses) == {
        "D/truth", "D/given", "D/missing", "G/adversarial_given", "G/adversarial_missing", "G/l1"
    }  # fmt: skip
    assert all(math.isfinite(value) for value in losses.values())
    assert losses_of(method, batch, keyed(2), first)["G"]["l1"].item() < 0.6 * before


def test_a_cohort_trains_it(cohort, tiny, tmp_path):
    config = replace(tiny("mm_gan", steps=3), settings=replace(MmGanConfig.tiny(), availability_planes=True))
    assert isinstance(train(config, cohort, tmp_path / "run", device=CPU), RunConfig)
