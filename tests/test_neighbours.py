"""2.5D: slices beside a source as further channels, in every method on slices; nothing beside a target is ever read."""

from dataclasses import replace
from functools import partial

import pytest
import torch

import scansynth
from conftest import toy_settings
from scansynth.data.datasets import whole_subject
from scansynth.data.latents import LatentDataset
from scansynth.data.settings import DataSettings
from scansynth.errors import InputError
from scansynth.evaluation.tasks import synthesise
from scansynth.given import given, offsets, sources_for
from scansynth.method import Progress
from scansynth.methods.any_to_any import draw_task, with_neighbours
from scansynth.noise import Noise
from scansynth.recipes import BESIDE, find_recipe
from scansynth.training.first_stage import FirstStage
from scansynth.training.parts import make_method
from scansynth.training.train import train

CPU = torch.device("cpu")
THREE = ("T1w", "T2w", "FLAIR")
TOYS = {
    "regression": {},
    "pix2pix": {},
    "ddpm": {"patch": None, "variance": "fixed"},
    "consistency": {},
    "mrdiff": {},
    "ldm": {},
    "cola_diff": {},
}
"""Methods that take any subset of sources, at toy size on slices."""


def toy(name, neighbours=1, contrasts=THREE):
    """A method at toy size."""
    from scansynth.config import RunConfig

    torch.manual_seed(0)
    settings = replace(toy_settings(name), **TOYS.get(name, {}), neighbours=neighbours)
    return make_method(RunConfig(name, settings, contrasts))


def losses_of(method, batch, noise):
    """All losses of a training step, in which no weight moves."""
    found = []
    method.training_step(batch, lambda player, losses: found.extend(losses.values()), Progress(1, 10, 0.0), noise)
    return torch.stack(found)


class Halves:
    """A first stage that averages blocks of 2×2, and counts the slices that it encodes."""

    def __init__(self):
        self.encoded = 0

    def encode(self, x):
        self.encoded += len(x)
        return torch.nn.functional.avg_pool2d(x, 2).repeat(1, 3, 1, 1)

    def decode(self, latent):
        return torch.nn.functional.interpolate(latent[:, :1], scale_factor=2.0)


def test_sources_come_first_then_what_lies_beside_each():
    images = torch.arange(1.0, 13.0).reshape(2, 3, 2)
    neighbours = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0))
    is_source = torch.tensor([[True, False, True], [False, True, False]])
    y = with_neighbours(images, neighbours, is_source)
    assert y.shape == (2, 15, 2)
    for row in range(2):
        for k in range(3):
            beside = y[row, 3 + 4 * k : 7 + 4 * k]
            if is_source[row, k]:
                assert torch.equal(y[row, k], images[row, k])
                assert torch.equal(beside, neighbours[row, k])
            else:
                assert not y[row, k].any()
                assert not beside.any()
    assert torch.equal(with_neighbours(images, None, is_source), y[:, :3])


@pytest.mark.parametrize("name", TOYS)
def test_training_never_reads_beside_what_is_no_source(name):
    method = toy(name)
    noise = Noise([(0, place) for place in range(4)])
    batch = method.needs.random_batch(3, 4, (32, 32), seed=0)
    batch["available"][3, 2] = False
    is_source, is_target = draw_task(batch["available"], method.targets, THREE, noise)
    assert (~is_source & ~is_target & batch["available"]).any(), "one is left out, too"
    before = losses_of(method, batch, noise)
    assert torch.isfinite(before).all()
    other = {**batch, "neighbours": batch["neighbours"].clone()}
    other["neighbours"][~is_source] = 77.0
    assert torch.equal(losses_of(method, other, noise), before)
    other["neighbours"][is_source] *= -1
    assert not torch.equal(losses_of(method, other, noise), before)


