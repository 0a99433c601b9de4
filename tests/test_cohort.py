"""The prepared cohort on disk: what is written, resumed, refused, and read back."""

import json

import nibabel as nib
import numpy as np
import pytest
from filelock import FileLock

from scansynth import files
from scansynth.data.build_cohort import build_cohort
from scansynth.data.cohort import Cohort
from scansynth.data.dry_run import dry_run
from scansynth.data.foreground import foreground_threshold
from scansynth.data.layouts import Listing, Subject
from scansynth.data.prepare import Preparation, grid_for, to_grid
from scansynth.data.volume import Volume
from scansynth.errors import InputError

SETTINGS = Preparation(size=(16, 16, None))
AFFINE = np.diag([-1.0, 1, 1, 1])


def write_scan(path, seed, contrast, affine=AFFINE, shape=(14, 12, 10)):
    """A random blob, stored left to right mirrored; T2w runs against T1w."""
    rng = np.random.default_rng(seed)
    array = np.zeros(shape, np.float32)
    array[3:11, 2:10, 1:9] = rng.uniform(100, 300, (8, 8, 8))
    if contrast == "T2w":
        array[array > 0] = 500 - array[array > 0]
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def make_listing(root, count=6, splits=True, masks=True):
    subjects = []
    for number in range(count):
        name = f"s{number}"
        scans = {c: write_scan(root / f"{name}_{c}.nii.gz", number, c) for c in ("T1w", "T2w")}
        if number == 2:
            del scans["T2w"]
        mask = {}
        if masks:
            labels = np.zeros((14, 12, 10), np.uint8)
            labels[4:6, 4:8, 3:5] = number  # s0: empty
            nib.save(nib.Nifti1Image(labels, AFFINE), root / f"{name}_seg.nii.gz")
            mask = {"seg": root / f"{name}_seg.nii.gz"}
        sidecars = {}
        if number == 0:
            sidecars = {"T1w": root / "s0_T1w.json"}
            sidecars["T1w"].write_text(json.dumps({"RepetitionTime": 2.3, "PatientBirthDate": "1970"}))
        split = ("train", "train", "train", "train", "val", "test")[number % 6] if splits else None
        subjects.append(Subject(name=name, scans=scans, masks=mask, split=split, sidecars=sidecars))
    return Listing("table", root, tuple(subjects), ("T1w", "T2w"))


@pytest.fixture
def listing(tmp_path):
    (tmp_path / "in").mkdir()
    return make_listing(tmp_path / "in")


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.glob("scans/*/*")}


def test_what_is_read_is_the_prepared_volume(listing, tmp_path):
    cohort = build_cohort(listing, tmp_path / "out", SETTINGS)
    assert cohort.contrasts == ("T1w", "T2w")
    assert cohort.settings == SETTINGS
    assert cohort.subjects("train") == ["s0", "s1", "s2", "s3"]
    assert [cohort.split_of(name) for name in ("s4", "s5")] == ["val", "test"]
    assert cohort.available("s2") == ("T1w",)
    for name in ("s0", "s5"):
        volumes = {c: Volume.read(path) for c, path in listing.subjects[int(name[1])].scans.items()}
        grid = grid_for(volumes, SETTINGS)
        for contrast, volume in volumes.items():
            values = volume.array[volume.array > foreground_threshold(volume.array, contrast)]
            statistics = cohort.statistics[contrast]
            expected = to_grid(volume.array, grid, 0) / values.mean(dtype=np.float64) / statistics.scale_cohort
            whole = cohort.read(name, contrast)
            np.testing.assert_allclose(whole, expected, rtol=1e-5)
            assert whole.dtype == np.float32
            assert whole.shape == cohort.shape(name, contrast) == (16, 16, 10)
            np.testing.assert_array_equal(cohort.affine(name, contrast), grid.affine)
            for z in range(10):
                np.testing.assert_array_equal(cohort.read(name, contrast, z), whole[:, :, z])
            np.testing.assert_array_equal(cohort.read(name, contrast, slice(2, 9)), whole[:, :, 2:9])
            np.testing.assert_allclose(cohort.foreground(name, contrast), (whole > 0).mean(axis=(0, 1)), atol=1e-5)
    # The training maximum is 1.
    assert max(cohort.read(name, "T1w").max() for name in cohort.subjects("train")) == pytest.approx(1)
    assert cohort.acquisition("s0", "T1w") == {"RepetitionTime": 2.3}


