"""Formats beside NIfTI: the same array and affine come back from each, and what is wrong with a file is said."""

import builtins
import gzip
import itertools
import re

import nibabel as nib
import numpy as np
import pytest

from scansynth.data.readers import ending_of, read_labels
from scansynth.data.volume import Volume, same_grid
from scansynth.errors import InputError
from scansynth.synthesis.run import _name_of

itk = pytest.importorskip("SimpleITK")

SHAPE = (4, 5, 6)
LPS = np.array([-1.0, -1.0, 1.0])
TURNED = [
    *((permutation, flips) for permutation in itertools.permutations(range(3)) for flips in ((1, 1, 1), (-1, -1, 1))),
    ((2, 0, 1), (-1, 1, -1)),
    ((1, 2, 0), (-1, -1, -1)),
]
NAMES = ["scan.mgz", "scan.mgh", "scan.mgh.gz", "scan.mha", "scan.mhd", "scan.nrrd", "scan.nhdr", "SCAN.MHA"]


def intensities(shape=SHAPE):
    return np.random.default_rng(0).normal(100, 30, shape).astype(np.float32)


def affine_of(permutation=(0, 1, 2), flips=(1, 1, 1), *, oblique=True):
    """RAS+ affine of a file whose axes are permuted and flipped, turned by 10 and 7 degrees where oblique."""
    a, b = np.radians([10.0, 7.0]) * oblique
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.eye(3)[:, permutation] @ np.diag(np.array(flips) * (0.9, 1.1, 3.0))
    affine[:3, 3] = (-80.5, -110.25, 31.0)
    return affine


def write(path, array=None, affine=None, *, compressed=False):
    """A file as the format's own library writes it, from an array and its RAS+ affine."""
    array = intensities() if array is None else array
    affine = affine_of() if affine is None else affine
    if ".mg" in path.name:
        data = nib.MGHImage(array, affine).to_bytes()
        path.write_bytes(gzip.compress(data) if path.name.endswith("z") else data)
        return path
    image = itk.GetImageFromArray(array.T, isVector=False)
    columns = LPS[:, None] * affine[:3, :3]
    spacing = np.linalg.norm(columns, axis=0)
    if array.ndim == 3:
        image.SetSpacing(spacing.tolist())
        image.SetDirection((columns / spacing).ravel().tolist())
        image.SetOrigin((LPS * affine[:3, 3]).tolist())
    itk.WriteImage(image, str(path.with_name(path.name.lower())), compressed)
    return path.with_name(path.name.lower()).rename(path)


def as_nifti(folder, array=None, affine=None):
    nib.Nifti1Image(intensities() if array is None else array, affine_of() if affine is None else affine).to_filename(
        folder / "same.nii.gz"
    )
    return folder / "same.nii.gz"


def edited(path, old, new):
    """The file with the first line of its header that starts so in other words."""
    path.write_bytes(re.sub(rb"(?m)^" + old + rb"[^\n]*\n", new, path.read_bytes(), count=1))
    return path


