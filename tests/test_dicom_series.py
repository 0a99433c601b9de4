"""DICOM in: converted, and each series known for the contrast that it is; where that is not clear it is said."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from scansynth.cli import main
from scansynth.data.cohort import Cohort
from scansynth.data.raw import archives
from scansynth.data.raw.dicom_series import Series, choose, contrasts_of, convert, is_dicom, one_series
from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.synthesis.contrast_table import read_table
from scansynth.training.train import train

pydicom = pytest.importorskip("pydicom", reason="pip install 'scansynth[dicom]'")
pytest.importorskip("dcm2niix", reason="pip install 'scansynth[raw]'")

TIMES = {
    "T1w": {"EchoTime": 3, "RepetitionTime": 1900, "InversionTime": 900, "ScanningSequence": ["GR", "IR"]},
    "T2w": {"EchoTime": 95, "RepetitionTime": 4000, "ScanningSequence": "SE"},
    "FLAIR": {"EchoTime": 110, "RepetitionTime": 9000, "InversionTime": 2500, "ScanningSequence": ["SE", "IR"]},
}
"""Milliseconds, as in DICOM."""
SPACING = (4.0, 4.0, 5.0)


def write_series(folder, array, number, description, times, *, patient="Mustermann^Erika", **more):
    """An axial MR series (X, Y, Z) in RAS, as a scanner writes it."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    study = generate_uid(entropy_srcs=[patient])
    series = generate_uid()
    for z in range(array.shape[2]):
        one = Dataset()
        one.file_meta = FileMetaDataset()
        one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        one.SOPClassUID, one.SOPInstanceUID = MRImageStorage, generate_uid()
        one.file_meta.MediaStorageSOPClassUID = MRImageStorage
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        one.StudyInstanceUID, one.SeriesInstanceUID = study, series
        one.FrameOfReferenceUID = generate_uid(entropy_srcs=[patient, "frame"])
        one.PatientName, one.PatientID, one.Modality, one.Manufacturer = patient, patient, "MR", "SIEMENS"
        one.SeriesNumber, one.InstanceNumber, one.SeriesDescription = number, z + 1, description
        one.AcquisitionNumber, one.MagneticFieldStrength, one.FlipAngle = 1, 3, 9
        one.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"]
        one.StudyDate = one.SeriesDate = one.AcquisitionDate = "20200101"
        one.StudyTime = one.SeriesTime = one.AcquisitionTime = f"12{number:02d}00"
        for name, value in {**times, **more}.items():
            setattr(one, name, value)
        one.PatientPosition = "HFS"
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        one.ImagePositionPatient = [-60.0, -60.0, z * SPACING[2]]
        one.PixelSpacing, one.SliceThickness, one.SpacingBetweenSlices = (
            [SPACING[1], SPACING[0]],
            SPACING[2],
            SPACING[2],
        )
        pixels = np.ascontiguousarray(array[::-1, ::-1, z].T).astype(np.uint16)  # LPS
        one.Rows, one.Columns = pixels.shape
        one.SamplesPerPixel, one.PhotometricInterpretation, one.PixelRepresentation = 1, "MONOCHROME2", 0
        one.BitsAllocated, one.BitsStored, one.HighBit = 16, 16, 15
        one.PixelData = pixels.tobytes()
        one.save_as(folder / f"{number:02d}-{z:03d}.dcm", enforce_file_format=True)


def head(seed):
    rng = np.random.default_rng(seed)
    array = np.zeros((30, 32, 14))
    array[5:25, 4:28, 2:12] = rng.integers(200, 900, (20, 24, 10))
    return array


