"""Planted errors that would make a figure or a p-value wrong: each is refused, or said in the table."""

import csv
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

import scansynth
from scansynth.cli import main
from scansynth.data.build_cohort import build_cohort
from scansynth.errors import InputError
from scansynth.evaluation.comparison import compare
from scansynth.evaluation.comparison_tables import markdown, write_comparison
from scansynth.evaluation.evaluate import evaluate
from scansynth.evaluation.tables import Result, summarise, write_tables
from scansynth.metrics.image_metrics import Images, psnr
from scansynth.metrics.protocols import PROTOCOLS, Measurement, measure
from scansynth.metrics.statistics import warn_of
from scansynth.metrics.uncertainty import uncertainty
from scansynth.training.train import train


def trained(tiny, cohort, folder):
    train(tiny("regression"), cohort, folder, device=torch.device("cpu"))
    return scansynth.load(folder, "cpu")


@pytest.fixture(scope="module")
def run(tiny, cohort, tmp_path_factory):
    return trained(tiny, cohort, tmp_path_factory.mktemp("guards") / "first")


def results_of(label, subjects, gain=0.0, slices=range(8, 12), protocol="cola-diff", version=1):
    """Results whose slices differ by subject and slice, the same for the same arguments."""
    found = []
    for number, subject in enumerate(subjects):
        z = np.array(slices)
        figures = 20 + np.sin(number + 0.1 * z) + gain * (1 + 0.2 * np.cos(3 * number + z))
        columns = {"psnr_db": figures, "ssim_percent": 3 * figures, "gradient_energy_ratio": figures[:1] / 20}
        found.append(
            Result(
                label,
                ("T1w",),
                "T2w",
                subject,
                Measurement(protocol=protocol, protocol_version=version, figures=columns, slices=z),
            )
        )
    return found


def two_methods(subjects, **changes):
    return [*results_of("plain", subjects, **changes), *results_of("better", subjects, gain=1.0, **changes)]


def p_values(comparison):
    found = [one for row in comparison.rows for one in row.differences.values()]
    assert found
    return [p for one in found for p in (one.wilcoxon, one.t_test)]


@pytest.fixture
def pair():
    rng = np.random.default_rng(0)
    reference = np.zeros((32, 30, 28))
    reference[4:28, 4:26, 4:24] = 0.4 + 0.4 * rng.random((24, 22, 20))
    return np.clip(reference + 0.05 * rng.standard_normal(reference.shape), 0, 1), reference


# Runs and results that do not belong together


def test_two_runs_of_different_splits_are_refused(run, tiny, cohort, phantoms, tmp_path, capsys):
    swapped = [
        replace(one, split={"val": "test", "test": "val"}.get(one.split, one.split)) for one in phantoms.subjects
    ]
    listing = replace(phantoms, subjects=tuple(swapped))
    other = trained(
        tiny,
        build_cohort(listing, tmp_path / "moved", cohort.settings, contrasts=cohort.contrasts),
        tmp_path / "second",
    )
    with pytest.raises(InputError, match=r"second.*splits \(phantom"):
        evaluate([run, other], cohort)
    folders = [str(run.folder), str(other.folder)]
    assert main(["compare", "--run", *folders, "--cohort", str(cohort.folder), "-o", str(tmp_path / "out")]) == 1
    assert "splits (phantom" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_runs_of_different_preparations_are_refused(run, tiny, cohort, phantoms, tmp_path):
    settings = replace(cohort.settings, intensity="percentile")
    other = trained(
        tiny, build_cohort(phantoms, tmp_path / "other", settings, contrasts=cohort.contrasts), tmp_path / "second"
    )
    with pytest.raises(InputError, match=r"second.*intensity \(syndiff here, percentile there"):
        evaluate([run, other], cohort)


@pytest.mark.parametrize("change", [{"protocol": "syndiff"}, {"version": 2}])
def test_results_of_another_protocol_or_version_are_not_compared(change, tmp_path):
    subjects = [f"test-{k}" for k in range(8)]
    mixed = [*results_of("plain", subjects), *results_of("better", subjects, **change)]
    with pytest.raises(InputError, match="measure it again"):
        compare(mixed, "cola-diff")
    with pytest.raises(InputError, match="measure it again"):
        write_tables(mixed, tmp_path, "cola-diff")
    assert not list(tmp_path.iterdir())


