"""The first stage of latent methods: latents on disk, its copy in a run, and what does not fit."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, load_file

import scansynth
from scansynth.config import read_yaml
from scansynth.data.arrays import read_array
from scansynth.data.augmentation import Augmentation
from scansynth.data.datasets import SliceDataset, read_image, to_network
from scansynth.data.foreground import foreground_threshold
from scansynth.devices import Processes
from scansynth.errors import InputError
from scansynth.training.first_stage import FOLDER, FirstStage, compute_latents, foreground_places
from scansynth.training.parts import find_first_stage, make_parts
from scansynth.training.train import train

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained(cohort, tiny, first_stage, tmp_path_factory):
    """A run of latent diffusion."""
    run = tmp_path_factory.mktemp("runs") / "ldm"
    train(tiny("ldm", steps=4, checkpoint_every=2), cohort, run, device=CPU, first_stage=first_stage)
    return run


def stage_of(first_stage, cohort, tiny):
    return find_first_stage(
        tiny("ldm"), cohort, first_stage / "none", given=first_stage, overwrite=False, processes=Processes(CPU)
    )


def foreground_latents(stage, cohort):
    """Latents of the training scans where a voxel of theirs is foreground, (c, N)."""
    latents = []
    for subject in cohort.subjects("train"):
        for contrast in ("T1w", "T2w"):
            image = read_image(cohort, subject, contrast)
            encoded = stage.encode(to_network(image).movedim(2, 0)[:, None]).movedim(1, 0)  # (c, Z, X/2, Y/2)
            threshold = foreground_threshold(image.numpy(), contrast, background=0.0)
            blocks = (image > threshold).reshape(16, 2, 16, 2, -1).any(3).any(1)  # (X/2, Y/2, Z)
            assert 0.1 < blocks.float().mean() < 0.9
            latents.append(encoded[:, blocks.movedim(2, 0)])
    return torch.cat(latents, dim=1)


def test_latents_of_training_foreground_have_mean_0_and_variance_1(cohort, tiny, first_stage):
    stage = stage_of(first_stage, cohort, tiny)
    latents = foreground_latents(stage, cohort)
    torch.testing.assert_close(latents.mean(1), torch.zeros(stage.channels), rtol=0, atol=1e-3)
    torch.testing.assert_close(latents.std(1), torch.ones(stage.channels), rtol=1e-3, atol=0)
    assert stage.mean.abs().max() > 1e-2 * stage.deviation.min()  # something was taken


def test_what_is_normalised_is_decoded_as_it_was(cohort, tiny, first_stage):
    stage = stage_of(first_stage, cohort, tiny)
    x = to_network(read_image(cohort, cohort.subjects("train")[0], "T1w")).movedim(2, 0)[:, None]
    plain = stage.autoencoder.decode(stage.autoencoder.encode(x))
    torch.testing.assert_close(stage.decode(stage.encode(x)), plain, rtol=0, atol=1e-4)
    empty = stage.background(x.shape[2:])
    torch.testing.assert_close(empty, stage.encode(torch.full_like(x[:1], -1.0))[0], rtol=1e-4, atol=1e-4)


def test_places_that_stand_for_a_foreground_voxel_count():
    image = torch.zeros(8, 8, 3)
    image[3, 5, 1] = 1.0
    shown = foreground_places(image, "T1w", 4)
    assert shown.shape == (2, 2, 3)
    assert [tuple(place) for place in zip(*shown.nonzero(), strict=True)] == [(0, 1, 1)]


def as_before(run):
    """A run folder whose latents are divided only, by a deviation over whole slices."""
    path = run / FOLDER / "latents.json"
    state = json.loads(path.read_text())
    del state["mean"]
    state["deviation"] = [1.5 + number for number in range(len(state["deviation"]))]
    path.write_text(json.dumps(state))
    return torch.tensor(state["deviation"])


def test_a_run_of_before_goes_on_with_its_deviation_and_no_mean(trained, cohort, tiny, first_stage, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    deviation = as_before(run)
    stage = FirstStage.read(run / FOLDER)
    x = to_network(read_image(cohort, cohort.subjects("train")[0], "T1w")).movedim(2, 0)[:, None]
    latent = stage.autoencoder.encode(x) / deviation[:, None, None]
    assert torch.equal(stage.encode(x), latent)
    assert torch.equal(stage.decode(latent), stage.autoencoder.decode(latent * deviation[:, None, None]))
    for given in (None, first_stage):
        config = tiny("ldm")
        found = find_first_stage(config, cohort, run, given=given, overwrite=False, processes=Processes(CPU))
        assert torch.equal(found.deviation, deviation)
        assert not found.mean.any()
        _, samples = make_parts(config, cohort, Processes(CPU), first_stage=found)
        place = samples.places(3)["T1w"]
        stored = torch.from_numpy(found.store(cohort, ()).read(place[0], "T1w", place[1]))
        assert torch.equal(samples[3]["latents"][0], stored / deviation[:, None, None])
    train(tiny("ldm", steps=6, checkpoint_every=2), cohort, run, device=CPU)
    assert torch.equal(FirstStage.read(run / FOLDER).deviation, deviation)


def sums(file):
    """What is kept of a scan's latents, but for the hash of their file: compressed bytes differ from write to write."""
    content = json.loads(file.read_text())
    return {name: value for name, value in content.items() if name != "file"}


