"""Kill a training with SIGKILL again and again; compare what it ends in with an uninterrupted run, bit by bit.

    python benchmarks/kills.py random --kills 20 -o FILE.json    kills `scansynth train` from outside
    python benchmarks/kills.py sweep -o FILE.json                kills it before each single file operation

`random` starts the command in a process group of its own, kills the group at a drawn moment and starts the same
command again, until the run has ended; it opens another run until enough kills hit a live process. `sweep` forks a
process that kills itself before its k-th file operation in the run folder, for every k; what goes on is killed once
more at a drawn operation, and then left in peace.

Compared are all tensors of `last/` and `best/` (weights, averages, optimisers), their `state.json`, `config.yaml`,
`preparation.json`, pictures, and `metrics.jsonl` without wall-clock figures. Both use the CPU and need POSIX signals.
Results that were measured stand in `benchmarks/results/`.
"""

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from scansynth import checkpoint
from scansynth.cli import main as scansynth
from scansynth.config import RunConfig, to_yaml
from scansynth.data.augmentation import Augmentation
from scansynth.data.build_cohort import build_cohort
from scansynth.data.layouts import find_subjects
from scansynth.data.phantom import write_phantom_cohort
from scansynth.data.prepare import Preparation
from scansynth.recipes import find_recipe
from scansynth.train import environment

CASES = ("regression_small", "syndiff_small")

KILLABLE = """
import faulthandler, os, signal, sys
if "LOCAL_RANK" not in os.environ:  # else started by the first process, which is the one that is asked
    faulthandler.register(signal.SIGUSR1, file=open(os.environ["TRACE"], "w"), all_threads=False)
from scansynth.cli import main
sys.exit(main())
"""
"""The command `scansynth` in a process that writes its stack into a file when it is asked to: where a kill hit it."""


def make_cohort(folder: Path) -> Path:
    """Four training subjects, one of them without FLAIR, and one each to validate and to test; slices of 32×32."""
    contrasts, missing = ("T1w", "T2w", "FLAIR"), {"phantom002": ("FLAIR",)}
    write_phantom_cohort(folder / "scans", 6, contrasts, "table", shape=(32, 32, 16), spacing=6.0, missing=missing)
    build_cohort(find_subjects(folder / "scans/table.csv"), folder / "cohort", Preparation(size=(32, 32, None)))
    return folder / "cohort"


def settings(case: str, full: bool = False, **training: Any) -> RunConfig[Any]:
    """A recipe with tiny networks (or its own: `full`), and a line, a checkpoint or a validation at almost every step.

    The regression is trained in float32 on augmented slices of three contrasts, SynDiff in bfloat16 and unpaired.
    """
    recipe = find_recipe(case)
    tiny: dict[str, Any] = {} if full else {"channels": 8, "multipliers": (1, 2)}
    often = {"log_every": 2, "checkpoint_every": 3, "validate_every": 7, "validation_slices": 2} | training
    if case == "syndiff_small":
        if not full:
            tiny |= {"latent_width": 16, "discriminator_channels": 8, "discriminator_blocks": 3}
            tiny |= {"translator_channels": 4}
        recipe = replace(recipe, settings=replace(recipe.settings, **tiny), contrasts=("T1w", "T2w"))
    else:
        all_on = Augmentation(flip=0.5, rotation_degrees=5, scale=0.05, shift=0.05, gain=0.1, gamma=0.1)
        data = replace(recipe.data, augmentation=all_on)
        recipe = replace(recipe, settings=replace(recipe.settings, **tiny), data=data)
        often["precision"] = "float32"
    return replace(recipe, training=replace(recipe.training, **often))


# What a run is, as hashes


