"""CycleGAN and its sisters against their papers: networks, losses, their order, the image pool, and what pairs tell."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from scansynth.diffusion.windows import SliceWindows
from scansynth.errors import InputError
from scansynth.losses.adversarial import least_squares_discriminator_loss, least_squares_generator_loss
from scansynth.method import Progress
from scansynth.methods.cycle_gan import CycleGAN
from scansynth.methods.cycle_gan_parts import CycleGANConfig, ImagePool, discriminator, generator
from scansynth.networks.attention_unet import AttentionGate, AttentionUNet
from scansynth.networks.resnet import ResNetTranslator
from scansynth.networks.sagan import SaganAttention
from scansynth.noise import Noise
from scansynth.recipes import find_recipe
from scansynth.reproduction.request import Request
from scansynth.reproduction.tables import TABLES
from scansynth.training import checkpoint
from scansynth.training.engine import Engine

CPU = torch.device("cpu")
CONTRASTS = ("T1w", "T2w")
PROGRESS = Progress(0, 100, 0.0)
GENERATORS = ("resnet", "attention_unet", "self_attention")


def make(**settings):
    """A tiny CycleGAN, the same each time."""
    torch.manual_seed(0)
    return CycleGAN(replace(CycleGANConfig.tiny(), **settings), CONTRASTS)


def make_batch(count=2, size=(32, 32), seed=0):
    """T2w is T1w upside down in intensity, of smooth blobs."""
    images = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    images = nn.functional.interpolate(images, size=size, mode="bilinear")
    return {"images": torch.cat([images, -images], 1), "available": torch.ones(count, 2, dtype=torch.bool)}


def keyed(step=0, places=range(2)):
    return Noise([(0, step, place) for place in places])


def losses_of(method, batch=None, look=lambda player, losses: None):
    """The losses of one training step, by player, in the order of the updates; nothing is trained."""
    seen = {}

    def update(player, losses):
        look(player, losses)
        seen[player] = {name: loss.item() for name, loss in losses.items()}

    batch = batch or make_batch()
    method.training_step(batch, update, PROGRESS, keyed(places=range(len(batch["images"]))))
    return seen


def reached(loss, net):
    found = torch.autograd.grad(loss, list(net.parameters()), retain_graph=True, allow_unused=True)
    return [part is not None for part in found]


def parameters(net):
    return sum(parameter.numel() for parameter in net.parameters())


def shake(net):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return net


# Networks


def test_networks_have_the_papers_sizes():
    """11.37 M and 2.76 M; 5,248 of the first are biases before a norm, which takes them away again: here are none."""
    with torch.device("meta"):
        counts = {kind: parameters(generator(CycleGANConfig(generator=kind))) for kind in GENERATORS}
        assert counts == {"resnet": 11_360_385, "attention_unet": 35_550_789, "self_attention": 11_524_227}
        assert (counts["resnet"] + 5_248) / 1e6 == pytest.approx(11.37, abs=0.005)
        assert counts["self_attention"] - counts["resnet"] == 2 * (2 * 256 * 32 + 2 * 256 * 128 + 1)
        assert parameters(discriminator(CycleGANConfig())) == 2_761_793


def test_no_norm_has_a_scale_and_weights_start_normal():
    for kind in GENERATORS:
        torch.manual_seed(0)
        net = generator(CycleGANConfig(generator=kind, channels=16))
        norms = [module for module in net.modules() if isinstance(module, nn.InstanceNorm2d)]
        assert norms
        assert not any(norm.affine for norm in norms)
        weights = torch.cat([p.detach().flatten() for name, p in net.named_parameters() if name.endswith("weight")])
        assert weights.std().item() == pytest.approx(0.02, rel=0.02)
        assert weights.mean().item() == pytest.approx(0, abs=1e-3)
        assert all((p == 0).all() for name, p in net.named_parameters() if name.endswith(("bias", "gamma")))


def test_with_gamma_0_sagan_is_the_resnet_exactly():
    settings = {"channels": 8, "residual_blocks": 3, "upsample_kernel": 3, "affine": False}
    plain, attentive = ResNetTranslator(**settings), ResNetTranslator(**settings, attentive=2)
    kinds = [type(layer).__name__ for layer in attentive.layers]
    first = kinds.index("Residual")
    assert kinds[first : first + 5] == ["Residual", "Residual", "SaganAttention", "Residual", "SaganAttention"]
    own = [layer for layer in attentive.layers if not isinstance(layer, SaganAttention)]
    for mine, its in zip(own, plain.layers, strict=True):
        mine.load_state_dict(its.state_dict())
    x = torch.randn(2, 1, 20, 24)
    assert torch.equal(attentive(x), plain(x))
    with torch.no_grad():
        for layer in attentive.layers:
            if isinstance(layer, SaganAttention):
                layer.gamma.fill_(0.5)
    assert (attentive(x) - plain(x)).abs().max() > 1e-3


def test_self_attention_is_sagans_equations():
    torch.manual_seed(0)
    net = SaganAttention(16).double()
    x = torch.randn(2, 16, 3, 5, dtype=torch.float64)
    f, g, h = (layer(x).flatten(2) for layer in (net.f, net.g, net.h))  # (B, c, i)
    beta = (f.transpose(1, 2) @ g).softmax(1)  # (B, i, j)
    expected = net.v((h @ beta).unflatten(2, (3, 5)))
    torch.testing.assert_close(net.gathered(x), expected)
    with torch.no_grad():
        net.gamma.fill_(2.0)
    torch.testing.assert_close(net(x), x + 2 * expected)


def test_self_attention_never_holds_all_weights():
    net, x = SaganAttention(16), torch.randn(1, 16, 8, 8)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):  # raises where that kernel cannot be taken
        net.gathered(x).sum().backward()


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (11, 7)])
def test_a_gate_lies_between_0_and_1_and_has_the_skips_size(size):
    torch.manual_seed(0)
    gate = shake(AttentionGate(4, 8))
    x, g = 3 * torch.randn(2, 4, *size), 3 * torch.randn(2, 8, size[0] // 2, size[1] // 2)
    alpha = gate.alpha(x, g)
    assert alpha.shape == (2, 1, *size)
    assert ((alpha > 0) & (alpha < 1)).all()
    assert alpha.std() > 0.01
    assert torch.equal(gate(x, g), alpha * x)


def test_closed_gates_let_nothing_of_the_skips_through():
    torch.manual_seed(0)
    net, gated = AttentionUNet(channels=4, levels=3), []
    for gate in net.gates:
        nn.init.constant_(gate.psi.bias, -1e4)
        gate.register_forward_hook(lambda net, given, made: gated.append(made))
    net(torch.randn(1, 1, 16, 16))
    assert [tuple(made.shape[1:]) for made in gated] == [(8, 8, 8), (4, 16, 16)]
    assert not any(made.any() for made in gated)


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (26, 40)])
def test_slices_of_any_size_keep_it(kind, size):
    torch.manual_seed(0)
    net = shake(generator(CycleGANConfig(generator=kind, channels=8, residual_blocks=2, levels=4)))
    made = net(torch.randn(2, 1, *size))
    assert made.shape == (2, 1, *size)
    assert made.abs().max() <= 1
    (made * torch.randn_like(made)).sum().backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead


@pytest.mark.parametrize("kind", GENERATORS)
def test_an_image_does_not_depend_on_those_beside_it(kind):
    torch.manual_seed(0)
    net = shake(generator(CycleGANConfig(generator=kind, channels=8, residual_blocks=2, levels=3))).double()
    images = torch.randn(3, 1, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(net(images)[1:2], net(images[1:2]))


def test_what_cannot_be_is_named():
    with pytest.raises(InputError, match=r"5 levels need sides of at least 32.*\(32, 30\).*fewer levels"):
        AttentionUNet(channels=2)(torch.zeros(1, 1, 32, 30))
    with pytest.raises(InputError, match=r"\(7, 16\): pad to at least 8"):
        ResNetTranslator(channels=2, upsample_kernel=3)(torch.zeros(1, 1, 7, 16))
    with pytest.raises(InputError, match="even number of channels"):
        CycleGANConfig(generator="self_attention", channels=7)
    with pytest.raises(InputError, match="beta2"):
        CycleGANConfig(beta2=1.0)
    with pytest.raises(InputError, match="two contrasts, got 3"):
        CycleGAN(CycleGANConfig.tiny(), ("T1w", "T2w", "FLAIR"))


# Losses


def test_least_squares_by_hand():
    real, fake = torch.tensor([1.0, 0.0, 3.0]), torch.tensor([0.0, 2.0, 1.0])
    assert least_squares_generator_loss(fake).item() == pytest.approx((1 + 1 + 0) / 3)
    assert least_squares_discriminator_loss(real, fake).item() == pytest.approx(
        0.5 * ((0 + 1 + 4) / 3 + (0 + 4 + 1) / 3)
    )


def test_the_losses_of_networks_that_give_0():
    """Adversarial 1, a discriminator's 0.5, a cycle's λ·mean|x|, an identity's half of that."""
    method, batch = make(), make_batch()
    with torch.no_grad():
        for parameter in method.nets.parameters():
            parameter.zero_()
    seen = losses_of(method, batch)
    assert list(seen) == ["G", "D_T1w", "D_T2w"]
    size = 10 * batch["images"][:, 0].abs().mean().item()
    for contrast in CONTRASTS:
        assert seen["G"][f"adversarial {contrast}"] == pytest.approx(1)
        assert seen["G"][f"cycle {contrast}"] == pytest.approx(size)
        assert seen["G"][f"identity {contrast}"] == pytest.approx(size / 2)
        assert seen[f"D_{contrast}"] == {"adversarial": pytest.approx(0.5)}
    assert len(seen["G"]) == 6