def test_results_on_different_subjects_are_not_compared():
    mixed = [*results_of("plain", [f"test-{k}" for k in range(8)]), *results_of("better", [f"test-{k}" for k in "12"])]
    with pytest.raises(InputError, match=r"different subjects \(test-0, test-3"):
        compare(mixed, "cola-diff")


# Slices as subjects


def test_a_subject_that_stands_twice_is_refused():
    twice = results_of("plain", ["test-1", "test-2", "test-1"])
    with pytest.raises(InputError, match="test-1 stands twice"):
        summarise(twice)
    with pytest.raises(InputError, match="test-1 stands twice"):
        compare(twice, "cola-diff")


@pytest.mark.parametrize("name", ["sub-01_z{:03d}", "sub-01_slice-{}", "sub-01.sl{}", "sub-01 Z {}"])
def test_slices_passed_as_subjects_are_refused_by_their_names(name):
    slices = [name.format(z) for z in range(8)]
    with pytest.raises(InputError, match="slices of one subject, passed as subjects"):
        compare(two_methods(slices, slices=[0]), "cola-diff")


def test_single_slices_of_other_names_are_pointed_out():
    subjects = [f"case{k}" for k in range(8)]
    found = compare(two_methods(subjects, slices=[0]), "cola-diff")
    assert "not independent" in markdown(found)
    assert "not independent" not in markdown(compare(two_methods(subjects), "cola-diff"))
    sites = [f"site_z{k}" for k in range(8)]  # whole volumes may have any name
    assert not compare(two_methods(sites), "cola-diff").cautions


@pytest.mark.parametrize("name", [name for name, one in PROTOCOLS.items() if one.unit == "volume"])
def test_a_slice_passed_as_a_volume_is_refused(name, pair):
    x, y = (volume[:, :, 12:13] for volume in pair)
    mask = np.zeros(y.shape)
    mask[10:15, 10:15] = 1
    with pytest.raises(InputError, match=r"a single slice .* is no volume"):
        measure(name, x, y, masks={"seg": mask}, to_units=lambda image: 3000 * image - 1000)


def test_no_p_value_is_by_slice_unless_asked_for(tmp_path, caplog):
    subjects = [f"test-{k}" for k in range(7)]
    found = compare(two_methods(subjects), "cola-diff")
    assert {one.unit for row in found.rows for one in row.differences.values()} == {"subject"}
    assert {one.n for row in found.rows for one in row.differences.values()} == {7}
    assert "slice" not in caplog.text
    write_comparison(found, tmp_path)
    assert not list(tmp_path.glob("*by_slice*"))


