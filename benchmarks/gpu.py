"""What only a GPU can tell: tests, equality with the CPU, steps and volumes, and what makes them faster; in minutes.

    bash benchmarks/gpu.sh -o gpu.json
    bash benchmarks/gpu.sh --device cpu --minutes 1 -o gpu-try.json

The parts come in the order of what is wanted most, each row as soon as it is measured; the file is written after each,
so that a machine that is taken away takes no more than a row along. What fails is a row with its message. A part that
there is no time for is listed. `--device cpu` tries the script where there is no GPU: its figures are no figures.
"""

import argparse
import copy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from measuring import counted, save, timed
from scansynth.config import RunConfig, Training
from scansynth.data.build_cohort import build_cohort
from scansynth.data.cohort import Cohort
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.devices import find_device
from scansynth.method import Generator, Method, Progress
from scansynth.methods import METHODS
from scansynth.network_precision import prepare_synthesis
from scansynth.noise import Noise
from scansynth.recipes import RECIPES, find_recipe
from scansynth.training.checkpoint import current, load
from scansynth.training.engine import Engine
from scansynth.training.loop import step
from scansynth.training.parts import make_method, needs_of, untrained_stage
from scansynth.training.train import train
from speed import plain_rates

CPU = torch.device("cpu")
PAIR = ("T1w", "T2w")
SIZE, VOLUME = (64, 80), (160, 192, 128)
SMALL = 32
FASTER = ("regression_small", "ddpm_x0_small", "syndiff_small")
"""Recipes on which compiling and graphs are tried: each takes long to compile."""


class Results:
    """Rows by part, on the screen as a table for `docs/performance.md`, and in a file."""

    def __init__(self, output: Path | None, device: torch.device, minutes: float):
        self.output, self.device, self.end = output, device, time.monotonic() + 60 * minutes
        self.parts: dict[str, list[dict[str, Any]]] = {}
        self.lines: list[str] = []
        self.left_out: list[str] = []

    def part(self, name: str, rows: Iterator[dict[str, Any]]) -> None:
        """Take the rows of a part as they come; an error ends the part, and is a row."""
        found = self.parts[name] = []
        while True:
            if time.monotonic() > self.end:
                self.left_out.append(f"{name}, from row {len(found) + 1} on")
                break
            try:
                row = next(rows)
            except StopIteration:
                break
            except Exception as error:
                row = failed(error)
            found.append(row)
            self.show(name, row, first=len(found) == 1)
            self.write()
            if "failed" in row and len(row) == 1:
                break
        self.write()

    def show(self, name: str, row: dict[str, Any], *, first: bool) -> None:
        if first:
            self.say(f"\n## {name}\n")
        self.say("- " + ", ".join(f"{key} {value}" for key, value in row.items()))

    def say(self, line: str) -> None:
        print(line, flush=True)
        self.lines.append(line)

    def write(self) -> None:
        if self.output:
            save(self.output, {"device": named(self.device), "parts": self.parts, "no_time_for": self.left_out})
            self.output.with_suffix(".md").write_text("\n".join(self.lines) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=7.0, help="after which no further row is begun")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write; beside it the same as Markdown")
    arguments = parser.parse_args()
    device = find_device(arguments.device)
    results = Results(arguments.output, device, arguments.minutes)
    results.say(f"# {named(device)}, PyTorch {torch.__version__}")
    results.part("tests", run_tests(device))
    results.part("rates", iter([plain_rates(device)]))
    results.part("equal to the CPU", equality(device))
    results.part("resume after one of two steps", resume(device))
    results.part("training steps", training_steps(device))
    results.part("volumes", volumes(device))
    results.part("fused attention", attention(device))
    results.part("compiled, and as a graph", compiled(device))
    if results.left_out:
        results.say(f"\nNo time for: {'; '.join(results.left_out)}.")
    results.write()


def named(device: torch.device) -> str:
    """What the device is called."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} (no figures of a GPU)"


def failed(error: BaseException) -> dict[str, str]:
    """An error as a row."""
    return {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}


def guarded(row: dict[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A row with what is measured, or with why it was not."""
    try:
        return row | measure()
    except Exception as error:
        return row | failed(error)