@pytest.fixture
def data(tmp_path):
    """Two people with T1w, T2w and a localizer; one has a FLAIR that only its times tell."""
    for seed, name in enumerate(("anna", "ben b")):
        folder = tmp_path / "dicom" / name
        write_series(folder / "a", head(seed), 1, "localizer", TIMES["T1w"], patient=name)
        write_series(folder / "b", head(seed + 10), 2, "t1_mprage_sag", TIMES["T1w"], patient=name)
        write_series(folder / "c", head(seed + 20), 5, "T2 TSE tra", TIMES["T2w"], patient=name)
    write_series(folder / "c", head(33), 7, "brain dark", TIMES["FLAIR"], patient=name)
    return tmp_path / "dicom"


def test_series_are_converted_and_known_by_times_and_names(data, tmp_path):
    assert is_dicom(data)
    listing = convert(data, tmp_path / "out")
    assert (listing.layout, listing.contrasts) == ("DICOM", ("T1w", "T2w", "FLAIR"))
    assert {one.name: {key: file.name for key, file in one.scans.items()} for one in listing.subjects} == {
        "anna": {"T1w": "2.nii.gz", "T2w": "5.nii.gz"},
        "ben-b": {"T1w": "2.nii.gz", "T2w": "5.nii.gz", "FLAIR": "7.nii.gz"},
    }
    assert sorted((one.subject, one.path.name) for one in listing.not_taken) == [
        ("anna", "1.nii.gz"), ("ben-b", "1.nii.gz"),
    ]  # fmt: skip
    assert not any(one.scan for one in listing.not_taken)
    volume = Volume.read(listing.subjects[0].scans["T1w"])
    assert np.array_equal(volume.array, head(10))
    assert np.allclose(np.diag(volume.affine)[:3], SPACING)
    sidecar = json.loads(listing.subjects[0].sidecars["T1w"].read_text())
    assert sidecar["EchoTime"] == pytest.approx(0.003)
    assert sidecar["InversionTime"] == pytest.approx(0.9)
    assert not [word for word in ("anna", "mprage") if word in json.dumps(sidecar)]


def test_what_is_converted_is_kept_until_the_data_changes(data, tmp_path):
    first = convert(data, tmp_path / "out")
    file = first.subjects[0].scans["T1w"]
    before = file.stat().st_mtime_ns
    again = convert(data, tmp_path / "out")
    assert again == first
    assert file.stat().st_mtime_ns == before
    (data / "anna" / "c" / "05-013.dcm").unlink()
    assert Volume.read(convert(data, tmp_path / "out").subjects[0].scans["T2w"]).array.shape == (30, 32, 13)


def test_two_series_of_a_contrast_are_an_error_that_names_the_line_of_a_table(data, tmp_path):
    write_series(data / "anna" / "d", head(40), 9, "t1_mprage_repeat", TIMES["T1w"], patient="anna")
    with pytest.raises(
        InputError, match=r"anna: series 2 \(t1_mprage_sag\) and 9 \(t1_mprage_repeat\) may each.*anna,2,T1w"
    ):
        convert(data, tmp_path / "out")
    table = tmp_path / "series.csv"
    table.write_text("subject,series,contrast\nanna,9,T1w\nben-b,7,none\n")
    listing = convert(data, tmp_path / "out", table=table)
    assert listing.subjects[0].scans["T1w"].name == "9.nii.gz"
    assert set(listing.subjects[1].scans) == {"T1w", "T2w"}
    for line, why in (
        ("anna,12,T1w", "no series 12"),
        ("carl,1,T1w", "carl is no subject"),
        ("anna,2,", "no contrast"),
    ):
        table.write_text(f"subject,series,contrast\n{line}\n")
        with pytest.raises(InputError, match=why):
            convert(data, tmp_path / "out", table=table)


def test_what_an_operator_wrote_is_kept_nowhere_and_damage_is_mended(data, tmp_path, caplog):
    first = convert(data, tmp_path / "out")
    for file in (tmp_path / "out").rglob("*.json"):
        assert "mprage" not in file.read_text()
    scan, record = first.subjects[0].scans["T1w"], tmp_path / "out" / "converted" / "anna" / "series.json"
    for spoil in (lambda: scan.write_bytes(b""), lambda: record.write_text('{"key": 3}')):
        spoil()
        again = convert(data, tmp_path / "out")
        assert again == first
        assert np.array_equal(Volume.read(scan).array, head(10))


