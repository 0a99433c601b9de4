"""Acquisition parameters on their way from sidecars, tables and usual values to a batch; units checked."""

import json
import logging

import pytest
import torch

from scansynth.cli import main
from scansynth.data.acquisitions import Acquisitions, MissingFieldError, fields_of, read_acquisition, read_table
from scansynth.data.build_cohort import build_cohort
from scansynth.data.datasets import SliceDataset
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.errors import InputError
from scansynth.physics.acquisition import DEFAULTS, USUAL

SPIN_ECHO = {"T1w": "spin_echo", "T2w": "spin_echo", "T3w": "spin_echo"}
MP_RAGE = {
    "RepetitionTime": 2.3,
    "RepetitionTimePreparation": 2.4,
    "RepetitionTimeExcitation": 0.0067,
    "EchoTime": 0.003,
    "InversionTime": 0.9,
    "FlipAngle": 9,
}


def test_seconds_become_milliseconds_and_clear_fields_count():
    inversion = read_acquisition(MP_RAGE, "inversion_recovery")
    assert (inversion.tr, inversion.te, inversion.ti) == pytest.approx((2400, 3, 900))
    gradient = read_acquisition(MP_RAGE, "spoiled_gradient_echo")
    assert (gradient.tr, gradient.te, gradient.flip_angle) == pytest.approx((6.7, 3, 9))
    plain = read_acquisition({"RepetitionTime": 8.2, "EchoTime": 0.1}, "spin_echo")
    assert (plain.tr, plain.te, plain.ti, plain.flip_angle) == (8200, 100, None, None)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"RepetitionTime": 450, "EchoTime": 0.01}, "RepetitionTime 450 is more than 60 s"),
        ({"RepetitionTime": 0.45, "EchoTime": 9.8}, "EchoTime 9.8 is more than 1 s"),
        ({"RepetitionTime": "fast", "EchoTime": 0.01}, "'fast' is not a number"),
        ({"RepetitionTime": True, "EchoTime": 0.01}, "True is not a number"),
        ({"RepetitionTime": 0, "EchoTime": 0.01}, "TR must be > 0"),
    ],
)
def test_wrong_units_and_values_are_said(fields, message):
    with pytest.raises(InputError, match=message):
        read_acquisition(fields, "spin_echo")
    with pytest.raises(InputError, match="sub-01 T1w: "):
        Acquisitions(SPIN_ECHO, "common").of("sub-01", "T1w", fields)


@pytest.mark.parametrize(
    ("sequence", "left_out"),
    [("spin_echo", "EchoTime"), ("inversion_recovery", "InversionTime"), ("spoiled_gradient_echo", "FlipAngle")],
)
def test_a_missing_field_is_named_with_subject_and_contrast(sequence, left_out):
    fields = {name: value for name, value in MP_RAGE.items() if name != left_out}
    with pytest.raises(MissingFieldError, match=left_out):
        read_acquisition(fields, sequence)
    with pytest.raises(InputError, match=rf"sub-01 T1w: {left_out} is not known.*--defaults"):
        Acquisitions({"T1w": sequence}).of("sub-01", "T1w", fields)


def test_usual_values_come_with_a_warning_and_their_source(caplog):
    usual = Acquisitions(SPIN_ECHO, "common")
    with caplog.at_level(logging.WARNING):
        found = [usual.of(subject, "T2w", {"RepetitionTime": 3.0}) for subject in ("sub-01", "sub-02")]
    assert found[0].tolist() == found[1].tolist() == pytest.approx([DEFAULTS["T2w"].tr, DEFAULTS["T2w"].te, 0, 0])
    (line,) = caplog.messages  # once a contrast
    assert "sub-01 T2w" in line
    assert "EchoTime" in line
    assert USUAL["common"]["T2w"].source in line
    assert usual.of("sub-01", "T2w", {"RepetitionTime": 3.0, "EchoTime": 0.09}).tolist() == pytest.approx(
        [3000, 90, 0, 0]
    )
    with pytest.raises(InputError, match="no usual values of this contrast"):
        usual.of("sub-01", "T3w", {})
    with pytest.raises(InputError, match="no usual InversionTime"):
        Acquisitions({"T2w": "inversion_recovery"}, "common").of("sub-01", "T2w", {})