def run_tests(device: torch.device) -> Iterator[dict[str, Any]]:
    """The tests marked `gpu`, in a process of their own."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/test_gpu.py", "-p", "no:cacheprovider"]
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    last = (done.stdout.strip() or done.stderr.strip() or "nothing").splitlines()[-1]
    yield {"pytest": last, "seconds": round(time.monotonic() - begun, 1)}


def toy(name: str) -> Method:
    """A method at toy size, the same weights each time."""
    kind = METHODS[name].load()
    settings = kind.Config.tiny()
    torch.manual_seed(0)
    method = make_method(RunConfig(name, settings, PAIR))
    if stage := kind.builds_on(settings):
        method.first_stage = untrained_stage(RunConfig(stage, METHODS[stage].load().Config.tiny(), PAIR))
    return method


def synthesised(method: Method, device: torch.device) -> torch.Tensor:
    """A small volume by a method, on the CPU."""
    noise = Noise([(0, "gpu", 0)], device)
    with torch.no_grad():
        if isinstance(method, Generator) and method.needs.generates:
            return method.generate((SMALL, SMALL, SMALL), method.needs.windows(), noise).cpu()
        batch = subject(method, (SMALL, SMALL, SMALL), device)
        return method.translate(batch, "T2w", method.needs.windows(), noise).image.float().cpu()


def subject(method: Method, shape: tuple[int, int, int], device: torch.device) -> dict[str, torch.Tensor]:
    """Random sources of the last contrast, and tissue where it is wanted."""
    count, generator = len(method.contrasts), torch.Generator().manual_seed(1)
    images = torch.rand((1, count, *shape), generator=generator) * 2 - 1
    available = torch.tensor([[method.reconstructs or index < count - 1 for index in range(count)]])
    batch = {"images": images * available[..., None, None, None], "available": available}
    if method.needs.tissue:
        batch["tissue"] = torch.rand((1, count, 4, *shape), generator=generator) / 4
    return {key: value.to(device) for key, value in batch.items()}


def equality(device: torch.device) -> Iterator[dict[str, Any]]:
    """Of each method at toy size: a volume and the losses of a step, by the device and by the CPU."""
    for name in METHODS:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # matrix products have none unless asked to
            yield guarded({"method": name}, lambda name=name: differences(name, device))


def differences(name: str, device: torch.device) -> dict[str, Any]:
    """Largest differences of images, in [−1, 1], and of losses, relative."""
    found, losses = {}, {}
    for what, where, precision in (
        ("cpu", CPU, "float32"), ("float32", device, "float32"), ("bfloat16", device, "bfloat16"),
    ):  # fmt: skip
        method = toy(name)
        prepare_synthesis(method, where, precision)
        found[what] = synthesised(method, where)
        method = toy(name)
        engine = Engine(method, where, precision)
        batch = method.needs.random_batch(2, 2, (SMALL, SMALL), 0)
        config = RunConfig(name, method.config, PAIR, training=Training(steps=10, batch_size=2))
        step(engine, batch, config, 5, Progress(5, 10, 0.0))
        losses[what] = engine.mean_losses()
    told = {}
    for what in ("float32", "bfloat16"):
        told[f"image, {what}"] = f"{(found[what] - found['cpu']).abs().max().item():.1e}"
        worst = max(abs(losses[what][key] - value) / (abs(value) + 1e-6) for key, value in losses["cpu"].items())
        told[f"losses, {what}"] = f"{worst:.1e}"
    return told


def phantoms(folder: Path) -> Cohort:
    """A few small phantoms."""
    write_phantom_cohort(folder / "data", 4, PAIR, layout="table", shape=(SMALL, SMALL, 16), spacing=6.0)
    return build_cohort(
        find_subjects(folder / "data" / "table.csv"), folder / "cohort", Preparation(size=(SMALL, SMALL, None))
    )


def resume(device: torch.device) -> Iterator[dict[str, Any]]:
    """Two steps at once, and one after another: the largest difference of weights, which is 0 where all is exact."""
    with tempfile.TemporaryDirectory() as name:
        cohort = phantoms(Path(name))
        for method in ("regression", "syndiff", "cycle_gan"):
            yield guarded({"method": method}, lambda method=method: resumed(method, cohort, Path(name), device))


def resumed(name: str, cohort: Cohort, folder: Path, device: torch.device) -> dict[str, Any]:
    """The difference, and that of two trainings alike, which a GPU may not make alike."""
    weights = {}
    for what, ends in (("once", [2]), ("again", [2]), ("resumed", [1, 2])):
        for steps in ends:
            training = Training(steps=steps, batch_size=2, precision="float32", validation_slices=1)
            train(
                RunConfig(name, METHODS[name].load().Config.tiny(), PAIR, training=training), cohort,
                folder / f"{name}-{what}", device=device,
            )  # fmt: skip
        newest = current(folder / f"{name}-{what}" / "last")
        assert newest is not None
        weights[what] = load(newest, "weights")[0]["weights"]
    return {
        what: f"{max((weights[what][key] - one).abs().max().item() for key, one in weights['once'].items()):.1e}"
        for what in ("again", "resumed")
    }


def small_recipes() -> list[str]:
    """The small recipes that the figures are of: one of each method and unit."""
    kept: dict[tuple[str, type], str] = {}
    for name in RECIPES:
        if name.endswith("_small"):
            config = find_recipe(name)
            unit = type(needs_of(replace(config, contrasts=config.contrasts or PAIR)))
            kept.setdefault((config.method, unit), name)
    return list(kept.values())


def of_recipe(name: str) -> tuple[RunConfig[Any], Method]:
    """A recipe on two contrasts (or its own), and its method, untrained."""
    config = find_recipe(name)
    config = replace(config, contrasts=config.contrasts or PAIR)
    method = make_method(config)
    if stage := method.builds_on(config.settings):
        method.first_stage = untrained_stage(replace(find_recipe(f"{stage}_small"), contrasts=config.contrasts))
    return config, method


def training_steps(device: torch.device) -> Iterator[dict[str, Any]]:
    """A step of each small recipe on random samples: seconds, memory, and the share of the plain product's rate."""
    rates = plain_rates(device)
    for name in small_recipes():
        for precision in ("float32", "bfloat16"):
            row = {"recipe": name, "precision": precision}
            yield guarded(row, lambda name=name, p=precision: training_step(name, p, device, rates))