def test_stores_of_before_are_computed_anew(cohort, tiny, first_stage, tmp_path):
    """Their sums are over whole slices: nothing of them comes into the mean."""
    copy = tmp_path / "cohort"
    shutil.copytree(cohort.folder, copy)
    stage = stage_of(first_stage, cohort, tiny)
    cohort = type(cohort).open(copy)
    files = sorted(stage.store(cohort, ()).folder.rglob("*.json"))
    assert len(files) == 8
    whole = [sums(file) for file in files]
    for file in files[::2]:
        file.write_text(json.dumps({"count": 10**9, "sum": [1e9] * 3, "sum_of_squares": [1e12] * 3}))
    mean, deviation = compute_latents(stage, cohort, ("T1w", "T2w"), (), CPU)
    torch.testing.assert_close(torch.tensor(mean).float(), stage.mean)
    torch.testing.assert_close(torch.tensor(deviation).float(), stage.deviation)
    assert [sums(file) for file in files] == whole


def test_samples_are_the_latents_of_the_slices(cohort, tiny, first_stage):
    stage = stage_of(first_stage, cohort, tiny)
    config = tiny("ldm")
    _, latents = make_parts(config, cohort, Processes(CPU), first_stage=stage)
    data = config.data
    slices = SliceDataset(
        cohort, config.contrasts, "train", paired=True, seed=config.seed, min_foreground=data.min_foreground
    )
    for i in (0, 5, 77):
        encoded = stage.encode(slices[i]["images"][:, None])
        torch.testing.assert_close(latents[i]["latents"], encoded, rtol=1e-4, atol=1e-5)
        assert torch.equal(latents[i]["available"], slices[i]["available"])


def test_encoding_goes_on_where_it_stopped(cohort, tiny, first_stage, tmp_path, monkeypatch):
    copy = tmp_path / "cohort"
    shutil.copytree(cohort.folder, copy, ignore=shutil.ignore_patterns("latents"))
    cohort = type(cohort).open(copy)
    stage, calls = stage_of(first_stage, cohort, tiny), []
    files = sorted((copy / "latents").rglob("*.b2nd"))
    whole = {path: read_array(path, None, "") for path in files}
    assert len(whole) == 8  # four subjects, two contrasts
    files[3].with_suffix(".json").unlink()  # as a kill between the two leaves it
    files[6].unlink()
    files[6].with_suffix(".json").unlink()
    encode = stage.autoencoder.encode
    monkeypatch.setattr(stage.autoencoder, "encode", lambda x: calls.append(len(x)) or encode(x))
    compute_latents(stage, cohort, ("T1w", "T2w"), (), CPU)
    assert sum(calls) == 2 * 16  # slices of the two that were not whole
    assert all((read_array(path, None, "") == array).all() for path, array in whole.items())


