"""ResViT against its paper: sizes, the transformer and its two blocks, the stages, the losses, and named weights."""

import json
import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from scansynth.diffusion.windows import SliceWindows
from scansynth.errors import InputError
from scansynth.method import Progress
from scansynth.methods.any_to_any import draw_missing, draw_task
from scansynth.methods.resvit import ResVit, ResVitConfig
from scansynth.networks.resvit import (
    ResVitGenerator,
    VisionTransformer,
)
from scansynth.noise import Noise
from scansynth.recipes import find_recipe
from scansynth.report.methods_text import run_text
from scansynth.reproduction.request import Request
from scansynth.reproduction.tables import TABLES
from scansynth.sharing.export import export_run
from scansynth.synthesis.run import Run
from scansynth.training.engine import Engine
from scansynth.training.run_folder import named_weights
from scansynth.training.train import train

CPU = torch.device("cpu")
CONTRASTS = ("T1w", "T2w", "FLAIR")
FIRST, SECOND = Progress(0, 100, 0.0), Progress(90, 100, 0.0)
"""In the stage without transformers, and in the one with them."""


def make(**settings):
    """A tiny ResViT, the same each time."""
    torch.manual_seed(0)
    return ResVit(replace(ResVitConfig.tiny(), **settings), CONTRASTS)


def shaken(net):
    """A network whose every weight matters."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return net


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


def losses_of(method, batch=None, noise=None, progress=SECOND):
    """The losses of one training step, by player, in the order of the updates; nothing is trained."""
    seen = {}
    batch = batch or make_batch()
    method.training_step(batch, lambda player, losses: seen.update({player: losses}), progress, noise or keyed())
    return seen


def test_networks_have_the_releases_sizes():
    with torch.device("meta"):
        nets = ResVit(ResVitConfig(), ("T1w", "T2w")).nets
        alone = ResVitGenerator()
    assert parameters(alone) / 1e6 == pytest.approx(123.4, abs=0.05)
    assert parameters(alone.transformer) / 1e6 == pytest.approx(85.1, abs=0.05)
    assert parameters(nets["generator"]) - parameters(alone) == 64 * 7 * 7 + (4 + 1) * 64  # the second source; planes


def test_what_cannot_be_is_named():
    with pytest.raises(InputError, match=r"\(16, 16\): .*more than one token of 16×16"):
        make().generator(torch.zeros(1, 9, 16, 16))
    with pytest.raises(InputError, match="first_stage 1"):
        ResVitConfig(first_stage=1.0)
    with pytest.raises(InputError, match="dropout 1"):
        ResVitConfig(dropout=1.0)
    with pytest.raises(InputError, match="width 100: must be a multiple of its heads, 12"):
        ResVitConfig(width=100)


# The stages


def test_the_stages_and_their_rates_are_the_papers():
    method = make(first_stage=2 / 3, second_rate=5.0)
    assert method.config.first_stage == ResVitConfig().first_stage
    epochs = (0, 25, 50, 75, 99.99, 100, 112.5, 125, 137.5, 150)
    progress = [Progress(0, 1, 0.0, share=epoch / 150) for epoch in epochs]
    assert [method.transformed(one) for one in progress] == [False] * 5 + [True] * 5
    factors = [method.lr_factor("G", one) for one in progress]
    assert factors == pytest.approx([1, 1, 1, 0.5, 0, 5, 5, 5, 2.5, 0], abs=1e-3)
    papers = ResVitConfig()
    assert papers.learning_rate * papers.second_rate == pytest.approx(1e-3)
    assert {optimizer.defaults["betas"] for optimizer in method.optimizers().values()} == {(0.5, 0.999)}
    assert make(first_stage=0.0).transformed(FIRST)
    assert make(first_stage=0.0).lr_factor("G", FIRST) == 1.0


def test_stage_1_leaves_the_transformer_as_it_is_and_stage_2_trains_it():
    method = make()
    engine, batch = Engine(method, CPU, "float32"), make_batch()
    net = method.generator
    late = [*net.transformer.parameters(), *net.halves]
    late += [p for name, p in net.named_parameters() if ".down." in name or ".up." in name or "embed" in name]
    before = [parameter.clone() for parameter in late]
    for step in range(3):
        method.training_step(batch, engine.update, FIRST, keyed(step=step))
    assert all(map(torch.equal, late, before))
    # Moments of gradients that were 0 would make Adam's first steps up to β-quotients too long.
    assert not any(engine.optimizers["G"].state[parameter] for parameter in late)
    for step in range(2):  # at the first the transformer's half alone leaves 0
        method.training_step(batch, engine.update, SECOND, keyed(step=step))
    assert not any(map(torch.equal, late, before))


def test_a_resume_across_the_stages_equals_an_uninterrupted_training(tmp_path):
    def go(method, engine, steps):
        for step in steps:
            engine.progress = Progress(step, 4, 0.0)
            method.training_step(make_batch(), engine.update, engine.progress, keyed(step=step))

    whole = make()
    engine = Engine(whole, CPU, "float32")
    go(whole, engine, range(4))
    for stop in (1, 2, 3):  # in the first stage, at its end, in the second
        half, rest = make(), make()
        first, second = Engine(half, CPU, "float32"), Engine(rest, CPU, "float32")
        go(half, first, range(stop))
        first.save(tmp_path / f"{stop}", stop, {})
        second.load(next((tmp_path / f"{stop}").glob("step-*")))
        go(rest, second, range(stop, 4))
        for name, tensor in whole.nets.state_dict().items():
            assert torch.equal(tensor, rest.nets.state_dict()[name]), (stop, name)
        assert all(map(torch.equal, engine.averages.state_dict().values(), second.averages.state_dict().values()))


def test_a_training_that_had_the_transformer_in_goes_on_with_it(tmp_path):
    """More steps lead back into the first stage's share, and --init begins there."""
    method = make()
    assert not method.transformed(FIRST)
    engine = Engine(method, CPU, "float32")
    for progress in (FIRST, SECOND):
        method.training_step(make_batch(), engine.update, progress, keyed())
    engine.save(tmp_path, 2, {})
    longer = make()
    Engine(longer, CPU, "float32").load(next(tmp_path.glob("step-*")))
    assert longer.transformed(FIRST)
    asked = []
    longer.generator.transformer.register_forward_hook(lambda net, given, made: asked.append(None))
    losses_of(longer, progress=FIRST)
    assert len(asked) == 2
    assert longer.lr_factor("G", FIRST) == 1.0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_pixels_come_nearer_in_both_stages(precision):
    method = make(targets=("FLAIR",), dropout=0.0)
    engine, batch = Engine(method, CPU, precision), make_batch(1)

    def error(progress):
        return losses_of(method, batch, keyed(1), progress)["G"]["l1"].item()

    errors = [error(FIRST)]
    for progress in (FIRST, SECOND):
        for step in range(10):
            method.training_step(batch, engine.update, progress, keyed(1, step))
        errors.append(error(progress))
    losses = engine.mean_losses()
    assert set(losses) == {"D/adversarial", "G/adversarial", "G/l1"}
    assert all(math.isfinite(value) for value in losses.values())
    assert errors[1] < 0.8 * errors[0]
    assert errors[2] < 0.9 * errors[1]


