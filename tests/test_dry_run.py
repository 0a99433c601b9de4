"""What `prepare` foresees: numbers by split, what follows from an empty one, problems and warnings, dry and real."""

import re

import nibabel as nib
import numpy as np
import pytest

from scansynth.cli import main
from scansynth.data.build_cohort import build_cohort
from scansynth.data.dry_run import dry_run
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.data.splits import choose_splits, foresee
from scansynth.errors import InputError

SMALL = {"shape": (24, 24, 8), "spacing": 8.0}
SETTINGS = Preparation(size=(32, 32, None))


@pytest.fixture
def data(tmp_path):
    """Ten subjects in BIDS."""
    write_phantom_cohort(tmp_path / "data", 10, ("T1w", "T2w"), layout="BIDS", **SMALL)
    return tmp_path / "data"


def prepare(data, *options):
    return main(["prepare", "-i", str(data), "-o", str(data.parent / "cohort"), "--size", "32", "32", "None", *options])


def scan(data, subject, contrast):
    return data / f"sub-{subject:03}" / "anat" / f"sub-{subject:03}_{contrast}.nii.gz"


def test_numbers_by_split_are_said_before_anything_is_written(data, capsys):
    assert prepare(data, "--dry-run") == 0
    line = "splits: 7 train, 1 val, 2 test (drawn by person: --fractions 0.7 0.1 0.2, --seed 0)"
    dry = capsys.readouterr()
    assert line in dry.out
    warned = re.findall(r"warning: odd \[(.*?)\]", dry.out + dry.err)
    assert warned == ["out-of-view", "few-slices"]  # phantoms of eight slices, which see no head's top
    assert (dry.out + dry.err).count("warning:") == 2
    assert not (data.parent / "cohort").exists()
    assert prepare(data) == 0
    assert capsys.readouterr().out.splitlines()[0] == line
    (data / "splits.json").write_text('{"train": ["sub-001"], "val": ["sub-002"], "test": ["sub-003"]}')
    assert prepare(data, "--dry-run") == 1
    assert "problem: subjects without a split" in capsys.readouterr().out


@pytest.mark.parametrize("people", range(3, 61))
def test_the_cure_of_an_empty_split_works(people):
    stated = {f"p{number}": None for number in range(people)}
    found = foresee(stated, (1.0, 0.0, 0.0), 0)
    assert found.line == f"splits: {people} train, 0 val, 0 test (drawn by person: --fractions 1 0 0, --seed 0)"
    no_val, no_test = found.warnings
    assert "uses the last weights, not the best" in no_val
    assert "evaluate" in no_test
    for warning in found.warnings:
        fractions = warning.partition("--fractions ")[2].split()[:3]
        drawn = choose_splits(stated, (float(fractions[0]), float(fractions[1]), float(fractions[2])), 0)
        assert set(drawn.values()) == {"train", "val", "test"}


def test_an_empty_split_that_cannot_be_drawn_or_is_stated():
    (no_val,) = foresee({"a": None, "b": None}, (0.5, 0.0, 0.5), 0).warnings
    assert no_val.endswith("three people are needed: add subjects")
    stated = foresee({"a": "train", "b": "train", "c": "val"}, (0.7, 0.1, 0.2), 0)
    assert stated.line == "splits: 2 train, 1 val, 0 test (as the data states them)"
    assert stated.warnings[0].endswith("name some where the data states its splits")


def test_warnings_of_the_dry_run_are_said_in_the_real_one_too(data, capsys, caplog):
    for subject in (2, 4):
        path = scan(data, subject, "T2w")
        image = nib.load(path)
        affine = image.affine.copy()
        affine[0, 3] += 4
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), path)
    extra = scan(data, 3, "T1w")
    extra.with_name("sub-003_run-2_T1w.nii.gz").write_bytes(extra.read_bytes())
    scan(data, 5, "T1w").write_bytes(b"")
    fractions = ("--fractions", "0.8", "0", "0.2")
    assert prepare(data, "--dry-run", *fractions) == 1
    dry = capsys.readouterr()
    assert prepare(data, "--skip-bad", *fractions) == 0
    real = capsys.readouterr()
    assert prepare(data, "--dry-run", "--skip-bad", *fractions) == 0
    skipped = capsys.readouterr()
    for told in (dry.out + dry.err, real.err, skipped.out + skipped.err):
        words = " ".join(told.split())
        assert "warning: contrasts of 2 subjects lie on different grids (sub-002, sub-004)" in words
        assert "sub-005_T1w.nii.gz is truncated or corrupt" in words
        assert "warning: no subject validates" in words
    assert dry.err.splitlines()[-1].startswith("error: 1 problem")
    assert "--skip-bad" in dry.err.splitlines()[-1]
    assert caplog.text.count("sub-003 has several T1w") == 3
    assert caplog.text.count("left out: ") == 3 + 1


def test_a_contrast_that_nobody_trains_on_is_said_before_hours_of_preparing(data, capsys):
    for subject in range(1, 11):
        scan(data, subject, "T2w").unlink()
    names = [f"sub-{number:03}" for number in range(1, 11)]
    write_phantom_cohort(data.parent / "one", 1, ("T2w",), layout="BIDS", **SMALL)
    scan(data, 1, "T2w").write_bytes(scan(data.parent / "one", 1, "T2w").read_bytes())
    quoted = ", ".join(f'"{name}"' for name in names[2:])
    (data / "splits.json").write_text(f'{{"train": [{quoted}], "val": ["sub-001"], "test": ["sub-002"]}}')
    listing = find_subjects(data)
    report = dry_run(listing, SETTINGS)
    assert report.problems == ("no training subject has T2w: leave that contrast out or change the split",)
    assert prepare(data, "--dry-run") == 1
    assert "problem: no training subject has T2w" in capsys.readouterr().out
    with pytest.raises(InputError, match="no training subject has T2w"):
        build_cohort(listing, data.parent / "cohort", SETTINGS, report=lambda event: pytest.fail("it prepares"))
    assert not (data.parent / "cohort").exists()