def digest(run: Path) -> dict[str, str]:
    """The hash of every part of a run that must not depend on interruptions."""
    parts = {name: _hash((run / name).read_bytes()) for name in ("config.yaml", "preparation.json")}
    parts["metrics.jsonl"] = _hash(*(json.dumps(line).encode() for line in figures(run)))
    pictures = sorted((run / "validation").glob("*.png"))
    parts["validation"] = _hash(*(part for path in pictures for part in (path.name.encode(), path.read_bytes())))
    for kind in ("last", "best"):
        folder = checkpoint.current(run / kind)
        assert folder, f"{kind}/ has no checkpoint"
        parts[f"{kind}/current"] = folder.name
        parts[f"{kind}/state.json"] = _hash((folder / "state.json").read_bytes())
        for path in sorted(folder.glob("*.safetensors")):
            parts[f"{kind}/{path.stem}"] = _hash_tensors(load_file(path))
    return parts


def figures(run: Path) -> list[dict[str, float]]:
    """Lines of metrics.jsonl in their order, without what measures the clock."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if "second" not in name} for line in lines]


def last_line(run: Path) -> int | None:
    """Step of the last whole line of metrics.jsonl."""
    lines = (run / "metrics.jsonl").read_text().splitlines() if (run / "metrics.jsonl").exists() else []
    while lines:
        with contextlib.suppress(json.JSONDecodeError):  # cut short
            return json.loads(lines.pop())["step"]
    return None


def differences(a: dict[str, str], b: dict[str, str]) -> list[str]:
    """Parts that are not equal."""
    return sorted(part for part in a.keys() | b.keys() if a.get(part) != b.get(part))


def left_over(run: Path) -> list[str]:
    """What only a kill leaves: unfinished files, and checkpoints that nothing points to."""
    found = [path for path in run.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"]
    for kind in ("last", "best"):
        found += [path for path in (run / kind).glob("step-????????") if path != checkpoint.current(run / kind)]
    # Names of unfinished files hold the number of the process, which says nothing to a reader.
    return sorted(
        re.sub(r"(?<=/\.)\d+(?=-)|(?<=\.)\d+$", "PID", "/" + str(path.relative_to(run)))[1:] for path in found
    )


def _hash(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:32]


def _hash_tensors(tensors: dict[str, torch.Tensor]) -> str:
    parts = []
    for name, tensor in sorted(tensors.items()):
        content = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        parts += [f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), content]
    return _hash(*parts)


# Killing from outside


def _file(path: Path) -> Any:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _unfinished(folder: Path) -> list[str]:
    # Not glob, which is too slow for what lasts some milliseconds.
    try:
        return [name for name in os.listdir(folder) if name.endswith(".tmp")]
    except FileNotFoundError:
        return []


MOMENTS: dict[str, Callable[[Path, Path], Any]] = {
    "any time": lambda run, log: None,
    "start of the process": lambda run, log: None,
    "folder is made": lambda run, log: run.exists() and len(os.listdir(run)),
    "resume": lambda run, log: (_file(run / "config.yaml"), _file(log)),
    "line of metrics.jsonl": lambda run, log: _file(run / "metrics.jsonl"),
    "picture": lambda run, log: _file(run / "validation"),
    "checkpoint in writing": lambda run, log: _unfinished(run / "last"),
    "checkpoint just written": lambda run, log: _file(run / "last/current"),
    "best in writing": lambda run, log: _unfinished(run / "best"),
    "best just written": lambda run, log: _file(run / "best/current"),
}
"""What is watched of the run folder and the process's output: a kill comes when it has changed."""


@dataclass(frozen=True)
class Plan:
    """When to kill: `delay` seconds after the `count`-th time that something has changed.

    At the latest `latest` seconds after the process has said that it trains: a busy machine may start it slowly.
    """

    moment: str
    count: int = 1
    delay: float = 0.0
    latest: float = float("inf")


@dataclass(frozen=True)
class Kill:
    """What a kill hit."""

    moment: str
    seconds: float
    """From the start of the process."""
    phase: str
    where: list[str] = field(default_factory=list)
    """The innermost functions, if they are known."""
    checkpoint: int | None = None
    """Step of the newest checkpoint."""
    line: int | None = None
    """Step of the last line of metrics.jsonl."""
    left: list[str] = field(default_factory=list)


