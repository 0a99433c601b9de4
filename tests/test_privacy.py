"""A name that stands in a header, a sidecar or a folder above the data is in nothing that is written."""

import base64
import gzip
import io
import json
import re
import zipfile
import zlib
from dataclasses import replace

import nibabel as nib
import pytest
import torch

import scansynth
from scansynth.cli import main
from scansynth.config import RunConfig, Training
from scansynth.data.cohort import Cohort
from scansynth.data.kept_values import known_values
from scansynth.data.phantom import write_phantom_cohort
from scansynth.methods.cdpm import CdpmConfig
from scansynth.training.train import train

MARK = "MUSTERMANN"
TEXTS = {
    "PatientName": MARK, "InstitutionName": MARK, "Manufacturer": f"Siemens {MARK}", "ScanningSequence": f"GR_{MARK}",
    "SequenceVariant": ["SP", MARK], "ScanOptions": MARK, "EchoTime": MARK, "MagneticFieldStrength": [MARK, 3],
    "RepetitionTime": 2.3, "FlipAngle": 9,
}  # fmt: skip


def plant(image):
    """The name in every text of a NIfTI file's header, and in its sidecar."""
    found = nib.load(image)
    for name in ("descrip", "db_name", "intent_name", "data_type", "aux_file"):
        found.header[name] = MARK.encode()
    for code in ("comment", "afni", "dicom"):
        found.header.extensions.append(nib.nifti1.Nifti1Extension("comment", f"{code} {MARK}".encode()))
    nib.save(nib.Nifti1Image(found.get_fdata(dtype="float32"), found.affine, found.header), image)
    image.with_name(image.name.replace(".nii.gz", ".json")).write_text(json.dumps(TEXTS))


def unpacked(content):
    """The bytes of a file, and of what is packed in them: gzip, zip, and base64 in pages."""
    yield content
    if content.startswith(b"\x1f\x8b"):
        yield from unpacked(gzip.decompress(content))
    elif content.startswith(b"PK"):
        archive = zipfile.ZipFile(io.BytesIO(content))
        for name in archive.namelist():
            yield from unpacked(archive.read(name))
    elif content.lstrip()[:1] == b"<":
        for packed in re.findall(rb"[A-Za-z0-9+/]{60,}={0,2}", content):
            whole = base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=False)
            yield whole
            if whole.startswith(b"\x1f\x8b"):
                yield zlib.decompressobj(wbits=31).decompress(whole)


def leaks(folder):
    """Files below a folder that name somebody, in what they hold or how they are called."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return [
        str(path.relative_to(folder))
        for path in files
        if MARK in str(path.relative_to(folder)) or any(MARK.encode() in one for one in unpacked(path.read_bytes()))
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of somebody's, with data and a cohort of it."""
    place = tmp_path_factory.mktemp("home") / MARK
    data = place / "bids"
    write_phantom_cohort(
        data, 6, ("T1w", "T2w"), layout="BIDS", shape=(32, 32, 16), spacing=6.0, missing={"sub-006": ("T2w",)}
    )
    for image in data.rglob("*.nii.gz"):
        plant(image)
    assert len(leaks(data)) == 22  # the name is where it was planted, and the search finds it
    command = ["prepare", "-i", str(data), "-o", str(place / "cohort"), "--spacing", "6", "6", "6"]
    assert main([*command, "--size", "32", "32", "16"]) == 0
    return place


@pytest.fixture(scope="module")
def run(place, tiny):
    folder = place / "runs" / "regression"
    train(tiny("regression", steps=2), Cohort.open(place / "cohort"), folder, device=torch.device("cpu"))
    return folder


def test_a_cohort_and_a_run_name_nobody(place, run):
    assert leaks(place / "cohort") == []
    assert leaks(run) == []
    record = Cohort.open(place / "cohort")
    assert record.acquisition("sub-001", "T1w") == {"RepetitionTime": 2.3, "FlipAngle": 9}
    assert str(record.source("sub-001", "T1w")) == "sub-001/anat/sub-001_T1w.nii.gz"


