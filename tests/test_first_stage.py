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
from scansynth.devices import Processes
from scansynth.errors import InputError
from scansynth.training.first_stage import FOLDER, FirstStage, compute_latents
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


def test_latents_have_unit_variance_in_training(cohort, tiny, first_stage):
    stage = stage_of(first_stage, cohort, tiny)
    latents = []
    for subject in cohort.subjects("train"):
        for contrast in ("T1w", "T2w"):
            image = to_network(read_image(cohort, subject, contrast))
            shown = cohort.foreground(subject, contrast) > 0
            latents.append(stage.encode(image.movedim(2, 0)[:, None][torch.from_numpy(shown)]))
    deviation = torch.cat(latents).movedim(1, 0).flatten(1).std(1)
    torch.testing.assert_close(deviation, torch.ones_like(deviation), rtol=1e-3, atol=0)


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
    with pytest.raises(InputError, match="train an autoencoder"):
        train(tiny("ldm"), cohort, new, device=CPU)
    with pytest.raises(InputError, match="needs none"):
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