def test_the_run_folder_stands_alone(trained, cohort, first_stage, tiny, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(trained, moved)
    state = json.loads((moved / FOLDER / "latents.json").read_text())
    assert state["sha256"] == FirstStage.of_run(first_stage, cohort, read_yaml(moved / "config.yaml")).sha256
    run = scansynth.load(moved, "cpu")
    images = torch.rand(1, 2, 32, 32, 16)
    from scansynth.noise import Noise

    made = run.make(images, torch.tensor([[True, False]]), "T2w", noise=Noise([(0, "subject", 0)])).image
    assert made.shape == (32, 32, 16)
    assert made.std() > 0


def test_a_first_stage_without_validation_is_what_synthesis_would_use(cohort, tiny, first_stage, tmp_path):
    run = tmp_path / "ae"
    shutil.copytree(first_stage, run)
    shutil.rmtree(run / "best")
    stage = FirstStage.of_run(run, cohort, tiny("ldm"))
    averages = load_file(next((run / "last").rglob("averages.safetensors")))
    live = load_file(next((run / "last").rglob("weights.safetensors")))
    weights = load(stage.weights)
    assert {key.split("/")[0] for key in weights} == {"encoder", "decoder"}
    assert all(torch.equal(tensor, averages[key]) for key, tensor in weights.items())
    assert not all(torch.equal(tensor, live[key]) for key, tensor in weights.items())


def test_training_goes_on_without_being_told_the_first_stage_again(trained, cohort, tiny, first_stage, tmp_path):
    whole = tmp_path / "whole"
    train(tiny("ldm", steps=6, checkpoint_every=2), cohort, whole, device=CPU, first_stage=first_stage)
    resumed = tmp_path / "resumed"
    shutil.copytree(trained, resumed)
    train(tiny("ldm", steps=6, checkpoint_every=2), cohort, resumed, device=CPU)
    weights = [next((run / "last").rglob("weights.safetensors")).read_bytes() for run in (whole, resumed)]
    assert weights[0] == weights[1]


def test_what_does_not_fit_is_refused(trained, cohort, tiny, first_stage, tmp_path):
    new = tmp_path / "new"
    with pytest.raises(InputError, match="builds on a trained autoencoder"):
        train(tiny("ldm"), cohort, new, device=CPU)
    with pytest.raises(InputError, match="builds on no other run"):
        train(tiny("regression"), cohort, new, device=CPU, first_stage=first_stage)
    with pytest.raises(InputError, match="a run of ldm"):
        train(tiny("ldm"), cohort, new, device=CPU, first_stage=trained)
    with pytest.raises(InputError, match="not a run folder"):
        train(tiny("ldm"), cohort, new, device=CPU, first_stage=tmp_path)
    settings = replace(tiny("ldm").settings, latent_channels=5)
    with pytest.raises(InputError, match="latent_channels and factor say 5 and 2"):
        train(tiny("ldm", settings), cohort, new, device=CPU, first_stage=first_stage)
    augmented = replace(tiny("ldm"), data=replace(tiny("ldm").data, augmentation=Augmentation(flip=0.5)))
    with pytest.raises(InputError, match="cannot be augmented"):
        train(augmented, cohort, new, device=CPU, first_stage=first_stage)
    assert not new.exists()
    other = tmp_path / "other"
    train(tiny("autoencoder", steps=2), cohort, other, device=CPU)
    with pytest.raises(InputError, match="another first stage"):
        train(tiny("ldm", steps=6, checkpoint_every=2), cohort, trained, device=CPU, first_stage=other)
    broken = tmp_path / "broken"
    shutil.copytree(trained, broken)
    path = broken / FOLDER / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match="first stage cannot be read"):
        scansynth.load(broken, "cpu")