def test_two_folders_of_one_name_are_refused(data, tmp_path):
    write_series(data / "ben-b", head(1), 2, "t2", TIMES["T2w"], patient="another")
    with pytest.raises(InputError, match="both be subject ben-b"):
        convert(data, tmp_path / "out")


def test_a_folder_of_two_people_is_refused(data, tmp_path):
    write_series(data / "anna" / "d", head(40), 9, "t2", TIMES["T2w"], patient="somebody else")
    with pytest.raises(InputError, match="2 people"):
        convert(data, tmp_path / "out")


MS = {"EchoTime": 1e-3, "RepetitionTime": 1e-3, "InversionTime": 1e-3}


def told(description="", **values):
    seconds = {name: value * MS.get(name, 1) if name in MS else value for name, value in values.items()}
    return {"Modality": "MR", "SeriesDescription": description, "ImageType": ["ORIGINAL", "PRIMARY"], **seconds}


SE, GR = {"ScanningSequence": "SE"}, {"ScanningSequence": "GR"}


@pytest.mark.parametrize(
    ("sidecar", "expected"),
    [
        (told("t1_mprage", EchoTime=3, RepetitionTime=1900, InversionTime=900, ScanningSequence="GR_IR"), ("T1w",)),
        (told("nameless", EchoTime=3, RepetitionTime=1900, InversionTime=900, ScanningSequence="GR_IR"), ("T1w",)),
        (told("t1 se", EchoTime=12, RepetitionTime=550, **SE), ("T1w",)),
        (told("t1 se KM", EchoTime=12, RepetitionTime=550, ContrastBolusAgent="Gadovist", **SE), ("T1ce",)),
        (told("t1 post", EchoTime=12, RepetitionTime=550, **SE), ("T1ce",)),
        (told("nameless", EchoTime=95, RepetitionTime=4000, **SE), ("T2w",)),
        (told("nameless", EchoTime=95, RepetitionTime=9000, **SE), ("T2w", "FLAIR")),
        (told("t2_tirm_dark-fluid FLAIR", EchoTime=95, RepetitionTime=9000, **SE), ("FLAIR",)),
        (told("nameless", EchoTime=110, RepetitionTime=9000, InversionTime=2500, ScanningSequence="SE_IR"), ("FLAIR",)),
        (told("nameless", EchoTime=380, RepetitionTime=5000, InversionTime=1800, ScanningSequence="SE_IR"), ("FLAIR",)),
        (told("nameless", EchoTime=15, RepetitionTime=3000, **SE), ("PDw",)),
        (told("t2_fl2d hemo", EchoTime=20, RepetitionTime=600, **GR), ("T2w", "T2starw")),
        (told("T2", EchoTime=12, RepetitionTime=550, **SE), ("T1w", "T2w")),
        (told("just so"), ()),
        (told("T1 localizer", EchoTime=12, RepetitionTime=550, **SE), ()),
        (told("ep2d_dwi T2", EchoTime=95, RepetitionTime=4000, **SE), ()),
        ({**told("T2", EchoTime=95, RepetitionTime=4000, **SE), "ImageType": ["DERIVED", "SECONDARY", "MPR"]}, ()),
        ({"Modality": "CT", "SeriesDescription": "Kopf nativ"}, ("CT",)),
    ],
)
def test_what_a_series_may_be(sidecar, expected):
    found, why = contrasts_of(sidecar)
    assert set(found) == set(expected)
    assert bool(why) == (not expected)


def test_products_of_the_converter_are_no_scans_and_echoes_are():
    sidecar = told("T2", EchoTime=95, RepetitionTime=4000, **SE)
    for number in ("5_ph", "5_real", "5_imaginary", "5_ROI1", "5_Tilt"):
        assert contrasts_of(sidecar, number)[0] == ()
    assert contrasts_of(sidecar, "5_e2")[0] == ("T2w",)


