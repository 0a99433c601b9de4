"""Comparison tables: what is written parses back to figures computed by hand."""

import csv
import json

import numpy as np
import pytest

from scansynth.errors import InputError
from scansynth.evaluation.tables import COPIED_SOURCE, Result, summarise, write_tables
from scansynth.metrics.protocols import Measurement


def result(label: str, subject: str, psnr: list[float], ssim: list[float], ratio: float = 1.0, **changes) -> Result:
    measurement = Measurement(
        protocol=changes.get("protocol", "syndiff"),
        protocol_version=changes.get("version", 1),
        figures={
            "psnr_db": np.array(psnr),
            "ssim_percent": np.array(ssim),
            "gradient_energy_ratio": np.array([ratio]),
        },
        slices=np.array(changes.get("slices", range(10, 10 + len(psnr)))),
        voxels=100 * len(psnr),
    )
    return Result(label, ("T1w", "FLAIR"), changes.get("target", "T2w"), subject, measurement)


@pytest.fixture
def results() -> list[Result]:
    return [
        result("run|a", "test-1", [20.0, 22.0, 24.0], [80.0, 82.0, 84.0], 0.8),
        result("run|a", "test-2", [30.0], [90.0], 1.0),
        result(COPIED_SOURCE, "test-1", [10.0, 12.0, 14.0], [50.0, 52.0, 54.0]),
        result(COPIED_SOURCE, "test-2", [20.0], [60.0]),
    ]


def test_summary_by_subject_and_by_slice(results):
    copied, run = summarise(results)
    assert (copied.label, run.label) == (COPIED_SOURCE, "run|a")
    assert (run.direction, run.n_subjects, run.n_slices) == ("T1w+FLAIR→T2w", 2, 4)
    # Subjects 22 and 30; slices 20, 22, 24, 30.
    psnr, psnr_slices = run.subjects["psnr_db"], run.slices["psnr_db"]
    assert (psnr.mean, psnr.std) == (26.0, pytest.approx(np.sqrt(32)))
    assert (psnr_slices.mean, psnr_slices.std) == (24.0, pytest.approx(np.sqrt(56 / 3)))
    assert (run.subjects["ssim_percent"].mean, run.subjects["ssim_percent"].std) == (86.0, pytest.approx(np.sqrt(32)))
    assert run.subjects["gradient_energy_ratio"].mean == pytest.approx(0.9)
    assert list(run.slices) == ["psnr_db", "ssim_percent"]
    assert (copied.subjects["psnr_db"].mean, copied.slices["ssim_percent"].mean) == (16.0, 54.0)


def test_targets_keep_their_order_and_copied_sources_come_first(results):
    other = [
        result("run", "test-1", [1.0], [1.0], target="PDw"),
        result(COPIED_SOURCE, "test-1", [1.0], [1.0], target="PDw"),
    ]
    rows = [(row.label, row.direction[-3:]) for row in summarise([*results[:2], *other, *results[2:]])]
    assert rows == [(COPIED_SOURCE, "T2w"), ("run|a", "T2w"), (COPIED_SOURCE, "PDw"), ("run", "PDw")]


