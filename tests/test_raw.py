"""Scans as they come: registered to one of them, freed of bias, cut to the brain; with planted truths."""

import csv
import json
import shutil
import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from nibabel.affines import from_matvec
from scipy import ndimage
from scipy.spatial.transform import Rotation

import scansynth
from scansynth.cli import main
from scansynth.data.census_rules import RULES
from scansynth.data.cohort import Cohort
from scansynth.data.phantom import make_phantom
from scansynth.data.raw.bias import without_bias
from scansynth.data.raw.brain import brain_mask, rough_mask
from scansynth.data.raw.folders import claim
from scansynth.data.raw.registration import Registration, distance, moved, reached, register
from scansynth.data.raw.settings import Raw
from scansynth.data.raw.together import bring_together, reference_of
from scansynth.data.record import PreparationRecord
from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.synthesis.raw_sources import brought_together
from scansynth.training.train import train

pytest.importorskip("SimpleITK")

TURNED = from_matvec(Rotation.from_euler("xz", (5, 5), degrees=True).as_matrix(), (6.0, -9.0, 4.0))
"""mm of the head's world → mm of a later scan's: 7.07 degrees and 12 mm."""
SLAB = (np.diag([2.5, 2.5, 6.0, 1.0]), (64, 80, 24))
"""A grid of thick slices."""


@pytest.fixture(scope="module")
def head():
    return make_phantom(5, (48, 60, 51), 4.0, skull=True)


@pytest.fixture(scope="module")
def t1(head):
    return Volume.of(head.contrast("T1w"), head.affine)


@pytest.fixture(scope="module")
def later(head):
    """The T2w of the same head, lain down anew, in thick slices."""
    return lain_anew(Volume.of(head.contrast("T2w"), head.affine))


def lain_anew(volume):
    affine, shape = SLAB
    centre = TURNED @ (volume.affine @ [*(np.array(volume.array.shape) - 1) / 2, 1])
    affine = affine.copy()
    affine[:3, 3] = centre[:3] - affine[:3, :3] @ (np.array(shape) - 1) / 2
    like = Volume.of(np.zeros(shape, np.float32), affine)
    return replace(like, array=moved(volume, np.linalg.inv(TURNED), like, 0.0), _found={})


def points_of(phantom):
    places = np.argwhere(phantom.fractions[0] < 0.5)[::50]
    return places @ phantom.affine[:3, :3].T + phantom.affine[:3, 3]


