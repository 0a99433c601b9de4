"""The phantom: fractions, determinism, its images against the signal equations, and the files of each layout."""

import csv
import json
from functools import cache

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from scansynth.data.phantom import PROPERTIES, Phantom, make_phantom, write_phantom_cohort
from scansynth.errors import InputError
from scansynth.physics.acquisition import DEFAULTS, signal

SHAPE, SPACING = (48, 56, 48), 4.0
SMALL = {"shape": (24, 28, 24), "spacing": 8.0}


@cache
def phantom(seed: int = 0, tumour: bool = False, skull: bool = False) -> Phantom:
    return make_phantom(seed, SHAPE, SPACING, tumour=tumour, skull=skull)


def mean_in(made: Phantom, name: str, tissue: str) -> float:
    where = made.fractions[made.names.index(tissue)] > 0.9
    assert where.any()
    return float(made.contrast(name)[where].mean())


@pytest.mark.parametrize("skull", [False, True])
def test_fractions_sum_to_one(skull):
    fractions = phantom(tumour=True, skull=skull).fractions
    assert fractions.dtype == np.float32
    assert fractions.min() >= 0
    np.testing.assert_allclose(fractions.sum(axis=0), 1, atol=1e-5)


def test_a_seed_is_one_subject():
    again = make_phantom(0, SHAPE, SPACING)
    np.testing.assert_array_equal(phantom().fractions, again.fractions)
    for name in (*DEFAULTS, "CT"):
        np.testing.assert_array_equal(phantom().contrast(name), again.contrast(name))


def test_subjects_and_the_noise_of_contrasts_differ():
    different = (phantom(0).tissue_map() != phantom(1).tissue_map())[phantom(0).tissue_map() > 0]
    assert different.mean() > 0.2
    noise = [phantom().contrast(n) - phantom().contrast(n, noise=0) for n in ("T1w", "T2w")]
    brain = phantom().fractions[0] == 0
    assert abs(np.corrcoef(noise[0][brain], noise[1][brain])[0, 1]) < 0.05