class Command:
    """`scansynth train` on one run folder, in processes that can be killed.

    Args:
        config: settings.
        cohort: prepared cohort.
        run: the run folder.
        threads: of each process.
        devices: processes that train together.
    """

    def __init__(self, config: RunConfig[Any], cohort: Path, run: Path, threads: int = 1, devices: int = 1):
        self.run = run
        self.log, self.trace = run.with_name(f"{run.name}.log"), run.with_name(f"{run.name}.trace")
        file = run.with_name(f"{run.name}.yaml")
        file.write_text(to_yaml(config))
        self.script = run.with_name("killable.py")
        self.script.write_text(KILLABLE)
        self.arguments = ["train", str(file), "--cohort", str(cohort), "--run", str(run), "--device", "cpu"]
        if devices > 1:
            self.arguments += ["--devices", str(devices)]
        threaded = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
        self.environment = {**os.environ, **threaded, "TRACE": str(self.trace)}

    def start(self) -> subprocess.Popen[bytes]:
        """A process in a group of its own."""
        self.trace.unlink(missing_ok=True)
        # Ignored from the start, as the child inherits it: the question for its stack must not end a young process.
        before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        try:
            with self.log.open("w") as log:
                return subprocess.Popen(
                    [sys.executable, str(self.script), *self.arguments],
                    stdout=log, stderr=log, env=self.environment, start_new_session=True,
                )  # fmt: skip
        finally:
            signal.signal(signal.SIGUSR1, before)

    def finish(self, process: subprocess.Popen[bytes]) -> None:
        """Let it end.

        Raises:
            RuntimeError: if it fails.
        """
        if process.wait() != 0:
            raise RuntimeError(f"the command failed ({process.returncode}):\n{self.log.read_text()[-2000:]}")

    def kill(self, plan: Plan) -> Kill | None:
        """Start a process and kill it as planned; None if it came to its end before."""
        seen = MOMENTS[plan.moment](self.run, self.log)
        process, begun = self.start(), time.perf_counter()
        try:
            return self._kill(process, begun, plan, seen)
        finally:
            if process.poll() is None:  # Ctrl-C while waiting, or a fault of this script
                os.killpg(process.pid, signal.SIGKILL)

    def _kill(self, process: subprocess.Popen[bytes], begun: float, plan: Plan, seen: Any) -> Kill | None:
        watch = MOMENTS[plan.moment]
        changes, due, stopped, trains = 0, float("inf"), False, False
        if plan.moment in ("any time", "start of the process"):
            due = plan.delay
        while (elapsed := time.perf_counter() - begun) < due:
            if process.poll() is not None:
                self.finish(process)
                return None
            now = watch(self.run, self.log)
            if now and now != seen:
                changes += 1
                if changes >= plan.count:
                    if "in writing" in plan.moment:
                        stopped = self._catch(process, plan.moment)
                    if stopped or "in writing" not in plan.moment:  # else it was faster: the next one
                        due = min(due, elapsed + plan.delay)
            seen = now
            if not trains and self.log.stat().st_size:
                trains, due = True, min(due, elapsed + plan.latest)
            time.sleep(0.0001 if changes >= plan.count - 1 else 0.001)
        frames = [] if stopped or process.poll() is not None else self._stack(process)
        if process.poll() is not None:
            self.finish(process)
            return None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.returncode != -signal.SIGKILL:
            self.finish(process)
            return None
        newest = checkpoint.current(self.run / "last")
        return Kill(
            plan.moment,
            round(time.perf_counter() - begun, 3),
            f"writing {plan.moment.split()[0]}" if stopped else phase(frames),
            frames[:3],
            int(newest.name.removeprefix("step-")) if newest else None,
            last_line(self.run),
            left_over(self.run),
        )

    def _catch(self, process: subprocess.Popen[bytes], moment: str) -> bool:
        """Stop the process, if what it is writing is still unfinished."""
        os.killpg(process.pid, signal.SIGSTOP)
        if MOMENTS[moment](self.run, self.log):
            return True
        os.killpg(process.pid, signal.SIGCONT)
        return False

    def _stack(self, process: subprocess.Popen[bytes]) -> list[str]:
        """What the process is doing, innermost first; some 0.1 ms before the kill."""
        os.kill(process.pid, signal.SIGUSR1)
        until = time.perf_counter() + 1
        while self.trace.exists() and time.perf_counter() < until:
            text = self.trace.read_text()
            if self.script.name in text or text.endswith("  ...\n"):  # the outermost frame, or too many: it is complete
                return frames_of(text)
            time.sleep(0.0002)
        return []


