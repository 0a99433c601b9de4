import gzip
import itertools
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Extension

from scansynth.data.readers import read_labels
from scansynth.data.volume import Volume, check_same_grid, same_grid
from scansynth.errors import InputError

SHAPE = (4, 5, 6)
PERMUTATIONS = list(itertools.permutations(range(3)))
FLIPS = list(itertools.product((1, -1), repeat=3))


def oblique_affine(spacing=(0.9, 1.1, 3.0), origin=(-80.5, -110.25, 31.0)) -> np.ndarray:
    """RAS+ affine, turned by 10 and 7 degrees: nearest axes stay right, anterior, superior."""
    a, b = np.radians([10.0, 7.0])
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag(spacing)
    affine[:3, 3] = origin
    return affine


def intensities(shape=SHAPE) -> np.ndarray:
    return np.random.default_rng(0).normal(100, 30, shape).astype(np.float32)


def save(path: Path, array=None, affine=None, image_class=nib.Nifti1Image, header=None) -> Path:
    array = intensities() if array is None else array
    affine = oblique_affine() if affine is None else affine
    image_class(array, affine, header).to_filename(path)
    return path


def reoriented(array, affine, permutation, flips):
    """The same scan with its axes permuted and flipped, and the affine worked out by hand from both."""
    native = array.transpose(permutation)[tuple(slice(None, None, flip) for flip in flips)]
    to_ras = np.zeros((4, 4))
    to_ras[3, 3] = 1
    for native_axis, (ras_axis, flip) in enumerate(zip(permutation, flips, strict=True)):
        to_ras[ras_axis, native_axis] = flip
        to_ras[ras_axis, 3] = 0 if flip == 1 else array.shape[ras_axis] - 1
    return native, affine @ to_ras


@pytest.mark.parametrize("flips", FLIPS, ids=lambda flips: "".join("+" if flip > 0 else "-" for flip in flips))
@pytest.mark.parametrize("permutation", PERMUTATIONS, ids=lambda axes: "".join(map(str, axes)))
def test_every_orientation_reads_as_ras_and_writes_back_exactly(tmp_path, permutation, flips):
    array, affine = intensities(), oblique_affine()
    native, native_affine = reoriented(array, affine, permutation, flips)
    source = save(tmp_path / "source.nii.gz", native, native_affine)

    volume = Volume.read(source)
    np.testing.assert_array_equal(volume.array, array)
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.affine, affine, atol=1e-4)
    np.testing.assert_allclose(volume.spacing, (0.9, 1.1, 3.0), rtol=1e-5)

    volume.write_array(tmp_path / "back.nii.gz", volume.array, "copy")
    before, after = nib.load(source), nib.load(tmp_path / "back.nii.gz")
    np.testing.assert_array_equal(after.get_fdata(dtype=np.float32), native)
    np.testing.assert_array_equal(after.affine, before.affine)
    for entry in ("srow_x", "srow_y", "srow_z", "pixdim", "quatern_b", "quatern_c", "quatern_d", "qoffset_x"):
        np.testing.assert_array_equal(after.header[entry], before.header[entry])


@pytest.mark.parametrize(("sform", "qform"), [(1, 2), (4, 0), (0, 1), (2, 4)])
def test_forms_codes_and_units_are_kept_even_where_the_forms_differ(tmp_path, sform, qform):
    image = nib.Nifti1Image(intensities(), None)
    image.header.set_sform(oblique_affine(), sform)
    image.header.set_qform(oblique_affine(origin=(1, 2, 3)), qform)
    image.header.set_xyzt_units("mm", "sec")
    source = tmp_path / "source.nii"
    source.write_bytes(nib.Nifti1Image(image.dataobj, None, image.header).to_bytes())

    volume = Volume.read(source)
    volume.write_array(tmp_path / "out.nii", volume.array, "x")
    before, after = nib.load(source), nib.load(tmp_path / "out.nii")
    assert (int(after.header["sform_code"]), int(after.header["qform_code"])) == (sform, qform)
    np.testing.assert_array_equal(after.affine, before.affine)
    np.testing.assert_array_equal(after.header.get_sform(), before.header.get_sform())
    np.testing.assert_array_equal(after.header.get_qform(), before.header.get_qform())
    assert after.header.get_xyzt_units() == ("mm", "sec")


