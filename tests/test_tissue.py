"""Tissue densities: what a scan gives by itself, what sources give together, and how a cohort keeps them."""

import json
import sys
from dataclasses import replace
from functools import cache

import nibabel as nib
import numpy as np
import pytest

from scansynth.commands.prepare import Prepare
from scansynth.data.build_cohort import build_cohort
from scansynth.data.build_tissue import TissueSettings
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import cohort_phantom, write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.data.tissue import LOOKS, combine, from_labels, masks, segment
from scansynth.data.tissue_intensities import fit
from scansynth.errors import InputError
from scansynth.physics.tissue import TISSUES, WEIGHTS

pytest.importorskip("dipy")

SHAPE, SPACING = (64, 78, 64), 2.5
VOXEL = (SPACING,) * 3
COARSE = {"shape": (40, 48, 40), "spacing": 4.0}  # where what is kept matters, and not how good it is
SETTINGS = Preparation(size=(40, 48, None))
GROUPS = (("white",), ("grey", "striatum", "thalamus", "pallidum"), ("fluid",), ("necrosis", "rim", "oedema"))


@pytest.fixture(scope="module")
def phantom():
    """With a tumour."""
    return cohort_phantom(1, shape=SHAPE, spacing=SPACING)


@pytest.fixture(scope="module")
def coarse():
    """The same, where how good densities are does not matter."""
    return cohort_phantom(1, **COARSE)


@pytest.fixture(scope="module")
def maps(phantom):
    """`maps(contrast)`: its densities, made once."""
    return cache(lambda contrast: segment(phantom.contrast(contrast), contrast, VOXEL))


SHOWN = ("T1w", "FLAIR")
"""What is segmented in the fast tests; the others are segmented in the slow ones."""


def contrasts_with(*values):
    """Parameters (contrast, …) of a test, those of contrasts that are not `SHOWN` marked slow."""
    return [pytest.param(*some, marks=() if some[0] in SHOWN else pytest.mark.slow) for some in values]


def truth(phantom):
    """The main tissue of each voxel, one-hot (4, X, Y, Z)."""
    groups = [sum(phantom.fractions[phantom.names.index(name)] for name in group) for group in GROUPS]
    rest = 1 - sum(groups)
    return np.stack([*groups, rest]).argmax(0) == np.arange(4)[:, None, None, None]


def dice(densities, phantom):
    """By tissue, (4,), in voxels that are brain by half."""
    brain = phantom.fractions[0] < 0.5
    found, true = masks(densities) & brain, truth(phantom) & brain
    return 2 * (found & true).sum((1, 2, 3)) / np.maximum(found.sum((1, 2, 3)) + true.sum((1, 2, 3)), 1)


@pytest.mark.parametrize("contrast", contrasts_with(*((name,) for name in LOOKS)))
def test_densities_are_probabilities_and_zero_outside(maps, phantom, contrast):
    densities = maps(contrast)
    assert densities.shape == (len(TISSUES), *SHAPE)
    assert densities.dtype == np.float32
    assert densities.min() >= 0
    assert densities.max() <= 1
    total = densities.sum(0)
    assert total.max() <= 1 + 1e-6
    assert not total[phantom.fractions[0] == 1].any()
    np.testing.assert_allclose(total[phantom.fractions[0] < 0.3], 1, atol=1e-5)


@pytest.mark.parametrize(
    ("contrast", "least"),
    contrasts_with(
        ("T1w", (0.85, 0.75, 0.6)), ("T1ce", (0.85, 0.75, 0.6)), ("T2w", (0.85, 0.7, 0.6)), ("PDw", (0.7, 0.6, 0)),
        ("FLAIR", (0.6, 0.5, 0.7)),
    ),
)  # fmt: skip
def test_each_contrast_has_its_own_order_of_tissues(maps, phantom, contrast, least):
    assert (dice(maps(contrast), phantom)[:3] >= least).all(), dice(maps(contrast), phantom)


@pytest.mark.slow
def test_sources_together_are_better_than_alone(maps, phantom):
    together = dice(combine({c: maps(c) for c in ("T1w", "T1ce", "T2w")}), phantom)[:3]
    assert (together >= (0.9, 0.85, 0.75)).all(), together
    assert together.mean() > max(dice(maps(c), phantom)[:3].mean() for c in ("T1w", "T1ce", "T2w"))


@pytest.mark.slow
def test_only_contrasts_that_show_a_tumour_find_one(maps, phantom):
    found = {contrast: masks(densities)[3].sum() for contrast, densities in ((name, maps(name)) for name in LOOKS)}
    assert not any(found[contrast] for contrast in ("T1w", "T2w", "PDw"))
    assert dice(maps("FLAIR"), phantom)[3] > 0.5
    assert (masks(maps("T1ce"))[3] & truth(phantom)[3]).sum() > 0.6 * found["T1ce"] > 0
    healthy = cohort_phantom(0, shape=SHAPE, spacing=SPACING)
    for contrast in ("FLAIR", "T1ce"):
        assert not masks(segment(healthy.contrast(contrast), contrast, VOXEL))[3].any()