def frames_of(text: str) -> list[str]:
    """Functions of this package in a stack of faulthandler, innermost first; and `import`, while one is going on."""
    found = []
    for path, function in re.findall(r'File "(.*?)", line \d+ in (\S+)', text):
        if "importlib" in path and "import" not in found:
            found.append("import")
        elif "/scansynth/" in path:
            found.append(f"{Path(path).stem}.{function}")
    return found


def phase(frames: Sequence[str]) -> str:
    """In words what a stack was at."""
    if not frames:
        return "start of the interpreter"
    for frame in frames:
        match frame:
            case "import":
                return "imports"
            case "checkpoint.save" | "engine.save":
                return "writing best" if "train.validate" in frames else "writing checkpoint"
            case "train.validate":
                return "validation"
            case "checkpoint.load" | "engine.load":
                return "loading a checkpoint"
            case "train._cut_back":
                return "cutting metrics.jsonl back"
            case "train.open_run":
                return "opening the run folder"
            case "train.write":
                return "writing figures"
            case "train.step":
                return "training step"
            case "train.run_steps":
                return "between steps"
    return "start-up"


def plans(seed: int, started: float, seconds: float) -> Iterator[Plan]:
    """Plans without end, every moment in turn and shuffled; the first ones are for the making of the folder.

    Args:
        seed: of what is drawn.
        started: seconds from the start of an uninterrupted process to its run folder.
        seconds: to its end.
    """
    generator = random.Random(seed)
    yield Plan("start of the process", delay=generator.uniform(0, started))
    for _ in range(2):  # later there is a folder
        yield Plan("folder is made", generator.choice((1, 1, 2)), generator.choice((0.0, 0.002)), started)
    moments = [moment for moment in MOMENTS if moment != "folder is made"]
    while True:
        for moment in generator.sample(moments, len(moments)):
            delay = generator.choice((0.0, generator.uniform(0, 0.003), generator.uniform(0, 0.03)))
            if moment == "any time":
                delay = generator.uniform(0, seconds)
            elif moment == "start of the process":
                delay = generator.uniform(0, 1.1 * started)
            # A moment may not come any more (the best weights stay the best): then after a while.
            yield Plan(moment, generator.randint(1, 3), delay, generator.uniform(0.2, 0.7) * (seconds - started))