def test_the_grid_does_not_change_the_anatomy():
    fine = make_phantom(0, tuple(2 * n for n in SHAPE), SPACING / 2)
    halved = fine.fractions.reshape(-1, SHAPE[0], 2, SHAPE[1], 2, SHAPE[2], 2).mean(axis=(2, 4, 6))
    for tissue in ("fluid", "grey", "white"):
        index = fine.names.index(tissue)
        assert np.corrcoef(halved[index].ravel(), phantom().fractions[index].ravel())[0, 1] > 0.9
    # The middle of both grids is the same point.
    middles = [p.affine @ [*((n - 1) / 2 for n in p.fractions.shape[1:]), 1] for p in (fine, phantom())]
    np.testing.assert_allclose(middles[0], middles[1], atol=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_volumes_are_plausible(seed):
    made = make_phantom(seed)
    litres = dict(zip(made.names, made.fractions.sum(axis=(1, 2, 3)) * 8e-6, strict=True))
    grey = sum(litres[name] for name in ("grey", "striatum", "thalamus", "pallidum"))
    assert 0.9 < grey + litres["white"] < 1.5  # adult brains: 1.0 to 1.5 l
    assert 0.8 < grey / litres["white"] < 1.8
    assert 0.1 < litres["fluid"] / (grey + litres["white"]) < 0.4
    # Brain only: one piece, with air around it.
    brain = made.fractions[0] < 0.5
    assert ndimage.label(brain)[0].max() == 1
    assert not any(np.take(brain, side, axis).any() for axis in range(3) for side in (0, -1))


def test_grey_matter_separates_white_matter_from_fluid():
    """The cortex is a ribbon: nearly all of the surface of white matter faces grey matter, not fluid or air."""
    labels = make_phantom(0).tissue_map()
    names = phantom().names
    outside = ndimage.binary_dilation(labels == names.index("white")) & (labels != names.index("white"))
    outside[:, :, :45] = False  # the brain stem is white to its surface
    assert (labels[outside] == names.index("grey")).mean() > 0.8


@pytest.mark.parametrize("name", DEFAULTS)
def test_pure_voxels_obey_the_signal_equations(name):
    made = phantom()
    image = made.contrast(name, noise=0, bias=0)
    checked = 0
    for tissue in ("fluid", "grey", "white", "striatum", "thalamus"):
        pure = made.fractions[made.names.index(tissue)] == 1
        s0, t1, t2 = (torch.from_numpy(m[pure]) for m in (made.pd, made.t1, made.t2))
        np.testing.assert_allclose(image[pure], signal(DEFAULTS[name], s0, t1, t2), rtol=1e-4, atol=1e-6)
        checked += pure.sum()
    assert checked > 1000


def test_mixed_voxels_are_the_mixture_of_signals():
    """Mixing happens in the signal, not in the relaxation times."""
    made = phantom()
    white, grey = (made.fractions[made.names.index(n)] for n in ("white", "grey"))
    mixed = (white > 0.3) & (grey > 0.3) & (white + grey == 1)
    assert mixed.sum() > 50
    expected = np.zeros(mixed.sum(), np.float32)
    for tissue, share in (("white", white), ("grey", grey)):
        t1, t2, pd = (torch.from_numpy(v) for v in made.tissue(tissue, mixed))
        expected += share[mixed] * signal(DEFAULTS["T2w"], pd, t1, t2).numpy()
    np.testing.assert_allclose(made.contrast("T2w", noise=0, bias=0)[mixed], expected, rtol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_order_of_tissues_in_each_contrast(seed):
    white, grey, fluid = ([mean_in(phantom(seed), n, t) for n in DEFAULTS] for t in ("white", "grey", "fluid"))
    orders = {
        name: [tissue for _, tissue in sorted(zip(values, "WGC", strict=True), reverse=True)]
        for name, *values in zip(DEFAULTS, white, grey, fluid, strict=True)
    }
    assert orders["T1w"] == orders["T1ce"] == ["W", "G", "C"]
    assert orders["T2w"] == ["C", "G", "W"]
    assert orders["FLAIR"] == ["G", "W", "C"]
    assert orders["PDw"].index("G") < orders["PDw"].index("W")


def test_tumour_only_when_asked_and_as_gliomas_look():
    assert not phantom().tumour_mask().any()
    made = make_phantom(3, tumour=True)
    mask = made.tumour_mask()
    assert set(np.unique(mask)) == {0, 1, 2, 4}
    assert 3 < (mask > 0).sum() * 8e-3 < 150  # ml
    rim, oedema, white = mask == 4, mask == 2, made.fractions[made.names.index("white")] > 0.9
    after, before, flair = (made.contrast(name) for name in ("T1ce", "T1w", "FLAIR"))
    assert after[rim].mean() > 1.2 * after[white].mean()
    assert before[rim].mean() < before[white].mean()
    assert flair[oedema].mean() > 1.3 * flair[white].mean()


def test_images_have_their_units_and_background():
    made = phantom()
    air = made.fractions[0] == 1
    for name in DEFAULTS:
        image = made.contrast(name)
        assert image.dtype == np.float32
        assert image.min() >= 0
        assert not image[air].any()
    ct = made.contrast("CT")
    assert ct.dtype == np.float32
    assert (ct[air] == -1000).all()
    assert mean_in(made, "CT", "grey") == pytest.approx(PROPERTIES["grey"].hu, abs=2)
    skulled = phantom(skull=True)
    assert skulled.contrast("T1w")[skulled.fractions[0] == 1].mean() > 0  # Rician noise has a floor
    assert skulled.hu.max() > 700


def test_unknown_contrast_and_grid_are_refused():
    with pytest.raises(InputError, match="SWI"):
        phantom().contrast("SWI")
    with pytest.raises(InputError, match="spacing"):
        make_phantom(0, (8, 8, 8), spacing=0)


def files(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_brats_layout(tmp_path):
    write_phantom_cohort(tmp_path, 2, ["T1w", "T1ce", "T2w", "FLAIR"], tumour_share=0.5,
                         missing={"phantom001": ["FLAIR"]}, **SMALL)  # fmt: skip
    assert files(tmp_path) == {
        *(f"phantom001/phantom001_{kind}.nii.gz" for kind in ("t1", "t1ce", "t2")),
        *(f"phantom002/phantom002_{kind}.nii.gz" for kind in ("t1", "t1ce", "t2", "flair", "seg")),
    }
    image = nib.load(tmp_path / "phantom002/phantom002_t2.nii.gz")
    assert image.shape == SMALL["shape"]
    assert image.header.get_zooms() == (8, 8, 8)
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
    assert b"synthetic" in bytes(image.header["descrip"])
    seg = np.asarray(nib.load(tmp_path / "phantom002/phantom002_seg.nii.gz").dataobj)
    assert set(np.unique(seg)) <= {0, 1, 2, 4}


def test_ixi_layout(tmp_path):
    write_phantom_cohort(tmp_path, 1, ["T1w", "T2w", "PDw"], layout="IXI", **SMALL)
    assert files(tmp_path) == {f"IXI001-Guys-0001-{kind}.nii.gz" for kind in ("T1", "T2", "PD")}
    with pytest.raises(InputError, match="FLAIR"):
        write_phantom_cohort(tmp_path, 1, ["FLAIR"], layout="IXI", **SMALL)


def test_bids_layout_has_sidecars_in_seconds(tmp_path):
    write_phantom_cohort(tmp_path, 1, ["T1w", "FLAIR", "T1ce", "CT"], layout="BIDS", **SMALL)
    stems = [f"sub-001/anat/sub-001_{kind}" for kind in ("T1w", "FLAIR", "ce-gadolinium_T1w")]
    assert files(tmp_path) == {
        "dataset_description.json", "sub-001/anat/sub-001_CT.nii.gz",
        *(stem + end for stem in stems for end in (".nii.gz", ".json")),
    }  # fmt: skip
    flair = json.loads((tmp_path / "sub-001/anat/sub-001_FLAIR.json").read_text())
    assert flair == {"RepetitionTime": 9.0, "EchoTime": 0.12, "InversionTime": 2.5}
    assert "BIDSVersion" in json.loads((tmp_path / "dataset_description.json").read_text())


def test_table_layout_states_splits(tmp_path):
    write_phantom_cohort(tmp_path, 4, ["T1w", "CT"], layout="table", **SMALL)
    with (tmp_path / "table.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 8
    sidecars = {row["path"].replace(".nii.gz", ".json") for row in rows if row["contrast"] == "T1w"}  # CT has none
    assert {row["path"] for row in rows} | sidecars | {"table.csv"} == files(tmp_path)
    assert {row["subject"]: row["split"] for row in rows} == {
        "phantom001": "train", "phantom002": "train", "phantom003": "val", "phantom004": "test",
    }  # fmt: skip


def test_cohort_arguments_are_checked(tmp_path):
    with pytest.raises(InputError, match="layout"):
        write_phantom_cohort(tmp_path, 1, ["T1w"], layout="OASIS")
    with pytest.raises(InputError, match="share"):
        write_phantom_cohort(tmp_path, 1, ["T1w"], tumour_share=1.5)
    with pytest.raises(InputError, match="phantom009"):
        write_phantom_cohort(tmp_path, 1, ["T1w"], missing={"phantom009": ["T1w"]})


def test_cohorts_of_one_seed_are_equal(tmp_path):
    for folder, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_phantom_cohort(tmp_path / folder, 1, ["T2w"], seed=seed, **SMALL)
    a, b, c = (nib.load(tmp_path / f / "phantom001/phantom001_t2.nii.gz").get_fdata() for f in "abc")
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
