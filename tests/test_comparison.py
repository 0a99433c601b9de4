"""Comparisons: best, marked, corrected by hand, and written to be read back."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from scansynth.errors import InputError
from scansynth.evaluation.arms import Arm
from scansynth.evaluation.comparison import compare
from scansynth.evaluation.comparison_tables import latex, markdown, write_comparison
from scansynth.evaluation.tables import COPIED_SOURCE, Result, Spread, write_tables
from scansynth.metrics.protocols import PROTOCOLS, Measurement
from scansynth.metrics.statistics import difference, holm
from scansynth.report.figures import headings
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
    # The ratio is nearest to 1, but says how much there is and not whether it is right: it is never marked.
    assert rows["better_%"].best == {"psnr_db", "ssim_percent"}
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
    assert rows[COPIED_SOURCE].differences["psnr_db"].wilcoxon < 0.05  # 2/2**8 times 6
    # One training each: whatever the subjects say, it is about these weights.
    assert not any(found.mark(row, column) for row in found.rows for column in row.figures)
    text = markdown(found)
    assert "No stars for plain, better_%, nor against them: fewer than 3 trainings" in text
    assert "about these weights" in text
    assert "***" not in text.replace("**23.00", "")


def trained(label, gains, spread=0.0, seeds=3):
    """An arm whose trainings differ by so much of their own in all subjects, and its results."""
    offsets = spread * (np.arange(seeds) - (seeds - 1) / 2)
    names = tuple(f"{label}-{seed}" for seed in range(seeds))
    results = [
        result
        for name, offset in zip(names, offsets, strict=True)
        for result in results_of(name, BASE + gains + offset, BASE + 50 + gains + offset)
    ]
    return Arm(label, names), results


GAINS = np.array([1.0, 1.2, 0.8, 1.1, 0.9, 1.3, 0.7, 1.0])


def test_stars_need_three_trainings_that_agree():
    base, plain = trained("plain", 0 * GAINS, 0.05)
    arm, better = trained("better", GAINS, 0.05)
    found = compare([*plain, *better], "syndiff", arms=[base, arm], reference="plain")
    plain_row, row = found.rows
    assert (row.label, row.runs, row.subjects) == ("better", arm.runs, 8)
    assert row.figures["psnr_db"].mean == pytest.approx((BASE + GAINS).mean())
    assert row.trainings["psnr_db"].std == pytest.approx(0.05)
    assert row.differences["psnr_db"].mean == pytest.approx(1.0)
    assert found.mark(row, "psnr_db") == "***"
    text = markdown(found)
    assert "***: " not in text.splitlines()[0]
    assert "min F′" in text
    assert "better: 3 trainings (better-0, better-1, better-2), equal but for the seed." in text
    # Two trainings of one of them are too few.
    two = compare([*plain, *better[:16]], "syndiff", arms=[base, Arm("better", arm.runs[:2])], reference="plain")
    assert not two.mark(two.rows[1], "psnr_db")
    assert two.rows[1].differences["psnr_db"].wilcoxon < 0.05
    assert plain_row.best == frozenset()


def test_trainings_that_scatter_take_the_stars_away():
    base, plain = trained("plain", 0 * GAINS, 2.0)
    arm, better = trained("better", GAINS, 2.0)
    found = compare([*plain, *better], "syndiff", arms=[base, arm], reference="plain")
    row = found.rows[1]
    assert row.differences["psnr_db"].wilcoxon < 0.05  # these weights: all subjects agree
    assert row.differences["psnr_db"].over_trainings > 0.2
    assert not found.mark(row, "psnr_db")


def test_a_copied_source_is_not_trained():
    arm, better = trained("better", GAINS, 0.05)
    found = compare([*results_of(COPIED_SOURCE, BASE - 5, BASE, 2.0), *better], "syndiff", arms=[arm])
    assert found.mark(found.rows[0], "psnr_db") == "***"
    assert found.rows[0].runs == ()
    assert "No stars" not in markdown(found)


def test_a_run_may_be_named_as_the_reference_of_its_arm():
    arm, better = trained("better", GAINS)
    found = compare([*better, *results_of("plain", BASE, BASE)], "syndiff", arms=[arm], reference="better-1")
    assert found.reference == {"T2w": "better"}


def test_trainings_of_one_arm_on_other_subjects_are_refused():
    arm, better = trained("better", GAINS)
    with pytest.raises(InputError, match=r"better-0 and better-2 were measured on different subjects \(test-7"):
        compare([*results_of("plain", BASE, BASE), *better[:-1]], "syndiff", arms=[arm])


def test_a_ratio_is_compared_by_its_distance_from_one():
    """2 and ½ are as far; their difference is none, though their values differ in every subject."""
    rows = [*results_of("rough", BASE, BASE, 2.0), *results_of("smooth", BASE, BASE, 0.5)]
    found = compare(rows, "syndiff", reference="smooth").rows[0].differences["gradient_energy_ratio"]
    assert found.mean == pytest.approx(0)
    assert found.wilcoxon == 1
    near = [*results_of("near", BASE, BASE, 1.1), *results_of("smooth", BASE, BASE, 0.8)]
    shown = compare(near, "syndiff", reference="smooth")
    assert shown.rows[0].differences["gradient_energy_ratio"].mean == pytest.approx(np.log(1.1) + np.log(0.8))
    assert "gradient energy, distance from 1" in markdown(shown)


def test_which_way_each_figure_is_better():
    better = {column: metric.better for protocol in PROTOCOLS.values() for column, metric in protocol.columns.items()}
    assert {column for column, way in better.items() if way == "less"} == {"mae", "mae_hu", "nmse", "gmsd"}
    assert {column for column, way in better.items() if way == "one"} == {"gradient_energy_ratio"}
    arrows = dict(zip(PROTOCOLS["default"].columns, headings(PROTOCOLS["default"]), strict=True))
    assert [arrows[name][-1] for name in ("psnr_db", "mae", "gradient_energy_ratio")] == ["↑", "↓", "1"]


def test_a_figure_that_a_subject_lacks_is_given_over_the_others_and_said(results, tmp_path):
    """An infinite PSNR (equal images) and a missing SSIM cost neither the row nor a word."""
    spoilt = list(results)
    place = next(k for k, one in enumerate(spoilt) if (one.label, one.subject) == ("better_%", "test-2"))
    figures = {**spoilt[place].measurement.figures, "psnr_db": np.array([np.inf, 20.0])}
    spoilt[place] = replace(spoilt[place], measurement=replace(spoilt[place].measurement, figures=figures))
    place = next(k for k, one in enumerate(spoilt) if (one.label, one.subject) == ("plain", "test-5"))
    one = spoilt[place].measurement
    figures, missing = {**one.figures, "ssim_percent": np.full(2, np.nan)}, {"ssim_percent": "images too small"}
    spoilt[place] = replace(spoilt[place], measurement=replace(one, figures=figures, missing=missing))
    found = compare(spoilt, "syndiff", reference="plain")
    rows = {row.label: row for row in found.rows}
    own = rows["better_%"]
    others = [k for k in range(8) if k != 2]
    gains = np.array([1.0, 2.0, -0.5, 1.5, 0.7, 3.0, 0.2, 1.1])
    assert own.figures["psnr_db"] == Spread(
        pytest.approx((BASE + gains)[others].mean()), pytest.approx((BASE + gains)[others].std(ddof=1)), 7
    )
    assert (own.differences["psnr_db"].n, own.differences["psnr_db"].mean) == (7, pytest.approx(gains[others].mean()))
    assert own.differences["ssim_percent"].n == 7
    assert not any(row.best & {"psnr_db", "ssim_percent"} for row in found.rows)
    write_comparison(found, tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    assert "(n = 7)" in text
    assert "PSNR (dB) of better_%, T1w→T2w is infinite for 1 subject (an image, or one of its slices" in text
    assert "others: test-2." in text
    assert "SSIM (%) is missing for 1 subject: images too small. Left out of its means: test-5." in text
    assert "no best is marked" in text
    assert "infinite for 1 subject" in (tmp_path / "comparison.tex").read_text()
    assert len(json.loads((tmp_path / "comparison.json").read_text(), parse_constant=pytest.fail)["left_out"]) == 3
    with (tmp_path / "comparison.csv").open(newline="") as stream:
        (row,) = [row for row in csv.DictReader(stream) if (row["method"], row["figure"]) == ("better_%", "psnr_db")]
    assert row["n"] == "7"
    # The same where nothing is compared.
    write_tables(spoilt, tmp_path, "syndiff")
    table = (tmp_path / "table.md").read_text()
    assert "(n = 7)" in table
    assert "is infinite for 1 subject" in table


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