def training_step(name: str, precision: Any, device: torch.device, rates: dict[str, float]) -> dict[str, Any]:
    """One row."""
    config, method = of_recipe(name)
    batch = method.needs.random_batch(len(method.contrasts), config.training.batch_size, SIZE, 0)
    engine, numbers = Engine(method, device, precision), iter(range(1, 10**6))

    def one() -> None:
        number = next(numbers)
        step(engine, batch, config, number, Progress(number, 10**6, 0.0))

    seconds, memory = measured(one, 5, device)
    rate = counted(one) / seconds
    plain = rates.get(f"matrix product {precision}", float("nan"))
    return {
        "ms": round(1000 * seconds, 1),
        "GB": memory,
        "GFLOP/s": round(rate),
        "of the product": f"{rate / plain:.0%}",
    }


def measured(work: Callable[[], object], repeats: int, device: torch.device) -> tuple[float, float]:
    """Median seconds, and peak GB of a GPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = float(np.median(timed(work, repeats, device)))
    return seconds, round(torch.cuda.max_memory_allocated(device) / 1e9, 2) if device.type == "cuda" else 0.0


def volumes(device: torch.device) -> Iterator[dict[str, Any]]:
    """A volume by each small recipe that translates."""
    shape = VOLUME if device.type == "cuda" else (SMALL, SMALL, SMALL)
    for name in small_recipes():
        row = {"recipe": name, "volume": "×".join(map(str, shape))}
        for precision in ("float32", "bfloat16"):
            yield guarded(
                row | {"precision": precision}, lambda name=name, p=precision: volume(name, p, shape, device)
            )  # fmt: skip


def volume(name: str, precision: Any, shape: tuple[int, int, int], device: torch.device) -> dict[str, Any]:
    """One row."""
    _, method = of_recipe(name)
    prepare_synthesis(method, device, precision)
    work = translating(method, shape, device)
    seconds, memory = measured(work, 1, device)
    return {"s": round(seconds, 2), "GB": memory, "calls": method.sampling_steps}


def translating(method: Method, shape: tuple[int, int, int], device: torch.device) -> Callable[[], Any]:
    """The synthesis of a random subject's last contrast."""
    if method.needs.generates:
        raise ValueError("it generates: measured by benchmarks/cdpm.py")
    batch = subject(method, shape, device)

    def work() -> None:
        with torch.no_grad():
            method.translate(batch, method.contrasts[-1], method.needs.windows(), Noise([(0, "gpu", 0)], device))

    return work


def attention(device: torch.device) -> Iterator[dict[str, Any]]:
    """A step of methods with attention, by the fused kernels and by plain products."""
    for name in ("syndiff_small", "cdpm_translator_small", "cg_ddpm_small"):
        for fused in (True, False):
            context = nullcontext if fused else (lambda: sdpa_kernel(SDPBackend.MATH))

            def measure(name: str = name, context: Callable[[], Any] = context) -> dict[str, Any]:
                with context():
                    return training_step(name, "bfloat16", device, {})

            yield guarded({"recipe": name, "attention": "fused" if fused else "plain"}, measure)


def compiled(device: torch.device) -> Iterator[dict[str, Any]]:
    """A batch of slices as it is, channels last, compiled, and as a graph."""
    for name in FASTER:
        for how in ("as it is", "channels last", "compiled", "graph"):
            yield guarded({"recipe": name, "how": how}, lambda name=name, how=how: faster(name, how, device))


def faster(name: str, how: str, device: torch.device) -> dict[str, Any]:
    """One row: seconds of sixteen slices, and the largest difference to the networks as they are."""
    _, method = of_recipe(name)
    prepare_synthesis(method, device, "bfloat16")
    plain = copy.deepcopy(method)
    if how == "channels last":
        method.to(memory_format=torch.channels_last)
    elif how != "as it is":
        for net in method.nets.values():
            net.compile(mode="reduce-overhead" if how == "graph" else "default")
    shape = (*SIZE, 16)
    begun = time.monotonic()
    translating(method, shape, device)()
    first = time.monotonic() - begun
    seconds, _ = measured(translating(method, shape, device), 5, device)
    batch, images = subject(method, shape, device), []
    for one in (plain, method):
        with torch.no_grad():
            made = one.translate(batch, one.contrasts[-1], one.needs.windows(), Noise([(0, "gpu", 0)], device))
        images.append(made.image.float())
    difference = (images[0] - images[1]).abs().max().item()
    return {"ms": round(1000 * seconds, 2), "first s": round(first, 1), "difference": f"{difference:.1e}"}


if __name__ == "__main__":
    main()
