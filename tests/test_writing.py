"""What synthetic images are written over, through and beside: a full disk, another command, wrong arguments."""

import os
import resource
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

import scansynth
from scansynth.cli import main
from scansynth.config import RunConfig, Training
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.volume import Volume
from scansynth.errors import InputError
from scansynth.methods.cdpm import CdpmConfig
from scansynth.synthesis import locking
from scansynth.synthesis.folder import translate_cohort
from scansynth.synthesis.locking import LOCK
from scansynth.synthesis.run import Run
from scansynth.training.train import train

CPU = torch.device("cpu")
VERBS = ("translate", "translate -i", "generate")


@pytest.fixture(scope="module")
def translator(cohort, tiny, tmp_path_factory):
    """A run that draws nothing."""
    folder = tmp_path_factory.mktemp("runs") / "regression"
    train(tiny("regression", steps=2), cohort, folder, device=CPU)
    return folder


@pytest.fixture(scope="module")
def generator(gridded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "cdpm"
    training = Training(steps=2, batch_size=1, log_every=2, validate_every=2, validation_slices=1)
    settings = replace(CdpmConfig.tiny(), translator=False)
    train(RunConfig("cdpm", settings, ("T1w",), training=training), gridded, folder, device=CPU)
    return folder


@pytest.fixture(scope="module")
def bids(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "bids"
    write_phantom_cohort(folder, 2, ("T1w", "T2w"), layout="BIDS", seed=9, shape=(32, 32, 16), spacing=6.0)
    return folder


@pytest.fixture
def commands(translator, generator, bids, tmp_path):
    """Verb → its command into `tmp_path / "out"`."""
    out, source = tmp_path / "out", bids / "sub-001" / "anat" / "sub-001_T1w.nii.gz"
    run = ["--run", str(translator), "--target", "T2w", "--device", "cpu"]
    return {
        "translate": ["translate", *run, "--t1w", str(source), "-o", str(out / "t2.nii.gz")],
        "translate -i": ["translate", *run, "-i", str(bids), "-o", str(out)],
        "generate": ["generate", "--run", str(generator), "-n", "2", "-o", str(out), "--device", "cpu"],
    }


@contextmanager
def full_disk(room):
    """No file may become larger than so many bytes: writing fails in the system, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("verb", VERBS)
def test_a_full_disk_ends_in_one_line_and_leaves_no_half(commands, verb, tmp_path, capfd):
    with full_disk(4000):
        assert main(commands[verb]) == 1
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert len(told) == 1
    assert "cannot write" in told[0]
    assert "check the folder and its space" in told[0]
    left = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert left <= {LOCK, "dataset_description.json", ".bidsignore"}
    assert main(commands[verb]) == 0  # when there is room
    images = sorted((tmp_path / "out").rglob("*.nii.gz"))
    assert len(images) == (1 if verb == "translate" else 2)
    assert all(np.isfinite(Volume.read(image).array).all() for image in images)


@pytest.mark.parametrize("verb", VERBS)
def test_a_file_in_the_place_of_the_folder_is_kept(commands, verb, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(Run, "make", lambda *_, **__: pytest.fail("computed before it is checked"))
    (tmp_path / "out").write_text("mine")
    assert main(commands[verb]) == 1
    assert "out is no folder: choose another -o" in capfd.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("verb", VERBS[1:])
def test_a_folder_that_may_not_be_written_is_said_before_anything_is_made(commands, verb, tmp_path, monkeypatch, capfd):
    """As root, whom no folder refuses, too: the lock is a folder there."""
    monkeypatch.setattr(Run, "make", lambda *_, **__: pytest.fail("computed before it is checked"))
    (tmp_path / "out" / LOCK).mkdir(parents=True)
    assert main(commands[verb]) == 1
    assert f"cannot write {tmp_path / 'out'}" in capfd.readouterr().err


# Two commands at once


@pytest.fixture
def held(tmp_path, monkeypatch):
    """Another process that has the folder's lock."""
    monkeypatch.setattr(locking, "PATIENCE", 0.2)
    (tmp_path / "out").mkdir()
    lock = str(tmp_path / "out" / LOCK)
    code = f"from filelock import FileLock\nlock = FileLock({lock!r})\nlock.acquire()\nprint(1, flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        yield
        other.communicate(b"\n")


@pytest.mark.usefixtures("held")
@pytest.mark.parametrize("verb", VERBS[1:])
def test_a_folder_is_one_commands_at_a_time(commands, verb, tmp_path, capfd):
    assert main(commands[verb]) == 1
    assert "another command writes into it: let it end, or choose another -o" in capfd.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK]


def test_what_the_other_command_made_meanwhile_is_not_made_again(translator, bids, tmp_path, monkeypatch):
    run, listing, out = scansynth.load(translator, "cpu"), find_subjects(bids), tmp_path / "out"
    translate_cohort(run, listing, tmp_path / "made", target="T2w")
    monkeypatch.setattr(Run, "make", lambda *_, **__: pytest.fail("made again"))
    out.mkdir()
    held, waiting = threading.Event(), threading.Event()

    def other():
        with FileLock(out / LOCK):
            held.set()
            waiting.wait(5)
            for path in (tmp_path / "made").iterdir():
                if path.name != LOCK:
                    (shutil.copytree if path.is_dir() else shutil.copy)(path, out / path.name)

    plain = FileLock.acquire

    def acquire(self, *arguments, **named):
        try:
            return plain(self, *arguments, **named)
        finally:
            waiting.set()

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(5)
    monkeypatch.setattr(FileLock, "acquire", acquire)
    entries = translate_cohort(run, listing, out, target="T2w")
    thread.join()
    assert [entry.subject for entry in entries if entry.status == "synthetic"] == ["sub-001", "sub-002"]


def test_a_single_image_that_came_meanwhile_is_kept(commands, tmp_path, monkeypatch, capfd):
    plain = Run.translate

    def slow(self, *arguments, **named):
        made = plain(self, *arguments, **named)
        made.write(tmp_path / "out" / "t2.nii.gz")
        kept.append((tmp_path / "out" / "t2.nii.gz").stat().st_mtime_ns)
        return made

    kept = []
    monkeypatch.setattr(Run, "translate", slow)
    assert main(commands["translate"]) == 1
    assert "is there already" in capfd.readouterr().err
    assert kept == [(tmp_path / "out" / "t2.nii.gz").stat().st_mtime_ns]


# Wrong arguments


@pytest.mark.parametrize(
    ("verb", "flags", "message"),
    [
        *((verb, flags, message) for verb in VERBS[:2] for flags, message in (
            (["--samples", "2"], "draws nothing"), (["--shared-noise"], "draws nothing"), (["--maps"], "has no maps"),
            (["--intervals"], "no intervals are known"), (["--realism", "0.5"], "draws nothing"),
            (["--windows", "0"], "windows 0: must be at least 1"), (["--accept", "nothing"], "no rule of that name"),
        )),
        ("translate", ["--t2w", "nowhere.nii.gz"], "both source and target"),
        ("generate", ["--windows", "0"], "windows 0: must be at least 1"),
        ("generate", ["--plan", "backwards"], "cdpm has"),
        ("generate", ["--label", "age=3"], "age"), ("generate", ["-n", "0"], "must be at least 1"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_before_anything_is_written(commands, verb, flags, message, tmp_path, capfd):
    assert main([*commands[verb], *flags]) == 1
    assert message in capfd.readouterr().err
    assert os.listdir(tmp_path) == []


def test_writing_through_a_link_to_a_folder(translator, bids, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real", target_is_directory=True)
    translate_cohort(scansynth.load(translator, "cpu"), find_subjects(bids), tmp_path / "out", target="T2w")
    assert len(list(Path(tmp_path / "real").rglob("*.nii.gz"))) == 2
    with pytest.raises(InputError, match="one folder"):
        translate_cohort(scansynth.load(translator, "cpu"), find_subjects(bids), bids, target="T2w")
