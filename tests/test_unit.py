"""UNIT and MUNIT against their papers: networks, losses, which networks each hangs on, what pairs tell, and styles."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from scansynth.diffusion.windows import SliceWindows
from scansynth.errors import InputError
from scansynth.losses.adversarial import multi_scale_discriminator_loss, multi_scale_generator_loss
from scansynth.method import Progress
from scansynth.methods.munit import Munit, MunitConfig
from scansynth.methods.unit import Unit, UnitConfig
from scansynth.networks.cpu import GroupNorm
from scansynth.networks.unit import Decoder, Encoder, MultiScaleDiscriminator, ResidualBlock, StyleEncoder, adain
from scansynth.noise import Noise
from scansynth.recipes import find_recipe
from scansynth.reproduction.request import Request
from scansynth.reproduction.tables import TABLES
from scansynth.training.engine import Engine

CPU = torch.device("cpu")
CONTRASTS = ("T1w", "T2w")
PROGRESS = Progress(0, 100, 0.0)
METHODS = {"unit": (Unit, {}), "unit tied": (Unit, {"tied": True}), "munit": (Munit, {})}


def make(name, **settings):
    """A tiny UNIT or MUNIT, the same each time."""
    torch.manual_seed(0)
    method, own = METHODS[name]
    return method(replace(method.Config.tiny(), **own, **settings), CONTRASTS)


def make_batch(count=2, size=(32, 32), seed=0):
    """T2w is T1w upside down in intensity, of smooth blobs."""
    images = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    images = functional.interpolate(images, size=size, mode="bilinear")
    return {"images": torch.cat([images, -images], 1), "available": torch.ones(count, 2, dtype=torch.bool)}


def keyed(step=0, places=range(2)):
    return Noise([(0, step, place) for place in places])


def losses_of(method, batch=None, noise=None, look=lambda player, losses: None):
    """The losses of one training step, by player, in the order of the updates; nothing is trained."""
    seen = {}

    def update(player, losses):
        look(player, losses)
        seen[player] = {name: loss.item() for name, loss in losses.items()}

    batch = batch or make_batch()
    method.training_step(batch, update, PROGRESS, noise or keyed(places=range(len(batch["images"]))))
    return seen


def silenced(nets):
    """All weights 0: encoders and decoders give 0, discriminators too."""
    with torch.no_grad():
        for parameter in nets.parameters():
            parameter.zero_()


def reached(loss, net):
    """Whether the loss hangs on any of a network's parameters."""
    found = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True, allow_unused=True)
    return any(part is not None for part in found)


def parameters(*nets):
    return sum(parameter.numel() for net in nets for parameter in net.parameters())


# Networks


def test_networks_have_the_sizes_of_what_syndiff_compares_with():
    """11.1 and 8.3 M, 15.0 and 8.3 M; biases before an instance norm, which takes them away again, are not there."""
    with torch.device("meta"):
        unit, tied, munit = (
            {"unit": Unit, "munit": Munit}[find_recipe(name).method](find_recipe(name).settings, CONTRASTS).nets
            for name in ("unit", "unit_tied", "munit")
        )
    generator = parameters(unit["encoder_T1w"], unit["decoder_T1w"])
    assert generator == 11_123_393
    before_norms = (64 + 128 + 256 + 8 * 256) + 8 * 256
    assert (generator + before_norms) / 1e6 == pytest.approx(11.1, abs=0.05)
    assert parameters(munit["content_T1w"], munit["style_T1w"], munit["decoder_T1w"]) == 15_002_825
    assert {parameters(nets["discriminator_T2w"]) for nets in (unit, munit)} == {8_265_027}
    assert parameters(unit) - parameters(tied) == 2 * parameters(ResidualBlock(256)) == 4 * 9 * 256**2


def test_adain_with_a_features_own_mean_and_deviation_changes_nothing():
    x = 3 + 2 * torch.randn(2, 5, 6, 7, dtype=torch.float64)
    deviation, mean = x.std((2, 3), correction=0), x.mean((2, 3))
    torch.testing.assert_close(adain(x, torch.cat([deviation, mean], 1)), x, rtol=1e-4, atol=1e-5)
    normed = adain(x)
    torch.testing.assert_close(normed.mean((2, 3)), torch.zeros_like(mean))
    torch.testing.assert_close(normed.std((2, 3), correction=0), torch.ones_like(mean), rtol=1e-4, atol=0)