def test_a_tumour_is_found_where_flair_shows_it_and_not_in_t1w(maps, phantom):
    assert dice(maps("FLAIR"), phantom)[3] > 0.5
    assert not masks(maps("T1w"))[3].any()


def test_a_known_tumour_stands_in_place_of_the_one_that_is_found(coarse):
    known = coarse.tumour_mask() > 0
    assert known.any()
    densities = segment(coarse.contrast("T1w"), "T1w", (4.0,) * 3, tumour=known)
    np.testing.assert_array_equal(densities[3] > 0, known & (densities.sum(0) > 0))
    assert densities[:3, known].max() == 0


def test_the_same_image_gives_the_same_bytes_at_any_brightness(coarse):
    image, voxel = coarse.contrast("T1w"), (4.0,) * 3
    first = segment(image, "T1w", voxel)
    np.testing.assert_array_equal(first, segment(image, "T1w", voxel))
    brighter = segment(4 * image + 8, "T1w", voxel)
    assert np.abs(first - brighter).mean() < 1e-4


def test_combining_is_a_mean_of_normal_tissue_and_a_union_of_tumours():
    a, b = np.zeros((2, 4, 3), np.float32)
    a[:, 0], b[:, 0] = (0.6, 0.4, 0, 0), (0.2, 0.8, 0, 0)
    a[:, 1], b[:, 1] = (0, 0, 0, 1), (0, 1, 0, 0)
    both = combine({"T1w": a, "T2w": b})
    np.testing.assert_allclose(both.T, [(0.4, 0.6, 0, 0), (0, 0, 0, 1), (0, 0, 0, 0)], atol=1e-6)
    np.testing.assert_array_equal(combine({"FLAIR": a}), a)
    np.testing.assert_array_equal(masks(both).T, [(0, 1, 0, 0), (0, 0, 0, 1), (0, 0, 0, 0)])
    weighted = combine({"T1w": a, "FLAIR": b})
    assert weighted[0, 0] == pytest.approx((0.6 + 0.2 * WEIGHTS["FLAIR"]) / (1 + WEIGHTS["FLAIR"]))


def test_what_cannot_be_segmented_is_said(phantom, monkeypatch):
    with pytest.raises(InputError, match="CT has no tissue maps"):
        segment(phantom.contrast("CT"), "CT", VOXEL)
    with pytest.raises(InputError, match=r"T2starw has no tissue maps.*T1w, T1ce, T2w, PDw, FLAIR"):
        segment(phantom.contrast("T2w"), "T2starw", VOXEL)
    with pytest.raises(InputError, match="no brain"):
        segment(np.zeros((9, 9, 9)), "T1w", VOXEL)
    monkeypatch.setitem(sys.modules, "dipy.segment.tissue", None)
    with pytest.raises(InputError, match=r"pip install 'scansynth\[prepare\]'"):
        segment(phantom.contrast("T1w"), "T1w", VOXEL)


@pytest.fixture
def listing(tmp_path):
    """One subject, with a tumour, T1w, FLAIR and its `seg`."""
    write_phantom_cohort(tmp_path / "in", 1, ("T1w", "FLAIR"), **COARSE, tumour_share=1)
    return find_subjects(tmp_path / "in")


NAME = "phantom001"


def one_split(listing):
    return replace(listing, subjects=tuple(replace(subject, split="train") for subject in listing.subjects))


def build(listing, folder, **given):
    return build_cohort(one_split(listing), folder, SETTINGS, fractions=(1.0, 0.0, 0.0), **given)


