"""What is stored of a test subject, and how it is read on the crop of some of its scans."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from blobs import ACCEPTED, K, as_older, blank, scans_of, sets_of, write_blobs
from scansynth.data.build_cohort import _fingerprint, build_cohort
from scansynth.data.build_tissue import TissueSettings
from scansynth.data.crops import Crop
from scansynth.data.intensity import NORMALISATIONS
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation, grid_for, labels_on, to_grid
from scansynth.data.tissue import segment
from scansynth.data.volume import Volume
from scansynth.errors import InputError

SIZES = [(16, 16, 12), (8, 9, 7), (32, None, 12), (None, None, None)]


@pytest.fixture
def blobs(tmp_path):
    return write_blobs(tmp_path)


def image_of(cohort, volume, contrast, grid):
    """A scan on a prepared grid, in [0, 1], as `prepare.prepare` gives it."""
    normalisation = NORMALISATIONS[cohort.settings.intensity]
    array = to_grid(volume.array, grid, volume.background(contrast))
    return cohort.statistics[contrast].to_image(normalisation.apply_own(array, normalisation.own(volume, contrast)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("intensity", ["robust", "percentile"])
def test_the_crop_of_each_set_is_that_of_its_scans_alone(blobs, tmp_path, size, intensity):
    settings = Preparation(size=size, intensity=intensity)
    cohort = build_cohort(blobs, tmp_path / "out", settings, accept=ACCEPTED)
    volumes = {name: Volume.read(path) for name, path in scans_of(blobs, "test").items()}
    shifts = set()
    for some in sets_of(K):
        grid = grid_for({name: volumes[name] for name in some}, settings)
        crop = cohort.crop("test", some)
        shifts.add(crop.shift)
        mask = labels_on(blobs.subjects[2].masks["seg"], [(volumes["T1w"].space, grid)])
        np.testing.assert_array_equal(cohort.read_mask("test", "seg", crop=crop), mask)
        for name, volume in volumes.items():
            whole = cohort.read("test", name, crop=crop)
            assert whole.shape == cohort.shape("test", name) == grid.shape
            np.testing.assert_array_equal(whole, image_of(cohort, volume, name, grid))
            np.testing.assert_array_equal(cohort.read("test", name, 3, crop=crop), whole[..., 3])
            np.testing.assert_array_equal(cohort.read("test", name, slice(2, 6), crop=crop), whole[..., 2:6])
            np.testing.assert_allclose(cohort.affine("test", name, crop=crop), grid.affine, atol=1e-12)
    assert len(shifts) == (1 if size == (None, None, None) else 7)


@pytest.mark.parametrize("spacing", [(None, None, None), (1.5, None, 1.2)])
@pytest.mark.parametrize("size", SIZES)
def test_what_is_read_without_a_crop_is_what_it_was(blobs, tmp_path, size, spacing):
    settings = Preparation(spacing=spacing, size=size)
    cohort = build_cohort(blobs, tmp_path / "out", settings, accept=ACCEPTED)
    for subject in blobs.subjects:
        volumes = {name: Volume.read(path) for name, path in subject.scans.items()}
        grid = grid_for(volumes, settings)
        mask = labels_on(subject.masks["seg"], [(volumes["T1w"].space, grid)])
        np.testing.assert_array_equal(cohort.read_mask(subject.name, "seg"), mask)
        for name, volume in volumes.items():
            whole = image_of(cohort, volume, name, grid)
            np.testing.assert_array_equal(cohort.read(subject.name, name), whole)
            np.testing.assert_array_equal(cohort.read(subject.name, name, -1), whole[..., -1])
            np.testing.assert_array_equal(cohort.read(subject.name, name, slice(1, 5)), whole[..., 1:5])
            np.testing.assert_array_equal(cohort.affine(subject.name, name), grid.affine)
            assert cohort.shape(subject.name, name) == grid.shape


def test_where_voxels_are_resampled_a_crop_lies_within_half_a_voxel(blobs, tmp_path):
    settings = Preparation(spacing=(1.5, None, 1.2), size=(12, 12, 14))
    cohort = build_cohort(blobs, tmp_path / "out", settings, accept=ACCEPTED)
    volumes = {name: Volume.read(path) for name, path in scans_of(blobs, "test").items()}
    for some in sets_of(K):
        grid = grid_for({name: volumes[name] for name in some}, settings)
        crop = cohort.crop("test", some)
        away = np.linalg.inv(grid.affine) @ cohort.affine("test", "T1w", crop=crop)
        np.testing.assert_allclose(away[:3, :3], np.eye(3), atol=1e-9)
        assert np.abs(away[:3, 3]).max() <= 0.5 + 1e-9
        assert away[1, 3] == pytest.approx(0, abs=1e-9)  # not resampled along this axis
        near = replace(grid, start=tuple(np.add(grid.start, np.multiply(grid.step, away[:3, 3]))))
        expected = image_of(cohort, volumes["FLAIR"], "FLAIR", near)
        np.testing.assert_allclose(cohort.read("test", "FLAIR", crop=crop), expected, atol=1e-4)


def test_only_test_subjects_have_crops_and_the_fingerprint_knows_none(blobs, tmp_path):
    cohort = build_cohort(blobs, tmp_path / "out", Preparation(size=(16, 16, 12)), accept=ACCEPTED)
    assert cohort.crop("test", K) == Crop((0, 0, 0))
    assert [cohort.crop(name, ["T1w"]) for name in ("train", "val")] == [None, None]
    index = json.loads((tmp_path / "out" / "cohort.json").read_text())
    for subject in index["subjects"].values():
        for scan in subject["scans"].values():
            scan.pop("extent", None)
    assert _fingerprint(index) == cohort.fingerprint


def test_scans_on_different_grids_have_no_crop(blobs, tmp_path, caplog):
    path = blobs.subjects[2].scans["T2w"]
    image = nib.load(path)
    nib.save(image.slicer[:, 2:], path)
    cohort = build_cohort(blobs, tmp_path / "out", Preparation(size=(16, 16, 12)), accept=ACCEPTED)
    assert not cohort.registered("test")
    assert cohort.crop("test", ["T1w"]) is None
    assert "older version" not in caplog.text


def test_preparing_again_brings_the_crops_to_an_older_cohort(blobs, tmp_path):
    folder, settings = tmp_path / "out", Preparation(size=(16, 16, 12))
    current = build_cohort(blobs, folder, settings, accept=ACCEPTED)
    crops = {some: current.crop("test", some) for some in sets_of(K)}
    reads = {some: current.read("test", "T2w", crop=crop) for some, crop in crops.items()}
    older = as_older(current)
    assert older.fingerprint == current.fingerprint
    assert older.crop("test", ["T1w"]) is None
    np.testing.assert_array_equal(older.read("test", "T2w"), reads[K])
    before = {path: path.stat().st_mtime_ns for path in folder.glob("scans/*/*.*")}
    again = build_cohort(blobs, folder, settings, accept=ACCEPTED)
    after = {path: path.stat().st_mtime_ns for path in folder.glob("scans/*/*.*")}
    assert {path.parent.name for path, time in after.items() if before[path] != time} == {"test"}
    assert again.fingerprint == current.fingerprint
    for some, crop in crops.items():
        assert again.crop("test", some) == crop
        np.testing.assert_array_equal(again.read("test", "T2w", crop=crop), reads[some])
    build_cohort(blobs, folder, settings, accept=ACCEPTED)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("scans/*/*.*")} == after


@pytest.fixture(scope="module")
def brains(tmp_path_factory):
    """Two phantoms with T1w, FLAIR and a tumour; the T1w of the second, which tests, ends early in front."""
    folder = tmp_path_factory.mktemp("brains")
    write_phantom_cohort(folder, 2, ("T1w", "FLAIR"), shape=(40, 48, 40), spacing=4.0, tumour_share=1.0)
    found = find_subjects(folder)
    blank(found.subjects[1].scans["T1w"], 1, 7)
    subjects = [replace(one, split=split) for one, split in zip(found.subjects, ("train", "test"), strict=True)]
    return replace(found, subjects=tuple(subjects))


@pytest.mark.parametrize(("size", "own"), [((40, 48, None), 0), ((32, 30, None), 1)])
def test_tissue_is_that_of_the_cropped_scan(brains, tmp_path, size, own):
    """Where a crop cuts off nothing the densities are moved, else the cropped scan is segmented by itself."""
    pytest.importorskip("dipy")
    settings, subject = Preparation(size=size), brains.subjects[1].name
    given = {"accept": ACCEPTED, "tissue": TissueSettings()}
    cohort = build_cohort(brains, tmp_path / "out", settings, **given)
    crop = cohort.crop(subject, ["T1w"])
    assert any(crop.shift)
    for at in (None, crop):
        expected = segment(cohort.read(subject, "T1w", crop=at), "T1w", (4.0, 4.0, 4.0))
        whole = cohort.read_tissue(subject, "T1w", crop=at)
        np.testing.assert_allclose(whole, expected, atol=1 / 255 + 1e-3)
        np.testing.assert_array_equal(cohort.read_tissue(subject, "T1w", 9, crop=at), whole[..., 9])
        np.testing.assert_array_equal(cohort.read_tissue(subject, "T1w", slice(3, 9), crop=at), whole[..., 3:9])
    folder = tmp_path / "out" / "scans" / subject
    files = {path: path.stat().st_mtime_ns for path in folder.glob("tissue_*")}
    assert len([path for path in files if path.name.count("_") > 1]) == own
    build_cohort(brains, tmp_path / "out", settings, **given)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("tissue_*")} == files
    for path in files:
        path.unlink()
        with pytest.raises(InputError, match="missing or damaged"):
            [cohort.read_tissue(subject, name, crop=cohort.crop(subject, [name])) for name in ("T1w", "FLAIR")]
        build_cohort(brains, tmp_path / "out", settings, **given)
        assert path.is_file()