def test_a_decoders_norm_is_layer_norm_over_channels_and_places():
    norms = [layer for layer in Decoder(4).layers if "Norm" in type(layer).__name__]
    assert len(norms) == 2
    for norm, width in zip(norms, (8, 4), strict=True):
        x = 2 + torch.randn(2, width, 4, 5)
        torch.testing.assert_close(norm(x), functional.layer_norm(x, x.shape[1:]))


def test_norms_and_starts_are_the_papers():
    """None in discriminators and style encoders; Kaiming but in discriminators, whose weights are N(0, 0.02²)."""
    torch.manual_seed(0)
    nets = {"content": Encoder(16), "style": StyleEncoder(16), "decoder": Decoder(16, styled=True)}
    for name, net in {**nets, "discriminator": MultiScaleDiscriminator(16)}.items():
        kinds = {type(module) for module in net.modules()}
        assert (nn.InstanceNorm2d in kinds) is (name == "content")
        assert (GroupNorm in kinds) is (name == "decoder")
        for module in net.modules():
            assert not getattr(module, "affine", False) or isinstance(module, GroupNorm)
            if isinstance(module, nn.Conv2d | nn.Linear):
                weights = module.weight.detach()
                fan_in = weights[0].numel()
                expected = 0.02 if name == "discriminator" else math.sqrt(2 / fan_in)
                if weights.numel() > 2000:
                    assert weights.std().item() == pytest.approx(expected, rel=0.1), name
                assert module.bias is None or not module.bias.any()
                keeps_borders = getattr(module, "padding_mode", "reflect") == "reflect"
                assert keeps_borders or module.kernel_size == (1, 1)


def test_a_discriminator_sees_three_scales_and_what_is_constant_stays_so():
    torch.manual_seed(0)
    net, seen = MultiScaleDiscriminator(4), []
    for part in net.nets:
        part.register_forward_pre_hook(lambda part, given: seen.append(given[0]))
    values = net(torch.full((2, 1, 64, 90), 0.5))
    assert [tuple(one.shape) for one in values] == [(2, 1, 4, 5), (2, 1, 2, 2), (2, 1, 1, 1)]
    assert [tuple(one.shape[2:]) for one in seen] == [(64, 90), (32, 45), (16, 23)]
    assert all((one == 0.5).all() for one in seen)


@pytest.mark.parametrize("name", METHODS)
def test_every_weight_learns_and_an_image_does_not_depend_on_those_beside_it(name):
    method = make(name, residual_blocks=2)
    batch = make_batch(3)

    def look(player, losses):
        trained = [p for net in method.players[player] for p in method.nets[net].parameters()]
        gradients = torch.autograd.grad(
            torch.stack([*losses.values()]).sum(), trained, retain_graph=True, allow_unused=True
        )
        assert all(one is not None and one.abs().max() > 0 for one in gradients)

    losses_of(method, batch, look=look)
    method.double()
    images = batch["images"].double().movedim(0, -1)[None]  # the batch as the slices of a volume
    given = {"images": images, "available": torch.tensor([[True, False]])}
    alone = {**given, "images": images[..., 1:2]}
    noise = Doubled([(0, "subject", 0)])
    with torch.no_grad():
        whole, one = (method.translate(part, "T2w", SliceWindows(), noise).image for part in (given, alone))
    torch.testing.assert_close(whole[..., 1:2], one)


class Doubled(Noise):
    def normal(self, name, shape):
        return super().normal(name, shape).double()


