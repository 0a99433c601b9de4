"""The census: what of a cohort's scans is odd, what cannot be right, and that both are said before anything is made."""

import csv
from dataclasses import replace
from functools import cache

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from scansynth.cli import main
from scansynth.data.build_cohort import build_cohort
from scansynth.data.census import take
from scansynth.data.census_checks import Others
from scansynth.data.census_rules import RULES, check_accepted, judge
from scansynth.data.layouts import Listing, Subject
from scansynth.data.prepare import Preparation, grid_for
from scansynth.data.scan_facts import SIDE, facts_of
from scansynth.data.survey import survey
from scansynth.data.volume import Volume
from scansynth.errors import InputError

AFFINE = np.diag([2.0, 2.0, 2.0, 1.0])
SHAPE = (44, 52, 40)
SETTINGS = Preparation(size=(48, 48, None), intensity="robust")
SPLITS = ("train", "train", "train", "train", "train", "val", "test", "test")


def brain(seed, contrast="T1w"):
    """A stripped brain: an ellipsoid of tissue with folds that both contrasts show, 0 outside."""
    return _brain(seed, contrast).copy()


@cache
def _brain(seed, contrast):
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE), indexing="ij"))
    radius = np.sqrt(((grid / np.array([0.8, 0.85, 0.8])[:, None, None, None]) ** 2).sum(0))
    folds = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 2)
    tissue = 1 + 0.3 * np.tanh(folds / folds.std())
    values = {"T1w": 500 * tissue, "T2w": 400 * (2 - tissue)}[contrast] + rng.normal(0, 8, SHAPE)
    return np.where(radius < 1, values, 0.0)


def head(seed, contrast="T1w"):
    """The same in a bright scalp, around it air."""
    inner = brain(seed, contrast)
    big = np.stack(np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE), indexing="ij"))
    radius = np.sqrt(((big / 0.99) ** 2).sum(0))
    air = np.abs(np.random.default_rng(seed).normal(0, 3, SHAPE))
    return np.where(inner > 0, inner, np.where((radius < 1) & (radius > 0.9), 700 + 10 * air, air))


def save(path, array, affine=AFFINE, dtype=np.float32):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array.astype(dtype), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    nib.save(image, path)
    return path


@pytest.fixture
def listing(tmp_path):
    """Eight people with T1w and T2w, healthy in every way."""
    return cohort_of(tmp_path / "in")


def cohort_of(folder, make=brain):
    subjects = []
    for number, split in enumerate(SPLITS):
        scans = {name: save(folder / f"s{number}_{name}.nii", make(number, name)) for name in ("T1w", "T2w")}
        subjects.append(Subject(name=f"s{number}", scans=scans, masks={}, split=split))
    return Listing("table", folder, tuple(subjects), ("T1w", "T2w"))


def change(listing, subject, contrast, how, **kwargs):
    path = listing.subjects[subject].scans[contrast]
    save(path, how(nib.load(path).get_fdata()), **kwargs)


def findings(listing, **kwargs):
    census = take(listing, listing.contrasts)
    return survey(census, SETTINGS, {one.name: one.split for one in listing.subjects}, **kwargs).findings


def names(found):
    return {(one.rule.name, one.subject, one.contrast) for one in found}


def test_a_healthy_cohort_breaks_no_rule(listing):
    assert findings(listing) == []


def spike(array):
    array[20, 20, 20] = 32767
    return array


def hollow(array):
    array[16:26, 20:30, 14:24] = 0
    return array


def bitten(array):
    array[:, :, :16] = 0
    array[:22, :, :26] = 0
    return array


def between(array):
    """In [−1, 1], the background lowest."""
    return array / array.max() * 2 - 1


def z_scored(array):
    """Over the brain, what is outside stays 0."""
    inside = array > 0
    return np.where(inside, (array - array[inside].mean()) / array[inside].std(), 0)


@pytest.mark.parametrize(
    ("rule", "how"),
    [
        ("hot-voxel", spike),
        ("scale-from-one-scan", spike),
        ("saturated", lambda array: np.minimum(array, np.percentile(array[array > 0], 95))),
        ("signed", between),
        ("background-inside", z_scored),
        ("almost-empty", lambda array: np.where(np.arange(array.size).reshape(array.shape) == 40000, 500.0, 0.0)),
        ("looks-like-ct", lambda array: np.where(array > 0, 4 * (array - 500), -1000)),
        ("holes", hollow),
        ("bites", bitten),
        ("unlike-others", lambda array: np.where(array > 0, 500 + 0.05 * (array - 500), 0)),
    ],
)
def test_a_scan_that_breaks_a_rule_is_named(listing, rule, how):
    change(listing, 2, "T1w", how)
    found = [one for one in findings(listing) if one.rule.name == rule]
    assert names(found) == {(rule, "s2", "T1w")}
    assert found[0].text
    assert found[0].rule.cure


