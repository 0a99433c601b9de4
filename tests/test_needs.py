"""Units of samples: what is trained on, and through what a volume is seen, one class each."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from conftest import CASES, find_case
from scansynth.config import RunConfig
from scansynth.data.augmentation import Augmentation
from scansynth.data.datasets import SliceDataset, read_image, to_network
from scansynth.data.settings import DataSettings
from scansynth.diffusion.windows import SliceWindows, VolumeWindows
from scansynth.errors import InputError
from scansynth.given import given, sources_for
from scansynth.method import Progress
from scansynth.methods import METHODS, find_method
from scansynth.noise import Noise
from scansynth.training.parts import make_method, needs_of
from scansynth.units import Latents, Patches, Slices, Volumes

BOTH = ("T1w", "T2w")
DATA = DataSettings(min_foreground=0.1)


@pytest.mark.parametrize("name", METHODS)
def test_needs_are_known_without_networks(name, tiny, monkeypatch):
    config = tiny(name)
    built = make_method(config).needs
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda *_: pytest.fail("a network was built"))
    known = needs_of(config)
    assert type(known) is type(built)
    for field in (
        "paired", "size_multiple", "generates", "complete", "least_batch", "tissue", "labels", "sequences",
        "neighbours", "sources",
    ):  # fmt: skip
        assert getattr(known, field) == getattr(built, field), field
    assert known.first_stage == built.first_stage


@pytest.mark.parametrize("name", METHODS)
def test_a_random_batch_is_like_a_training_batch(name, tiny, cohort):
    needs = needs_of(tiny(name))
    batch = needs.random_batch(2, 3, (32, 32), seed=0)
    if needs.first_stage is None:
        sample = needs.samples(
            cohort, BOTH, seed=0, data=DataSettings() if name in ("cdpm", "cg_ddpm", "ddpm") else DATA
        )[0]
        assert {key: (3, *value.shape) for key, value in sample.items()} == {
            key: tuple(value.shape) for key, value in batch.items()
        }
    assert all(torch.equal(batch[key], needs.random_batch(2, 3, (32, 32), seed=0)[key]) for key in batch)


def test_neighbours_are_the_slices_below_and_above(cohort):
    samples = Slices(neighbours=2).samples(cohort, BOTH, seed=1, data=DATA)
    plain = Slices().samples(cohort, BOTH, seed=1, data=DATA)
    assert isinstance(samples, SliceDataset)
    seen = set()
    for i in range(len(samples)):
        (subject, z), sample = next(iter(samples.places(i).values())), samples[i]
        assert torch.equal(sample["images"], plain[i]["images"])
        assert sample["neighbours"].shape == (2, 4, 32, 32)
        whole = to_network(read_image(cohort, subject, "T2w"))
        for place, away in enumerate((-2, -1, 1, 2)):
            inside = 0 <= z + away < whole.shape[2]
            expected = whole[..., z + away] if inside else torch.full((32, 32), -1.0)
            assert torch.equal(sample["neighbours"][1, place], expected)
            seen.add(inside)
    assert seen == {True, False}


def test_synthesis_gives_the_neighbours_that_training_shows(cohort):
    samples = Slices(neighbours=1).samples(cohort, BOTH, "val", seed=0, data=DATA)
    assert isinstance(samples, SliceDataset)
    subject = cohort.subjects("val")[0]
    images = torch.stack([to_network(read_image(cohort, subject, name)) for name in BOTH])[None]
    whole = {"images": images, "available": torch.ones(1, 2, dtype=torch.bool)}
    places = {samples.places(i)["T1w"][1]: samples[i] for i in range(len(samples))}
    z = torch.tensor(sorted(places)[::3])  # a few slices, as a validation shows them: neighbours are the volume's
    batch = given(whole, sources_for("T2w", BOTH), z, neighbours=1)
    assert batch["neighbours"].shape == (1, 2, 2, 32, 32, len(z))
    for n, place in enumerate(z.tolist()):
        assert torch.equal(batch["neighbours"][0, 0, ..., n], places[place]["neighbours"][0])
    assert not batch["neighbours"][:, 1].any()  # the target's are hidden, as it is


def test_neighbours_are_augmented_as_their_slice_is():
    change = Augmentation(flip=0.5, rotation_degrees=20, scale=0.2, shift=0.1, gain=0.3, gamma=0.3)
    image = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    for seed in range(4):
        alone = change.apply(image[:, 0], np.random.default_rng(seed))
        together = change.apply(image.repeat(1, 3, 1, 1), np.random.default_rng(seed))
        for place in range(3):
            torch.testing.assert_close(together[:, place], alone)


@pytest.mark.parametrize("axis", [0, 1])
def test_slices_along_another_axis(gridded, axis):
    needs = Slices(axis=axis)
    samples = needs.samples(gridded, BOTH, seed=0, data=DATA)
    assert isinstance(samples, SliceDataset)
    sample, places = samples[3], samples.places(3)
    assert sample["images"].shape == (2, 32, 16)
    for k, contrast in enumerate(BOTH):
        subject, place = places[contrast]
        whole = to_network(read_image(gridded, subject, contrast))
        assert torch.equal(sample["images"][k], whole.select(axis, place))
        assert ((whole.select(axis, place) > -1).float().mean() > 0.05).item()
    assert needs.validated(np.arange(3, 9), 16, 2).tolist() == list(range(16))
    assert needs.slab(4, 6, 16) == slice(0, 16)
    with pytest.raises(InputError, match="multiples"):
        Slices(axis=axis, size_multiple=12).check_volume((32, 32, 16))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_windows_along_an_axis_put_slices_back(axis):
    volume = torch.randn(1, 2, 6, 8, 10, generator=torch.Generator().manual_seed(0))
    shapes, ticks = [], []
    windows = SliceWindows(4, lambda: ticks.append(0), axis=axis)

    def function(x):
        shapes.append(tuple(x.shape[2:]))
        return 2 * x

    assert torch.equal(windows.map(function, volume), 2 * volume)
    sides = [6, 8, 10]
    del sides[axis]
    assert set(shapes) == {tuple(sides)}
    assert len(ticks) == windows.ticks((6, 8, 10))


@pytest.mark.parametrize("settings", [{"paired": False}, {"neighbours": 1}])
def test_unpaired_slices_or_neighbours_lie_along_the_last_axis(settings):
    with pytest.raises(AssertionError, match="other axes"):
        Slices(axis=1, **settings)


@pytest.mark.parametrize(
    ("unit", "settings"),
    [
        (partial(Slices), {"tissue": True}),
        (partial(Slices), {"labels": ("age",)}),
        (partial(Latents, 3, 4), {"axis": 1}),
        (partial(Latents, 3, 4), {"patch": (8, 8)}),
        (partial(Slices), {"patch": (8, 8), "neighbours": 1}),
        (partial(Patches, (8, 8, 8)), {"complete": True}),
        (partial(Patches, (8, 8, 8)), {"neighbours": 1}),
        (partial(Patches, (8, 8, 8)), {"sequences": {"T1w": "spin_echo"}}),
        (partial(Volumes, (8, 8, 8)), {"tissue": True}),
    ],
)
def test_what_a_units_samples_do_not_have_is_refused(unit, settings):
    unit()
    with pytest.raises(AssertionError):
        unit(**settings)


def test_whole_volumes_are_trained_on_patches(cohort):
    needs = Volumes((16, 64, 8), size_multiple=4)
    samples = needs.samples(cohort, BOTH, seed=0, data=DataSettings())
    assert samples[0]["images"].shape == (2, 16, 32, 8)  # no scan has more than 32 along the second axis
    assert needs.random_batch(2, 1, (32, 32), seed=0)["images"].shape == (1, 2, 16, 64, 8)
    assert needs.slab(4, 6, 16) == slice(3, 7)
    with pytest.raises(InputError, match="only acceleration and augmentation count"):
        needs.samples(cohort, BOTH, seed=0, data=DataSettings(slices_per_subject=3))
    with pytest.raises(InputError, match="at least 32 along each axis"):
        replace(needs, size=(32, 32, 32), size_multiple=32).samples(cohort, BOTH, seed=0, data=DataSettings())


def test_volumes_are_padded_by_reflection_and_cut_back():
    windows = Volumes((8, 8, 8), size_multiple=4).windows()
    assert isinstance(windows, VolumeWindows)
    x, seen = torch.arange(5.0 * 4 * 6).reshape(1, 1, 5, 4, 6), []

    def function(x, constant):
        seen.append(x)
        return x + constant

    assert torch.equal(windows.map(function, x, torch.ones(1, 1, 1, 1, 1)), x + 1)
    assert seen[0].shape == (1, 1, 8, 4, 8)
    assert torch.equal(seen[0][..., 5:, :, :6], x[..., [3, 2, 1], :, :])
    assert torch.equal(seen[0][..., :5, :, 6:], x[..., [4, 3]])
    assert windows.ticks((5, 4, 6)) == 1


def test_a_patch_that_networks_cannot_halve_is_refused():
    with pytest.raises(InputError, match="multiples of 8"):
        Patches((16, 12, 8), size_multiple=8)


@pytest.mark.parametrize("unit", [Slices(), Patches((16, 16, 8)), Volumes((16, 16, 8))])
def test_changed_intensities_want_a_method_that_tells_source_from_target(unit, cohort):
    data = DataSettings(augmentation=Augmentation(bias=0.2))
    with pytest.raises(InputError, match="does not tell apart"):
        unit.samples(cohort, BOTH, seed=0, data=data)
    assert "sources" in replace(unit, sources=True).samples(cohort, BOTH, seed=0, data=data)[0]


def test_latents_cannot_be_augmented(cohort):
    with pytest.raises(InputError, match="cannot be augmented"):
        Latents(3, 4).samples(cohort, BOTH, seed=0, data=DataSettings(augmentation=Augmentation(flip=0.5)))


def test_a_run_says_what_it_needs(tiny):
    config: RunConfig = tiny("mrdiff")
    assert needs_of(config).sequences == {"T1w": "spin_echo", "T2w": "spin_echo"}


@pytest.mark.parametrize("name", CASES)
def test_who_says_that_it_reads_sources_does(name):
    method, settings = find_case(name)
    torch.manual_seed(0)
    made = find_method(method)(settings, BOTH)
    if not made.needs.sources:
        return  # it reads images alone, and is refused such settings
    batch = made.needs.random_batch(2, 2, (32, 32), seed=0)

    def losses(**more):
        seen = {}
        noise = Noise([(0, 0, 0), (0, 0, 1)])
        made.training_step({**batch, **more}, lambda player, found: seen.update(found), Progress(0, 1, 0.0), noise)
        return {key: value.item() for key, value in seen.items()}

    assert losses(sources=batch["images"].clone()) == losses()
    assert losses(sources=-batch["images"]) != losses()
