"""The memory of a training, predicted from one sample: what is counted, how it grows, and how near it comes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scansynth.training import memory
from scansynth.training.memory import ALLOCATOR, LIBRARIES, STATES, predicted_gb
from scansynth.training.parts import make_method

CPU = torch.device("cpu")
BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "memory.py"


def test_a_tensor_that_is_kept_twice_counts_once_and_is_given_back():
    kept, held = memory._Kept(), {}
    tensor = torch.zeros(1000)
    first, second = (memory._Weighed(tensor, kept, held) for _ in range(2))
    assert (kept.now, kept.peak, kept.largest) == (4000, 4000, 4000)
    other = memory._Weighed(torch.zeros(250), kept, held)
    assert (kept.now, kept.peak, kept.largest) == (5000, 5000, 4000)
    del first
    assert kept.now == 5000
    del second, other
    assert (kept.now, kept.peak) == (0, 5000)


@pytest.mark.parametrize("method", ["regression", "syndiff", "ddpm"])
def test_weights_count_once_and_samples_each(method, tiny, monkeypatch):
    monkeypatch.setattr(memory, "resident_gb", lambda: 0.5)
    found = {}
    for batch in (1, 2, 8):
        config = tiny(method, batch_size=batch)
        network = make_method(config)
        found[batch] = (
            predicted_gb(config, network.needs.random_batch(len(network.contrasts), 1, (32, 32), 0), CPU)
            - 0.5
            - LIBRARIES
        )
    numbers = STATES * sum(parameter.numel() for parameter in network.parameters())
    numbers += sum(parameter.numel() for name in network.averaged for parameter in network.nets[name].parameters())
    static, sample = 4 * numbers / 1e9, found[2] - found[1]
    assert found[1] - sample == pytest.approx(static, rel=1e-6)
    assert found[8] == pytest.approx(static + 8 * sample, rel=1e-6)
    assert sample > ALLOCATOR * 4 * 32 * 32 * 8 / 1e9  # one map of eight channels, at least


@pytest.mark.parametrize("case", [0, pytest.param(9, marks=pytest.mark.slow), pytest.param(6, marks=pytest.mark.slow)])
def test_it_comes_near_what_a_training_takes(case):
    """Within 15 %; all twelve cases: benchmarks/results/memory.json."""
    run = subprocess.run(
        [sys.executable, BENCHMARK, "--one", json.dumps(["training", case])], capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout.splitlines()[-1])["ratio"] == pytest.approx(1, abs=0.15)