def test_what_cannot_be_is_named():
    with pytest.raises(InputError, match=r"3 scales need sides of at least 64.*\(48, 64\).*fewer scales"):
        MultiScaleDiscriminator(2)(torch.zeros(1, 1, 48, 64))
    with pytest.raises(InputError, match=r"\(32, 30\): pad to multiples of 4"):
        Encoder(2)(torch.zeros(1, 1, 32, 30))
    with pytest.raises(InputError, match=r"\(12, 32\).*at least 16"):
        StyleEncoder(2)(torch.zeros(1, 1, 12, 32))
    with pytest.raises(InputError, match=r"munit: beta2 1.0"):
        MunitConfig(beta2=1.0)
    for name in ("unit", "munit"):
        method = METHODS[name][0]
        with pytest.raises(InputError, match=rf"{name} translates between two contrasts, got 3"):
            method(method.Config.tiny(), ("T1w", "T2w", "FLAIR"))


# Losses


def test_scales_are_summed_and_the_discriminators_loss_is_not_halved():
    real = [torch.tensor([1.0, 0.0]), torch.tensor([3.0])]
    fake = [torch.tensor([0.0, 2.0]), torch.tensor([1.0])]
    assert multi_scale_generator_loss(fake).item() == pytest.approx((1 + 1) / 2 + 0)
    assert multi_scale_discriminator_loss(real, fake).item() == pytest.approx(
        (0 + 1) / 2 + (0 + 4) / 2 + (4 + 1)
    )  # fmt: skip


@pytest.mark.parametrize("scales", [1, 2])
@pytest.mark.parametrize("name", ["unit", "munit"])
def test_the_losses_of_networks_that_give_0(name, scales):
    """Each scale adds 1 to both adversarial losses; an image's is λ·mean|x|, a style's mean|s|."""
    method, batch = make(name, scales=scales), make_batch()
    silenced(method.nets)
    seen = losses_of(method, batch)
    assert list(seen) == ["D", "G"]
    size = 10 * batch["images"][:, 0].abs().mean().item()
    for contrast in CONTRASTS:
        assert seen["D"][f"adversarial {contrast}"] == pytest.approx(scales)
        expected = {"adversarial": scales} | (
            {"reconstruction": size, "cycle": size, "kl": 0}
            if name == "unit"
            else {"image": size, "content": 0, "style": keyed().normal(f"s {contrast}", (8,)).abs().mean().item()}
        )
        for kind, value in expected.items():
            assert seen["G"].pop(f"{kind} {contrast}") == pytest.approx(value), kind
    assert not seen["G"]


def test_units_latents_have_unit_noise_in_both_passes_and_the_kl_of_their_means():
    """Networks that change nothing: E|η| and E|η + η'| of N(0, 1) are √(2/π) and √2 of it; twice mean x²."""
    method, batch = make("unit"), make_batch(4)
    for contrast in CONTRASTS:
        method.nets[f"encoder_{contrast}"] = method.nets[f"decoder_{contrast}"] = nn.Identity()
    seen = losses_of(method, batch)["G"]
    for contrast in CONTRASTS:
        assert seen[f"reconstruction {contrast}"] == pytest.approx(10 * math.sqrt(2 / math.pi), rel=0.03)
        assert seen[f"cycle {contrast}"] == pytest.approx(10 * math.sqrt(4 / math.pi), rel=0.03)
        away = batch["images"].square().mean().item() + 1  # what is made of it has the noise once
        assert seen[f"kl {contrast}"] == pytest.approx(0.01 * (2 * away - 1), rel=0.03)


class Silent(Noise):
    def normal(self, name, shape):
        return 0 * super().normal(name, shape)


def test_networks_that_are_each_others_inverse_lose_nothing_but_the_game():
    batch = make_batch()
    unit, munit = make("unit"), make("munit")
    for contrast in CONTRASTS:
        unit.nets[f"encoder_{contrast}"] = unit.nets[f"decoder_{contrast}"] = nn.Identity()
        munit.nets[f"content_{contrast}"], munit.nets[f"decoder_{contrast}"] = nn.Identity(), Content()
        munit.nets[f"style_{contrast}"] = Style()
    for method in (unit, munit):
        seen = losses_of(method, batch, noise=Silent([(0,), (1,)]))["G"]
        assert not any(value for name, value in seen.items() if name.split()[0] not in ("adversarial", "kl"))


class Content(nn.Module):
    def forward(self, c, s):
        return c


