"""Downstream use: Dice, a segmenter that learns, a segmenter of the user's, and the tables."""

import csv
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import scansynth
from scansynth.cli import main
from scansynth.data.build_cohort import build_cohort
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.errors import InputError
from scansynth.evaluation import samples
from scansynth.evaluation.downstream import (
    ACQUIRED,
    WHOLE,
    WITHOUT,
    Dice,
    as_column,
    dice,
    measure_downstream,
    write_downstream,
)
from scansynth.evaluation.segmenter import command_segmenter, segmentation_loss, train_segmenter
from scansynth.training.train import train

THRESHOLD = """
import sys
import nibabel, numpy
image = nibabel.load(sys.argv[1])
labels = (image.get_fdata() > float(sys.argv[3])).astype(numpy.uint8)
nibabel.save(nibabel.Nifti1Image(labels[:, :, : int(sys.argv[4])], image.affine), sys.argv[2])
"""


@pytest.fixture(scope="module")
def tumours(tmp_path_factory):
    """Eight phantoms with a tumour: T1w, FLAIR and its mask."""
    folder = tmp_path_factory.mktemp("tumours")
    write_phantom_cohort(folder, 8, ("T1w", "FLAIR"), layout="BraTS", shape=(40, 48, 32), spacing=4.5, tumour_share=1.0)
    settings = Preparation(size=(40, 48, None), intensity="percentile")
    return build_cohort(
        find_subjects(folder), tmp_path_factory.mktemp("cohort"), settings, fractions=(0.5, 0.125, 0.375)
    )


