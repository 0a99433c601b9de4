"""The tutorial, as a newcomer types it: what it promises is there, and the first result beats the copied source."""

import csv
import json

import pytest

from pages import run_page


@pytest.mark.slow
def test_the_tutorial_gives_what_it_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def instead(arguments):
        """The first training is as long as it says; the second only has to run."""
        return ["--training.steps", "5"] if arguments[:2] == ["train", "flow_small"] else []

    run_page("docs/tutorial.md", {}, instead)
    made = tmp_path / "filled/sub-010/anat/sub-010_desc-synthetic_T2w.nii.gz"
    assert made.exists()
    assert json.loads(made.with_name(made.name.replace(".nii.gz", ".json")).read_text())["synthetic"] is True
    for name in ("filled/sub-010_synthetic.html", "cohort/census.png", "evaluation/report.html"):
        assert (tmp_path / name).exists(), name
    listed = (tmp_path / "filled/contrasts.tsv").read_text().splitlines()
    assert [line.split("\t")[:2] for line in listed if "\tsynthetic\t" in line] == [["sub-010", "T2w"]]
    with (tmp_path / "evaluation/table.csv").open(encoding="utf-8") as file:
        rows = {(row["label"], row["target"], row["subject"]): float(row["psnr_db"]) for row in csv.DictReader(file)}
    copied = {key[1:]: figure for key, figure in rows.items() if key[0] == "copied source"}
    assert copied
    assert all(rows["first", *key] > figure + 5 for key, figure in copied.items())
    assert {"draws.nii.gz", "draws_std.nii.gz", "mean.nii.gz"} <= {path.name for path in tmp_path.iterdir()}
