"""Each protocol against its words: intensities, mask, range and unit, computed by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from scansynth.data.phantom import cohort_phantom
from scansynth.errors import InputError
from scansynth.evaluation.comparison import compare
from scansynth.evaluation.comparison_tables import markdown
from scansynth.evaluation.tables import Result, write_tables
from scansynth.metrics import feature_similarity
from scansynth.metrics import image_metrics as metrics
from scansynth.metrics.cases import Case, body, brain
from scansynth.metrics.image_metrics import Images
from scansynth.metrics.protocols import PROTOCOLS, measure
from scansynth.metrics.structural_similarity import ssim_maps
from scansynth.report.figures import main_table

SHAPE = (60, 56, 34)


def to_hu(image):
    return 3000 * image - 1000


@pytest.fixture(scope="module")
def pair():
    """A textured ball with a hole in it on exact zeros, (60, 56, 34) in [0, 1], and a noisy copy."""
    rng = np.random.default_rng(0)
    axes = np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE), indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    reference = np.where(radius < 0.85, 0.5 + 0.2 * np.sin(9 * axes[0]) * np.cos(7 * axes[1]), 0.0)
    reference[np.sqrt((axes[0] - 0.2) ** 2 + axes[1] ** 2 + axes[2] ** 2) < 0.2] = 0.0
    synthesis = np.clip(reference + 0.05 * rng.standard_normal(SHAPE), 0, 1)
    return synthesis, reference


@pytest.fixture(scope="module")
def masks():
    tumour = np.zeros(SHAPE, dtype=np.uint8)
    tumour[20:28, 24:30, 12:18] = 4
    return {"seg": tumour}


def db(error, data_range):
    return 10 * np.log10(data_range**2 / np.mean(np.square(error)))


def test_default_is_inside_the_brain_with_the_references_range(pair):
    synthesis, reference = pair
    mask = brain(Case(synthesis, reference))
    data_range = reference[mask].max() - reference[mask].min()
    found = measure("default", synthesis, reference)
    assert found.slices is None
    assert found.voxels == mask.sum()
    assert found.mean("psnr_db") == pytest.approx(db((synthesis - reference)[mask], data_range))
    assert found.mean("mae") == pytest.approx(np.abs(synthesis - reference)[mask].mean())
    expected = np.square(synthesis - reference)[mask].sum() / np.square(reference)[mask].sum()
    assert found.mean("nmse") == pytest.approx(expected)
    x, y = (torch.as_tensor(volume)[None] for volume in (synthesis, reference))
    full = ssim_maps(x, y, data_range, reflect=True)[0][0].numpy()
    assert found.mean("ssim_percent") == pytest.approx(100 * full[mask].mean(), abs=1e-3)


def test_default_does_not_see_what_lies_outside_the_brain(pair):
    synthesis, reference = pair
    spoilt = synthesis.copy()
    spoilt[:3] = 1.0
    before, after = (measure("default", volume, reference) for volume in (synthesis, spoilt))
    for column in ("psnr_db", "mae", "nmse", "fsim", "gmsd", "gradient_energy_ratio"):
        assert after.mean(column) == pytest.approx(before.mean(column)), column


def test_a_brain_has_no_holes_and_a_given_mask_is_taken(pair):
    synthesis, reference = pair
    assert reference[33, 28, 17] == 0
    assert brain(Case(synthesis, reference))[33, 28, 17]
    given = np.zeros(SHAPE, dtype=np.uint8)
    given[20:40, 20:40, 10:20] = 1
    assert measure("default", synthesis, reference, masks={"brain": given}).voxels == given.sum()


def test_cg_ddpm_is_the_whole_volume_in_minus_one_to_one(pair):
    synthesis, reference = pair
    found = measure("cg-ddpm", synthesis, reference)
    assert found.voxels == reference.size
    assert found.mean("psnr_db") == pytest.approx(db(2 * synthesis - 2 * reference, 2.0))
    assert found.mean("mae") == pytest.approx(2 * np.abs(synthesis - reference).mean())
    images = Images.of(2 * synthesis[None] - 1, 2 * reference[None] - 1, 2.0)
    assert found.mean("ms_ssim_percent") == pytest.approx(metrics.ms_ssim(images, 7, 3).item())


@pytest.mark.parametrize("name", ["mrdiff", "cola-diff"])
def test_slices_as_prepared_leave_out_empty_slices_only(name, pair):
    synthesis, reference = pair
    found = measure(name, synthesis, reference)
    assert found.slices is not None
    assert found.slices.tolist() == np.flatnonzero(reference.any(axis=(0, 1))).tolist()
    z = int(found.slices[5])
    assert found.figures["psnr_db"][5] == pytest.approx(db((synthesis - reference)[:, :, z], 1.0))
    if name == "mrdiff":
        x, y = (torch.as_tensor(volume[:, :, z])[None] for volume in (synthesis, reference))
        assert found.figures["fsim"][5] == pytest.approx(feature_similarity.fsim(x, y, 1.0).item(), abs=1e-5)
        assert found.figures["gmsd"][5] == pytest.approx(feature_similarity.gmsd(x, y, 1.0).item(), abs=1e-5)


def test_brasyn_tells_the_tumour_from_the_rest(pair, masks):
    synthesis, reference = pair
    spoilt = synthesis.copy()
    spoilt[22:26, 26:28, 14:16] = 1.0
    before, after = (measure("brasyn", volume, reference, masks=masks) for volume in (synthesis, spoilt))
    assert list(before.figures) == [
        f"{metric}_{region}" for metric in ("ssim_percent", "psnr_db") for region in ("tumour", "healthy", "whole")
    ]
    assert after.mean("psnr_db_tumour") < before.mean("psnr_db_tumour") - 5
    assert after.mean("psnr_db_healthy") == pytest.approx(before.mean("psnr_db_healthy"))
    assert after.mean("ssim_percent_tumour") < before.mean("ssim_percent_tumour") - 5
    tumour = masks["seg"] > 0
    assert before.mean("psnr_db_tumour") == pytest.approx(db((synthesis - reference)[tumour], 1.0))
    assert before.voxels == (tumour | brain(Case(synthesis, reference))).sum()


def test_brasyn_refuses_a_subject_without_a_tumour(pair, masks):
    with pytest.raises(InputError, match="no mask `seg`"):
        measure("brasyn", *pair)
    with pytest.raises(InputError, match="tumour has no voxel"):
        measure("brasyn", *pair, masks={"seg": np.zeros(SHAPE)})


def test_synthrad_is_in_hounsfield_units_inside_the_body(pair):
    synthesis, reference = pair
    found = measure("synthrad", synthesis, reference, to_units=to_hu)
    mask = body(Case(synthesis, reference), to_hu(reference))
    assert mask[33, 28, 17]
    assert found.voxels == mask.sum()
    assert found.mean("mae_hu") == pytest.approx(3000 * np.abs(synthesis - reference)[mask].mean())
    assert found.mean("psnr_db") == pytest.approx(db(3000 * (synthesis - reference)[mask], 4095.0))
    with pytest.raises(InputError, match="hu-window"):
        measure("synthrad", synthesis, reference)
    with pytest.raises(InputError, match="no body"):
        measure("synthrad", synthesis, np.zeros(SHAPE), to_units=to_hu)


def test_the_body_is_the_largest_piece():
    reference = np.full(SHAPE, -1000.0)
    reference[10:50, 10:50, 5:30] = 40.0
    reference[2:5, 2:5, 2:5] = 300.0  # a table
    found = body(Case(reference, reference), reference)
    assert found.sum() == 40 * 40 * 25


@pytest.mark.parametrize("name", [name for name, protocol in PROTOCOLS.items() if protocol.unit != "set"])
def test_equal_images_and_broken_ones(name, pair, masks):
    _, reference = pair
    found = measure(name, reference, reference, masks=masks, to_units=to_hu)
    for column, metric in PROTOCOLS[name].columns.items():
        best = {"psnr_db": np.inf, "ssim_percent": 100, "ms_ssim_percent": 100, "fsim": 1, "gradient_energy_ratio": 1}
        best["texture_similarity_percent"] = 100
        np.testing.assert_allclose(found.figures[column], best.get(metric.column, 0.0), atol=1e-6, err_msg=column)
        assert PROTOCOLS[name].heading(column)
    broken = reference.copy()
    broken[0, 0, 0] = np.inf
    with pytest.raises(InputError, match="synthesis has 1 voxels"):
        measure(name, broken, reference, masks=masks, to_units=to_hu)
    with pytest.raises(InputError, match="different grids"):
        measure(name, reference, reference, masks={"seg": masks["seg"][1:]}, to_units=to_hu)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_describes_itself(name):
    words = PROTOCOLS[name].description()
    assert all(words.values())
    assert words["unit"] in ("slice", "volume", "set")
    assert ("figures" in words) == (words["unit"] == "set")


def test_a_protocol_of_sets_measures_no_pair(pair):
    assert "FID-A" in PROTOCOLS["cdpm"].figures
    for protocol in ("cdpm", PROTOCOLS["cdpm"]):
        with pytest.raises(InputError, match=r"set of generated volumes.*choose from default, syndiff"):
            measure(protocol, *pair)


def test_a_mask_without_a_voxel_and_a_figure_without_a_range_are_refused(pair):
    x, y = (volume[None] for volume in pair)
    with pytest.raises(InputError, match="no voxel"):
        Images.of(x, y, 1.0, mask=np.zeros_like(x, dtype=bool))
    with pytest.raises(InputError, match="data range None"):
        Images.of(x, y, None)
    with pytest.raises(InputError, match="different grids"):
        Images.of(x, y[:, 1:], 1.0)


def test_the_page_on_protocols_names_each_with_its_version():
    page = (Path(__file__).parents[1] / "docs" / "protocols.md").read_text()
    rows = {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| `")}
    assert rows == {f"`{protocol.name}` {protocol.version}" for protocol in PROTOCOLS.values()}


def test_a_figure_that_cannot_be_had_keeps_no_other_back(pair):
    """A volume of ten slices has no SSIM in 3D; PSNR and MAE it has."""
    synthesis, reference = (volume[:, :, 10:20] for volume in pair)
    found = measure("default", synthesis, reference)
    assert set(found.missing) == {"ssim_percent", "ms_ssim_percent"}
    assert "needs sides of at least 11" in found.missing["ssim_percent"]
    for column in PROTOCOLS["default"].columns:
        assert np.isnan(found.mean(column)) == (column in found.missing), column


def test_a_range_that_flatters_is_refused_and_plain_errors_are_not(pair):
    """An image in a hundredth of its range has 40 dB for nothing."""
    synthesis, reference = pair
    honest = measure("cola-diff", synthesis, reference)
    assert not honest.missing
    found = measure("cola-diff", synthesis / 100, reference / 100)
    assert set(found.missing) == {"psnr_db", "ssim_percent"}
    assert "more than 4 times what the reference spans" in found.missing["psnr_db"]
    spiked = reference.copy()
    spiked[20, 20, 12] = 50  # one voxel of the truth sets the range of protocol default
    found = measure("default", synthesis, spiked)
    assert {"psnr_db", "ssim_percent", "fsim", "gmsd"} <= set(found.missing)
    assert np.isfinite(found.mean("mae"))
    with pytest.raises(InputError, match="more than 4 times"):
        measure(PROTOCOLS["cola-diff"].only("psnr_db"), synthesis / 100, reference / 100)


def test_tables_say_what_is_missing_and_why(pair, tmp_path):
    synthesis, reference = (volume[:, :, 10:20] for volume in pair)
    results = [
        Result("run", ("T1w",), "T2w", name, measure("default", synthesis, reference)) for name in ("test-1", "test-2")
    ]
    write_tables(results, tmp_path, "default")
    text = (tmp_path / "table.md").read_text()
    assert "SSIM (%) is missing for 2 subjects: images of" in text
    row = next(line for line in text.splitlines() if line.startswith("| run"))
    assert "| – |" in row
    assert "nan" not in text
    content = json.loads((tmp_path / "table.json").read_text())
    assert content["subjects"][0]["ssim_percent"] is None
    assert content["subjects"][0]["psnr_db"] > 0


def test_how_much_the_background_gives_away():
    """Of whole heads: slices with range 1 beside the brain with its own range differ by the background's share."""
    gains = []
    for index in range(2):
        volume = cohort_phantom(index, 6, shape=(64, 80, 60), spacing=2.5).contrast("T2w").astype(np.float64)
        reference = np.clip(volume / np.percentile(volume, 99.9), 0, None)
        mask = brain(Case(reference, reference))
        inside, slices = (measure(name, reference + 0.1 * mask, reference) for name in ("default", "mrdiff"))
        shares = mask.mean((0, 1))[slices.slices]
        expected = -10 * np.log10(shares).mean() - 20 * np.log10(np.ptp(reference[mask]))
        assert slices.mean("psnr_db") - inside.mean("psnr_db") == pytest.approx(expected)
        blurred = ndimage.gaussian_filter(reference, 0.8) * mask
        inside, slices = (measure(name, blurred, reference).mean("psnr_db") for name in ("default", "cola-diff"))
        gains.append(slices - inside)
    assert 5 < np.mean(gains) < 8
    for name in ("mrdiff", "cola-diff"):
        assert "6 to 7 dB" in PROTOCOLS[name].caution


def test_protocols_whose_background_counts_say_so_in_every_table(pair, tmp_path):
    for name in ("mrdiff", "cola-diff", "syndiff", "cg-ddpm"):
        results = [Result(label, ("T1w",), "T2w", "test-1", measure(name, *pair)) for label in ("a", "b")]
        write_tables(results, tmp_path, name)
        assert "Background counts" in (tmp_path / "table.md").read_text()
        assert "Background counts" in markdown(compare(results, name))
        notes = main_table(results, PROTOCOLS[name], {}, None).notes
        assert any("Background counts" in note for note in notes)
    assert not PROTOCOLS["default"].caution
    assert next(iter(PROTOCOLS)) == "default"