def test_a_cohort_keeps_densities_of_each_scan_and_goes_on(listing, tmp_path):
    out = tmp_path / "out"
    plain = build(listing, out)
    assert not plain.has_tissue(NAME, "T1w")
    with pytest.raises(InputError, match="--tissue segment"):
        plain.read_tissue(NAME, "T1w")
    index = json.loads((out / "cohort.json").read_text())
    scans = {path: path.stat().st_mtime_ns for path in out.glob("scans/*/*.*")}

    seen = []
    cohort = build(listing, out, tissue=TissueSettings(), report=seen.append)
    assert [(event.done, event.total) for event in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    after = {path: path.stat().st_mtime_ns for path in out.glob("scans/*/*.*")}
    assert scans.items() <= after.items()
    assert cohort.fingerprint == plain.fingerprint == index["fingerprint"]
    assert (cohort.has_tissue(NAME, "T1w"), cohort.has_tissue(NAME, "T2w")) == (True, False)
    whole = cohort.read_tissue(NAME, "FLAIR")
    assert whole.shape == (4, *cohort.shape(NAME, "FLAIR"))
    assert whole.dtype == np.float32
    assert whole.sum(0).max() <= 1 + 1e-6
    np.testing.assert_array_equal(cohort.read_tissue(NAME, "FLAIR", 20), whole[..., 20])
    np.testing.assert_array_equal(cohort.read_tissue(NAME, "FLAIR", slice(3, 9)), whole[..., 3:9])
    again = segment(cohort.read(NAME, "FLAIR"), "FLAIR", (4.0, 4.0, 4.0))
    np.testing.assert_allclose(whole, again, atol=1 / 255 + 1e-3)

    build(listing, out, tissue=TissueSettings())
    assert {path: path.stat().st_mtime_ns for path in out.glob("scans/*/*.*")} == after
    (out / "scans" / NAME / "tissue_T1w.b2nd").unlink()
    build(listing, out, tissue=TissueSettings())
    changed = {p.name for p in out.glob("scans/*/*.*") if p.stat().st_mtime_ns != after[p]}
    assert changed == {"tissue_T1w.b2nd"}


def test_another_contrast_changes_no_map(listing, tmp_path):
    build(listing, tmp_path / "a", tissue=TissueSettings())
    path = listing.subjects[0].scans["FLAIR"]
    image = nib.load(path)
    array = image.get_fdata()
    array[array > 0] = array.max() - array[array > 0] + 0.01 * array.max()
    nib.save(nib.Nifti1Image(array.astype(np.float32), image.affine), path)
    build(listing, tmp_path / "b", tissue=TissueSettings())
    first, second = (
        {c: (tmp_path / run / "scans" / NAME / f"tissue_{c}.b2nd") for c in ("T1w", "FLAIR")} for run in "ab"
    )
    import blosc2

    def stored(path):
        return blosc2.open(str(path), mode="r")[:].tobytes()

    assert stored(first["T1w"]) == stored(second["T1w"])
    assert stored(first["FLAIR"]) != stored(second["FLAIR"])


def test_expert_labels_only_when_asked(listing, tmp_path):
    found = build(listing, tmp_path / "out", tissue=TissueSettings())
    seg = found.read_mask(NAME, "seg") > 0
    assert not found.read_tissue(NAME, "T1w")[3].any()
    assert not np.array_equal(found.read_tissue(NAME, "FLAIR")[3] > 0, seg)
    expert = build(listing, tmp_path / "out", tissue=TissueSettings(expert_tumour=True))
    for contrast in ("T1w", "FLAIR"):
        densities = expert.read_tissue(NAME, contrast)
        np.testing.assert_array_equal(densities[3] > 0, seg & (densities.sum(0) > 0))
        assert (densities[3] > 0).sum() > 0.95 * seg.sum()


def test_the_users_own_mask_is_taken_first(listing, tmp_path):
    scan = nib.load(listing.subjects[0].scans["T1w"])
    labels = np.random.default_rng(0).choice([0, 1, 2, 3, 4, 7], size=scan.shape).astype(np.uint8)
    nib.save(nib.Nifti1Image(labels, scan.affine), tmp_path / "in" / NAME / f"{NAME}_tissue.nii.gz")
    own = find_subjects(tmp_path / "in")
    assert set(own.subjects[0].masks) == {"seg", "tissue"}
    for tissue in (None, TissueSettings()):
        cohort = build(own, tmp_path / "out", tissue=tissue)
        mask = cohort.read_mask(NAME, "tissue")
        for contrast in ("T1w", "FLAIR"):
            assert cohort.has_tissue(NAME, contrast)
            densities = cohort.read_tissue(NAME, contrast)
            for index, label in enumerate((2, 1, 3, 7)):
                np.testing.assert_array_equal(densities[index], mask == label)
        np.testing.assert_array_equal(cohort.read_tissue(NAME, "T1w", 4), from_labels(mask[..., 4]))
    assert not list((tmp_path / "out").rglob("tissue_*"))


def test_the_command(listing, tmp_path):
    with pytest.raises(InputError, match="--expert-tumour"):
        Prepare(input=tmp_path / "in", output=tmp_path / "x", expert_tumour=True).run()
    Prepare(input=tmp_path / "in", output=tmp_path / "x", size=(40, 48, None), fractions=(1, 0, 0), contrasts=("T1w",),
            tissue="segment").run()  # fmt: skip
    assert (tmp_path / "x" / "scans" / NAME / "tissue_T1w.b2nd").is_file()


def test_white_and_grey_matter_do_not_end_in_one_peak():
    """A phantom whose two means, started too high, both ended at white matter's."""
    phantom = cohort_phantom(4, seed=1, shape=(80, 96, 80), spacing=2.0)
    found = dice(segment(phantom.contrast("T1w"), "T1w", (2.0,) * 3), phantom)[:3]
    assert (found >= 0.85).all(), found


@pytest.mark.slow
def test_means_keep_to_what_the_sequence_gives(phantom):
    image = phantom.contrast("T1w").astype(float)
    brain, faint = image > 0, image**0.3  # grey matter at nine tenths of white matter, CSF at six
    look = LOOKS["T1w"]
    free, bound = (
        fit(faint, brain, VOXEL, order=look.order, start=look.start, bounds=bounds).means
        for bounds in ({}, look.bounds)
    )
    assert free[1] > 0.88 * free[0]
    assert free[2] > 0.5 * free[0]
    assert bound[1] <= 0.88 * bound[0] * (1 + 1e-6)
    assert bound[2] <= 0.5 * bound[0] * (1 + 1e-6)
