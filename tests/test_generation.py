"""Volumes without a source: repeatable, marked, resumable, and never mixed with those of another run."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

import scansynth
from scansynth.cli import main
from scansynth.config import RunConfig, Training
from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.methods.cdpm import CdpmConfig
from scansynth.methods.ddpm import DdpmConfig
from scansynth.sets.volume_sets import VolumeSet, check_comparable
from scansynth.synthesis.generated import generate, generate_set, volume_path
from scansynth.training.train import train

CPU = torch.device("cpu")
SETTINGS = {
    "cdpm": replace(CdpmConfig.tiny(), translator=False),
    "ddpm": replace(DdpmConfig.tiny(), unconditional=True, patch=(32, 32, 16)),
}


@pytest.fixture(scope="module", params=SETTINGS)
def run(request, gridded, tmp_path_factory):
    """A run of each method that generates."""
    folder = tmp_path_factory.mktemp("generators") / request.param
    training = Training(steps=2, batch_size=1, log_every=2, validate_every=2, validation_slices=1)
    train(RunConfig(request.param, SETTINGS[request.param], ("T1w",), training=training), gridded, folder, device=CPU)
    return scansynth.load(folder, "cpu")


def arrays(folder, count=2):
    return [Volume.read(volume_path(folder, "T1w", number)).array for number in range(1, count + 1)]


def test_a_set_repeats_grows_and_is_marked(run, gridded, tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    generate_set(run, 1, one, seed=4)
    before = volume_path(one, "T1w", 1).stat().st_mtime_ns
    reports = []
    paths = generate_set(run, 2, one, seed=4, report=reports.append)
    assert paths == [volume_path(one, "T1w", 1), volume_path(one, "T1w", 2)]
    assert volume_path(one, "T1w", 1).stat().st_mtime_ns == before
    assert reports[-1].done == reports[-1].total == len(reports)  # one volume's network calls, all of them
    generate_set(run, 2, other, seed=4)
    first, second = arrays(one)
    assert [np.array_equal(a, b) for a, b in zip(arrays(one), arrays(other), strict=True)] == [True, True]
    assert not np.array_equal(first, second)
    image = nib.load(paths[0])
    assert image.shape == (32, 32, 16)
    assert image.header.get_zooms() == (6, 6, 6)
    assert (image.header["sform_code"], image.header.get_xyzt_units()[0]) == (1, "mm")
    np.testing.assert_allclose(image.affine @ [15.5, 15.5, 7.5, 1], [0, 0, 0, 1], atol=1e-5)
    assert b"SYNTHETIC" in image.header["descrip"].item()
    sidecar = json.loads((one / "synthetic-0001_T1w.json").read_text())
    assert (sidecar["synthetic"], sidecar["number"], sidecar["seed"], sidecar["sources"]) == (True, 1, 4, {})
    assert len(sidecar["stages"]) == 16
    check_comparable(
        VolumeSet.from_folder(one), VolumeSet.from_cohort(gridded, "T1w", "train")
    )  # can be measured as it is


@pytest.mark.parametrize("left", ["image", "part of the image", "nothing in the image", "sidecar"])
def test_a_volume_that_is_not_whole_is_made_again(run, tmp_path, left):
    generate_set(run, 1, tmp_path)
    path, whole = volume_path(tmp_path, "T1w", 1), arrays(tmp_path, 1)[0]
    if left == "image":
        (tmp_path / "synthetic-0001_T1w.json").unlink()  # the sidecar comes last
    elif left == "sidecar":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 2000 if left.startswith("part") else 0])
    generate_set(run, 1, tmp_path)
    np.testing.assert_array_equal(arrays(tmp_path, 1)[0], whole)
    assert (tmp_path / "synthetic-0001_T1w.json").is_file()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_scan_of_a_volumes_name_is_kept(run, tmp_path, overwrite, monkeypatch):
    path = volume_path(tmp_path, "T1w", 2)
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((4, 4, 4), dtype=np.float32), np.eye(4)), path)
    before = path.read_bytes()
    monkeypatch.setattr(type(run.method), "generate", lambda *_, **__: pytest.fail("computed before it is checked"))
    with pytest.raises(InputError, match=r"synthetic-0002_T1w\.nii\.gz is not marked synthetic"):
        generate_set(run, 3, tmp_path, overwrite=overwrite)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_volumes_of_another_seed_stay(run, tmp_path):
    generate_set(run, 1, tmp_path, seed=0)
    before = arrays(tmp_path, 1)[0]
    with pytest.raises(InputError, match="another -o, or --overwrite"):
        generate_set(run, 1, tmp_path, seed=1)
    np.testing.assert_array_equal(arrays(tmp_path, 1)[0], before)
    generate_set(run, 1, tmp_path, seed=1, overwrite=True)
    assert not np.array_equal(arrays(tmp_path, 1)[0], before)


def test_plans(run):
    if not run.method.plans:
        with pytest.raises(InputError, match="makes a volume at once"):
            generate(run, 1, plan="hierarchical")
        return
    made = {plan: generate(run, 1, plan=plan) for plan in (None, "autoregressive", "hierarchical")}
    assert np.array_equal(made[None].array, made["autoregressive"].array)
    assert not np.array_equal(made[None].array, made["hierarchical"].array)
    assert made[None].provenance["plan"] == "autoregressive"
    assert made[None].provenance["stages"] == tuple(z // 3 for z in range(16))
    with pytest.raises(InputError, match="cdpm has autoregressive, hierarchical"):
        generate(run, 1, plan="backwards")


def test_what_cannot_be_generated(cohort, gridded, tiny, tmp_path):
    training = Training(steps=1, batch_size=1)
    config = RunConfig("cdpm", SETTINGS["cdpm"], ("T1w",), training=training)
    with pytest.raises(InputError, match="prepare it with --size X Y Z and --spacing X Y Z"):
        train(config, cohort, tmp_path / "no-grid", device=CPU)
    train(tiny("regression", steps=1), gridded, tmp_path / "translator", device=CPU)
    with pytest.raises(InputError, match="use `translate`"):
        generate_set(scansynth.load(tmp_path / "translator", "cpu"), 1, tmp_path / "out")
    with pytest.raises(InputError, match="generates one contrast"):
        train(replace(config, contrasts=("T1w", "T2w")), gridded, tmp_path / "two", device=CPU)
    slices = replace(SETTINGS["ddpm"], patch=None)
    with pytest.raises(InputError, match="makes volumes of patches"):
        train(replace(config, method="ddpm", settings=slices), gridded, tmp_path / "slices", device=CPU)


def test_the_command(run, tmp_path, capsys):
    arguments = ["generate", "--run", str(run.folder), "-o", str(tmp_path / "set"), "--device", "cpu"]
    assert main([*arguments, "-n", "2"]) == 0
    assert "2 volumes" in capsys.readouterr().out
    assert len(list((tmp_path / "set").glob("*.nii.gz"))) == 2
    assert main([*arguments, "-n", "0"]) == 1
    assert main([*arguments, "-n", "3", "--seed", "1"]) == 1
    assert len(list((tmp_path / "set").glob("*.nii.gz"))) == 2
