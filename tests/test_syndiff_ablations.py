"""The variants of SynDiff's Tables VI to X: each differs from the paper's in its one point, and trains."""

from dataclasses import asdict, replace

import pytest
import torch

from scansynth.config import RunConfig, Training
from scansynth.diffusion.windows import SliceWindows
from scansynth.errors import InputError
from scansynth.method import Progress
from scansynth.methods.syndiff import (
    DiffusiveGenerator,
    SynDiff,
    SynDiffConfig,
    discriminator,
    translator,
    translator_discriminator,
)
from scansynth.noise import Noise
from scansynth.recipes import RECIPES
from scansynth.recipes.syndiff import ABLATIONS, syndiff, syndiff_public_code
from scansynth.training.engine import Engine

TINY = RunConfig(
    "syndiff", replace(SynDiffConfig.tiny(), variant="unpaired"), ("T1w", "T2w"), training=Training(steps=100)
)


def make(recipe):
    torch.manual_seed(0)
    contrasts = ("T1w",) if recipe.settings.variant == "unconditional" else ("T1w", "T2w")
    return Engine(SynDiff(recipe.settings, contrasts), torch.device("cpu"), "float32")


def train(engine, start=0, steps=1, look=lambda engine: None):
    """Training steps on noise images; names of the losses, `player/name`."""
    images = torch.rand(2, len(engine.method.contrasts), 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    batch = {"images": images, "available": torch.ones(images.shape[:2], dtype=torch.bool)}
    for step in range(start, start + steps):
        noise = Noise([(0, step, place) for place in range(2)])
        engine.progress = Progress(step, 200, 0.0)
        engine.method.training_step(batch, engine.update, engine.progress, noise)
    return set(engine.mean_losses())


def changed(engine, before):
    """Kinds of nets whose weights differ from `before`."""
    state = engine.method.nets.state_dict()
    names = {name.split(".")[0] for name in state if not torch.equal(state[name], before[name])}
    return {name.rpartition("_")[0] for name in names}


def weights(engine):
    return {name: tensor.clone() for name, tensor in engine.method.nets.state_dict().items()}


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_trains_and_makes_images(name):
    engine = make(ABLATIONS[name].of(TINY))
    method, before = engine.method, weights(engine)
    start = method.config.diffusive_from
    train(engine, start)
    kinds = {net.rpartition("_")[0] for net in method.nets}
    if method.config.translators_until is not None and method.config.translators_until <= start:
        kinds -= {"translator", "translator_discriminator"}
    assert changed(engine, before) == kinds
    noise = Noise([(0, "subject", 0)])
    with torch.no_grad():
        if method.config.variant == "unconditional":
            if method.sampling_steps > 8:
                return
            made = method.generate_slices((16, 16), noise)
            other = method.generate_slices((16, 16), Noise([(1, "subject", 0)]))
            assert not torch.equal(made, other)
            assert made.shape == (1, 1, 16, 16)
        else:
            batch = {"images": torch.zeros(1, 2, 16, 16, 2), "available": torch.tensor([[True, False]])}
            made = method.translate(batch, "T2w", SliceWindows(), noise).image
            assert made.shape == (1, 1, 16, 16, 2)
    assert made.abs().max() <= 1


@pytest.mark.parametrize("base", ["syndiff", "syndiff_small"])
def test_recipes_differ_from_their_base_in_what_they_say(base):
    """Spelt out from the paper's tables, against the settings."""
    expected = {
        "supervised": {"variant": "supervised"},
        "ddpm": {
            "variant": "ddpm", "adversarial_weight_diffusive": 0, "step_size": 1, "cycle_weight_translator": 1,
        },
        "unconditional": {"variant": "unconditional"},
        "unconditional_l1": {"variant": "unconditional", "adversarial_weight_diffusive": 0},
        "unconditional_l1_1000": {"variant": "unconditional", "adversarial_weight_diffusive": 0, "step_size": 1},
        "no_adversarial": {"adversarial_weight_translator": 0, "adversarial_weight_diffusive": 0},
        "no_cycle": {"cycle_weight_translator": 0, "cycle_weight_diffusive": 0},
        "non_diffusive": {"variant": "non-diffusive"},
        "steps_2": {"step_size": 500},
        "steps_8": {"step_size": 125},
        "pretrained_trained": {"diffusive_from": 125_000},
        "pretrained_frozen": {"diffusive_from": 125_000, "translators_until": 125_000},
        "frozen_after_5": {"translators_until": 12_500},
        "frozen_after_10": {"translators_until": 25_000},
        "frozen_after_25": {"translators_until": 62_500},
    }  # fmt: skip
    for weight, kind in (("cycle", 0.5), ("adversarial", 1.0)):
        for module in ("translator", "diffusive"):
            expected[f"half_{weight}_{module}"] = {f"{weight}_weight_{module}": kind / 2}
            expected[f"double_{weight}_{module}"] = {f"{weight}_weight_{module}": kind * 2}
    assert set(expected) == set(ABLATIONS)
    recipe = RECIPES[base]()
    for name, differing in expected.items():
        variant = RECIPES[f"{base}_{name}"]()
        own = asdict(variant.settings)
        if (base, name) == ("syndiff_small", "ddpm"):
            differing |= {"output": "velocity", "spacing": "log-snr"}
        found = {key: own[key] for key, value in asdict(recipe.settings).items() if own[key] != value}
        assert set(found) == set(differing), name
        if base == "syndiff":
            assert found == differing, name
        steps = 2 if name.startswith("pretrained") else 1
        assert variant.training == replace(recipe.training, steps=steps * recipe.training.steps)


def test_the_l1_projector_has_only_its_pixel_loss():
    assert train(make(ABLATIONS["unconditional_l1"].of(TINY))) == {"G/cycle diffusive T1w"}


def test_without_cycle_or_adversarial_losses():
    assert not [name for name in train(make(ABLATIONS["no_cycle"].of(TINY))) if "cycle" in name]
    engine = make(ABLATIONS["no_adversarial"].of(TINY))
    assert all("cycle" in name for name in train(engine))
    assert not [name for name in engine.method.nets if "discriminator" in name]


def test_pretraining_trains_the_non_diffusive_module_alone():
    engine = make(ABLATIONS["pretrained_trained"].of(TINY))
    before = weights(engine)
    train(engine, 98, 2)
    assert changed(engine, before) == {"translator", "translator_discriminator"}
    before = weights(engine)
    train(engine, 100)
    assert changed(engine, before) == {"translator", "translator_discriminator", "generator", "discriminator"}


def test_a_frozen_module_stays_to_the_last_bit_and_gets_no_gradient():
    engine = make(ABLATIONS["frozen_after_5"].of(TINY))
    train(engine, 0, 10)
    before = weights(engine)
    assert not [name for name in train(engine, 10, 2) if "translator" in name]
    assert changed(engine, before) == {"generator", "discriminator"}


def test_the_unconditional_generator_sees_no_source():
    method = make(ABLATIONS["unconditional"].of(TINY)).method
    assert method.nets["generator_T1w"].unet.first.in_channels == 1
    with pytest.raises(InputError, match="no source to translate from"):
        method.translate({"images": torch.zeros(1, 1, 16, 16, 2)}, "T1w", SliceWindows(), Noise([(0,)]))


def test_the_non_diffusive_module_alone_draws_nothing():
    method = make(ABLATIONS["non_diffusive"].of(TINY)).method
    assert not method.stochastic
    images = torch.rand(1, 2, 16, 16, 3) * 2 - 1
    batch = {"images": images, "available": torch.tensor([[True, False]])}
    with torch.no_grad():
        made = method.translate(batch, "T2w", SliceWindows(2), Noise([(0, "subject", 0)])).image
        expected = method.nets["translator_T2w"](images[0, :1].movedim(3, 0))
    torch.testing.assert_close(made[0].movedim(3, 0), expected)


@pytest.mark.parametrize(
    ("settings", "contrasts", "message"),
    [
        ({"variant": "unconditional"}, ("T1w", "T2w"), "one contrast"),
        ({}, ("T1w",), "two contrasts"),
        ({"variant": "supervised", "diffusive_from": 5}, ("T1w", "T2w"), "unpaired"),
        ({"diffusive_from": 5, "translators_until": 4}, ("T1w", "T2w"), "nothing would train"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, contrasts, message):
    with pytest.raises(InputError, match=message):
        SynDiff(replace(syndiff().settings, **settings), contrasts)


def test_the_papers_tasks():
    """Section IV-A: 25 subjects of 100 slices, pelvis 9 of 90, 50 epochs; Table IV: sources accelerated 4-fold."""
    ixi, pelvis = RECIPES["syndiff_ixi_pd_t1"](), RECIPES["syndiff_pelvis_accelerated_t1_ct"]()
    assert ixi.settings == pelvis.settings == syndiff().settings
    assert (ixi.contrasts, pelvis.contrasts) == (("PDw", "T1w"), ("T1w", "CT"))
    assert (ixi.training.steps, pelvis.training.steps) == (125_000, 40_500)
    assert (ixi.data.slices_per_subject, pelvis.data.slices_per_subject) == (100, 90)
    assert ixi.data.acceleration == RECIPES["syndiff_pelvis_t1_ct"]().data.acceleration == ()
    assert pelvis.data.acceleration == (("T1w", 4),)


def test_the_public_release_is_rebuilt_at_its_size():
    """METHODS of the release: parameters of all eight networks, variances of its steps, course of its rates."""
    settings = replace(syndiff_public_code().settings, attention_levels=(2,))  # as its images of 64 pixels have it
    with torch.device("meta"):
        nets = {
            "generator": DiffusiveGenerator(settings),
            "discriminator": discriminator(settings),
            "translator": translator(settings),
            "translator_discriminator": translator_discriminator(settings),
        }
    millions = {name: sum(parameter.numel() for parameter in net.parameters()) / 1e6 for name, net in nets.items()}
    assert millions["generator"] == pytest.approx(39.1, abs=0.05)
    assert millions["discriminator"] == pytest.approx(27.7, abs=0.05)
    assert millions["translator"] == pytest.approx(7.8, abs=0.05)
    assert millions["translator_discriminator"] == pytest.approx(2.8, abs=0.05)
    assert 2 * sum(millions.values()) == pytest.approx(155, abs=0.5)


def tiny_public():
    """The release's architecture and settings, narrow and for 16 pixels."""
    settings = replace(
        syndiff_public_code().settings,
        channels=8,
        multipliers=(1, 2),
        blocks=1,
        attention_levels=(1,),
        latent_width=16,
        discriminator_channels=4,
        discriminator_blocks=3,
        translator_channels=4,
    )
    return replace(TINY, settings=settings)


def test_the_public_releases_settings():
    method = make(tiny_public()).method
    alpha_bar = method.schedule.alpha_bar
    gamma = [1 - (alpha_bar[t] / alpha_bar[t - 250]).item() for t in (250, 500, 750, 1000)]
    assert gamma == pytest.approx([0.4783, 0.8492, 0.9564, 0.9874], abs=5e-5)
    for player, rate in (("G", 1.6e-4), ("D", 1e-4)):
        (group,) = method.optimizers()[player].param_groups
        assert group["lr"] == rate
        factors = [method.lr_factor(player, Progress(step, 100, 0.0)) for step in (0, 50, 100)]
        assert [rate * factor for factor in factors] == pytest.approx([rate, (rate + 1e-5) / 2, 1e-5])
    assert method.averaged == method.players["G"]
    assert method.average_decay == 0.999


def test_the_penalty_comes_every_so_many_steps_at_so_many_times_its_weight():
    def penalties(every, step):
        settings = replace(TINY.settings, penalty_every=every)
        seen = {}
        engine = make(replace(TINY, settings=settings))
        engine.update = lambda player, losses: seen.update({(player, k): v.item() for k, v in losses.items()})
        train(engine, step)
        return {name: value for (player, name), value in seen.items() if name.startswith("penalty")}

    assert not penalties(every=3, step=2)
    single, triple = penalties(every=1, step=3), penalties(every=3, step=3)
    assert single
    assert triple == pytest.approx({name: 3 * value for name, value in single.items()})


def test_the_public_release_trains_and_translates():
    engine = make(tiny_public())
    before = weights(engine)
    images = torch.rand(1, 2, 24, 24) * 2 - 1
    batch = {"images": images, "available": torch.ones(1, 2, dtype=torch.bool)}
    engine.method.training_step(batch, engine.update, engine.progress, Noise([(0, 0, 0)]))
    assert changed(engine, before) == {"generator", "discriminator", "translator", "translator_discriminator"}
    batch = {"images": torch.zeros(1, 2, 24, 24, 2), "available": torch.tensor([[True, False]])}
    with torch.no_grad():
        made = engine.method.translate(batch, "T2w", SliceWindows(), Noise([(0, "subject", 0)])).image
    assert made.shape == (1, 1, 24, 24, 2)
    assert made.std() > 0