def test_generators_that_change_nothing_have_no_cycle_loss():
    method = make()
    for contrast in CONTRASTS:
        method.nets[f"generator_{contrast}"] = nn.Identity()
    seen = losses_of(method)["G"]
    assert [seen[f"cycle {contrast}"] for contrast in CONTRASTS] == [0, 0]
    assert [seen[f"identity {contrast}"] for contrast in CONTRASTS] == [0, 0]


def test_without_identity_loss_there_is_none():
    assert set(losses_of(make(identity_weight=0.0))["G"]) == {
        f"{kind} {contrast}" for kind in ("adversarial", "cycle") for contrast in CONTRASTS
    }


def test_each_loss_hangs_on_its_own_networks():
    method = make()

    def look(player, losses):
        for target, source in itertools.permutations(CONTRASTS):
            generators = (method.nets[f"generator_{target}"], method.nets[f"generator_{source}"])
            if player == "G":
                for kind, both in (("adversarial", False), ("cycle", True), ("identity", False)):
                    loss = losses[f"{kind} {target}"]
                    assert all(reached(loss, generators[0]))
                    assert any(reached(loss, generators[1])) is both
                assert all(reached(losses[f"adversarial {target}"], method.nets[f"discriminator_{target}"]))
            elif player == f"D_{target}":
                (loss,) = losses.values()
                assert all(reached(loss, method.nets[f"discriminator_{target}"]))
                assert not any(reached(loss, method.nets[f"discriminator_{source}"]))
                assert not any(any(reached(loss, net)) for net in generators)

    losses_of(method, look=look)