def killed_at_random(
    config: RunConfig[Any], cohort: Path, folder: Path, kills: int, seed: int, threads: int = 1, devices: int = 1
) -> dict[str, Any]:
    """Train once uninterrupted, then again under kills, in as many run folders as it takes; compare."""
    whole = Command(config, cohort, folder / "reference", threads, devices)
    begun = time.perf_counter()
    process = whole.start()
    while not whole.run.exists() and process.poll() is None:
        time.sleep(0.01)
    started = time.perf_counter() - begun
    whole.finish(process)
    expected = digest(whole.run)
    seconds = time.perf_counter() - begun
    hit: list[Kill] = []
    rounds: list[dict[str, Any]] = []
    while len(hit) < kills:
        run = folder / f"killed-{len(rounds) + 1}"
        command, planned = Command(config, cohort, run, threads, devices), plans(seed + len(rounds), started, seconds)
        before, idle, at = len(hit), 0, -1
        for plan in planned:
            if idle == 4:  # so that a run comes to its end: wait for more than the work that was lost
                plan = Plan("checkpoint just written", count=3)
            kill = command.kill(plan)
            if kill is None:
                break
            hit.append(kill)
            idle = idle + 1 if (kill.checkpoint or 0) <= at else 0
            at = max(at, kill.checkpoint or 0)
            print(f"{len(hit):4} {json.dumps(asdict(kill))}", flush=True)
        found = digest(run)
        unequal = differences(expected, found)
        rounds.append({"kills": len(hit) - before, "unequal": unequal, "left_over": left_over(run), "hashes": found})
        print(f"{run.name}: {rounds[-1]['kills']} kills, {'NOT EQUAL: ' + ', '.join(unequal) if unequal else 'equal'}")
        if not unequal:  # else it stays, to be looked into
            shutil.rmtree(run)
    return {
        "method": config.method,
        "training": asdict(config.training),
        "seconds_uninterrupted": round(seconds, 1),
        "seconds_to_run_folder": round(started, 1),
        "equal": not any(one["unequal"] for one in rounds),
        "kills": len(hit),
        "phases": dict(collections.Counter(kill.phase for kill in hit).most_common()),
        "expected": expected,
        "rounds": rounds,
        "hit": [asdict(kill) for kill in hit],
    }


# Killing before each file operation


OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate")
"""Audit events of Python that change files."""


def life(arguments: Sequence[str], run: Path, log: Path, kill_before: int | None) -> list[str] | None:
    """Run the command in a fork, which kills itself before its n-th file operation in (or on) the run folder.

    Returns:
        The file operations, or None if it was killed.

    Raises:
        RuntimeError: if the command fails.
    """
    listing = log.with_suffix(".operations")
    child = os.fork()
    if not child:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        done: list[str] = []

        def count(event: str, values: tuple[Any, ...]) -> None:
            if event not in OPERATIONS:
                return
            path = str(values[0])
            if event == "open":
                if not isinstance(values[2], int) or not values[2] & (os.O_WRONLY | os.O_RDWR):
                    return
            elif event != "os.rename" and values[-1] != -1:  # relative to a folder: so does shutil.rmtree
                path = str(run / "…" / path)
            # TensorBoard writes in a thread of its own, at moments that differ; nothing reads what it writes.
            if not path.startswith(str(run)) or path.startswith(str(run / "tensorboard")):
                return
            done.append(f"{event} {re.sub(r'[.][0-9]+-', '.PID-', os.path.relpath(path, run))}")
            if len(done) == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        code = scansynth(arguments)
        listing.write_text("\n".join(done))
        os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    if status:
        raise RuntimeError(f"the command failed ({status}):\n{log.read_text()[-2000:]}")
    return listing.read_text().splitlines()


SCENARIOS = ("new", "more-steps", "init", "overwrite")