def test_a_doubtful_series_matters_only_where_nothing_certain_is_there():
    def one(number, *contrasts):
        return Series(number, Path(f"{number}.nii.gz"), "d", contrasts, "")

    chosen, left, unclear = choose("s", [one("1", "T2w"), one("2", "T2w", "FLAIR")], {})
    assert ({name: found.number for name, found in chosen.items()}, unclear) == ({"T2w": "1"}, [])
    assert [found.number for found in left] == ["2"]
    _, _, unclear = choose("s", [one("1", "T1w"), one("2", "T2w", "FLAIR")], {})
    assert unclear == ["s: series 2 (d) may be T2w or FLAIR; name it in a --series table (subject,series,contrast), "
                       "as s,2,T2w"]  # fmt: skip
    chosen, _, unclear = choose("s", [one("1", "T1w"), one("2", "T2w", "FLAIR")], {"2": "none"})
    assert (set(chosen), unclear) == ({"T1w"}, [])


def test_prepare_takes_dicom_in_one_command(data, tmp_path, capsys):
    out = tmp_path / "cohort"
    words = ["prepare", "-i", str(data), "-o", str(out), "--fractions", "1", "0", "0", "--bias", "none", "--raw"]
    assert main(words[:-3]) == 1
    assert main([*words, "--contrasts", "T1w", "T2w"]) == 0
    cohort = Cohort.open(out)
    assert cohort.subjects() == ["anna", "ben-b"]
    assert cohort.acquisition("anna", "T2w")["EchoTime"] == pytest.approx(0.095)
    for file in out.rglob("*.json"):
        text = file.read_text()
        assert "Mustermann" not in text
        assert str(tmp_path) not in text


def zipped(folder, archive):
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for one in sorted(folder.rglob("*.dcm")):
            file.write(one, one.relative_to(folder))
    return archive


def test_an_archive_is_what_its_folder_is_and_is_kept_as_one(data, tmp_path):
    archive = zipped(data, tmp_path / "all.zip")
    found = convert(archive, tmp_path / "out")
    assert {one.name: sorted(one.scans) for one in found.subjects} == {
        "anna": ["T1w", "T2w"], "ben-b": ["FLAIR", "T1w", "T2w"],
    }  # fmt: skip
    file = found.subjects[0].scans["T1w"]
    before = file.stat().st_mtime_ns
    assert convert(archive, tmp_path / "out") == found
    assert file.stat().st_mtime_ns == before
    assert not list(tmp_path.rglob("out/**/*.dcm"))


def test_an_archive_that_is_none_or_too_large_is_refused(data, tmp_path, monkeypatch):
    archive = zipped(data / "anna", tmp_path / "a.zip")
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot be unpacked"):
        convert(archive, tmp_path / "out")
    archive.write_bytes(whole)
    monkeypatch.setattr(archives, "MEMBERS", 10)
    with pytest.raises(InputError, match=r"it holds 42 files"):
        convert(archive, tmp_path / "out")


def test_a_member_stays_in_the_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("../../outside.dcm", b"x")
        file.writestr("/absolute.dcm", b"y")
    with archives.opened(tmp_path / "a.zip") as folder:
        assert sorted(one.name for one in folder.rglob("*") if one.is_file()) == ["absolute.dcm", "outside.dcm"]
    assert not folder.exists()