class Style(nn.Module):
    def forward(self, x):
        return x.new_zeros(len(x), 8)


@pytest.mark.parametrize("name", METHODS)
def test_each_loss_hangs_on_its_own_networks(name):
    """Reconstruction of one contrast never touches the other's networks, but those that both share."""
    method = make(name, residual_blocks=2)
    parts = ("encoder", "decoder") if name != "munit" else ("content", "style", "decoder")

    def hangs(loss):
        return {net for net in method.nets if reached(loss, method.nets[net])}

    def look(player, losses):
        shared = {net for net in method.nets if net.startswith("shared")}
        assert len(shared) == (2 if name == "unit tied" else 0)
        for own, other in itertools.permutations(CONTRASTS):
            mine, its = ({f"{part}_{contrast}" for part in parts} for contrast in (own, other))
            if player == "D":
                assert hangs(losses[f"adversarial {own}"]) == {f"discriminator_{own}"}
                continue
            judged = {f"discriminator_{own}", f"decoder_{own}"}
            if name == "munit":
                made = {f"content_{other}", f"decoder_{own}"}
                assert hangs(losses[f"image {own}"]) == mine
                assert hangs(losses[f"adversarial {own}"]) == judged | made
                assert hangs(losses[f"content {other}"]) == made | {f"content_{own}"}
                assert hangs(losses[f"style {own}"]) == made | {f"style_{own}"}
            else:
                assert hangs(losses[f"reconstruction {own}"]) == mine | shared
                assert hangs(losses[f"adversarial {own}"]) == judged | {f"encoder_{other}"} | shared
                assert hangs(losses[f"cycle {own}"]) == mine | its | shared
                assert hangs(losses[f"kl {own}"]) == {f"encoder_{own}", f"encoder_{other}", f"decoder_{other}"} | shared

    losses_of(method, look=look)


@pytest.mark.parametrize("name", METHODS)
def test_an_update_of_the_discriminators_moves_them_alone(name):
    method = make(name)
    engine = Engine(method, CPU, "float32")
    before = {net: [p.detach().clone() for p in method.nets[net].parameters()] for net in method.nets}

    def update(player, losses):
        if player == "D":
            engine.update(player, losses)

    method.training_step(make_batch(), update, PROGRESS, keyed())
    moved = {net for net, old in before.items() if not all(map(torch.equal, method.nets[net].parameters(), old))}
    assert moved == {"discriminator_T1w", "discriminator_T2w"}


@pytest.mark.parametrize("name", METHODS)
def test_which_images_meet_in_a_batch_tells_nothing(name):
    """Every loss hangs on each contrast's images as a set: those of T1w in another order change none."""
    batch, other = make_batch(4), make_batch(4)
    other["images"][:, 0] = other["images"][[2, 0, 3, 1], 0]
    same = Noise([(0, 0, 0)] * 4)  # so that the order of images is all that differs
    seen = [losses_of(make(name), one, noise=same) for one in (batch, other)]
    for player in ("D", "G"):
        assert seen[0][player] == pytest.approx(seen[1][player], rel=1e-4)
    assert not make(name).needs.paired


def test_rates_and_optimisers():
    for name, (method, _) in METHODS.items():
        made = make(name, halve_every=40)
        factors = [made.lr_factor("G", Progress(step, 100, 0.0)) for step in (0, 39, 40, 79, 80, 99)]
        assert factors == [1, 1, 0.5, 0.5, 0.25, 0.25]
        assert made.players["D"] == ("discriminator_T1w", "discriminator_T2w")
        assert set(made.players["G"]) == set(made.nets) - set(made.players["D"])
        for beta2 in (0.999, 0.9):
            for optimizer in make(name, beta2=beta2).optimizers().values():
                assert (optimizer.defaults["betas"], optimizer.defaults["weight_decay"]) == ((0.5, beta2), 1e-4)
        assert method.Config().learning_rate == 1e-4


# Synthesis and recipes


def a_volume(depth=4):
    """Every slice shows the same."""
    images = make_batch(1)["images"][..., None].expand(-1, -1, -1, -1, depth)
    return {"images": images, "available": torch.tensor([[True, False]])}


