"""Kill a training before each single file operation in its run folder; compare with an uninterrupted run."""

import collections
import json
import os
import random
import re
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kills_digest import differences, digest, left_over
from scansynth.cli import main as scansynth
from scansynth.config import RunConfig, to_yaml

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


def swept(
    config: RunConfig[Any], scenario: str, cohort: Path, folder: Path, seed: int, only: int | None = None
) -> dict[str, Any]:
    """Kill a short training before each of its file operations (or `only` so many), and compare.

    Args:
        config: settings; of few steps, as each operation costs three trainings.
        scenario: one of `SCENARIOS`: what is in the run folder before, and what the command asks for.
        cohort: prepared cohort.
        folder: where to work.
        seed: of the second kill.
        only: kill before so many operations, spread evenly; None for all.
    """
    generator = random.Random(seed)
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
    return {
        "scenario": scenario,
        "equal": not failures,
        "operations": len(operations),
        "points": len(points),
        "kills": kills,
        "failures": failures,
        "left_over": dict(left.most_common()),
        "expected": expected,
    }