@pytest.mark.parametrize("player", ["D_T1w", "D_T2w"])
def test_an_update_of_a_discriminator_moves_it_alone(player):
    method = make()
    engine = Engine(method, CPU, "float32")
    before = {name: [p.detach().clone() for p in net.parameters()] for name, net in method.nets.items()}
    method.training_step(
        make_batch(), lambda own, losses: engine.update(own, losses) if own == player else None, PROGRESS, keyed()
    )
    moved = {name for name, net in method.nets.items() if not all(map(torch.equal, net.parameters(), before[name]))}
    assert moved == {f"discriminator_{player.removeprefix('D_')}"}


def test_which_images_meet_in_a_batch_tells_nothing():
    """Every loss hangs on each contrast's images as a set: those of T1w in another order change none."""
    batch, other = make_batch(4), make_batch(4)
    other["images"][:, 0] = other["images"][[2, 0, 3, 1], 0]
    seen = []
    for one in (batch, other):
        method = make(pool=0)
        found = {}
        method.training_step(one, lambda player, losses, found=found: found.update({
            (player, name): loss.item() for name, loss in losses.items()
        }), PROGRESS, keyed(places=range(4)))  # fmt: skip
        seen.append(found)
    assert seen[0] == pytest.approx(seen[1], rel=1e-5)
    assert not make().needs.paired


def test_losses_of_a_contrasts_cycle_do_not_see_the_other_contrast():
    batch, other = make_batch(), make_batch()
    other["images"][:, 0] = make_batch(seed=1)["images"][:, 0]
    first, second = losses_of(make(pool=0), batch), losses_of(make(pool=0), other)
    for name in ("cycle T2w", "identity T2w", "adversarial T1w"):
        assert first["G"][name] == second["G"][name]
    for name in ("cycle T1w", "identity T1w", "adversarial T2w"):
        assert first["G"][name] != second["G"][name]