def test_masks_lie_on_the_scans(listing, tmp_path):
    cohort = build_cohort(listing, tmp_path / "out", SETTINGS)
    assert not cohort.read_mask("s0", "seg").any()
    mask = cohort.read_mask("s3", "seg")
    source = Volume.read(listing.subjects[3].masks["seg"])
    grid = grid_for({"T1w": Volume.read(listing.subjects[3].scans["T1w"])}, SETTINGS)
    np.testing.assert_array_equal(mask, to_grid(source.array.astype(np.uint8), grid, 0, order=0))
    assert mask.dtype == np.uint8
    assert mask.sum() == 3 * 2 * 4 * 2


def test_statistics_come_from_training_only(listing, tmp_path):
    before = build_cohort(listing, tmp_path / "a", SETTINGS)
    scan = listing.subjects[5].scans["T1w"]
    nib.save(nib.Nifti1Image(nib.load(scan).get_fdata() ** 2, AFFINE), scan)
    after = build_cohort(listing, tmp_path / "b", SETTINGS)
    assert after.statistics == before.statistics
    scan = listing.subjects[0].scans["T1w"]
    nib.save(nib.Nifti1Image(nib.load(scan).get_fdata() ** 2, AFFINE), scan)
    changed = build_cohort(listing, tmp_path / "c", SETTINGS)
    assert changed.statistics["T1w"] != before.statistics["T1w"]
    assert changed.fingerprint != before.fingerprint


def test_a_finished_cohort_is_left_alone(listing, tmp_path):
    first = build_cohort(listing, tmp_path / "out", SETTINGS)
    written = times(tmp_path / "out")
    again = build_cohort(listing, tmp_path / "out", SETTINGS)
    assert times(tmp_path / "out") == written
    assert again.fingerprint == first.fingerprint


def test_an_interrupted_build_goes_on(listing, tmp_path):
    class PowerCutError(Exception):
        pass

    def cut(event):
        assert not (tmp_path / "out" / "cohort.json").exists()
        if event.done == 3:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        build_cohort(listing, tmp_path / "out", SETTINGS, report=cut)
    assert not (tmp_path / "out" / "cohort.json").exists()
    with pytest.raises(InputError, match="no finished"):
        Cohort.open(tmp_path / "out")
    written = times(tmp_path / "out")
    seen = []
    cohort = build_cohort(listing, tmp_path / "out", SETTINGS, report=seen.append)
    assert (seen[-1].done, seen[-1].total) == (11, 11)
    scans = {path: time for path, time in written.items() if not path.name.startswith(("mask_", "SHA256SUMS"))}
    assert len(scans) == 6
    assert scans.items() <= times(tmp_path / "out").items()
    assert cohort.fingerprint == build_cohort(listing, tmp_path / "whole", SETTINGS).fingerprint


def test_a_changed_source_is_prepared_anew(listing, tmp_path):
    build_cohort(listing, tmp_path / "out", SETTINGS)
    before = times(tmp_path / "out")
    write_scan(listing.subjects[1].scans["T1w"], 99, "T1w")
    cohort = build_cohort(listing, tmp_path / "out", SETTINGS)
    changed = {path.parent.name for path, time in times(tmp_path / "out").items() if before[path] != time}
    assert changed == {"s1"}
    np.testing.assert_array_equal(
        cohort.read("s1", "T1w"), build_cohort(listing, tmp_path / "fresh", SETTINGS).read("s1", "T1w")
    )


