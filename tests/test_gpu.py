"""What holds on a GPU as on the CPU: `pytest -m gpu` where there is one; and the script that measures there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scansynth.config import RunConfig, Training
from scansynth.data.cohort import Cohort
from scansynth.diffusion.windows import SliceWindows
from scansynth.method import Progress
from scansynth.noise import Noise
from scansynth.precision import automatic
from scansynth.synthesis.sampling import Sampling
from scansynth.training.checkpoint import current, load
from scansynth.training.engine import Engine
from scansynth.training.loop import step
from scansynth.training.parts import make_method
from scansynth.training.train import train

CPU, GPU = torch.device("cpu"), torch.device("cuda")


SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu.sh"


def on_gpu(test):
    """Skipped where there is none."""
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")(test))


@pytest.fixture
def exact():
    """No TF32, whose products have ten bits: convolutions use it unless told, matrix products do not."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@on_gpu
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", ["regression", "ddpm", "syndiff", "pix2pix", "mm_gan"])
def test_a_step_has_the_losses_of_the_cpu(name, tiny):
    config, losses = tiny(name), []
    for device in (CPU, GPU):
        torch.manual_seed(0)
        method = make_method(config)
        engine = Engine(method, device, "float32")
        step(engine, method.needs.random_batch(2, 2, (32, 32), 0), config, 5, Progress(5, 10, 0.0))
        losses.append(engine.mean_losses())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3, abs=1e-5)


@on_gpu
def test_noise_is_that_of_the_cpu():
    keys = [(0, "subject", 0)]
    there = Noise(keys, GPU).normal("x_T", (1, 8, 8))
    assert there.device.type == "cuda"
    assert torch.equal(there.cpu(), Noise(keys, CPU).normal("x_T", (1, 8, 8)))


@on_gpu
def test_windows_go_by_halves_where_the_gpu_is_full():
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    volume = torch.zeros(1, 1, 4, 4, 8, device=GPU)

    def function(slices):
        torch.empty(int(0.3 * free) * len(slices), dtype=torch.uint8, device=GPU)
        return slices + 1

    assert torch.equal(SliceWindows(8).map(function, volume), volume + 1)


@on_gpu
def test_a_run_is_trained_resumed_and_used_there(cohort: Cohort, tmp_path, tiny, phantoms):
    from scansynth import load as load_run

    weights = []
    for name, ends in (("once", [2]), ("resumed", [1, 2])):
        for steps in ends:
            train(tiny(steps=steps, precision="auto"), cohort, tmp_path / name, device=GPU)
        newest = current(tmp_path / name / "last")
        assert newest is not None
        weights.append(load(newest, "weights")[0]["weights"])
    for key, one in weights[0].items():
        torch.testing.assert_close(weights[1][key], one, rtol=0, atol=1e-4)
    source = phantoms.subjects[0].images["T1w"]
    images = [
        load_run(tmp_path / "once", device).translate({"T1w": source}, sampling=Sampling()).array
        for device in ("cuda", "cpu")
    ]
    spread = images[1].max() - images[1].min()
    assert abs(images[0] - images[1]).max() < 0.05 * spread  # bfloat16 there
    assert automatic(GPU).precision in ("float32", "bfloat16")


@on_gpu
def test_a_toy_run_takes_no_more_than_a_toy_of_memory(tiny):
    torch.cuda.reset_peak_memory_stats()
    config = RunConfig("regression", tiny().settings, ("T1w", "T2w"), training=Training(steps=3, batch_size=2))
    method = make_method(config)
    engine = Engine(method, GPU, "float32")
    for number in range(3):
        step(engine, method.needs.random_batch(2, 2, (32, 32), 0), config, number, Progress(number, 3, 0.0))
    assert torch.cuda.max_memory_allocated() < 0.5e9


def test_the_script_lists_what_there_is_no_time_for(tmp_path):
    """What it measures is tried by hand, `--device cpu --minutes 10`."""
    command = ["bash", str(SCRIPT), "--device", "cpu", "--minutes", "0", "-o", str(tmp_path / "gpu.json")]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHON": sys.executable}
    )
    assert done.returncode == 0, done.stderr
    for part in ("tests", "equal to the CPU", "training steps", "volumes", "compiled, and as a graph"):
        assert f"{part}, from row 1 on" in done.stdout
    assert (tmp_path / "gpu.md").exists()
