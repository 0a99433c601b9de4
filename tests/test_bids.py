"""A BIDS derivative, as the validator of BIDS and programs that read BIDS see it."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import scansynth
from scansynth.cli import bids_app
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.volume import Volume
from scansynth.synthesis.folder import translate_cohort
from scansynth.synthesis.image import Synthesis
from scansynth.synthesis.sampling import Sampling
from scansynth.synthesis.writers.bids import describe, output_path
from scansynth.synthesis.writers.nifti import part_path
from scansynth.training.train import train

RAW = {"Name": "Phantoms", "BIDSVersion": "1.10.0", "DatasetType": "raw"}
SMALL = {"seed": 9, "shape": (32, 32, 16), "spacing": 6.0}


def errors(folder):
    """What the validator of BIDS calls an error: code and file."""
    found = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent)) or shutil.which(
        "bids-validator-deno"
    )
    if found is None:
        pytest.skip("bids-validator-deno is not installed: pip install bids-validator-deno")
    run = subprocess.run([found, str(folder), "--format", "json"], capture_output=True, text=True, check=False)
    issues = json.loads(run.stdout)["issues"]["issues"]
    return [(one["code"], one.get("location")) for one in issues if one["severity"] == "error"]


@pytest.fixture(scope="module")
def run(cohort, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "syndiff"
    train(tiny("syndiff", steps=2), cohort, folder, device=torch.device("cpu"))
    return scansynth.load(folder, "cpu")


@pytest.fixture
def bids(tmp_path):
    """Three subjects, of whom the second and third lack the T2w."""
    lacking = {"sub-002": ("T2w",), "sub-003": ("T2w",)}
    write_phantom_cohort(tmp_path / "bids", 3, ("T1w", "T2w"), layout="BIDS", missing=lacking, **SMALL)
    (tmp_path / "bids" / "dataset_description.json").write_text(json.dumps(RAW))
    return tmp_path / "bids"


def test_the_validator_knows_an_error_when_it_sees_one(tmp_path):
    (tmp_path / "sub-01" / "anat").mkdir(parents=True)
    (tmp_path / "dataset_description.json").write_text(json.dumps(RAW))
    Volume.of(np.eye(4)[..., None] + 1, np.eye(4)).write_array(
        tmp_path / "sub-01/anat/sub-01_T2w_std.nii.gz", np.ones((4, 4, 1)), ""
    )
    assert errors(tmp_path)


@pytest.mark.parametrize("place", ["out", "bids/derivatives/scansynth"])
def test_the_validator_finds_no_error(run, bids, tmp_path, place):
    out = tmp_path / place
    translate_cohort(run, find_subjects(bids), out, sampling=Sampling(samples=2))
    names = {path.name for path in (out / "sub-002" / "anat").iterdir()}
    stems = ("desc-synthetic_T2w", "desc-syntheticStd_T2w", "desc-syntheticSample1_T2w", "desc-syntheticSample2_T2w")
    assert names == {f"sub-002_{stem}.{ending}" for stem in stems for ending in ("nii.gz", "json")}
    assert errors(out) == []
    assert errors(bids) == []


def test_names_of_all_kinds_are_those_of_bids(tmp_path):
    out, one = tmp_path / "out", np.random.default_rng(0).random((6, 5, 4), dtype=np.float32)
    out.mkdir()
    contrasts = ("T1w", "T2w", "PDw", "FLAIR", "T1ce", "CT", "T2starw", "SWI")
    describe(out, tmp_path, contrasts)
    made = Synthesis(
        array=one, deviation=one, samples=(one, one), provenance={}, like=Volume.of(one, np.eye(4)),
        maps={"T1 (s)": one, "T2 (s)": one, "S0": one}, intervals={0.9: one, 0.975: one},
    )  # fmt: skip
    for subject in ("sub-01", "sub-02_ses-a"):
        for contrast in contrasts:
            provenance = {"synthetic": True, "target": contrast, "SkullStripped": False}
            replace(made, provenance=provenance).write(output_path(out, "BIDS", subject, contrast))
    assert len(list(out.rglob("*.nii.gz"))) == 2 * len(contrasts) * 9
    assert errors(out) == []


def test_a_sidecar_names_its_sources_by_uris_that_lead_there(run, bids):
    out = bids / "derivatives" / "scansynth"
    translate_cohort(run, find_subjects(bids), out, target="T2w", missing=True)
    sidecar = json.loads((out / "sub-002/anat/sub-002_desc-synthetic_T2w.json").read_text())
    description = json.loads((out / "dataset_description.json").read_text())
    assert sidecar["Sources"] == ["bids:source:sub-002/anat/sub-002_T1w.nii.gz"]
    assert sidecar["sources"] == {"T1w": "sub-002/anat/sub-002_T1w.nii.gz"}
    assert sidecar["run"] == run.folder.name
    assert isinstance(sidecar["SkullStripped"], bool)
    assert sidecar["Description"].startswith("Synthetic T2w, made of T1w by syndiff")
    (uri,) = sidecar["Sources"]
    _, link, place = uri.split(":")
    assert (out / description["DatasetLinks"][link] / place).samefile(bids / "sub-002/anat/sub-002_T1w.nii.gz")
    assert description["SourceDatasets"] == [{"URL": "../.."}]
    assert description["GeneratedBy"][0]["Name"] == "scansynth"


def test_two_data_sets_have_two_names_and_what_the_user_wrote_stays(tmp_path):
    for name, doi in (("a", "doi:10.18112/openneuro.ds000001.v1.0.0"), ("b", "Dr. Who's")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset_description.json").write_text(json.dumps({**RAW, "DatasetDOI": doi}))
    out = tmp_path / "out"
    assert [describe(out, tmp_path / name, ("T2w",)) for name in ("a", "b", "a")] == ["source", "source2", "source"]
    path = out / "dataset_description.json"
    found = json.loads(path.read_text())
    assert found["DatasetLinks"]["source"] == "doi:10.18112/openneuro.ds000001.v1.0.0"
    assert found["DatasetLinks"]["source2"].startswith("hash://sha256/")
    path.write_text(json.dumps({**found, "License": "CC0"}))
    (out / ".bidsignore").write_text("mine/\n")
    describe(out, tmp_path / "a", ("CT",))
    assert json.loads(path.read_text())["License"] == "CC0"
    ignored = ["mine/", "contrasts.tsv", "*_synthetic.html", "figures", "*_CT.nii.gz", "*_CT.json"]
    assert (out / ".bidsignore").read_text().splitlines() == ignored


def test_what_older_versions_wrote_is_replaced(run, bids, tmp_path):
    """Their parts had the kind behind the suffix, which is no BIDS."""
    out, listing = tmp_path / "out", find_subjects(bids)
    translate_cohort(run, listing, out, target="T2w", missing=True, sampling=Sampling(samples=2))
    image = out / "sub-002" / "anat" / "sub-002_desc-synthetic_T2w.nii.gz"
    sidecar = image.with_name("sub-002_desc-synthetic_T2w.json")
    content, old = json.loads(sidecar.read_text()), []
    for kind in ("std", "sample-1", "sample-2"):
        for ending in (".nii.gz", ".json"):
            name = part_path(image, kind).name.replace(".nii.gz", ending)
            old.append(image.with_name(f"sub-002_desc-synthetic_T2w_{kind}{ending}"))
            image.with_name(name).rename(old[-1])
    content["parts"] = [file.name for file in old if file.suffix == ".gz"]
    sidecar.write_text(json.dumps({key: value for key, value in content.items() if key != "sha256"}))
    translate_cohort(run, listing, out, target="T2w", missing=True, sampling=Sampling(samples=2))
    assert not any(file.exists() for file in old)
    assert part_path(image, "std").is_file()
    assert errors(out) == []


# scansynth-bids


def test_the_app_makes_what_participants_lack(run, bids, tmp_path, capfd):
    command = [str(bids), str(tmp_path / "out"), "participant", "--run", str(run.folder), "--device", "cpu"]
    command += ["--target", "T2w"]
    assert bids_app([*command, "--participant_label", "003"]) == 0
    made = [path.name for path in (tmp_path / "out").rglob("*.nii.gz")]
    assert made == ["sub-003_desc-synthetic_T2w.nii.gz"]
    assert "sub-003\tT2w\tsynthetic" in capfd.readouterr().out
    assert bids_app([*command, "--participant-label", "sub-002", "001"]) == 0
    assert "sub-001: nothing to make" in capfd.readouterr().out
    table = (tmp_path / "out" / "contrasts.tsv").read_text()
    assert [f"sub-00{number}\tT2w\tsynthetic" in table for number in (1, 2, 3)] == [False, True, True]
    assert errors(tmp_path / "out") == []
    assert bids_app(command) == 0  # all is there


def test_the_app_refuses_what_it_cannot_do(run, bids, tmp_path, capfd):
    (tmp_path / "flat").mkdir()
    shutil.copy(bids / "sub-001/anat/sub-001_T1w.nii.gz", tmp_path / "flat" / "IXI001-Guys-0001-T1.nii.gz")
    rest = [str(tmp_path / "out"), "participant", "--run", str(run.folder), "--device", "cpu"]
    assert bids_app([str(bids), *rest, "--participant-label", "02"]) == 1
    assert "no scans of participant sub-02; did you mean sub-002" in capfd.readouterr().err
    assert bids_app([str(tmp_path / "flat"), *rest]) == 1
    assert "no BIDS data set (IXI)" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