def test_tests_by_slice_stand_apart_and_say_that_slices_are_not_independent(tmp_path, caplog):
    warn_of.cache_clear()
    results = two_methods([f"test-{k}" for k in range(7)])
    found = compare(results, "cola-diff", unit="slice")
    assert "not independent" in caplog.text
    differences = [one for row in found.rows for one in row.differences.values()]
    assert {(one.n, one.unit) for one in differences} == {(28, "slice")}
    assert list(found.columns) == ["psnr_db", "ssim_percent"]  # the gradient energy is of a whole subject
    write_comparison(found, tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {"comparison_by_slice"}
    text = (tmp_path / "comparison_by_slice.md").read_text()
    assert text.startswith("**These are tests over slices.")
    assert "28 slices of 7 subjects" in text
    assert "Wilcoxon" in text
    assert "not independent" in (tmp_path / "comparison_by_slice.tex").read_text()
    assert "not independent" in (tmp_path / "comparison_by_slice.json").read_text()
    with (tmp_path / "comparison_by_slice.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["unit"] for row in rows} == {"slice"}
    plain = np.concatenate([one.measurement.figures["psnr_db"] for one in results if one.label == "plain"])
    (row,) = [row for row in rows if (row["method"], row["figure"]) == ("plain", "psnr_db")]
    assert float(row["mean"]) == pytest.approx(plain.mean())
    by_subject = compare(results, "cola-diff")
    assert min(p for p in p_values(found) if p is not None) < min(p for p in p_values(by_subject) if p is not None)


def test_tests_by_slice_are_of_protocols_of_slices_only(tmp_path, capsys):
    nowhere = str(tmp_path / "nowhere")
    assert main(["compare", "--run", nowhere, "--cohort", nowhere, "-o", nowhere, "--by-slice"]) == 1
    assert "default measures volumes" in capsys.readouterr().err
    figures = {column: np.ones(1) for column in PROTOCOLS["default"].columns}
    results = [
        Result(
            label,
            ("T1w",),
            "T2w",
            f"test-{k}",
            Measurement(protocol="default", protocol_version=PROTOCOLS["default"].version, figures=figures),
        )
        for label in ("plain", "better")
        for k in range(8)
    ]
    with pytest.raises(InputError, match="protocol of slices"):
        compare(results, "default", unit="slice")


def test_compare_by_slice_from_the_command_line(run, tiny, cohort, tmp_path, capsys):
    other = trained(tiny, cohort, tmp_path / "second")
    arguments = ["compare", "--run", str(run.folder), str(other.folder), "--cohort", str(cohort.folder)]
    arguments += ["-o", str(tmp_path / "out"), "--protocol", "syndiff", "--pictures", "0", "--device", "cpu"]
    assert main([*arguments, "--by-slice"]) == 0
    assert (tmp_path / "out" / "comparison.md").is_file()
    text = (tmp_path / "out" / "comparison_by_slice.md").read_text()
    assert "tests over slices" in text
    assert "No p-values" in text  # one test subject, of many slices
    assert "tests over slices" in capsys.readouterr().out


# Fewer subjects than a test can be of


@pytest.mark.parametrize("unit", ["subject", "slice"])
def test_fewer_than_six_subjects_have_no_p_value(unit):
    subjects = [f"test-{k}" for k in range(6)]
    few, enough = (compare(two_methods(some), "cola-diff", unit=unit) for some in (subjects[:5], subjects))
    assert set(p_values(few)) == {None}
    assert "No p-values" in markdown(few)
    assert not any(mark in markdown(few) for mark in ("p <", "***"))
    assert None not in p_values(enough)


# Images that cannot be measured


def test_a_mask_without_a_voxel_is_refused(pair):
    empty = np.zeros(pair[1].shape)
    with pytest.raises(InputError, match="no voxel"):
        measure("default", *pair, masks={"brain": empty})
    with pytest.raises(InputError, match="tumour has no voxel"):
        measure("brasyn", *pair, masks={"seg": empty})
    with pytest.raises(InputError, match="no voxel"):
        Images.of(pair[0][None], pair[1][None], 1.0, mask=empty[None])
    with pytest.raises(InputError, match="no voxel"):
        uncertainty(np.stack(pair), pair[1], empty)


def test_images_on_different_grids_are_refused(pair, tmp_path, capsys):
    x, y = pair
    with pytest.raises(InputError, match="one grid"):
        measure("default", x[1:], y)
    with pytest.raises(InputError, match=r"mask brain .* different grids"):
        measure("default", x, y, masks={"brain": np.ones(x[1:].shape)})
    with pytest.raises(InputError, match="different grids"):
        uncertainty(np.stack([x, x])[:, 1:], y, y > 0)
    # The same shape, but 5 mm apart.
    for name, volume, shift in (("synthesis", x, 5.0), ("truth", y, 0.0)):
        affine = np.eye(4)
        affine[0, 3] = shift
        nib.save(nib.Nifti1Image(volume.astype(np.float32), affine), tmp_path / f"{name}.nii.gz")
    files = [str(tmp_path / f"{name}.nii.gz") for name in ("synthesis", "truth")]
    assert main(["evaluate", "--spread", *files]) == 1
    assert "grid" in capsys.readouterr().err
    assert main(["evaluate", "--spread", files[1], files[1]]) == 0


@pytest.mark.parametrize("data_range", [None, 0.0, -1.0, np.nan, np.inf])
def test_a_metric_without_a_range_is_refused(data_range, pair):
    x, y = (volume[None] for volume in pair)
    with pytest.raises(InputError, match="name the positive range"):
        psnr(Images.of(x, y, data_range))


def test_a_reference_without_a_range_is_refused(pair):
    with pytest.raises(InputError, match=r"data range 0\.0"):
        measure("default", pair[0], np.full(pair[1].shape, 0.5))