def test_a_damaged_directory_of_an_archive_is_one_line(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("one.dcm", b"x")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 28] = 0  # a name of no letters
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.zip cannot be unpacked \("), archives.opened(path):
        pass


def test_what_dcm2niix_makes_of_a_damaged_header_names_the_series(data, tmp_path, monkeypatch):
    from scansynth.data.raw import dicom_series

    def convert(folder, out):
        (out / "2.nii.gz").write_bytes(b"")
        (out / "2.json").write_bytes(b'{"PatientID": "\x01"}')

    monkeypatch.setattr(dicom_series, "_dcm2niix", convert)
    (tmp_path / "into").mkdir()
    with pytest.raises(InputError) as caught:
        one_series(data / "anna" / "b", tmp_path / "into")
    assert str(caught.value).startswith(f"{data / 'anna' / 'b'} cannot be read (JSONDecodeError: ")


def test_a_folder_of_several_series_is_no_source(data, tmp_path):
    (tmp_path / "into").mkdir()
    file, person = one_series(data / "anna" / "b", tmp_path / "into")
    assert (file.name, person) == ("2.nii.gz", ("anna", "anna"))
    with pytest.raises(InputError, match=r"one series; it holds series 1 \(localizer\) and 2"):
        one_series(data / "anna", tmp_path / "into")


@pytest.fixture(scope="module")
def run(cohort, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "regression"
    train(tiny(steps=2), cohort, folder, device=torch.device("cpu"))
    return folder


def series_of(phantom, folder, **more):
    """A phantom's T1w as a series."""
    volume = Volume.read(phantom.scans["T1w"])
    scaled = np.round(volume.array / volume.array.max() * 4000)
    write_series(folder, scaled, 4, "t1", TIMES["T1w"], PixelSpacing=[6.0, 6.0], **more)
    return volume


def test_a_series_goes_in_and_a_synthetic_one_of_its_study_comes_out(run, phantoms, tmp_path):
    volume = series_of(phantoms.subjects[0], tmp_path / "t1", patient="Erika")
    words = ["translate", "--run", run, "--t1w", tmp_path / "t1", "--target", "T2w", "-o", tmp_path / "t2.nii.gz"]
    words += ["--dicom", tmp_path / "out"]
    assert main(list(map(str, words))) == 0
    made = [pydicom.dcmread(one) for one in sorted((tmp_path / "out").glob("0*.dcm"))]
    source = pydicom.dcmread(next((tmp_path / "t1").glob("*.dcm")))
    assert {one.StudyInstanceUID for one in made} == {source.StudyInstanceUID}
    assert {str(one.PatientName) for one in made} == {"Erika"}
    assert len(made) == volume.array.shape[2]
    sidecar = json.loads((tmp_path / "t2.json").read_text())
    assert sidecar["sources"] == {"T1w": "4.nii.gz"}  # no folder's name, which may be a patient's


def test_series_of_two_people_are_no_subject(run, data, tmp_path, capsys):
    words = ["translate", "--run", run, "--t1w", data / "anna" / "b", "--t2w", data / "ben b" / "b"]
    assert main([*map(str, words), "-o", str(tmp_path / "o.nii.gz")]) == 1
    assert "of different people" in capsys.readouterr().err
    assert not (tmp_path / "o.nii.gz").exists()


def test_a_folder_of_dicom_is_translated(run, phantoms, tmp_path):
    for name, phantom in zip(("a", "b"), phantoms.subjects, strict=False):
        series_of(phantom, tmp_path / "data" / name, patient=name)
    out = tmp_path / "out"
    words = ["translate", "--run", run, "-i", tmp_path / "data", "-o", out, "--target", "T2w"]
    words = list(map(str, words))
    assert main(words) == 1
    assert not out.exists()
    assert main([*words, "--raw", "--bias", "none"]) == 0
    rows = {(one.subject, one.contrast): (one.status, one.path) for one in read_table(out / "contrasts.tsv")}
    assert rows["a", "T1w"] == ("real", "a/4.nii.gz")
    assert rows["b", "T2w"] == ("synthetic", "b/b_T2w_synthetic.nii.gz")
    assert "dcm2niix" in (out / "a_synthetic.html").read_text(encoding="utf-8")
    made = out / "a" / "a_T2w_synthetic.nii.gz"
    before = made.stat().st_mtime_ns
    assert main([*words, "--raw", "--bias", "none"]) == 0
    assert made.stat().st_mtime_ns == before