@pytest.mark.parametrize("step", [(2, 0, 0), (0, -1, 0), (0, 0, 3)])
def test_a_scan_beside_its_subjects_others_is_named(listing, step):
    change(listing, 2, "T2w", lambda array: np.roll(array, step, (0, 1, 2)))
    (found,) = [one for one in findings(listing) if one.rule.name == "shifted"]
    assert (found.subject, found.contrast) == ("s2", "T2w")
    assert ", ".join(f"{-voxels:+d}" if voxels else "+0" for voxels in step) in found.text


def test_another_persons_scan_has_little_in_common(listing):
    change(listing, 2, "T2w", lambda array: brain(50, "T2w"))
    assert ("little-in-common", "s2", "T2w") in names(findings(listing))


def test_forms_that_disagree_are_named(listing):
    path = listing.subjects[1].scans["T1w"]
    image = nib.load(path)
    voxels, flipped = np.array(image.dataobj), AFFINE.copy()  # the file goes
    flipped[0, 0], flipped[0, 3] = -2, 86
    for rule, qform, sform in (
        ("forms-mirrored", flipped, AFFINE),
        ("forms-sizes", np.diag([1.0, 1, 1, 1]), AFFINE),
        ("forms-apart", AFFINE + np.array([[0, 0, 0, 5.0], *np.zeros((3, 4))]), AFFINE),
    ):
        image.set_qform(qform, 1)
        image.header["sform_code"] = 1
        image.header["srow_x"], image.header["srow_y"], image.header["srow_z"] = sform[:3]
        other = nib.Nifti1Image(voxels, None, image.header)
        nib.save(other, path)
        assert (rule, "s1", "T1w") in names(findings(listing)), rule


def test_equal_voxels_under_two_names_are_named(listing):
    train, test = (listing.subjects[number].scans["T1w"] for number in (0, 7))
    test.write_bytes(train.read_bytes())
    found = [one for one in findings(listing) if one.rule.name == "same-voxels"]
    assert names(found) == {("same-voxels", "s0", "T1w"), ("same-voxels", "s7", "T1w")}
    assert "train and test" in found[0].text
    change(listing, 3, "T2w", lambda array: nib.load(listing.subjects[3].scans["T1w"]).get_fdata())
    found = [one for one in findings(listing) if one.rule.name == "same-voxels"]
    assert ("same-voxels", "s3", "T2w") in names(found)
    assert any("T1w of the same subject" in one.text for one in found)


def ct(seed, contrast="CT"):
    return np.where(brain(seed) > 0, brain(seed) / 10, -1000)


def test_ct_that_is_not_in_hounsfield_units_is_refused(tmp_path):
    for how, rule in ((lambda array: array + 1024, "ct-offset"), (lambda array: np.where(
        np.arange(SHAPE[0])[:, None, None] < 3, -3024, array), "ct-padding")):  # fmt: skip
        path = save(tmp_path / f"{rule}.nii", how(ct(1)))
        facts = facts_of(Volume.read(path), "s", "CT")
        assert rule in [one.rule.name for one in judge(Others(scans=[facts], splits={}, cuts={}))]
    assert not judge(
        Others(scans=[facts_of(Volume.read(save(tmp_path / "ct.nii", ct(1))), "s", "CT")], splits={}, cuts={})
    )


def test_heads_are_no_brains_for_the_segmentation(tmp_path):
    wide = np.diag([4.0, 4.0, 4.0, 1.0])
    path = save(tmp_path / "head.nii", head(1), wide)
    facts = facts_of(Volume.read(path), "s", "T1w")
    assert facts.head_ml > 2000
    assert [one.rule.name for one in judge(Others(scans=[facts], splits={}, cuts={}, tissue=True))] == ["with-skull"]
    assert not judge(Others(scans=[facts], splits={}, cuts={}))


def test_what_the_box_cuts_off_is_what_the_grid_leaves_out(listing):
    volume = Volume.read(listing.subjects[0].scans["T1w"])
    facts = facts_of(volume, "s0", "T1w")
    for size in ((32, 48, None), (24, 24, 24), (64, 64, None)):
        grid = grid_for({"T1w": volume}, Preparation(size=size))
        mask = volume.array > volume.threshold("T1w")
        first = [int(start) for start in grid.start]
        box = tuple(slice(max(0, low), low + side) for low, side in zip(first, grid.shape, strict=True))
        kept = mask[box].sum() / mask.sum()
        assert facts.cut(grid.start, grid.step, grid.shape) == pytest.approx(1 - kept, abs=0.06)
        if size[1] in (48, 64):  # one axis alone is exact
            assert facts.cut(grid.start, grid.step, grid.shape) == pytest.approx(1 - kept, abs=1e-9)