def subject(needs, seed=0):
    """A subject of three contrasts, the last of which it lacks, as a batch for a translation of T1w to T2w."""
    images = torch.rand(1, 3, 16, 16, 7, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    whole = {"images": images, "available": torch.tensor([[True, True, False]])}
    if needs.tissue:
        whole["tissue"] = torch.full((1, 3, 4, 16, 16, 7), 0.25)
    return whole


@pytest.mark.parametrize("name", TOYS)
def test_synthesis_reads_beside_sources_and_never_beside_the_target(name):
    method = toy(name).eval()
    method.first_stage = Halves()
    batch = given(subject(method.needs), sources_for("T2w", THREE), slice(1, 6), neighbours=1)

    @torch.no_grad()
    def made(batch, at_once=16):
        return method.translate(batch, "T2w", method.needs.windows(at_once), Noise([(0, "subject", 0)])).image

    before = made(batch)
    assert before.shape == (1, 1, 16, 16, 5)
    hidden = {**batch, "neighbours": batch["neighbours"].clone()}
    hidden["neighbours"][:, 1:] = 77.0
    assert torch.equal(made(hidden), before)
    # What lies beside a slice is given with its own window, too: only the ends of the slab have it alone.
    shown = {**batch, "neighbours": batch["neighbours"].clone()}
    shown["neighbours"][:, 0, 0, ..., 0] *= -1
    changed = made(shown)
    assert not torch.equal(changed[..., 0], before[..., 0])
    torch.testing.assert_close(changed[..., 1:], before[..., 1:], rtol=0, atol=1e-4)
    torch.testing.assert_close(made(batch, at_once=2), before, rtol=0, atol=1e-3)


@pytest.mark.parametrize("direction", [("T1w", "T2w"), ("T2w", "T1w")])
def test_supervised_syndiff_is_guided_by_the_source_and_what_lies_beside_it(direction, monkeypatch):
    source, target = direction
    both, guides = ("T1w", "T2w"), {}
    method = toy("syndiff", contrasts=both)
    estimate = method.estimate_x0
    batch = method.needs.random_batch(2, 2, (16, 16), seed=0)
    k = both.index(source)

    def spied(target, x_t, y, t, z):
        guides[target] = y
        return estimate(target, x_t, y, t, z)

    monkeypatch.setattr(method, "estimate_x0", spied)
    losses_of(method, batch, Noise([(0, 0), (0, 1)]))
    assert torch.equal(guides[target][:, 0], batch["images"][:, k])
    assert torch.equal(guides[target][:, 1:], batch["neighbours"][:, k])
    whole = {
        "images": torch.rand(1, 2, 16, 16, 5, generator=torch.Generator().manual_seed(1)) * 2 - 1,
        "available": torch.ones(1, 2, dtype=torch.bool),
    }
    seen = given(whole, sources_for(target, both), neighbours=1)

    @torch.no_grad()
    def made(batch):
        return method.translate(batch, target, method.needs.windows(), Noise([(0, "subject", 0)])).image

    before = made(seen)
    hidden = {**seen, "neighbours": seen["neighbours"].clone()}
    hidden["neighbours"][:, 1 - k] = 77.0
    assert torch.equal(made(hidden), before)
    hidden["neighbours"][:, k] *= -1
    assert not torch.equal(made(hidden), before)


def test_the_public_networks_of_syndiff_take_neighbours_too():
    from scansynth.config import RunConfig

    settings = replace(toy_settings("syndiff"), networks="public", neighbours=2)
    method = make_method(RunConfig("syndiff", settings, ("T1w", "T2w")))
    batch = method.needs.random_batch(2, 2, (16, 16), seed=0)
    assert torch.isfinite(losses_of(method, batch, Noise([(0, 0), (0, 1)]))).all()


@pytest.mark.parametrize(
    ("name", "channels", "more"),
    [
        ("regression", 9, 6), ("pix2pix", 9, 6), ("ddpm", 10, 6), ("mrdiff", 22, 24), ("ldm", 18, 18),
        ("cola_diff", 15 + 16, 18),
    ],
)  # fmt: skip
def test_without_neighbours_networks_and_batches_are_what_they_were(name, channels, more):
    """Channels by hand: K = 3 sources and 2K planes beside x_t; four bands each in mrdiff; c = 3 in latents, tissue."""
    for neighbours in (0, 1):
        method = toy(name, neighbours)
        entry = {"pix2pix": "generator", "mrdiff": "E", "cola_diff": "path"}.get(name, "unet")
        widths = [part.shape[1] for part in method.nets[entry].state_dict().values() if part.ndim == 4]
        assert channels + neighbours * more in widths
        batch = method.needs.random_batch(3, 2, (16, 16), seed=0)
        assert ("neighbours" in batch) == bool(neighbours)
        shown = given(subject(method.needs), sources_for("T2w", THREE), neighbours=method.needs.neighbours)
        assert ("neighbours" in shown) == bool(neighbours)


@pytest.mark.parametrize(
    ("name", "settings", "why"),
    [
        ("ddpm", {"neighbours": 1}, "holds its own"),
        ("regression", {"neighbours": -1}, "at least 0"),
        ("syndiff", {"neighbours": 1, "variant": "unpaired"}, "acquired guide"),
        ("syndiff", {"neighbours": 1, "variant": "non-diffusive"}, "acquired guide"),
    ],
)
def test_neighbours_that_cannot_be_are_refused(name, settings, why, tiny):
    with pytest.raises(InputError, match=why):
        make_method(tiny(name, replace(toy_settings(name), **settings)))


def test_an_unconditional_syndiff_has_nothing_to_have_neighbours(tiny):
    settings = replace(toy_settings("syndiff"), variant="unconditional", neighbours=1)
    with pytest.raises(InputError, match="acquired guide"):
        make_method(replace(tiny("syndiff", settings), contrasts=("T1w",)))


def test_a_synthesis_encodes_each_slice_once():
    method = toy("ldm", neighbours=2).eval()
    whole = subject(method.needs)
    for z, distinct in ((slice(1, 6), 9), (torch.tensor([0, 3, 4]), 9)):  # −1 to 7; −2 to 6
        batch = given(whole, sources_for("T2w", THREE), z, neighbours=2)
        for at_once in (1, 2, 16):
            method.first_stage = Halves()
            with torch.no_grad():
                method.translate(batch, "T2w", method.needs.windows(at_once), Noise([(0, "subject", 0)]))
            assert method.first_stage.encoded == distinct


@pytest.fixture(scope="module")
def stage(cohort, tmp_path_factory):
    """Run folder of a first stage as the small recipes have it."""
    config = find_recipe("autoencoder_small")
    training = replace(config.training, steps=2, batch_size=2, validation_slices=3, precision="float32")
    run = tmp_path_factory.mktemp("first") / "stage"
    train(replace(config, contrasts=("T1w", "T2w"), training=training), cohort, run, device=CPU)
    return run


@pytest.fixture(scope="module", params=BESIDE)
def run(request, cohort, stage, tmp_path_factory):
    """A run of each recipe, of two steps."""
    config = find_recipe(f"{request.param}_25d")
    settings = config.settings
    if hasattr(settings, "sampling_steps"):
        settings = replace(settings, sampling_steps=2)
    training = replace(config.training, steps=2, batch_size=2, validation_slices=3, precision="float32")
    folder = tmp_path_factory.mktemp(request.param) / "run"
    latent = request.param in ("ldm_small", "cola_diff_small")
    train(
        replace(config, settings=settings, contrasts=("T1w", "T2w"), training=training), cohort, folder, device=CPU,
        first_stage=stage if latent else None,
    )  # fmt: skip
    return scansynth.load(folder, "cpu")


def test_every_recipe_in_25d_trains_and_translates(run, cohort, monkeypatch):
    assert run.config.settings.neighbours == run.method.needs.neighbours == 1
    seen, translate = [], run.method.translate
    monkeypatch.setattr(run.method, "translate", lambda batch, *rest: seen.append(batch) or translate(batch, *rest))
    (made,), _ = synthesise(run, cohort, cohort.subjects("test")[0], target="T2w", seed=0)
    assert made.image.std() > 0
    (batch,) = seen
    assert batch["neighbours"].shape[1:3] == (2, 2)
    assert not batch["neighbours"][:, 1].any()
    shown = batch["neighbours"][0, 0]
    assert torch.equal(shown[1, ..., :-1], batch["images"][0, 0, ..., 1:])  # above a slice lies the next
    assert torch.equal(shown[0, ..., 1:], batch["images"][0, 0, ..., :-1])


def test_latents_of_neighbours_are_those_of_the_slices_beside(cohort, stage, tiny):
    """In training from the store, in synthesis encoded: the same, beyond the scan too."""
    from scansynth.training.first_stage import compute_latents

    trained = FirstStage.of_run(stage, cohort, tiny("ldm"))
    trained.normalise(*compute_latents(trained, cohort, ("T1w", "T2w"), (), CPU))
    method = make_method(replace(find_recipe("ldm_small_25d"), contrasts=("T1w", "T2w")))
    samples = method.needs.samples(
        cohort, ("T1w", "T2w"), seed=0, data=DataSettings(min_foreground=0.0), latents=trained
    )
    assert isinstance(samples, LatentDataset)
    wholes = {name: whole_subject(cohort, name, ("T1w", "T2w")) for name in cohort.subjects("train")}
    ends = set()
    for i in range(len(samples)):
        (name, z), sample = samples.places(i)["T1w"], samples[i]
        depth = wholes[name]["images"].shape[4]
        if z in (0, depth // 2, depth - 1):
            beside = given(wholes[name], sources_for("T2w", ("T1w", "T2w")), slice(z, z + 1), neighbours=1)
            for place, away in enumerate(offsets(1)):
                encoded = trained.encode(beside["neighbours"][:, :1, place, ..., 0])
                torch.testing.assert_close(sample["neighbours"][0, place], encoded[0], rtol=1e-3, atol=1e-3)
                ends.add(0 <= z + away < depth)
    assert ends == {True, False}
    plain = partial(LatentDataset, cohort, ("T1w", "T2w"), 0, min_foreground=0.0, slices_per_subject=None)
    alone = plain(store=trained.store(cohort, ()), mean=trained.mean, deviation=trained.deviation, tissue=False)
    assert alone[5].keys() == {"latents", "available"}
    assert torch.equal(alone[5]["latents"], samples[5]["latents"])