def test_other_settings_need_overwrite_and_foreign_folders_are_never_touched(listing, tmp_path):
    build_cohort(listing, tmp_path / "out", SETTINGS)
    other = Preparation(size=(12, 12, None))
    with pytest.raises(InputError, match="other settings"):
        build_cohort(listing, tmp_path / "out", other)
    assert build_cohort(listing, tmp_path / "out", other, overwrite=True).shape("s0", "T1w") == (12, 12, 10)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not empty"):
        build_cohort(listing, tmp_path / "mine", SETTINGS, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_bad_scans_are_all_named_or_left_out(listing, tmp_path, caplog):
    broken = listing.subjects[1].scans["T2w"]
    broken.write_bytes(broken.read_bytes()[:200])
    holes = listing.subjects[4].scans["T1w"]
    array = nib.load(holes).get_fdata()
    array[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(array, AFFINE), holes)
    listing.subjects[3].masks["seg"].unlink()
    with pytest.raises(InputError, match="3 bad files") as error:
        build_cohort(listing, tmp_path / "out", SETTINGS)
    assert all(name in str(error.value) for name in ("s1_T2w", "s4_T1w", "s3_seg"))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "cohort.json").exists()
    cohort = build_cohort(listing, tmp_path / "out", SETTINGS, skip_bad=True)
    assert cohort.available("s1") == ("T1w",)
    assert cohort.available("s4") == ("T2w",)
    assert cohort.masks("s3") == ()
    assert sum("left out" in record.message for record in caplog.records) == 3


def test_unregistered_scans_get_their_own_grids(listing, tmp_path):
    moved = AFFINE.copy()
    moved[0, 3] = 4
    write_scan(listing.subjects[1].scans["T2w"], 1, "T2w", moved, (20, 12, 6 + 3))
    cohort = build_cohort(listing, tmp_path / "out", SETTINGS)
    assert not cohort.registered("s1")
    assert cohort.registered("s0")
    assert cohort.shape("s1", "T1w")[2] == 10
    assert cohort.shape("s1", "T2w")[2] == 9
    assert "different grids" in dry_run(listing, SETTINGS).text


def test_contrasts_that_nobody_has_or_trains_on(listing, tmp_path):
    with pytest.raises(InputError, match="FLAIR"):
        build_cohort(listing, tmp_path / "out", SETTINGS, contrasts=["T1w", "FLAIR"])
    test_only = Listing("table", listing.root, listing.subjects[2:3] + listing.subjects[5:], listing.contrasts)
    with pytest.raises(InputError, match="no training subject has T2w"):
        build_cohort(test_only, tmp_path / "out", SETTINGS)
    assert build_cohort(test_only, tmp_path / "one", SETTINGS, contrasts=["T1w"]).contrasts == ("T1w",)


def test_dry_run_reads_headers_and_writes_nothing(listing, tmp_path):
    listing.subjects[0].scans["T1w"].write_bytes(b"")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4, 2), np.float32), AFFINE), listing.subjects[1].scans["T1w"])
    before = sorted(tmp_path.rglob("*"))
    report = dry_run(listing, Preparation((2, None, None), (16, 16, None)))
    assert sorted(tmp_path.rglob("*")) == before
    assert "14×12×10 at 1×1×1 mm, stored LAS, becomes 16×16×10 at 2×1×1 mm: 4 T1w, 5 T2w" in report.text
    assert len(report.problems) == 2
    assert "4×4×4×2" in report.problems[1]


@pytest.mark.parametrize("keep", [0, 10, 900, 2000])
def test_a_damaged_file_is_named_and_can_be_prepared_again(listing, tmp_path, keep):
    cohort = build_cohort(listing, tmp_path / "out", SETTINGS)
    whole = cohort.read("s1", "T1w")
    path = tmp_path / "out" / "scans" / "s1" / "T1w.b2nd"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"T1w\.b2nd: missing or damaged"):
        cohort.read("s1", "T1w", 5)
    path.unlink()
    with pytest.raises(InputError, match=r"T1w\.b2nd: missing or damaged"):
        cohort.read("s1", "T1w")
    again = build_cohort(listing, tmp_path / "out", SETTINGS)
    np.testing.assert_array_equal(again.read("s1", "T1w"), whole)


def test_of_two_commands_at_once_one_prepares_a_cohort(phantoms, tmp_path, monkeypatch):
    """Also where the other one has made nothing but its lock yet; and the same command may take it twice."""
    monkeypatch.setattr(files, "PATIENCE", 0.2)
    out = tmp_path / "cohort"
    out.mkdir()
    other = FileLock(out / files.LOCK)  # another open file is another command's to the system
    with other, pytest.raises(InputError, match="another command writes into it"):
        build_cohort(phantoms, out, Preparation(size=(32, 32, None)))
    assert [path.name for path in out.iterdir()] == [files.LOCK]
    with files.only_one(out):
        cohort = build_cohort(phantoms, out, Preparation(size=(32, 32, None)))
    assert len(cohort.subjects()) == 6