def test_a_scan_without_orientation_is_read_with_a_warning(tmp_path, caplog):
    image = nib.Nifti1Image(intensities(), oblique_affine())
    image.header["sform_code"] = image.header["qform_code"] = 0
    (tmp_path / "none.nii").write_bytes(nib.Nifti1Image(image.dataobj, None, image.header).to_bytes())
    volume = Volume.read(tmp_path / "none.nii")
    assert "states no orientation" in caplog.text
    assert "LAS" in caplog.text
    volume.write_array(tmp_path / "out.nii", volume.array, "x")
    np.testing.assert_array_equal(nib.load(tmp_path / "out.nii").affine, nib.load(tmp_path / "none.nii").affine)
    assert int(nib.load(tmp_path / "out.nii").header["qform_code"]) == 0


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
def test_nifti_1_and_2_compressed_or_not(tmp_path, image_class, name):
    source = save(tmp_path / name, image_class=image_class)
    volume = Volume.read(str(source))
    np.testing.assert_array_equal(volume.array, intensities())
    assert volume.path == source
    out = tmp_path / "new" / name
    volume.write_array(out, volume.array + 1, "x")
    assert type(nib.load(out)) is image_class
    assert out.read_bytes().startswith(b"\x1f\x8b") == name.endswith(".gz")
    np.testing.assert_array_equal(Volume.read(out).array, intensities() + 1)


def test_scaled_big_endian_integers_are_read_in_their_units_and_written_unscaled(tmp_path):
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    image = nib.Nifti1Image(np.arange(120, dtype=np.int16).reshape(SHAPE), oblique_affine(), header)
    image.header.set_slope_inter(0.5, -1000)
    stored = bytearray(image.to_bytes())
    expected = np.frombuffer(stored, ">i2", offset=352).reshape(SHAPE, order="F") * 0.5 - 1000
    (tmp_path / "ct.nii").write_bytes(stored)
    volume = Volume.read(tmp_path / "ct.nii")
    np.testing.assert_array_equal(volume.array, expected)
    volume.write_array(tmp_path / "out.nii.gz", volume.array, "x")
    np.testing.assert_array_equal(nib.load(tmp_path / "out.nii.gz").get_fdata(), expected)


def test_trailing_singletons_are_dropped_and_a_single_slice_stays_3d(tmp_path):
    volume = Volume.read(save(tmp_path / "4d.nii.gz", intensities((4, 5, 1, 1, 1))))
    assert volume.array.shape == (4, 5, 1)
    volume.write_array(tmp_path / "out.nii.gz", volume.array, "x")
    assert nib.load(tmp_path / "out.nii.gz").shape == (4, 5, 1)


def with_values(value, count):
    array = intensities()
    array.ravel()[:count] = value
    return array


UNFIT = {
    "2d": (intensities((4, 5)), "is 2D (4×5)"),
    "4d": (intensities((4, 5, 6, 3)), "is 4D (4×5×6×3)"),
    "empty": (np.zeros((4, 0, 6), np.float32), "has an empty axis (4×0×6)"),
    "constant": (np.full(SHAPE, 7, np.uint8), "is constant (every voxel is 7)"),
    "nan": (with_values(np.nan, 3), "holds 3 NaN or infinite voxels of 120"),
    "inf": (with_values(-np.inf, 1), "holds 1 NaN or infinite voxels of 120"),
    "beyond float32": (with_values(0, 0).astype(np.float64) * 1e200, "holds 120 NaN or infinite voxels"),
    "complex": (intensities().astype(np.complex64), "complex64, not intensities"),
    "colours": (np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])), "holds colours"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_unfit_images_are_refused_by_name_and_reason(tmp_path, kind):
    array, reason = UNFIT[kind]
    path = save(tmp_path / "scan.nii.gz", array)
    assert_refused(path, reason)


