"""A scan is the same however it is given; two images are measured as a protocol says, wherever they come from."""

import nibabel
import numpy as np
import pytest

import scansynth
from scansynth.data.sources import as_labels, as_volume
from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.metrics import measure as measure_arrays

SHAPE = (24, 20, 16)
OBLIQUE = np.array([[0, -2.0, 0.2, 5], [1.5, 0, 0, -7], [0, 0.2, 2.0, 3], [0, 0, 0, 1]])  # stored A, L, S


@pytest.fixture(scope="module")
def array():
    rng = np.random.default_rng(1)
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE), indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.7
    return np.where(inside, rng.uniform(200, 900, SHAPE), 0.0).astype(np.float32)


@pytest.fixture(scope="module")
def file(array, tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nibabel.save(nibabel.Nifti1Image(array, OBLIQUE), path)
    return path


def ways(file, array):
    """The scan in each form."""
    return {
        "text": str(file),
        "path": file,
        "volume": Volume.read(file),
        "opened": nibabel.load(file),
        "image": nibabel.Nifti1Image(array, OBLIQUE),
        "NIfTI-2": nibabel.Nifti2Image(array, OBLIQUE),
        "MGH": nibabel.MGHImage(array, OBLIQUE.astype(np.float32)),
        "array": (array, OBLIQUE),
        "whole numbers": (array.astype(np.float64), OBLIQUE.tolist()),
    }


def test_a_scan_is_the_same_however_it_is_given(file, array, tmp_path):
    expected = Volume.read(file)
    for way, source in ways(file, array).items():
        found = as_volume(source, "T1w")
        np.testing.assert_array_equal(found.array, expected.array, err_msg=way)
        np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5, err_msg=way)
        found.write_array(tmp_path / "back.nii", found.array, "SYNTHETIC")
        back = nibabel.load(tmp_path / "back.nii")
        np.testing.assert_array_equal(np.asarray(back.dataobj), array, err_msg=way)
        np.testing.assert_allclose(back.affine, OBLIQUE, atol=1e-5, err_msg=way)


def test_what_is_in_memory_has_a_name_of_its_voxels_and_their_place(file, array):
    names = {way: as_volume(source).name for way, source in ways(file, array).items()}
    assert {names[way] for way in ("text", "path", "volume", "opened")} == {str(file)}
    assert names["array"] == names["image"] == names["NIfTI-2"]
    assert names["array"].startswith("in memory ")
    moved = OBLIQUE @ np.diag([1, 1, 1.1, 1])
    assert len({names["array"], as_volume((array, moved)).name, as_volume((array + 1, OBLIQUE)).name}) == 3


@pytest.mark.parametrize(("source", "message"), [
    (np.ones(SHAPE), "T1w .in memory. is an array alone"),
    (3, "of type int: give a path"),
    ((np.ones(SHAPE), np.eye(3)), r"affine of shape \(3, 3\)"),
    ((np.ones(SHAPE), np.zeros((4, 4))), "spans no volume"),
    ((np.ones(SHAPE), np.eye(4)), "T1w .in memory. is constant"),
    ((np.arange(6.0).reshape(2, 3), np.eye(4)), "is 2D"),
    ((np.full(SHAPE, np.nan), np.eye(4)), "NaN"),
    ((np.ones(SHAPE, complex), np.eye(4)), "complex128, not intensities"),
    ("nowhere.nii", "does not exist"),
])  # fmt: skip
def test_what_is_no_scan_is_refused_by_its_name(source, message):
    with pytest.raises(InputError, match=message):
        as_volume(source, "T1w")


def test_masks_may_be_empty_and_hold_whole_numbers_only(array):
    mask = np.zeros(SHAPE)
    labels, affine = as_labels((mask, OBLIQUE))
    assert labels.shape == as_volume((array, OBLIQUE)).array.shape
    np.testing.assert_allclose(affine, as_volume((array, OBLIQUE)).affine)
    assert not labels.any()
    with pytest.raises(InputError, match=r"the mask .in memory. is no label image"):
        as_labels((mask + 0.5, OBLIQUE))


def test_two_images_are_measured_on_the_references_scale(file, array, tmp_path):
    made = (array * 1.05 + 3 * (array > 0)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(made, OBLIQUE), tmp_path / "made.nii.gz")
    x, y = (as_volume((image, OBLIQUE)).array.astype(np.float64) / array.max() for image in (made, array))
    expected = measure_arrays("syndiff", x, y)
    for synthesis, reference in (
        (tmp_path / "made.nii.gz", file),
        (Volume.read(tmp_path / "made.nii.gz"), nibabel.load(file)),
        ((made, OBLIQUE), (array, OBLIQUE)),
    ):
        found = scansynth.measure("syndiff", synthesis, reference)
        assert found.protocol == "syndiff"
        for column, figures in expected.figures.items():
            np.testing.assert_allclose(found.figures[column], figures, rtol=1e-6)


def test_arrays_alone_and_prepared_images_are_measured_as_they_stand(array):
    x, y = array / 900 * 0.9, array / 900
    found = scansynth.measure("mrdiff", x, y, prepared=True)
    np.testing.assert_allclose(found.figures["psnr_db"], measure_arrays("mrdiff", x, y).figures["psnr_db"], rtol=1e-5)
    doubled = scansynth.measure("mrdiff", 2 * x, 2 * y)
    np.testing.assert_allclose(doubled.figures["psnr_db"], scansynth.measure("mrdiff", x, y).figures["psnr_db"])


def test_ct_is_measured_in_hounsfield_units(array):
    truth = np.where(array > 0, array - 200, -1000.0)
    found = scansynth.measure("synthrad", (truth + 25, np.eye(4)), (truth, np.eye(4)))
    assert found.mean("mae_hu") == pytest.approx(25, rel=1e-4)
    with pytest.raises(InputError, match="CT is measured by protocol synthrad"):
        scansynth.measure("default", truth, truth)


def test_images_and_masks_on_other_grids_are_refused(file, array):
    shifted = OBLIQUE.copy()
    shifted[0, 3] += 5
    with pytest.raises(InputError, match="lie on different grids"):
        scansynth.measure("default", (array, shifted), file)
    with pytest.raises(InputError, match="mask brain"):
        scansynth.measure("default", file, file, masks={"brain": (array > 0, shifted)})


def test_masks_count(array):
    mask = np.zeros(SHAPE, np.uint8)
    mask[6:18, 6:14, 3:13] = 1
    found = scansynth.measure("default", array + 1, array, masks={"brain": mask})
    assert found.voxels == mask.sum()