def test_the_census_of_the_same_files_is_not_taken_again(place, monkeypatch):
    monkeypatch.setattr("scansynth.data.census.facts_of", lambda *_, **__: pytest.fail("read again"))
    command = ["prepare", "-i", str(place / "bids"), "-o", str(place / "cohort"), "--spacing", "6", "6", "6"]
    assert main([*command, "--size", "32", "32", "16"]) == 0
    assert leaks(place / "cohort") == []


def test_translations_name_nobody(place, run, tmp_path):
    scans = place / "bids" / "sub-006" / "anat"
    command = ["translate", "--run", str(run), "--device", "cpu", "--target", "T2w"]
    assert main([*command, "--t1w", str(scans / "sub-006_T1w.nii.gz"), "-o", str(tmp_path / "one" / "t2.nii.gz")]) == 0
    assert main([*command, "-i", str(place / "bids"), "-o", str(tmp_path / "all")]) == 0
    broken = place / "bids" / "sub-006" / "anat" / "sub-006_T1w.nii.gz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:300])
    assert main([*command, "-i", str(place / "bids"), "-o", str(tmp_path / "failed")]) == 1
    broken.write_bytes(whole)
    table = (tmp_path / "failed" / "contrasts.tsv").read_text()
    assert "sub-006/anat/sub-006_T1w.nii.gz is truncated" in table
    assert leaks(tmp_path) == []
    header = nib.load(tmp_path / "one" / "t2.nii.gz").header
    source = nib.load(scans / "sub-006_T1w.nii.gz").header
    assert (header["db_name"].item(), header["data_type"].item(), header["intent_name"].item()) == (b"", b"", b"")
    for name in ("srow_x", "srow_y", "srow_z", "quatern_b", "qform_code", "sform_code", "xyzt_units"):
        assert header[name].tolist() == source[name].tolist()
    assert json.loads((tmp_path / "one" / "t2.json").read_text())["sources"] == {"T1w": "sub-006_T1w.nii.gz"}


def test_an_evaluation_names_nobody(place, run, tmp_path):
    command = ["evaluate", "--run", str(run), "--cohort", str(place / "cohort"), "-o", str(tmp_path / "figures")]
    assert main([*command, "--device", "cpu", "--keep", str(tmp_path / "kept")]) == 0
    assert (tmp_path / "figures" / "report.html").is_file()
    assert list((tmp_path / "kept").rglob("*.npz"))
    assert leaks(tmp_path) == []


def test_generated_volumes_name_nobody(place, tmp_path):
    folder = place / "runs" / "cdpm"
    training = Training(steps=2, batch_size=1, log_every=2, validate_every=2, validation_slices=1)
    config = RunConfig("cdpm", replace(CdpmConfig.tiny(), translator=False), ("T1w",), training=training)
    train(config, Cohort.open(place / "cohort"), folder, device=torch.device("cpu"))
    assert main(["generate", "--run", str(folder), "-n", "1", "-o", str(tmp_path / "set"), "--device", "cpu"]) == 0
    assert leaks(tmp_path) == []
    assert json.loads((tmp_path / "set" / "synthetic-0001_T1w.json").read_text())["run"] == "cdpm"


def test_the_name_of_a_run_is_its_folders_from_inside_it_too(run, monkeypatch):
    monkeypatch.chdir(run)
    assert scansynth.load(".", "cpu").name == "regression"


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("EchoTime", 0.1, True), ("EchoTime", "0.1", False), ("EchoTime", True, False),
        ("EchoTime", float("nan"), False), ("Manufacturer", "SIEMENS", True),
        ("Manufacturer", "GE MEDICAL SYSTEMS", True),
        ("Manufacturer", "Philips Healthcare", True), ("Manufacturer", "Dr. Siemens", False),
        ("ScanningSequence", "GR\\IR", True), ("ScanningSequence", ["SE", "IR"], True),
        ("ScanningSequence", "SEIR", False),
        ("SequenceVariant", "SK_SP_MP", True), ("ScanOptions", "IR", False), ("ScanOptions", {"FC": 1}, False),
    ],
)  # fmt: skip
def test_values_of_known_form(name, value, kept, caplog):
    assert known_values({name: value}, "sub-01 T1w") == ({name: value} if kept else {})
    assert (name in caplog.text) is not kept
    assert str(value) not in caplog.text.replace(name, "")