def assert_refused(path: Path, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        Volume.read(path)
    message = str(caught.value)
    assert reason in message
    assert str(path) in message
    assert "\n" not in message
    assert ": " in message  # what is wrong: the cure


def test_missing_folder_and_foreign_files_are_refused(tmp_path):
    assert_refused(tmp_path / "none.nii.gz", "does not exist")
    assert_refused(tmp_path, "is a folder")
    for name, content in {"a.nii.gz": b"DICM" * 200, "b.nii": b"short", "c.nii.gz": gzip.compress(b"x" * 999)}.items():
        (tmp_path / name).write_bytes(content)
        assert_refused(tmp_path / name, "is not a single NIfTI file")
    nib.Nifti1Pair(intensities(), np.eye(4)).to_filename(tmp_path / "pair.hdr")
    assert_refused(tmp_path / "pair.hdr", "is not a single NIfTI file")


@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.99])
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_truncated_files_are_refused(tmp_path, name, kept):
    path = save(tmp_path / name, intensities((16, 16, 16)))
    content = path.read_bytes()
    path.write_bytes(content[: max(int(len(content) * kept), 400 if kept else 0)])
    assert_refused(path, "is truncated or corrupt: copy it again")


def test_a_flipped_bit_is_noticed(tmp_path):
    path = save(tmp_path / "scan.nii.gz", intensities((16, 16, 16)))
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # the checksum and length of gzip are the last eight bytes
    path.write_bytes(content)
    assert_refused(path, "is truncated or corrupt")


def test_grids_without_volume_or_not_in_mm_are_refused(tmp_path):
    flat = oblique_affine()
    flat[:3, 2] = 0
    image = nib.Nifti1Image(intensities(), np.eye(4))
    image.header.set_sform(flat, 1)
    (tmp_path / "flat.nii").write_bytes(nib.Nifti1Image(image.dataobj, None, image.header).to_bytes())
    assert_refused(tmp_path / "flat.nii", "spans no volume")
    header = nib.Nifti1Header()
    header.set_xyzt_units("micron")
    assert_refused(save(tmp_path / "mouse.nii", header=header), "voxel size in micron")


def test_the_header_describes_the_new_image(tmp_path):
    header = nib.Nifti1Header()
    header["cal_max"], header["aux_file"], header["descrip"] = 900, b"lookup", b"scanner"
    header.set_intent("z score")
    header.extensions.append(Nifti1Extension("comment", b"patient's name"))
    volume = Volume.read(save(tmp_path / "source.nii.gz", header=header))
    out = tmp_path / "out.nii.gz"
    volume.write_array(out, volume.array, "made by a test " + "ä" * 60)
    written = nib.load(out).header
    # 15 and 64 bytes: all 79.
    assert written["descrip"].item().decode() == "made by a test " + "ä" * 32
    volume.write_array(out, volume.array, "made by test: " + "ä" * 60)
    # 14 and 64 bytes: half an ä would still fit and is not written.
    assert nib.load(out).header["descrip"].item().decode() == "made by test: " + "ä" * 32
    assert written.get_data_dtype() == np.float32
    assert written["cal_max"] == 0
    assert written["aux_file"].item() == b""
    assert written.get_intent()[0] == "none"
    assert not written.extensions
    assert volume.header["cal_max"] == 900  # the source's own header is untouched
    assert len(volume.header.extensions) == 1


def test_the_same_array_gives_the_same_bytes(tmp_path):
    volume = Volume.read(save(tmp_path / "source.nii.gz"))
    for name in ("a.nii.gz", "b.nii.gz"):
        volume.write_array(tmp_path / name, volume.array, "x")
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_file_may_be_replaced_by_itself_and_nothing_else_is_left(tmp_path):
    path = save(tmp_path / "scan.nii")
    volume = Volume.read(path)
    volume.write_array(path, volume.array * 2, "x")
    np.testing.assert_array_equal(Volume.read(path).array, intensities() * 2)
    assert os.listdir(tmp_path) == ["scan.nii"]


