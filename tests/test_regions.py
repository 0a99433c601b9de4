"""Figures by region against numpy and scikit-image, errors planted in one region, and a cohort with masks."""

import csv

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

import scansynth
from scansynth.data.build_cohort import build_cohort
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.evaluation.evaluate import evaluate
from scansynth.evaluation.regions import Region, measure_regions, regions_of, write_regions
from scansynth.evaluation.tables import Result
from scansynth.evaluation.write import write_evaluation
from scansynth.metrics.cases import Case, brain
from scansynth.metrics.protocols import PROTOCOLS, Measurement
from scansynth.training.train import train

SHAPE = (48, 40, 36)
VERSION = PROTOCOLS["default"].version


def result(subject="test-1", label="run"):
    return Result(
        label, ("T1w",), "T2w", subject, Measurement(protocol="default", protocol_version=VERSION, figures={})
    )


@pytest.fixture
def pair():
    """A textured block, brighter in one corner, on exact zeros, and a noisy copy."""
    rng = np.random.default_rng(0)
    reference = np.zeros(SHAPE)
    reference[4:44, 4:36, 4:32] = 0.3 + 0.4 * rng.random((40, 32, 28))
    return np.clip(reference + 0.05 * rng.standard_normal(SHAPE), 0, None), reference


@pytest.fixture
def masks():
    """Two labels of a tumour, and tissues, all well apart."""
    seg, tissue = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    seg[6:12, 6:12, 6:12], seg[30:38, 6:12, 6:12] = 1, 4
    tissue[6:14, 24:34, 18:30], tissue[30:42, 24:34, 18:30] = 1, 3
    return {"seg": seg, "dseg": tissue}


def by_name(found):
    return {one.region.name: one for one in found}


def test_each_mask_and_each_label_is_a_region(masks):
    names = {region.name: int(voxels.sum()) for region, voxels in regions_of(masks).items()}
    assert names == {"seg": 504, "seg-1": 216, "seg-4": 288, "dseg": 2400, "dseg-GM": 960, "dseg-CSF": 1440}
    assert regions_of({"seg": np.zeros(SHAPE, np.uint8)}) == {}
    assert Region("dseg", 99).name == "dseg-99"


def test_figures_are_those_of_numpy_and_scikit_image(pair, masks):
    synthesis, reference = pair
    data_range = np.ptp(reference[brain(Case(synthesis, reference))])
    _, full = structural_similarity(
        reference, synthesis, data_range=data_range, gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        full=True,
    )  # fmt: skip
    found = by_name(measure_regions(result(), synthesis, reference, masks))
    for name, inside in (
        ("seg", masks["seg"] > 0), ("seg-1", masks["seg"] == 1), ("seg-4", masks["seg"] == 4),
        ("dseg-GM", masks["dseg"] == 1), ("dseg-CSF", masks["dseg"] == 3),
    ):  # fmt: skip
        error = (synthesis - reference)[inside]
        expected = {
            "mae": np.abs(error).mean(),
            "psnr_db": 10 * np.log10(data_range**2 / np.mean(error**2)),
            "ssim_percent": 100 * full[inside].mean(),
        }
        assert found[name].voxels == inside.sum()
        assert found[name].figures == pytest.approx(expected, abs=1e-4), name


def test_an_error_planted_in_one_region_moves_that_region_alone(pair, masks):
    synthesis, reference = pair
    spoilt = synthesis.copy()
    spoilt[masks["seg"] == 4] += 0.3
    before, after = (by_name(measure_regions(result(), volume, reference, masks)) for volume in (synthesis, spoilt))
    for name in before:
        if name in ("seg", "seg-4"):
            assert after[name].figures["mae"] > before[name].figures["mae"] + 0.1
            assert after[name].figures["psnr_db"] < before[name].figures["psnr_db"] - 3
            assert after[name].figures["ssim_percent"] < before[name].figures["ssim_percent"] - 3
        else:
            assert after[name].figures == before[name].figures, name