def test_a_table_counts_before_sidecars_and_a_subject_before_all(tmp_path):
    path = tmp_path / "table.tsv"
    path.write_text("subject\tcontrast\tRepetitionTime\tEchoTime\n\tT1\t0.45\t0.0098\nsub-02\tT1\t\t0.012\n")
    table = read_table(path)
    sidecar = {"EchoTime": 0.5, "FlipAngle": 90}
    assert fields_of(table, "sub-01", "T1w", sidecar) == {"RepetitionTime": 0.45, "EchoTime": 0.0098, "FlipAngle": 90}
    assert fields_of(table, "sub-02", "T1w", {}) == {"RepetitionTime": 0.45, "EchoTime": 0.012}
    assert fields_of(table, "sub-01", "T2w", sidecar) == sidecar


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("contrast,TR\nT1w,450\n", "unknown columns TR"),
        ("subject,EchoTime\ns,1\n", "lacks the columns contrast"),
        ("contrast,EchoTime\nT1w,0.1\nT1,0.2\n", "line 3: T1w stands there twice"),
        ("contrast,EchoTime\n,0.1\n", "line 2: no contrast"),
        ("contrast,EchoTime\nT1w,short\n", "line 2"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, text, message):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / "table.csv")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Three phantoms with sidecars, the second one's T1w without an echo time."""
    folder = tmp_path_factory.mktemp("scans")
    write_phantom_cohort(folder, 4, ("T1w", "T2w"), layout="table", shape=(16, 16, 8), spacing=12.0)
    (sidecar,) = folder.rglob("phantom002_T1w.json")
    sidecar.write_text(json.dumps({"RepetitionTime": 0.5}))
    return folder


def test_training_batches_hold_the_parameters_of_their_scans(scans, tmp_path):
    (tmp_path / "own.csv").write_text("subject,contrast,EchoTime\nphantom002,T1w,0.0042\n")
    cohort = build_cohort(
        find_subjects(scans / "table.csv"), tmp_path / "cohort", Preparation(size=(16, 16, None)),
        acquisitions=read_table(tmp_path / "own.csv"),
    )  # fmt: skip
    dataset = SliceDataset(cohort, ("T1w", "T2w"), "train", paired=True, seed=0, acquisitions=Acquisitions(SPIN_ECHO))
    for number in range(len(dataset)):
        subject = dataset.places(number)["T1w"][0]
        t1 = [500, 4.2] if subject == "phantom002" else [DEFAULTS["T1w"].tr, DEFAULTS["T1w"].te]
        expected = torch.tensor([[*t1, 0, 0], [DEFAULTS["T2w"].tr, DEFAULTS["T2w"].te, 0, 0]])
        torch.testing.assert_close(dataset[number]["acquisition"], expected)
    with pytest.raises(InputError, match="phantom9, of whom there is no scan"):
        build_cohort(
            find_subjects(scans / "table.csv"), tmp_path / "other", Preparation(size=(16, 16, None)),
            acquisitions={("phantom9", "T1w"): {}},
        )  # fmt: skip


def test_the_command_line_says_what_is_missing_and_takes_usual_values(scans, tmp_path, capfd, caplog):
    cohort, run = tmp_path / "cohort", tmp_path / "run"
    assert main(["prepare", "-i", str(scans / "table.csv"), "-o", str(cohort), "--size", "16", "16", "None"]) == 0
    capfd.readouterr()
    train = ["train", "mrdiff_small", "--cohort", str(cohort), "--run", str(run), "--device", "cpu"]
    small = ["--settings.channels", "8", "--settings.features", "4", "--training.steps", "1"]
    assert main([*train, *small]) == 1
    assert "phantom002 T1w: EchoTime is not known" in capfd.readouterr().err
    assert main([*train, *small, "--defaults"]) == 0
    assert any("phantom002 T1w" in message for message in caplog.messages)
    assert "defaults: common" in (run / "config.yaml").read_text()