@pytest.mark.parametrize("name", ["out.mgz", "out.nii.bz2", "out", "nii.gz"])
def test_other_names_are_refused_for_writing(tmp_path, name):
    volume = Volume.read(save(tmp_path / "scan.nii"))
    with pytest.raises(InputError, match=r"ends in \.nii or \.nii\.gz"):
        volume.write_array(tmp_path / name, volume.array, "x")
    assert not (tmp_path / name).exists()


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    volume = Volume.read(save(tmp_path / "scan.nii"))
    (tmp_path / "taken.nii.gz").mkdir()
    for target in (tmp_path / "taken.nii.gz", tmp_path / "scan.nii" / "under-a-file.nii"):
        with pytest.raises(InputError, match="cannot write"):
            volume.write_array(target, volume.array, "x")
    assert sorted(os.listdir(tmp_path)) == ["scan.nii", "taken.nii.gz"]
    with pytest.raises(AssertionError, match="not on the grid"):
        volume.write_array(tmp_path / "out.nii", volume.array[1:], "x")
    with pytest.raises(AssertionError, match="NaN"):
        volume.write_array(tmp_path / "out.nii", volume.array * np.nan, "x")


def test_same_grid_compares_space_not_storage(tmp_path):
    array, affine = intensities(), oblique_affine()
    volume = Volume.read(save(tmp_path / "a.nii", array, affine))
    for permutation, flips in [((2, 0, 1), (-1, 1, -1)), ((0, 1, 2), (-1, -1, 1))]:
        native, native_affine = reoriented(array, affine, permutation, flips)
        assert same_grid(volume.space, Volume.read(save(tmp_path / "b.nii", native, native_affine)).space)
    tenth = min(volume.spacing) / 10
    for shift, same in [(0.9 * tenth, True), (1.1 * tenth, False)]:
        moved = oblique_affine(origin=(-80.5 + shift, -110.25, 31.0))
        assert same_grid(volume.space, Volume.read(save(tmp_path / "c.nii", array, moved)).space) is same
    other = Volume.read(save(tmp_path / "d.nii", intensities((4, 5, 7)), affine))
    assert not same_grid(volume.space, other.space)


def test_same_grid_counts_what_a_rotation_does_at_the_far_corner():
    """An angle that moves a small grid by nothing moves a large one by voxels."""
    turned = np.eye(4)
    turned[:2, :2] = [[1, -5e-4], [5e-4, 1]]
    assert same_grid(((32, 32, 8), np.eye(4)), ((32, 32, 8), turned))
    assert not same_grid(((512, 512, 8), np.eye(4)), ((512, 512, 8), turned))


def test_labels_may_be_empty_but_must_be_labels(tmp_path):
    empty = np.zeros((4, 5, 6), np.uint8)
    labels, _ = read_labels(save(tmp_path / "empty.nii", empty, np.eye(4)))
    assert labels.dtype == np.uint8
    assert not labels.any()
    for wrong in (empty - 1.0, empty + 0.5, empty + 256.0, empty + np.nan, np.zeros((4, 5, 6, 2))):
        with pytest.raises(InputError, match=r"wrong\.nii"):
            read_labels(save(tmp_path / "wrong.nii", wrong.astype(np.float32), np.eye(4)))


def test_different_grids_are_named(tmp_path):
    t1w = Volume.read(save(tmp_path / "t1.nii", affine=np.diag([1.0, 1, 1, 1])))
    t2w = Volume.read(save(tmp_path / "t2.nii", intensities((8, 5, 3)), np.diag([0.5, 1, 2.25, 1])))
    assert t1w.grid == "4×5×6, 1×1×1 mm"
    check_same_grid({"T1w": t1w, "again": t1w})
    check_same_grid({})
    with pytest.raises(InputError) as caught:
        check_same_grid({"T1w": t1w, "again": t1w, "T2w": t2w})
    assert str(caught.value) == (
        f"T1w ({tmp_path / 't1.nii'}: 4×5×6, 1×1×1 mm) and T2w ({tmp_path / 't2.nii'}: 8×5×3, 0.5×1×2.25 mm) "
        "lie on different grids: register them first, as --raw does"
    )
    shifted = np.eye(4)
    shifted[:3, 3] = 3, 4, 0
    with pytest.raises(InputError, match="same shape, up to 5 mm apart"):
        check_same_grid({"T1w": t1w, "PDw": Volume.read(save(tmp_path / "pd.nii", affine=shifted))})
