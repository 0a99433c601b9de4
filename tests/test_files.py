"""Text files are whole or not there."""

import os
import subprocess
import sys

import numpy as np
import pytest

from scansynth.data.volume import Volume
from scansynth.files import HERE, write_text
from scansynth.sets.volume_sets import VolumeSet
from scansynth.synthesis.writers import Part
from scansynth.synthesis.writers.nifti import write


def test_the_text_stands_there_as_it_is(tmp_path):
    path = tmp_path / "new" / "folder" / "table.csv"
    write_text(path, "ᾱ,°\n1,2\r\n")
    assert path.read_bytes() == "ᾱ,°\n1,2\r\n".encode()
    write_text(path, "short")
    assert path.read_bytes() == b"short"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "table.csv"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")  # half a character: writing fails on the way
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def a_dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def left_by_a_kill(path, process, here=HERE):
    """What stands beside a file whose writer was killed, and beside one that is written by way of a hidden one."""
    own = f".{process}-{here}-"
    left = [path.with_name(f"{own}{path.name}"), path.with_name(f"{own}{own}{path.name}")]
    for one in left:
        one.write_bytes(b"half")
    return left


@pytest.mark.skipif(os.name != "posix", reason="whether a process lives is asked of POSIX systems only")
def test_what_a_killed_process_left_is_gone_with_the_next_writing_and_a_living_one_keeps_its_own(tmp_path):
    path = tmp_path / "table.csv"
    dead = left_by_a_kill(path, a_dead_process())
    others = left_by_a_kill(path, os.getppid()) + left_by_a_kill(tmp_path / "a table.csv", a_dead_process())
    others += left_by_a_kill(path, a_dead_process(), here="another0")  # a machine that shares the disk
    write_text(path, "whole")
    assert not any(one.exists() for one in dead)
    assert all(one.exists() for one in others)


@pytest.mark.skipif(os.name != "posix", reason="whether a process lives is asked of POSIX systems only")
def test_every_writer_removes_what_a_killed_process_left(tmp_path):
    volume = Volume.of(np.arange(64, dtype=np.float32).reshape(4, 4, 4), np.eye(4))
    left = left_by_a_kill(tmp_path / "t2.nii.gz", a_dead_process())
    volume.write_array(tmp_path / "t2.nii.gz", volume.array, "synthetic")
    left += left_by_a_kill(tmp_path / "t1.nii.gz", a_dead_process())
    left += left_by_a_kill(tmp_path / "t1.json", a_dead_process())
    write({tmp_path / "t1.nii.gz": Part(volume.array, "synthetic", {})}, volume, provenance={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t1.json", "t1.nii.gz", "t2.nii.gz"]


def test_a_set_of_volumes_is_not_what_a_kill_left_half_written(tmp_path):
    volume = Volume.of(np.arange(64, dtype=np.float32).reshape(4, 4, 4), np.eye(4))
    volume.write_array(tmp_path / "one.nii.gz", volume.array, "synthetic")
    left_by_a_kill(tmp_path / "two.nii.gz", a_dead_process())
    (tmp_path / "._one.nii.gz").write_bytes(b"a Mac's")
    assert VolumeSet.from_folder(tmp_path).names == ("one",)