def test_munit_has_one_style_a_volume_drawn_for_the_subject():
    method, batch = make("munit").eval(), a_volume()

    def made(*key, at_once=16):
        with torch.no_grad():
            return method.translate(batch, "T2w", SliceWindows(at_once), Noise([key])).image

    first = made(0, "subject", 0)
    assert method.stochastic
    torch.testing.assert_close(first, first[..., :1].expand_as(first))
    torch.testing.assert_close(made(0, "subject", 0, at_once=1), first)
    assert (made(0, "subject", 1) - first).abs().max() > 1e-3
    assert (made(0, "another", 0) - first).abs().max() > 1e-3


def test_with_its_style_fixed_munit_is_deterministic():
    method, y = make("munit").eval(), make_batch()["images"][:, :1]
    s = torch.randn(2, 8)
    with torch.no_grad():
        first, second = (method.decode("T2w", method.content("T1w", y), s) for _ in range(2))
        other = method.decode("T2w", method.content("T1w", y), -s)
    assert torch.equal(first, second)
    assert (other - first).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["unit", "unit tied"])
def test_unit_draws_nothing_in_synthesis(name):
    method, batch = make(name).eval(), a_volume()
    assert not method.stochastic
    with torch.no_grad():
        made = method.translate(batch, "T2w", SliceWindows(), Noise([(0, "subject", 0)])).image
        expected = method.decode("T2w", method.encode("T1w", batch["images"][:, :1, ..., 0]))
    torch.testing.assert_close(made[..., 0], expected)
    with pytest.raises(InputError, match="unit makes T1w from T2w, which is not given"):
        method.translate(batch, "T1w", SliceWindows(), Noise([(0,)]))


@pytest.mark.parametrize("name", METHODS)
def test_images_are_reconstructed_in_training_at_a_batch_of_one(name):
    method = make(name)
    engine, batch = Engine(method, CPU, "float32"), make_batch(1)
    kind = "image" if name == "munit" else "reconstruction"

    def reconstruction():
        return sum(losses_of(method, batch)["G"][f"{kind} {contrast}"] for contrast in CONTRASTS)

    before = reconstruction()
    for number in range(10):
        method.training_step(batch, engine.update, PROGRESS, keyed(number, range(1)))
    assert all(math.isfinite(value) for value in engine.mean_losses().values())
    assert reconstruction() < 0.7 * before


def test_recipes_are_the_papers():
    unit, munit = find_recipe("unit"), find_recipe("munit")
    assert unit.settings == UnitConfig(beta2=0.9)
    assert (unit.settings.reconstruction_weight, unit.settings.cycle_weight, unit.settings.kl_weight) == (10, 10, 0.01)
    assert munit.settings == MunitConfig(beta2=0.9)
    assert (munit.settings.image_weight, munit.settings.content_weight, munit.settings.style_weight) == (10, 1, 1)
    assert find_recipe("unit_tied") == replace(unit, settings=replace(unit.settings, tied=True))
    changed = {"channels", "residual_blocks", "discriminator_channels", "scales", "learning_rate", "halve_every"}
    for name in ("unit", "munit"):
        own, small = find_recipe(name), find_recipe(f"{name}_small")
        assert own.training.batch_size == small.training.batch_size == 1
        assert {key for key, value in vars(own.settings).items() if vars(small.settings)[key] != value} == changed
        MultiScaleDiscriminator(1, small.settings.scales)(torch.zeros(1, 1, 48, 64))


@pytest.mark.parametrize("table", ["syndiff-table2", "syndiff-table3", "syndiff-table4"])
def test_syndiffs_tables_run_them_for_a_hundred_epochs(table, tmp_path):
    request = Request(table=TABLES[table], out=tmp_path)
    rows = {row.name: row for row in request.table.present}
    for task in request.table.tasks:
        slices = 9 * 90 if table == "syndiff-table4" else 25 * 100
        for name in ("UNIT", "MUNIT"):
            config = request.config(task, rows[name])
            assert config.method == name.lower()
            assert config.training.steps * config.training.batch_size == 100 * slices