def test_a_region_without_a_voxel_is_left_out_and_counted(pair, masks, tmp_path):
    without = {"seg": np.where(masks["seg"] == 4, 0, masks["seg"])}
    results = [result("test-1"), result("test-2"), result("test-3")]
    found = [
        *measure_regions(results[0], *pair, {"seg": masks["seg"]}),
        *measure_regions(results[1], *pair, without),
        *measure_regions(results[2], *pair, {"seg": np.zeros(SHAPE, np.uint8)}),
    ]
    write_regions(found, results, tmp_path)
    rows = {line.split("|")[1].strip(): line for line in (tmp_path / "regions.md").read_text().splitlines()[4:7]}
    assert {name: row.split("|")[4].strip() for name, row in rows.items()} == {
        "seg": "2 of 3", "seg-1": "2 of 3", "seg-4": "1 of 3",
    }  # fmt: skip
    with (tmp_path / "regions.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert {line["subject"] for line in lines if line["region"] == "seg-4"} == {"test-1"}
    (mae,) = [one for one in lines if (one["subject"], one["region"], one["figure"]) == ("test-2", "seg-1", "mae")]
    assert float(mae["value"]) == found[4].figures["mae"]
    assert (mae["protocol"], mae["protocol_version"], mae["n_voxels"]) == ("default", str(VERSION), "216")


def test_a_mask_of_ones_is_one_region(pair, tmp_path):
    mask = np.zeros(SHAPE, np.uint8)
    mask[10:20, 10:20, 10:20] = 1
    write_regions(measure_regions(result(), *pair, {"lesion": mask}), [result()], tmp_path, acceleration=[("T2w", 4)])
    assert (tmp_path / "regions.csv").read_text().count("\n") == 1 + 3
    assert "lesion-1" not in (tmp_path / "regions.md").read_text()
    assert "T2w accelerated 4×4" in (tmp_path / "regions.md").read_text()
    assert ",T2w 4×4," in (tmp_path / "regions.csv").read_text()


def test_a_volume_thinner_than_the_window_has_no_ssim(pair, masks, tmp_path):
    thin = [volume[:, :, 4:12] for volume in pair]
    found = measure_regions(result(), *thin, {"seg": masks["seg"][:, :, 4:12]})
    assert np.isnan(found[0].figures["ssim_percent"])
    assert np.isfinite(found[0].figures["mae"])
    write_regions(found, [result()], tmp_path)
    assert "| – |" in (tmp_path / "regions.md").read_text()


def test_equal_images_are_told_as_such(pair, masks):
    _, reference = pair
    found = measure_regions(result(), reference, reference, masks)
    assert {one.figures["psnr_db"] for one in found} == {np.inf}
    assert [one.figures["ssim_percent"] for one in found] == pytest.approx([100.0] * len(found))


def test_a_subject_without_an_error_is_left_out_of_the_mean_and_named(pair, masks, tmp_path):
    synthesis, reference = pair
    results = [result("test-1"), result("test-2"), result("test-3")]
    found = [
        one
        for k, x in enumerate((synthesis, reference, synthesis))
        for one in measure_regions(results[k], x, reference, {"seg": masks["seg"]})
    ]
    write_regions(found, results, tmp_path)
    text = (tmp_path / "regions.md").read_text()
    assert "(n = 2)" in text
    assert "PSNR (dB) of run, T1w→T2w, in seg is infinite (no error) for 1 subject: left out of a mean" in text
    assert "others: test-2." in text
    assert "inf " not in text.replace("infinite", "")


def test_a_cohort_with_masks_is_evaluated_by_region(tiny, tmp_path):
    write_phantom_cohort(tmp_path / "data", 6, ("T1w", "T2w"), shape=(32, 32, 24), spacing=6.0, tumour_share=1.0)
    settings = Preparation(size=(32, 32, None))
    cohort = build_cohort(find_subjects(tmp_path / "data"), tmp_path / "cohort", settings)
    train(tiny("regression"), cohort, tmp_path / "run", device=torch.device("cpu"))
    run = scansynth.load(tmp_path / "run", "cpu")
    found = evaluate([run], cohort, protocol="syndiff", pictures=0)
    write_evaluation(found, tmp_path / "out")
    text = (tmp_path / "out" / "regions.md").read_text()
    assert f"protocol `default`, version {VERSION}" in text
    rows = [[cell.strip() for cell in line.split("|")[1:5]] for line in text.splitlines() if line.startswith("| seg ")]
    assert rows == [
        ["seg", "copied source", "T2w→T1w", "1 of 1"], ["seg", "run", "T2w→T1w", "1 of 1"],
        ["seg", "copied source", "T1w→T2w", "1 of 1"], ["seg", "run", "T1w→T2w", "1 of 1"],
    ]  # fmt: skip
    (subject,) = cohort.subjects("test")
    tumour = cohort.read_mask(subject, "seg") > 0
    copied = next(one for one in found.regions if one.region == Region("seg") and one.result.direction == "T1w→T2w")
    error = np.abs(cohort.read(subject, "T1w") - cohort.read(subject, "T2w"))[tumour]
    assert copied.figures["mae"] == pytest.approx(error.mean(), rel=1e-5)
    assert copied.voxels == tumour.sum()