# The losses


def zeroed(method):
    """Values of 0, and an image of 0."""
    with torch.no_grad():
        for parameter in method.nets.parameters():
            parameter.zero_()
    return method


def test_losses_are_least_squares_and_a_hundred_times_l1():
    batch, noise = make_batch(), keyed()
    seen = losses_of(zeroed(make()), batch, noise)
    assert list(seen) == ["D", "G"]
    assert seen["D"]["adversarial"].item() == pytest.approx(0.5)  # half of (0 − 1)² + 0²
    assert seen["G"]["adversarial"].item() == pytest.approx(1.0)
    _, is_target = draw_task(batch["available"], CONTRASTS, CONTRASTS, noise)
    assert seen["G"]["l1"].item() == pytest.approx(100 * batch["images"][is_target].abs().mean().item(), rel=1e-5)


def test_each_loss_hangs_on_its_own_networks():
    method = make()
    seen = losses_of(method)

    def reached(loss, name):
        found = torch.autograd.grad(loss, list(method.nets[name].parameters()), retain_graph=True, allow_unused=True)
        return [part is not None for part in found]

    assert all(reached(seen["D"]["adversarial"], "discriminator"))
    assert not any(reached(seen["D"]["adversarial"], "generator"))
    assert all(reached(seen["G"]["adversarial"], "generator"))
    assert all(reached(seen["G"]["l1"], "generator"))
    assert not any(reached(seen["G"]["l1"], "discriminator"))


def spied(method, name, of):
    """What a network is given or makes from now on, one entry a call."""
    seen = []
    net = method.nets[name]
    net.register_forward_hook(lambda net, given, made: seen.append((given[0] if of == "given" else made).detach()))
    return seen


