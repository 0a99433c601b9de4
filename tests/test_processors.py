"""The part of the suite that is marked `processor`, once more as other processors would run it.

PyTorch and oneDNN take other kernels by what the processor has: a machine with AVX-512 tests AVX2 too. All tests
compute with one thread (`conftest.py`).
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parent
MARKED = sorted(path for path in FOLDER.glob("test_*.py") if "mark.processor" in path.read_text(encoding="utf-8"))
"""Only these files are opened: a child that reads the whole suite takes as long to read as to test."""

AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"


@pytest.mark.processor
def test_the_environment_decides_what_is_used():
    asked = os.environ.get("ATEN_CPU_CAPABILITY")
    assert asked is None or torch.backends.cpu.get_cpu_capability().lower() == asked
    assert torch.get_num_threads() == 1


@pytest.mark.skipif(not AVX512, reason="this processor has no more than AVX2: the suite itself ran so")
def test_the_marked_part_passes_with_avx2(tmp_path):
    environment = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    command = [sys.executable, "-m", "pytest", "-m", "processor", "-p", "no:cacheprovider", *map(str, MARKED)]
    done = subprocess.run(
        [*command, "--basetemp", str(tmp_path / "base")], cwd=FOLDER.parent, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) >= 10