def test_a_box_that_cuts_heads_off_is_refused_and_one_that_fits_is_chosen(listing, tmp_path, capsys):
    lines = [f"{one.name},{name},{path},{one.split}" for one in listing.subjects for name, path in one.scans.items()]
    (listing.root / "scans.csv").write_text("\n".join(["subject,contrast,path,split", *lines]))
    common = ("prepare", "-i", str(listing.root / "scans.csv"))
    assert main([*common, "-o", str(tmp_path / "small"), "--size", "32", "32", "None"]) == 1
    told = capsys.readouterr()
    assert "cuts off" in told.err
    assert "--accept cut-off" in told.err
    assert not (tmp_path / "small").exists()
    accepted = (*common, "-o", str(tmp_path / "small"), "--size", "32", "32", "None", "--accept", "cut-off")
    assert main(list(accepted)) == 0
    assert main([*common, "-o", str(tmp_path / "fits")]) == 0
    assert "box: 48×48 voxels in the plane hold the largest head" in capsys.readouterr().out
    with (tmp_path / "fits" / "census.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 16
    assert {row["cut"] for row in rows} == {"0"}


def test_what_cannot_be_right_is_refused_before_anything_is_written_and_may_be_accepted(listing, tmp_path):
    change(listing, 2, "T1w", z_scored)
    with pytest.raises(InputError, match=r"s2 T1w.*background-inside.*--accept background-inside"):
        build_cohort(listing, tmp_path / "out", SETTINGS)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="no rule of that name"):
        build_cohort(listing, tmp_path / "out", SETTINGS, accept=["background"])
    cohort = build_cohort(listing, tmp_path / "out", SETTINGS, accept=["background-inside"])
    assert cohort.index["accepted"] == ["background-inside"]
    with (tmp_path / "out" / "census.tsv").open() as file:
        (row,) = [row for row in csv.DictReader(file, delimiter="\t") if row["odd"]]
    assert (row["subject"], row["contrast"]) == ("s2", "T1w")
    assert "background-inside" in row["odd"].split()


def test_the_sheet_shows_all_scans_and_frames_the_odd(listing, tmp_path):
    change(listing, 2, "T1w", spike)
    build_cohort(listing, tmp_path / "out", SETTINGS)
    page = np.asarray(Image.open(tmp_path / "out" / "census.png").convert("RGB")).astype(int)
    coloured = np.abs(page[..., 0] - page[..., 2]) > 100
    rows, columns = np.nonzero(coloured)
    assert np.ptp(rows) < 2 * SIDE  # one frame, round one scan
    assert np.ptp(columns) < 2 * SIDE + 10
    assert coloured.sum() > 6 * SIDE
    assert page.shape[1] > page.shape[0] / 2


def test_the_census_is_kept_and_reads_no_scan_twice(listing, tmp_path, monkeypatch):
    build_cohort(listing, tmp_path / "out", SETTINGS)
    kept = (tmp_path / "out" / "census.tsv").read_text()
    change(listing, 2, "T1w", lambda array: array * 2)
    read = []
    original = Volume.read
    monkeypatch.setattr(Volume, "read", lambda path: read.append(path.name) or original(path))
    build_cohort(listing, tmp_path / "out", SETTINGS)
    assert sorted(read) == ["s2_T1w.nii", "s2_T2w.nii"]  # a subject's scans are held against each other
    assert (tmp_path / "out" / "census.tsv").read_text() != kept


def test_rules_are_named_once_and_thresholds_decide():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert check_accepted(["cut", "not-taken", "cut"]) == ("cut", "not-taken")
    facts = facts_of(Volume.of(spike(brain(1)), AFFINE), "s", "T1w", path="made")
    hot = next(rule for rule in RULES if rule.name == "hot-voxel")
    assert hot.says(facts, Others(scans=[facts], splits={}, cuts={}), hot.threshold)
    assert hot.says(facts, Others(scans=[facts], splits={}, cuts={}), 1e6) is None
    assert replace(facts, maximum=facts.top).maximum < 32767


def test_the_screen_has_a_line_a_scan_and_of_many_the_odd_ones(listing, monkeypatch):
    change(listing, 2, "T1w", spike)
    found = survey(take(listing, listing.contrasts), SETTINGS, {one.name: one.split for one in listing.subjects})
    lines = found.screen()
    assert len(lines) == 1 + 16
    assert [line.split("  ")[0] for line in lines if "hot-voxel" in line] == ["s2 T1w"]
    assert "44×52×40" in lines[1]
    monkeypatch.setattr("scansynth.data.census.MOST_LINES", 10)
    header, odd, rest = found.screen()
    assert header == lines[0] or header.split() == lines[0].split()
    assert odd.startswith("s2 T1w")
    assert rest.startswith("and 15 more")