def test_files_parse_back(tmp_path, results):
    folder = tmp_path / "evaluation"
    write_tables(results, folder, "syndiff")
    assert sorted(path.name for path in folder.iterdir()) == ["slices.csv", "table.csv", "table.json", "table.md"]

    with (folder / "table.csv").open(newline="") as stream:
        subjects = list(csv.DictReader(stream))
    assert [(row["label"], row["subject"]) for row in subjects] == [
        (COPIED_SOURCE, "test-1"), (COPIED_SOURCE, "test-2"), ("run|a", "test-1"), ("run|a", "test-2"),
    ]  # fmt: skip
    assert subjects[2] == {
        "protocol": "syndiff", "protocol_version": "1", "acceleration": "", "label": "run|a", "sources": "T1w+FLAIR",
        "target": "T2w", "n_subjects": "2", "subject": "test-1", "n_slices": "3", "n_voxels": "300", "psnr_db": "22.0",
        "ssim_percent": "82.0", "gradient_energy_ratio": "0.8",
    }  # fmt: skip

    with (folder / "slices.csv").open(newline="") as stream:
        slices = list(csv.DictReader(stream))
    assert len(slices) == 8
    of_run = [row for row in slices if row["label"] == "run|a" and row["subject"] == "test-1"]
    assert [(row["slice"], row["psnr_db"], row["ssim_percent"]) for row in of_run] == [
        ("10", "20.0", "80.0"), ("11", "22.0", "82.0"), ("12", "24.0", "84.0"),
    ]  # fmt: skip
    assert {(row["protocol"], row["protocol_version"], row["n_subjects"]) for row in slices} == {("syndiff", "1", "2")}

    content = json.loads((folder / "table.json").read_text())
    assert (content["protocol"]["name"], content["protocol"]["version"]) == ("syndiff", 1)
    assert "reference's maximum" in content["protocol"]["intensities"]
    assert content["rows"][1]["subjects"]["psnr_db"] == {"mean": 26.0, "std": pytest.approx(np.sqrt(32))}
    assert (content["rows"][1]["n_subjects"], content["rows"][1]["n_slices"]) == (2, 4)
    assert content["subjects"][2]["psnr_db"] == 22.0

    markdown = (folder / "table.md").read_text()
    assert "Protocol `syndiff`, version 1" in markdown
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(table) == 4
    cells = [cell.strip() for cell in table[3].replace("\\|", "/").strip("|").split("|")]
    assert cells == [
        "run/a", "T1w+FLAIR→T2w", "2", "4", "26.00 ± 5.66", "86.00 ± 5.66", "0.900 ± 0.141",
        "24.00 ± 4.32", "84.00 ± 4.32",
    ]  # fmt: skip
    assert "cannot be compared" not in markdown


def test_accelerated_contrasts_are_named(tmp_path, results):
    write_tables(results, tmp_path, "syndiff", acceleration=[("T1w", 1), ("FLAIR", 2), ("T2w", 4)])
    note = "FLAIR accelerated 2×2, T2w accelerated 4×4, as source, copied source and truth."
    assert note in (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "table.json").read_text())["acceleration"] == {"FLAIR": 2, "T2w": 4}
    for name in ("table.csv", "slices.csv"):
        with (tmp_path / name).open(newline="") as stream:
            assert {row["acceleration"] for row in csv.DictReader(stream)} == {"FLAIR 2×2, T2w 4×4"}
    write_tables(results, tmp_path, "syndiff", acceleration=[("T1w", 1), ("FLAIR", 1), ("T2w", 1)])
    assert "accelerated" not in (tmp_path / "table.md").read_text()
    assert json.loads((tmp_path / "table.json").read_text())["acceleration"] == {}


def test_one_subject_has_no_deviation_and_infinity_is_kept(tmp_path):
    write_tables([result("run", "test-1", [np.inf, 20.0], [100.0, 90.0])], tmp_path, "syndiff")
    line = (tmp_path / "table.md").read_text().splitlines()[4]
    assert [cell.strip() for cell in line.split("|")][5:7] == ["inf", "95.00"]
    content = json.loads((tmp_path / "table.json").read_text(), parse_constant=pytest.fail)
    assert content["rows"][0]["subjects"]["psnr_db"] == {"mean": "inf", "std": None}
    assert float(content["subjects"][0]["psnr_db"]) == np.inf
    assert ",inf,100.0" in (tmp_path / "slices.csv").read_text()


def test_rows_of_different_subjects_are_marked(tmp_path, results):
    write_tables(results[:3], tmp_path, "syndiff")
    assert "cannot be compared" in (tmp_path / "table.md").read_text()
    moved = result(COPIED_SOURCE, "test-2", [20.0], [60.0], slices=[11])
    write_tables([*results[:3], moved], tmp_path, "syndiff")
    assert "cannot be compared" in (tmp_path / "table.md").read_text()


def test_refusals_leave_the_old_table(tmp_path, results):
    write_tables(results, tmp_path, "syndiff")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for wrong, message in (
        ([], "no result"),
        ([*results, results[0]], "stands twice"),
        ([result("run", "test-1", [1.0], [1.0], version=0)], "measure it again"),
        ([result("run", "test-1", [1.0], [1.0], protocol="other")], "measure it again"),
    ):
        with pytest.raises(InputError, match=message):
            write_tables(wrong, tmp_path, "syndiff")
    with pytest.raises(InputError, match="unknown"):
        write_tables(results, tmp_path, "other")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