def swept(case: str, scenario: str, cohort: Path, folder: Path, seed: int, only: int | None = None) -> dict[str, Any]:
    """Kill a short training before each of its file operations (or `only` so many), and compare.

    Args:
        case: recipe.
        scenario: one of `SCENARIOS`: what is in the run folder before, and what the command asks for.
        cohort: prepared cohort.
        folder: where to work.
        seed: of the second kill.
        only: kill before so many operations, spread evenly; None for all.
    """
    generator = random.Random(seed)
    config = settings(case, steps=6, log_every=1, checkpoint_every=2, validate_every=3)
    other = replace(config, seed=1) if scenario == "overwrite" else config
    before, run, log = folder / "before", folder / "run", folder / "log"
    arguments = ["train", str(folder / "run.yaml"), "--cohort", str(cohort), "--run", str(run), "--device", "cpu"]
    (folder / "run.yaml").write_text(to_yaml(config))
    (folder / "before.yaml").write_text(to_yaml(replace(other, training=replace(other.training, steps=4))))
    if scenario != "new":
        life([*arguments[:1], str(folder / "before.yaml"), *arguments[2:]], run, log, None)
        run.rename(before)
    if scenario == "init":
        arguments += ["--init", str(before)]
    elif scenario == "overwrite":
        arguments += ["--overwrite"]

    def prepare() -> None:
        for path in folder.glob("*run*"):  # with what may be put aside next to it
            if path.is_dir():
                shutil.rmtree(path)
        if scenario in ("more-steps", "overwrite"):
            shutil.copytree(before, run)

    prepare()
    operations = life(arguments, run, log, None)
    assert operations
    expected = digest(run)
    points = range(1, len(operations) + 1)
    if only:
        points = sorted({round(1 + place * (len(operations) - 1) / (only - 1)) for place in range(only)})
    failures: list[dict[str, Any]] = []
    left: collections.Counter[str] = collections.Counter()
    kills = 0
    for point in points:
        prepare()
        second = generator.randint(1, len(operations))
        failure: dict[str, Any] = {"before": operations[point - 1], "point": point, "second": second}
        try:
            assert life(arguments, run, log, point) is None
            kills += 1
            kills += life(arguments, run, log, second) is None
            life(arguments, run, log, None)
            if unequal := differences(expected, digest(run)):
                failures.append({**failure, "unequal": unequal})
            left.update(left_over(run))
        except RuntimeError as error:
            failures.append({**failure, "error": " ".join(str(error).replace(str(folder), "…").split())})
        if failures and failures[-1]["point"] == point:
            print(json.dumps(failures[-1]), flush=True)
    print(f"{case}, {scenario}: {len(points)} points, {kills} kills, {len(failures)} failures", flush=True)
    return {
        "recipe": case,
        "scenario": scenario,
        "equal": not failures,
        "operations": len(operations),
        "points": len(points),
        "kills": kills,
        "failures": failures,
        "left_over": dict(left.most_common()),
        "expected": expected,
    }


def source() -> str:
    """The hash of the code that was run."""
    folder = Path(checkpoint.__file__).parent
    return _hash(*(path.read_bytes() for path in sorted(folder.rglob("*.py"))))


def main() -> int:
    """Run one of both; the exit code is 1 if anything was not equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=("random", "sweep"))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="recipes")
    parser.add_argument("--scenarios", nargs="+", choices=SCENARIOS, default=SCENARIOS, help="of a sweep")
    parser.add_argument("--kills", type=int, default=20, help="at least so many a recipe (random)")
    parser.add_argument("--steps", type=int, default=120, help="training steps (random)")
    parser.add_argument("--full", action="store_true", help="the recipe's own networks, not tiny ones (random)")
    parser.add_argument("--only", type=int, help="operations to kill before; all by default (sweep)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--devices", type=int, default=1, help="processes that train together (random)")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    machine, results = environment(), []
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    cohort = make_cohort(folder)
    for case in arguments.cases:
        ways = arguments.scenarios if arguments.way == "sweep" else ["scansynth train"]
        for number, way in enumerate(ways):
            place = folder / f"{case}-{number}"
            place.mkdir()
            if arguments.way == "sweep":
                results.append(swept(case, way, cohort, place, arguments.seed, arguments.only))
            else:
                config = settings(case, arguments.full, steps=arguments.steps)
                if arguments.devices > 1:  # each process has its part of a batch
                    config = replace(config, training=replace(config.training, batch_size=2 * arguments.devices))
                found = killed_at_random(
                    config, cohort, place, arguments.kills, arguments.seed, arguments.threads, arguments.devices
                )
                results.append({"recipe": case, **found})
    equal = all(result["equal"] for result in results)
    if arguments.output:
        found = {
            "environment": machine,
            "source": source(),
            "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
            "command": f"benchmarks/kills.py {' '.join(sys.argv[1:-2])}",
            "equal": equal,
            "results": results,
        }
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    if equal:
        shutil.rmtree(folder)
    print(f"equal: {equal}" + ("" if equal else f"; runs are kept in {folder}"))
    return int(not equal)


if __name__ == "__main__":
    sys.exit(main())
