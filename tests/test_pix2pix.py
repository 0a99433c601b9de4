"""pix2pix against its paper: sizes, what D sees, the losses and their order, and noise that is keyed."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from scansynth.diffusion.windows import SliceWindows
from scansynth.errors import InputError
from scansynth.method import Progress
from scansynth.methods.any_to_any import draw_task
from scansynth.methods.pix2pix import Pix2Pix, Pix2PixConfig
from scansynth.networks.perceptual import VGG16
from scansynth.networks.pix2pix import Pix2PixUNet, drop
from scansynth.networks.public_syndiff import PatchDiscriminator
from scansynth.networks.resnet import ResNetTranslator
from scansynth.noise import Noise, SharedAlongSlices
from scansynth.recipes import find_recipe
from scansynth.reproduction.request import Request
from scansynth.reproduction.tables import TABLES
from scansynth.training.engine import Engine

CPU = torch.device("cpu")
CONTRASTS = ("T1w", "T2w", "FLAIR")
PROGRESS = Progress(0, 100, 0.0)


def make(**settings):
    """A tiny pix2pix, the same each time."""
    torch.manual_seed(0)
    return Pix2Pix(replace(Pix2PixConfig.tiny(), **settings), CONTRASTS)


def shaken():
    """A tiny pix2pix with noise in synthesis, whose every weight matters."""
    method = make(dropout_in_synthesis=True)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return method


def make_batch(count=2, size=32):
    """Smooth blobs; the third contrast is the mean of the other two."""
    images = torch.rand(count, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    images = nn.functional.interpolate(images, size=size, mode="bilinear")
    images = torch.cat([images, images.mean(1, keepdim=True)], 1)
    return {"images": images, "available": torch.ones(count, 3, dtype=torch.bool)}


def keyed(count=2, step=0):
    return Noise([(0, step, place) for place in range(count)])


def parameters(net):
    return sum(parameter.numel() for parameter in net.parameters())


def losses_of(method, batch=None, noise=None):
    """The losses of one training step, by player, in the order of the updates; nothing is trained."""
    seen = {}
    batch = batch or make_batch()
    method.training_step(batch, lambda player, losses: seen.update({player: losses}), PROGRESS, noise or keyed())
    return seen


def test_networks_have_the_papers_sizes():
    with torch.device("meta"):
        assert parameters(Pix2PixUNet(1)) / 1e6 == pytest.approx(54.4, abs=0.05)
        assert parameters(PatchDiscriminator(2)) / 1e6 == pytest.approx(2.76, abs=0.005)
        assert Pix2PixUNet(1).widths == [64, 128, 256, 512, 512, 512, 512, 512]


def test_the_recipe_is_the_papers_and_a_second_one_has_its_noise():
    papers, noisy = find_recipe("pix2pix"), find_recipe("pix2pix_stochastic")
    assert papers.settings == Pix2PixConfig()
    assert papers.training.batch_size == 1
    assert papers.data.augmentation.flip == 0.5
    assert noisy == replace(papers, settings=Pix2PixConfig(dropout_in_synthesis=True))


def test_mri_cgan_trains_on_as_many_samples_as_cg_ddpm(tmp_path):
    table = TABLES["cg-ddpm-table1"]
    request = Request(table=table, out=tmp_path)
    rows = {row.name: row for row in table.present}
    for task in table.tasks:
        samples = {
            name: request.config(task, rows[name]).training.steps * request.config(task, rows[name]).training.batch_size
            for name in ("cg_ddpm", "MRI-cGAN")
        }
        assert samples["MRI-cGAN"] == samples["cg_ddpm"]


def test_no_norm_in_the_first_level_and_the_bottleneck_and_dropout_in_the_three_deepest():
    unet = Pix2PixUNet(1, channels=2)
    kinds = [isinstance(norm, nn.InstanceNorm2d) for norm in unet.down_norms]
    assert kinds == [False, *[True] * 6, False]
    assert [isinstance(norm, nn.InstanceNorm2d) for norm in unet.up_norms] == [False, *[True] * 7]
    assert unet.dropped((256, 256)) == [(16, 2, 2), (16, 4, 4), (16, 8, 8)]
    assert not Pix2PixUNet(1, channels=2, dropout=0.0).dropped((256, 256))


@pytest.mark.parametrize(
    ("recipe", "size", "bottleneck"),
    [("pix2pix", (256, 256), (1, 1)), ("pix2pix_small", (64, 64), (2, 2)), ("pix2pix_small", (96, 80), (3, 2)),
     ("pix2pix_small", (70, 86), (2, 2))],
)  # fmt: skip
def test_the_bottleneck_has_a_pixel_and_the_output_the_inputs_size(recipe, size, bottleneck):
    seen = []
    unet = Pix2PixUNet(1, channels=2, halvings=find_recipe(recipe).settings.halvings)
    unet.down[-1].register_forward_hook(lambda net, given, made: seen.append(tuple(made.shape[2:])))
    made = unet(torch.randn(1, 1, *size))
    assert seen == [bottleneck]
    assert made.shape == (1, 1, *size)
    assert torch.isfinite(made).all()


def test_a_slice_that_is_too_small_is_named_with_the_way_on():
    with pytest.raises(InputError, match=r"8 halvings need sides of at least 256.*\(256, 240\).*fewer halvings"):
        Pix2PixUNet(1, channels=2)(torch.zeros(1, 1, 256, 240))
    with pytest.raises(InputError, match=r"dropout 1"):
        Pix2PixConfig(dropout=1.0)
    with pytest.raises(InputError, match="wants a dropout above 0"):
        Pix2PixConfig(dropout=0.0, dropout_in_synthesis=True)


def test_every_level_and_every_skip_reaches_the_image():
    torch.manual_seed(0)
    unet = Pix2PixUNet(2, channels=4, halvings=4)
    unet(torch.randn(2, 2, 16, 32)).square().sum().backward()
    dead = [name for name, p in unet.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not dead


def test_an_image_does_not_depend_on_those_beside_it():
    torch.manual_seed(0)
    net = Pix2PixUNet(1, channels=4, halvings=4).double()
    images = torch.randn(3, 1, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(net(images)[1:2], net(images[1:2]))


@pytest.mark.parametrize("probability", [0.25, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(probability):
    noise = Noise([(0, "subject", 0)]).normal("z", (40_000,))
    dropped = drop(torch.ones(1, 40_000), noise, probability)
    assert (dropped == 0).float().mean().item() == pytest.approx(probability, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1, abs=0.03)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / (1 - probability)])


def test_d_is_asked_once_about_truth_and_synthesis_beside_the_same_sources():
    """Section 3.2.2: D sees source and target together; what is not given is 0 in what it sees."""
    method, seen = make(), []
    judge = method.nets["discriminator"].forward
    method.nets["discriminator"].forward = lambda pairs: (seen.append(pairs.detach()), judge(pairs))[1]
    batch, noise = make_batch(), keyed()
    losses_of(method, batch, noise)
    is_source, is_target = draw_task(batch["available"], CONTRASTS, CONTRASTS, noise)
    for_d, for_g = seen
    real, fake = for_d.chunk(2)
    assert real.shape[1] == 3 * 3 + 1
    assert torch.equal(real[:, :9], fake[:, :9])
    assert torch.equal(fake, for_g)
    for place in range(2):
        sources = batch["images"][place] * is_source[place][:, None, None]
        assert torch.equal(real[place, :3], sources)
        assert torch.equal(real[place, 3:9, 0, 0], torch.cat([is_source[place], is_target[place]]).float())
        assert torch.equal(real[place, 9:], batch["images"][place][is_target[place]])
    assert not torch.equal(fake[:, 9], real[:, 9])


def test_each_loss_hangs_on_its_own_networks_and_d_comes_first():
    method = make()
    seen = losses_of(method)
    assert list(seen) == ["D", "G"]
    assert set(seen["G"]) == {"adversarial", "l1"}

    def reached(loss, name):
        found = torch.autograd.grad(loss, list(method.nets[name].parameters()), retain_graph=True, allow_unused=True)
        return [part is not None for part in found]

    assert all(reached(seen["D"]["adversarial"], "discriminator"))
    assert not any(reached(seen["D"]["adversarial"], "generator"))
    assert all(reached(seen["G"]["adversarial"], "generator"))
    assert all(reached(seen["G"]["l1"], "generator"))
    assert not any(reached(seen["G"]["l1"], "discriminator"))


def test_ds_loss_is_halved_and_l1_has_its_weight():
    method = make()
    with torch.no_grad():
        for parameter in method.nets.parameters():
            parameter.zero_()  # logits of 0, and an image of 0
    seen = losses_of(method)
    assert seen["D"]["adversarial"].item() == pytest.approx(math.log(2))  # half of twice log 2
    assert seen["G"]["adversarial"].item() == pytest.approx(math.log(2))
    batch, noise = make_batch(), keyed()
    _, is_target = draw_task(batch["available"], CONTRASTS, CONTRASTS, noise)
    assert seen["G"]["l1"].item() == pytest.approx(100 * batch["images"][is_target].abs().mean().item(), rel=1e-5)


# pGAN


def pgan(**settings):
    """A tiny pGAN."""
    tiny = {"dropout_in_synthesis": False, "residual_blocks": 2, "neighbours": 1, **settings}
    return make(generator="resnet", adversarial="least_squares", **tiny)


def vgg16(path, **changes):
    """A file of weights as torchvision publishes them: more than is read."""
    draw = torch.Generator().manual_seed(3)
    read = [f"features.{place}.{part}" for place in (0, 2, 5, 7) for part in ("weight", "bias")]
    tensors = {key: 0.2 * torch.randn(VGG16.shapes[key], generator=draw) for key in read}
    more = {"features.10.bias": torch.zeros(256), "classifier.0.bias": torch.zeros(4)}
    save_file({**tensors, **more, **changes}, path)
    return str(path)


def test_pgans_recipes_are_the_papers():
    papers, paired = find_recipe("pgan"), find_recipe("cgan_paired")
    plain = Pix2PixConfig(generator="resnet", adversarial="least_squares")
    assert (plain.residual_blocks, plain.l1_weight) == (9, 100)
    assert paired.settings == plain
    assert papers.settings == replace(plain, neighbours=1, perceptual_weight=100.0)
    assert papers.training.batch_size == 1
    with torch.device("meta"):
        method = Pix2Pix(papers.settings, ("T1w", "T2w"))
    assert isinstance(method.generator, ResNetTranslator)
    # As cGAN's, which sees one channel: here two contrasts of three slices each, and what four planes add.
    assert parameters(method.generator) == 11_360_385 + 5 * 64 * 7 * 7 + (4 + 1) * 64
    assert method.nets["discriminator"].layers[0].in_channels == 3 * 2 + 4 + 1
    assert method.dropped((256, 256)) == []
    assert not method.stochastic


def test_pgans_losses_are_least_squares():
    method = pgan()
    batch = method.needs.random_batch(3, 2, (32, 32), seed=0)
    with torch.no_grad():
        for parameter in method.nets.parameters():
            parameter.zero_()
    seen = losses_of(method, batch)
    assert seen["D"]["adversarial"].item() == pytest.approx(0.5)  # half of (0 − 1)² + 0²
    assert seen["G"]["adversarial"].item() == pytest.approx(1.0)
    _, is_target = draw_task(batch["available"], CONTRASTS, CONTRASTS, keyed())
    assert seen["G"]["l1"].item() == pytest.approx(100 * batch["images"][is_target].abs().mean().item(), rel=1e-5)
    assert set(seen["G"]) == {"adversarial", "l1"}


def test_the_perceptual_loss_is_that_of_vgg16s_fourth_convolution_over_all_samples(tmp_path):
    """The public code gives it [-1, 1] and takes the first sample of the batch alone."""
    method = pgan(perceptual_weight=100.0, perceptual_weights=vgg16(tmp_path / "vgg.safetensors"))
    weights, (x, y) = method.features.weights, torch.rand(2, 3, 1, 20, 24) * 2 - 1

    def relu2_2(image):
        """By hand, of one image."""
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        h = (((image + 1) / 2).expand(3, 20, 24) - mean[:, None, None]) / std[:, None, None]
        for place in (0, 2, 5, 7):
            if place == 5:
                h = nn.functional.max_pool2d(h[None], 2)[0]
            own = (weights[f"features.{place}.{part}"] for part in ("weight", "bias"))
            h = nn.functional.conv2d(h[None], *own, padding=1)[0].relu()
        return h

    each = torch.stack([(relu2_2(a) - relu2_2(b)).abs().mean() for a, b in zip(x, y, strict=True)])
    assert relu2_2(x[0]).shape == (128, 10, 12)
    assert each.std() > 0
    torch.testing.assert_close(method.features.distance(x, y), each.mean())

    batch = method.needs.random_batch(3, 2, (32, 32), seed=0)
    seen, made = losses_of(method, batch)["G"], []
    method.nets["generator"].register_forward_hook(lambda net, given, image: made.append(image))
    losses_of(method, batch)
    y = batch["images"][draw_task(batch["available"], CONTRASTS, CONTRASTS, keyed())[1]][:, None]
    torch.testing.assert_close(seen["perceptual"], 100 * method.features.distance(made[0], y))
    found = torch.autograd.grad(seen["perceptual"], list(method.generator.parameters()), allow_unused=True)
    assert all(part is not None for part in found)
    assert not any(name.startswith("features") for name in method.state_dict())  # no part of what is saved


def test_a_perceptual_loss_without_weights_is_left_out_and_said(tmp_path):
    said = pgan(perceptual_weight=100.0).take_named_weights(started=False)
    assert said == {"perceptual loss": "none were named, it is left out"}
    assert pgan().take_named_weights(started=False) == make().take_named_weights(started=False) == {}
    path = vgg16(tmp_path / "vgg.safetensors")
    said = pgan(perceptual_weight=100.0, perceptual_weights=path).take_named_weights(started=False)
    assert said["perceptual loss"].startswith("vgg.safetensors (SHA-256 ")
    other = vgg16(tmp_path / "other.safetensors", **{"features.5.weight": torch.zeros(128, 64, 1, 1)})
    with pytest.raises(InputError, match=r"features\.5\.weight is \(128, 64, 1, 1\) in place of \(128, 64, 3, 3\)"):
        pgan(perceptual_weight=100.0, perceptual_weights=other).take_named_weights(started=False)
    with pytest.raises(InputError, match="perceptual_weight is 0"):
        Pix2PixConfig(perceptual_weights=path)
    with pytest.raises(InputError, match="the generator unet"):
        Pix2PixConfig(generator="resnet", dropout_in_synthesis=True)


def test_pgan_sees_the_slices_beside_and_trains():
    method = pgan(targets=("FLAIR",))
    batch = method.needs.random_batch(3, 1, (32, 32), seed=0)
    x = method.condition(batch, torch.tensor([[True, False, False]]), torch.tensor([[False, False, True]]))
    assert x.shape[1] == 15
    assert torch.equal(x[:, 3:5], batch["neighbours"][:, 0])
    assert not x[:, 5:9].any()
    engine = Engine(method, CPU, "float32")
    before = losses_of(method, batch, keyed(1))["G"]["l1"].item()
    for step in range(15):
        method.training_step(batch, engine.update, PROGRESS, keyed(1, step))
    assert losses_of(method, batch, keyed(1))["G"]["l1"].item() < 0.9 * before


def test_the_rate_is_constant_for_a_half_and_ends_at_zero():
    method = make()
    factors = [method.lr_factor("G", Progress(step, 100, 0.0)) for step in (0, 25, 50, 75, 99, 100)]
    assert factors == pytest.approx([1, 1, 1, 0.5, 0.02, 0])
    assert {optimizer.defaults["betas"] for optimizer in method.optimizers().values()} == {(0.5, 0.999)}


def translate(method, noise, at_once=16, depth=5):
    images = make_batch(1)["images"][..., None] * torch.linspace(0.5, 1, depth)
    available = torch.tensor([[True, False, True]])
    batch = {"images": images * available[..., None, None, None], "available": available}
    method.eval()
    with torch.no_grad():
        return method.translate(batch, "T2w", SliceWindows(at_once), noise).image


def test_without_dropout_in_synthesis_nothing_is_drawn():
    class Silent(Noise):
        def normal(self, name, shape):
            raise AssertionError("drawn")

        uniform = integers = normal

    method = make(dropout_in_synthesis=False)
    assert not method.stochastic
    made = translate(method, Silent([(0, "a", 0)]))
    assert torch.equal(made, translate(method, Silent([(1, "b", 3)])))


def test_dropout_in_synthesis_hangs_on_the_key_alone():
    """Not on the global generator, not on slices at once; each slice has masks of its own unless they are shared."""
    method = shaken()
    assert method.stochastic
    torch.manual_seed(1)
    made = translate(method, Noise([(0, "subject", 0)]))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    for at_once in (1, 2, 16):
        torch.testing.assert_close(translate(method, Noise([(0, "subject", 0)]), at_once), made, rtol=0, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), state)
    assert (translate(method, Noise([(0, "subject", 1)])) - made).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [Noise, SharedAlongSlices])
def test_slices_share_their_masks_where_noise_is_shared(kind):
    method = shaken()
    images = make_batch(1)["images"][..., None].repeat(1, 1, 1, 1, 3)
    batch = {"images": images, "available": torch.tensor([[True, False, True]])}
    method.eval()
    with torch.no_grad():
        made = method.translate(batch, "T2w", SliceWindows(), kind([(0, "subject", 0)])).image
    largest = (made[..., 1:] - made[..., :1]).abs().max()
    assert largest < 1e-5 if kind is SharedAlongSlices else largest > 1e-3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_batch_of_one_trains_and_the_pixels_come_nearer(precision):
    method = make(targets=("FLAIR",), dropout=0.0, dropout_in_synthesis=False)
    engine, batch = Engine(method, CPU, precision), make_batch(1)
    before = losses_of(method, batch, keyed(1))["G"]["l1"].item()
    for step in range(20):
        method.training_step(batch, engine.update, PROGRESS, keyed(1, step))
    losses = engine.mean_losses()
    assert set(losses) == {"D/adversarial", "G/adversarial", "G/l1"}
    assert all(math.isfinite(value) for value in losses.values())
    assert losses_of(method, batch, keyed(1))["G"]["l1"].item() < 0.7 * before
