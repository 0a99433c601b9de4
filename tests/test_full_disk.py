"""`prepare`, `train` and `evaluate` at a disk that is full, a folder that may not be written to, a file in the way."""

import errno
import os

import pytest

from scansynth.cli import main
from scansynth.data.cohort import Cohort
from scansynth.data.phantom import write_phantom_cohort
from scansynth.files import check_place
from scansynth.training import checkpoint

TRAINING = [
    "--training.steps", "4", "--training.threads", "1", "--training.batch-size", "2", "--settings.channels", "8",
    "--settings.multipliers", "1", "2", "--training.checkpoint-every", "2", "--training.validate-every", "2",
    "--training.precision", "float32",
]  # fmt: skip


class DiskFullError(OSError):
    pass


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Scans, and what the verbs make of them where there is room."""
    folder = tmp_path_factory.mktemp("work")
    write_phantom_cohort(folder / "in", 6, ("T1w", "T2w"), layout="table", shape=(32, 32, 16), spacing=6.0)
    for verb in ("prepare", "train", "evaluate"):
        assert main(command(verb, folder, folder)) == 0
    return folder


def command(verb, work, out):
    """A verb that writes into `out`; it begins with what the verbs before it left in `work`."""
    return {
        "prepare": ["prepare", "-i", str(work / "in" / "table.csv"), "-o", str(out / "cohort"),
                    "--size", "32", "32", "None"],
        "train": ["train", "regression_small", "--cohort", str(work / "cohort"), "--run", str(out / "run"), *TRAINING],
        "evaluate": ["evaluate", "--run", str(work / "run"), "--cohort", str(work / "cohort"), "-o", str(out / "found"),
                     "--keep", str(out / "kept")],
    }[verb]  # fmt: skip


def full_at(patch, number):
    """Let each write from the n-th on fail, where it is to be on the disk; says how many were tried."""
    tried, fsync = [0], os.fsync

    def full(descriptor):
        tried[0] += 1
        if tried[0] > number:
            raise DiskFullError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    patch.setattr(os, "fsync", full)
    return tried


@pytest.mark.parametrize("verb", ["prepare", "train", "evaluate"])
def test_a_verb_at_a_full_disk_says_so_in_a_line_and_goes_on(work, tmp_path, monkeypatch, capsys, verb):
    with monkeypatch.context() as patch:
        writes = full_at(patch, 10**9)
        assert main(command(verb, work, tmp_path / "whole")) == 0
    assert writes[0] > 10
    for place in sorted({0, 1, 5, writes[0] // 2, writes[0] - 1}):
        out = tmp_path / f"out {place}"
        capsys.readouterr()
        with monkeypatch.context() as patch:
            full_at(patch, place)
            assert main(command(verb, work, out)) == 1, place
        lines = capsys.readouterr().err.splitlines()
        assert len([line for line in lines if line.startswith("error: ")]) == 1
        assert str(out) in lines[-1]
        assert ": No space left on device; make room: what was finished is kept" in lines[-1]
        left = [path.name for path in out.rglob("*") if path.name.startswith(f".{os.getpid()}")]
        left += [path.name for path in out.rglob("*.tmp")]
        assert left == []
        if place == writes[0] // 2:
            assert main(command(verb, work, out)) == 0
            assert same(out, tmp_path / "whole", verb)


def same(one, other, verb):
    if verb == "prepare":
        return Cohort.open(one / "cohort").fingerprint == Cohort.open(other / "cohort").fingerprint
    if verb == "train":
        a, b = (checkpoint.load(checkpoint.current(folder / "run" / "last"), "weights") for folder in (one, other))
        return all((a[0]["weights"][name] == tensor).all() for name, tensor in b[0]["weights"].items())
    return (one / "found" / "table.md").read_text() == (other / "found" / "table.md").read_text()


@pytest.mark.parametrize("verb", ["prepare", "train", "evaluate"])
@pytest.mark.parametrize("kind", ["file in the way", "file above", "long name"])
def test_a_place_that_cannot_be_is_one_line(work, tmp_path, capsys, verb, kind):
    if kind == "file in the way":
        out = tmp_path
        for name in ("cohort", "run", "found", "kept"):
            (out / name).write_text("mine")
    elif kind == "file above":
        (tmp_path / "file").write_text("mine")
        out = tmp_path / "file"
    else:
        out = tmp_path / ("n" * 300)
    capsys.readouterr()
    assert main(command(verb, work, out)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len([line for line in lines if line.startswith("error: ")]) == 1
    assert str(out) in lines[-1]
    assert any(word in lines[-1] for word in ("in the way", "too long", "not empty"))
    assert all(path.read_text() == "mine" for path in tmp_path.rglob("*") if path.is_file() and "lock" not in path.name)


def test_a_folder_that_may_not_be_written_to_is_said_first(tmp_path, monkeypatch):
    check_place(tmp_path / "new" / "folder")
    monkeypatch.setattr(os, "access", lambda place, mode: False)  # whoever runs the tests may be allowed everything
    with pytest.raises(Exception, match=r"new/folder: .* may not be written to: choose another folder"):
        check_place(tmp_path / "new" / "folder")
