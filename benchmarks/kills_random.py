"""Kill `scansynth train` from outside, at drawn moments; compare what it ends in with an uninterrupted run."""

import collections
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kills_digest import differences, digest, last_line, left_over
from scansynth.config import RunConfig, to_yaml
from scansynth.training import checkpoint

ASKS = signal.SIGUSR2
"""Asks a process for its stack. None of the signals that ask a training to stop: it would save, and end as they say."""

KILLABLE = f"""
import faulthandler, os, sys
if "LOCAL_RANK" not in os.environ:  # else started by the first process, which is the one that is asked
    faulthandler.register({ASKS.value}, file=open(os.environ["TRACE"], "w"), all_threads=False)
from scansynth.cli import main
sys.exit(main())
"""
"""The command `scansynth` in a process that writes its stack into a file when it is asked to: where a kill hit it."""


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
        before = signal.signal(ASKS, signal.SIG_IGN)
        try:
            with self.log.open("w") as log:
                return subprocess.Popen(
                    [sys.executable, str(self.script), *self.arguments],
                    stdout=log, stderr=log, env=self.environment, start_new_session=True,
                )  # fmt: skip
        finally:
            signal.signal(ASKS, before)

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
            checkpoint.step_of(newest) if newest else None,
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
        os.kill(process.pid, ASKS)
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


PHASES = {
    "import": "imports",
    "checkpoint.save": "writing checkpoint",
    "engine.save": "writing checkpoint",
    "loop.keep_best": "writing best",
    "loop.validate": "validation",
    "checkpoint.load": "loading a checkpoint",
    "engine.load": "loading a checkpoint",
    "metrics_file.cut_back": "cutting metrics.jsonl back",
    "run_folder.open_run": "opening the run folder",
    "loop.write": "writing figures",
    "loop.step": "training step",
    "loop.run_steps": "between steps",
}
"""Functions by their file, and in words what a process is at that runs one; `import` is any."""


def phase(frames: Sequence[str]) -> str:
    """In words what a stack was at."""
    if not frames:
        return "start of the interpreter"
    found = next((PHASES[frame] for frame in frames if frame in PHASES), "start-up")
    return "writing best" if found == "writing checkpoint" and "loop.keep_best" in frames else found


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