def test_rates_and_optimisers():
    method = make()
    factors = [method.lr_factor("G", Progress(step, 100, 0.0)) for step in (0, 25, 50, 75, 99, 100)]
    assert factors == pytest.approx([1, 1, 1, 0.5, 0.02, 0])
    assert method.players == {
        "G": ("generator_T1w", "generator_T2w"), "D_T1w": ("discriminator_T1w",), "D_T2w": ("discriminator_T2w",),
    }  # fmt: skip
    assert {optimizer.defaults["betas"] for optimizer in method.optimizers().values()} == {(0.5, 0.999)}
    assert {optimizer.defaults["betas"] for optimizer in make(beta2=0.9).optimizers().values()} == {(0.5, 0.9)}


# Image pool


def images_of(*values):
    return torch.tensor(values, dtype=torch.float32)[:, None, None, None]


def test_a_pool_fills_then_shows_its_own_or_what_comes():
    pool = ImagePool(2)
    assert pool.shown(images_of(1, 2, 3), [True, True, False], [0, 1, 0]).flatten().tolist() == [1, 2, 3]
    assert pool.shown(images_of(4, 5, 6), [True, False, True], [1, 0, 1]).flatten().tolist() == [2, 5, 4]
    assert torch.stack(pool.images).flatten().tolist() == [1, 6]


def test_a_pool_of_none_keeps_nothing():
    pool = ImagePool(0)
    assert pool.shown(images_of(1, 2), [True, True], [0, 0]).flatten().tolist() == [1, 2]
    assert not pool.images
    method = make(pool=0)
    train(Engine(method, CPU, "float32"), 3)
    assert not method.memory()


def train(engine, *numbers, noise=keyed):
    for number in range(*numbers):
        engine.progress = Progress(number, 100, 0.0)
        engine.method.training_step(make_batch(seed=number), engine.update, engine.progress, noise(number))


def state(engine):
    tensors = {
        **engine.method.nets.state_dict(),
        **{f"average {k}": v for k, v in engine.averages.state_dict().items()},
    }
    return {**tensors, **{f"memory {name}": tensor for name, tensor in engine.method.memory().items()}}


def differing(some, others):
    assert some.keys() == others.keys()
    return [name for name, tensor in some.items() if not torch.equal(tensor, others[name])]


def test_a_resumed_training_has_its_pool_again_to_the_last_bit(tmp_path):
    whole, first, second, forgetful = (Engine(make(), CPU, "float32") for _ in range(4))
    train(whole, 8)
    train(first, 4)
    first.save(tmp_path, 4, {})
    saved = checkpoint.current(tmp_path)
    assert (saved / "memory.safetensors").is_file()
    for engine in (second, forgetful):
        engine.load(saved)
    assert not differing(state(first), state(second))
    train(second, 4, 8)
    assert not differing(state(whole), state(second))
    assert {name: len(pool.images) for name, pool in second.method.pools.items()} == {"T1w": 3, "T2w": 3}
    forgetful.method.pools = make().pools
    train(forgetful, 4, 8)
    assert differing(state(whole), state(forgetful)), "the pool is of no consequence"


def test_images_of_the_pool_are_no_part_of_the_weights(tmp_path):
    engine = Engine(make(), CPU, "float32")
    train(engine, 3)
    engine.save(tmp_path, 3, {})
    shape = engine.method.pools["T1w"].images[0].shape
    assert all(tensor.shape[1:] != shape for tensor in engine.synthesis_weights().values())
    files, found = checkpoint.load(checkpoint.current(tmp_path), "weights", "averages", "memory")
    assert files.pop("memory").keys() == set(CONTRASTS)
    assert not any("pool" in key for tensors in files.values() for key in tensors)
    assert "memory.safetensors" in found["files"]


def test_what_is_no_pool_is_refused():
    method = make()
    for memory in ({"FLAIR": torch.zeros(1, 1, 8, 8)}, {"T1w": torch.zeros(4, 1, 8, 8)}, {"T1w": torch.zeros(1, 8, 8)}):
        with pytest.raises(InputError, match=r"no contrast|cannot hold"):
            method.remember(memory)


