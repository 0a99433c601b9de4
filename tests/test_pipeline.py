"""All of it in one command: what is proposed, done, reported and refused, and how it goes on after a stop."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch

from scansynth.cli import main
from scansynth.config import read_yaml, to_yaml
from scansynth.data.choose_preparation import Look, choose_preparation, look
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.errors import InputError
from scansynth.planning.proposal import asked_of, with_split

CPU = torch.device("cpu")
SMALL = {"shape": (32, 32, 16), "spacing": 6.0}
LACKING = ("sub-006", "sub-007", "sub-008")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight subjects, of whom three have no T2w."""
    folder = tmp_path_factory.mktemp("data") / "BIDS"
    write_phantom_cohort(folder, 8, ("T1w", "T2w"), layout="BIDS", missing=dict.fromkeys(LACKING, ("T2w",)), **SMALL)
    return folder


def command(data, out, *more):
    return ["run", "-i", str(data), "--target", "T2w", "-o", str(out), "--hours", "0.002", "--device", "cpu", *more]


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    """A pipeline that has run to its end."""
    out = tmp_path_factory.mktemp("pipeline") / "out"
    assert main(command(data, out)) == 0
    return out


def test_it_makes_what_is_missing_and_nothing_else(done):
    made = sorted(path.name for path in (done / "translated").rglob("*.nii.gz"))
    assert made == [f"{name}_desc-synthetic_T2w.nii.gz" for name in LACKING]
    sidecar = json.loads(next((done / "translated").rglob("sub-006*.json")).read_text())
    assert sidecar["synthetic"] is True
    assert sidecar["precision"] == "float32" or torch.cpu._is_avx512_bf16_supported()


def test_it_measures_on_those_who_have_the_target_and_were_held_out(done):
    splits = json.loads((done / "cohort" / "cohort.json").read_text())["splits"]
    held_out = {name for name, split in splits.items() if split != "train"}
    assert held_out
    assert not held_out & set(LACKING)
    assert "T1w→T2w" in (done / "evaluation" / "table.md").read_text()


def test_its_page_says_what_was_chosen_and_links_the_rest(done):
    page = (done / "report.html").read_text()
    for text in ("SYNTHETIC", "training subjects have the target", "evaluation/report.html", "contrasts.tsv", "3 T2w"):
        assert text in page
    for name in ("evaluation/report.html", "translated/contrasts.tsv", "plan.yaml"):
        assert f'href="{name}"' in page
        assert (done / name).is_file()
    for subject in LACKING:
        assert f'href="translated/{subject}_synthetic.html"' in page
        assert (done / "translated" / f"{subject}_synthetic.html").is_file()
    evaluation = (done / "evaluation" / "report.html").read_text()
    assert 'href="../report.html"' in evaluation
    splits = json.loads((done / "cohort" / "cohort.json").read_text())["splits"]
    trained = sum(split == "train" for split in splits.values())
    assert f"of {trained} people [describe them]" in evaluation  # the paragraph for a paper


def test_the_same_command_again_changes_nothing(done, data, capfd):
    def times():
        kept = (".b2nd", ".gz", ".safetensors")
        return {path: path.stat().st_mtime_ns for path in done.rglob("*") if path.suffix in kept}

    before = times()
    assert main(command(data, done)) == 0
    assert len(before) > 15
    assert times() == before
    assert "training subjects have the target" in capfd.readouterr().out


def test_another_request_in_the_folder_is_refused(done, data, tmp_path, capfd):
    assert main([*command(data, done), "--seed", "3"]) == 1
    assert "seed 0 there, 3 now" in capfd.readouterr().err
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(command(data, tmp_path)) == 1
    assert "not empty" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_dry_run_writes_settings_that_train_takes_and_nothing_else(data, tmp_path, capfd):
    assert main(command(data, tmp_path / "out", "--dry-run")) == 0
    told = capfd.readouterr().out
    for text in ("split ", "prepare ", "method ", "training ", "memory ", "3 lack T2w"):
        assert text in told
    assert [path.name for path in tmp_path.iterdir()] == ["out.yaml"]
    assert read_yaml(tmp_path / "out.yaml").method == "regression"


@pytest.mark.parametrize("stage", ["preparing", "training", "measuring", "making what is missing"])
def test_stopped_at_any_stage_it_goes_on(stage, done, data, tmp_path, monkeypatch, capfd):
    """The plan is that of the first time, and the end is the same as without a stop."""
    from scansynth.commands import run as verb
    from scansynth.planning import pipeline

    out = tmp_path / "out"
    shutil.copytree(done, out)  # what was decided there: rates differ from time to time
    for name in ("cohort", "run", "evaluation", "kept", "translated"):
        shutil.rmtree(out / name)
    (out / "report.html").unlink()
    config = read_yaml(out / "plan.yaml")
    fixed = replace(config, training=replace(config.training, minutes=0.0, steps=4, validate_every=2, threads=1))
    (out / "plan.yaml").write_text(to_yaml(fixed))
    real, asked = pipeline.carry_out, []

    def stop_there(proposal, out, device, report):
        def told(event):
            report(event)
            if event.what == stage and not asked:
                asked.append(event.what)
                os.kill(os.getpid(), signal.SIGINT)

        return real(proposal, out, device, told)

    monkeypatch.setattr(pipeline, "carry_out", stop_there)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs inherit that it is ignored
    assert verb.Pipeline  # the verb looks carry_out up when it runs
    try:
        assert main(command(data, out)) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "the same command goes on" in capfd.readouterr().err
    assert not (out / "report.html").exists()
    assert main(command(data, out)) == 0
    made = sorted(path.name for path in (out / "translated").rglob("*.nii.gz"))
    assert made == [f"{name}_desc-synthetic_T2w.nii.gz" for name in LACKING]
    assert (out / "report.html").is_file()
    assert read_yaml(out / "run" / "config.yaml").training.steps == 4


