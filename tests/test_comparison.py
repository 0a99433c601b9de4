"""Comparisons: best, marked, corrected by hand, and written to be read back."""

import csv
import json

import numpy as np
import pytest

from scansynth.errors import InputError
from scansynth.evaluation.comparison import compare
from scansynth.evaluation.comparison_tables import latex, markdown, write_comparison
from scansynth.evaluation.tables import COPIED_SOURCE, Result
from scansynth.metrics.protocols import Measurement
from scansynth.metrics.statistics import difference, holm
from scansynth.training.costs import Cost

SUBJECTS = [f"test-{k}" for k in range(8)]
BASE = np.array([20.0, 22.5, 19.0, 25.0, 23.0, 21.0, 24.0, 20.5])


def results_of(label, psnr, ssim, ratio=0.9, target="T2w", subjects=SUBJECTS):
    return [
        Result(
            label,
            ("T1w",),
            target,
            subject,
            Measurement(
                protocol="syndiff",
                protocol_version=1,
                figures={
                    "psnr_db": np.array([a - 1, a + 1]),
                    "ssim_percent": np.array([b, b]),
                    "gradient_energy_ratio": np.array([ratio]),
                },
                slices=np.array([3, 4]),
            ),
        )
        for subject, a, b in zip(subjects, psnr, ssim, strict=True)
    ]


@pytest.fixture
def results():
    gains = np.array([1.0, 2.0, -0.5, 1.5, 0.7, 3.0, 0.2, 1.1])
    return [
        *results_of(COPIED_SOURCE, BASE - 5, BASE, 2.0),
        *results_of("plain", BASE, BASE + 50, 0.6),
        *results_of("better_%", BASE + gains, BASE + 50 + gains, 1.1),
    ]


def test_the_best_of_each_figure_and_the_reference(results):
    found = compare(results, "syndiff")
    rows = {row.label: row for row in found.rows}
    assert found.reference == {"T2w": "better_%"}
    assert rows["better_%"].best == {"psnr_db", "ssim_percent", "gradient_energy_ratio"}
    assert not rows["plain"].best
    assert not rows["better_%"].differences


def test_differences_are_those_of_the_subjects_means_corrected_over_the_targets_tests(results):
    found = compare(results, "syndiff", reference="plain")
    rows = {row.label: row for row in found.rows}
    gains = dict(zip(SUBJECTS, (1.0, 2.0, -0.5, 1.5, 0.7, 3.0, 0.2, 1.1), strict=True))
    own = difference(gains, dict.fromkeys(SUBJECTS, 0.0))
    shown = rows["better_%"].differences["psnr_db"]
    assert (shown.mean, shown.n) == (pytest.approx(own.mean), 8)
    # The family: PSNR, SSIM and gradient energy of the copied source and of the better method.
    # All subjects differ in one sense in four of them: 2/2**8.
    p_values = [2 / 2**8] * 4 + [own.wilcoxon] * 2
    assert shown.wilcoxon == pytest.approx(holm(p_values)[-1])
    assert found.mark(rows["plain"], "psnr_db") == ""
    assert found.mark(rows[COPIED_SOURCE], "psnr_db") == "*"  # 2/2**8 times 6


def test_below_six_subjects_nothing_is_marked(results):
    few = [result for result in results if result.subject in SUBJECTS[:5]]
    found = compare(few, "syndiff", reference="plain")
    assert not any(found.mark(row, column) for row in found.rows for column in row.figures)
    assert "No p-values" in markdown(found)


def test_each_target_has_its_own_reference(results):
    other = [*results_of("plain", BASE + 9, BASE, target="PDw"), *results_of("better_%", BASE, BASE, target="PDw")]
    assert compare([*results, *other], "syndiff").reference == {"T2w": "better_%", "PDw": "plain"}


def test_files_hold_the_same_figures(results, tmp_path):
    found = compare(results, "syndiff", reference="plain", costs={"plain": Cost(12.34, 1.5, 1000)})
    write_comparison(found, tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".csv", ".json", ".md", ".tex"]
    with (tmp_path / "comparison.csv").open(newline="") as stream:
        records = {(row["method"], row["figure"]): row for row in csv.DictReader(stream)}
    assert float(records["plain", "psnr_db"]["mean"]) == pytest.approx(BASE.mean())
    assert records["plain", "psnr_db"]["difference"] == ""
    assert float(records["better_%", "psnr_db"]["difference"]) == pytest.approx(9.0 / 8)
    content = json.loads((tmp_path / "comparison.json").read_text(), parse_constant=pytest.fail)
    assert content["rows"][1]["cost"] == {"seconds": 12.34, "memory_gb": 1.5, "parameters": 1000}
    assert content["reference"] == {"T2w": "plain"}
    text = (tmp_path / "comparison.md").read_text()
    better = next(line for line in text.splitlines() if line.startswith("| better_%"))
    assert "**23.00 ± " in better
    assert "Holm" in text
    assert "8 subjects" in text
    table = latex(found)
    assert r"better\_\%" in table
    assert r"\textbf{23.00 $\pm$ " in table
    assert table.count(r"\\") == 4


def test_accelerated_contrasts_are_named(results, tmp_path):
    write_comparison(compare(results, "syndiff", acceleration=[("T1w", 4), ("T2w", 1)]), tmp_path)
    for suffix in ("md", "tex"):
        assert (
            "T1w accelerated 4×4, as source, copied source and truth."
            in (tmp_path / f"comparison.{suffix}").read_text()
        )
    assert json.loads((tmp_path / "comparison.json").read_text())["acceleration"] == {"T1w": 4}
    with (tmp_path / "comparison.csv").open(newline="") as stream:
        assert {row["acceleration"] for row in csv.DictReader(stream)} == {"T1w 4×4"}


def test_what_cannot_be_compared_is_refused(results):
    with pytest.raises(InputError, match="other"):
        compare(results, "syndiff", reference="other")
    with pytest.raises(InputError, match=r"different subjects.*test-7"):
        compare(results[:-1], "syndiff")
    with pytest.raises(InputError, match="measure it again"):
        compare(results, "mrdiff")