def overlap(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def test_a_planted_motion_is_found_to_a_millimetre_and_a_degree(head, t1, later):
    found = register(t1, later, contrasts=("T1w", "T2w"))
    assert distance(found.matrix, TURNED, points_of(head)) < 1.0
    left = found.matrix[:3, :3] @ TURNED[:3, :3].T
    assert np.degrees(np.arccos(min(1.0, (np.trace(left) - 1) / 2))) < 1.0
    assert found.degrees == pytest.approx(7.07, abs=1)
    assert found.information > 1.5 * found.before
    assert found.shift == pytest.approx(distance(TURNED, np.eye(4), points_of(head)), abs=1)


def test_where_the_header_is_right_nothing_moves(t1, head):
    found = register(t1, Volume.of(head.contrast("T2w"), head.affine), contrasts=("T1w", "T2w"))
    assert found.shift < 0.5


def test_a_moved_scan_is_interpolated_once_and_knows_where_it_ends():
    rng = np.random.default_rng(0)
    array = ndimage.gaussian_filter(rng.normal(100, 40, (20, 22, 18)), 1.5).astype(np.float32)
    volume = Volume.of(array, np.diag([2.0, 2.0, 2.0, 1.0]))
    shift = from_matvec(np.eye(3), (4.0, -2.0, 6.0))  # whole voxels: 2, −1 and 3
    result = moved(volume, shift, volume, -7.0)
    assert np.allclose(result[:18, 1:, :15], array[2:, :21, 3:], atol=1e-3)
    for beyond in (result[18:], result[:, 0], result[..., 15:]):
        assert (beyond == -7).all()
    assert np.array_equal(result != -7, reached(volume, shift, volume))
    half = moved(volume, from_matvec(np.eye(3), (1.0, 0, 0)), volume, 0.0)[:-1]
    low, high = ndimage.minimum_filter(array, 3)[:-1], ndimage.maximum_filter(array, 3)[:-1]
    assert (half >= np.minimum(low, ndimage.minimum_filter(array, 3)[1:]) - 1e-3).all()
    assert (half <= np.maximum(high, ndimage.maximum_filter(array, 3)[1:]) + 1e-3).all()


def test_larger_voxels_see_the_mean_of_what_they_hold():
    rng = np.random.default_rng(1)
    fine = Volume.of(rng.normal(100, 20, (64, 64, 64)).astype(np.float32), np.eye(4))
    coarse = Volume.of(np.zeros((16, 16, 16), np.float32), from_matvec(4 * np.eye(3), (1.5, 1.5, 1.5)))
    result = moved(fine, np.eye(4), coarse, 0.0)
    assert result.std() < 20 / 4  # of a box of 64 voxels 20 / 8; of single voxels 20


def test_the_reference_has_the_thinnest_slices_unless_one_is_named(t1, later):
    volumes = {"T2w": later, "T1w": t1}
    assert reference_of(volumes, Raw()) == "T1w"
    assert reference_of(volumes, Raw(reference="T2w")) == "T2w"
    assert reference_of(volumes, Raw(reference="FLAIR")) == "T1w"


def test_n4_takes_a_planted_field_away():
    phantom = make_phantom(7, (64, 72, 64), 3.0)
    plain = phantom.contrast("T1w", noise=0.0, bias=0.0)
    axes = [np.linspace(-1, 1, side) for side in plain.shape]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    field = np.exp(0.4 * x + 0.3 * y * y - 0.2 * z).astype(np.float32)
    mended = without_bias(Volume.of(plain * field, phantom.affine), "T1w").array
    white = phantom.tissue_map() == phantom.names.index("white")

    def unevenness(array):
        return float(array[white].std() / array[white].mean())

    assert unevenness(mended) < 0.4 * unevenness(plain * field)
    assert mended[white].mean() == pytest.approx((plain * field)[white].mean(), rel=0.1)
    ct = Volume.of(phantom.contrast("CT"), phantom.affine)
    assert without_bias(ct, "CT") is ct


def test_the_rough_mask_is_the_brain_of_another_phantom():
    head, bare = (make_phantom(21, (62, 76, 68), 3.0, skull=skull) for skull in (True, False))
    volume = Volume.of(head.contrast("T1w", bias=0.05), head.affine)
    assert overlap(rough_mask(volume, "T1w"), bare.fractions[0] < 0.5) > 0.92


def test_a_brain_that_none_is_is_refused(t1):
    whole = "import nibabel as n, numpy as np, sys; i = n.load(sys.argv[1]); "
    whole += "n.save(n.Nifti1Image(np.ones(i.shape, np.uint8), i.affine), sys.argv[2])"
    with pytest.raises(InputError, match="ml, which no adult's has"):
        brain_mask(t1, "T1w", f"{sys.executable} -c '{whole}' {{input}} {{output}}")
    with pytest.raises(InputError, match="rough mask is of"):
        rough_mask(t1, "SWI")


def test_a_program_that_fails_or_writes_nothing_or_elsewhere_is_named(t1):
    with pytest.raises(InputError, match="cannot be started"):
        brain_mask(t1, "T1w", "no-such-program {input} {output}")
    with pytest.raises(InputError, match=r"exit 3.*it said: no licence"):
        brain_mask(t1, "T1w", f"{sys.executable} -c 'import sys; print(\"no licence\", file=sys.stderr); sys.exit(3)' "
                              "{input} {output}")  # fmt: skip


@pytest.fixture(scope="module")
def raw_data(tmp_path_factory, head):
    """A BIDS folder: two people, whose T2w lies turned on a grid of its own; and one mask."""
    folder = tmp_path_factory.mktemp("raw")
    for number, seed in ((1, 5), (3, 8)):
        own = head if seed == 5 else make_phantom(seed, (48, 60, 51), 4.0, skull=True)
        anat = folder / f"sub-0{number}" / "anat"
        anat.mkdir(parents=True)
        t1 = Volume.of(own.contrast("T1w"), own.affine)
        t2 = lain_anew(Volume.of(own.contrast("T2w"), own.affine))
        t1.write_array(anat / f"sub-0{number}_T1w.nii.gz", t1.array, "")
        t2.write_array(anat / f"sub-0{number}_T2w.nii.gz", t2.array, "")
        (anat / f"sub-0{number}_T2w.json").write_text(json.dumps({"EchoTime": 0.09, "RepetitionTime": 4.0}))
    labels = lain_anew(Volume.of((own.tissue_map() == own.names.index("white")).astype(np.float32), own.affine))
    labels.write_array(anat / "sub-03_dseg.nii.gz", 2 * (labels.array > 0.5), "")
    (folder / "dataset_description.json").write_text('{"Name": "raw", "BIDSVersion": "1.9.0"}')
    (folder / "splits.json").write_text('{"train": ["sub-01"], "val": [], "test": ["sub-03"]}')
    return folder


MASKS = """
import sys, nibabel, numpy as np
image = nibabel.load(sys.argv[1])
axes = [np.linspace(-1, 1, side) for side in image.shape]
x, y, z = np.meshgrid(*axes, indexing="ij")
scale = 0.62 * (1.4e6 / abs(np.linalg.det(image.affine)) / np.prod(image.shape)) ** (1 / 3) * 2
inside = x**2 + y**2 + z**2 < scale**2
nibabel.save(nibabel.Nifti1Image(inside.astype(np.uint8), image.affine), sys.argv[2])
"""
"""A program of the user's: an ellipsoid of 1.4 l in the middle of the scan."""


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    script = tmp_path_factory.mktemp("program") / "masks.py"
    script.write_text(MASKS)
    return f"{sys.executable} {script} {{input}} {{output}}"


def preparing(raw_data, folder, program):
    words = ["prepare", "-i", raw_data, "-o", folder, "--raw", "--bias", "none", "--brain", program]
    return [*map(str, words), "--spacing", "6", "6", "6"]


@pytest.fixture(scope="module")
def prepared(raw_data, program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "cohort"
    assert main(preparing(raw_data, folder, program)) == 0
    return folder


@pytest.mark.slow
def test_raw_scans_are_prepared_in_one_command(prepared, head):
    cohort = Cohort.open(prepared)
    assert cohort.raw == Raw(brain="program", bias="none")
    for subject in cohort.subjects():
        assert cohort.registered(subject)
    assert cohort.masks("sub-03") == ("tissue",)
    with (prepared / "registered" / "quality.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(row["subject"], row["contrast"], row["reference"]) for row in rows] == [
        (f"sub-0{number}", "T2w", "T1w") for number in (1, 3)
    ]
    assert all(float(row["degrees"]) == pytest.approx(7.07, abs=1.5) for row in rows)
    here = prepared / "registered" / "sub-01"
    truth = Volume.of(head.contrast("T2w", noise=0.0), head.affine)
    made, brain = Volume.read(here / "T2w.nii.gz"), nib.load(here / "brain.nii.gz").get_fdata() > 0
    assert np.corrcoef(made.array[brain], truth.array[brain])[0, 1] > 0.85
    assert not made.array[~brain].any()
    picture = nib.load(here / "T1w.nii.gz")
    assert np.allclose(picture.affine, head.affine)
    assert (here / "quality.png").stat().st_size > 10_000


@pytest.mark.slow
def test_what_is_registered_is_kept_and_what_is_lost_is_made_again(prepared, raw_data, program, tmp_path, monkeypatch):
    folder = tmp_path / "cohort"
    shutil.copytree(prepared / "registered", folder / "registered")
    gone = folder / "registered" / "sub-03" / "T2w.nii.gz"
    before = gone.read_bytes()
    gone.write_bytes(before[:-100])
    done = []
    real = scansynth.data.raw.on_disk.bring_together
    monkeypatch.setattr(scansynth.data.raw.on_disk, "bring_together",
                        lambda volumes, how, **more: done.append(volumes) or real(volumes, how, **more))  # fmt: skip
    words = preparing(raw_data, folder, program)
    assert main(words) == 0
    assert len(done) == 1
    assert nib.load(gone).get_fdata().tobytes() == nib.Nifti1Image.from_bytes(_unzipped(before)).get_fdata().tobytes()
    assert main([*words, "--bias", "n4"]) == 1


def _unzipped(content):
    import gzip

    return gzip.decompress(content)


@pytest.mark.slow
def test_raw_sources_are_translated_onto_the_grid_of_the_reference(prepared, raw_data, program, tiny, tmp_path):
    cohort = Cohort.open(prepared)
    run = tmp_path / "run"
    train(tiny("regression", steps=2), cohort, run, device=torch.device("cpu"))
    assert PreparationRecord.read(run).raw == Raw(brain="program", bias="none")
    other = raw_data / "sub-03" / "anat" / "sub-03_T2w.nii.gz"
    out = tmp_path / "out.nii.gz"
    words = ["translate", "--run", run, "--t2w", other, "--target", "T1w", "-o", out]
    words = list(map(str, words))
    assert main([*words, "--raw"]) == 1  # which program cut the brains out is in no record
    page = ["--page", str(tmp_path / "out.html")]
    assert main([*words, *page, "--raw", "--bias", "none", "--brain", program]) == 0
    assert "[name and cite the program]" in (tmp_path / "out.html").read_text(encoding="utf-8")
    made = nib.load(out)
    assert np.allclose(made.affine, nib.load(other).affine)
    assert made.shape == nib.load(other).shape
    sidecar = json.loads((tmp_path / "out.json").read_text())
    assert sidecar["brought_together"] == {"reference": "T2w", "registered": {}, "bias": "none", "brain": "program"}
    assert sidecar["SkullStripped"] is True
    assert str(tmp_path) not in json.dumps(sidecar)


@pytest.mark.slow
def test_one_command_registers_what_lies_apart_and_makes_what_is_missing(raw_data, program, tmp_path):
    data, out = tmp_path / "data", tmp_path / "out"
    shutil.copytree(raw_data, data)
    (data / "sub-03" / "anat" / "sub-03_T2w.nii.gz").unlink()
    (data / "sub-03" / "anat" / "sub-03_dseg.nii.gz").unlink()
    words = ["run", "-i", data, "-o", out, "--target", "T2w", "--hours", "0.002", "--device", "cpu"]
    words = [*map(str, words), "--bias", "none", "--brain", program]
    assert main([*words, "--dry-run"]) == 1
    assert not out.exists()
    assert main(words) == 0
    assert Cohort.open(out / "cohort").raw == Raw(bias="none", brain="program")
    made = nib.load(out / "translated/sub-03/anat/sub-03_desc-synthetic_T2w.nii.gz")
    assert np.allclose(made.affine, nib.load(data / "sub-03/anat/sub-03_T1w.nii.gz").affine)
    told = json.loads((out / "translated/sub-03/anat/sub-03_desc-synthetic_T2w.json").read_text())
    assert told["brought_together"]["brain"] == "program"
    assert told["sources"] == {"T1w": "sub-03/anat/sub-03_T1w.nii.gz"}
    assert "registered" in (out / "report.html").read_text(encoding="utf-8")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    assert main(words) == 0
    assert before == {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}


def test_voxels_that_training_never_had_are_told_before_they_are_gone(cohort, tiny, t1, tmp_path):
    run = tmp_path / "run"
    train(tiny("regression", steps=2), cohort, run, device=torch.device("cpu"))
    thick = Volume.of(t1.array[:, :, ::5], t1.affine @ np.diag([1, 1, 5, 1]))
    thick.write_array(tmp_path / "t1.nii.gz", thick.array, "")
    words = ["translate", "--run", run, "--t1w", tmp_path / "t1.nii.gz", "--target", "T2w", "-o", tmp_path / "o.nii.gz"]
    words = [*map(str, words), "--raw", "--bias", "none"]
    loaded = scansynth.load(run, "cpu")
    with pytest.raises(InputError, match=r"voxels of 4×4×20 mm.*slices-unlike-training"):
        brought_together(loaded, {"T1w": tmp_path / "t1.nii.gz"}, Raw(bias="none"))
    assert main(words) == 1
    every = [rule.name for rule in RULES if rule.severity == "impossible"]
    assert main([*words, "--accept", *every]) == 0
    told = json.loads((tmp_path / "o.json").read_text())
    assert "slices-unlike-training" in told["accepted"]
    assert any("4×4×20 mm" in line for line in told["odd"])


def test_a_brain_is_cut_out_by_the_subjects_own_mask(head, later, t1, tmp_path):
    brain = head.tissue_map() > 0
    mask = tmp_path / "brain.nii.gz"
    Volume.of(brain, head.affine).write_array(mask, brain.astype(np.float32), "")
    how = Raw(brain="own", bias="none")
    found = bring_together({"T1w": t1}, how, mask=mask)
    assert found.brain is not None
    assert np.array_equal(found.brain, brain)
    assert not found.volumes["T1w"].array[~brain].any()
    with pytest.raises(InputError, match="no mask of its brain"):
        bring_together({"T1w": t1}, how)
    with pytest.raises(InputError, match="lies on no scan's grid"):
        bring_together({"T2w": later}, how, mask=mask)
    words = ["translate", "--run", "run", "--t1w", "a.nii.gz", "-o", "out.nii.gz", "--brain-mask", str(mask)]
    assert main([*words, "--raw"]) == 1


def test_a_mask_that_lies_on_a_moved_scan_moves_with_it(t1, later, tmp_path, monkeypatch):
    centre = np.zeros(later.array.shape, np.float32)
    centre[20:40, 30:60, 8:16] = 1
    later.write_array(tmp_path / "mask.nii.gz", centre, "")
    monkeypatch.setattr(scansynth.data.raw.together, "register", lambda *_, **__: Registration(
        matrix=TURNED, information=1.0, before=0.5, shift=12.0, apart=0.0, centre=(0.0, 0.0, 0.0)
    ))  # fmt: skip
    found = bring_together({"T1w": t1, "T2w": later}, Raw(brain="own", bias="none", reference="T1w"),
                           mask=tmp_path / "mask.nii.gz")  # fmt: skip
    expected = moved(Volume.of(centre, later.affine), TURNED, t1, 0.0, order=0) > 0
    assert found.brain is not None
    assert np.array_equal(found.brain, expected)
    assert expected.any()


def test_settings_of_raw_scans_go_with_raw(raw_data, tmp_path):
    words = ["prepare", "-i", str(raw_data), "-o", str(tmp_path / "c"), "--brain", "rough"]
    assert main(words) == 1
    assert main([*words, "--raw", "--dry-run"]) == 1
    assert main([*words[:-1], "nonsense", "--raw"]) == 1
    assert not (tmp_path / "c").exists()


def test_a_reference_goes_by_any_name_and_must_be_there(raw_data, tmp_path):
    assert Raw(reference="t1").reference == "T1w"
    words = ["prepare", "-i", str(raw_data), "-o", str(tmp_path / "c"), "--raw", "--reference", "FLAIR"]
    assert main(words) == 1


@pytest.mark.parametrize("name", ["registered", "converted"])
def test_a_folder_of_somebody_else_is_left_alone(raw_data, tmp_path, name):
    scan = tmp_path / "c" / name / "sub-01" / "T1w.nii.gz"
    scan.parent.mkdir(parents=True)
    scan.write_bytes(b"acquired")
    assert main(["prepare", "-i", str(raw_data), "-o", str(tmp_path / "c"), "--raw", "--overwrite"]) == 1
    with pytest.raises(InputError, match="not made by scansynth"):
        claim(tmp_path / "c" / name, {}, overwrite=True)
    assert scan.read_bytes() == b"acquired"


def test_no_command_is_taken_from_a_record():
    how = Raw(brain="hd-bet {input} {output}")
    how.check()
    assert how.told == Raw(brain="program")
    with pytest.raises(InputError, match="name yours"):
        how.told.check()
    assert how.key != Raw(brain="other {input} {output}").key


def test_a_ct_is_not_masked(t1):
    with pytest.raises(InputError, match="CT"):
        bring_together({"T1w": t1, "CT": t1}, Raw(bias="none", brain="rough"))