def test_an_unreadable_scan_is_one_line_or_left_out(data, tmp_path, capfd):
    broken = tmp_path / "BIDS"
    shutil.copytree(data, broken)
    path = broken / "sub-002" / "anat" / "sub-002_T1w.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])
    assert main(command(broken, tmp_path / "out")) == 1
    told = capfd.readouterr().err
    assert [line for line in told.splitlines() if line.startswith("error:")] == told.splitlines()[-1:]
    assert "sub-002_T1w.nii.gz" in told
    assert "--skip-bad" in told
    assert not (tmp_path / "out").exists()
    assert main(command(broken, tmp_path / "out", "--skip-bad", "--dry-run")) == 0


def test_a_full_disk_is_one_line(data, tmp_path):
    """Files may not grow beyond some kilobytes: what a full disk does to a training, or a preparation."""
    code = (
        "import resource, sys; from scansynth.cli import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); sys.exit(main(sys.argv[1:]))"
    )
    arguments = command(data, tmp_path / "out")
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    errors = [line for line in run.stderr.splitlines() if line.startswith("error:")]
    assert (run.returncode, len(errors)) == (1, 1), run.stderr
    assert "Traceback" not in run.stderr
    assert "too large" in errors[0]


def test_no_target_is_said_with_what_there_is(data, tmp_path, capfd):
    assert main(["run", "-i", str(data), "-o", str(tmp_path / "out")]) == 1
    assert "found: T1w, T2w" in capfd.readouterr().err
    assert main(["run", "-i", str(data), "--target", "FLAIR", "-o", str(tmp_path / "out")]) == 1
    assert "no scan of FLAIR" in capfd.readouterr().err


def test_those_without_the_target_train_and_a_stated_split_holds(data):
    listing = find_subjects(data)
    asked = asked_of(data, ["T2"], 1.0, seed=0, skip_bad=False, fractions=(0.4, 0.2, 0.4))
    splits = {subject.name: subject.split for subject in with_split(listing, asked).subjects}
    assert all(splits[name] == "train" for name in LACKING)
    assert sorted(splits.values()) == ["test"] * 2 + ["train"] * 5 + ["val"]
    stated = replace(listing, subjects=tuple(replace(one, split="test") for one in listing.subjects))
    assert {one.split for one in with_split(stated, asked).subjects} == {"test"}


def test_the_box_holds_the_heads_at_a_spacing_that_is_affordable(data):
    seen = look(find_subjects(data), ("T1w", "T2w"))
    assert seen.spacing == pytest.approx((6.0, 6.0, 6.0))
    assert seen.paired == 1.0
    for subject in find_subjects(data).subjects:
        for path in subject.scans.values():
            hits = np.argwhere(np.asarray(nib.load(path).dataobj) > 0)
            assert all(np.ptp(hits[:, axis]) * 6.0 <= seen.extent[axis] + 12.0 for axis in range(2))
    preparation, why = choose_preparation(seen, 1e9, one_grid=False)
    assert preparation.spacing == (None, None, None)  # nothing is resampled where nothing need be
    assert all(side * 6.0 >= extent for side, extent in zip(preparation.size[:2], seen.extent[:2], strict=True))
    assert "as acquired" in why
    fine = Look(
        apart=False,
        spacing=(0.5, 0.5, 3.0),
        equal=True,
        extent=(150.0, 190.0, 140.0),
        slices=40.0,
        paired=1.0,
        unreadable=(),
    )
    coarse, why = choose_preparation(fine, 112 * 144, one_grid=False)
    assert coarse.spacing == (1.5, 1.5, None)
    assert coarse.size == (112, 144, None)
    assert "too few training steps" in why
    whole, _ = choose_preparation(fine, 112 * 144, one_grid=True)
    assert None not in (*whole.spacing, *whole.size)


def test_what_cannot_be_read_anywhere_is_refused(tmp_path):
    write_phantom_cohort(tmp_path, 2, ("T1w",), layout="BIDS", **SMALL)
    for path in tmp_path.rglob("*.nii.gz"):
        path.write_bytes(b"nothing")
    with pytest.raises(InputError, match="none of 2 scans can be read"):
        look(find_subjects(tmp_path), ("T1w",))