@pytest.fixture(scope="module")
def run(tumours, tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "regression"
    train(replace(tiny("regression"), contrasts=("T1w", "FLAIR")), tumours, folder, device=torch.device("cpu"))
    return scansynth.load(folder, "cpu")


def test_dice_is_the_overlap_of_each_label_and_of_all():
    truth, found = np.zeros((2, 4, 4, 4), np.uint8)
    truth[0], truth[1] = 1, 4  # 16 voxels each
    found[0], found[1, :2] = 1, 1
    values = dice(found, truth, [1, 2, 4])
    assert values["1"] == pytest.approx(2 * 16 / (24 + 16))
    assert values["4"] == 0
    assert np.isnan(values["2"])
    assert values[WHOLE] == pytest.approx(2 * 24 / (24 + 32))
    assert dice(truth > 0, truth > 0, [1]) == {WHOLE: 1.0}


def test_the_loss_is_zero_for_the_truth_and_near_two_for_its_opposite():
    truth = torch.randint(0, 2, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    sure = 50.0 * torch.stack([1 - truth, truth], dim=1).float()
    assert segmentation_loss(sure, truth).item() == pytest.approx(0, abs=1e-5)
    assert segmentation_loss(sure.flip(1), truth).item() > 40


@pytest.mark.slow
def test_a_segmenter_learns_the_tumour_and_needs_the_contrast_that_shows_it(tumours):
    segmenter = train_segmenter(tumours, ("T1w", "FLAIR"), "seg", steps=80)
    assert segmenter.labels == (1, 2, 4)
    whole = []
    for wrong in (False, True):
        values = []
        for subject in tumours.subjects("test"):
            images = {name: tumours.read(subject, name) for name in ("T1w", "FLAIR")}
            if wrong:  # another patient's FLAIR in its place
                images["FLAIR"] = tumours.read(tumours.subjects("train")[0], "FLAIR")
            found = segmenter(images, tumours.affine(subject, "T1w"))
            values.append(dice(found, tumours.read_mask(subject, "seg"), segmenter.labels)[WHOLE])
        whole.append(np.mean(values))
    assert whole[0] > 0.6
    assert whole[1] < whole[0] - 0.2


def test_targets_are_acquired_synthetic_and_left_out(run, tumours, tmp_path):
    found = measure_downstream([run], tumours, "seg", target="FLAIR", steps=3)
    subjects = tumours.subjects("test")
    assert [(one.label, one.subject) for one in found if one.label == WITHOUT] == [(WITHOUT, name) for name in subjects]
    assert {one.label for one in found} == {ACQUIRED, "regression", WITHOUT}
    assert {one.target for one in found} == {"FLAIR"}
    assert all(list(one.dice) == [WHOLE, "1", "2", "4"] for one in found)


def test_a_segmenter_of_the_users_is_a_command(run, tumours, tmp_path, capsys):
    (tmp_path / "threshold.py").write_text(THRESHOLD)
    command = f"{sys.executable} {tmp_path / 'threshold.py'} {{FLAIR}} {{output}} 0.6 99"
    arguments = ["--run", str(run.folder), "--cohort", str(tumours.folder), "-o", str(tmp_path / "out")]
    arguments += ["--target", "FLAIR", "--pictures", "0", "--dice", "seg", "--segmenter", command]
    assert main(["evaluate", *arguments]) == 0
    assert "Dice of mask `seg` in 3 subjects" in capsys.readouterr().out
    with (tmp_path / "out" / "dice.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["contrast"] for row in rows} == {ACQUIRED, "regression"}  # a command cannot be trained without it
    for row in rows:
        if row["contrast"] == ACQUIRED:
            own = tumours.read(row["subject"], "FLAIR") > 0.6
            truth = tumours.read_mask(row["subject"], "seg") > 0
            assert float(row[WHOLE]) == pytest.approx(2 * (own & truth).sum() / (own.sum() + truth.sum()))
    assert "| FLAIR | regression |" in (tmp_path / "out" / "dice.md").read_text()
    page = (tmp_path / "out" / "report.html").read_text()
    figure = np.mean([float(row[WHOLE]) for row in rows if row["contrast"] == "regression"])
    section = page[page.index('<section id="downstream"') :]
    assert f"{figure:.3f}" in section[: section.index("</section>")]
    section = page[page.index('<section id="regions"') :]
    assert "seg-4" in section[: section.index("</section>")]
    assert 'id="noise"' not in page


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("segment {FLAIR}", r"as \{output\}"),
        ("no-such-program {FLAIR} {output}", "cannot be run"),
        (f"{sys.executable} -c 'raise SystemExit(3)' {{output}}", "ended with 3 and wrote no output"),
        (f"{sys.executable} SCRIPT {{PDw}} {{output}} 0.5 99", "no contrast 'PDw' here; there are T1w, FLAIR"),
        (f"{sys.executable} SCRIPT {{FLAIR}} {{output}} 0.5 3", "different grids"),
    ],
)
def test_a_command_that_does_not_do_it_says_why(command, message, tumours, tmp_path):
    (tmp_path / "script.py").write_text(THRESHOLD)
    subject = tumours.subjects("test")[0]
    images = {name: tumours.read(subject, name) for name in ("T1w", "FLAIR")}
    with pytest.raises(InputError, match=message):
        command_segmenter(command.replace("SCRIPT", str(tmp_path / "script.py")))(images, np.eye(4))


def test_masks_that_are_not_there_are_named(run, tumours, cohort, tmp_path, capsys):
    with pytest.raises(InputError, match="masks that there are: none"):
        train_segmenter(cohort, ("T1w", "T2w"), "seg", steps=1)
    arguments = ["--run", str(run.folder), "--cohort", str(tumours.folder), "-o", str(tmp_path / "out")]
    assert main(["evaluate", *arguments, "--dice", "lesion"]) == 1
    assert "masks that there are: seg" in capsys.readouterr().err
    assert main(["evaluate", *arguments, "--segmenter", "x {output}"]) == 1
    assert "goes with --dice" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def evaluated(run, tumours, folder, *further):
    arguments = ["--run", str(run.folder), "--cohort", str(tumours.folder), "-o", str(folder), "--target", "FLAIR"]
    assert main(["evaluate", *arguments, "--pictures", "0", "--device", "cpu", *further]) == 0
    return (folder / "table.md").read_text()


def test_dice_stands_in_the_default_table_where_it_is_cheap(run, tumours, tmp_path, monkeypatch):
    """The evaluation is made out to have taken long; the segmenter trains three steps."""

    def quickly(*arguments, steps, **options):
        return train_segmenter(*arguments, steps=min(steps, 3), **options)

    monkeypatch.setattr("scansynth.evaluation.downstream.train_segmenter", quickly)
    monkeypatch.setattr("scansynth.evaluation.evaluate.Evaluation.seconds", 1e6)
    drawn = []

    def synthesise(*arguments, **options):
        drawn.append(options["target"])
        return made(*arguments, **options)

    made = samples.synthesise
    monkeypatch.setattr(samples, "synthesise", synthesise)
    text = evaluated(run, tumours, tmp_path)
    assert len(drawn) == len(tumours.subjects("test"))  # each once: Dice is of the same syntheses
    lines = [line for line in text.splitlines() if line.startswith("|")]
    place = [cell.strip() for cell in lines[0].split("|")].index("Dice, seg")
    cells = {line.split("|")[1].strip(): line.split("|")[place].strip() for line in lines[2:]}
    assert cells["copied source"] == "–"
    with (tmp_path / "dice.csv").open(newline="") as stream:
        own = [float(row[WHOLE]) for row in csv.DictReader(stream) if row["contrast"] == "regression"]
    assert cells["regression"].startswith(f"{np.mean(own):.3f}")
    assert "FLAIR: acquired 0." in text
    assert "left out" in text


def test_dice_that_costs_too_much_is_offered(run, tumours, tmp_path):
    text = evaluated(run, tumours, tmp_path)
    assert "Dice of `seg`: not taken unasked" in text
    assert "`--dice seg` takes it." in text
    assert not (tmp_path / "dice.md").exists()
    assert "not taken unasked" in (tmp_path / "report.html").read_text()
    assert "not taken unasked" not in evaluated(run, tumours, tmp_path / "other", "--protocol", "syndiff")


def test_without_labels_the_table_says_why_there_is_no_dice(cohort, tiny, tmp_path):
    train(tiny("regression"), cohort, tmp_path / "run", device=torch.device("cpu"))
    arguments = ["--run", str(tmp_path / "run"), "--cohort", str(cohort.folder), "-o", str(tmp_path / "out")]
    assert main(["evaluate", *arguments, "--pictures", "0", "--device", "cpu"]) == 0
    assert "Dice of a segmenter: none, for the subjects have no mask" in (tmp_path / "out" / "table.md").read_text()


def test_subjects_without_the_mask_are_named(tumours, tmp_path):
    found = [Dice("run", "FLAIR", "test-1", {WHOLE: 0.5}), Dice(ACQUIRED, "FLAIR", "test-1", {WHOLE: 0.7})]
    write_downstream(found, "seg", None, tmp_path, missing=["test-2", "test-3"])
    assert "Left out, for they lack the mask or a contrast: test-2, test-3." in (tmp_path / "dice.md").read_text()
    assert "without test-2, test-3" in as_column(found, "seg", None, ["test-2", "test-3"]).note
    write_downstream(found, "seg", "mine {output}", tmp_path)
    assert "no row says what leaving it out costs" in (tmp_path / "dice.md").read_text()
