"""The fuzzer (tests/fuzz): a short part of it here, and whether it would notice what it looks for."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from fuzz import campaign
from fuzz.campaign import CORPUS, judge, supervise
from fuzz.folders import FIRST
from fuzz.mutations import SEEDS, held
from scansynth.data.readers import read_labels
from scansynth.data.volume import Volume
from scansynth.errors import InputError

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="Linux tells peaks")


def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path):
    pytest.importorskip("SimpleITK")
    words = ["--inputs", "300", "--seed", "1", "-o", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, campaign.__file__, *words], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["found"] == []
    assert set(report["ends"]) == {*SEEDS, *FIRST, "corpus"}
    assert all(sum(ends.values()) for ends in report["ends"].values())
    assert sum(ends.get("read", 0) for ends in report["ends"].values()) > 50  # not all are refused for one reason
    assert report["mutations"].keys() >= {"flip", "truncate", "splice", "nifti_field", "mgh_field", "line", "bomb"}
    assert max(path.stat().st_size for path in CORPUS.iterdir()) < 8192


@pytest.mark.parametrize("kind", SEEDS)
def test_what_is_damaged_was_whole(tmp_path, kind):
    if kind.startswith(("meta", "nrrd")):
        pytest.importorskip("SimpleITK")
    first, *_ = file = SEEDS[kind]()
    for name, content in file.items():
        (tmp_path / name).write_bytes(content)
    assert held(file) >= sum(map(len, file.values()))
    if kind != "sidecar":
        assert sorted(Volume.read(tmp_path / first).array.shape) == [4, 5, 6]
    if kind.endswith("labels"):
        assert set(np.unique(read_labels(tmp_path / first)[0])) == {0, 1, 2, 3}


def error(kind, text="", cause=None):
    def call(path):
        raise kind(text.format(path)) from cause

    return call


def take(path):
    return np.ones(1 << 25)  # 256 MB, all of them touched


ENDS = {
    "read": lambda path: None,
    "refused": error(InputError, "{}: mend it"),
    "caught": error(InputError, "{} cannot be read (KeyError: 6): export it", KeyError(6)),
    "exception": error(KeyError, "6"),
    "words": error(InputError, "no file is named: mend it"),
    "memory": take,
    "memory of the address space": error(InputError, "{} needs more memory", MemoryError()),
    "hang": lambda path: time.sleep(0.3),
}


@pytest.mark.parametrize("end", ENDS)
def test_each_rule_that_is_broken_is_noticed(tmp_path, monkeypatch, end):
    monkeypatch.setattr(campaign, "SECONDS", 0.2 if end == "hang" else 30.0)
    assert judge(ENDS[end], tmp_path / "x.nii", campaign.MEMORY)[0] == end.split()[0]


def test_a_worker_that_hangs_or_dies_is_named_and_the_next_case_is_tried():
    worker = """
import json, os, sys, time
for index in range(int(sys.argv[1]), 5):
    print(json.dumps([index]), flush=True)
    if index == 1:
        os.abort()
    if index == 3:
        time.sleep(60)
    print(json.dumps([index, "kind", "how", "call", "read", ""]), flush=True)
"""
    told = list(supervise([sys.executable, "-c", worker], 5, seconds=1.0, starting=20.0))
    assert [(index, ended) for index, _, _, _, ended, _ in told] == [
        (0, "read"), (1, "crash"), (2, "read"), (3, "hang"), (4, "read"),
    ]  # fmt: skip