def test_several_processes_have_one_pool():
    """Each with half of the batch, they hold the same images, and show what one process would."""
    alone, shares = make(), [make(), make()]
    pools = [alone, *shares]
    seen = []
    for number in range(6):
        fake = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(number))
        expected = alone.shown("T1w", fake, keyed(number, range(4)))
        seen.append(not torch.equal(expected, fake))
        drawn = keyed(number, range(4))
        numbers = torch.stack([drawn.uniform("again T1w") < 0.5, drawn.integers("place T1w", 0, 3)], dim=1)
        for rank, method in enumerate(shares):
            own = slice(2 * rank, 2 * rank + 2)

            def joined(part, own=own, fake=fake, numbers=numbers):
                whole = fake if part.ndim == 4 else numbers
                assert torch.equal(part, whole[own])
                return whole, own

            method.joined = joined
            assert torch.equal(method.shown("T1w", fake[own], keyed(number, range(own.start, own.stop))), expected[own])
    assert any(seen)
    assert len({str(torch.stack(method.pools["T1w"].images).tolist()) for method in pools}) == 1


# Synthesis and recipes


@pytest.mark.parametrize("kind", GENERATORS)
def test_synthesis_is_one_call_and_draws_nothing(kind):
    method = shake(make(generator=kind)).double().eval()
    assert not method.stochastic
    images = (make_batch(1, size=(33, 26))["images"][..., None] * torch.linspace(0.5, 1, 3)).double()
    batch = {"images": images, "available": torch.tensor([[True, False]])}
    with torch.no_grad():
        made = [
            method.translate(batch, "T2w", SliceWindows(at_once), Noise([(seed, "subject", 0)])).image
            for at_once, seed in ((16, 0), (1, 1))
        ]
        expected = method.nets["generator_T2w"](images[0, :1].movedim(3, 0))
    torch.testing.assert_close(made[0][0].movedim(3, 0), expected)
    torch.testing.assert_close(made[1], made[0], rtol=0, atol=1e-9)
    with pytest.raises(InputError, match="makes T1w from T2w, which is not given"):
        method.translate(batch, "T1w", SliceWindows(), Noise([(0,)]))


@pytest.mark.parametrize(("kind", "precision"), [*zip(GENERATORS, itertools.repeat("float32")), ("resnet", "bfloat16")])
def test_cycles_close_in_training_at_a_batch_of_one(kind, precision):
    method = make(generator=kind, pool=0)
    engine, batch = Engine(method, CPU, precision), make_batch(1)

    def cycle():
        return sum(loss for name, loss in losses_of(method, batch)["G"].items() if "cycle" in name)

    before = cycle()
    for number in range(30):
        method.training_step(batch, engine.update, PROGRESS, keyed(number, range(1)))
    losses = engine.mean_losses()
    assert {name.split("/")[0] for name in losses} == {"G", "D_T1w", "D_T2w"}
    assert {"G/cycle T1w", "G/cycle T2w"} <= losses.keys()
    assert all(math.isfinite(value) for value in losses.values())
    assert cycle() < 0.7 * before


def test_recipes_are_the_papers():
    own, cgan = find_recipe("cycle_gan"), find_recipe("cgan")
    assert own.settings == CycleGANConfig(identity_weight=0.5)
    assert (own.settings.cycle_weight, own.settings.pool, own.settings.learning_rate) == (10, 50, 2e-4)
    assert cgan.settings == CycleGANConfig(cycle_weight=100, pool=0, beta2=0.9)
    assert find_recipe("attgan") == replace(cgan, settings=replace(cgan.settings, generator="attention_unet"))
    assert find_recipe("sagan") == replace(cgan, settings=replace(cgan.settings, generator="self_attention"))
    assert {find_recipe(name).training.batch_size for name in ("cycle_gan", "cgan", "attgan", "sagan")} == {1}


@pytest.mark.parametrize("table", ["syndiff-table2", "syndiff-table3", "syndiff-table4"])
def test_syndiffs_tables_run_them_for_a_hundred_epochs(table, tmp_path):
    request = Request(table=TABLES[table], out=tmp_path)
    rows = {row.name: row for row in request.table.present}
    for task in request.table.tasks:
        slices = 9 * 90 if table == "syndiff-table4" else 25 * 100
        for name in ("cGAN", "AttGAN", "SAGAN"):
            config = request.config(task, rows[name])
            assert (config.method, config.settings.cycle_weight) == ("cycle_gan", 100)
            assert config.training.steps * config.training.batch_size == 100 * slices


def test_small_recipes_differ_from_the_papers_in_size_rate_and_identity():
    changed = {"channels", "residual_blocks", "levels", "discriminator_channels", "learning_rate"}
    for name, more in (("cycle_gan", {"identity_weight"}), ("cgan", set()), ("attgan", set()), ("sagan", set())):
        own, small = (vars(find_recipe(one).settings) for one in (name, f"{name}_small"))
        assert {key for key, value in own.items() if small[key] != value} == changed | more