def test_d_sees_truth_and_synthesis_beside_the_same_sources():
    method, batch, noise = make(), make_batch(), keyed()
    seen, made = spied(method, "discriminator", "given"), spied(method, "generator", "made")
    losses_of(method, batch, noise)
    is_source, is_target = draw_task(batch["available"], CONTRASTS, CONTRASTS, noise)
    real, fake = seen[0].chunk(2)
    assert torch.equal(real[:, :9], fake[:, :9])
    assert torch.equal(fake, seen[1])
    assert torch.equal(fake[:, 9:], made[0])
    for place in range(2):
        assert torch.equal(real[place, :3], batch["images"][place] * is_source[place][:, None, None])
        assert torch.equal(real[place, 3:9, 0, 0], torch.cat([is_source[place], is_target[place]]).float())
        assert torch.equal(real[place, 9:], batch["images"][place][is_target[place]])


def test_unified_makes_all_and_its_losses_tell_made_and_given_apart():
    batch, noise = make_batch(3), keyed(3)
    batch["available"][2, 1] = False
    missing = draw_missing(batch["available"], CONTRASTS, CONTRASTS, 3, noise)
    given = batch["available"] & ~missing
    means = batch["images"].abs().mean((2, 3))
    method = zeroed(make(unified=True))
    judged, raw = spied(method, "discriminator", "given"), spied(method, "generator", "made")
    seen = losses_of(method, batch, noise)
    for name, of in (("l1", missing), ("reconstruction", given)):
        each = torch.stack([means[place][of[place]].mean() for place in range(3)])
        assert seen["G"][name].item() == pytest.approx(100 * each.mean().item(), rel=1e-5)
    assert raw[0].shape == (3, 3, 32, 32)
    real, fake = judged[0].chunk(2)
    present = batch["images"] * batch["available"][..., None, None]
    assert torch.equal(real[:, 6:], present)
    assert torch.equal(fake[:, 6:], present * ~missing[..., None, None])  # what is given is real, what is made is 0
    assert torch.equal(real[:, :3], batch["images"] * given[..., None, None])
    assert torch.equal(real[:, 3:6, 0, 0], given.float())
    # What a subject lacks is asked of nobody.
    other = {**batch, "images": batch["images"].clone()}
    other["images"][2, 1] = 77.0
    again = losses_of(method, other, noise)
    assert all(torch.equal(again[player][name], loss) for player, own in seen.items() for name, loss in own.items())


def volume(*lacking, depth=3):
    """A subject's volume that lacks some contrasts."""
    images = make_batch(1)["images"][..., None] * torch.linspace(0.5, 1, depth)
    available = torch.tensor([[k not in lacking for k in range(3)]])
    return {"images": images * available[..., None, None, None], "available": available}


@torch.no_grad()
def test_unified_gives_every_missing_contrast_from_one_call_and_from_any_subset():
    method = make(unified=True)
    shaken(method.generator)
    raw, whole = spied(method, "generator", "made"), volume(0, 2)
    images = {name: method.translate(whole, name, SliceWindows(), keyed(1)).image for name in ("T1w", "FLAIR")}
    assert torch.equal(raw[0], raw[1])  # (slices, K, H, W)
    for name, image in images.items():
        assert torch.equal(image[0, 0].movedim(-1, 0), raw[0][:, CONTRASTS.index(name)])
    more = method.translate(volume(0), "T1w", SliceWindows(), keyed(1)).image
    assert not torch.equal(more, images["T1w"])


# Dropout


def test_dropout_is_drawn_from_the_noise_and_off_in_synthesis():
    method, plain, batch = make(dropout=0.5), make(dropout=0.0), make_batch()
    for one in (method, plain):
        torch.manual_seed(1)
        shaken(one.generator)
    raw, undropped = spied(method, "generator", "made"), spied(plain, "generator", "made")
    state = torch.get_rng_state()
    for step in (0, 0, 1):
        losses_of(method, batch, keyed(step=step))
    losses_of(plain, batch, keyed())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(raw[0], raw[1])
    assert not torch.equal(raw[0], raw[2])
    assert not torch.equal(raw[0], undropped[0])

    class Silent(Noise):
        def normal(self, name, shape):
            raise AssertionError("drawn")

        uniform = integers = normal

    assert not method.stochastic
    with torch.no_grad():
        made, same = (
            one.translate(volume(1), "T2w", SliceWindows(), Silent([(0, "a", 0)])).image for one in (method, plain)
        )
    assert torch.equal(made, same)


# Weights that a user names