def refused(path, reason, read=Volume.read):
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert reason in message
    assert str(path) in message
    assert "\n" not in message
    assert ": " in message  # what is wrong: the cure


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("permutation", "flips"), TURNED)
@pytest.mark.parametrize("oblique", [True, False])
def test_a_file_reads_as_the_nifti_of_its_array_and_affine(tmp_path, name, permutation, flips, oblique):
    affine = affine_of(permutation, flips, oblique=oblique)
    same = Volume.read(as_nifti(tmp_path, affine=affine))
    volume = Volume.read(write(tmp_path / name, affine=affine))
    np.testing.assert_array_equal(volume.array, same.array)
    assert volume.array.dtype == np.float32
    assert volume.array.flags.c_contiguous
    np.testing.assert_allclose(volume.affine, same.affine, atol=1e-5)
    np.testing.assert_array_equal(volume.native_orientation, same.native_orientation)
    np.testing.assert_allclose(volume.native_affine, affine, atol=1e-5)
    assert volume.path == tmp_path / name

    volume.write_array(tmp_path / "out.nii.gz", volume.array, "x")
    written = nib.load(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(written.get_fdata(dtype=np.float32), intensities())
    np.testing.assert_allclose(written.affine, affine, atol=2e-5)
    np.testing.assert_allclose(written.header.get_qform(), affine, atol=1e-3)
    assert (int(written.header["sform_code"]), int(written.header["qform_code"])) == (1, 1)
    assert written.header.get_xyzt_units()[0] == "mm"
    assert same_grid(Volume.read(tmp_path / "out.nii.gz").space, same.space)


@pytest.mark.parametrize("name", ["scan.mha", "scan.nrrd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float64])
def test_other_numbers_and_compressed_voxels_are_read_as_they_are(tmp_path, name, dtype):
    array = np.rint(intensities()).clip(0).astype(dtype)
    volume = Volume.read(write(tmp_path / name, array, np.eye(4), compressed=True))
    np.testing.assert_array_equal(volume.array, array)


@pytest.mark.parametrize("space", ["right-anterior-superior", "RAS", "left-anterior-superior", "LAS"])
def test_nrrd_in_other_spaces(tmp_path, space):
    path = write(tmp_path / "scan.nrrd")
    lps = Volume.read(path)
    edited(path, rb"space:", f"space: {space}\n".encode())
    signs = LPS if space[0].lower() == "r" else np.array([1.0, -1, 1])  # how the three axes turn from LPS
    expected = Volume.read(as_nifti(tmp_path, affine=np.diag([*signs, 1]) @ lps.native_affine))
    volume = Volume.read(path)
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-5)
    np.testing.assert_array_equal(volume.array, expected.array)


@pytest.mark.parametrize("name", ["scan.mha", "scan.nrrd"])
def test_trailing_singletons_are_dropped(tmp_path, name):
    volume = Volume.read(write(tmp_path / name, intensities((*SHAPE, 1))))
    assert volume.array.shape == SHAPE


def with_values(value, count):
    array = intensities()
    array.ravel()[:count] = value
    return array


UNFIT = {
    "4d": (intensities((*SHAPE, 3)), "is 4D (4×5×6×3)"),
    "constant": (np.full(SHAPE, 7, np.uint8), "is constant (every voxel is 7)"),
    "nan": (with_values(np.nan, 3), "holds 3 NaN or infinite voxels of 120"),
    "inf": (with_values(-np.inf, 1), "holds 1 NaN or infinite voxels of 120"),
}


@pytest.mark.parametrize("name", ["scan.mgz", "scan.mha", "scan.nrrd"])
@pytest.mark.parametrize("kind", UNFIT)
def test_unfit_images_are_refused_in_the_words_of_nifti(tmp_path, name, kind):
    array, reason = UNFIT[kind]
    refused(write(tmp_path / name, array), reason)


def test_voxels_beyond_float32_two_axes_and_several_values_are_refused(tmp_path):
    for name in ("scan.mha", "scan.nrrd"):
        refused(write(tmp_path / name, intensities().astype(np.float64) * 1e200), "holds 120 NaN or infinite")
        refused(write(tmp_path / name, intensities((4, 5))), "is 2D (4×5)")
        itk.WriteImage(itk.GetImageFromArray(np.ones((6, 5, 4, 3), np.uint8), isVector=True), str(tmp_path / name))
        refused(tmp_path / name, "holds 3 values a voxel")


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("name", ["scan.mgz", "scan.mgh", "scan.mha", "scan.nrrd"])
def test_truncated_and_empty_files_are_refused(tmp_path, name, compressed):
    path = write(tmp_path / name, intensities((16, 16, 16)), compressed=compressed)
    content = path.read_bytes()
    for kept in (0, len(content) // 20 + 400, len(content) // 2, len(content) - 24):  # an .mgh has 20 bytes at its end
        path.write_bytes(content[:kept])
        refused(path, "is truncated or corrupt")


@pytest.mark.parametrize("name", ["scan.mgz", "scan.mha", "scan.mhd", "scan.nrrd"])
def test_compressed_voxels_that_were_damaged_are_refused(tmp_path, name):
    """MetaIO prints a line and gives what it has."""
    path = write(tmp_path / name, intensities((16, 16, 16)), compressed=True)
    voxels = tmp_path / "scan.zraw" if name == "scan.mhd" else path
    content = bytearray(voxels.read_bytes())
    content[len(content) // 2] ^= 1
    voxels.write_bytes(content)
    refused(path, "is truncated or corrupt")


def test_voxels_in_another_file_must_be_there(tmp_path):
    path = write(tmp_path / "scan.mhd")
    (tmp_path / "scan.raw").unlink()
    refused(path, "is truncated or corrupt")
    refused(edited(path, rb"ElementDataFile", b"ElementDataFile = slice%02d.raw 1 6 1\n"), "in several files")


EDITS = {
    "no voxel size": ("scan.mha", rb"ElementSpacing", b"", "states no voxel size"),
    "no voxel size in NRRD": ("scan.nrrd", rb"space directions", b"", "states no voxel size"),
    "voxel size of 0": ("scan.mha", rb"ElementSpacing", b"ElementSpacing = 1 0 1\n", "states 0 as elementspacing"),
    "negative": ("scan.mha", rb"ElementSpacing", b"ElementSpacing = 1 -1 1\n", "states -1 as elementspacing"),
    "nowhere": ("scan.mha", rb"Offset", b"Offset = nan 0 0\n", "states nan as offset"),
    "cm": ("scan.mha", rb"CenterOf", b"DistanceUnits = cm\n", "states its voxel size in cm"),
    "um": ("scan.nrrd", rb"kinds", b'space units: "um" "um" "um"\n', "states its voxel size in um"),
    "flat": ("scan.mha", rb"TransformMatrix", b"TransformMatrix = 1 0 0 1 0 0 0 0 1\n", "spans no volume"),
    "space": ("scan.nrrd", rb"space:", b"space: scanner-xyz\n", "in the space scanner-xyz"),
    "scaled": ("scan.mha", rb"CenterOf", b"ElementToIntensityFunctionSlope = 2\n", "scales its voxels"),
    "no axis": ("scan.mha", rb"DimSize", b"DimSize = 4 0 6\n", "has an empty axis (4×0×6)"),
    "no header": ("scan.nrrd", rb"type", b"type: nonsense\n", "a header that cannot be right"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_headers_that_itk_would_take_without_a_word_are_refused(tmp_path, edit):
    name, old, new, reason = EDITS[edit]
    refused(edited(write(tmp_path / name), old, new), reason)


def test_mgh_headers_that_cannot_be_right_are_refused(tmp_path):
    path = write(tmp_path / "scan.mgh")
    content = path.read_bytes()
    for place, new, reason in ((30, bytes(4), "spans no volume"), (20, b"\0\0\0\x63", "cannot be right")):
        path.write_bytes(content[:place] + new + content[place + len(new) :])
        refused(path, reason)


@pytest.mark.parametrize(("name", "old", "axes"), [
    ("scan.mha", rb"TransformMatrix", "LPS"), ("scan.nrrd", None, "LPS"), ("scan.mgh", None, "LSP"),
])  # fmt: skip
def test_a_file_without_orientation_is_read_with_a_warning(tmp_path, caplog, name, old, axes):
    path = write(tmp_path / name, affine=affine_of(oblique=False))
    if name == "scan.nrrd":
        edited(edited(edited(path, rb"space:", b""), rb"space dir", b"spacings: 0.9 1.1 3\n"), rb"space origin", b"")
    elif old:
        edited(path, old, b"")
    else:
        content = path.read_bytes()
        path.write_bytes(content[:28] + bytes(2) + content[30:])
    Volume.read(path)
    assert "states no orientation" in caplog.text
    assert axes in caplog.text


def test_a_sheared_grid_is_written_by_its_sform_alone(tmp_path):
    path = write(tmp_path / "scan.nrrd")
    edited(path, rb"space directions", b"space directions: (1,0,0) (0.5,1,0) (0,0,2)\n")
    volume = Volume.read(path)
    volume.write_array(tmp_path / "out.nii", volume.array, "x")
    written = nib.load(tmp_path / "out.nii")
    np.testing.assert_allclose(written.affine, volume.native_affine, atol=1e-5)
    assert int(written.header["qform_code"]) == 0


@pytest.mark.parametrize("name", ["scan.mha", "scan.nrrd", "scan.mgz"])
def test_a_name_that_lies_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(as_nifti(tmp_path).read_bytes())
    refused(path, "whatever its name" if name != "scan.mha" else "states no voxel size")
    refused(tmp_path / f"none-{name}", "does not exist")
    (tmp_path / f"folder-{name}").mkdir()
    refused(tmp_path / f"folder-{name}", "is a folder")


def test_without_simpleitk_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    path, free = write(tmp_path / "scan.nrrd"), write(tmp_path / "scan.mgz")
    whole = builtins.__import__

    def without(name, *rest):
        if name == "SimpleITK":
            raise ImportError(name)
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    refused(path, "pip install 'scansynth[itk]'")
    Volume.read(free)


@pytest.mark.parametrize("name", ["labels.mgz", "labels.mha", "labels.nrrd"])
def test_labels_are_read_from_each(tmp_path, name):
    array = np.random.default_rng(1).integers(0, 4, SHAPE).astype(np.uint8)
    affine = affine_of((2, 0, 1), (-1, 1, -1))
    expected, place = read_labels(as_nifti(tmp_path, array, affine))
    labels, found = read_labels(write(tmp_path / name, array, affine))
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_allclose(found, place, atol=1e-5)
    assert labels.dtype == np.uint8
    refused(write(tmp_path / name, intensities()), "is no label image", read_labels)


@pytest.mark.parametrize("name", ["s.nii", "s.nii.gz", "s.mgz", "s.mgh.gz", "s.NRRD"])
def test_noise_is_keyed_by_the_name_without_ending(tmp_path, name):
    assert _name_of(tmp_path / name) == "s"


@pytest.mark.parametrize(("name", "ending"), [
    ("x.nii.gz", ".nii.gz"), ("x.NII", ".NII"), ("a.b.mgz", ".mgz"), ("x.mgh.gz", ".mgh.gz"), ("x.nrrd", ".nrrd"),
    ("x.hdr", ""), ("x", ""), (".nii.gz", ""), ("x.mha.gz", ""),
])  # fmt: skip
def test_endings(name, ending):
    assert ending_of(name) == ending