def published(path, width=16, layers=2, **changes):
    """A file as timm's networks are published: more than the transformer."""
    torch.manual_seed(5)
    state = dict(shaken(VisionTransformer(width, layers, 2)).state_dict())
    state |= {"pos_embed": torch.randn(1, 197, width), "cls_token": torch.randn(1, 1, width)}
    save_file({**state, "head.weight": torch.randn(3, width), **changes}, path)
    return state


def test_the_transformer_starts_from_the_file_that_is_named(tmp_path):
    state = published(tmp_path / "vit.safetensors")
    method = make(transformer_weights=str(tmp_path / "vit.safetensors"))
    said = method.take_named_weights(started=False)["transformer"]
    assert said.startswith("vit.safetensors (SHA-256 ")
    for name, tensor in method.generator.transformer.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    random = make(transformer_weights=str(tmp_path / "none.safetensors"))
    assert "was started from" in random.take_named_weights(started=True)["transformer"]  # and no file is read
    assert "at random" in make().take_named_weights(started=False)["transformer"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layers": 3}, r"2 layers.*blocks\.2\.\S+ is \(.*there, and missing here"),
        ({"width": 32}, r"blocks\.0\.attn\.proj\.bias is \(32,\) there, and \(16,\) here"),
        ({"norm.bias": torch.ones(16, dtype=torch.int64)}, r"'norm\.bias' holds torch\.int64, no weights"),
    ],
)
def test_other_weights_are_refused(tmp_path, changes, says):
    published(tmp_path / "vit.safetensors", **changes)
    with pytest.raises(InputError, match=says):
        make(transformer_weights=str(tmp_path / "vit.safetensors")).take_named_weights(started=False)


def test_a_pickle_is_never_read(tmp_path):
    torch.save({"norm.bias": torch.zeros(16)}, tmp_path / "vit.pth")
    with pytest.raises(InputError, match="never read here"):
        make(transformer_weights=str(tmp_path / "vit.pth")).take_named_weights(started=False)


def test_a_run_its_card_and_its_report_say_how_the_transformer_started(cohort, tiny, tmp_path):
    published(tmp_path / "vit.safetensors")
    named = tiny("resvit", replace(ResVitConfig.tiny(), transformer_weights=str(tmp_path / "vit.safetensors")), steps=1)
    train(named, cohort, tmp_path / "named", device=CPU)
    train(tiny("resvit", steps=1), cohort, tmp_path / "plain", device=CPU)
    (tmp_path / "vit.safetensors").unlink()
    train(replace(named, training=replace(named.training, steps=2)), cohort, tmp_path / "named", device=CPU)  # goes on
    for name, says in (("named", "transformer: vit.safetensors (SHA-256 "), ("plain", "it started at random")):
        assert says in named_weights(tmp_path / name)
        assert says in run_text(Run.load(tmp_path / name, "cpu")).paragraph
        export_run(tmp_path / name, tmp_path / f"{name}-exported")
        card = json.loads((tmp_path / f"{name}-exported" / "card.json").read_text())
        assert says in card["weights"]["named"]
        assert "Published weights: transformer: " in (tmp_path / f"{name}-exported" / "README.md").read_text()


# Recipes


def test_the_recipes():
    papers, unified, small = (find_recipe(name) for name in ("resvit", "resvit_unified", "resvit_small"))
    assert papers.settings == ResVitConfig()
    assert papers.training.batch_size == 1
    assert papers.data.augmentation.flip == 0.5
    assert unified == replace(papers, settings=ResVitConfig(unified=True))
    assert (small.settings.width, small.settings.layers) == (192, 4)
    net = ResVit(small.settings, CONTRASTS).eval()
    with torch.no_grad():
        assert net.generator(torch.zeros(1, 9, 48, 64)).shape == (1, 1, 48, 64)


def test_mrdiffs_table_trains_it_on_as_many_samples(tmp_path):
    table = TABLES["mrdiff-table1"]
    rows = {row.name: row for row in table.present}
    request = Request(table=table, out=tmp_path)
    for task in table.tasks:
        own, other = (request.config(task, rows[name]) for name in ("ResViT", "mrdiff"))
        assert own.training.steps * own.training.batch_size == other.training.steps * other.training.batch_size
        assert own.settings == ResVitConfig(targets=task.targets)
        assert own.contrasts == other.contrasts
        assert own.data.defaults == "none"  # it reads no TR and TE
    small = replace(request, small=True).config(table.tasks[1], rows["ResViT"])
    assert small.training.steps == find_recipe("resvit_small").training.steps
